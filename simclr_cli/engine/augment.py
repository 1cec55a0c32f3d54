"""The two-view augmenter (section 2.1, appendix A): a batch of uint8 images -> random float views, in batch.

Each image of a batch has its own parameters, drawn on the CPU from a generator of (seed, step), so that they are
the same on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from simclr_cli.api.views import ResolvedViews
from simclr_cli.engine.image_ops import COLOR_OPERATIONS, gaussian_blur, resized_crop, to_grayscale, upload

AT_ONCE = 2**26  # values of float images in work at a time: 256 MiB
ATTEMPTS = 10  # crops tried before the whole image is taken, as torchvision and the paper's code do


@dataclass(frozen=True)
class ViewRecipe:
    """What a view may be: the paper's distribution and its knobs (appendix A)."""

    crop_area: tuple[float, float] = (0.08, 1.0)  # share of the image
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5  # probabilities
    rotate: float = 0.0  # of a turn by a random multiple of 90 degrees, none of them included; not the paper's
    jitter: float = 0.8
    grayscale: float = 0.2
    blur: float = 0.5
    strength: float = 1.0  # s: brightness, contrast and saturation within 0.8 s, hue within 0.2 s
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # px


@dataclass(frozen=True)
class ViewParameters:
    """What happens to each of B images to make one view; all on the CPU."""

    crop: Tensor  # (B, 4) float: top, left, height, width in pixels of the true image
    flip: Tensor  # (B,) bool
    factors: Tensor  # (B, 4) float: brightness, contrast, saturation (1 = unchanged), hue shift (0 = unchanged)
    order: Tensor  # (B, 4) int: which of the four comes first, second, ...; -1 everywhere: no jitter
    grayscale: Tensor  # (B,) bool
    sigma: Tensor  # (B,) float, px; 0: no blur
    rotate: Tensor  # (B,) int: quarter turns, anticlockwise, 0 to 3

    def __getitem__(self, part: slice) -> ViewParameters:
        """Those of some of the images."""
        return ViewParameters(*(value[part] for value in vars(self).values()))


def draw_parameters(sizes: Tensor, recipe: ViewRecipe, generator: torch.Generator) -> ViewParameters:
    """Draw one view's parameters for each image.

    Args:
        sizes: (B, 2) true heights and widths in pixels.
    """
    count = sizes.shape[0]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    def chance(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    crop = _draw_crops(sizes.float(), recipe, generator)
    flip = chance(recipe.flip)
    reach = 0.8 * recipe.strength
    factors = torch.stack(
        [uniform(max(0.0, 1 - reach), 1 + reach, count) for _ in range(3)]
        + [uniform(-min(0.5, 0.2 * recipe.strength), min(0.5, 0.2 * recipe.strength), count)],
        dim=1,
    )
    order = torch.rand(count, 4, generator=generator).argsort(dim=1)
    order = torch.where(chance(recipe.jitter)[:, None], order, -1)
    grayscale = chance(recipe.grayscale)
    sigma = uniform(*recipe.blur_sigma, count) * chance(recipe.blur)
    turn = torch.zeros(count, dtype=torch.long)
    if recipe.rotate:  # last, and only where it is wanted: runs without it draw what they drew before there were turns
        turn = torch.where(chance(recipe.rotate), torch.randint(4, (count,), generator=generator), turn)
    return ViewParameters(crop, flip, factors, order, grayscale, sigma, turn)


def _draw_crops(sizes: Tensor, recipe: ViewRecipe, generator: torch.Generator) -> Tensor:
    """torchvision's RandomResizedCrop for all images at once: up to ten draws, then the largest center crop."""
    count = sizes.shape[0]
    height, width = sizes[:, :1], sizes[:, 1:]  # (B, 1)
    draws = torch.rand(4, count, ATTEMPTS, generator=generator)
    low, high = recipe.crop_area
    area = height * width * (low + (high - low) * draws[0])
    log_low, log_high = math.log(recipe.crop_aspect[0]), math.log(recipe.crop_aspect[1])
    aspect = torch.exp(log_low + (log_high - log_low) * draws[1])
    w, h = torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)  # (B, ATTEMPTS)
    top = torch.floor(draws[2] * (height - h + 1))
    left = torch.floor(draws[3] * (width - w + 1))
    first = fits.float().argmax(dim=1, keepdim=True)  # the first that fits (0 if none does)
    tried = torch.stack([top, left, h, w], dim=2)  # (B, ATTEMPTS, 4)
    chosen = tried.gather(1, first[:, :, None].expand(-1, -1, 4)).squeeze(1)

    ratio = width / height
    w0 = torch.where(ratio > recipe.crop_aspect[1], (height * recipe.crop_aspect[1]).round(), width)
    h0 = torch.where(ratio < recipe.crop_aspect[0], (width / recipe.crop_aspect[0]).round(), height)
    center = torch.cat([((height - h0) / 2).floor(), ((width - w0) / 2).floor(), h0, w0], dim=1)
    return torch.where(fits.any(dim=1, keepdim=True), chosen, center)


