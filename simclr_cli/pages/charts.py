"""Numbers -> charts as inline SVG: curves over epochs, and a matrix as a map of heat. Colours are the page's own."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from simclr_cli.pages.page import render

WIDTH, HEIGHT = 400, 210  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 28  # margins around the curves
POINTS = 1_000  # of a curve at most; of more, the least and the greatest of every stretch
TOUCHED = 200  # points of a curve at most that say their value under the pointer
DOTTED = 40  # points of a curve at most that are drawn as dots too
CELL = 22  # side of a cell of a map


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str
    values: Sequence[float | None]  # one for each x; None and what is not finite are left out


@dataclass(frozen=True)
class Point:
    """A value, and where it is drawn."""

    x: float
    y: float
    words: str  # shown under the pointer


def line_chart(
    title: str, x: Sequence[int], curves: Sequence[Curve], *, note: str = "", unit: str = "", zero: bool = False
) -> Markup:
    """A figure of what changes from epoch to epoch, with a line a curve, or nothing if no curve has a value.

    Args:
        x: epochs, ascending; one for each value.
        note: what the title does not say.
        unit: after every value, as in " %".
        zero: let the axis begin at 0, where only the proportion of values means something.
    """
    known = [
        [(at, float(value)) for at, value in zip(x, curve.values, strict=True) if value is not None and _finite(value)]
        for curve in curves
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
    for i, (curve, points) in enumerate(zip(curves, known, strict=True), start=1):
        if not points:
            continue
        placed = [
            Point(_across(at, x_range), _up(value, y_range), f"epoch {at:,}: {_exact(value)}{unit}")
            for at, value in thinned(points, POINTS)
        ]
        touched = placed[:: -(-len(placed) // TOUCHED)]
        last = f"{_exact(points[-1][1])}{unit}"
        drawn.append(
            {"name": curve.name, "colour": i, "points": placed, "touched": touched, "last": last,
             "dots": placed if len(placed) <= DOTTED else []}
        )  # fmt: skip
    return render(
        "chart.html", title=title, note=note, curves=drawn, width=WIDTH, height=HEIGHT, left=LEFT,
        right=WIDTH - RIGHT, bottom=HEIGHT - BOTTOM,
        x_ticks=[(_across(tick, x_range), f"{tick:,.0f}") for tick in x_ticks],
        y_ticks=[(_up(tick, y_range), label) for tick, label in zip(y_ticks, tick_labels(y_ticks), strict=True)],
    )  # fmt: skip


def heat_map(values: NDArray[np.floating], names: Sequence[str], pictures: Sequence[str] = ()) -> Markup:
    """A square matrix of cosines as colours, each cell with its value under the pointer.

    Args:
        values: (M, M) in -1 to 1.
        names: M, of the rows and columns.
        pictures: M data: URIs, drawn beside the rows and above the columns; or none.
    """
    margin = CELL + 4 if pictures else 0
    cells = [
        (margin + CELL * j, margin + CELL * i, f"{min(1.0, abs(value)):.2f}", value < 0,
         f"{names[i]} and {names[j]}: {value:.2f}")
        for i, row in enumerate(values.tolist())
        for j, value in enumerate(row)
    ]  # fmt: skip
    marks = [(margin + CELL * i, name, uri) for i, (name, uri) in enumerate(zip(names, pictures, strict=False))]
    return render("heat_map.html", cells=cells, marks=marks, side=margin + CELL * len(names), cell=CELL)


def round_ticks(low: float, high: float, *, most: int = 5, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that enclose low to high, at most `most` + 1 or so of them.

    Args:
        whole: no steps below 1.
    """
    span = high - low or abs(high) * 0.1 or 1.0
    rough = span / most
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


def thinned(points: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most `most` points, the first and the last among them, that keep every peak and dip to see."""
    if len(points) <= most:
        return list(points)
    kept = [points[0]]
    for part in np.array_split(np.arange(1, len(points) - 1), most // 2 - 1):
        values = [points[i][1] for i in part]
        ends = sorted({int(part[int(np.argmin(values))]), int(part[int(np.argmax(values))])})
        kept += [points[i] for i in ends]
    return [*kept, points[-1]]


def _across(at: float, over: tuple[float, float]) -> float:
    share = (at - over[0]) / (over[1] - over[0]) if over[1] > over[0] else 0.5
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _up(value: float, over: tuple[float, float]) -> float:
    return round(HEIGHT - BOTTOM - (value - over[0]) / (over[1] - over[0]) * (HEIGHT - TOP - BOTTOM), 1)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _exact(value: float) -> str:
    """Four digits or so: 0.4231, 12.35, 1,234, 5.478e-6."""
    words = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return _short(words)


def _short(words: str) -> str:
    """1e-6 for 1e-06."""
    return re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", words)
