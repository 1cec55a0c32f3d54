"""Updates of the index: only changed images are embedded, and an interrupted update leaves the old index valid."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from simclr_cli import api
from simclr_cli.api import EmbedSettings, SimilarSettings
from simclr_cli.commands.embed import embed
from simclr_cli.core import files
from simclr_cli.core.errors import InputError, Interrupted, RunError
from simclr_cli.core.events import Event, Note, Progress, silent
from simclr_cli.core.files import WriteError, write_json
from simclr_cli.core.locks import LOCK_FILE, lock_folder
from simclr_cli.images.cache_location import list_caches, locate_embeddings
from simclr_cli.search import library as module
from simclr_cli.search import update
from simclr_cli.search.library import Library, open_index, open_library
from simclr_cli.store.index import Index
from simclr_cli.store.index_files import read_index
from simclr_cli.store.run import RunFolder, find_run
from simclr_cli.store.vectors import read_vectors

ANY = Path("dots/0000.png")


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that records the folder and name of every file embedded from now on."""
    names: list[str] = []
    real = module.embed_files

    def record(loaded: Any, paths: Any, bits: Any, **values: Any) -> Any:
        names.extend("/".join(path.parts[-2:]) for path in paths)
        return real(loaded, paths, bits, **values)

    monkeypatch.setattr(module, "embed_files", record)
    return names


def open_updated(own: Any, report: Callable[[Event], None] = silent, **values: Any) -> Index:
    return open_index(choose_library(own, **values), report)[0]


def choose_library(own: Any, report: Callable[[Event], None] = silent, **values: Any) -> Library:
    return open_library(SimilarSettings(queries=(ANY,), runs=own.runs, **values), report)


def check(own: Any, index: Index, tmp_path: Path) -> None:
    """Compare the index, row by row, with the result of `embed` for the folder as it is now."""
    made = embed(EmbedSettings(images=own.images, runs=own.runs, out=tmp_path / "all.npy"))
    vectors = read_vectors(Path(made.out), model_checksum=made.model_checksum)
    assert sorted(index.names) == sorted(vectors.rows)
    by_name = dict(zip(index.names, index.h[:], strict=True))
    np.testing.assert_allclose(np.stack([by_name[name] for name in vectors.rows]), vectors.values, atol=1e-5)
    for place, name in enumerate(index.names):
        status = (own.images / name).stat()
        assert index.images[["bytes", "modified_ns"]][place].tolist() == (status.st_size, status.st_mtime_ns)
        assert index.find_place(name) == place and index.get_name(place) == name


