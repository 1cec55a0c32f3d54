"""The preview command: exactly the views that training makes of the same images, on a contact sheet."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from simclr_cli.api import PreviewSettings
from simclr_cli.commands import preview as module
from simclr_cli.commands.preview import preview
from simclr_cli.core.errors import InputError, SettingsError
from simclr_cli.core.events import CensusTaken, Event, Note
from simclr_cli.core.seeds import Purpose, create_torch_generator
from simclr_cli.engine.augment import create_view_recipe, draw_parameters, make_view
from simclr_cli.images.cache import decode_images
from simclr_cli.images.scan import take_census
from simclr_cli.pages.preview import PreviewRow
from simclr_cli.train.plan import Circumstances, resolve_views


@pytest.fixture
def show(tmp_path: Path) -> Callable[..., Any]:
    """Return `show(folder, ...)`, which returns the result and the rows of the sheet."""

    def run(
        images: Path, report: Callable[[Event], None] = lambda _: None, **values: Any
    ) -> tuple[Any, list[PreviewRow]]:
        rows: list[PreviewRow] = []
        draw = module.draw_contact_sheet

        def record(title: str, lines: Any, drawn: list[PreviewRow]) -> bytes:
            rows.extend(drawn)
            return draw(title, lines, drawn)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "draw_contact_sheet", record)
            settings = PreviewSettings(**{"images": images, "out": tmp_path / "sheet.png", **values})
            return preview(settings, report=report), rows

    return run


@pytest.mark.parametrize("preset", [None, "microscopy"])
def test_views_are_those_that_training_makes_of_the_same_pixels(
    images: Path, show: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: Any
) -> None:
    """The expected views are made as in training: with its cache, rules, operations and random numbers."""
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "cache"))
    given = {"images": images, "preset": preset, "image_size": 40, "seed": 5}
    _, rows = show(images, views=3, count=6, **{k: v for k, v in given.items() if k != "images"})
    assert len(rows) == 6
    chosen, _ = resolve_views(PreviewSettings(**given), Circumstances(48, 48, torch.device("cpu")))
    decoded = decode_images(take_census(images), 40, workers=1, progress=lambda *_: None)
    places = {image.name: i for i, image in enumerate(decoded.census.images)}
    at = np.array([places[row.name] for row in rows])
    pixels, sizes = torch.from_numpy(decoded.read(at)), torch.from_numpy(decoded.sizes[at])
    for view in range(3):
        generator = create_torch_generator(5, Purpose.VIEWS, 0, view)
        parameters = draw_parameters(sizes, create_view_recipe(chosen), generator)
        expected = (make_view(pixels, sizes, parameters, 40) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for i, row in enumerate(rows):
            assert np.array_equal(row.views[view], expected[i])
            shares = parameters.crop[i] / sizes[i].repeat(2)
            assert row.crops[view].tolist() == pytest.approx(shares.tolist())


def test_images_are_spread_over_the_folder_and_follow_from_the_seed(images: Path, show: Callable[..., Any]) -> None:
    names = [image.name for image in take_census(images).images]
    first, again, other = ([row.name for row in show(images, count=8, views=1, seed=s)[1]] for s in (0, 0, 1))
    assert first == again != other
    assert [names.index(name) // 6 for name in first] == list(range(8))  # of 48 images, one of each six
    more_views = [row.name for row in show(images, count=8, views=3, seed=0)[1]]
    assert more_views == first


def test_more_views_leave_the_first_ones_as_they_were(images: Path, show: Callable[..., Any]) -> None:
    few, more = (show(images, count=2, views=count)[1] for count in (1, 2))
    for one, two in zip(few, more, strict=True):
        assert np.array_equal(one.views[0], two.views[0])


def test_fewer_images_than_asked_for_are_all_shown(show: Callable[..., Any], draw: Any, tmp_path: Path) -> None:
    for i in range(3):
        draw(tmp_path / "few" / f"{i}.png", i)
    result, rows = show(tmp_path / "few")
    assert [row.name for row in rows] == ["0.png", "1.png", "2.png"] and result.images == 3
    result, rows = show(tmp_path / "few", count=1)  # one is enough for a preview, if not for training
    assert result.images == len(rows) == 1


def test_damaged_images_are_passed_over(show: Callable[..., Any], draw: Any, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    for i in range(4):
        draw(folder / f"{i}.png", i)
    for i in (1, 3):
        whole = (folder / f"{i}.png").read_bytes()
        (folder / f"{i}.png").write_bytes(whole[: len(whole) // 2])
    assert [row.name for row in show(folder, count=2)[1]] == ["0.png", "2.png"]
    for i in (0, 2):
        (folder / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes()[:60])
    with pytest.raises(InputError, match="can be decoded"):
        show(folder)


@pytest.mark.parametrize("suffix", [".png", ".html", ".HTM"])
def test_format_follows_from_the_suffix(images: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"sheet{suffix}"
    result = preview(PreviewSettings(images=images, out=out, count=2, views=2))
    assert result.out == str(out)
    if suffix == ".png":
        with Image.open(out) as sheet:
            assert sheet.format == "PNG"
    else:
        page = out.read_text(encoding="utf-8")
        assert page.startswith("<!doctype html>") and page.count("<img") == 6
        assert all(choice.reason.split(" (")[0] in page for choice in result.choices if "'" not in choice.reason)


def test_result_and_notes_say_how_views_were_made(images: Path, show: Callable[..., Any]) -> None:
    events: list[Event] = []
    result, _ = show(images, report=events.append, preset="grayscale", flip=0.1)
    assert any(isinstance(event, CensusTaken) for event in events)
    assert tuple(event.text for event in events if isinstance(event, Note)) == result.advice
    reasons = {choice.name: (choice.value, choice.reason) for choice in result.choices}
    assert reasons["flip"] == ("0.1", "as set") and reasons["grayscale"][1].startswith("the preset grayscale: ")
    assert (result.preset, result.image_size, result.images, result.views) == ("grayscale", 48, 8, 6)
    assert 0 <= result.enlarged <= 1


def test_grayscale_images_are_detected(show: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "grayscale").mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "grayscale" / f"{i}.png")
    result, _ = show(tmp_path / "grayscale")
    assert result.preset == "grayscale" and "All sampled images are gray" in result.advice[1]
    assert "Use --preset grayscale" in show(tmp_path / "grayscale", preset="photo")[0].advice[1]


def test_nothing_of_the_users_is_changed_and_no_image_is_overwritten(
    own: Any, show: Callable[..., Any], checksum: Callable[..., Any]
) -> None:
    before = checksum(own.images)
    name = take_census(own.images).images[0].name
    show(own.images)
    if name.endswith(".png"):
        with pytest.raises(SettingsError, match="one of the images"):
            show(own.images, out=own.images / name)
    assert checksum(own.images) == before


def test_result_is_json(images: Path, show: Callable[..., Any]) -> None:
    result, _ = show(images)
    assert json.loads(json.dumps(dataclasses.asdict(result)))["views"] == 6
