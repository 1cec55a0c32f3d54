"""The views that training would see, on a sheet, before any training, with what to notice about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_cli.api import PreviewResult, PreviewSettings
from simclr_cli.api.fields import PAGES
from simclr_cli.api.views import ResolvedPreview, ResolvedViews
from simclr_cli.core.errors import InputError, SettingsError
from simclr_cli.core.events import CensusTaken, Choice, Note, Report, progress, silent
from simclr_cli.core.files import write_bytes
from simclr_cli.core.seeds import Purpose, numpy_generator, torch_generator
from simclr_cli.encode.load import pick_device
from simclr_cli.engine.augment import ViewRecipe, draw_parameters, make_view, view_recipe
from simclr_cli.engine.image_ops import to_grayscale
from simclr_cli.images.cache import stored_side
from simclr_cli.images.census import Census, ImageFile
from simclr_cli.images.decode import Pixels, UnusableImage, small, squashed
from simclr_cli.images.decode_pool import apart
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers, each
from simclr_cli.pages.preview import Row, contact_sheet, preview_page
from simclr_cli.train.plan import Circumstances, resolve_views

SHOWN = 512  # px; the longer side of an image as it is shown
TRIED = 8  # images of a part of the folder that are tried until one can be decoded
COUNTED = 4096  # images whose crops are drawn for the share of blurred ones
MANY = 0.1  # of the crops, from which on too small ones are worth a change
GRAY_WITHIN = 3  # of 255, between the channels of a grayscale image: JPEG rounds
BLANK = 0.02  # standard deviation of the brightness of a view, of 1, below which it shows next to nothing


def preview(settings: PreviewSettings, *, report: Report = silent) -> PreviewResult:
    """Make views of some images just as `pretrain` would, and write them as a sheet.

    Raises:
        InputError: no image, or none that can be decoded.
        SettingsError: the sheet would be written over an image.
        MachineError: the sheet cannot be written.
    """
    assert settings.images is not None  # the settings see to it
    workers = count_workers(settings.workers)
    census = take_census(settings.images, workers=workers, progress=progress(report, "reading headers"))
    if settings.out.resolve() in {census.path(image).resolve() for image in census.images}:
        raise SettingsError(f"--out is {settings.out}, which is one of the images.", "Give it another name.")
    summary = census.summary()
    report(CensusTaken(summary))
    here = Circumstances(len(census.images), summary["short_side"]["median"], pick_device(None))
    chosen, choices = resolve_views(settings, here)

    recipe, side = view_recipe(chosen), stored_side(census, chosen.image_size)
    images, shown, stored = zip(*_look(census, chosen, side), strict=True)
    pixels = torch.from_numpy(np.stack(stored)).permute(0, 3, 1, 2).contiguous()  # (P, 3, side, side)
    sizes = _true_sizes(images)
    drawn = [
        draw_parameters(sizes, recipe, torch_generator(chosen.seed, Purpose.VIEWS, 0, view))
        for view in range(chosen.views)
    ]
    made = [make_view(pixels, sizes, parameters, chosen.image_size) for parameters in drawn]
    views = torch.stack(made, dim=1)  # (P, V, 3, S, S) in [0, 1]

    some = _true_sizes(census.images[:: -(-len(census.images) // COUNTED)])
    some = some.repeat(-(-COUNTED // len(some)), 1)
    enlarged = enlarged_share(some, recipe, side, chosen.image_size, chosen.seed)
    flat = views.flatten(0, 1)
    advice = advise(chosen, enlarged, all_grayscale(pixels), blank_views(flat), len(flat))
    for sentence in advice:
        report(Note(sentence))
    crops = (torch.stack([parameters.crop for parameters in drawn], dim=1) / sizes.repeat(1, 2)[:, None]).numpy()
    seen = (views * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    rows = [Row(p.name, (p.height, p.width), shown[i], crops[i], seen[i]) for i, p in enumerate(images)]
    write_bytes(chosen.out, _sheet(chosen, choices, advice, rows))
    return PreviewResult(
        out=str(chosen.out),
        folder=str(chosen.images),
        images=len(images),
        views=chosen.views,
        image_size=chosen.image_size,
        preset=chosen.preset,
        choices=choices,
        enlarged=round(enlarged, 4),
        advice=advice,
    )


def _look(census: Census, chosen: ResolvedPreview, side: int) -> list[tuple[ImageFile, Pixels, Pixels]]:
    """Images spread over the folder: a random one of each of equal parts of the sorted paths.

    Returns:
        Each, as it is shown to the eye in its true shape, and squashed to `side`, as training sees it.
    """
    order = numpy_generator(chosen.seed, Purpose.ORDER, 0, chosen.count)
    parts = np.array_split(np.arange(len(census.images)), min(chosen.count, len(census.images)))
    tries = [order.permutation(part)[:TRIED] for part in parts]

    shrunk, square = apart(small, chosen.workers), apart(squashed, chosen.workers)

    def first_whole(part: NDArray[np.int64]) -> tuple[ImageFile, Pixels, Pixels]:
        unusable = UnusableImage("")
        for i in part:
            image = census.images[i]
            try:
                path = census.path(image)
                return image, shrunk(path, SHOWN, SHOWN), square(path, side)
            except UnusableImage as found:
                unusable = found
        raise unusable

    found = list(each(first_whole, tries, chosen.workers))
    whole = [one for one in found if not isinstance(one, UnusableImage)]
    if not whole:
        reason = next(one for one in found if isinstance(one, UnusableImage)).reason
        raise InputError(
            f"None of the images tried in {census.root} can be decoded ({reason}).",
            "Give a folder of whole images.",
        )
    return whole


def _true_sizes(images: Sequence[ImageFile]) -> Tensor:
    return torch.tensor([(image.height, image.width) for image in images])


def _sheet(chosen: ResolvedPreview, choices: tuple[Choice, ...], advice: tuple[str, ...], rows: list[Row]) -> bytes:
    title = f"Views of {chosen.images.resolve().name or chosen.images}"
    preset = f"Preset {chosen.preset}" if chosen.preset else "No preset"
    how = (
        f"{preset}, {chosen.image_size} px, crop {chosen.crop_min:g} to 1, color {chosen.color_strength:g}, grayscale "
        f"{chosen.grayscale:g}, flip {chosen.flip:g}, turn {chosen.rotate:g}, blur {chosen.blur:g}, seed {chosen.seed}."
    )
    if chosen.out.suffix.lower() in PAGES:
        return preview_page(title, how, advice, rows, choices).encode("utf-8")
    return contact_sheet(title, (how, *advice), rows)


def enlarged_share(sizes: Tensor, recipe: ViewRecipe, stored: int, size: int, seed: int) -> float:
    """The share of crops that hold less than half of the pixels that a view has along a side.

    Counted are the stored image's pixels, for those are all that training sees of it.

    Args:
        sizes: (N, 2) true heights and widths; a crop is drawn for each.
        stored: side of the stored squares, px; size: of the views.
    """
    crops = draw_parameters(sizes, recipe, torch_generator(seed, Purpose.VIEWS, 1, 0)).crop
    pixels = crops[:, 2:] * (stored / sizes).clamp(max=1)  # (N, 2)
    return float((pixels.prod(dim=1).sqrt() < size / 2).double().mean())


def all_grayscale(pixels: Tensor) -> bool:
    """Whether all of (P, 3, H, W) uint8 images are without color."""
    wide = pixels.short()
    return int((wide.amax(dim=1) - wide.amin(dim=1)).max()) <= GRAY_WITHIN


def blank_views(views: Tensor) -> int:
    """How many of (V, 3, S, S) views in [0, 1] are almost of one brightness."""
    return int((to_grayscale(views).flatten(1).std(dim=1, correction=0) < BLANK).sum())


def advise(chosen: ResolvedViews, enlarged: float, grayscale: bool, blank: int, views: int) -> tuple[str, ...]:
    """The sentences.

    Args:
        enlarged: see enlarged_share.
        grayscale: whether all images looked at are; blank: how many of the `views` looked at are.
    """
    what = f"enlarged to more than twice its size to fill {chosen.image_size} px"
    crops = f"No crop is {what}."
    if enlarged:
        remedy = " A larger --crop-min or a smaller --image-size makes them sharper." if enlarged > MANY else ""
        share = _percent(enlarged).capitalize()
        crops = f"{share} of the crops are {what.replace('its', 'their')}, and look blurred.{remedy}"
    told = [crops, _of_color(chosen, grayscale)]
    if blank:
        verb = "shows" if blank == 1 else "show"
        told.append(
            f"{blank} of these {views} views {verb} next to nothing; a larger --crop-min or a weaker "
            "--color-strength makes that rarer."
        )
    return tuple(told)


def _of_color(chosen: ResolvedViews, grayscale: bool) -> str:
    strength = chosen.color_strength
    if grayscale and not strength:
        return "All images looked at are grayscale, and nothing changes their brightness and contrast."
    if grayscale:
        end = "" if chosen.preset == "grayscale" else "; --preset grayscale is made for them"
        return f"All images looked at are grayscale, so color jitter only changes brightness and contrast{end}."
    if not strength and not chosen.grayscale:
        return (
            "Nothing changes colors here, so views of one image may be told by their colors alone, "
            "a short cut (section 3.1 of the paper)."
        )
    if not strength:
        return f"Colors are kept or, in {_percent(chosen.grayscale)} of the views, taken away."
    return (
        f"Color jitter changes brightness, contrast and saturation by up to {_percent(0.8 * strength)} and "
        f"the hue by up to {360 * min(0.5, 0.2 * strength):.0f} degrees: if colors tell your images apart, lower "
        "--color-strength and --grayscale."
    )


def _percent(share: float) -> str:
    return "less than 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
