"""Image operations against Pillow, torchvision, colorsys, and explicit loops."""

import colorsys
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from simclr_cli.engine.augment import ViewRecipe, draw_parameters
from simclr_cli.engine.image_ops import (
    COLOR_OPERATIONS,
    compute_resampling_matrices,
    gaussian_blur,
    resized_crop,
    to_grayscale,
)

TOLERANCE = {"rtol": 0.0, "atol": 1e-5}  # of images in [0, 1]; 1/255 is 0.004


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Draw uint8 noise, the hardest image to resample equally, with gray, black and white patches."""
    pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator(seed))
    pixels[..., :2, :] = 0
    pixels[..., 2:4, :] = 255
    pixels[:, :, 4:6] = pixels[:, :1, 4:6]
    return pixels


def size_of(pixels: Tensor) -> Tensor:
    """Return (B, 2) sizes of images that are stored at their original size."""
    return torch.tensor(pixels.shape[-2:]).expand(len(pixels), 2)


def floats(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def torchvision_crop(x: Tensor, crop: Tensor, flip: bool, size: int) -> Tensor:
    top, left, height, width = (int(value) for value in crop)
    x = tv.resized_crop(x, top, left, height, width, [size, size], InterpolationMode.BICUBIC, antialias=True)
    return (tv.horizontal_flip(x) if flip else x).clamp(0, 1)


# --- Resampling ---


@pytest.mark.parametrize(
    ("crop", "size"),
    [
        ((0, 0, 40, 56), 32),  # the whole image, down
        ((3, 7, 13, 9), 32),  # up, odd
        ((5, 11, 17, 31), 23),  # up one way, down the other; odd size
        ((39, 55, 1, 1), 8),  # one pixel
        ((0, 20, 40, 1), 16),  # a column
        ((8, 8, 32, 32), 32),  # nothing to resample
        ((1, 2, 39, 53), 8),  # far down
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_resized_crop_equals_torchvision(crop: tuple[int, ...], size: int, flip: bool) -> None:
    pixels = noise(1, 40, 56)
    box = torch.tensor([crop]).float()
    ours = resized_crop(floats(pixels), box, size_of(pixels), torch.tensor([flip]), size)
    torch.testing.assert_close(ours[0], torchvision_crop(floats(pixels)[0], box[0], flip, size), **TOLERANCE)


def test_images_of_a_batch_are_resized_independently() -> None:
    pixels = noise(24, 48, 40)
    parameters = draw_parameters(size_of(pixels), ViewRecipe(), generator())
    ours = resized_crop(floats(pixels), parameters.crop, size_of(pixels), parameters.flip, 32)
    for row, x in enumerate(floats(pixels)):
        expected = torchvision_crop(x, parameters.crop[row], bool(parameters.flip[row]), 32)
        torch.testing.assert_close(ours[row], expected, **TOLERANCE)


def test_rows_of_a_resampling_matrix_sum_to_one_and_ignore_pixels_outside_the_crop() -> None:
    start, length = torch.tensor([0.0, 10.0, 3.25]), torch.tensor([50.0, 20.0, 0.5])
    matrix = compute_resampling_matrices(start, length, pixels=50, size=16)
    torch.testing.assert_close(matrix.sum(2), torch.ones(3, 16))
    assert not matrix[1, :, :10].any() and not matrix[1, :, 30:].any()


def cubic(t: float) -> float:
    """Compute Keys' cubic with a = -0.5, as in Pillow."""
    t = abs(t)
    if t < 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def compute_weights_in_loops(start: float, length: float, pixels: int, size: int) -> list[list[float]]:
    """Compute (size, pixels) weights of antialiased bicubic for each pixel whose center lies in the crop."""
    step = length / size
    stretch = max(1.0, step)
    middle = start + length / 2
    rows = []
    for i in range(size):
        center = start + (i + 0.5) * step
        weights = []
        for pixel in range(pixels):
            inside = start <= pixel + 0.5 < start + length or abs(pixel + 0.5 - middle) <= 0.5
            weights.append(cubic((pixel + 0.5 - center) / stretch) if inside else 0.0)
        rows.append([weight / sum(weights) for weight in weights])
    return rows


def by_pillow(start: int, length: int, pixels: int, size: int) -> Tensor:
    """Compute the same weights by Pillow, from images with one lit pixel each."""
    lit = Image.fromarray(np.eye(pixels, dtype=np.float32)).crop((start, 0, start + length, pixels))
    return torch.from_numpy(np.asarray(lit.resize((size, pixels), Image.Resampling.BICUBIC)).T.copy())


def matrix_of(start: float, length: float, pixels: int, size: int) -> Tensor:
    return compute_resampling_matrices(torch.tensor([start]), torch.tensor([length]), pixels, size)[0]


