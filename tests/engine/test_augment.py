"""Views against torchvision's, single and in batches; the draws against torchvision's and binomials."""

import dataclasses
import math
from collections import Counter
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from simclr_cli.engine import augment as views
from simclr_cli.engine.augment import (
    TwoViews,
    ViewParameters,
    ViewRecipe,
    create_center_crop,
    draw_parameters,
    make_view,
)
from simclr_cli.engine.image_ops import resized_crop

TOLERANCE = {"rtol": 0.0, "atol": 1e-5}  # of images in [0, 1]; 1/255 is 0.004
DRAWS = 4096
P_LEAST = 1e-3  # of a test of distribution; the seeds are fixed, so it passes always or never


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def both_of(augment: TwoViews, pixels: Tensor, sizes: Tensor, draw: torch.Generator) -> Tensor:
    """Return first views, then second views."""
    return augment.make(pixels, sizes, augment.draw(sizes, draw))


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


def drawn(recipe: ViewRecipe, height: int = 64, width: int = 64, count: int = DRAWS, seed: int = 0) -> ViewParameters:
    return draw_parameters(torch.tensor([[height, width]]).expand(count, 2), recipe, generator(seed))


def torchvision_crop(x: Tensor, crop: Tensor, flip: bool, size: int) -> Tensor:
    top, left, height, width = (int(value) for value in crop)
    x = tv.resized_crop(x, top, left, height, width, [size, size], InterpolationMode.BICUBIC, antialias=True)
    return (tv.horizontal_flip(x) if flip else x).clamp(0, 1)


# --- A whole view ---


def untouched(count: int, side: int) -> ViewParameters:
    """Return parameters of the whole image without any operation."""
    return ViewParameters(
        crop=torch.tensor([[0.0, 0.0, side, side]]).expand(count, 4),
        flip=torch.zeros(count, dtype=torch.bool),
        factors=torch.tensor([[1.0, 1.0, 1.0, 0.0]]).expand(count, 4),
        order=torch.full((count, 4), -1),
        grayscale=torch.zeros(count, dtype=torch.bool),
        sigma=torch.zeros(count),
        rotate=torch.zeros(count, dtype=torch.long),
    )


