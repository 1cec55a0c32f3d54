"""Census of a folder: its images, their order and classes, and the reasons of skipped files."""

import itertools
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from simclr_cli.core.errors import InputError
from simclr_cli.images import header_cache
from simclr_cli.images import scan as module
from simclr_cli.images.cache_location import cache_root, locate_cache
from simclr_cli.images.census import Census
from simclr_cli.images.decode import Header, read_header
from simclr_cli.images.decode_pool import isolate_batch
from simclr_cli.images.formats import CostlyUnusable, UnusableImage
from simclr_cli.images.scan import CAMERA_RAW_EXTENSIONS, take_census

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
posix_only = pytest.mark.skipif(os.name != "posix", reason="on Windows links need a privilege")


def draw(path: Path, size: tuple[int, int] = (6, 4), color: str = "red", format: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, format or "PNG")
    return path


def names(census: Census) -> list[str]:
    return [image.name for image in census.images]


def reasons(census: Census) -> dict[str, str]:
    return {entry.name: entry.reason for entry in census.skipped}


def test_nested_tree_is_read_to_its_leaves(tmp_path: Path) -> None:
    draw(tmp_path / "top.png", (6, 4))
    draw(tmp_path / "a/b/c/deep.jpg", (5, 9), format="JPEG")
    census = take_census(tmp_path)
    deep, top = census.images
    assert (deep.name, deep.format, deep.height, deep.width) == ("a/b/c/deep.jpg", "JPEG", 9, 5)
    assert (top.name, top.format, top.height, top.width) == ("top.png", "PNG", 4, 6)
    status = (tmp_path / "top.png").stat()
    assert (top.bytes, top.modified_ns) == (status.st_size, status.st_mtime_ns)
    assert census.path(deep) == tmp_path / "a/b/c/deep.jpg"
    assert (census.skipped, census.other_files) == ((), 0)


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    draw(tmp_path / "seen.png")
    draw(tmp_path / ".hidden.png")
    draw(tmp_path / ".thumbnails/small.png")
    (tmp_path / ".DS_Store").write_text("x")
    census = take_census(tmp_path)
    assert (names(census), census.skipped, census.other_files) == (["seen.png"], (), 0)


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


@posix_only
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
    assert (census.images[0].height, census.images[0].width) == (3, 8)
    told = reasons(census)
    assert set(told) == {"linked-folder", "own/up", "broken.png", "loop.png"}
    assert told["linked-folder"] == told["own/up"] == "a link to a folder is not followed"
    assert told["broken.png"] == "a broken link"
    assert "symbolic links" in told["loop.png"]


