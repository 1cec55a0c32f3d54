"""Charts as inline SVG: curves over epochs, and matrices of similarities. The page's style sheet has their colors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from simclr_cli.pages.page import render_template

WIDTH, HEIGHT = 400, 210  # of a chart, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 28  # margins around the curves
MAX_TOOLTIPS_PER_CURVE = 200
MAX_DOTS_PER_CURVE = 40  # with more points, a curve is a line without dots
CELL_SIDE = 22  # of a heat map, in SVG units

Range = tuple[float, float]  # least and greatest value of an axis


def draw_line_chart(
    title: str, epochs: Sequence[int], curves: Mapping[str, Sequence[float | None]],
    *, note: str = "", unit: str = "", from_zero: bool = False,
) -> Markup:  # fmt: skip
    """Draw one line per curve over the epochs, or return nothing if no curve has a finite value.

    Args:
        epochs: ascending.
        curves: values by name, one for each epoch; None and values that are not finite are skipped.
        note: a sentence below the title.
        unit: follows every value, as in " %".
        from_zero: start the y axis at 0, where only the ratio of values means something.
    """
    points = {name: _finite_points(epochs, values) for name, values in curves.items()}
    all_points = [point for curve_points in points.values() for point in curve_points]
    if not all_points:
        return Markup("")
    x_range, x_ticks = _epoch_axis([epoch for epoch, _ in all_points])
    y_range, y_ticks = _value_axis([value for _, value in all_points], from_zero)
    return render_template(
        "chart.html", title=title, note=note, width=WIDTH, height=HEIGHT,
        left=LEFT, right=WIDTH - RIGHT, bottom=HEIGHT - BOTTOM,
        curves=[_draw_curve(name, color, curve_points, x_range, y_range, unit)
                for color, (name, curve_points) in enumerate(points.items(), start=1) if curve_points],
        x_ticks=[(_scale_x(tick, x_range), f"{tick:,.0f}") for tick in x_ticks],
        y_ticks=[(_scale_y(tick, y_range), label) for tick, label in zip(y_ticks, format_ticks(y_ticks), strict=True)],
    )  # fmt: skip


def draw_heat_map(similarities: NDArray[np.floating], names: Sequence[str], images: Sequence[str]) -> Markup:
    """Draw a square matrix of cosine similarities as colors, with the value of each cell as its tooltip.

    Args:
        similarities: (M, M) in -1 to 1.
        names: M, of the rows and columns.
        images: M data: URIs, drawn at the rows and columns.
    """
    margin = CELL_SIDE + 4
    cells = [
        (margin + CELL_SIDE * column, margin + CELL_SIDE * row, f"{min(1.0, abs(value)):.2f}", value < 0,
         f"{names[row]} and {names[column]}: {value:.2f}")
        for row, values in enumerate(similarities.tolist())
        for column, value in enumerate(values)
    ]  # fmt: skip
    headings = [
        (margin + CELL_SIDE * i, name, image) for i, (name, image) in enumerate(zip(names, images, strict=True))
    ]
    side = margin + CELL_SIDE * len(names)
    return render_template("heat_map.html", cells=cells, headings=headings, side=side, cell_side=CELL_SIDE)


def compute_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return about six round numbers that enclose low to high: 1, 2 or 5 times a power of ten apart.

    Args:
        whole: no steps below 1.
    """
    rough_step = (high - low or abs(high) * 0.1 or 1.0) / 5
    power = 10.0 ** math.floor(math.log10(rough_step))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough_step * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    return [i * step for i in range(first, last + 1)]


def format_ticks(ticks: Sequence[float]) -> list[str]:
    """Return the labels of ticks, with the decimals that their step needs; powers of ten where these are many."""
    step = ticks[1] - ticks[0]
    if step < 1e-4 or step >= 1e7:
        return ["0" if abs(tick) < step / 2 else _shorten_exponent(f"{tick:.1e}".replace(".0e", "e")) for tick in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{tick + 0.0:,.{decimals}f}" if abs(tick) > step / 2 else "0" for tick in ticks]


def _finite_points(epochs: Sequence[int], values: Sequence[float | None]) -> list[tuple[int, float]]:
    """Return the epochs and values of one curve, without those that were not measured."""
    return [
        (epoch, float(value))
        for epoch, value in zip(epochs, values, strict=True)
        if isinstance(value, int | float) and math.isfinite(value)
    ]


def _epoch_axis(epochs: Sequence[int]) -> tuple[Range, list[float]]:
    """Return the range of the x axis and its ticks, none outside the range."""
    first, last = min(epochs), max(epochs)
    ticks = [tick for tick in compute_ticks(first, last, whole=True) if first <= tick <= last]
    if not ticks or ticks[0] - first > 0.1 * (last - first):
        ticks.insert(0, first)  # an axis of 1 to 60 is marked 1, 20, 40, 60
    return (first, last), ticks


def _value_axis(values: Sequence[float], from_zero: bool) -> tuple[Range, list[float]]:
    """Return the range of the y axis and its ticks, which enclose the values."""
    low, high = min(values), max(values)
    ticks = compute_ticks(min(low, 0.0) if from_zero else low, high)
    return (min(ticks[0], low), max(ticks[-1], high)), ticks


def _draw_curve(
    name: str, color: int, points: Sequence[tuple[int, float]], x_range: Range, y_range: Range, unit: str
) -> dict[str, Any]:
    """Return a curve as chart.html draws it: `points`, `tooltips` and `dots` are tuples of x, y and text."""
    placed = [
        (_scale_x(epoch, x_range), _scale_y(value, y_range), f"epoch {epoch:,}: {_format_value(value)}{unit}")
        for epoch, value in points
    ]
    return {
        "name": name,
        "color": color,
        "points": placed,
        "tooltips": placed[:: -(-len(placed) // MAX_TOOLTIPS_PER_CURVE)],
        "dots": placed if len(placed) <= MAX_DOTS_PER_CURVE else [],
        "last_value": f"{_format_value(points[-1][1])}{unit}",
    }


def _scale_x(epoch: float, x_range: Range) -> float:
    low, high = x_range
    share = (epoch - low) / (high - low) if high > low else 0.5
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _scale_y(value: float, y_range: Range) -> float:
    low, high = y_range
    return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)


def _format_value(value: float) -> str:
    """Return about four digits: 0.4231, 12.35, 1,234, 5.478e-6."""
    return _shorten_exponent(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")


def _shorten_exponent(number: str) -> str:
    """Return 1e-6 for 1e-06."""
    return re.sub(r"e([+-])0*(\d)", lambda match: f"e{match[1].strip('+')}{match[2]}", number)
