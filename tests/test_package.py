"""The package as a whole: lazy imports, and no unsafe code."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import simclr_cli

SOURCES = sorted(Path(simclr_cli.__file__).parent.rglob("*.py"))
UNSAFE_MODULES = {
    "pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib", "yaml", "code", "runpy",
}  # fmt: skip
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__", "print"}
UNSAFE_CALLS = {
    "torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "torch.package", "torch.export.load",
    "np.fromfile", "np.loadtxt", "np.genfromtxt", "pandas.read_pickle", "os.system", "os.popen",
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__",
}  # fmt: skip
PICKLING = ("load", "save", "savez", "savez_compressed", "write_array", "read_array", "open_memmap")  # of numpy
UNSAFE_ARGUMENTS = {"weights_only", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "shell"}
NETWORK_MODULES = {"socket", "ssl", "http", "urllib", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "xmlrpc"}


def dotted(node: ast.expr) -> str:
    """Return the dotted name of an expression; only its end if it begins with a call."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Yield everything in a module that could run code from data, reach a network, or print."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {alias.name.split(".")[0] for alias in node.names} & (UNSAFE_MODULES | NETWORK_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            top = node.module.split(".")[0]
            yield from {top} & (UNSAFE_MODULES | NETWORK_MODULES)
            names = {f"{node.module}.{alias.name}" for alias in node.names} | {alias.name for alias in node.names}
            yield from names & (UNSAFE_CALLS | UNSAFE_NAMES)
            yield from names & {f"numpy.{name}" for name in PICKLING}  # under its own name no call would be seen
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in UNSAFE_NAMES:
            yield node.id
        elif isinstance(node, ast.Attribute) and dotted(node) in UNSAFE_CALLS:
            yield dotted(node)
        elif isinstance(node, ast.Call):
            yield from unsafe_call(node)


def unsafe_call(node: ast.Call) -> Iterator[str]:
    given = {word.arg: word.value for word in node.keywords}
    yield from given.keys() & UNSAFE_ARGUMENTS
    harmless = [isinstance(value, ast.Constant) and value.value is False for name, value in given.items()
                if name == "allow_pickle"]  # fmt: skip
    name = dotted(node.func)
    of_numpy = name.split(".")[0] in ("np", "numpy") and name.split(".")[-1] in PICKLING
    if not all(harmless) or (of_numpy and not harmless):
        yield f"{name} without allow_pickle=False"
    if name in ("importlib.import_module", "import_module") and not module_of_ours(node.args[0]):
        yield f"{name} of what is no module of ours"


def module_of_ours(node: ast.expr) -> bool:
    """Return whether an expression is text that begins with the package's name, or the public API's own table."""
    if ast.unparse(node) == "_MODULES[name]":
        return all(home.startswith("simclr_cli.") for home in simclr_cli._MODULES.values())
    first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
    return isinstance(first, ast.Constant) and str(first.value).startswith("simclr_cli")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_code_from_data_no_network_no_print(path: Path) -> None:
    assert list(unsafe(ast.parse(path.read_text(encoding="utf-8"), str(path)))) == []


BAD = """
import pickle
from pickle import loads
import xml.dom, marshal
from http import client
torch.load(file)
torch.load(file, weights_only=True)
load = torch.load
from torch import load
np.load(file)
np.load(file, allow_pickle=True)
np.load(file, allow_pickle=wanted)
np.load(file, None, True)
from numpy import load
numpy.lib.format.open_memmap(file)
eval(text)
run = exec
builtins.exec(text)
compile(text, "", "exec")
__import__(name)
importlib.import_module(name)
importlib.import_module(f"{name}.x")
yaml.load(text); import yaml
timm.create_model(name, checkpoint_path=file)
timm.create_model(name, pretrained_cfg={"file": file})
subprocess.run(text, shell=True)
os.system(text)
print(text)
""".strip().splitlines()

GOOD = """
import json
np.load(file, allow_pickle=False)
torch.compile(model)
re.compile(pattern)
importlib.import_module(f"simclr_cli.commands.{verb}")
""".strip().splitlines()


@pytest.mark.parametrize("line", BAD)
def test_unsafe_code_is_found(line: str) -> None:
    assert list(unsafe(ast.parse(line)))


@pytest.mark.parametrize("line", GOOD)
def test_safe_code_is_not_found(line: str) -> None:
    assert not list(unsafe(ast.parse(line)))


CHANGING = {
    "os": {"replace", "rename", "renames", "unlink", "remove", "rmdir", "removedirs", "link", "symlink", "truncate",
           "mkdir", "makedirs", "open"},
    "shutil": {"rmtree", "move", "copy", "copy2", "copyfile", "copytree", "copystat", "copymode"},
    "tempfile": {"TemporaryFile", "NamedTemporaryFile", "TemporaryDirectory", "mkstemp", "mkdtemp"},
    "a path": {"write_text", "write_bytes", "unlink", "rmdir", "touch", "mkdir", "rename", "symlink_to", "hardlink_to"},
    "a library": {"save", "savez", "savez_compressed", "savetxt", "memmap", "tofile", "save_file", "SummaryWriter",
                  "open_memmap"},
}  # fmt: skip
ALLOWED = {  # what changes files, or could, outside core/files.py; and why it may
    "cli/app.py": {"os.open"},  # /dev/null
    "core/distributed.py": {"os.open"},  # /dev/null
    "images/cache_location.py": {"path.unlink", "folder.rmdir"},  # what `simclr cache --clear` is asked for
    "images/pixel_store.py": {"np.memmap"},  # reads
    "core/locks.py": {"file.unlink"},  # an empty file, which only says something while it is locked
    "store/history.py": {"SummaryWriter"},  # TensorBoard follows a file that grows; every record has a checksum
    "store/exports.py": {"archive.open"},  # a member of an archive that is an open stream
    "store/models.py": {"shutil.rmtree"},  # its own temporary folder
    "store/moves.py": {"os.link", "os.removedirs", "shutil.copystat", "old.unlink", "temporary.open",
                       "temporary.unlink"},  # moves a person's files
    "store/index.py": {"np.memmap"},  # reads
    "store/run.py": {"self.probe_folder.rmdir"},  # what was in it lies with the encoder that it is of
    "diagnose/folders.py": {"tempfile.TemporaryFile"},  # whether a folder can be written to
}  # fmt: skip


def may_change_files(node: ast.Call) -> bool:
    """Return whether a call may change a file by its path; writing to an open stream does not count."""
    name = dotted(node.func)
    owner, _, last = name.rpartition(".")
    words = [*node.args, *(word.value for word in node.keywords)]
    if last == "open":
        modes = {word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)}
        return owner == "os" or any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)
    if last == "replace":  # text's has two arguments, a dataclass's has keywords
        return owner == "os" or (len(node.args) == 1 and not node.keywords)
    if last == "save":  # an image's, to a stream
        return bool(owner) and bool(words) and not (isinstance(words[0], ast.Name) and words[0].id == "stream")
    if owner in ("os", "shutil", "tempfile"):
        return last in CHANGING[owner]
    return last in CHANGING["a library"] or (bool(owner) and last in CHANGING["a path"])


