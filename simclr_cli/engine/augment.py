"""Two random views of every image of a batch (section 2.1, appendix A): uint8 images -> float views.

Each image has its own parameters. They are drawn on the CPU from a generator of (seed, step), so every device gets
the same ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from simclr_cli.api.views import ResolvedViews
from simclr_cli.engine.image_ops import COLOR_OPERATIONS, gaussian_blur, resized_crop, to_grayscale, upload

MAX_FLOATS_PER_CHUNK = 2**26  # of float images at a time: 256 MiB
MAX_CROP_ATTEMPTS = 10  # then the largest center crop, as in torchvision and the paper's code


@dataclass(frozen=True)
class ViewRecipe:
    """Distribution of the views (appendix A)."""

    crop_area: tuple[float, float] = (0.08, 1.0)  # share of the image
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5  # probability, as are the next four
    rotate: float = 0.0  # by 0, 90, 180 or 270 degrees, equally likely; not in the paper
    jitter: float = 0.8
    grayscale: float = 0.2
    blur: float = 0.5
    strength: float = 1.0  # s: brightness, contrast and saturation within 0.8 s, hue within 0.2 s
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # px


@dataclass(frozen=True)
class ViewParameters:
    """Parameters of one view of each of B images; all on the CPU."""

    crop: Tensor  # (B, 4) float: top, left, height, width in pixels of the original image
    flip: Tensor  # (B,) bool
    factors: Tensor  # (B, 4) float: brightness, contrast, saturation (1 = unchanged), hue shift (0 = unchanged)
    order: Tensor  # (B, 4) int: the operation that comes first, second, ...; -1 everywhere: no jitter
    grayscale: Tensor  # (B,) bool
    sigma: Tensor  # (B,) float, px; 0: no blur
    rotate: Tensor  # (B,) int: counterclockwise rotations by 90 degrees, 0 to 3

    def __getitem__(self, part: slice) -> ViewParameters:
        """Return the parameters of a slice of the images."""
        return ViewParameters(*(value[part] for value in vars(self).values()))


def draw_parameters(sizes: Tensor, recipe: ViewRecipe, generator: torch.Generator) -> ViewParameters:
    """Draw the parameters of one view of each image.

    Args:
        sizes: (B, 2) original heights and widths in pixels.
    """
    count = sizes.shape[0]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    def chance(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    crop = _draw_crops(sizes.float(), recipe, generator)
    flip = chance(recipe.flip)
    spread = 0.8 * recipe.strength
    factors = torch.stack(
        [uniform(max(0.0, 1 - spread), 1 + spread, count) for _ in range(3)]
        + [uniform(-min(0.5, 0.2 * recipe.strength), min(0.5, 0.2 * recipe.strength), count)],
        dim=1,
    )
    order = torch.rand(count, 4, generator=generator).argsort(dim=1)
    order = torch.where(chance(recipe.jitter)[:, None], order, -1)
    grayscale = chance(recipe.grayscale)
    sigma = uniform(*recipe.blur_sigma, count) * chance(recipe.blur)
    rotate = torch.zeros(count, dtype=torch.long)
    if recipe.rotate:  # drawn last and only if used: other runs draw the same numbers as before rotation was added
        rotate = torch.where(chance(recipe.rotate), torch.randint(4, (count,), generator=generator), rotate)
    return ViewParameters(crop, flip, factors, order, grayscale, sigma, rotate)


def _draw_crops(sizes: Tensor, recipe: ViewRecipe, generator: torch.Generator) -> Tensor:
    """Draw torchvision's RandomResizedCrop for all images at once: up to ten tries, then the largest center crop."""
    count = sizes.shape[0]
    height, width = sizes[:, :1], sizes[:, 1:]  # (B, 1)
    draws = torch.rand(4, count, MAX_CROP_ATTEMPTS, generator=generator)
    low, high = recipe.crop_area
    area = height * width * (low + (high - low) * draws[0])
    log_low, log_high = math.log(recipe.crop_aspect[0]), math.log(recipe.crop_aspect[1])
    aspect = torch.exp(log_low + (log_high - log_low) * draws[1])
    w, h = torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)  # (B, MAX_CROP_ATTEMPTS)
    top = torch.floor(draws[2] * (height - h + 1))
    left = torch.floor(draws[3] * (width - w + 1))
    first = fits.float().argmax(dim=1, keepdim=True)  # 0 if none fits
    candidates = torch.stack([top, left, h, w], dim=2)  # (B, MAX_CROP_ATTEMPTS, 4)
    crop = candidates.gather(1, first[:, :, None].expand(-1, -1, 4)).squeeze(1)

    ratio = width / height
    w0 = torch.where(ratio > recipe.crop_aspect[1], (height * recipe.crop_aspect[1]).round(), width)
    h0 = torch.where(ratio < recipe.crop_aspect[0], (width / recipe.crop_aspect[0]).round(), height)
    center = torch.cat([((height - h0) / 2).floor(), ((width - w0) / 2).floor(), h0, w0], dim=1)
    return torch.where(fits.any(dim=1, keepdim=True), crop, center)


