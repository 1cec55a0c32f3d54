"""Vectors follow their folder, and only what has changed is embedded; stopped anywhere, the old ones stand."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli.api import EmbedSettings, SimilarSettings
from simclr_cli.commands.embed import embed
from simclr_cli.core import files
from simclr_cli.core.errors import InputError, Interrupted, RunError
from simclr_cli.core.events import Event, Note, Progress
from simclr_cli.core.files import NotWritten, write_json
from simclr_cli.core.locks import LOCK, Busy, locked
from simclr_cli.search import library as indexing
from simclr_cli.search.library import choose_run, open_index
from simclr_cli.store.index import Index, read_index
from simclr_cli.store.run import RunFolder, find_run
from simclr_cli.store.vectors import read_vectors

ANY = Path("dots/0000.png")


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folder and name of the files that are embedded from now on."""
    names: list[str] = []
    real = indexing.embed_files

    def listen(ready: Any, paths: Any, **values: Any) -> Any:
        names.extend("/".join(path.parts[-2:]) for path in paths)
        return real(ready, paths, **values)

    monkeypatch.setattr(indexing, "embed_files", listen)
    return names


def opened(own: Any, report: Callable[[Event], None] = lambda _: None, **values: Any) -> Index:
    return open_index(choose_run(SimilarSettings(queries=(ANY,), runs=own.runs, **values)), report)[0]


def check(own: Any, index: Index, tmp_path: Path) -> None:
    """The index is, row by row, what `embed` makes of the folder as it is now."""
    made = embed(EmbedSettings(images=own.images, runs=own.runs, out=tmp_path / "all.npy"))
    vectors = read_vectors(Path(made.out), model_checksum=made.model_checksum)
    assert sorted(index.names) == sorted(vectors.rows)
    by_name = dict(zip(index.names, index.h[:], strict=True))
    np.testing.assert_allclose(np.stack([by_name[name] for name in vectors.rows]), vectors.values, atol=1e-5)
    for place, name in enumerate(index.names):
        status = (own.images / name).stat()
        assert index.images[["bytes", "modified_ns"]][place].tolist() == (status.st_size, status.st_mtime_ns)
        assert index.place(name) == place and index.name(place) == name


CHANGES: dict[str, tuple[Callable[[Path], object], int]] = {  # what is done, and how many images are embedded for it
    "added": (lambda pics: draw_at(pics / "bricks" / "new.png"), 1),
    "a copy added": (lambda pics: shutil.copy(pics / "dots" / "0000.png", pics / "bricks" / "new.png"), 0),
    "removed": (lambda pics: (pics / "bricks" / "0000.png").unlink(), 0),
    "changed": (lambda pics: draw_at(pics / "bricks" / "0000.png"), 1),
    "renamed": (lambda pics: (pics / "bricks" / "0000.png").rename(pics / "bricks" / "renamed.png"), 0),
    "a folder moved": (lambda pics: (pics / "bricks").rename(pics / "walls"), 0),
    "touched": (lambda pics: os.utime(pics / "bricks" / "0000.png", ns=(1, 1)), 0),
    "two names exchanged": (lambda pics: exchange(pics / "bricks" / "0000.png", pics / "dots" / "0000.png"), 0),
}


def draw_at(path: Path, seed: int = 99) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    with path.open("wb") as stream:
        Image.fromarray(pixels).save(stream, "PNG")


def exchange(a: Path, b: Path) -> None:
    a.rename(a.with_name("between"))
    b.rename(a)
    a.with_name("between").rename(b)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_costs_only_itself(own: Any, tmp_path: Path, embedded: list[str], change: str) -> None:
    opened(own)
    assert len(embedded) == 48
    do, cost = CHANGES[change]
    do(own.images)
    said: list[Event] = []
    index = opened(own, said.append)
    assert len(embedded) == 48 + cost
    assert any(isinstance(event, Note) and "The images have changed" in event.text for event in said)
    check(own, index, tmp_path)
    opened(own)
    assert len(embedded) == 48 + cost


def test_many_changes_one_after_another(own: Any, tmp_path: Path, embedded: list[str]) -> None:
    rng = np.random.default_rng(0)
    opened(own)
    for turn in range(4):
        files = sorted(path for path in own.images.rglob("*.*"))
        for path in rng.choice(np.array(files, dtype=object), 6, replace=False):
            path.unlink() if rng.random() < 0.5 else path.rename(path.with_name(f"{turn}-{path.name}"))
        shutil.copy(next(own.images.rglob("*.png")), own.images / f"more-{turn}.png")
        index = opened(own)
    check(own, index, tmp_path)
    assert len(embedded) == 48 and len(list(own.run.vectors.iterdir())) == 4


