"""Locations of caches: found, listed, and cleared of what simclr made and of nothing else."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli.api import FolderCache
from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import silent
from simclr_cli.core.files import TEMPORARY_PREFIX, append_bytes, write_json
from simclr_cli.core.locks import LOCK_FILE, FolderLockedError, lock_folder
from simclr_cli.images import cache_location as caches
from simclr_cli.images.cache import decode_images
from simclr_cli.images.cache_location import cache_root, clear_cache, list_caches, locate_cache, locate_embeddings
from simclr_cli.images.scan import take_census


def images(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def use(folder: Path, *sizes: int) -> None:
    """Take its census, and decode its images for these training sizes."""
    census = take_census(folder)
    for size in sizes:
        decode_images(census, size, workers=2, progress=lambda *_: None)


def cache_for(folder: Path) -> FolderCache:
    return next(cache for cache in list_caches() if cache.folder == str(folder.resolve()))


def seconds(cache: FolderCache) -> float:
    """Return the time of its last use, in seconds since 1970."""
    return datetime.fromisoformat(cache.used).timestamp()


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def used(folder: Path, when: float) -> None:
    """Set the time of the last use of its cache."""
    for path in files_below(locate_cache(folder)):
        os.utime(path, (when, when))


# Location


@pytest.mark.skipif(os.name != "posix", reason="the names are those of POSIX")
def test_cache_root_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(caches.sys, "platform", "linux")
    assert cache_root() == Path(os.environ["SIMCLR_CACHE"])
    monkeypatch.delenv("SIMCLR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "somewhere"))
    assert cache_root() == tmp_path / "somewhere/simclr"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "x"))
    assert cache_root() == tmp_path / "x/.cache/simclr"
    monkeypatch.setattr(caches.sys, "platform", "darwin")
    assert cache_root() == tmp_path / "x/Library/Caches/simclr"
    monkeypatch.setattr(caches.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_root() == tmp_path / "local/simclr"
    assert caches.explain_temporary_cache() is None


@pytest.mark.skipif(os.name != "posix", reason="the names are those of POSIX")
@pytest.mark.parametrize("home", ["", "/", "none", "closed"])
def test_without_a_home_folder_the_cache_is_temporary(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str
) -> None:
    """HOME is empty or / in containers, or the user is unknown, or may not write there."""
    for name in ("SIMCLR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(caches.sys, "platform", "linux")
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path) if home == "closed" else home)
    if home == "none":
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    if home == "closed":
        monkeypatch.setattr(os, "access", lambda *_: False)
    assert cache_root().parent == tmp_path and cache_root().name.startswith("simclr-")
    assert "SIMCLR_CACHE" in (caches.explain_temporary_cache() or "")
    cache_root().symlink_to(tmp_path / "x")
    monkeypatch.setattr(caches, "_is_own", lambda _: False)  # a stranger was there first
    with pytest.raises(MachineError) as caught:
        cache_root()
    assert "SIMCLR_CACHE" in caught.value.remedy


@pytest.mark.skipif(os.name != "posix", reason="the modes are those of POSIX")
def test_caches_are_for_this_user_only(tmp_path: Path) -> None:
    """Those of an earlier version too; a folder or file outside is as the umask says."""
    folder = images(tmp_path / "a")
    locate_cache(folder).mkdir(parents=True)
    use(folder, 8)
    embeddings = locate_embeddings(folder, "a" * 64)
    append_bytes(embeddings / "embeddings-1.bin", b"x", 0)
    paths = [locate_cache(folder), *locate_cache(folder).rglob("*")]
    assert {path.name for path in paths} >= {"12", "headers.json", "embeddings-1.bin"}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o600}
    (tmp_path / "sample").touch()
    write_json(tmp_path / "vectors.json", 1)
    assert (tmp_path / "vectors.json").stat().st_mode == (tmp_path / "sample").stat().st_mode


def test_the_cache_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = images(tmp_path / "a")
    use(folder)
    (strangers,) = cache_root().iterdir()
    before = (strangers / "headers.json").stat()
    monkeypatch.setattr(caches, "_is_own", lambda path: path != strangers)
    use(folder)
    assert locate_cache(folder) != strangers and (locate_cache(folder) / "headers.json").is_file()
    assert (strangers / "headers.json").stat() == before
    assert [cache.path for cache in list_caches()] == [str(locate_cache(folder))]
    monkeypatch.setattr(caches, "_is_own", lambda _: False)
    with pytest.raises(MachineError, match="another user's"):
        take_census(folder)
    assert list_caches() == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner there")
def test_on_a_share_where_all_files_are_of_one_user_the_cache_is_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS with all_squash or root_squash: a new file has another owner than the user who makes it."""
    folder = images(tmp_path / "a")
    user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: user)
    use(folder)
    use(folder)
    assert (
        [cache.path for cache in list_caches()] == [str(locate_cache(folder))] == list(map(str, cache_root().iterdir()))
    )