def create_center_crop(sizes: Tensor, fraction: float) -> ViewParameters:
    """Return the parameters of evaluation: the center square with a fraction of the short side, nothing random.

    Args:
        sizes: (B, 2) original heights and widths in pixels.
    """
    recipe = ViewRecipe(flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)
    parameters = draw_parameters(sizes, recipe, torch.Generator())
    side = sizes.float().min(dim=1, keepdim=True).values * fraction  # (B, 1)
    return replace(parameters, crop=torch.cat([(sizes - side) / 2, side, side], dim=1))


def make_view(pixels: Tensor, sizes: Tensor, parameters: ViewParameters, size: int) -> Tensor:
    """Make one view of each image.

    The CPU never waits for the device: it knows the rows that each operation changes, and uploads their numbers ahead.

    Args:
        pixels: (B, 3, H, W) uint8, or floats in [0, 1]; images squashed to one shape.
        sizes: (B, 2) original heights and widths, on the CPU; crops are in their pixels.
        size: S, the side of a view in pixels.

    Returns:
        (B, 3, S, S) float32 in [0, 1], on the device of `pixels`.
    """
    device = pixels.device
    x = resized_crop(pixels, parameters.crop, sizes, parameters.flip, size)

    def select_rows(mask: Tensor) -> Tensor | None:
        rows = mask.nonzero().squeeze(1)
        return upload(rows, device) if len(rows) else None

    for rotations in (1, 2, 3):
        if (rows := select_rows(parameters.rotate == rotations)) is not None:
            x[rows] = torch.rot90(x.index_select(0, rows), rotations, (2, 3))
    factors = upload(parameters.factors, device)
    for slot in range(4):
        for operation, apply in enumerate(COLOR_OPERATIONS):
            if (rows := select_rows(parameters.order[:, slot] == operation)) is not None:
                x[rows] = apply(x.index_select(0, rows), factors[rows, operation].view(-1, 1, 1, 1))
    if (rows := select_rows(parameters.grayscale)) is not None:
        x[rows] = to_grayscale(x.index_select(0, rows)).expand(-1, 3, -1, -1)
    if (rows := select_rows(parameters.sigma)) is not None:
        x[rows] = gaussian_blur(x.index_select(0, rows), upload(parameters.sigma, device)[rows])
    return x.clamp_(0, 1)


@dataclass(frozen=True)
class TwoViews:
    """Transform of a batch of images into two views of each, stacked for one pass through the encoder."""

    size: int
    recipe: ViewRecipe

    def draw(self, sizes: Tensor, generator: torch.Generator) -> tuple[ViewParameters, ViewParameters]:
        """Draw the parameters of the first and the second view of each image; sizes: (N, 2)."""
        return draw_parameters(sizes, self.recipe, generator), draw_parameters(sizes, self.recipe, generator)

    def make(self, pixels: Tensor, sizes: Tensor, parameters: tuple[ViewParameters, ViewParameters]) -> Tensor:
        """Make (2N, 3, S, S) views, all first ones and then all second ones.

        Args:
            pixels: (N, 3, H, W) uint8; sizes: (N, 2) original heights and widths, on the CPU.
            parameters: as returned by `draw`.
        """
        both = ViewParameters(*map(torch.cat, zip(*(vars(view).values() for view in parameters), strict=True)))
        pixels, sizes = torch.cat([pixels, pixels]), torch.cat([sizes, sizes])
        # Both views of all images in few kernels, in chunks where their floats would need much memory.
        chunk = max(1, MAX_FLOATS_PER_CHUNK // max(pixels[0].numel(), 3 * self.size**2))
        parts = [slice(start, start + chunk) for start in range(0, len(pixels), chunk)]
        views = [make_view(pixels[part], sizes[part], both[part], self.size) for part in parts]
        return views[0] if len(views) == 1 else torch.cat(views)


def create_view_recipe(settings: ResolvedViews) -> ViewRecipe:
    """Create the recipe that resolved settings describe."""
    return ViewRecipe(
        crop_area=(settings.crop_min, 1.0),
        flip=settings.flip,
        rotate=settings.rotate,
        jitter=0.8 if settings.color_strength else 0.0,
        grayscale=settings.grayscale,
        blur=settings.blur,
        strength=settings.color_strength,
    )
