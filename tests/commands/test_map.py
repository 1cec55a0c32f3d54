"""The map command: the page holds a folder's images, their positions, neighbors, thumbnails and groupings."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr_cli.api import MapResult, MapSettings
from simclr_cli.commands.map import collect_groupings, lay_out
from simclr_cli.commands.map import map as draw_map
from simclr_cli.core.errors import InputError, MachineError
from simclr_cli.core.events import Event, Note, Progress
from simclr_cli.core.seeds import Purpose, create_numpy_generator
from simclr_cli.encode.load import load_run_encoder
from simclr_cli.engine.clustering import k_means
from simclr_cli.engine.layout import compute_principal_components
from simclr_cli.store.index import IMAGE, Index, Rows
from simclr_cli.store.index_files import append_rows, read_index


@pytest.fixture(scope="module")
def mapped(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[MapResult, list[Event], Index]:
    """Return a map of the trained run, the events, and its index."""
    events: list[Event] = []
    out = tmp_path_factory.mktemp("map") / "map.html"
    result = draw_map(MapSettings(runs=trained.runs, out=out), report=events.append)
    index = read_index(trained.run.vectors_folder, model_checksum=load_run_encoder(trained.run, "cpu").checksum)
    assert index is not None
    return result, events, index


def content(result: MapResult) -> dict[str, Any]:
    """Return the data that the page holds for its script."""
    html = Path(result.out).read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(html.partition('id="data">')[2].partition("</script>")[0])
    return data


def numbers(text: str, kind: str, columns: int) -> Any:
    return np.frombuffer(base64.b64decode(text), kind).reshape(-1, columns)


def test_positions_are_the_components_and_neighbors_the_nearest(mapped: tuple[MapResult, list[Event], Index]) -> None:
    result, _, index = mapped
    page = content(result)
    h = index.h[:].astype(np.float64)
    where = {name: i for i, name in enumerate(index.names)}
    order = [where[name] for name in page["names"]]
    assert sorted(order) == list(range(48))
    components, explained = compute_principal_components(index.h, 2)
    assert result.explained == pytest.approx(explained) and result.images == 48
    places = numbers(page["positions"], "<f4", 2)
    expected = components[order] * (1, -1)  # y down
    expected -= expected.min(0)
    np.testing.assert_allclose(places, expected / expected.max(), atol=1e-5)
    similarity = h @ h.T - 9 * np.eye(48)
    shown = numbers(page["neighbors"], "<u4", page["neighborsPerImage"])
    values = numbers(page["similarities"], "<f4", page["neighborsPerImage"])
    for row, own in enumerate(order):
        neighbors = [order[i] for i in shown[row]]
        assert own not in neighbors and len(set(neighbors)) == 8
        np.testing.assert_allclose(values[row], similarity[own, neighbors], atol=1e-5)
        np.testing.assert_allclose(values[row], np.sort(similarity[own])[::-1][:8], atol=1e-5)


def test_thumbnails_groupings_and_lead_are_there(mapped: tuple[MapResult, list[Event], Index], trained: Any) -> None:
    result, events, _ = mapped
    page = content(result)
    assert (result.folder, result.encoder) == (str(trained.images), str(trained.run.path))
    assert page["root"] == trained.images.as_uri() + "/" and page["step"] == 1
    shapes = numbers(page["shapes"], "u1", 2)
    assert len(shapes) == 48 and shapes.min() > 0 and shapes.max() <= 64
    (grouping,) = page["groupings"]
    assert (result.groupings, grouping["name"]) == (("folder",), "folder")
    which = numbers(grouping["groups"], "<u4", 1)[:, 0]
    assert [grouping["labels"][i] for i in which] == [name.split("/")[0] for name in page["names"]]
    assert grouping["counts"] == sorted(grouping["counts"], reverse=True) and sum(grouping["counts"]) == 48
    html = Path(result.out).read_text(encoding="utf-8")
    layout = f"Layout by the first two principal components: {100 * result.explained:.0f} % of the variance."
    assert f"48 images. {layout}" in html
    assert result.bytes == Path(result.out).stat().st_size
    stages = {event.stage for event in events if isinstance(event, Progress)}
    assert {"finding neighbors", "making thumbnails"} <= stages


@pytest.mark.usefixtures("default_encoder")
def test_a_folder_is_mapped_with_the_default_encoder(
    images: Path, tmp_path: Path, checksum: Callable[[Path], Mapping[str, Any]]
) -> None:
    before = checksum(images)
    result = draw_map(MapSettings(images=images, runs=tmp_path / "none", out=tmp_path / "map.html"))
    assert (result.folder, result.encoder, result.images) == (str(images), "tiny_resnet.r160_in1k", 48)
    page = content(result)
    assert page["root"] == images.as_uri() + "/"
    assert sorted(page["names"]) == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))
    assert f"<title>Map of {images.name}</title>" in Path(result.out).read_text(encoding="utf-8")
    assert checksum(images) == before and not (tmp_path / "none").exists()


def test_the_same_images_give_the_same_page(
    mapped: tuple[MapResult, list[Event], Index], trained: Any, tmp_path: Path
) -> None:
    again = draw_map(MapSettings(runs=trained.runs, out=tmp_path / "again.html"))
    assert Path(again.out).read_bytes() == Path(mapped[0].out).read_bytes()


def test_labels_of_a_table_and_images_that_are_gone(
    own: Any, tmp_path: Path, checksum: Callable[[Path], Mapping[str, Any]]
) -> None:
    draw_map(MapSettings(runs=own.runs, out=tmp_path / "map.html"))
    (own.images / "dots" / "0000.png").unlink()
    before, said = checksum(own.images), []
    marked = sorted(path.name for path in (own.images / "dots").iterdir())[0]
    table = tmp_path / "labels.csv"
    table.write_text(f"path,label\ndots/{marked},</script>\nbricks/0000.png,b\nelsewhere.png,c\n")
    settings = MapSettings(runs=own.runs, out=tmp_path / "map.html", labels=table, no_update=True)
    result = draw_map(settings, report=said.append)
    assert result.groupings == ("label", "folder")
    labels = content(result)["groupings"][0]
    assert labels["labels"] == ["(no label)", "</script>", "b"] and labels["counts"] == [46, 1, 1]
    notes = [event.text for event in said if isinstance(event, Note)]
    assert "No thumbnail of 1 image, which cannot be decoded now." in notes
    assert checksum(own.images) == before
    table.write_text("path,label\nelsewhere.png,c\n")
    with pytest.raises(InputError, match="names no image") as caught:
        draw_map(settings)
    assert "such as " in caught.value.remedy


def small(folder: Path, names: Sequence[str]) -> Index:
    """Return an index of random embeddings."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(len(names), 8)).astype(np.float32)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    return append_rows(
        Index(folder, "/pics", "0" * 64, 8), Rows(h, names, np.zeros(len(names), IMAGE))
    ).include_unfinished()


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["a/1", "a/2", "b/3"], ["a", "a", "b"]),
        (["x/a/1", "x/b/c/2", "x/b/d/3"], ["x/a", "x/b", "x/b"]),
        (["1", "a/2", "a/b/3"], ["(top folder)", "a", "a"]),
        (["1", "2"], None),
        (["a/b/1", "a/b/2"], None),
    ],
)
def test_folders_are_those_of_the_first_level_at_which_they_differ(
    tmp_path: Path, names: list[str], folders: list[str] | None
) -> None:
    assert collect_groupings(small(tmp_path / "v", names), MapSettings()) == (
        {} if folders is None else {"folder": folders}
    )


