"""What to notice about the views of a folder: few sentences, each computed from the pictures."""

from __future__ import annotations

from torch import Tensor

from simclr_cli.engine.operations import to_grey
from simclr_cli.engine.views import ViewRecipe, draw_parameters
from simclr_cli.seeds import Purpose, torch_generator
from simclr_cli.settings.views import ResolvedViews

MANY = 0.1  # of the crops, from which on too small ones are worth a change
GREY_WITHIN = 3  # of 255, between the channels of a grey picture: JPEG rounds
BLANK = 0.02  # standard deviation of the brightness of a view, of 1, below which it shows next to nothing


def enlarged_share(sizes: Tensor, recipe: ViewRecipe, stored: int, size: int, seed: int) -> float:
    """The share of crops that hold less than half of the pixels that a view has along a side.

    Counted are the stored picture's pixels, for those are all that training sees of it.

    Args:
        sizes: (N, 2) true heights and widths; a crop is drawn for each.
        stored: side of the stored squares, px; size: of the views.
    """
    crops = draw_parameters(sizes, recipe, torch_generator(seed, Purpose.VIEWS, 1, 0)).crop
    pixels = crops[:, 2:] * (stored / sizes).clamp(max=1)  # (N, 2)
    return float((pixels.prod(dim=1).sqrt() < size / 2).double().mean())


def all_grey(pixels: Tensor) -> bool:
    """Whether all of (P, 3, H, W) uint8 pictures are without colour."""
    wide = pixels.short()
    return int((wide.amax(dim=1) - wide.amin(dim=1)).max()) <= GREY_WITHIN


def blank_views(views: Tensor) -> int:
    """How many of (V, 3, S, S) views in [0, 1] are almost of one brightness."""
    return int((to_grey(views).flatten(1).std(dim=1, correction=0) < BLANK).sum())


def advise(chosen: ResolvedViews, enlarged: float, grey: bool, blank: int, views: int) -> tuple[str, ...]:
    """The sentences.

    Args:
        enlarged: see enlarged_share.
        grey: whether all pictures looked at are; blank: how many of the `views` looked at are.
    """
    told = [_of_crops(chosen, enlarged), _of_colour(chosen, grey)]
    if blank:
        verb = "shows" if blank == 1 else "show"
        told.append(
            f"{blank} of these {views} views {verb} next to nothing; a larger --crop-min or a weaker "
            "--color-strength makes that rarer."
        )
    return tuple(told)


def _of_crops(chosen: ResolvedViews, enlarged: float) -> str:
    what = f"enlarged to more than twice its size to fill {chosen.image_size} px"
    if not enlarged:
        return f"No crop is {what}."
    remedy = " A larger --crop-min or a smaller --image-size makes them sharper." if enlarged > MANY else ""
    share = _percent(enlarged).capitalize()
    return f"{share} of the crops are {what.replace('its', 'their')}, and look blurred.{remedy}"


def _of_colour(chosen: ResolvedViews, grey: bool) -> str:
    strength = chosen.color_strength
    if grey and not strength:
        return "All pictures looked at are grey, and nothing changes their brightness and contrast."
    if grey:
        end = "" if chosen.preset == "grey" else "; --preset grey is made for them"
        return f"All pictures looked at are grey, so colour jitter only changes brightness and contrast{end}."
    if not strength and not chosen.grey:
        return (
            "Nothing changes colours here, so views of one picture may be told by their colours alone, "
            "a short cut (section 3.1 of the paper)."
        )
    if not strength:
        return f"Colours are kept or, in {_percent(chosen.grey)} of the views, taken away."
    return (
        f"Colour jitter changes brightness, contrast and saturation by up to {_percent(0.8 * strength)} and "
        f"the hue by up to {360 * min(0.5, 0.2 * strength):.0f} degrees: if colours tell your pictures apart, lower "
        "--color-strength and --grey."
    )


def _percent(share: float) -> str:
    return "less than 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