def test_only_core_files_changes_files() -> None:
    """Only core/files.py, which is atomic and durable, changes files; exceptions are listed with reasons."""
    root = Path(simclr_cli.__file__).parent
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        names = {dotted(call.func) for call in calls if may_change_files(call)}
        if names and path != root / "core/files.py":
            found[path.relative_to(root).as_posix()] = names
    assert found == ALLOWED


def test_importing_the_package_and_its_settings_does_not_import_torch() -> None:
    code = """
import json, sys
import simclr_cli
from simclr_cli import CacheSettings, DemoSettings, EmbedSettings, FinetuneSettings, PredictSettings
from simclr_cli import DuplicatesSettings, PretrainSettings, ProbeSettings
from simclr_cli import SimclrError, SimilarSettings
import simclr_cli.cli.app, simclr_cli.core.events, simclr_cli.core.errors, simclr_cli.api
sys.stdout.write(json.dumps(sorted({"torch", "torchvision", "timm", "numpy", "PIL", "sklearn"} & sys.modules.keys())))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


def test_the_caches_are_shown_and_cleared_without_torch() -> None:
    """The function takes less than a second, as the command does."""
    code = """
import json, sys
from simclr_cli import CacheSettings, cache
assert cache(CacheSettings()).caches == () == cache(CacheSettings(clear=True)).caches
sys.stdout.write(json.dumps(sorted({"torch", "torchvision", "timm", "numpy", "PIL", "sklearn"} & sys.modules.keys())))
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


def test_dir_has_the_public_names_only() -> None:
    assert dir(simclr_cli) == sorted(simclr_cli.__all__)


def test_a_type_checker_sees_each_name_as_what_it_is() -> None:
    """The imports under TYPE_CHECKING give each name from the module that the package imports it from."""
    source = Path(simclr_cli.__file__)
    assert (source.parent / "py.typed").is_file()
    (guarded,) = [node for node in ast.parse(source.read_text(encoding="utf-8")).body
                  if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]  # fmt: skip
    seen = {}
    for node in guarded.body:
        assert isinstance(node, ast.ImportFrom) and node.module
        (alias,) = node.names
        assert alias.name == alias.asname  # else a strict checker takes it for the module's own affair
        seen[alias.name] = getattr(importlib.import_module(node.module), alias.name)
    assert seen == {name: getattr(simclr_cli, name) for name in simclr_cli.__all__ if name != "__version__"}


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'finetune_everything'"):
        _ = simclr_cli.finetune_everything


def test_version_is_that_of_the_installed_distribution() -> None:
    from importlib.metadata import version

    assert version("simclr-cli") == simclr_cli.__version__


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("benchmarks/*.py")), ids=lambda path: path.stem)
def test_imports_of_benchmarks_exist(path: Path) -> None:
    """The tests do not run them, so a broken import would stay unnoticed."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("simclr_cli"):
            exec(ast.unparse(node), {})