def centre_crop(sizes: Tensor, share: float) -> ViewParameters:
    """No chance: the middle square of each image, of a share of its short side, as in evaluation; sizes: (B, 2)."""
    nothing = ViewRecipe(flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)
    plain = draw_parameters(sizes, nothing, torch.Generator())
    side = sizes.float().min(dim=1, keepdim=True).values * share  # (B, 1)
    return replace(plain, crop=torch.cat([(sizes - side) / 2, side, side], dim=1))


def make_view(pixels: Tensor, sizes: Tensor, parameters: ViewParameters, size: int) -> Tensor:
    """One view of each image, with the given parameters.

    Nothing here waits for the device: which rows an operation takes is known on the CPU, and copied in advance.

    Args:
        pixels: (B, 3, H, W) uint8, or floats in [0, 1]; images squashed to one shape.
        sizes: (B, 2) their true heights and widths, on the CPU, in whose pixels the crops are given.
        size: S, the view's side in pixels.

    Returns:
        (B, 3, S, S) float32 in [0, 1], on the device of `pixels`.
    """
    device = pixels.device
    x = resized_crop(pixels, parameters.crop, sizes, parameters.flip, size)

    def places(which: Tensor) -> Tensor | None:
        rows = which.nonzero().squeeze(1)
        return upload(rows, device) if len(rows) else None

    for turns in (1, 2, 3):
        if (where := places(parameters.rotate == turns)) is not None:
            x[where] = torch.rot90(x.index_select(0, where), turns, (2, 3))
    factors = upload(parameters.factors, device)
    for slot in range(4):
        for operation, apply in enumerate(COLOR_OPERATIONS):
            if (where := places(parameters.order[:, slot] == operation)) is not None:
                x[where] = apply(x.index_select(0, where), factors[where, operation].view(-1, 1, 1, 1))
    if (where := places(parameters.grayscale)) is not None:
        x[where] = to_grayscale(x.index_select(0, where)).expand(-1, 3, -1, -1)
    if (where := places(parameters.sigma)) is not None:
        x[where] = gaussian_blur(x.index_select(0, where), upload(parameters.sigma, device)[where])
    return x.clamp_(0, 1)


@dataclass(frozen=True)
class TwoViews:
    """A batch of images -> both views of each, stacked for one pass through the encoder."""

    size: int
    recipe: ViewRecipe

    def draw(self, sizes: Tensor, generator: torch.Generator) -> tuple[ViewParameters, ViewParameters]:
        """What the first and the second view of each image shall be; sizes: (N, 2)."""
        return draw_parameters(sizes, self.recipe, generator), draw_parameters(sizes, self.recipe, generator)

    def make(self, pixels: Tensor, sizes: Tensor, drawn: tuple[ViewParameters, ViewParameters]) -> Tensor:
        """(N, 3, H, W) uint8, (N, 2) true sizes on the CPU and what was drawn -> (2N, 3, S, S): first, then second."""
        both = ViewParameters(*map(torch.cat, zip(*(vars(one).values() for one in drawn), strict=True)))
        pixels, sizes = torch.cat([pixels, pixels]), torch.cat([sizes, sizes])
        # Both views of all images in few kernels, but in parts where floats of all at once would be a burden.
        at_once = max(1, AT_ONCE // max(pixels[0].numel(), 3 * self.size**2))
        parts = [slice(start, start + at_once) for start in range(0, len(pixels), at_once)]
        views = [make_view(pixels[part], sizes[part], both[part], self.size) for part in parts]
        return views[0] if len(views) == 1 else torch.cat(views)


def view_recipe(settings: ResolvedViews) -> ViewRecipe:
    """The views that resolved settings ask for."""
    return ViewRecipe(
        crop_area=(settings.crop_min, 1.0),
        flip=settings.flip,
        rotate=settings.rotate,
        jitter=0.8 if settings.color_strength else 0.0,
        grayscale=settings.grayscale,
        blur=settings.blur,
        strength=settings.color_strength,
    )