def test_empty_variable_does_not_mean_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMCLR_CACHE", "")
    assert cache_root().is_absolute()


@pytest.mark.skipif(os.name != "posix", reason="on Windows links need a privilege")
def test_folder_has_one_cache_by_whatever_path_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = images(tmp_path / "real")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    ways = [folder, tmp_path / "link", Path("real"), tmp_path / "real/../real", Path("./link")]
    assert len({locate_cache(way) for way in ways}) == 1
    assert locate_cache(folder).parent == cache_root()
    for way in ways:
        use(way, 8)
    assert [cache.folder for cache in list_caches()] == [str(folder.resolve())]


def test_other_folders_have_other_caches(tmp_path: Path) -> None:
    names = ["a", "b", "a/b", "ab", "A", "\udcff", "a\nb"]
    assert len({locate_cache(tmp_path / name) for name in names}) == len(names)


def test_embeddings_of_a_folder_and_an_encoder_have_one_place_in_its_cache(tmp_path: Path) -> None:
    checksums = [character * 64 for character in "ab"]
    places = {locate_embeddings(tmp_path / name, checksum) for name in ("one", "two") for checksum in checksums}
    assert len(places) == 4
    assert {place.parent for place in places} == {locate_cache(tmp_path / name) for name in ("one", "two")}
    assert locate_embeddings(tmp_path / "two/../one", checksums[0]) == locate_embeddings(tmp_path / "one", checksums[0])


# Listed


def test_there_is_nothing_to_list_where_nothing_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_caches() == []
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "nowhere"))
    assert list_caches() == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "file"))
    assert list_caches() == []


def test_list_tells_what_a_census_and_decoding_left(tmp_path: Path) -> None:
    scanned, trained_on = images(tmp_path / "scanned"), images(tmp_path / "trained on")
    use(scanned)
    use(trained_on, 10, 8)
    assert len(list_caches()) == 2
    for folder, sides in ((scanned, ()), (trained_on, (12, 15))):
        cache = cache_for(folder)
        assert (Path(cache.path), cache.sides) == (locate_cache(folder), sides)
        assert cache.bytes == sum(path.stat().st_size for path in files_below(Path(cache.path)))
        assert seconds(cache) == int(max(path.stat().st_mtime for path in files_below(Path(cache.path))))
    assert cache_for(trained_on).bytes > 3 * 3 * (12 * 12 + 15 * 15)


def test_what_was_used_last_comes_first(tmp_path: Path) -> None:
    folders = [images(tmp_path / name) for name in "abc"]
    for folder, when in zip(folders, (2_000_000, 3_000_000, 1_000_000), strict=True):
        use(folder, 8)
        used(folder, when)
    assert [(Path(cache.folder).name, seconds(cache)) for cache in list_caches()] == [
        ("b", 3_000_000), ("a", 2_000_000), ("c", 1_000_000),
    ]  # fmt: skip
    use(folders[2], 8)  # decodes nothing, and yet it is used
    assert [Path(cache.folder).name for cache in list_caches()] == ["c", "b", "a"]


def test_census_from_memory_counts_as_use(tmp_path: Path) -> None:
    folder = images(tmp_path / "a")
    use(folder)
    used(folder, 1_000_000)
    use(folder)
    assert seconds(cache_for(folder)) > 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_any_name_of_a_folder_comes_back(tmp_path: Path) -> None:
    folder = images(tmp_path / os.fsdecode(b"caf\xe9\n\xff"))
    use(folder, 8)
    assert [os.fsencode(cache.folder) for cache in list_caches()] == [os.fsencode(folder)]


DAMAGED = ["", "{", "null", "[]", "3", '{"version": 1}', "\0"]


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_headers_hide_their_cache_and_no_other_until_the_next_census(tmp_path: Path, text: str) -> None:
    damaged, whole = images(tmp_path / "damaged"), images(tmp_path / "whole")
    use(damaged, 8)
    use(whole, 8)
    (locate_cache(damaged) / "headers.json").write_text(text)
    assert [cache.folder for cache in list_caches()] == [str(whole)]
    use(damaged)
    assert len(list_caches()) == 2


@pytest.mark.skipif(os.name != "posix", reason="pipes are those of POSIX")
def test_a_pipe_among_the_files_of_a_cache_is_replaced(tmp_path: Path) -> None:
    folder = images(tmp_path / "a")
    use(folder)
    headers = locate_cache(folder) / "headers.json"
    headers.unlink()
    os.mkfifo(headers)
    assert list_caches() == []
    use(folder)
    assert headers.is_file() and len(list_caches()) == 1


def test_what_is_no_cache_is_not_listed(tmp_path: Path) -> None:
    (cache_root() / "other").mkdir(parents=True)
    (cache_root() / "other/notes.txt").write_text("mine")
    (cache_root() / "headers.json").write_text("{}")
    (cache_root() / "odd/headers.json").mkdir(parents=True)
    use(images(tmp_path / "a"), 8)
    assert len(list_caches()) == 1


