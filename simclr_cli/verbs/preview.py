"""The views that training would see, on a sheet, before any training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_cli.engine.views import ViewParameters, draw_parameters, make_view
from simclr_cli.errors import InputError, SettingsError
from simclr_cli.events import CensusTaken, Choice, Note, Report, progress, silent
from simclr_cli.files import write_bytes
from simclr_cli.images.cache import stored_side
from simclr_cli.images.census import Census, Picture
from simclr_cli.images.decode import Pixels, Refusal, small, squashed
from simclr_cli.images.decoders import apart
from simclr_cli.images.folder import take_census
from simclr_cli.images.workers import count_workers, each
from simclr_cli.pages.preview import preview_page
from simclr_cli.pages.sheet import Row, contact_sheet
from simclr_cli.results import PreviewResult
from simclr_cli.seeds import Purpose, numpy_generator, torch_generator
from simclr_cli.settings import PreviewSettings
from simclr_cli.settings.views import PAGES, ResolvedPreview
from simclr_cli.verbs.advice import advise, all_grey, blank_views, enlarged_share
from simclr_cli.verbs.encoders import pick_device
from simclr_cli.verbs.plan import Circumstances, resolve_views
from simclr_cli.verbs.presets import view_recipe

SHOWN = 512  # px; the longer side of a picture as it is shown
TRIED = 8  # pictures of a part of the folder that are tried until one can be decoded
COUNTED = 4096  # pictures whose crops are drawn for the share of blurred ones


def preview(settings: PreviewSettings, *, report: Report = silent) -> PreviewResult:
    """Make views of some pictures just as `pretrain` would, and write them as a sheet.

    Raises:
        InputError: no picture, or none that can be decoded.
        SettingsError: the sheet would be written over a picture.
        MachineError: the sheet cannot be written.
    """
    assert settings.images is not None  # the settings see to it
    workers = count_workers(settings.workers)
    census = take_census(settings.images, workers=workers, progress=progress(report, "reading headers"))
    if settings.out.resolve() in {census.path(picture).resolve() for picture in census.pictures}:
        raise SettingsError(f"--out is {settings.out}, which is one of the pictures.", "Give it another name.")
    summary = census.summary()
    report(CensusTaken(summary))
    here = Circumstances(len(census.pictures), summary["short_side"]["median"], pick_device(None))
    chosen, choices = resolve_views(settings, here)

    seen = _look(census, chosen)
    drawn, views = _make(seen, chosen)
    enlarged = _enlarged(census, chosen)
    flat = views.flatten(0, 1)
    advice = advise(chosen, enlarged, all_grey(seen.pixels), blank_views(flat), len(flat))
    for sentence in advice:
        report(Note(sentence))
    write_bytes(chosen.out, _sheet(chosen, choices, advice, _rows(seen, drawn, views)))
    return PreviewResult(
        out=str(chosen.out),
        images=str(chosen.images),
        pictures=len(seen.pictures),
        views=chosen.views,
        image_size=chosen.image_size,
        preset=chosen.preset,
        choices=choices,
        enlarged=round(enlarged, 4),
        advice=advice,
    )


@dataclass(frozen=True)
class Seen:
    """Some pictures of a folder."""

    pictures: tuple[Picture, ...]
    shown: tuple[Pixels, ...]  # for the eye, in their true shape
    pixels: Tensor  # (P, 3, side, side) uint8, squashed: what training sees of them
    sizes: Tensor  # (P, 2) true heights and widths


def _look(census: Census, chosen: ResolvedPreview) -> Seen:
    """Pictures spread over the folder: a random one of each of equal parts of the sorted paths.

    Raises:
        InputError: none of those tried can be decoded.
    """
    side = stored_side(census, chosen.image_size)
    order = numpy_generator(chosen.seed, Purpose.ORDER, 0, chosen.pictures)
    parts = np.array_split(np.arange(len(census.pictures)), min(chosen.pictures, len(census.pictures)))
    tries = [order.permutation(part)[:TRIED] for part in parts]

    shrunk, square = apart(small, chosen.workers), apart(squashed, chosen.workers)

    def first_whole(part: NDArray[np.int64]) -> tuple[Picture, Pixels, Pixels]:
        refusal = Refusal("")
        for i in part:
            picture = census.pictures[i]
            try:
                path = census.path(picture)
                return picture, shrunk(path, SHOWN, SHOWN), square(path, side)
            except Refusal as found:
                refusal = found
        raise refusal

    found = list(each(first_whole, tries, chosen.workers))
    whole = [one for one in found if not isinstance(one, Refusal)]
    if not whole:
        reason = next(one for one in found if isinstance(one, Refusal)).reason
        raise InputError(
            f"None of the pictures tried in {census.root} can be decoded ({reason}).",
            "Give a folder of whole pictures.",
        )
    pictures, shown, stored = zip(*whole, strict=True)
    pixels = torch.from_numpy(np.stack(stored)).permute(0, 3, 1, 2).contiguous()
    return Seen(pictures, shown, pixels, torch.tensor([(picture.height, picture.width) for picture in pictures]))


def _make(seen: Seen, chosen: ResolvedPreview) -> tuple[list[ViewParameters], Tensor]:
    """What was drawn for each view, and the views: (P, V, 3, S, S) in [0, 1]."""
    recipe = view_recipe(chosen)
    drawn = [
        draw_parameters(seen.sizes, recipe, torch_generator(chosen.seed, Purpose.VIEWS, 0, view))
        for view in range(chosen.views)
    ]
    made = [make_view(seen.pixels, seen.sizes, parameters, chosen.image_size) for parameters in drawn]
    return drawn, torch.stack(made, dim=1)


def _enlarged(census: Census, chosen: ResolvedPreview) -> float:
    """See enlarged_share: by the headers of the pictures, or of so many of them."""
    every = -(-len(census.pictures) // COUNTED)
    sizes = torch.tensor([(picture.height, picture.width) for picture in census.pictures[::every]])
    sizes = sizes.repeat(-(-COUNTED // len(sizes)), 1)
    side = stored_side(census, chosen.image_size)
    return enlarged_share(sizes, view_recipe(chosen), side, chosen.image_size, chosen.seed)


def _rows(seen: Seen, drawn: list[ViewParameters], views: Tensor) -> list[Row]:
    crops = torch.stack([parameters.crop for parameters in drawn], dim=1) / seen.sizes.repeat(1, 2)[:, None]
    pixels = (views * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    return [
        Row(picture.name, (picture.height, picture.width), shown, crops[i].numpy(), pixels[i])
        for i, (picture, shown) in enumerate(zip(seen.pictures, seen.shown, strict=True))
    ]


def _sheet(chosen: ResolvedPreview, choices: tuple[Choice, ...], advice: tuple[str, ...], rows: list[Row]) -> bytes:
    title = f"Views of {chosen.images.resolve().name or chosen.images}"
    if chosen.out.suffix.lower() in PAGES:
        return preview_page(title, _in_words(chosen), advice, rows, choices).encode("utf-8")
    return contact_sheet(title, (_in_words(chosen), *advice), rows)


def _in_words(chosen: ResolvedPreview) -> str:
    """The settings of the views in one line."""
    words = [
        f"Preset {chosen.preset}" if chosen.preset else "No preset",
        f"{chosen.image_size} px",
        f"crop {chosen.crop_min:g} to 1",
        f"colour {chosen.color_strength:g}",
        f"grey {chosen.grey:g}",
        f"flip {chosen.flip:g}",
        f"turn {chosen.turn:g}",
        f"blur {chosen.blur:g}",
        f"seed {chosen.seed}",
    ]
    return ", ".join(words) + "."
