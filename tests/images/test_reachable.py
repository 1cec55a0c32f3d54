"""Errors of a disk, a share or permissions are not remembered of an image; a failing disk stops with the path."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli.core.errors import MachineError
from simclr_cli.images import decode_pool as decoders
from simclr_cli.images import scan as census_room
from simclr_cli.images.cache import DecodedImages, decode_images
from simclr_cli.images.decode import decode_squashed
from simclr_cli.images.decode_pool import isolate
from simclr_cli.images.formats import TemporarilyUnusable, UnusableImage
from simclr_cli.images.groups import checksum_image
from simclr_cli.images.scan import take_census

GONE = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
    return folder


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """`failing(name, errno)`: no file of that name can be opened any more; errno 0: it can again."""
    numbers: dict[str, int] = {}
    sound = Path.open

    def opened(path: Path, *arguments: Any, **values: Any) -> Any:
        if number := numbers.get(path.name):
            raise OSError(number, os.strerror(number), str(path))
        return sound(path, *arguments, **values)

    monkeypatch.setattr(Path, "open", opened)
    return numbers.__setitem__


def decoded(photos: Path, **values: Any) -> DecodedImages:
    return decode_images(take_census(photos, workers=0), 8, workers=0, progress=lambda *_: None, **values)


@pytest.mark.parametrize("number", GONE)
def test_a_disk_or_share_that_fails_stops_the_census(photos: Path, failing: Callable[..., None], number: int) -> None:
    failing("3.png", number)
    with pytest.raises(MachineError) as caught:
        take_census(photos, workers=0)
    assert os.strerror(number) in caught.value.problem and caught.value.exit_code == 5
    failing("3.png", 0)
    assert len(take_census(photos, workers=0).images) == 6


def test_a_folder_within_that_cannot_be_reached_stops_it_too(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "within").mkdir()
    sound = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "within":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return sound(path)

    monkeypatch.setattr(census_room.os, "scandir", scandir)
    with pytest.raises(MachineError, match=f"within cannot be reached: {os.strerror(errno.ESTALE)}"):
        take_census(photos, workers=0)


@pytest.mark.parametrize("number", GONE)
def test_decoding_stops_and_keeps_what_it_has(
    photos: Path, failing: Callable[..., None], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_census(photos, workers=0)
    failing("3.png", number)
    with pytest.raises(MachineError, match=r"network share|ulimit"):
        decoded(photos)
    failing("3.png", 0)
    again: list[int] = []
    whole = decode_images(
        take_census(photos, workers=0), 8, workers=0, progress=lambda done, total: again.append(total)
    )
    assert len(whole) == 6 and set(again) == {3}  # the three before it are there


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT])
def test_a_right_taken_away_is_not_remembered(photos: Path, failing: Callable[..., None], number: int) -> None:
    take_census(photos, workers=0)
    failing("3.png", number)
    found = decoded(photos)
    assert [entry.name for entry in found.census.skipped] == ["3.png"] and len(found) == 5
    failing("3.png", 0)
    assert len(decoded(photos)) == 6


def test_what_is_of_the_image_is_remembered(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (photos / "3.png").read_bytes()
    (photos / "3.png").write_bytes(whole[:-40])
    assert len(decoded(photos)) == 5
    monkeypatch.setattr("simclr_cli.images.cache.decode_squashed", None)  # would be an error, if it were asked
    assert len(decoded(photos)) == 5


@pytest.mark.parametrize(("number", "kind"), [(errno.EACCES, TemporarilyUnusable), (errno.EIO, MachineError)])
def test_checksums_of_content_raise_the_same_errors(
    photos: Path, failing: Callable[..., None], number: int, kind: type[Exception]
) -> None:
    failing("3.png", number)
    with pytest.raises(kind):
        checksum_image(photos / "3.png")


FAULTS = """
import os, sys
sys.path[:] = sys.argv[1:]
from pathlib import Path
from simclr_cli.images import decode_worker as decoder

sound = Path.open

def opened(path, *arguments, **values):
    if path.name.startswith("errno-"):
        number = int(path.stem[6:])
        raise OSError(number, os.strerror(number), str(path))
    return sound(path, *arguments, **values)

Path.open = opened
decoder.main()
"""


@pytest.fixture
def isolated_and_failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start decoders that cannot open files of some names."""
    decoders._end_all()
    monkeypatch.setattr(decoders, "PROGRAM", FAULTS)
    yield
    decoders._end_all()


def test_the_difference_comes_back_from_another_process(isolated_and_failing: None, photos: Path) -> None:
    for number, kind in ((errno.EIO, MachineError), (errno.EACCES, TemporarilyUnusable)):
        path = photos / f"errno-{number}.png"
        path.write_bytes((photos / "0.png").read_bytes())
        with pytest.raises(kind):
            isolate(decode_squashed, 1)(path, 8)
    (photos / "text.png").write_text("no image")
    with pytest.raises(UnusableImage) as caught:
        isolate(decode_squashed, 1)(photos / "text.png", 8)
    assert not isinstance(caught.value, TemporarilyUnusable)


def test_stalled_share_is_waited_for_before_an_image_is_skipped(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a decoder took too long, the file is read here first, however long that takes."""
    order: list[str] = []

    def ended(*_: object) -> None:
        order.append("asked")
        raise decoders._DecoderEnded("decoding it took over 25 s")

    sound = decoders._wait_for_file
    for which in ("_acquire_decoder", "_start_decoder"):
        monkeypatch.setattr(decoders, which, lambda: SimpleNamespace(ask=ended))
    monkeypatch.setattr(decoders, "_wait_for_file", lambda path: order.append("read") or sound(path))
    (found,) = decoders._ask_decoder(decode_squashed, [(photos / "0.png", 8)])
    assert order == ["asked", "read", "asked"] and isinstance(found, TemporarilyUnusable)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    decoders._wait_for_file(tmp_path / "pipe")
    decoders._wait_for_file(tmp_path / "nowhere")