def test_clusters_are_those_of_k_means_the_largest_first(tmp_path: Path) -> None:
    index = small(tmp_path / "v", [f"{i}.png" for i in range(60)])
    (labels,) = collect_groupings(index, MapSettings(clusters=4, seed=3)).values()
    expected = k_means(index.h, 4, create_numpy_generator(3, Purpose.CLUSTERS, 4))
    assert [int(label) - 1 for label in labels] == expected.tolist()
    counts = [labels.count(str(number)) for number in (1, 2, 3, 4)]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_t_sne_and_few_images(tmp_path: Path, count: int) -> None:
    pytest.importorskip("openTSNE")
    index = small(tmp_path / "v", [os.fsdecode(b"\xff%d.png" % i) for i in range(count)])
    image_map, explained = lay_out(index, MapSettings(layout="tsne"), {"x": index.names}, lambda _: None)
    assert explained is None and image_map.positions.shape == (count, 2) and np.isfinite(image_map.positions).all()
    assert image_map.neighbors.shape == (count, min(8, count - 1)) and sorted(image_map.names) == sorted(index.names)
    assert list(image_map.groupings["x"]) == list(image_map.names)


def test_without_the_library_nothing_starts(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    said: list[Event] = []
    with pytest.raises(MachineError, match="openTSNE"):
        draw_map(MapSettings(runs=trained.runs, out=tmp_path / "m.html", layout="tsne"), report=said.append)
    assert said == [] and not list(tmp_path.iterdir())


def test_the_map_opens_in_a_browser_and_its_file_is_there(
    mapped: tuple[MapResult, list[Event], Index], visit: Callable[..., Any], tmp_path: Path
) -> None:
    seen = visit(Path(shutil.copy(mapped[0].out, tmp_path / "m.html")))
    page = content(mapped[0])
    x, y = seen.ask("[toScreenX(17), toScreenY(17)]")
    seen.page.locator("#map").click(position={"x": x, "y": y})
    assert seen.page.locator("#panel").is_visible() and not seen.complaints
    shown = page["names"].index(seen.page.locator("#name").inner_text())
    href = seen.page.locator("#file").get_attribute("href")
    assert href == page["root"] + page["names"][shown]
    assert len(seen.requests) == 1