def torchvision_view(x: Tensor, parameters: ViewParameters, row: int, size: int) -> Tensor:
    """Compute one view, one operation after the other, in the order of the image (RECIPE, views 1 to 6)."""
    x = torchvision_crop(x, parameters.crop[row], bool(parameters.flip[row]), size)
    x = tv.rotate(x, 90.0 * int(parameters.rotate[row]))
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for operation in parameters.order[row].tolist():
        if operation >= 0:
            x = adjust[operation](x, float(parameters.factors[row, operation])).clamp(0, 1)
    if parameters.grayscale[row]:
        x = tv.rgb_to_grayscale(x, 3)
    if parameters.sigma[row] > 0:
        taps = 2 * max(1, size // 20) + 1
        x = tv.gaussian_blur(x, [taps, taps], [float(parameters.sigma[row])] * 2)
    return x.clamp(0, 1)


@pytest.mark.parametrize(("strength", "size"), [(1.0, 48), (0.5, 32), (2.0, 40)])
def test_a_view_equals_torchvision_image_by_image(strength: float, size: int) -> None:
    pixels = noise(64, 56, 44)
    parameters = drawn(ViewRecipe(strength=strength), 56, 44, count=64)
    assert len({tuple(order) for order in parameters.order.tolist()}) > 15
    ours = make_view(pixels, size_of(pixels), parameters, size)
    for row, x in enumerate(floats(pixels)):
        # Rounding grows with each contrast and saturation, by up to 1 + 0.8 s.
        torch.testing.assert_close(ours[row], torchvision_view(x, parameters, row, size), rtol=0, atol=5e-5)


def test_a_rotated_view_equals_torchvision_image_by_image() -> None:
    pixels = noise(64, 56, 44)
    parameters = drawn(ViewRecipe(rotate=1.0), 56, 44, count=64)
    assert set(parameters.rotate.tolist()) == {0, 1, 2, 3}
    ours = make_view(pixels, size_of(pixels), parameters, 48)
    for row, x in enumerate(floats(pixels)):
        torch.testing.assert_close(ours[row], torchvision_view(x, parameters, row, 48), rtol=0, atol=5e-5)


@pytest.mark.parametrize("rotations", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_rotation_follows_the_flip_and_is_counterclockwise(rotations: int, flip: bool) -> None:
    pixels = noise(3, 20, 20)
    parameters = dataclasses.replace(untouched(3, 20), flip=torch.full((3,), flip), rotate=torch.full((3,), rotations))
    expected = [torch.rot90(tv.horizontal_flip(x) if flip else x, rotations, (1, 2)) for x in floats(pixels)]
    ours = make_view(pixels, size_of(pixels), parameters, 20)
    torch.testing.assert_close(ours, torch.stack(expected), rtol=0, atol=1e-6)


def test_flips_and_rotations_make_all_eight_symmetries_equally_often() -> None:
    parameters = drawn(ViewRecipe(rotate=1.0))
    seen = Counter(zip(parameters.flip.tolist(), parameters.rotate.tolist(), strict=True))
    assert len(seen) == 8 and stats.chisquare(list(seen.values())).pvalue > P_LEAST


@pytest.mark.parametrize("rotate", [0.0, 0.3, 1.0])
def test_all_rotations_are_equally_likely(rotate: float) -> None:
    """With probability `rotate` one of four, including 0 degrees: 1 - rotate + rotate / 4 stay unchanged."""
    seen = torch.bincount(drawn(ViewRecipe(rotate=rotate)).rotate, minlength=4).tolist()
    for rotations, times in enumerate(seen):
        expected = rotate / 4 + (0 if rotations else 1 - rotate)
        assert stats.binomtest(times, DRAWS, expected).pvalue > P_LEAST


def test_without_rotation_the_stream_is_that_of_older_runs() -> None:
    """Runs from before rotation was added draw the same numbers in the same order."""
    recipe, ours, theirs, count = ViewRecipe(), generator(3), generator(3), 50
    parameters = draw_parameters(torch.tensor([[60, 80]]).expand(count, 2), recipe, ours)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=theirs)

    torch.rand(4, count, views.MAX_CROP_ATTEMPTS, generator=theirs)  # area, aspect, top, left
    assert torch.equal(parameters.flip, uniform(0, 1) < recipe.flip)
    factors = [*(uniform(1 - 0.8, 1 + 0.8) for _ in range(3)), uniform(-0.2, 0.2)]
    torch.testing.assert_close(parameters.factors, torch.stack(factors, dim=1))
    order = torch.rand(count, 4, generator=theirs).argsort(dim=1)
    assert torch.equal(parameters.order, torch.where((uniform(0, 1) < recipe.jitter)[:, None], order, -1))
    assert torch.equal(parameters.grayscale, uniform(0, 1) < recipe.grayscale)
    sigma = uniform(0.1, 2.0)
    assert torch.equal(parameters.sigma, sigma * (uniform(0, 1) < recipe.blur))
    assert not parameters.rotate.any()
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_rotation_does_not_change_other_parameters() -> None:
    plain, rotated = drawn(ViewRecipe()), drawn(ViewRecipe(rotate=1.0))
    for name in vars(plain):
        assert torch.equal(getattr(plain, name), getattr(rotated, name)) == (name != "rotate")


def test_grayscale_views_equal_torchvision() -> None:
    pixels = noise(2, 32, 32)
    parameters = dataclasses.replace(untouched(2, 32), grayscale=torch.tensor([True, False]))
    ours = make_view(pixels, size_of(pixels), parameters, 32)
    torch.testing.assert_close(ours[0], tv.rgb_to_grayscale(floats(pixels)[0], 3), **TOLERANCE)
    torch.testing.assert_close(ours[1], floats(pixels)[1], **TOLERANCE)


def test_without_any_operation_a_view_is_the_image() -> None:
    pixels = noise(2, 32, 32)
    torch.testing.assert_close(
        make_view(pixels, size_of(pixels), untouched(2, 32), 32), floats(pixels), rtol=0, atol=1e-6
    )


def waves(height: int, width: int) -> Tensor:
    """Return a (1, 3, H, W) image that is smooth, so squashing loses nothing, and different everywhere."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    channels = [torch.sin(9 * x + 3 * y * y), torch.cos(7 * y - 4 * x), torch.sin(11 * x * y + 2)]
    return 0.5 + 0.4 * torch.stack(channels)[None]


@pytest.mark.parametrize(("height", "width"), [(60, 150), (160, 50), (48, 48), (300, 400)])
def test_a_crop_of_a_squashed_image_equals_that_of_the_original(height: int, width: int) -> None:
    """Crops are drawn in original pixels; the stored 48 x 48 px are cut at the same shares of height and width."""
    true = waves(height, width)
    stored = tv.resize(true, [48, 48], InterpolationMode.BICUBIC, antialias=True)
    parameters = drawn(ViewRecipe(crop_area=(0.2, 1.0)), height, width, count=20)
    ours = resized_crop(
        stored.expand(20, -1, -1, -1), parameters.crop, torch.tensor([[height, width]]), parameters.flip, 32
    )
    for row in range(20):
        expected = torchvision_crop(true[0], parameters.crop[row], bool(parameters.flip[row]), 32)
        difference = (ours[row] - expected).abs()
        assert difference.mean() < 0.004 and difference.max() < 0.06  # a shift by one stored pixel gives 0.03 mean


# --- Distributions ---


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 100), (375, 500), (30, 210), (150, 20), (3, 4)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    """Areas 0.08 to 1, aspects 3/4 to 4/3, and for images too long for them the fallback to the center."""
    ours = drawn(ViewRecipe(), height, width).crop.T.double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        image = torch.empty(3, height, width)
        boxes = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(DRAWS)]
    theirs = torch.tensor(boxes).T.double()

    def figures(boxes: Tensor) -> dict[str, Tensor]:
        top, left, h, w = boxes
        return {"area": h * w, "aspect": w / h, "y": top + h / 2, "x": left + w / 2, "top": top, "left": left}

    for name, values in figures(ours).items():
        p = stats.ks_2samp(values.numpy(), figures(theirs)[name].numpy(), method="asymp").pvalue
        assert p > P_LEAST, f"{name}: p = {p}"


def test_crops_lie_inside_their_image_whatever_its_size() -> None:
    sizes = torch.randint(1, 700, (DRAWS, 2), generator=generator(4))
    crop = draw_parameters(sizes, ViewRecipe(), generator()).crop
    assert torch.equal(crop, crop.round())
    assert (crop[:, :2] >= 0).all() and (crop[:, 2:] >= 1).all()
    assert (crop[:, :2] + crop[:, 2:] <= sizes).all()


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_jitter_factors_are_uniform_in_the_papers_ranges(strength: float) -> None:
    """Appendix A: brightness, contrast, saturation within 0.8 s of 1 and never below 0; hue within 0.2 s."""
    factors = drawn(ViewRecipe(strength=strength)).factors.double()
    hue = min(0.5, 0.2 * strength)
    least, most = max(0.0, 1 - 0.8 * strength), 1 + 0.8 * strength
    for column, (low, high) in enumerate([(least, most)] * 3 + [(-hue, hue)]):
        values = factors[:, column]
        assert low - 1e-6 <= values.min() and values.max() <= high + 1e-6
        assert stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue > P_LEAST
    correlation = torch.corrcoef(factors.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(DRAWS)


def test_all_orders_of_the_jitter_are_equally_frequent() -> None:
    orders = Counter(tuple(order) for order in drawn(ViewRecipe(jitter=1.0)).order.tolist())
    assert len(orders) == 24 and all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert stats.chisquare(list(orders.values())).pvalue > P_LEAST


@pytest.mark.parametrize(
    ("flip", "jitter", "grayscale", "blur"), [(0.5, 0.8, 0.2, 0.5), (0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0)]
)
def test_each_operation_has_its_probability(flip: float, jitter: float, grayscale: float, blur: float) -> None:
    parameters = drawn(ViewRecipe(flip=flip, jitter=jitter, grayscale=grayscale, blur=blur))
    jittered = (parameters.order >= 0).all(1)
    assert torch.equal(jittered, (parameters.order >= 0).any(1))  # all four or none
    happened = {flip: parameters.flip, jitter: jittered, grayscale: parameters.grayscale, blur: parameters.sigma > 0}
    for probability, rows in happened.items():
        assert stats.binomtest(int(rows.sum()), DRAWS, probability).pvalue > P_LEAST


def test_the_papers_probabilities_are_the_defaults() -> None:
    recipe = ViewRecipe()
    assert (recipe.flip, recipe.rotate, recipe.jitter, recipe.grayscale, recipe.blur) == (0.5, 0.0, 0.8, 0.2, 0.5)
    assert (recipe.crop_area, recipe.crop_aspect, recipe.blur_sigma) == ((0.08, 1.0), (3 / 4, 4 / 3), (0.1, 2.0))


def test_operations_are_independent_of_one_another() -> None:
    parameters = drawn(ViewRecipe())
    happened = torch.stack([parameters.flip, parameters.order[:, 0] >= 0, parameters.grayscale, parameters.sigma > 0])
    correlation = torch.corrcoef(happened.double()) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(DRAWS)


def test_sigma_of_the_blur_is_uniform() -> None:
    sigma = drawn(ViewRecipe()).sigma
    sigma = sigma[sigma > 0].double().numpy()
    assert stats.kstest(sigma, "uniform", (0.1, 1.9)).pvalue > P_LEAST


# --- Two views of a batch ---


def test_each_image_and_each_view_has_its_own_parameters() -> None:
    pixels = noise(1, 40, 40).expand(16, -1, -1, -1)  # the same image 16 times
    both = both_of(TwoViews(32, ViewRecipe()), pixels, size_of(pixels), generator())
    assert len(torch.unique(both.flatten(1), dim=0)) == 32


def test_row_i_and_row_i_plus_n_show_the_same_image() -> None:
    colors = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250], [128, 128, 128]], dtype=torch.uint8)
    pixels = colors[:, :, None, None].expand(-1, -1, 20, 20)
    both = both_of(TwoViews(16, ViewRecipe(jitter=0, grayscale=0)), pixels, size_of(pixels), generator())
    torch.testing.assert_close(both.mean((2, 3)), floats(colors).repeat(2, 1), **TOLERANCE)


def test_the_same_generator_seed_gives_the_same_views_and_another_gives_others() -> None:
    pixels = noise(4, 40, 40)
    augment = TwoViews(32, ViewRecipe())
    first, again, other = (both_of(augment, pixels, size_of(pixels), generator(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).flatten(1).all(1).any()


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    pixels = noise(2, 40, 40)
    augment = TwoViews(32, ViewRecipe())
    before = torch.get_rng_state()
    first = both_of(augment, pixels, size_of(pixels), generator())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(both_of(augment, pixels, size_of(pixels), generator()), first)


def test_a_rows_view_does_not_depend_on_the_rest_of_the_batch() -> None:
    pixels = noise(8, 40, 40)
    parameters = drawn(ViewRecipe(), 40, 40, count=8)
    whole = make_view(pixels, size_of(pixels), parameters, 32)
    for row in range(8):
        alone = ViewParameters(
            *(getattr(parameters, field.name)[row : row + 1] for field in dataclasses.fields(parameters))
        )
        torch.testing.assert_close(make_view(pixels[row : row + 1], torch.tensor([[40, 40]]), alone, 32)[0], whole[row])


def test_views_are_float32_in_0_to_1_and_do_not_change_the_pixels() -> None:
    pixels = noise(16, 50, 50)
    original = pixels.clone()
    both = both_of(TwoViews(24, ViewRecipe(strength=2.0)), pixels, size_of(pixels), generator())
    assert both.shape == (32, 3, 24, 24) and both.dtype == torch.float32
    assert both.min() >= 0 and both.max() <= 1
    assert torch.equal(pixels, original)


def test_a_view_of_floats_does_not_change_them() -> None:
    """Pixels may be floats in [0, 1] too."""
    pixels = floats(noise(2, 20, 20))
    original = pixels.clone()
    ours = make_view(pixels, size_of(pixels), untouched(2, 20), 20)
    torch.testing.assert_close(ours, original, rtol=0, atol=1e-6)
    assert torch.equal(pixels, original)


def make_separately(pixels: Tensor, sizes: Tensor, recipe: ViewRecipe, size: int, seed: int) -> Tensor:
    """Make first and second views in two calls."""
    draws = generator(seed)
    first, second = (draw_parameters(sizes, recipe, draws) for _ in range(2))
    return torch.cat([make_view(pixels, sizes, parameters, size) for parameters in (first, second)])


def test_both_views_equal_those_made_separately() -> None:
    pixels, recipe = noise(24, 40, 36), ViewRecipe(rotate=0.5)
    sizes = torch.randint(20, 400, (24, 2), generator=generator(8))
    both = both_of(TwoViews(32, recipe), pixels, sizes, generator(5))
    torch.testing.assert_close(both, make_separately(pixels, sizes, recipe, 32, seed=5), rtol=0, atol=2e-6)


@pytest.mark.parametrize("images", [0.5, 1, 3, 7, 13, 14, 100])
def test_views_made_in_chunks_equal_those_made_at_once(images: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of less than an image, of one, across the border of the two views, of all but one, of all."""
    pixels, augment = noise(7, 40, 36), TwoViews(24, ViewRecipe(rotate=0.5))
    sizes = torch.randint(20, 400, (7, 2), generator=generator(8))
    at_once = both_of(augment, pixels, sizes, generator(5))
    seen: list[int] = []
    plain = views.make_view

    def watched(part: Tensor, *rest: Any) -> Tensor:
        seen.append(part.numel())
        return plain(part, *rest)

    monkeypatch.setattr(views, "MAX_FLOATS_PER_CHUNK", int(images * 3 * 40 * 36))
    monkeypatch.setattr(views, "make_view", watched)
    assert torch.equal(both_of(augment, pixels, sizes, generator(5)), at_once)
    assert sum(seen) == 2 * pixels.numel()
    assert len(seen) == math.ceil(14 / max(1, int(images)))
    assert max(seen) <= max(views.MAX_FLOATS_PER_CHUNK, pixels[0].numel())


def test_chunks_are_limited_where_views_are_larger_than_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For icons of 8 px seen at 32 px, MAX_FLOATS_PER_CHUNK limits the floats of the views."""
    pixels, plain, made = noise(6, 8, 8), views.make_view, []

    def watched(*given: Any) -> Tensor:
        made.append(plain(*given))
        return made[-1]

    monkeypatch.setattr(views, "MAX_FLOATS_PER_CHUNK", 2 * 3 * 32 * 32)
    monkeypatch.setattr(views, "make_view", watched)
    both_of(TwoViews(32, ViewRecipe()), pixels, size_of(pixels), generator())
    assert max(view.numel() for view in made) <= views.MAX_FLOATS_PER_CHUNK


def test_a_slice_of_parameters_has_those_of_its_images() -> None:
    parameters = drawn(ViewRecipe(), count=9)
    part = parameters[2:5]
    for field in dataclasses.fields(parameters):
        assert torch.equal(getattr(part, field.name), getattr(parameters, field.name)[2:5])


def test_a_center_crop_is_the_only_operation_of_evaluation() -> None:
    sizes = torch.tensor([[100, 60], [40, 40], [7, 200]])
    crop, flip, _, order, grayscale, sigma, rotate = dataclasses.astuple(create_center_crop(sizes, 0.5))
    assert crop.tolist() == [[35, 15, 30, 30], [10, 10, 20, 20], [1.75, 98.25, 3.5, 3.5]]
    assert (order == -1).all() and not any(each.any() for each in (flip, grayscale, sigma, rotate))


@pytest.mark.parametrize("stored", [1, 8, 48])
def test_tiny_and_thread_thin_images_give_finite_views(stored: int) -> None:
    """A thin crop may fall between two stored pixels."""
    sizes = torch.tensor([[1, 1], [1, 5], [7, 1], [2, 3], [1, 4000], [4000, 1]]).repeat(4, 1)
    pixels = noise(24, 48, 48)[:, :, :stored, :stored]
    both = both_of(TwoViews(16, ViewRecipe(blur=1.0)), pixels, sizes, generator())
    assert both.isfinite().all() and both.min() >= 0 and both.max() <= 1


def test_images_of_different_true_sizes_share_a_batch() -> None:
    pixels = noise(1, 48, 48).expand(2, -1, -1, -1)
    sizes = torch.tensor([[48, 48], [96, 480]])
    whole = dataclasses.replace(untouched(2, 48), crop=torch.tensor([[0.0, 0, 48, 48], [0, 0, 96, 480]]))
    x = make_view(pixels, sizes, whole, 32)
    torch.testing.assert_close(x[0], x[1])  # both are the whole stored image
