"""Decoding in other processes: the same results as here; the end of such a process costs at most one image."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli.core.errors import MachineError
from simclr_cli.images import decode_pool as decoders
from simclr_cli.images.cache import decode_images
from simclr_cli.images.decode import (
    decode_center_square,
    decode_evaluation_crop,
    decode_squashed,
    decode_thumbnail,
    read_header,
)
from simclr_cli.images.decode_pool import isolate, isolate_batch
from simclr_cli.images.fingerprints import compute_fingerprint
from simclr_cli.images.formats import CostlyUnusable, UnusableImage
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import map_in_order

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and process groups are those of POSIX")

# A decoder that fails on files by their names.
FAULTS = """
import os, signal, sys, time
sys.path[:] = sys.argv[1:]
from simclr_cli.images import decode_worker as decoder

sound = decoder._run_call
NONSENSE = {
    "words": ({"shape": ["a"]}, b""),
    "wide": ({"shape": [8, 9, 3]}, bytes(216)),
    "small": ({"shape": [2, 2, 3]}, bytes(12)),
    "endless": ({"skipped": "x" * 2**24}, b""),
    "nothing": ([], b""),
}

def outcome(function, path, *arguments):
    name, done = os.path.basename(path), path + ".done"
    if "once" not in name or not os.path.exists(done):
        open(done, "w").close()
        if "abort" in name:
            os.abort()
        if "killed" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        while "busy" in name:
            pass
        if "asleep" in name:
            time.sleep(1.2)
        if "exit" in name:
            os._exit(3)
        for nonsense, (told, more) in NONSENSE.items():
            if nonsense in name:
                return told, more
    return sound(function, path, *arguments)

decoder._run_call = outcome
decoder.main()
"""


@pytest.fixture
def fresh() -> Iterator[None]:
    """End all decoders before and after."""
    decoders._end_all()
    yield
    decoders._end_all()


@pytest.fixture
def faulty(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start decoders that fail on some names."""
    monkeypatch.setattr(decoders, "PROGRAM", FAULTS)