def test_strangers_folder_within_hides_nothing(tmp_path: Path) -> None:
    use(images(tmp_path / "a"), 8)
    (locate_cache(tmp_path / "a") / "notes").mkdir()
    (locate_cache(tmp_path / "a") / "notes/index.json").write_text("{}")
    assert [cache.sides for cache in list_caches()] == [(12,)]


# Cleared


def test_cleared_cache_is_gone_and_others_are_not(tmp_path: Path) -> None:
    folders = [images(tmp_path / name) for name in "abc"]
    for folder in folders:
        use(folder, 8, 10)
    (locate_cache(folders[1]) / f"{TEMPORARY_PREFIX}1-0").write_bytes(b"left by a crash")
    (locate_cache(folders[1]) / f"12/{TEMPORARY_PREFIX}1-0").write_bytes(b"left by a crash")
    before = {folder: below(locate_cache(folder)) for folder in folders}
    clear_cache(locate_cache(folders[1]))
    assert not locate_cache(folders[1]).exists()
    assert {Path(cache.folder) for cache in list_caches()} == {folders[0], folders[2]}
    for folder in (folders[0], folders[2]):
        assert below(locate_cache(folder)) == before[folder]
    assert len(files_below(tmp_path / "b")) == 3  # the images themselves


def test_what_simclr_did_not_make_survives_with_its_folder(tmp_path: Path) -> None:
    folder = images(tmp_path / "a")
    use(folder, 8, 10)
    cache = locate_cache(folder)
    for name in (
        "notes.txt",
        "12/notes.txt",
        "12/pixels.u8",
        "mine/deep/notes.txt",
        "mine/headers.json",
        "pixels-1.u8",
    ):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("mine")
    (cache_root() / "notes.txt").write_text("mine")
    clear_cache(locate_cache(folder))
    assert below(cache_root()) == sorted(
        [cache.name, "notes.txt"]
        + [f"{cache.name}/{name}" for name in (
            "12", "12/notes.txt", "12/pixels.u8", "mine", "mine/deep", "mine/deep/notes.txt", "mine/headers.json",
            "notes.txt", "pixels-1.u8",
        )]
    )  # fmt: skip
    assert list_caches() == []


@pytest.mark.skipif(os.name != "posix", reason="links are those of POSIX")
def test_what_a_link_leads_to_survives(tmp_path: Path) -> None:
    folder = images(tmp_path / "a")
    use(folder, 8)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/notes.txt").write_text("mine")
    (locate_cache(folder) / "link").symlink_to(tmp_path / "outside")
    clear_cache(locate_cache(folder))
    assert below(locate_cache(folder)) == ["link"]
    assert below(tmp_path / "outside") == ["notes.txt"]


def test_cleared_cache_is_made_again(tmp_path: Path) -> None:
    folder = images(tmp_path / "a")
    use(folder, 8)
    before = [(cache.folder, cache.sides, cache.bytes) for cache in list_caches()]
    clear_cache(locate_cache(folder))
    use(folder, 8)
    assert [(cache.folder, cache.sides, cache.bytes) for cache in list_caches()] == before


@pytest.mark.skipif(os.name != "posix", reason="on POSIX what is unlinked stays until it is unmapped")
def test_open_cache_stays_readable_when_it_is_cleared(tmp_path: Path) -> None:
    folder = images(tmp_path / "a")
    decoded = decode_images(take_census(folder), 8, workers=2, progress=lambda *_: None)
    before = decoded.read(np.arange(3)).copy()
    clear_cache(locate_cache(folder))
    assert (decoded.read(np.arange(3)) == before).all()


def test_embeddings_that_are_being_updated_are_not_cleared(tmp_path: Path) -> None:
    folder = images(tmp_path / "a")
    use(folder, 8)
    embeddings = locate_embeddings(folder, "a" * 64)
    with lock_folder(embeddings, silent):
        (embeddings / "index.json").write_text("{}")
        before = below(cache_root())
        with pytest.raises(FolderLockedError):
            clear_cache(locate_cache(folder))
        assert below(cache_root()) == before
    (embeddings / LOCK_FILE).touch()  # left by a killed process
    clear_cache(locate_cache(folder))
    assert below(cache_root()) == []


def refusing(*_: Any, **__: Any) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("what", ["unlink", "iterdir"])
def test_cache_that_may_not_be_cleared_is_a_machine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = images(tmp_path / "a")
    use(folder, 8)
    cache = locate_cache(folder)
    monkeypatch.setattr(Path, what, refusing)
    with pytest.raises(MachineError, match="Permission denied") as caught:
        clear_cache(cache)
    assert str(cache) in caught.value.problem and caught.value.exit_code == 5


def test_folder_that_may_not_be_removed_is_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = images(tmp_path / "a")
    use(folder, 8)
    cache = locate_cache(folder)
    monkeypatch.setattr(Path, "rmdir", refusing)
    clear_cache(cache)
    assert files_below(cache) == [] and list_caches() == []