CHANGES: dict[str, tuple[Callable[[Path], object], int]] = {  # each with the number of images to embed
    "added": (lambda pics: draw_at(pics / "bricks" / "new.png"), 1),
    "a duplicate added": (lambda pics: shutil.copy(pics / "dots" / "0000.png", pics / "bricks" / "new.png"), 0),
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
def test_a_change_embeds_only_new_content(own: Any, tmp_path: Path, embedded: list[str], change: str) -> None:
    open_updated(own)
    assert len(embedded) == 48
    do, cost = CHANGES[change]
    do(own.images)
    said: list[Event] = []
    index = open_updated(own, said.append)
    assert len(embedded) == 48 + cost
    assert any(isinstance(event, Note) and "The images have changed" in event.text for event in said)
    check(own, index, tmp_path)
    open_updated(own)
    assert len(embedded) == 48 + cost


def test_many_changes_one_after_another(own: Any, tmp_path: Path, embedded: list[str]) -> None:
    rng = np.random.default_rng(0)
    open_updated(own)
    for turn in range(4):
        files = sorted(path for path in own.images.rglob("*.*"))
        for path in rng.choice(np.array(files, dtype=object), 6, replace=False):
            path.unlink() if rng.random() < 0.5 else path.rename(path.with_name(f"{turn}-{path.name}"))
        shutil.copy(next(own.images.rglob("*.png")), own.images / f"more-{turn}.png")
        index = open_updated(own)
    check(own, index, tmp_path)
    assert len(embedded) == 48 and len(list(own.run.vectors_folder.iterdir())) == 4


def test_damaged_images_are_tried_once(own: Any, embedded: list[str]) -> None:
    (own.images / "bricks" / "empty.png").write_bytes(b"")
    cut = (own.images / "dots" / "0001.jpg").read_bytes()
    (own.images / "dots" / "0001.jpg").write_bytes(cut[: len(cut) * 3 // 4])
    assert len(open_updated(own)) == 47
    assert [entry.name for entry in open_updated(own).skipped] == ["dots/0001.jpg"]
    assert embedded.count("dots/0001.jpg") == 1
    (own.images / "dots" / "0001.jpg").write_bytes(cut)
    assert len(open_updated(own)) == 48 and open_updated(own).skipped == ()


def test_an_interrupted_update_leaves_the_old_index_and_is_resumed(
    own: Any, tmp_path: Path, embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the third part of four: the next update reuses two parts; none is searched before it ends."""
    model_checksum = open_updated(own).model_checksum
    old = sorted(open_updated(own).names)
    for i in range(8):
        draw_at(own.images / f"new-{i}.png", i)
    monkeypatch.setattr(update, "IMAGES_PER_SAVE", 2)

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "embedding" and len(embedded) == 48 + 6:
            raise Interrupted("Stopped.", "Go on.")

    with pytest.raises(Interrupted):
        open_updated(own, stop)
    stopped = read_index(own.run.vectors_folder, model_checksum=model_checksum)
    assert stopped is not None and sorted(stopped.names) == old and len(stopped.include_unfinished()) == len(old) + 4
    assert sorted(open_updated(own, no_update=True).names) == old
    index = open_updated(own)
    assert len(embedded) == 48 + 6 + 4 and len(index) == 56 and not index.is_unfinished
    check(own, index, tmp_path)


def test_no_image_left_is_an_error_and_the_old_index_stays(own: Any) -> None:
    old = open_updated(own)
    for path in own.images.rglob("*.*"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError):
        open_updated(own)
    again = read_index(own.run.vectors_folder, model_checksum=old.model_checksum)
    assert again is not None and again.names == old.names


@pytest.mark.parametrize(
    "damage", ["index cut", "index gone", "rows cut", "rows gone", "a bit of a row", "no parts", "no similarity"]
)
def test_a_damaged_index_is_made_again(own: Any, tmp_path: Path, damage: str) -> None:
    open_updated(own)
    folder = own.run.vectors_folder
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
    check(own, open_updated(own), tmp_path)


def test_an_index_of_a_newer_version_is_not_changed(own: Any, checksum: Callable[..., Any]) -> None:
    open_updated(own)
    file = own.run.vectors_folder / "index.json"
    write_json(file, {**json.loads(file.read_text()), "format_version": 99})
    before = checksum(own.run.vectors_folder)
    with pytest.raises(RunError, match="newer format") as caught:
        open_updated(own)
    assert "pipx upgrade" in caught.value.remedy and checksum(own.run.vectors_folder) == before


def test_the_similarity_scale_is_kept_until_the_folder_changes_much(own: Any) -> None:
    library = choose_library(own)
    first = open_index(library, silent)[1]
    shutil.copy(own.images / "dots" / "0000.png", own.images / "one-more.png")
    assert open_index(library, silent)[1].random.tolist() == first.random.tolist()
    shutil.rmtree(own.images / "bricks")
    shutil.rmtree(own.images / "zigzag")
    now = open_index(library, silent)[1]
    assert now.random_pairs < first.random_pairs
    index = own.run.vectors_folder / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "similarity": None}))
    again = open_index(library, silent)[1]
    assert again.views.tolist() == now.views.tolist()  # by the run's seed


def test_the_run_is_resolved_once(own: Any) -> None:
    chosen = choose_library(own)
    newer = RunFolder(Path(shutil.copytree(own.run.path, own.runs / "newer")))
    os.utime(newer.weights_file, ns=(2**62, 2**62))
    assert find_run(None, own.runs) == newer
    assert open_index(chosen, silent)[0].folder == chosen.folder == own.run.vectors_folder


# Which encoder, and where its index is


def test_the_index_of_a_runs_own_images_is_in_the_run(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By any path to the folder, and whether or not the run is named."""
    (tmp_path / "link").symlink_to(own.images)
    monkeypatch.chdir(own.images.parent)
    for values in (
        {}, {"run": own.name}, {"encoder": own.name}, {"encoder": str(own.run.path)}, {"images": own.images},
        {"images": tmp_path / "link"}, {"images": Path("pics")}, {"images": own.images, "image_size": 40},
    ):  # fmt: skip
        library = choose_library(own, **values)
        assert (library.folder, library.loaded.run) == (own.run.vectors_folder, own.run)
        assert library.pages_folder == own.run.pages_folder
    open_updated(own, images=tmp_path / "link")
    assert own.run.vectors_folder.is_dir() and [cache.encoders for cache in list_caches()] == [0]


def test_a_runs_encoder_on_another_folder_keeps_its_embeddings_in_the_cache(
    own: Any, tmp_path: Path, embedded: list[str], checksum: Callable[..., Any]
) -> None:
    other = Path(shutil.copytree(own.images / "dots", tmp_path / "other"))
    before, chosen = checksum(own.run.path), {"images": other, "run": own.name}
    library = choose_library(own, **chosen)
    assert library.folder == locate_embeddings(other, own.result.model_checksum)
    assert library.pages_folder == library.folder / "pages" and library.loaded.run == own.run
    first = open_index(library, silent)[0]
    assert first.root == str(other) and len(embedded) == len(first) == len(list(other.iterdir()))
    assert checksum(own.run.path) == before and not own.run.vectors_folder.exists()
    again = open_updated(own, **chosen)
    assert again.names == first.names and len(embedded) == len(first)
    draw_at(other / "new.png")
    assert len(open_updated(own, **chosen)) == len(first) + 1 == len(embedded)
    assert len(open_updated(own)) == 48 and len(embedded) == len(first) + 1 + 48  # its own images: in the run
    assert own.run.vectors_folder.is_dir()


def test_a_runs_encoder_at_another_size_has_an_index_of_its_own(own: Any) -> None:
    library = choose_library(own, image_size=64)
    assert library.folder == locate_embeddings(own.images, library.loaded.checksum) != own.run.vectors_folder
    assert library.loaded.checksum != own.result.model_checksum
    assert len(open_index(library, silent)[0]) == 48 and not own.run.vectors_folder.exists()


def test_embeddings_in_the_cache_are_found_again_by_folder_and_encoder(
    own: Any, tmp_path: Path, embedded: list[str]
) -> None:
    """Another encoder, another seed of random weights or another folder has an index of its own."""
    other = Path(shutil.copytree(own.images / "dots", tmp_path / "other"))
    dots, tiny = len(list(other.iterdir())), {"image_size": 40, "encoder": "random:tiny_resnet"}
    libraries: dict[str, tuple[dict[str, Any], int]] = {
        "one": ({"images": own.images, **tiny}, 48),
        "another seed": ({"images": own.images, **tiny, "seed": 1}, 48),
        "another size": ({"images": own.images, **tiny, "image_size": 48}, 48),
        "another folder": ({"images": other, **tiny}, dots),
    }
    indexes = {name: open_updated(own, **values) for name, (values, _) in libraries.items()}
    assert len(embedded) == sum(count for _, count in libraries.values())
    assert len({index.folder for index in indexes.values()}) == len(libraries)
    for name, (values, _) in libraries.items():
        again = open_updated(own, **values)
        assert again.folder == indexes[name].folder and again.h[:].tolist() == indexes[name].h[:].tolist()
        assert open_updated(own, **values, no_update=True).names == again.names
    assert len(embedded) == sum(count for _, count in libraries.values())
    assert not own.run.vectors_folder.exists()


def test_weights_are_the_same_encoder_by_any_name(own: Any, default_encoder: nn.Module, tmp_path: Path) -> None:
    save_file(default_encoder.state_dict(), tmp_path / "w.safetensors")
    names = "tiny_resnet.r160_in1k", "tiny_resnet", f"tiny_resnet={tmp_path / 'w.safetensors'}"
    values = {"images": own.images, "image_size": 40}
    assert len({choose_library(own, **values, encoder=name).folder for name in names}) == 1


@pytest.mark.usefixtures("default_encoder")
def test_without_a_named_encoder_a_folder_has_that_of_its_newest_run_or_else_the_default(
    own: Any, tmp_path: Path
) -> None:
    other, said = Path(shutil.copytree(own.images / "dots", tmp_path / "other")), []
    newer = Path(shutil.copytree(own.run.path, own.runs / "newer"))
    os.utime(newer / "encoder" / "model.safetensors", ns=(2**62, 2**62))
    assert choose_library(own, images=own.images, report=said.append).loaded.name == str(newer)
    assert said == []
    library = choose_library(own, images=other, report=said.append)
    assert (library.loaded.name, library.loaded.run) == ("tiny_resnet.r160_in1k", None)
    lack = f"because no run was trained on {other}."
    assert said == [Note(f"Encoder: tiny_resnet.r160_in1k at 40 px (small), {lack}")]
    assert library.folder == locate_embeddings(other, library.loaded.checksum)
    assert len(open_index(library, said.append)[0]) == len(list(other.iterdir()))
    assert Note(f"Searching {other} with tiny_resnet.r160_in1k.") in said


def test_a_folder_that_is_gone_is_searched_with_the_embeddings_in_the_cache(own: Any, tmp_path: Path) -> None:
    other = Path(shutil.copytree(own.images / "dots", tmp_path / "other"))
    library = choose_library(own, images=other, encoder="random:tiny_resnet", image_size=40)
    first = open_index(library, silent)[0]
    other.rename(tmp_path / "moved")
    said: list[Event] = []
    assert open_index(library, said.append)[0].names == first.names
    warning = next(event for event in said if isinstance(event, Note) and event.warning)
    assert warning.text == f"The images are no longer in {other}. The search uses the stored embeddings."


def test_an_incomplete_index_is_not_searched(own: Any, embedded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "IMAGES_PER_SAVE", 20)

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "embedding" and len(embedded) > 20:
            raise Interrupted("Stopped.", "Go on.")

    with pytest.raises(Interrupted):
        open_updated(own, stop)
    with pytest.raises(RunError, match="are incomplete"):
        open_updated(own, no_update=True)
    assert len(open_updated(own)) == 48 and len(embedded) == 40 + 28  # the first 20 are known


def test_no_update_reports_a_damaged_index(own: Any) -> None:
    open_updated(own)
    (own.run.vectors_folder / "index.json").write_text("{")
    with pytest.raises(RunError, match=r"cannot be read|not a valid index") as caught:
        open_updated(own, no_update=True)
    assert "--no-update" in caught.value.remedy


def test_skipped_files_are_reported(own: Any) -> None:
    (own.images / "bricks" / "empty.png").write_bytes(b"")
    said: list[Event] = []
    open_updated(own, said.append)
    assert any(
        isinstance(e, Note) and e.warning and "Skipped 1 file; the first is bricks/empty.png" in e.text for e in said
    )


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make writing below a folder fail; permissions do not bind root, who may run the tests."""
    make = files.ensure_folder

    def skipped(path: Path) -> None:
        if path.is_relative_to(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        make(path)

    monkeypatch.setattr(files, "ensure_folder", skipped)


def warnings_of(own: Any, **values: Any) -> tuple[Index, list[str]]:
    said: list[Event] = []
    index = open_updated(own, said.append, **values)
    texts = [event.text for event in said if isinstance(event, Note) and event.warning]
    return index, [text for text in texts if "Results may mean little" not in text]  # the run of the tests is short


def test_a_read_only_run_is_searched_with_its_stored_embeddings(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = open_updated(own)
    read_only(own.run.path, monkeypatch)
    index, warnings = warnings_of(own)
    assert index.names == old.names and warnings == []
    draw_at(own.images / "bricks" / "new.png")
    index, warnings = warnings_of(own)
    assert index.names == old.names and any("The search uses the stored embeddings" in text for text in warnings)


def test_a_read_only_run_without_embeddings_is_an_error(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read_only(own.run.path, monkeypatch)
    with pytest.raises(WriteError, match="Permission denied"):
        open_updated(own)


def test_while_another_process_updates_the_stored_embeddings_are_searched(
    own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.2)
    old = open_updated(own)
    draw_at(own.images / "bricks" / "new.png")
    with lock_folder(own.run.vectors_folder, lambda _: None):
        index, warnings = warnings_of(own)
        assert index.names == old.names and "Another process writes in" in warnings[0]
    check(own, open_updated(own), tmp_path)


def test_concurrent_first_searches_wait_for_one_update(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: list[str]
) -> None:
    """However long it takes, and with a word; then nothing is left to embed."""
    monkeypatch.setattr(module, "WAIT_SECONDS", 0)
    texts: list[str] = []
    waiting, finished = threading.Barrier(4), threading.Event()
    real = module.update_index

    def update_slowly(*arguments: Any) -> Index:
        if not finished.is_set():
            waiting.wait(60)  # until the other three are waiting
        finished.set()
        return real(*arguments)

    def record(event: Event) -> None:
        texts.append(str(event))
        if "waiting until it ends" in str(event):
            waiting.wait(60)

    monkeypatch.setattr(module, "update_index", update_slowly)
    with ThreadPoolExecutor(4) as threads:
        one, *others = threads.map(lambda _: open_updated(own, record), range(4))
    assert all(other.names == one.names for other in others) and len(embedded) == 48
    check(own, open_updated(own), tmp_path)
    assert (
        len(list(own.run.vectors_folder.glob("embeddings-*"))) == 1
        and not (own.run.vectors_folder / LOCK_FILE).exists()
    )


def test_no_lock_if_nothing_has_changed(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    open_updated(own)
    monkeypatch.setattr(module, "lock_folder", None)
    open_updated(own)


def test_embeddings_of_a_run_that_cannot_be_written_are_kept_in_the_cache(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = os.access
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode, **values: mode != os.W_OK and allowed(path, mode, **values))
        library = choose_library(own)
        assert library.folder == locate_embeddings(own.images, library.loaded.checksum)
        assert len(open_index(library, silent)[0]) == 48 and not own.run.vectors_folder.exists()
    open_updated(own)  # by someone who may write
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_, **__: False)
        assert choose_library(own).folder == own.run.vectors_folder


def test_a_missing_permission_is_not_stored(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    open_updated(own)
    draw_at(own.images / "new.png", 1)
    sound = Path.open

    def closed(path: Path, *arguments: Any, **values: Any) -> Any:
        if path.name == "new.png":
            raise PermissionError(13, "Permission denied", str(path))
        return sound(path, *arguments, **values)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", closed)
        assert [entry.reason for entry in open_updated(own).skipped] == ["permission denied"]
    index = open_updated(own)  # its size and time of change are the same
    assert len(index) == 49 and index.skipped == ()


@pytest.mark.parametrize("command", ["similar", "clusters", "outliers", "map", "duplicates"])
@pytest.mark.parametrize("state", ["unchanged", "learning"])
def test_results_of_a_poor_encoder_carry_a_caution_wherever_they_are_shown(
    own: Any, tmp_path: Path, command: str, state: str
) -> None:
    own.run.outcome_file.write_text(json.dumps({"state": state, "words": "", "kept": None}))
    events: list[Event] = []
    settings = getattr(api, f"{command.capitalize()}Settings")
    values = {"queries": (next(own.images.rglob("*.png")),)} if command == "similar" else {}
    run = getattr(importlib.import_module(f"simclr_cli.commands.{command}"), command)
    run(settings(runs=own.runs, out=tmp_path / "page.html", **values), report=events.append)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = ["Results may mean little" in page, any("mean little" in e.text for e in events if isinstance(e, Note))]
    assert shown == [state == "unchanged"] * 2


@pytest.mark.parametrize(
    "name", ["{}", "{}/encoder", "local-dir:{}/encoder", "local-dir:encoder", "{}/encoder-2-epochs"]
)
def test_embeddings_of_a_poor_encoder_carry_a_caution_by_whatever_name_it_is_used(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    own.run.outcome_file.write_text(json.dumps({"state": "unchanged", "words": "", "kept": None}))
    monkeypatch.chdir(own.run.path)
    if name.endswith("epochs"):
        own.run.archive_encoder(2)
    events: list[Event] = []
    settings = api.EmbedSettings(images=own.images, encoder=name.format(own.run.path), out=tmp_path / "h.npy")
    embed(settings, report=events.append)
    (caution,) = [event.text for event in events if isinstance(event, Note) and "mean little" in event.text]
    assert "the encoder of  is" not in caution
