"""What the system says of a disk, a share or a right is not remembered of the image; what fails stops with a name."""

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
from simclr_cli.images.cache import DecodedImages, decode_once
from simclr_cli.images.decode import UnavailableNow, UnusableImage, squashed
from simclr_cli.images.decode_pool import apart
from simclr_cli.images.groups import content_checksum
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
    """`failing(name, errno)`: from now on no file of that name can be opened; errno 0: it can again."""
    numbers: dict[str, int] = {}
    sound = Path.open

    def opened(path: Path, *arguments: Any, **values: Any) -> Any:
        if number := numbers.get(path.name):
            raise OSError(number, os.strerror(number), str(path))
        return sound(path, *arguments, **values)

    monkeypatch.setattr(Path, "open", opened)
    return numbers.__setitem__


def decoded(photos: Path, **values: Any) -> DecodedImages:
    return decode_once(take_census(photos, workers=0), 8, workers=0, progress=lambda *_: None, **values)


@pytest.mark.parametrize("number", GONE)
def test_a_disk_or_share_that_fails_stops_the_census(photos: Path, failing: Callable[..., None], number: int) -> None:
    failing("3.png", number)
    with pytest.raises(MachineError) as caught:
        take_census(photos, workers=0)
    assert os.strerror(number) in caught.value.what and caught.value.exit_code == 5
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
    with pytest.raises(MachineError, match=r"within cannot be reached: Stale file handle"):
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
    whole = decode_once(take_census(photos, workers=0), 8, workers=0, progress=lambda done, total: again.append(total))
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
    monkeypatch.setattr("simclr_cli.images.cache.squashed", None)  # would be an error, if it were asked
    assert len(decoded(photos)) == 5


@pytest.mark.parametrize(("number", "kind"), [(errno.EACCES, UnavailableNow), (errno.EIO, MachineError)])
def test_checksums_of_content_tell_them_apart_too(
    photos: Path, failing: Callable[..., None], number: int, kind: type[Exception]
) -> None:
    failing("3.png", number)
    with pytest.raises(kind):
        content_checksum(photos / "3.png")


FAULTS = """
import os, sys
sys.path[:] = sys.argv[2:]
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
def apart_and_failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decoders that cannot open files of some names."""
    decoders._end_all()
    monkeypatch.setattr(decoders, "PROGRAM", FAULTS)
    yield
    decoders._end_all()


def test_the_difference_comes_back_from_another_process(apart_and_failing: None, photos: Path) -> None:
    for number, kind in ((errno.EIO, MachineError), (errno.EACCES, UnavailableNow)):
        path = photos / f"errno-{number}.png"
        path.write_bytes((photos / "0.png").read_bytes())
        with pytest.raises(kind):
            apart(squashed, 1)(path, 8)
    (photos / "text.png").write_text("no image")
    with pytest.raises(UnusableImage) as caught:
        apart(squashed, 1)(photos / "text.png", 8)
    assert not isinstance(caught.value, UnavailableNow)


def test_a_share_that_stalls_is_waited_for_before_a_image_is_refused(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder was ended for taking too long: the file is read through here first, and waits as long as it takes."""
    order: list[str] = []

    def ended(*_: object) -> None:
        order.append("asked")
        raise decoders._Ended("decoding it took over 25 s")

    sound = decoders._await
    for which in ("_taken", "_started"):
        monkeypatch.setattr(decoders, which, lambda: SimpleNamespace(ask=ended))
    monkeypatch.setattr(decoders, "_await", lambda path: order.append("read") or sound(path))
    (found,) = decoders._ask(squashed, [(photos / "0.png", 8)])
    assert order == ["asked", "read", "asked"] and isinstance(found, UnavailableNow)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    decoders._await(tmp_path / "pipe")
    decoders._await(tmp_path / "nowhere")
