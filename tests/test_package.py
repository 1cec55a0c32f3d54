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


CHANGING = {
    "os": {"replace", "rename", "renames", "unlink", "remove", "rmdir", "removedirs", "link", "symlink", "truncate",
           "mkdir", "makedirs", "open"},
    "shutil": {"rmtree", "move", "copy", "copy2", "copyfile", "copytree", "copystat", "copymode"},
    "tempfile": {"TemporaryFile", "NamedTemporaryFile", "TemporaryDirectory", "mkstemp", "mkdtemp"},
    "a path": {"write_text", "write_bytes", "unlink", "rmdir", "touch", "mkdir", "rename", "symlink_to", "hardlink_to"},
    "a library": {"save", "savez", "savez_compressed", "savetxt", "memmap", "tofile", "save_file", "SummaryWriter",
                  "open_memmap"},
}  # fmt: skip
ALLOWED = {  # what changes files, or could, outside files.py; and why it may
    "cli/app.py": {"os.open"},  # /dev/null
    "cli/stopping.py": {"face.training.save"},  # a training, as it saves itself
    "digests.py": {"os.open"},  # a folder, to lock it
    "images/caches.py": {"path.unlink", "folder.rmdir"},  # what `simclr cache --clear` is asked for
    "images/pixels.py": {"np.memmap"},  # reads
    "locks.py": {"file.open", "file.unlink"},  # the lock of a dead process
    "store/events.py": {"SummaryWriter"},  # TensorBoard follows a file that grows; every record has a checksum
    "store/exports.py": {"archive.open"},  # a member of an archive that is an open stream
    "store/models.py": {"shutil.rmtree"},  # its own temporary folder
    "store/moves.py": {"away.unlink", "temporary.unlink", "path.rmdir"},  # of what is whole in its other place
    "store/relocation.py": {"os.link", "shutil.copystat", "source.unlink", "target.open",
                            "target.unlink", "temporary.unlink"},  # moves a person's files
    "store/rows.py": {"np.memmap"},  # reads
    "store/run.py": {"self.probe_folder.rmdir"},  # when it is empty
    "store/vectors.py": {"np.memmap"},  # reads
    "verbs/mending.py": {"tempfile.TemporaryDirectory"},  # what is made again is compared there first
    "verbs/premises.py": {"tempfile.TemporaryFile"},  # whether a folder can be written to
}  # fmt: skip


def may_change_files(node: ast.Call) -> bool:
    """Whether a call may change a file by its path; what is written to an open stream does not count."""
    name = dotted(node.func)
    owner, _, last = name.rpartition(".")
    words = [*node.args, *(word.value for word in node.keywords)]
    if last == "open":
        modes = {word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)}
        return owner == "os" or any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)
    if last == "replace":  # text's has two arguments, a dataclass's has keywords
        return owner == "os" or (len(node.args) == 1 and not node.keywords)
    if last == "save":  # a picture's, to a stream
        return bool(owner) and not (words and isinstance(words[0], ast.Name) and words[0].id == "stream")
    if owner in ("os", "shutil", "tempfile"):
        return last in CHANGING[owner]
    return last in CHANGING["a library"] or (bool(owner) and last in CHANGING["a path"])


def test_all_is_written_by_files() -> None:
    """The one way is atomic and durable; whatever else changes a file is listed with its reason."""
    root = Path(simclr_cli.__file__).parent
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        names = {dotted(node.func) for node in walk(path) if isinstance(node, ast.Call) and may_change_files(node)}
        if names and path != root / "files.py":
            found[path.relative_to(root).as_posix()] = names
    assert found == ALLOWED


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
    assert {*verbs.split(), "check", "doctor", "load_encoder"} <= found.keys()
    assert all(getattr(value, "__doc__", None) for value in found.values())


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'finetune_everything'"):
        _ = simclr_cli.finetune_everything


def test_version_is_that_of_the_installed_distribution() -> None:
    from importlib.metadata import version

    assert version("simclr-cli") == simclr_cli.__version__
