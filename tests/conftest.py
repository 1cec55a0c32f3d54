"""Fixtures of all tests: test processes, a process for commands, a cache for each test, and a browser for pages."""

from __future__ import annotations

import atexit
import contextlib
import gc
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from simclr_cli.core.hardware import count_cores, get_free_ram, keep_freed_memory, limit_openmp_spinning

# As the command does, before torch is imported: the tests must not slow down when another process is busy.
limit_openmp_spinning()
keep_freed_memory()
# Each core runs one process of tests, and the processes that tests start are small.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The tests need neither a network nor the weights that this machine may have.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_CACHE"] = str(Path(tempfile.gettempdir()) / "simclr-tests-without-weights")
# Otherwise every process would compile torch's modules again, for 8 seconds.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

pytest_plugins = ["runs"]

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:
    gc.disable()  # until all modules are imported; collection would take a tenth of that time
    atexit.register(os._exit, 0)  # skips the two seconds that torch's modules take to unload

MAX_WORKERS = 8  # each takes 6 seconds to import and collect
BYTES_PER_WORKER = 2 * 10**9
NUMBERS = itertools.count()
COMMANDS = Path(__file__).parent / "workers" / "commands.py"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one worker per core, as far as memory allows; none for a single file, which one process runs."""
    named = {Path(argument.partition("::")[0]) for argument in config.args}
    files = MAX_WORKERS if any(path.is_dir() for path in named) else len(named)
    workers = min(count_cores(), get_free_ram() // BYTES_PER_WORKER, MAX_WORKERS, files)
    return workers if workers > 1 else 0


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return a scheduler that runs the tests of a file, or of an xdist_group, in one process and in order."""
    from xdist.scheduler import LoadGroupScheduling

    class ByFile(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return super()._split_scope(nodeid).partition("::")[0]

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the slowest files to the front, so that all processes end at about the same time."""
    items.sort(key=lambda item: not {"commands", "train", "search", "encode"} & {*item.path.parts})


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collection, which would take a twentieth of the time."""
    if WORKER:  # only in workers, which end at once; elsewhere libraries would report leaks
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Start the process that forks commands; it imports nothing before the first command."""
    if sys.platform != "linux" or hasattr(config, "workerinput"):
        return
    stack = contextlib.ExitStack()
    os.environ["SIMCLR_TEST_COMMANDS"] = f"{stack.enter_context(tempfile.TemporaryDirectory())}/socket"
    process = subprocess.Popen(
        [sys.executable, COMMANDS, os.environ["SIMCLR_TEST_COMMANDS"]], stdin=subprocess.PIPE, start_new_session=True
    )
    stack.enter_context(process)  # closes its stdin, and waits
    config.add_cleanup(stack.close)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)`: a folder that `make` fills once for all test processes; tests must not change it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if WORKER else base

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder = base / "once" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                try:
                    make(folder)
                except BaseException:
                    shutil.rmtree(folder)
                    raise
        return folder

    return get


CHROMIUM = [Path("/usr/bin/chromium-headless-shell"), Path("/usr/bin/chromium")]  # Debian's; the first is faster
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path_factory.getbasetemp() / f"simclr-cache-{next(NUMBERS)}"))


@pytest.fixture(scope="session", autouse=True)
def no_power_cuts() -> Iterator[None]:
    """Skip syncs to the disk in this process: tests write thousands of small files, with three syncs each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the trial steps that estimate the time and memory of training."""
    monkeypatch.setattr("simclr_cli.train.prepare.estimate_seconds", lambda *_: 1.0)
    monkeypatch.setattr("simclr_cli.commands.finetune.measure_seconds_per_image", lambda *_: 0.01)
    monkeypatch.setattr("simclr_cli.train.prepare.measure_bytes_per_view", lambda *_: 1)


NASTY = (
    b"<img src=x onerror=alert(1)>.png", b'"><script>alert(\'2\')<\\script>.png',
    b"' onmouseover='alert(3)' & more.png", b"<\\title><\\style><\\script>.png", b"javascript:alert(4)",
    b"{{ 7 * 7 }}{% raw %}.png", b"--><!--.png", b"right-to-left \xe2\x80\xaegnp.exe",
    b"\xd7\xa2\xd7\x91\xd7\xa8\xd7\x99\xd7\xaa.png", b"\xe2\x80\xa8\xe2\x80\xa9\xef\xbb\xbf.png",
    b"emoji \xf0\x9f\xa6\x8a e\xcc\x81.png", b"half \xff\xfe bytes.png", b"\xed\xa0\x80 surrogate.png",
    b"new\nline\r\n.png", b"tab\t.png", b"\x1b[31mred\x1b[0m\x07.png", b"\x7f\x9b\xc2\x9b.png", b"=1+1.png",
    b"+1.png", b"-1.png", b"@SUM(A1).png", b"\t=1.png", b"\r=1.png", b"'=1.png", b'q"uo""te.png',
    b"comma,semi;colon.png", b"  spaces  ", b"#frag?query&a=b%41%.png", b"..png", b"...", b"\\u0041\\x41\\.png",
    b"C:\\con|", b"%2e%2e", b"x" * 250 + b".png", b"~", b"*",
)  # fmt: skip


@pytest.fixture
def nasty_names() -> Callable[[int], list[bytes]]:
    """`nasty_names(count)`: different file names: first the well-known nasty ones, then random bytes."""

    def create_names(count: int) -> list[bytes]:
        rng = random.Random(0)
        allowed = [byte for byte in range(1, 256) if byte != ord("/")]
        names = dict.fromkeys(NASTY)
        while len(names) < count:
            name = bytes(rng.choices(allowed, k=rng.randint(1, 40)))
            if name not in (b".", b".."):
                names[name] = None
        return list(names)[:count]

    return create_names


@dataclass
class Visit:
    """A page in a browser, with its console messages and requests."""

    page: Any
    complaints: list[str] = field(default_factory=list)  # messages of the console, errors and dialogs
    requests: list[str] = field(default_factory=list)  # except for data: URIs

    def ask(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        return self.page.evaluate(script)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Start a headless Chromium; without one, tests are skipped, or fail if SIMCLR_BROWSER is set."""
    installed = [path for path in CHROMIUM if path.exists()]
    if not installed:
        reason = f"{CHROMIUM[0]} is missing (apt-get install {CHROMIUM[0].name})"
        if os.environ.get("SIMCLR_BROWSER"):
            pytest.fail(f"SIMCLR_BROWSER is set, but {reason}")
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed[0], args=QUIET.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    """`visit(html or file, width=..., scheme=...)`: open a page in a browser without network."""
    contexts = []

    def open_page(page: str | Path, *, width: int = 1280, scheme: str = "light") -> Visit:
        file = page if isinstance(page, Path) else tmp_path / "visited.html"
        if isinstance(page, str):
            file.write_text(page, encoding="utf-8")
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        contexts.append(context)
        visited = Visit(context.new_page())
        visited.page.on("console", lambda message: visited.complaints.append(message.text))
        visited.page.on("pageerror", lambda error: visited.complaints.append(str(error)))
        visited.page.on("dialog", lambda dialog: visited.complaints.append(dialog.message) or dialog.dismiss())
        visited.page.on(
            "request", lambda request: request.url.startswith("data:") or visited.requests.append(request.url)
        )
        visited.page.goto(file.absolute().as_uri())
        return visited

    yield open_page
    for context in contexts:
        context.close()