@posix_only
def test_root_itself_may_be_a_link(tmp_path: Path) -> None:
    draw(tmp_path / "real/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(take_census(tmp_path / "link")) == ["a.png"]


def test_folder_without_permission_to_read_is_skipped_and_the_rest_is_read(
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
    assert reasons(census) == {"locked": "no permission to read this folder"}


def test_file_without_permission_to_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "locked.png")
    reading = Path.open

    def deny(path: Path, *rest: Any, **more: Any) -> Any:
        if path.name == "locked.png":
            raise PermissionError(13, "Permission denied")
        return reading(path, *rest, **more)

    monkeypatch.setattr(Path, "open", deny)
    census = take_census(tmp_path, workers=0)  # in this process
    assert (names(census), reasons(census)) == (["a.png"], {"locked.png": "no permission to read it"})


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
    assert (names(census), census.other_files) == (["a.png"], 4)


STRANGE = [
    b"new\nline.png", b"\x1b[31mred.png", b"[bold]x[/bold].png", b"\xff\xfe.png", b"caf\xe9/image.png",
    b"quote\".png", b"back\\slash.png", b" .png", b"-rf.png",
]  # fmt: skip


@linux_only
def test_any_name_that_the_system_allows_is_read(tmp_path: Path) -> None:
    for name in STRANGE:
        draw(tmp_path / os.fsdecode(name))
    census = take_census(tmp_path)
    assert [os.fsencode(name) for name in names(census)] == sorted(STRANGE)
    assert json.loads(json.dumps(census.summary()))["images"] == len(STRANGE)
    assert len(census.fingerprint) == 64


@linux_only
def test_summary_of_names_that_are_not_utf8_is_json(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    for i in range(2):
        draw(root / os.fsdecode(b"na\xefve") / f"{i}.png")
        draw(root / "plain" / f"{i}.png", color="blue")
    (root / os.fsdecode(b"\xff.jpg")).write_text("no image")
    census = take_census(root)
    assert json.loads(json.dumps(census.summary())) == census.summary()
    assert [os.fsencode(name) for name in census.classes] == [b"na\xefve", b"plain"]


@pytest.mark.parametrize("extension", sorted(CAMERA_RAW_EXTENSIONS))
def test_camera_raw_is_skipped_and_not_taken_by_its_thumbnail(tmp_path: Path, extension: str) -> None:
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
    assert (names(census), census.skipped, census.other_files) == (["a.png"], (), 4)
    assert census.other_names == ("bm.txt", "empty", "notes.txt", "pm")
    assert census.other_kinds == {".txt": 2, "without extension": 2}


@pytest.mark.parametrize(
    "folder", ["@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "__MACOSX", "System Volume Information", "@Recycle"]
)
def test_system_folders_are_not_entered_and_are_named(tmp_path: Path, folder: str) -> None:
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        draw(tmp_path / name)
    for i in range(2):
        draw(tmp_path / folder / f"{i}.png")
        draw(tmp_path / "cat" / folder / f"{i}.png")
    census = take_census(tmp_path)
    assert census.classes == ("cat", "dog") and len(census.images) == 4 and census.skipped == ()
    assert set(census.other_names) == {f"{folder}/", f"cat/{folder}/"} and census.other_files == 2
    assert census.other_kinds == {f"{folder}/": 2}


UNSUPPORTED = [  # format, start of a file, extension
    ("JPEG XL", b"\xff\x0a\xfa\x7f", "jxl"), ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"), ("JPEG 2000", b"\xff\x4f\xff\x51\0", "j2k"),
    ("JPEG XR", b"II\xbc\x01", "jxr"), ("PSD", b"8BPS\0\1", "psd"), ("XCF", b"gimp xcf v011", "xcf"),
    ("DDS", b"DDS \x7c\0\0\0", "dds"), ("OpenEXR", b"\x76\x2f\x31\x01\2", "exr"), ("QOI", b"qoif", "qoi"),
    ("Radiance HDR", b"#?RADIANCE\n", None), ("DICOM", bytes(128) + b"DICM", "dcm"), ("ICNS", b"icns\0\0\0\1", "icns"),
    ("NIfTI", bytes(344) + b"n+1\0", "nii"), ("FITS", b"SIMPLE  =                    T", "fits"),
    ("SVG", b"\xef\xbb\xbf<svg xmlns=", "svg"), ("SVG", b"<?xml version='1.0'?>\n<!-- a -->\n<svg>", "svg"),
    ("PAM", b"P7\nWIDTH 8", "pam"), ("PFM in color", b"PF\n8 8\n-1.0\n", None),
    ("TGA", None, "tga"), ("ICO", None, "ico"), ("PCX", None, "pcx"),
]  # fmt: skip


@pytest.mark.parametrize(("format", "start", "extension"), UNSUPPORTED)
def test_formats_that_are_not_supported_are_skipped_by_signature_and_extension(
    tmp_path: Path, format: str, start: bytes | None, extension: str | None
) -> None:
    draw(tmp_path / "a.png")
    given = []
    if start is not None:
        given += ["bare", "wrong.jpg", "wrong.txt"]
        for name in given:
            (tmp_path / name).write_bytes(start + bytes(100))
    if extension is not None:
        given.append(f"empty.{extension.upper()}")
        (tmp_path / given[-1]).touch()
    census = take_census(tmp_path)
    assert reasons(census) == dict.fromkeys(given, f"{format} is not supported (convert it to JPEG or PNG)")
    assert (names(census), census.other_files) == (["a.png"], 0)


def test_text_about_a_format_is_none_of_it(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.tga")  # a PNG by its content
    (tmp_path / "label.xml").write_text("<annotation><svg></annotation>")
    (tmp_path / "page.html").write_text("<html><svg></svg></html>")
    (tmp_path / "notes").write_text("JXL and DICM")
    census = take_census(tmp_path)
    assert (names(census), census.skipped, census.other_files) == (["a.png", "b.tga"], (), 3)


def test_files_that_claim_to_be_images_are_skipped_by_name(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.JPEG").write_text("no image")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "header.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    told = reasons(take_census(tmp_path))
    assert set(told) == {"empty.jpg", "text.JPEG", "phone.heic", "header.png"}
    assert "0 bytes" in told["empty.jpg"] and "HEIC" in told["phone.heic"] and "damaged" in told["header.png"]


def test_image_without_an_extension_or_with_a_wrong_one_is_an_image(tmp_path: Path) -> None:
    for name in ("bare", "wrong.txt", "wrong.gif"):
        draw(tmp_path / name)
    assert [(image.name, image.format) for image in take_census(tmp_path).images] == [
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
    with pytest.raises(InputError, match="no permission to read the folder"):
        take_census(tmp_path)


def test_empty_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is empty") as caught:
        take_census(tmp_path)
    assert caught.value.exit_code == 3


def test_folder_without_an_image_says_what_it_holds(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("x")
    for i in range(2):
        (tmp_path / f"{i}.jpg").touch()
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(
        InputError, match=r"3 other files \(3 .txt\) and 3 skipped \(most often: empty file \(0 bytes\), 2 times"
    ):
        take_census(tmp_path)


# Fingerprint, summary


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


def test_summary_counts(tmp_path: Path) -> None:
    for side in (9, 5, 7):
        draw(tmp_path / f"{side}.png", (side, 20))
    draw(tmp_path / "wide.jpg", (30, 11), format="JPEG")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").touch()
    census = take_census(tmp_path)
    assert census.summary() == {
        "folder": str(tmp_path),
        "images": 4,
        "bytes": sum(path.stat().st_size for path in tmp_path.iterdir()),
        "formats": {"PNG": 3, "JPEG": 1},
        "short_side": {"least": 5, "median": 9, "most": 11},
        "bits": None,
        "classes": [],
        "unlabeled": 0,
        "unlabeled_because": "",
        "skipped": 1,
        "skipped_because": {"empty file (0 bytes)": 1},
        "odd": {},
        "other_files": 1,
        "other_kinds": {".txt": 1},
        "other_names": ["notes.txt"],
        "fingerprint": census.fingerprint,
    }


# Cached headers


TIMES = itertools.count(10**18, 10**9)  # of change: none twice, however coarse the system's clock


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make images of two formats, one of them skipped by its header, and one other file."""
    for i, name in enumerate(("b.png", "B.png", "a/z.png", "a.png", "a/b/c.jpg", "bare")):
        path = draw(tmp_path / "root" / name, (6 + i, 4), format="JPEG" if name.endswith("jpg") else None)
        os.utime(path, ns=(1, next(TIMES)))
    (tmp_path / "root/broken.png").write_bytes((tmp_path / "root/b.png").read_bytes()[:20])
    (tmp_path / "root/notes.txt").write_text("x")
    return tmp_path / "root"


@pytest.fixture
def reading(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the files whose headers are read."""
    names: list[str] = []

    def spy(calls: Sequence[tuple[Path]]) -> Sequence[Header | UnusableImage]:
        names.extend(path.relative_to(root).as_posix() for (path,) in calls)
        return isolate_batch(read_header, 1)(calls)

    monkeypatch.setattr(module, "isolate_batch", lambda *_: spy)
    return names


def headers_of(root: Path) -> Path:
    return locate_cache(root) / "headers.json"


def fresh(root: Path) -> Census:
    """Take a census without cached headers."""
    kept = headers_of(root).with_name("aside")
    if headers_of(root).exists():
        headers_of(root).rename(kept)
    census = take_census(root)
    if kept.exists():
        kept.replace(headers_of(root))
    return census


def test_second_census_reads_no_header_of_an_image(root: Path, reading: list[str]) -> None:
    first = take_census(root)
    assert sorted(reading) == sorted([*names(first), "broken.png"])
    reading.clear()
    seen: list[tuple[int, int]] = []
    second = take_census(root, workers=3, progress=lambda done, total: seen.append((done, total)))
    assert reading == ["broken.png"]  # skipped files are read again
    assert second == first and second.fingerprint == first.fingerprint
    assert seen == [(i, 8) for i in range(1, 9)]


def test_file_that_took_long_to_be_skipped_is_skipped_until_it_changes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costly: list[str] = []

    def read(calls: Sequence[tuple[Path]]) -> Sequence[Header | UnusableImage]:
        costly.extend(path.name for (path,) in calls if path.name == "b.png")
        headers = isolate_batch(read_header, 1)(calls)
        return [CostlyUnusable("slow") if path.name == "b.png" else header
                for (path,), header in zip(calls, headers, strict=True)]  # fmt: skip

    monkeypatch.setattr(module, "isolate_batch", lambda *_: read)
    first = take_census(root)
    assert reasons(first)["b.png"] == "slow"
    assert take_census(root) == first and costly == ["b.png"]
    os.utime(root / "b.png", ns=(1, next(TIMES)))
    assert take_census(root).images == first.images and costly == ["b.png"] * 2


def test_second_census_opens_no_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = take_census(root)
    reading = Path.open

    def deny(path: Path, *rest: Any, **more: Any) -> Any:
        assert path.name in ("headers.json", "broken.png", "notes.txt"), path
        return reading(path, *rest, **more)

    monkeypatch.setattr(Path, "open", deny)
    assert take_census(root) == first


def test_census_that_finds_nothing_new_writes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = take_census(root)

    def never(*_: Any) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(header_cache, "write_json", never)
    assert take_census(root) == first


@pytest.mark.parametrize("how", ["content", "size", "time"])
def test_changed_file_is_read_again_and_no_other(root: Path, reading: list[str], how: str) -> None:
    take_census(root)
    path = root / "a.png"
    time = path.stat().st_mtime_ns
    if how == "content":
        draw(path, (50, 40))
        os.utime(path, ns=(1, next(TIMES)))
    elif how == "size":
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(1, time))
    else:
        os.utime(path, ns=(1, time + 1))
    reading.clear()
    census = take_census(root)
    assert sorted(reading) == ["a.png", "broken.png"]
    reading.clear()
    assert take_census(root) == census == fresh(root)


def test_files_that_come_and_go_are_noticed(root: Path, reading: list[str], tmp_path: Path) -> None:
    take_census(root)
    (root / "b.png").rename(tmp_path / "away.png")
    (root / "a/z.png").rename(root / "a/y.png")
    draw(root / "new/first.png", (9, 9))
    for _ in range(2):
        reading.clear()
        census = take_census(root)
        assert names(census) == ["B.png", "a.png", "a/b/c.jpg", "a/y.png", "bare", "new/first.png"]
        assert census == fresh(root)
    (tmp_path / "away.png").rename(root / "b.png")
    assert take_census(root) == fresh(root)
    draw(root / "new/first.png", (8, 8)).unlink()
    assert take_census(root) == fresh(root)


def test_image_that_is_damaged_or_repaired_is_noticed(root: Path) -> None:
    take_census(root)
    whole = (root / "a.png").read_bytes()
    (root / "a.png").write_bytes(whole[:20])
    census = take_census(root)
    assert "a.png" not in names(census) and set(reasons(census)) == {"a.png", "broken.png"}
    (root / "a.png").write_bytes(whole)
    (root / "broken.png").write_bytes(whole)
    census = take_census(root)
    assert {"a.png", "broken.png"} <= set(names(census)) and census.skipped == ()


def test_skipped_file_may_become_an_image_without_a_sign(tmp_path: Path) -> None:
    """A skipped file is not remembered, whatever its size and time: the next version of Pillow may open it."""
    whole = draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", (9, 9))
    os.utime(whole, ns=(1, 10**18))
    data = whole.read_bytes()
    whole.write_bytes(data[:8] + bytes(len(data) - 8))
    os.utime(whole, ns=(1, 10**18))
    assert set(reasons(take_census(tmp_path))) == {"a.png"}
    whole.write_bytes(data)
    os.utime(whole, ns=(1, 10**18))
    assert names(take_census(tmp_path)) == ["a.png", "b.png"]


def test_image_that_becomes_a_folder_is_none(root: Path) -> None:
    take_census(root)
    (root / "a.png").unlink()
    draw(root / "a.png/inner.png")
    assert take_census(root) == fresh(root)
    assert "a.png/inner.png" in names(take_census(root))


@posix_only
def test_links_are_remembered_by_what_they_lead_to(root: Path, tmp_path: Path) -> None:
    outside = draw(tmp_path / "outside.png", (8, 3))
    (root / "link.png").symlink_to(outside)
    take_census(root)
    draw(outside, (9, 9))
    os.utime(outside, ns=(1, next(TIMES)))
    (found,) = [image for image in take_census(root).images if image.name == "link.png"]
    assert (found.height, found.width) == (9, 9)


def test_census_is_the_same_with_and_without_memory(root: Path) -> None:
    first = take_census(root)
    remembering = take_census(root)
    assert remembering == first == fresh(root)
    assert remembering.fingerprint == first.fingerprint
    assert json.dumps(remembering.summary()) == json.dumps(first.summary())  # the order of the keys too


def test_memory_is_of_the_images_that_are_there_and_of_no_others(root: Path) -> None:
    for gone in ("b.png", "a/z.png", "bare"):
        take_census(root)
        (root / gone).unlink()
        census = take_census(root)
        assert [entry[0] for entry in json.loads(headers_of(root).read_bytes())["files"]] == names(census)


@linux_only
def test_any_name_that_the_system_allows_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in STRANGE:
        draw(tmp_path / os.fsdecode(name))
    first = take_census(tmp_path)

    def never(calls: Sequence[tuple[Path]]) -> Sequence[Header | UnusableImage]:
        assert not calls, "read again"
        return []

    monkeypatch.setattr(module, "isolate_batch", lambda *_: never)
    assert take_census(tmp_path) == first


def test_another_folder_of_the_same_names_is_not_confused(root: Path, tmp_path: Path) -> None:
    first = take_census(root)
    second = shutil.copytree(root, tmp_path / "second")  # with the times of change
    draw(second / "a.png", (50, 40))
    assert [image.width for image in take_census(second).images if image.name == "a.png"] == [50]
    assert take_census(root) == first


def test_nothing_is_written_into_the_folder_itself(root: Path) -> None:
    before = sorted(root.rglob("*")), root.stat().st_mtime_ns
    take_census(root)
    take_census(root)
    assert (sorted(root.rglob("*")), root.stat().st_mtime_ns) == before
    assert [path.name for path in cache_root().rglob("*") if path.is_file()] == ["headers.json"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "3", '"text"', "[1, 2]", "{}", "\0", '{"version": 0, "images": []}', '{"version": 1}',
        '{"version": 1, "images": 3}', '{"version": 1, "images": [3]}', '{"version": 1, "images": [["a.png"]]}',
        '{"version": 1, "images": [["a.png", "PNG", 1, 2, 3]]}', '{"version": 1, "images": {"a": 1}}',
        '{"version": 1, "images": [["a.png", "PNG", 1, 2, 3, 4, 5]]}',
        '{"version": 1, "images": [["a.png", "PNG", null, 2, 3, 4]]}',
        '{"version": 1, "images": [["a.png", "PNG", NaN, 2, 3, 4]]}',
        '{"version": 1, "images": [["gone.png", "PNG", 1, 2, 3, 4]]}',
        '{"version": 1, "images": []}',
        '{"version": 1, "images": [["a.png", "PNG", Infinity, 2, 3, 4]]}',
        '{"version": 1, "images": [["a.png", 7, 2, 3]]}',
        '{"version": 1, "images": [["a.png", "damaged", 2, true]]}',
        '{"version": 1, "images": [["a.png", "PNG", 1, 2, 3, 1e999]]}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)  # fmt: skip
def test_damaged_memory_is_ignored_and_repaired(root: Path, reading: list[str], text: str) -> None:
    first = take_census(root)
    version = json.dumps([header_cache.VERSION, header_cache.DECODING_VERSION])
    headers_of(root).write_text(text.replace('"version": 1', f'"version": {version}').replace("images", "files"))
    reading.clear()
    assert take_census(root) == first
    assert sorted(reading) == sorted([*names(first), "broken.png"])
    reading.clear()
    assert take_census(root) == first
    assert reading == ["broken.png"]


def test_memory_cut_anywhere_is_ignored(root: Path) -> None:
    first = take_census(root)
    whole = headers_of(root).read_bytes()
    for length in range(0, len(whole) - 2, 41):
        headers_of(root).write_bytes(whole[:length])
        assert take_census(root) == first


@pytest.mark.parametrize("figure", [0, -5, 1.5, True, "4", 10**30])
def test_figures_that_no_image_can_have_are_ignored(root: Path, figure: Any) -> None:
    first = take_census(root)
    kept = json.loads(headers_of(root).read_bytes())
    (entry,) = [entry for entry in kept["files"] if entry[0] == "b.png"]
    entry[3] = figure  # its width was 6
    headers_of(root).write_text(json.dumps(kept))
    assert take_census(root) == first


def test_memory_of_another_version_is_ignored(root: Path, reading: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = take_census(root)
    monkeypatch.setattr(header_cache, "VERSION", header_cache.VERSION + 1)
    reading.clear()
    assert take_census(root) == first
    assert len(reading) == len(first.images) + 1


def test_memory_is_not_needed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cache folder that can be written to, every census reads all headers."""
    first = take_census(root)
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "file/cache"))
    assert take_census(root) == take_census(root) == first
    assert (tmp_path / "file").read_text() == "mine"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", full)
    assert take_census(root) == take_census(root) == first
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_folder_where_memory_should_lie_is_no_obstacle(root: Path) -> None:
    headers_of(root).mkdir(parents=True)
    assert take_census(root) == take_census(root)


def test_census_without_an_image_leaves_the_memory_unchanged(root: Path, reading: list[str], tmp_path: Path) -> None:
    first = take_census(root)
    away = root.rename(tmp_path / "away")
    root.mkdir()
    with pytest.raises(InputError, match="it is empty"):
        take_census(root)
    root.rmdir()
    away.rename(root)
    reading.clear()
    assert take_census(root) == first
    assert reading == ["broken.png"]