# (start, length, pixels): whole, both edges, the middle, single pixels at both ends and within.
WHOLE_CROPS = [
    (0, 30, 30), (0, 7, 30), (23, 7, 30), (11, 13, 30), (0, 1, 30), (29, 1, 30), (14, 1, 30), (0, 1, 1), (0, 2, 2),
    (1, 299, 300), (0, 299, 300),
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 30, 64])
@pytest.mark.parametrize(("start", "length", "pixels"), WHOLE_CROPS)
def test_weights_are_pillows_at_every_edge_up_and_down(start: int, length: int, pixels: int, size: int) -> None:
    ours = matrix_of(start, length, pixels, size)
    torch.testing.assert_close(ours, by_pillow(start, length, pixels, size), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        ours, torch.tensor(compute_weights_in_loops(start, length, pixels, size)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("size", [3, 16, 41])
@pytest.mark.parametrize("pixels", [5, 24, 96])
def test_weights_of_crops_between_pixels_equal_loops(pixels: int, size: int) -> None:
    """Crops of squashed images begin and end at any fraction of a pixel, at the edges too."""
    random = np.random.default_rng([pixels, size])
    crops = [(0.0, 0.4), (0.0, pixels - 0.3), (0.3, pixels - 0.3), (pixels - 0.4, 0.4), (0.0, float(pixels))]
    while len(crops) < 25:
        length = pixels ** random.uniform(-0.5, 1)
        start = random.uniform(0, pixels - length)
        nearest = min(abs(edge % 1 - 0.5) for edge in (start, start + length, start + length / 2))
        if nearest > 0.01:  # else rounding decides whether a pixel's center lies in the crop
            crops.append((start, length))
    starts, lengths = torch.tensor(crops).T
    ours = compute_resampling_matrices(starts, lengths, pixels, size)
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        expected = torch.tensor(compute_weights_in_loops(start, length, pixels, size))
        torch.testing.assert_close(ours[row], expected, rtol=0, atol=2e-5, msg=f"{start} {length}")


@pytest.mark.parametrize(("pixels", "size"), [(1, 8), (8, 4), (48, 32), (48, 224), (336, 224), (1000, 3)])
def test_rows_sum_to_one_wherever_the_crop_lies_and_however_thin_it_is(pixels: int, size: int) -> None:
    length = torch.logspace(-3, 0, 40).repeat(8) * pixels
    start = torch.rand(320, generator=generator()) * (pixels - length)
    start[::7], start[1::7] = 0, (pixels - length)[1::7]
    matrix = compute_resampling_matrices(start, length, pixels, size)
    assert matrix.shape == (320, size, pixels) and matrix.isfinite().all()
    torch.testing.assert_close(matrix.sum(2), torch.ones(320, size), rtol=0, atol=1e-5)
    centers = torch.arange(pixels) + 0.5
    outside = (centers < start[:, None] - 0.51) | (centers > (start + length)[:, None] + 0.51)
    assert not matrix.transpose(1, 2)[outside].any()


def test_crops_thinner_than_a_stored_pixel_show_the_pixel_that_they_lie_in() -> None:
    """Every crop of one original pixel in an image of 40, stored at 8: five original pixels share one."""
    start = torch.arange(40) * 0.2
    matrix = compute_resampling_matrices(start, torch.full((40,), 0.2), pixels=8, size=4)
    expected = torch.eye(8)[torch.arange(40) // 5]
    torch.testing.assert_close(matrix, expected[:, None].expand(-1, 4, -1))


def test_a_thin_crop_between_two_pixels_shows_the_middle_of_both() -> None:
    matrix = compute_resampling_matrices(torch.tensor([1.75]), torch.tensor([0.5]), pixels=4, size=1)
    torch.testing.assert_close(matrix, torch.tensor([[[0.0, 0.5, 0.5, 0.0]]]))


# --- Colors and blur ---


FACTORS = (0.0, 0.2, 0.6, 1.0, 1.3, 1.8, 2.6)


@pytest.mark.parametrize(
    ("operation", "torchvision", "factors"),
    [
        (0, tv.adjust_brightness, FACTORS),
        (1, tv.adjust_contrast, FACTORS),
        (2, tv.adjust_saturation, FACTORS),
        (3, tv.adjust_hue, (-0.5, -0.2, -0.05, 0.0, 0.1, 1 / 6, 0.2, 0.5)),
    ],
)
def test_color_operations_equal_torchvision(operation: int, torchvision, factors: tuple[float, ...]) -> None:
    x = floats(noise(len(factors), 12, 10))
    ours = COLOR_OPERATIONS[operation](x, torch.tensor(factors).view(-1, 1, 1, 1))
    for row, factor in enumerate(factors):
        torch.testing.assert_close(ours[row], torchvision(x[row], factor), **TOLERANCE)


def test_hue_equals_torchvision_on_the_corners_of_the_color_cube() -> None:
    """If two channels are equally high, a color has two values in HSV."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * 3).T.reshape(1, 3, 1, 27)
    for shift in (-0.4, 0.15, 0.5):
        ours = COLOR_OPERATIONS[3](corners, torch.tensor(shift).view(1, 1, 1, 1))
        torch.testing.assert_close(ours, tv.adjust_hue(corners, shift), **TOLERANCE)


def by_colorsys(color: Tensor, shift: float) -> list[float]:
    hue, saturation, value = colorsys.rgb_to_hsv(*color.tolist())
    return list(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))


# Sixths and halves of the circle, whole circles and values close to them, and more than one circle.
SHIFTS = (0.0, 1 / 6, -1 / 6, 1 / 3, 0.5, -0.5, 5 / 6, 0.999, 1.0, -1.0, 1.001, -1.001, 1.5, -1.5, 2.0, 2.3, -3.7)


@pytest.mark.parametrize("shift", SHIFTS)
def test_hue_equals_colorsys_pixel_by_pixel(shift: float) -> None:
    """Random colors, and the corners and edges of the color cube, where two channels are equally high."""
    chance = torch.rand(300, 3, generator=generator())
    corners = torch.tensor(list(itertools.product([0.0, 0.25, 0.5, 1.0], repeat=3)))
    colors = torch.cat([chance, corners])
    ours = COLOR_OPERATIONS[3](colors.T.reshape(1, 3, 1, -1), torch.tensor(shift).view(1, 1, 1, 1))
    expected = torch.tensor([by_colorsys(color, shift) for color in colors.double()])
    torch.testing.assert_close(ours[0, :, 0].T, expected, **TOLERANCE)


def test_images_of_a_batch_have_independent_hues() -> None:
    x, shifts = floats(noise(3, 8, 8)), torch.tensor([-0.3, 0.0, 0.4])
    ours = COLOR_OPERATIONS[3](x, shifts.view(-1, 1, 1, 1))
    for row, shift in enumerate(shifts):
        torch.testing.assert_close(ours[row : row + 1], COLOR_OPERATIONS[3](x[row : row + 1], shift.view(1, 1, 1, 1)))


def test_operations_do_not_change_their_input() -> None:
    x = floats(noise(2, 16, 16))
    original = x.clone()
    for operation in COLOR_OPERATIONS:
        operation(x, torch.full((2, 1, 1, 1), 0.4))
    gaussian_blur(x, torch.tensor([0.5, 1.5]))
    to_grayscale(x)
    resized_crop(x, torch.tensor([[2.0, 3.0, 9.0, 8.0]] * 2), size_of(x), torch.tensor([True, False]), 8)
    assert torch.equal(x, original)


def test_grayscale_is_torchvisions() -> None:
    x = floats(noise(2, 9, 7))
    torch.testing.assert_close(to_grayscale(x), tv.rgb_to_grayscale(x), **TOLERANCE)
    assert to_grayscale(x).shape == (2, 1, 9, 7)


@pytest.mark.parametrize(("size", "taps"), [(32, 3), (64, 7), (96, 9), (224, 23)])
def test_blur_equals_torchvision_with_a_kernel_of_a_tenth(size: int, taps: int) -> None:
    """The paper's code has 23 taps at 224 px: twice the radius and one."""
    x = floats(noise(3, size, size))
    sigma = (0.1, 0.9, 2.0)
    ours = gaussian_blur(x, torch.tensor(sigma))
    for row, one in enumerate(sigma):
        torch.testing.assert_close(ours[row], tv.gaussian_blur(x[row], [taps, taps], [one, one]), **TOLERANCE)
    dot = torch.zeros(1, 3, size, size)
    dot[..., size // 2, size // 2] = 1
    reached = gaussian_blur(dot, torch.tensor([50.0]))[0, 0] > 0
    assert reached.any(0).sum() == reached.any(1).sum() == taps


def test_saturation_and_hue_do_nothing_to_a_grayscale_image() -> None:
    """Brightness and contrast do change it, as in docs/presets.md."""
    grayscale = torch.rand(4, 1, 12, 12, generator=generator()).expand(-1, 3, -1, -1).contiguous()
    brightness, contrast, saturation, hue = COLOR_OPERATIONS
    factor = torch.full((4, 1, 1, 1), 0.3)
    assert (saturation(grayscale.clone(), factor) - grayscale).abs().max() < 2e-4  # the eye's weights sum to 0.9999
    assert (hue(grayscale.clone(), factor) - grayscale).abs().max() < 1e-6
    assert (brightness(grayscale.clone(), factor) - grayscale).abs().max() > 0.3
    assert (contrast(grayscale.clone(), factor) - grayscale).abs().max() > 0.3
