"""Numbers -> charts as inline SVG: curves over epochs, and a matrix as a map of heat. Colors are the page's own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from simclr_cli.pages.page import render

WIDTH, HEIGHT = 400, 210  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 28  # margins around the curves
TOUCHED = 200  # points of a curve at most that say their value under the pointer
DOTTED = 40  # points of a curve at most that are drawn as dots too
CELL = 22  # side of a cell of a map


def line_chart(
    title: str, x: Sequence[int], curves: Mapping[str, Sequence[float | None]],
    *, note: str = "", unit: str = "", zero: bool = False,
) -> Markup:  # fmt: skip
    """A figure of what changes from epoch to epoch, with a line a curve, or nothing if no curve has a value.

    Args:
        x: epochs, ascending; one for each value.
        curves: values by the name of their line; None and what is not finite are left out.
        note: what the title does not say.
        unit: after every value, as in " %".
        zero: let the axis begin at 0, where only the proportion of values means something.
    """
    known = [
        [(at, float(value)) for at, value in zip(x, values, strict=True) if value is not None and _finite(value)]
        for values in curves.values()
    ]
    every = [point for points in known for point in points]
    if not every:
        return Markup("")
    y_ticks = round_ticks(min([value for _, value in every] + [0.0] * zero), max(value for _, value in every))
    x_range = (min(at for at, _ in every), max(at for at, _ in every))
    x_ticks = [tick for tick in round_ticks(*x_range, whole=True) if x_range[0] <= tick <= x_range[1]]
    if not x_ticks or x_ticks[0] - x_range[0] > 0.1 * (x_range[1] - x_range[0]):
        x_ticks.insert(0, x_range[0])  # an axis of 1 to 60 is marked 1, 20, 40, 60
    y_range = (min(y_ticks[0], *(v for _, v in every)), max(y_ticks[-1], *(v for _, v in every)))
    drawn = []
    for i, (name, points) in enumerate(zip(curves, known, strict=True), start=1):
        if not points:
            continue
        placed = [
            (_across(at, x_range), _up(value, y_range), f"epoch {at:,}: {_exact(value)}{unit}") for at, value in points
        ]
        drawn.append(
            {"name": name, "color": i, "points": placed, "touched": placed[:: -(-len(placed) // TOUCHED)],
             "dots": placed if len(placed) <= DOTTED else [], "last": f"{_exact(points[-1][1])}{unit}"}
        )  # fmt: skip
    return render(
        "chart.html", title=title, note=note, curves=drawn, width=WIDTH, height=HEIGHT, left=LEFT,
        right=WIDTH - RIGHT, bottom=HEIGHT - BOTTOM,
        x_ticks=[(_across(tick, x_range), f"{tick:,.0f}") for tick in x_ticks],
        y_ticks=[(_up(tick, y_range), label) for tick, label in zip(y_ticks, tick_labels(y_ticks), strict=True)],
    )  # fmt: skip


def heat_map(values: NDArray[np.floating], names: Sequence[str], images: Sequence[str]) -> Markup:
    """A square matrix of cosines as colors, each cell with its value under the pointer.

    Args:
        values: (M, M) in -1 to 1.
        names: M, of the rows and columns.
        images: M data: URIs, drawn beside the rows and above the columns.
    """
    margin = CELL + 4
    cells = [
        (margin + CELL * j, margin + CELL * i, f"{min(1.0, abs(value)):.2f}", value < 0,
         f"{names[i]} and {names[j]}: {value:.2f}")
        for i, row in enumerate(values.tolist())
        for j, value in enumerate(row)
    ]  # fmt: skip
    marks = [(margin + CELL * i, name, uri) for i, (name, uri) in enumerate(zip(names, images, strict=True))]
    return render("heat_map.html", cells=cells, marks=marks, side=margin + CELL * len(names), cell=CELL)


def round_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that enclose low to high, at most six or so of them.

    Args:
        whole: no steps below 1.
    """
    rough = (high - low or abs(high) * 0.1 or 1.0) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    return [i * step for i in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Ticks as words, all with as many decimals as their step needs; powers of ten where these would be many."""
    step = ticks[1] - ticks[0]
    if step < 1e-4 or step >= 1e7:
        return ["0" if abs(tick) < step / 2 else _short(f"{tick:.1e}".replace(".0e", "e")) for tick in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{tick + 0.0:,.{decimals}f}" if abs(tick) > step / 2 else "0" for tick in ticks]


def _across(at: float, over: tuple[float, float]) -> float:
    share = (at - over[0]) / (over[1] - over[0]) if over[1] > over[0] else 0.5
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _up(value: float, over: tuple[float, float]) -> float:
    return round(HEIGHT - BOTTOM - (value - over[0]) / (over[1] - over[0]) * (HEIGHT - TOP - BOTTOM), 1)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _exact(value: float) -> str:
    """Four digits or so: 0.4231, 12.35, 1,234, 5.478e-6."""
    return _short(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")


def _short(words: str) -> str:
    """1e-6 for 1e-06."""
    return re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", words)
