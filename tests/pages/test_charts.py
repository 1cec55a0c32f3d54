"""Charts, read back from their SVG: points, ticks and tooltips."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from markupsafe import Markup

from simclr_cli.pages.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_TOOLTIPS_PER_CURVE,
    RIGHT,
    WIDTH,
    compute_ticks,
    draw_heat_map,
    draw_line_chart,
    format_ticks,
)


def parse_svg(figure: Markup) -> ElementTree.Element:
    svg = re.search(r"<svg.*</svg>", figure, re.DOTALL)
    assert svg is not None
    return ElementTree.fromstring(svg[0])


def read_points(figure: Markup) -> list[list[tuple[float, float]]]:
    lines = parse_svg(figure).iter("polyline")
    return [[tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()] for line in lines]


def read_tooltips(figure: Markup) -> list[str]:
    return [title.text or "" for title in parse_svg(figure).iter("title")]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.23, 4.1), (-3.2, -1.1), (1, 1), (0, 0), (1e-9, 3e-6), (998, 1002), (-0.4, 0.9)]
)
def test_ticks_are_round_and_few_and_enclose_their_range(low: float, high: float) -> None:
    ticks = compute_ticks(low, high)
    step = ticks[1] - ticks[0]
    assert 3 <= len(ticks) <= 8 and ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12
    assert np.allclose(np.diff(ticks), step)
    assert min(abs(step / 10 ** math.floor(math.log10(step * 1.0001)) - round_) for round_ in (1, 2, 5)) < 1e-6


@pytest.mark.parametrize(("low", "high"), [(1, 2), (1, 60), (3, 3), (1, 2000)])
def test_ticks_of_whole_numbers_are_whole(low: int, high: int) -> None:
    assert all(tick == round(tick) for tick in compute_ticks(low, high, whole=True))


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0.0, 0.5, 1.0], ["0", "0.5", "1.0"]),
        ([-1.0, 0.0, 1.0], ["-1", "0", "1"]),
        ([0.0, 1000.0, 2000.0], ["0", "1,000", "2,000"]),
        ([0.0, 2e-6, 4e-6], ["0", "2e-6", "4e-6"]),
        ([0.0, 5e-5, 1e-4, 1.5e-4], ["0", "5e-5", "1e-4", "1.5e-4"]),
        ([0.0, 1e7, 2e7], ["0", "1e7", "2e7"]),
        ([0.1 * 3, 0.1 * 4], ["0.3", "0.4"]),
    ],
)
def test_tick_labels_have_the_decimals_that_the_step_needs(ticks: list[float], labels: list[str]) -> None:
    assert format_ticks(ticks) == labels


def test_points_lie_where_their_values_are() -> None:
    """Values from 0 to 10 in epochs 1 to 3 fill the axes from corner to corner."""
    ((first, middle, last),) = read_points(draw_line_chart("t", [1, 2, 3], {"c": [0.0, 5.0, 10.0]}))
    assert first == (LEFT, HEIGHT - BOTTOM) and last[0] == WIDTH - RIGHT
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=0.1)


def test_missing_and_non_finite_values_are_skipped() -> None:
    figure = draw_line_chart("t", [1, 2, 3, 4, 5], {"c": [1.0, None, math.nan, math.inf, 2.0]})
    assert len(read_points(figure)[0]) == 2 and read_tooltips(figure) == ["epoch 1: 1", "epoch 5: 2"]


def test_a_single_point_is_drawn_as_a_dot() -> None:
    figure = draw_line_chart("t", [7], {"c": [0.25]})
    dots = [circle for circle in parse_svg(figure).iter("circle") if circle.get("class") != "tooltip"]
    assert (
        len(dots) == 1
        and LEFT < float(dots[0].get("cx", "")) < WIDTH - RIGHT
        and read_tooltips(figure) == ["epoch 7: 0.25"]
    )


def test_without_a_value_there_is_no_chart() -> None:
    assert draw_line_chart("t", [1, 2], {"c": [None, None]}) == ""


def test_curves_have_names_and_colors_of_their_own() -> None:
    figure = draw_line_chart("t", [1, 2], {"<b>": [1.0, 2.0], "d": [None, None], "e": [3.0, 4.0]})
    assert len(read_points(figure)) == 2 and "&lt;b&gt;" in figure and "<b>" not in figure
    assert read_tooltips(figure)[0] == "<b>, epoch 1: 1"
    assert [group.get("style") for group in parse_svg(figure).iter("g")] == [
        f"color: var(--series-{i})" for i in (1, 3)
    ]


def test_from_zero_starts_the_axis_at_zero() -> None:
    figure = draw_line_chart("t", [1, 2], {"c": [90.0, 100.0]}, from_zero=True)
    assert next(text.text for text in parse_svg(figure).iter("text")) == "0"


def test_long_runs_have_every_point_and_few_tooltips() -> None:
    values = np.sin(np.arange(20_000) / 900)
    values[7_777], values[12_345] = 9, -9
    figure = draw_line_chart("t", range(20_000), {"c": values.tolist()})
    drawn = read_points(figure)[0]
    assert len(drawn) == 20_000 and len(read_tooltips(figure)) <= MAX_TOOLTIPS_PER_CURVE
    assert min(drawn, key=lambda at: at[1]) == drawn[7_777] and max(drawn, key=lambda at: at[1]) == drawn[12_345]


def test_each_cell_of_a_heat_map_shows_its_value_as_color_and_tooltip() -> None:
    similarities = np.array([[1.0, -0.25], [-0.25, 1.0]])
    figure = draw_heat_map(similarities, ["a", "<b>"], ["data:,", "data:,"])
    cells = list(parse_svg(figure).iter("rect"))
    assert [cell.get("fill-opacity") for cell in cells] == ["1.00", "0.25", "0.25", "1.00"]
    assert [cell.get("class") for cell in cells] == ["positive", "negative", "negative", "positive"]
    assert [cell[0].text for cell in cells][:2] == ["a and a: 1.00", "a and <b>: -0.25"]
    assert len(list(parse_svg(figure).iter("image"))) == 4
