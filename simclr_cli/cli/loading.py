"""torch's own library, loaded so that signals are heard meanwhile."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


def load_torch_unlocked() -> None:
    """From now on, whoever is the first to import torch has its library loaded without Python's lock."""
    if sys.platform == "linux" and "torch" not in sys.modules:
        sys.meta_path.insert(0, _First())


class _First(MetaPathFinder):
    """Finds nothing; is asked before those that do."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if name == "torch":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            for folder in (spec.submodule_search_locations or ()) if spec else ():
                load(Path(folder) / "lib")
        return None


def load(folder: Path) -> list[bool]:
    """Load torch's libraries as it does itself, and tell of each whether it is there; what is not, torch sees to.

    An import holds Python's lock while the system links what it imports, a quarter of a second for these. A foreign
    function does not.
    """
    import ctypes

    loaded: list[bool] = []
    with contextlib.suppress(OSError, AttributeError):  # a Python that has no such function
        dlopen = ctypes.CDLL(None).dlopen
        dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
        for name, scope in (("libtorch_global_deps.so", os.RTLD_GLOBAL), ("libtorch_python.so", os.RTLD_LOCAL)):
            loaded.append(bool(dlopen(os.fsencode(folder / name), os.RTLD_NOW | scope)))
    return loaded
