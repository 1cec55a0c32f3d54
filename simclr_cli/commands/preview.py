"""The preview command: the views that training from random weights would draw of some images, with advice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_cli.api import PreviewResult, PreviewSettings
from simclr_cli.api.fields import PAGE_SUFFIXES
from simclr_cli.api.views import ResolvedPreview, ResolvedViews
from simclr_cli.core.errors import InputError, SettingsError
from simclr_cli.core.events import CensusTaken, Choice, Note, Report, progress, silent
from simclr_cli.core.files import write_bytes
from simclr_cli.core.seeds import Purpose, create_numpy_generator, create_torch_generator
from simclr_cli.encode.device import resolve_device
from simclr_cli.engine.augment import ViewRecipe, create_view_recipe, draw_parameters, make_view
from simclr_cli.engine.image_ops import to_grayscale
from simclr_cli.images.cache import stored_side
from simclr_cli.images.census import Census, ImageFile
from simclr_cli.images.colors import Colors, sample_colors
from simclr_cli.images.decode import Pixels, decode_squashed, decode_thumbnail
from simclr_cli.images.decode_pool import isolate
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers, map_in_order
from simclr_cli.pages.preview import PreviewRow, draw_contact_sheet, render_preview
from simclr_cli.train.plan import resolve_views, warn_of_views
from simclr_cli.train.rules import Circumstances

IMAGE_SIDE = 512  # px; the longer side of an image on the page
MAX_TRIES = 8  # images of a part of the folder that are tried until one can be decoded
MIN_COUNTED_CROPS = 4096  # drawn to measure the share of enlarged crops
MAX_ENLARGED_SHARE = 0.1  # of the crops; beyond it the advice names a remedy
MIN_BRIGHTNESS_STD = 0.02  # of 1; a view below it is blank


def preview(settings: PreviewSettings, *, report: Report = silent) -> PreviewResult:
    """Make views of some images exactly as `pretrain --weights none` does, and write them as a contact sheet or a page.

    Raises:
        InputError: no image, or none that can be decoded.
        SettingsError: the output would overwrite an image.
        MachineError: the output cannot be written.
    """
    assert settings.images is not None  # the settings require it
    workers = count_workers(settings.workers)
    census = take_census(settings.images, workers=workers, progress=progress(report, "reading headers"))
    if settings.out.resolve() in {census.path(image).resolve() for image in census.images}:
        raise SettingsError(f"--out is {settings.out}, which is one of the images.", "Use another name.")
    summary = census.summary()
    report(CensusTaken(summary))
    colors = sample_colors(census, workers)
    here = Circumstances(
        len(census.images), summary["short_side"]["median"], resolve_device(None, report=report), colors=colors
    )
    resolved, choices = resolve_views(settings, here)

    recipe, side = create_view_recipe(resolved), stored_side(census, resolved.image_size)
    images, thumbnails, squares = zip(*_sample_images(census, resolved, side), strict=True)
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()  # (P, 3, side, side)
    sizes = _stack_sizes(images)
    parameters = [
        draw_parameters(sizes, recipe, create_torch_generator(resolved.seed, Purpose.VIEWS, 0, view))
        for view in range(resolved.views)
    ]
    size = resolved.image_size
    views = torch.stack([make_view(pixels, sizes, drawn, size) for drawn in parameters], dim=1)  # (P, V, 3, S, S)

    enlarged = measure_enlarged_share(_sample_sizes(census), recipe, side, size, resolved.seed)
    flat = views.flatten(0, 1)
    advice = advise(resolved, enlarged, colors, count_blank_views(flat), len(flat))
    for sentence in advice:
        report(Note(sentence))
    crops = (torch.stack([drawn.crop for drawn in parameters], dim=1) / sizes.repeat(1, 2)[:, None]).numpy()
    rgb = (views * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    rows = [
        PreviewRow(image.name, (image.height, image.width), thumbnails[i], crops[i], rgb[i])
        for i, image in enumerate(images)
    ]
    write_bytes(resolved.out, _render(resolved, choices, advice, rows))
    return PreviewResult(
        out=str(resolved.out),
        folder=str(resolved.images),
        images=len(images),
        views=resolved.views,
        image_size=resolved.image_size,
        preset=resolved.preset,
        choices=choices,
        enlarged=round(enlarged, 4),
        advice=advice,
    )


def _sample_images(census: Census, resolved: ResolvedPreview, side: int) -> list[tuple[ImageFile, Pixels, Pixels]]:
    """Sample images spread over the folder: a random one of each of equal parts of the sorted paths.

    Returns:
        Each with its thumbnail, and squashed to `side` as in training.
    """
    generator = create_numpy_generator(resolved.seed, Purpose.ORDER, 0, resolved.count)
    parts = np.array_split(np.arange(len(census.images)), min(resolved.count, len(census.images)))
    candidates = [generator.permutation(part)[:MAX_TRIES] for part in parts]

    make_thumbnail, squash = isolate(decode_thumbnail, resolved.workers), isolate(decode_squashed, resolved.workers)

    def decode_first(part: NDArray[np.int64]) -> tuple[ImageFile, Pixels, Pixels]:
        unusable = UnusableImage("")
        for i in part:
            image = census.images[i]
            try:
                path = census.path(image)
                return image, make_thumbnail(path, IMAGE_SIDE, IMAGE_SIDE, census.bits), squash(path, side, census.bits)
            except UnusableImage as error:
                unusable = error
        raise unusable

    results = list(map_in_order(decode_first, candidates, resolved.workers))
    decoded = [result for result in results if not isinstance(result, UnusableImage)]
    if not decoded:
        reason = next(result for result in results if isinstance(result, UnusableImage)).reason
        problem = f"None of the images tried in {census.root} can be decoded ({reason})."
        raise InputError(problem, "Use a folder of intact images.")
    return decoded


def _stack_sizes(images: Sequence[ImageFile]) -> Tensor:
    """Return (N, 2) heights and widths."""
    return torch.tensor([(image.height, image.width) for image in images])


def _sample_sizes(census: Census) -> Tensor:
    """Return (N, 2) heights and widths of evenly spaced images, repeated so that N is about MIN_COUNTED_CROPS."""
    sizes = _stack_sizes(census.images[:: -(-len(census.images) // MIN_COUNTED_CROPS)])
    return sizes.repeat(-(-MIN_COUNTED_CROPS // len(sizes)), 1)


def _render(
    resolved: ResolvedPreview, choices: tuple[Choice, ...], advice: tuple[str, ...], rows: list[PreviewRow]
) -> bytes:
    title = f"Views of {resolved.images.resolve().name or resolved.images}"
    preset = f"Preset {resolved.preset}" if resolved.preset else "No preset"
    settings = (
        f"{preset}, {resolved.image_size} px, crop {resolved.crop_min:g} to 1, color {resolved.color_strength:g}, "
        f"grayscale {resolved.grayscale:g}, flip {resolved.flip:g}, rotate {resolved.rotate:g}, "
        f"blur {resolved.blur:g}, seed {resolved.seed}."
    )
    if resolved.out.suffix.lower() in PAGE_SUFFIXES:
        return render_preview(title, settings, advice, rows, choices).encode("utf-8")
    return draw_contact_sheet(title, (settings, *advice), rows)


def measure_enlarged_share(sizes: Tensor, recipe: ViewRecipe, stored: int, size: int, seed: int) -> float:
    """Return the share of crops with less than half as many pixels along a side as a view.

    The stored image's pixels count, since training sees no others.

    Args:
        sizes: (N, 2) true heights and widths; a crop is drawn for each.
        stored: side of the stored squares, px.
        size: side of the views, px.
    """
    crops = draw_parameters(sizes, recipe, create_torch_generator(seed, Purpose.VIEWS, 1, 0)).crop
    pixels = crops[:, 2:] * (stored / sizes).clamp(max=1)  # (N, 2)
    return float((pixels.prod(dim=1).sqrt() < size / 2).double().mean())


def count_blank_views(views: Tensor) -> int:
    """Return how many of (V, 3, S, S) views in [0, 1] have nearly constant brightness."""
    return int((to_grayscale(views).flatten(1).std(dim=1, correction=0) < MIN_BRIGHTNESS_STD).sum())


def advise(resolved: ResolvedViews, enlarged: float, colors: Colors, blank: int, views: int) -> tuple[str, ...]:
    """Return sentences about the views.

    Args:
        enlarged: see measure_enlarged_share.
        colors: of the images.
        blank: the number of blank ones among the `views`.
    """
    advice = [_advise_on_crops(resolved, enlarged)]
    if not colors.are_gray:
        advice.append(_advise_on_color(resolved))
    elif not resolved.color_strength:
        advice.append("All sampled images are gray, and nothing changes their brightness and contrast.")
    elif not resolved.grayscale:
        advice.append("All sampled images are gray, so color jitter only changes brightness and contrast.")
    advice += warn_of_views(resolved, colors)
    if blank:
        verb = "is" if blank == 1 else "are"
        advice.append(
            f"{blank} of these {views} views {verb} nearly blank. "
            "A larger --crop-min or a lower --color-strength makes that rarer."
        )
    return tuple(advice)


def _advise_on_crops(resolved: ResolvedViews, enlarged: float) -> str:
    if not enlarged:
        return f"No crop is enlarged to more than twice its size to fill {resolved.image_size} px."
    share = _format_percent(enlarged).capitalize()
    reason = f"they are enlarged to more than twice their size to fill {resolved.image_size} px"
    remedy = " A larger --crop-min or a smaller --image-size makes them sharper."
    return f"{share} of the crops are blurred: {reason}.{remedy if enlarged > MAX_ENLARGED_SHARE else ''}"


def _advise_on_color(resolved: ResolvedViews) -> str:
    strength = resolved.color_strength
    if not strength and not resolved.grayscale:
        return (
            "Nothing changes colors here. The encoder may match views of one image by their colors only, "
            "a shortcut (section 3.1 of the paper)."
        )
    if not strength:
        return f"Colors stay as they are; {_format_percent(resolved.grayscale)} of the views are grayscale."
    return (
        f"Color jitter changes brightness, contrast and saturation by up to {_format_percent(0.8 * strength)} and "
        f"the hue by up to {360 * min(0.5, 0.2 * strength):.0f} degrees. If colors distinguish your images, use a "
        "lower --color-strength and --grayscale."
    )


def _format_percent(share: float) -> str:
    return "less than 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
