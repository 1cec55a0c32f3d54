"""The package as a whole: loaded lazily, and free of what may never be in it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import simclr_cli

SOURCES = sorted(Path(simclr_cli.__file__).parent.rglob("*.py"))
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
NETWORK_MODULES = {"socket", "ssl", "http", "urllib", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "xmlrpc"}


def walk(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))


def dotted(node: ast.expr) -> str:
    """`torch.load` of the expression torch.load; the end of it where it begins with a call."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in walk(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_pickle_no_network_no_print(path: Path) -> None:
    assert not imported(path) & (UNSAFE_MODULES | NETWORK_MODULES)
    for node in walk(path):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        assert name not in {"print", "eval", "exec", "torch.load", "torch.save", "torch.hub.load", "os.system"}, name
        pickling = [word.value for word in node.keywords if word.arg == "allow_pickle"]
        assert all(isinstance(value, ast.Constant) and value.value is False for value in pickling)
        if name in {"np.load", "np.save", "np.lib.format.write_array", "np.lib.format.read_array"}:
            assert pickling, f"{name} without allow_pickle=False"


def test_there_is_something_to_look_at() -> None:
    assert len(SOURCES) > 20


def test_importing_the_package_and_its_settings_does_not_import_torch() -> None:
    code = """
import json, sys
import simclr_cli
from simclr_cli import CacheSettings, DemoSettings, EmbedSettings, FinetuneSettings, PredictSettings
from simclr_cli import DuplicatesSettings, PretrainSettings, ProbeSettings
from simclr_cli import SimclrError, SimilarSettings
import simclr_cli.cli.app, simclr_cli.events, simclr_cli.errors, simclr_cli.settings
sys.stdout.write(json.dumps(sorted({"torch", "torchvision", "timm", "numpy", "PIL"} & sys.modules.keys())))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


def test_the_caches_are_shown_and_cleared_without_torch() -> None:
    """By the function, as by the command: it takes no second."""
    code = """
import json, sys
from simclr_cli import CacheSettings, cache
assert cache(CacheSettings()).caches == () == cache(CacheSettings(clear=True)).caches
sys.stdout.write(json.dumps(sorted({"torch", "torchvision", "timm", "numpy", "PIL"} & sys.modules.keys())))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


def test_every_public_name_resolves() -> None:
    found = {name: getattr(simclr_cli, name) for name in simclr_cli.__all__}
    assert len(set(simclr_cli.__all__)) == len(simclr_cli.__all__)
    assert all(callable(value) for name, value in found.items() if name != "__version__")
    verbs = "pretrain preview embed probe finetune predict similar duplicates outliers clusters map report cache demo"
    assert {*verbs.split(), "check", "load_encoder"} <= found.keys()
    assert all(getattr(value, "__doc__", None) for value in found.values())


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'finetune_everything'"):
        _ = simclr_cli.finetune_everything


def test_version_is_that_of_the_installed_distribution() -> None:
    from importlib.metadata import version

    assert version("simclr-cli") == simclr_cli.__version__