def draw(path: Path, side: int = 20, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def reason(path: Path, function: Callable[..., Any] = decode_squashed, *arguments: float) -> str:
    with pytest.raises(UnusableImage) as caught:
        isolate(function, 1)(path, *(arguments or (8,)))
    return caught.value.reason


CALLS: list[tuple[Callable[..., Any], tuple[float, ...]]] = [
    (decode_squashed, (9,)), (decode_evaluation_crop, (16, 0.875)), (decode_thumbnail, (10, 20)),
    (decode_center_square, (7,)), (read_header, ()), (compute_fingerprint, ()),
]  # fmt: skip


@pytest.mark.parametrize(("function", "arguments"), CALLS, ids=[function.__name__ for function, _ in CALLS])
def test_isolated_function_returns_what_it_returns_here(
    tmp_path: Path, function: Callable[..., Any], arguments: tuple[float, ...]
) -> None:
    for name in ("a.png", "b.jpg", *(["new\nline \udcff.gif"] if sys.platform == "linux" else [])):
        path = draw(tmp_path / name)
        here = isolate(function, 0)(path, *arguments)
        there = isolate(function, 1)(path, *arguments)
        assert type(here) is type(there)
        if isinstance(here, np.ndarray):
            assert here.dtype == there.dtype and (here == there).all() and there.flags.writeable
        else:
            for one, other in zip(here, there, strict=True):
                assert type(one) is type(other) and np.array_equal(one, other)


def test_paths_are_those_of_this_process_wherever_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png")
    isolate(decode_squashed, 1)(tmp_path / "a.png", 8)
    (tmp_path / "below").mkdir()
    for place, name in ((tmp_path, "a.png"), (tmp_path / "below", "../a.png")):
        monkeypatch.chdir(place)
        assert isolate(decode_squashed, 1)(Path(name), 8).shape == (8, 8, 3)


def test_reasons_are_those_of_the_function(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.png").write_bytes(draw(tmp_path / "a.png").read_bytes()[:-30])
    for name in ("text.jpg", "cut.png", "missing.png", "."):
        with pytest.raises(UnusableImage) as here:
            decode_squashed(tmp_path / name, 8)
        assert reason(tmp_path / name) == here.value.reason


def test_many_are_answered_in_order(tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{i}.png", side=10 + i) for i in range(20)]
    paths[7].write_bytes(b"")
    for workers in (0, 1):
        found = isolate_batch(read_header, workers)([(path,) for path in paths])
        assert [getattr(one, "height", str(one)) for one in found] == [
            10 + i if i != 7 else "empty file (0 bytes)" for i in range(20)
        ]
    assert list(isolate_batch(read_header, 1)([])) == []


def test_decoders_are_used_again(fresh: None, tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png")
    for _ in range(3):
        assert len(list(map_in_order(lambda path: isolate(decode_squashed, 2)(path, 8), [path] * 20, workers=2))) == 20
        assert 1 <= len(decoders._decoders) <= 2


REASONS = {
    "abort.png": "the decoder crashed on it (SIGABRT)",
    "exit.png": "the decoder crashed on it (exit code 3)",
    "killed.png": "its decoder was killed (SIGKILL), most likely for lack of memory",
}


@posix_only
def test_file_that_ends_a_decoder_twice_is_skipped_and_others_are_not(faulty: None, tmp_path: Path) -> None:
    for name in (*REASONS, *(f"{i}.png" for i in range(5))):
        draw(tmp_path / name)
    whole = take_census(tmp_path, workers=0)  # headers are read here, where nothing is faulty
    decoded = decode_images(whole, 8, workers=2, progress=lambda *_: None)
    assert {entry.name: entry.reason for entry in decoded.census.skipped} == REASONS
    assert [image.name for image in decoded.census.images] == [f"{i}.png" for i in range(5)]


@posix_only
def test_header_that_ends_a_decoder_is_skipped_and_those_read_with_it_are_not(faulty: None, tmp_path: Path) -> None:
    for name in ("abort.png", *(f"{i}.png" for i in range(5))):
        draw(tmp_path / name)
    census = take_census(tmp_path, workers=1)
    assert {entry.name: entry.reason for entry in census.skipped} == {"abort.png": REASONS["abort.png"]}
    assert [image.name for image in census.images] == [f"{i}.png" for i in range(5)]


@posix_only
@pytest.mark.long  # waits for the limit
def test_an_image_that_takes_too_much_of_the_processor_is_skipped_until_it_changes(
    faulty: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "asleep.png", "busy.png", "z.png"):
        draw(tmp_path / name)
    monkeypatch.setattr(decoders, "PROCESSOR_SECONDS", 1)
    census = take_census(tmp_path, workers=0)
    for _ in range(2):  # the second time it is known
        start = time.monotonic()
        decoded = decode_images(census, 8, workers=1, progress=lambda *_: None)
        reasons = [(entry.name, entry.reason) for entry in decoded.census.skipped]
        assert reasons == [("busy.png", "decoding it took over 1 s of the processor's time")]
    assert time.monotonic() - start < 1


def test_an_image_that_took_long_to_be_found_unusable_is_marked(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(draw(tmp_path / "a.png").read_bytes()[:-40])
    costly = decoders.PROGRAM.replace("import main", "import main; main.__globals__['COSTLY_SECONDS'] = 0")
    for program, kind in ((decoders.PROGRAM, UnusableImage), (costly, CostlyUnusable)):
        monkeypatch.setattr(decoders, "PROGRAM", program)
        decoders._end_all()
        with pytest.raises(UnusableImage) as caught:
            isolate(decode_squashed, 1)(tmp_path / "a.png", 8)
        assert type(caught.value) is kind


def test_a_sparse_file_is_skipped_at_once(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.webp", "a.bmp", "a.tif"):
        draw(tmp_path / name)
        try:
            os.truncate(tmp_path / name, 2**40)
        except OSError:
            pytest.skip("this file system has no such large files")
        start = time.monotonic()
        assert "its file is over the limit" in reason(tmp_path / name)
        assert time.monotonic() - start < 10


def test_a_decoder_that_answers_nonsense_once_costs_nothing(
    faulty: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "GRACE_SECONDS", 0)
    for name in ("words", "wide", "small", "endless", "nothing"):
        path = draw(tmp_path / f"once-{name}.png")
        assert (isolate(decode_squashed, 1)(path, 8) == decode_squashed(path, 8)).all(), name
        assert (tmp_path / f"once-{name}.png.done").exists()


def test_answers_that_are_not_one_for_each_call_are_nonsense(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "GRACE_SECONDS", 0)
    monkeypatch.setattr(
        decoders, "PROGRAM",
        "import sys; write = sys.stdout.buffer.raw.write; write(b'ready\\n')\nfor line in sys.stdin: write(b'[]\\n')",
    )  # fmt: skip
    calls = [(draw(tmp_path / f"{i}.png"), 8) for i in range(2)]
    assert [str(found) for found in isolate_batch(decode_squashed, 1)(calls)] == [
        "its decoder sent an invalid answer"
    ] * 2


def test_decoders_that_cannot_start_are_an_error_with_a_way_out(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw(tmp_path / "a.png")
    monkeypatch.setattr(decoders, "PROGRAM", "raise SystemExit(9)")
    with pytest.raises(MachineError, match=r"ended as it started \(exit code 9\).*--workers 0"):
        isolate(decode_squashed, 1)(path, 8)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(MachineError, match="cannot be started"):
        isolate(decode_squashed, 1)(path, 8)
    assert not decoders._decoders
    assert isolate(decode_squashed, 0)(path, 8).shape == (8, 8, 3)


def test_decoders_that_are_not_asked_end(fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = draw(tmp_path / "a.png")
    monkeypatch.setattr(decoders, "IDLE_SECONDS", 0)
    isolate(decode_squashed, 1)(path, 8)
    (decoder,) = decoders._decoders
    decoder.process.wait(timeout=30)
    until = time.monotonic() + 30
    while decoders._decoders and time.monotonic() < until:
        time.sleep(0.05)
    assert not decoders._decoders
    isolate(decode_squashed, 1)(path, 8)  # by another one


def test_an_image_takes_no_more_memory_than_the_largest(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (8000, 8000)).save(tmp_path / "large.png", compress_level=1)
    draw(tmp_path / "a.png")
    monkeypatch.setattr(
        decoders, "PROGRAM",
        "import sys; sys.path[:] = sys.argv[1:]; from simclr_cli.images import decode_worker as decoder; "
        "decoder.MAX_PIXELS = 0; decoder.OVERHEAD_BYTES = 2**26; decoder.main()",
    )  # fmt: skip
    if sys.platform == "linux":
        assert reason(tmp_path / "large.png") == "too large for this machine's memory"
    assert isolate(decode_squashed, 1)(tmp_path / "a.png", 8).shape == (8, 8, 3)


def test_a_decoder_loads_nothing_from_where_the_command_is_run(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw(tmp_path / "a.png")
    for name in ("numpy", "PIL", "simclr_cli", "json", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert isolate(decode_squashed, 1)(path, 8).shape == (8, 8, 3)
    assert not (tmp_path / "loaded").exists()


def test_a_decoder_needs_no_torch_and_loads_no_other_formats(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.gif", "a.bmp", "a.tif", "a.ppm", "a.webp"):
        draw(tmp_path / name)
    (tmp_path / "psd.psd").write_bytes(b"8BPS" + bytes(100))
    (tmp_path / "png.psd").write_bytes((tmp_path / "a.png").read_bytes())  # by its name Pillow would load that plugin
    code = f"""
import sys
from pathlib import Path
from simclr_cli.images import decode_worker as decoder
for path in sorted(Path({str(tmp_path)!r}).iterdir()):
    print(path.name, *decoder._run_call(decoder.decode_squashed, str(path), 8)[0])
print(*sorted(name for name in sys.modules if "Plugin" in name or name == "torch"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *told, loaded = done.stdout.splitlines()
    assert [line for line in told if "shape" not in line] == ["psd.psd skipped"]
    plugins = "Avif Bmp Gif Jpeg Png Ppm Tiff WebP".split()
    assert loaded.split() == [f"PIL.{name}ImagePlugin" for name in plugins]


@posix_only
def test_decoders_run_below_a_launcher_as_in_a_virtual_environment_on_windows(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    launcher.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(launcher))
    path = draw(tmp_path / "a.png")
    for _ in range(2):
        assert (isolate(decode_squashed, 1)(path, 8) == decode_squashed(path, 8)).all()
    (decoder,) = decoders._decoders
    assert decoder.process.poll() is None
    decoder.requests.close()
    assert decoder.process.wait(timeout=30) == 0


def test_a_decoder_ends_with_its_command_in_the_middle_of_an_image(
    faulty: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, path = decoders._start_decoder(), draw(tmp_path / "busy.png")
    decoder.requests.write(json.dumps(["decode_squashed", 30, [[str(path), 8]]]).encode() + b"\n")
    decoder.requests.flush()
    while not path.with_name("busy.png.done").exists():
        time.sleep(0.01)
    assert decoder.process.poll() is None
    decoder.requests.close()  # as the system does when the command is killed
    assert decoder.process.wait(timeout=30) == 0


def test_what_a_decoder_prints_and_reads_is_not_of_the_exchange(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = decoders.PROGRAM.replace("from simclr_cli.images.decode_worker import main; main()", """
import os; from simclr_cli.images import decode_worker as decoder; sound = decoder._run_call
decoder._run_call = lambda *call: (os.write(1, b"talk"), os.read(0, 9), sound(*call))[2]
decoder.main()""")  # fmt: skip
    monkeypatch.setattr(decoders, "PROGRAM", program)
    path = draw(tmp_path / "a.png")
    for _ in range(2):
        assert (isolate(decode_squashed, 1)(path, 8) == decode_squashed(path, 8)).all()
    assert len(decoders._decoders) == 1


@pytest.mark.parametrize(("code", "cause"), [
    (0xC0000005, "the decoder crashed on it (access violation)"), (3, "the decoder crashed on it (exit code 3)"),
    (None, "its decoder sent an invalid answer"),
])  # fmt: skip
def test_cause_of_an_end_in_words(code: int | None, cause: str) -> None:
    assert decoders._cause(code) == cause


@posix_only
def test_ctrl_c_in_the_terminal_is_not_for_decoders(fresh: None, tmp_path: Path) -> None:
    isolate(decode_squashed, 1)(draw(tmp_path / "a.png"), 8)
    (decoder,) = decoders._decoders
    assert os.getpgid(decoder.process.pid) != os.getpgid(0)


@posix_only
def test_decoders_of_many_threads_are_each_their_own(fresh: None, tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{i}.png", side=8 + i) for i in range(12)]
    wrong: list[int] = []

    def work(start: int) -> None:
        for i in range(start, start + 60):
            path = paths[i % 12]
            if isolate(read_header, 1)(path).height != 8 + i % 12:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(decoders._decoders) <= 3
    os.kill(decoders._decoders[0].process.pid, signal.SIGKILL)  # while it waits
    assert isolate(read_header, 1)(paths[0]).height == 8
