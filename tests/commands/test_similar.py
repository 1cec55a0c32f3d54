"""The similar command: nearest neighbors as numpy finds them, in embeddings that are current and of the encoder."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr_cli.api import EmbedSettings, SimilarResult, SimilarSettings
from simclr_cli.commands import similar as similar_module
from simclr_cli.commands.embed import embed
from simclr_cli.commands.similar import similar
from simclr_cli.core.errors import InputError, MachineError, RunError, SettingsError
from simclr_cli.core.events import Event, Note
from simclr_cli.search import library as library_module


def find(trained: Any, *queries: Path, said: list[Event] | None = None, **values: Any) -> SimilarResult:
    report = [].append if said is None else said.append
    return similar(SimilarSettings(queries=queries, runs=trained.runs, **values), report=report)


def notes(said: list[Event]) -> str:
    return " ".join(event.text for event in said if isinstance(event, Note))


def center(h: np.ndarray) -> np.ndarray:
    """Scale rows to length 1, subtract their mean, and scale again, as the search does."""
    h = h.astype(np.float64) / np.linalg.norm(h, axis=1, keepdims=True)
    h -= h.mean(axis=0)
    return np.asarray(h / np.linalg.norm(h, axis=1, keepdims=True))


def test_neighbors_are_those_that_brute_force_finds(trained: Any, tmp_path: Path) -> None:
    made = embed(EmbedSettings(runs=trained.runs, out=tmp_path / "v.npy", raw=True))
    h = center(np.load(made.out))
    names = [path.relative_to(trained.images).as_posix() for path in trained.images.rglob("*.*")]
    names = sorted(names, key=os.fsencode)
    for row in (0, 20, 47):
        expected = [i for i in np.argsort(-(h @ h[row]), kind="stable") if i != row][:7]
        result = find(trained, trained.images / names[row], top=7)
        assert result.searched == 48 and result.queries[0].query == str(trained.images / names[row])
        assert (result.folder, result.encoder) == (str(trained.images), str(trained.run.path))
        hits = result.queries[0].neighbors
        assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
        np.testing.assert_allclose([hit.similarity for hit in hits], (h @ h[row])[expected], atol=1e-5)
        assert [hit.path for hit in hits] == [str(trained.images / names[i]) for i in expected]


def test_a_query_from_another_folder_excludes_no_image(trained: Any, tmp_path: Path) -> None:
    query = Path(shutil.copy(trained.images / "dots" / "0000.png", tmp_path / "q.png"))
    hits = find(trained, query, top=3).queries[0].neighbors
    assert hits[0].path == str(trained.images / "dots" / "0000.png")
    assert hits[0].similarity == pytest.approx(1, abs=1e-5)


def test_the_query_is_excluded_by_any_of_its_paths(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.images / "dots")
    (tmp_path / "link.png").symlink_to(trained.images / "dots" / "0000.png")
    for query in (Path("0000.png"), Path("../dots/0000.png"), tmp_path / "link.png"):
        hits = find(trained, query, top=48).queries[0].neighbors
        assert len(hits) == 47
        assert str(trained.images / "dots" / "0000.png") not in [hit.path for hit in hits]


def test_several_queries_and_a_folder_of_queries_keep_their_order(trained: Any, tmp_path: Path) -> None:
    one = trained.images / "zigzag" / "0000.png"
    result = find(trained, one, trained.images / "bricks", one, top=2)
    folder = sorted(str(path) for path in (trained.images / "bricks").iterdir())
    assert [query.query for query in result.queries] == [str(one), *folder, str(one)]
    assert {len(query.neighbors) for query in result.queries} == {2}


def test_a_folder_of_queries_may_hold_other_files(trained: Any, tmp_path: Path) -> None:
    shutil.copy(trained.images / "dots" / "0000.png", tmp_path / "ok.png")
    (tmp_path / "empty.png").write_bytes(b"")
    cut = (trained.images / "dots" / "0001.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(cut[: len(cut) * 3 // 4])
    result = find(trained, tmp_path)
    assert [query.query for query in result.queries] == [str(tmp_path / "ok.png")]
    assert sorted(entry.split(": ")[0] for entry in result.skipped) == [
        str(tmp_path / "cut.jpg"),
        str(tmp_path / "empty.png"),
    ]


def test_more_neighbors_than_there_are(trained: Any) -> None:
    hits = find(trained, trained.images / "dots" / "0000.png", top=1000).queries[0].neighbors
    assert len({hit.path for hit in hits}) == len(hits) == 47


def test_query_with_any_bytes_in_its_name(trained: Any, tmp_path: Path, draw: Callable[..., Any]) -> None:
    query = tmp_path / os.fsdecode(b"\xff\x1b[31m\n[bold].png")
    draw(query)
    assert find(trained, query).queries[0].query == str(query)


# Invalid queries


def test_invalid_queries_fail_before_any_work(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar_module, "open_index", lambda *_: pytest.fail("the index was opened"))
    (tmp_path / "letter.txt").write_text("dear reader")
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("letter.txt", "not an image"),
        ("zero.jpg", "empty file"),
        ("dangling.png", "broken link"),
        ("empty", "There is no image in"),
        ("missing.jpg", r"There is no .*missing\.jpg"),
    ):
        with pytest.raises(InputError, match=words):
            find(trained, tmp_path / name)
    with pytest.raises(SettingsError, match="No query was given"):
        find(trained)


def test_a_truncated_query_is_an_error(trained: Any, tmp_path: Path) -> None:
    cut = (trained.images / "dots" / "0001.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(cut[: len(cut) * 3 // 4])
    with pytest.raises(InputError, match="No query could be decoded"):
        find(trained, tmp_path / "cut.jpg")


# Sums, patterns, thresholds


def test_a_sum_is_the_nearest_to_the_sum_of_unit_vectors(trained: Any, tmp_path: Path) -> None:
    made = embed(EmbedSettings(runs=trained.runs, out=tmp_path / "v.npy"))
    h, names = center(np.load(made.out)), json.loads(Path(made.rows_file).read_text())["rows"]
    a, b, c = (Path(name) for name in ("dots/0000.png", "bricks/0000.png", "zigzag/0000.png"))
    total = h[names.index(str(a))] + h[names.index(str(b))] - h[names.index(str(c))]
    own = {names.index(str(path)) for path in (a, b, c)}
    order = [i for i in np.argsort(-(h @ total), kind="stable") if i not in own][:5]
    words = (trained.images / a, Path("+"), b, Path("-"), c)  # a file, and names of rows
    (result,) = find(trained, *words, top=5).queries
    assert result.query == f"{trained.images / a} + {b} - {c}"
    assert [hit.path for hit in result.neighbors] == [str(trained.images / names[i]) for i in order]
    cosine = (h @ total / np.linalg.norm(total))[order]
    np.testing.assert_allclose([hit.similarity for hit in result.neighbors], cosine, atol=1e-5)


def test_a_folder_in_a_sum_counts_as_its_mean(trained: Any, tmp_path: Path) -> None:
    made = embed(EmbedSettings(runs=trained.runs, out=tmp_path / "v.npy"))
    h, names = center(np.load(made.out)), json.loads(Path(made.rows_file).read_text())["rows"]
    folder = [i for i, name in enumerate(names) if name.startswith("bricks/")]
    one = names.index("dots/0000.png")
    total = h[folder].mean(axis=0) + h[one]
    order = [i for i in np.argsort(-(h @ total), kind="stable") if i not in (*folder, one)][:4]
    result = find(trained, Path("bricks"), Path("+"), Path("dots/0000.png"), top=4).queries[0]
    assert [hit.path for hit in result.neighbors] == [str(trained.images / names[i]) for i in order]


def test_a_damaged_image_in_a_folder_is_skipped_in_its_mean(own: Any, tmp_path: Path) -> None:
    folder = tmp_path / "queries"
    shutil.copytree(own.images / "dots", folder)
    whole = find(own, folder, Path("+"), Path("bricks/0000.png"), top=3)
    cut = (own.images / "zigzag" / "0001.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(cut[: len(cut) * 3 // 4])
    result = find(own, folder, Path("+"), Path("bricks/0000.png"), top=3)
    assert result.queries == whole.queries and "cut.jpg" in result.skipped[0]


def test_a_name_that_is_too_long_for_a_file(trained: Any) -> None:
    with pytest.raises(InputError):
        find(trained, Path("x" * 300 + ".jpg"))


@pytest.mark.parametrize("words", [("+",), ("dots/0000.png", "-"), ("dots/0000.png", "+", "-", "bricks/0000.png")])
def test_signs_without_an_image(trained: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="No image follows"):
        find(trained, *map(Path, words))


def test_a_sum_of_zero(trained: Any) -> None:
    with pytest.raises(InputError, match="is zero"):
        find(trained, Path("dots/0000.png"), Path("-"), Path("dots/0000.png"))


def test_within_a_pattern_and_above_a_similarity(trained: Any) -> None:
    query = trained.images / "dots" / "0000.png"
    every = find(trained, query, top=47).queries[0].neighbors
    within = find(trained, query, top=47, within="[bz]*/*")
    inside = [hit.path for hit in every if Path(hit.path).parent.name[0] in "bz"]
    assert [hit.path for hit in within.queries[0].neighbors] == inside and within.searched == len(inside)
    bound = every[5].similarity
    above = find(trained, query, top=47, min_similarity=bound - 1e-6).queries[0].neighbors
    assert above == every[: len(above)] and len(above) >= 6
    assert all(hit.similarity < bound for hit in every[len(above) :])
    assert find(trained, query, min_similarity=1.0).queries[0].neighbors == ()
    with pytest.raises(InputError, match="matches --within"):
        find(trained, query, within="*.gif")


# Output


def test_results_are_written_to_a_file(trained: Any, tmp_path: Path) -> None:
    query = trained.images / "dots" / "0000.png"
    for kind in ("csv", "json", "html"):
        result = find(trained, query, Path("bricks"), top=3, out=tmp_path / f"found.{kind}")
        assert result.out == str(tmp_path / f"found.{kind}")
    assert json.loads((tmp_path / "found.json").read_text())["queries"][0]["query"] == str(query)
    with (tmp_path / "found.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    hits = result.queries[0].neighbors
    assert [row["path"] for row in rows[:4]] == [str(query), *(hit.path for hit in hits)]
    assert [float(row["above_random"]) for row in rows[1:4]] == [hit.above_random for hit in hits]
    page = (tmp_path / "found.html").read_text()
    assert page.count("<img") == 4 * len(result.queries) and "more similar than" in page
    assert f"Of 48 images of {trained.images}, by the cosine similarity of centered h by {trained.name}." in page


# The similarity scale


def test_every_neighbor_has_its_percentile_of_random_pairs(trained: Any, tmp_path: Path) -> None:
    made = embed(EmbedSettings(runs=trained.runs, out=tmp_path / "v.npy"))
    h = center(np.load(made.out))
    random = (h @ h.T)[np.triu_indices(48, 1)]  # of so few images all pairs are taken
    for hit in find(trained, trained.images / "dots" / "0000.png", top=47).queries[0].neighbors:
        assert hit.above_random == pytest.approx(
            100 * float((random < hit.similarity).mean()), abs=1.0
        )  # kept at whole percents
        assert 0 <= hit.above_views <= 100


# The stored index: updates are tested in tests/search/test_library.py


def test_stored_embeddings_are_reused(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    query, said = own.images / "dots" / "0000.png", []
    first = find(own, query, said=said)
    assert f"Searching {own.images} with {own.run.path}." in notes(said)
    assert "There are no embeddings yet: embedding 48 images." in notes(said)
    kept = sorted(path.name for path in own.run.vectors_folder.iterdir())
    assert [name.split("-")[0] for name in kept] == ["embeddings", "images", "index.json", "names"]
    monkeypatch.setattr(library_module, "update_index", lambda *_: pytest.fail("embedded again"))
    assert find(own, query) == find(own, query, no_update=True) == first


def test_embeddings_of_another_model_are_never_used(own: Any, train: Callable[..., Any]) -> None:
    query = own.images / "dots" / "0000.png"
    other = train(own.images, run="other", runs=own.runs, seed=9)
    right, foreign = find(own, query, run="pics"), find(own, query, run="other")
    assert right.queries != foreign.queries
    shutil.rmtree(own.run.vectors_folder)
    shutil.copytree(Path(other.run) / "vectors", own.run.vectors_folder)
    said: list[Event] = []
    assert find(own, query, run="pics", said=said) == right
    assert "holds embeddings of another model" in notes(said) and ": embedding 48 images" in notes(said)


def test_stored_embeddings_are_searched_if_the_images_are_gone(own: Any, tmp_path: Path) -> None:
    query = Path(shutil.copy(own.images / "dots" / "0000.png", tmp_path / "q.png"))
    before, by_name = find(own, query), find(own, Path("dots/0000.png"))
    own.images.rename(tmp_path / "moved")
    said: list[Event] = []
    assert find(own, query, said=said) == before
    warning = next(event for event in said if isinstance(event, Note) and event.warning)
    assert "no longer in" in warning.text and "The search uses the stored embeddings." in warning.text
    assert find(own, Path("dots/0000.png")) == by_name


def test_without_images_and_embeddings_there_is_nothing_to_search(own: Any, tmp_path: Path) -> None:
    query = Path(shutil.copy(own.images / "dots" / "0000.png", tmp_path / "q.png"))
    with pytest.raises(RunError, match="There are no embeddings yet") as caught:
        find(own, query, no_update=True)
    assert caught.value.remedy == "Run the command without --no-update."
    own.images.rename(tmp_path / "moved")
    with pytest.raises(RunError, match="no longer in"):
        find(own, query)


def test_images_and_weights_are_not_changed(own: Any, checksum: Callable[[Path], Any]) -> None:
    before = checksum(own.images), checksum(own.run.encoder_folder)
    find(own, own.images / "dots")
    assert (checksum(own.images), checksum(own.run.encoder_folder)) == before


@pytest.mark.usefixtures("default_encoder")
def test_no_command_opens_a_socket(own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with a run nor with the default encoder, whose weights are at hand; the network is not switched off."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
    find(own, own.images / "dots")
    embed(EmbedSettings(runs=own.runs, out=tmp_path / "v.npy"))
    similar(SimilarSettings(queries=(own.images / "dots",), images=own.images, runs=tmp_path / "none"))


# A folder and any encoder, without a run


def find_in_folder(images: Path, tmp_path: Path, *queries: Path, **values: Any) -> SimilarResult:
    return similar(SimilarSettings(queries=queries, images=images, runs=tmp_path / "none", **values))


@pytest.mark.usefixtures("default_encoder")
def test_a_folder_is_searched_with_the_default_encoder(
    images: Path, tmp_path: Path, checksum: Callable[[Path], Any]
) -> None:
    """A search needs no run: the neighbors are those of the embeddings that `embed` writes for the same folder."""
    made = embed(EmbedSettings(images=images, runs=tmp_path / "none", out=tmp_path / "v.npy"))
    h, names = center(np.load(made.out)), json.loads(Path(made.rows_file).read_text())["rows"]
    before, row = checksum(images), names.index("dots/0000.png")
    result = find_in_folder(images, tmp_path, images / "dots" / "0000.png", top=5)
    assert (result.folder, result.encoder, result.searched) == (str(images), "tiny_resnet.r160_in1k", 48)
    expected = [i for i in np.argsort(-(h @ h[row]), kind="stable") if i != row][:5]
    assert [hit.path for hit in result.queries[0].neighbors] == [str(images / names[i]) for i in expected]
    similarity = [hit.similarity for hit in result.queries[0].neighbors]
    np.testing.assert_allclose(similarity, (h @ h[row])[expected], atol=1e-5)
    assert all(0 <= hit.above_views <= 100 for hit in result.queries[0].neighbors)  # by the paper's views
    assert checksum(images) == before and not (tmp_path / "none").exists()


def test_a_relative_folder_and_names_of_its_images(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    values = {"encoder": "random:tiny_resnet", "image_size": 40, "top": 3}
    by_name = find_in_folder(Path(images.name), tmp_path, Path("dots/0000.png"), **values)
    by_path = find_in_folder(images, tmp_path, images / "dots" / "0000.png", **values, no_update=True)
    assert (by_name.folder, by_name.encoder) == (images.name, "random:tiny_resnet")
    assert by_name.queries[0].neighbors == by_path.queries[0].neighbors


@pytest.mark.usefixtures("hub")
def test_a_folder_without_a_run_and_without_weights_names_the_ways_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simclr_cli.encode.load.DEFAULT_FOR_CPU", ("tiny_resnet.r160_in1k", 40, "small"))
    with pytest.raises(MachineError, match=r"The weights of tiny_resnet\.r160_in1k are not on this machine") as caught:
        find_in_folder(images, tmp_path, images / "dots" / "0000.png")
    assert "--encoder random:NAME" in caught.value.remedy
    with pytest.raises(RunError, match="There is no finished run under") as without_images:
        similar(SimilarSettings(queries=(Path("dots/0000.png"),), runs=tmp_path / "none"))
    assert "add the folder of images" in without_images.value.remedy


def test_links_to_the_query_do_not_replace_neighbors(own: Any) -> None:
    query = own.images / "dots" / "0000.png"
    (own.images / "dots" / "link.png").symlink_to("0000.png")
    assert len(find(own, query, top=1).queries[0].neighbors) == 1
