"""The census: which files are pictures, in what order, of which class, and why the others are not."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from simclr_cli.errors import InputError
from simclr_cli.images.folder import CAMERA_RAW, Census, Picture, Refused, take_census

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")


def draw(path: Path, size: tuple[int, int] = (6, 4), colour: str = "red", format: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, format or "PNG")
    return path


def names(census: Census) -> list[str]:
    return [picture.name for picture in census.pictures]


def reasons(census: Census) -> dict[str, str]:
    return {entry.name: entry.reason for entry in census.refused}


def test_nested_tree_is_read_to_its_leaves(tmp_path: Path) -> None:
    draw(tmp_path / "top.png", (6, 4))
    draw(tmp_path / "a/b/c/deep.jpg", (5, 9), format="JPEG")
    census = take_census(tmp_path)
    deep, top = census.pictures
    assert (deep.name, deep.format, deep.height, deep.width) == ("a/b/c/deep.jpg", "JPEG", 9, 5)
    assert (top.name, top.format, top.height, top.width) == ("top.png", "PNG", 4, 6)
    status = (tmp_path / "top.png").stat()
    assert (top.bytes, top.modified_ns) == (status.st_size, status.st_mtime_ns)
    assert census.path(deep) == tmp_path / "a/b/c/deep.jpg"
    assert (census.refused, census.others) == ((), 0)


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    draw(tmp_path / "seen.png")
    draw(tmp_path / ".hidden.png")
    draw(tmp_path / ".thumbnails/small.png")
    (tmp_path / ".DS_Store").write_text("x")
    census = take_census(tmp_path)
    assert (names(census), census.refused, census.others) == (["seen.png"], (), 0)


def test_order_is_that_of_the_paths_bytes(tmp_path: Path) -> None:
    given = ["b.png", "B.png", "a/z.png", "a.png", "a-b.png", "é.png", "10.png", "9.png", "a/b/c.png", "Ω.png"]
    for name in given:
        draw(tmp_path / name)
    assert names(take_census(tmp_path, workers=3)) == sorted(given, key=lambda name: name.encode())


def test_progress_counts_every_file(tmp_path: Path) -> None:
    for i in range(5):
        draw(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("x")
    seen: list[tuple[int, int]] = []
    take_census(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    outside = draw(tmp_path / "outside/real.png", (8, 3))
    root = tmp_path / "root"
    draw(root / "own/a.png")
    (root / "link.png").symlink_to(outside)
    (root / "linked-folder").symlink_to(outside.parent)
    (root / "own/up").symlink_to(root)  # followed, it would never end
    (root / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    census = take_census(root)
    assert names(census) == ["link.png", "own/a.png"]
    assert (census.pictures[0].height, census.pictures[0].width) == (3, 8)
    told = reasons(census)
    assert set(told) == {"linked-folder", "own/up", "broken.png", "loop.png"}
    assert told["linked-folder"] == told["own/up"] == "a link to a folder is not followed"
    assert told["broken.png"] == "a broken link"
    assert "symbolic links" in told["loop.png"]


def test_root_itself_may_be_a_link(tmp_path: Path) -> None:
    draw(tmp_path / "real/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(take_census(tmp_path / "link")) == ["a.png"]


def test_folder_without_the_right_to_read_is_refused_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "open/a.png")
    draw(tmp_path / "locked/b.png")
    scandir = os.scandir

    def deny(path: Any) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    census = take_census(tmp_path)
    assert names(census) == ["open/a.png"]
    assert reasons(census) == {"locked": "no right to read this folder"}


def test_file_without_the_right_to_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "locked.png")
    reading = Path.open

    def deny(path: Path, *rest: Any, **more: Any) -> Any:
        if path.name == "locked.png":
            raise PermissionError(13, "Permission denied")
        return reading(path, *rest, **more)

    monkeypatch.setattr(Path, "open", deny)
    census = take_census(tmp_path)
    assert (names(census), reasons(census)) == (["a.png"], {"locked.png": "permission denied"})


@linux_only
def test_pipes_sockets_and_devices_do_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "linked-pipe.png").symlink_to(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        census = take_census(tmp_path)
    assert (names(census), census.others) == (["a.png"], 4)


STRANGE = [
    b"new\nline.png", b"\x1b[31mred.png", b"[bold]x[/bold].png", b"\xff\xfe.png", b"caf\xe9/picture.png",
    b"quote\".png", b"back\\slash.png", b" .png", b"-rf.png",
]  # fmt: skip


@linux_only
def test_any_name_that_the_system_allows_is_read(tmp_path: Path) -> None:
    for name in STRANGE:
        draw(tmp_path / os.fsdecode(name))
    census = take_census(tmp_path)
    assert [os.fsencode(name) for name in names(census)] == sorted(STRANGE)
    assert json.loads(json.dumps(census.summary()))["pictures"] == len(STRANGE)
    assert len(census.fingerprint) == 64


@linux_only
def test_summary_of_names_that_are_not_utf8_is_json(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    for i in range(2):
        draw(root / os.fsdecode(b"na\xefve") / f"{i}.png")
        draw(root / "plain" / f"{i}.png", colour="blue")
    (root / os.fsdecode(b"\xff.jpg")).write_text("no picture")
    census = take_census(root)
    assert json.loads(json.dumps(census.summary())) == census.summary()
    assert [os.fsencode(name) for name in census.classes] == [b"na\xefve", b"plain"]


@pytest.mark.parametrize("extension", sorted(CAMERA_RAW))
def test_camera_raw_is_refused_and_not_taken_by_its_thumbnail(tmp_path: Path, extension: str) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / f"photo{extension.upper()}", format="TIFF")
    census = take_census(tmp_path)
    assert names(census) == ["a.png"]
    assert "camera raw" in reasons(census)[f"photo{extension.upper()}"]


def test_files_that_claim_nothing_are_counted_as_other(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "bm.txt").write_text("BM is how this text begins, and how a bitmap does.")
    (tmp_path / "pm").write_text("P5 is where we met.")
    (tmp_path / "empty").touch()
    census = take_census(tmp_path)
    assert (names(census), census.refused, census.others) == (["a.png"], (), 4)


def test_files_that_claim_to_be_pictures_are_refused_by_name(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.JPEG").write_text("no picture")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "header.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    told = reasons(take_census(tmp_path))
    assert set(told) == {"empty.jpg", "text.JPEG", "phone.heic", "header.png"}
    assert "0 bytes" in told["empty.jpg"] and "HEIC" in told["phone.heic"] and "damaged" in told["header.png"]


def test_picture_without_an_extension_or_with_a_wrong_one_is_a_picture(tmp_path: Path) -> None:
    for name in ("bare", "wrong.txt", "wrong.gif"):
        draw(tmp_path / name)
    assert [(picture.name, picture.format) for picture in take_census(tmp_path).pictures] == [
        ("bare", "PNG"), ("wrong.gif", "PNG"), ("wrong.txt", "PNG"),
    ]  # fmt: skip


# Errors


def test_missing_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder") as caught:
        take_census(tmp_path / "nowhere")
    assert caught.value.exit_code == 3


def test_file_in_place_of_a_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a file, not a folder") as caught:
        take_census(draw(tmp_path / "a.png"))
    assert caught.value.exit_code == 3


def test_folder_that_may_not_be_read_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="may not be read"):
        take_census(tmp_path)


def test_empty_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is empty") as caught:
        take_census(tmp_path)
    assert caught.value.exit_code == 3


def test_folder_without_a_picture_says_what_it_holds(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("x")
    for i in range(2):
        (tmp_path / f"{i}.jpg").touch()
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(InputError, match=r"3 other files and 3 refused \(most often: empty file \(0 bytes\), 2 times"):
        take_census(tmp_path)


# Classes


def census_of(*given: str) -> Census:
    pictures = tuple(Picture(name, "PNG", 4, 6, 100, 1) for name in sorted(given, key=os.fsencode))
    return Census(Path("/pictures"), pictures, (), 0)


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        (("cat/1", "cat/2", "dog/1", "dog/2"), ("cat", "dog")),
        (("cat/1", "cat/x/y/2", "dog/1", "dog/x/2"), ("cat", "dog")),  # of the first level, whatever lies below
        (("Zebra/1", "Zebra/2", "ant/1", "ant/2"), ("Zebra", "ant")),
        (("1.png", "cat/1", "cat/2", "dog/1", "dog/2"), ()),  # one lies outside
        (("cat/1", "cat/2"), ()),  # one folder only
        (("cat/1", "cat/2", "dog/1"), ()),  # a single picture in one
        (("1", "2", "3"), ()),
        (("train/1", "train/2", "test/1", "test/2"), ()),  # these are splits
        (("Train/1", "Train/2", "VAL/1", "VAL/2", "test/1", "test/2"), ()),
        (("train/1", "train/2", "bus/1", "bus/2"), ("bus", "train")),  # here a train is a vehicle
        (("é/1", "é/2", "\udcff/1", "\udcff/2"), ("é", "\udcff")),
    ],
)
def test_folders_look_like_classes(given: tuple[str, ...], classes: tuple[str, ...]) -> None:
    assert census_of(*given).classes == classes


def test_labels_stand_in_the_order_of_the_pictures() -> None:
    assert census_of("dog/1", "cat/2", "cat/1", "dog/0").labels == ["cat", "cat", "dog", "dog"]


# Fingerprint, without, summary


def test_fingerprint_is_the_same_for_the_same_folder_in_any_walking_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b/c.png", "b/d.png", "e/f.png"):
        draw(tmp_path / name)
    first = take_census(tmp_path, workers=1).fingerprint
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: sorted(scandir(path), key=lambda e: e.name, reverse=True))
    assert take_census(tmp_path, workers=4).fingerprint == first


def test_fingerprint_follows_content_and_names(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    seen = [take_census(tmp_path).fingerprint]
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))  # a nanosecond later
    seen.append(take_census(tmp_path).fingerprint)
    time = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() + b"\0")  # a byte longer at the same time
    os.utime(path, ns=(1, time))
    seen.append(take_census(tmp_path).fingerprint)
    path.rename(tmp_path / "aa.png")
    seen.append(take_census(tmp_path).fingerprint)
    (tmp_path / "b.png").unlink()
    seen.append(take_census(tmp_path).fingerprint)
    assert len(set(seen)) == len(seen)


def test_fingerprint_does_not_see_other_files(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    before = take_census(tmp_path).fingerprint
    (tmp_path / "notes.txt").write_text("x")
    assert take_census(tmp_path).fingerprint == before


def test_without_moves_pictures_to_the_refused() -> None:
    census = census_of("a", "b", "c", "d")
    left = census.without([Refused("d", "truncated")]).without([Refused("b", "truncated")])
    assert names(left) == ["a", "c"]
    assert left.refused == (Refused("b", "truncated"), Refused("d", "truncated"))
    assert left.fingerprint != census.fingerprint
    assert names(census) == ["a", "b", "c", "d"]


def test_summary_counts(tmp_path: Path) -> None:
    for side in (9, 5, 7):
        draw(tmp_path / f"{side}.png", (side, 20))
    draw(tmp_path / "wide.jpg", (30, 11), format="JPEG")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").touch()
    census = take_census(tmp_path)
    assert census.summary() == {
        "folder": str(tmp_path),
        "pictures": 4,
        "bytes": sum(path.stat().st_size for path in tmp_path.iterdir()),
        "formats": {"PNG": 3, "JPEG": 1},
        "short_side": {"least": 5, "median": 9, "most": 11},
        "classes": [],
        "refused": 1,
        "refused_because": {"empty file (0 bytes)": 1},
        "other_files": 1,
        "fingerprint": census.fingerprint,
    }