def test_broken_images_are_tried_once(own: Any, embedded: list[str]) -> None:
    (own.images / "bricks" / "empty.png").write_bytes(b"")
    cut = (own.images / "dots" / "0001.jpg").read_bytes()
    (own.images / "dots" / "0001.jpg").write_bytes(cut[: len(cut) * 3 // 4])
    assert len(opened(own)) == 47
    assert [entry.name for entry in opened(own).skipped] == ["dots/0001.jpg"]
    assert embedded.count("dots/0001.jpg") == 1
    (own.images / "dots" / "0001.jpg").write_bytes(cut)
    assert len(opened(own)) == 48 and opened(own).skipped == ()


def test_a_stopped_update_leaves_the_old_vectors_and_keeps_what_it_made(
    own: Any, tmp_path: Path, embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the third part of four: two parts are known the next time, and none is searched before the end."""
    ready_checksum = opened(own).model_checksum
    old = sorted(opened(own).names)
    for i in range(8):
        draw_at(own.images / f"new-{i}.png", i)
    monkeypatch.setattr(indexing, "KEPT_EVERY", 2)

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "embedding" and len(embedded) == 48 + 6:
            raise Interrupted("Stopped.", "Go on.")

    with pytest.raises(Interrupted):
        opened(own, stop)
    stopped = read_index(own.run.vectors, model_checksum=ready_checksum)
    assert stopped is not None and sorted(stopped.names) == old and len(stopped.known) == len(old) + 4
    assert sorted(opened(own, no_update=True).names) == old
    index = opened(own)
    assert len(embedded) == 48 + 6 + 4 and len(index) == 56 and not index.is_unfinished
    check(own, index, tmp_path)


def test_all_gone_is_an_error_and_the_old_vectors_stand(own: Any) -> None:
    old = opened(own)
    for path in own.images.rglob("*.*"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError):
        opened(own)
    again = read_index(own.run.vectors, model_checksum=old.model_checksum)
    assert again is not None and again.names == old.names


@pytest.mark.parametrize(
    "damage", ["index cut", "index gone", "rows cut", "rows gone", "a bit of a row", "no parts", "no similarity"]
)
def test_damaged_vectors_are_made_again(own: Any, tmp_path: Path, damage: str) -> None:
    opened(own)
    folder = own.run.vectors
    (rows,) = folder.glob("embeddings-*")
    if damage == "index cut":
        (folder / "index.json").write_text("{")
    elif damage == "index gone":
        (folder / "index.json").unlink()
    elif damage == "rows cut":
        rows.write_bytes(rows.read_bytes()[:3000])
    elif damage == "rows gone":
        rows.unlink()
    elif damage == "a bit of a row":
        whole = bytearray(rows.read_bytes())
        whole[5000] ^= 1
        rows.write_bytes(whole)
    else:
        content = json.loads((folder / "index.json").read_text())
        content.update({"parts": 3} if damage == "no parts" else {"similarity": {"images": 3, "random": [1]}})
        (folder / "index.json").write_text(json.dumps(content))
    check(own, opened(own), tmp_path)


def test_vectors_of_a_newer_version_are_left_alone(own: Any, checksum: Callable[..., Any]) -> None:
    opened(own)
    file = own.run.vectors / "index.json"
    write_json(file, {**json.loads(file.read_text()), "format_version": 99})
    before = checksum(own.run.vectors)
    with pytest.raises(RunError, match="newer format") as caught:
        opened(own)
    assert "pipx upgrade" in caught.value.remedy and checksum(own.run.vectors) == before


def test_what_similarities_mean_is_kept_until_the_folder_is_another(own: Any) -> None:
    settings = SimilarSettings(queries=(ANY,), runs=own.runs)
    first = open_index(choose_run(settings), lambda _: None)[1]
    shutil.copy(own.images / "dots" / "0000.png", own.images / "one-more.png")
    assert open_index(choose_run(settings), lambda _: None)[1].random.tolist() == first.random.tolist()
    shutil.rmtree(own.images / "bricks")
    shutil.rmtree(own.images / "zigzag")
    now = open_index(choose_run(settings), lambda _: None)[1]
    assert now.random_pairs < first.random_pairs
    index = own.run.vectors / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "similarity": None}))
    again = open_index(choose_run(settings), lambda _: None)[1]
    assert again.views.tolist() == now.views.tolist()  # by the run's seed


def test_the_run_is_found_once_though_another_finishes_meanwhile(own: Any) -> None:
    chosen = choose_run(SimilarSettings(queries=(ANY,), runs=own.runs))
    newer = RunFolder(Path(shutil.copytree(own.run.path, own.runs / "newer")))
    os.utime(newer.weights_file, ns=(2**62, 2**62))
    assert find_run(None, own.runs) == newer
    assert open_index(chosen, lambda _: None)[0].folder == chosen.run.vectors == own.run.vectors


def test_vectors_that_were_never_finished_do_not_serve(
    own: Any, embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "KEPT_EVERY", 20)

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "embedding" and len(embedded) > 20:
            raise Interrupted("Stopped.", "Go on.")

    with pytest.raises(Interrupted):
        opened(own, stop)
    with pytest.raises(RunError, match="never finished"):
        opened(own, no_update=True)
    assert len(opened(own)) == 48 and len(embedded) == 40 + 28  # the first 20 are known


def test_as_is_says_what_is_wrong_with_the_vectors(own: Any) -> None:
    opened(own)
    (own.run.vectors / "index.json").write_text("{")
    with pytest.raises(RunError, match=r"cannot be read|does not describe") as caught:
        opened(own, no_update=True)
    assert "--no-update" in caught.value.remedy


def test_what_is_left_out_is_said(own: Any) -> None:
    (own.images / "bricks" / "empty.png").write_bytes(b"")
    said: list[Event] = []
    opened(own, said.append)
    assert any(
        isinstance(e, Note) and e.warning and "1 file, the first of them bricks/empty.png" in e.text for e in said
    )


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be written below a folder; rights do not bind root, who may run the tests."""
    make = files.ensure_folder

    def skipped(path: Path) -> None:
        if path.is_relative_to(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        make(path)

    monkeypatch.setattr(files, "ensure_folder", skipped)


def warnings_of(own: Any, **values: Any) -> tuple[Index, list[str]]:
    said: list[Event] = []
    index = opened(own, said.append, **values)
    return index, [event.text for event in said if isinstance(event, Note) and event.warning]


def test_a_run_that_may_only_be_read_is_searched_as_it_stands(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = opened(own)
    read_only(own.run.path, monkeypatch)
    index, warnings = warnings_of(own)
    assert index.names == old.names and warnings == []
    draw_at(own.images / "bricks" / "new.png")
    index, warnings = warnings_of(own)
    assert index.names == old.names and any("vectors made before are searched" in text for text in warnings)


def test_without_vectors_it_cannot_be_searched(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read_only(own.run.path, monkeypatch)
    with pytest.raises(NotWritten, match="Permission denied"):
        opened(own)


def test_while_another_process_embeds_the_vectors_made_before_are_searched(
    own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(indexing, "WAIT_SECONDS", 0.2)
    with locked(own.run.vectors, lambda _: None):
        with pytest.raises(Busy):
            opened(own)  # there are none
    old = opened(own)
    draw_at(own.images / "bricks" / "new.png")
    with locked(own.run.vectors, lambda _: None):
        index, warnings = warnings_of(own)
        assert index.names == old.names and "Another process writes in" in warnings[0]
    check(own, opened(own), tmp_path)


def test_two_at_once_make_one_index(own: Any, tmp_path: Path) -> None:
    """The second waits for the first, and finds its work done."""
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda _: opened(own), range(2))
    assert one.names == other.names
    check(own, opened(own), tmp_path)
    assert len(list(own.run.vectors.glob("embeddings-*"))) == 1 and not (own.run.vectors / LOCK).exists()


def test_no_lock_where_nothing_has_changed(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(own)
    monkeypatch.setattr(indexing, "locked", None)
    opened(own)


def test_a_right_taken_away_is_not_remembered_of_a_image(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(own)
    draw_at(own.images / "new.png", 1)
    sound = Path.open

    def closed(path: Path, *arguments: Any, **values: Any) -> Any:
        if path.name == "new.png":
            raise PermissionError(13, "Permission denied", str(path))
        return sound(path, *arguments, **values)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", closed)
        assert [entry.reason for entry in opened(own).skipped] == ["permission denied"]
    index = opened(own)  # its size and time of change are the same
    assert len(index) == 49 and index.skipped == ()
