"""The page of a run, opened in Chromium: whole, offline, safe with any name, readable on a phone, never large."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from simclr_cli.api import Accuracy, ClassScore, Confusion, FewLabels, LabelError, ProbeResult, Score
from simclr_cli.core.events import EpochDone, ValidationMetrics
from simclr_cli.pages.images import as_data_uri
from simclr_cli.pages.report import NeighborsShown, RunShown, Thumbnail, ViewsShown, report_page

HOSTILE = (
    "<img src=x onerror=alert(1)>.png",
    "\"><script>alert('2')</script>.png",
    "' onmouseover='alert(3)' & more.png",
    "right-to-left \u202egnp.exe",
    b"half \xff\xfe bytes.png".decode("utf-8", "surrogateescape"),
    "emoji \U0001f98a.png",
    "{{ 7 * 7 }}.png",
    "x" * 200 + ".png",
)


def rows(epochs: int, every: int = 1) -> list[dict[str, Any]]:
    health = ValidationMetrics(0.3, -2.5, 40.0, 20.0, 97.0, 0.9, 0.1, 256, True)
    return [
        dataclasses.asdict(
            EpochDone(e, 4.0 / e, 0.001, 180.0, 7.0, *((health, 60.0 + e / epochs) if e % every == 0 else ()))
        )
        for e in range(1, epochs + 1)
    ]


def uri(seed: int, side: int = 112) -> str:
    return as_data_uri(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def accuracy(top_1: float) -> Accuracy:
    return Accuracy(top_1, top_1 - 1.5, top_1 + 1.5, top_1 - 0.5, 99.0)


def probe_of(names: tuple[str, ...]) -> ProbeResult:
    return ProbeResult(
        encoder="run", train_images=300, test_images=100, classes=names, chance=18.2,
        scores=(Score("trained", accuracy(61.2), accuracy(55.0), accuracy(66.1)),
                Score(names[0], accuracy(44.0), accuracy(40.0), None, 17.2, 12.0, 22.4)),
        split="a fifth of each class", knn_temperature=0.07, skipped=0, model_checksum="d",
        verdict=f"It is of {names[0]}.",
        per_class=tuple(ClassScore(name, 30, 10, 50.0, None) for name in names),
        confusion=(Confusion(names[0], names[-1], 1_234), Confusion(names[0], names[0], 77_777)),
        label_errors=tuple(LabelError(name, name, names[0], 0.012) for name in names),
        few_labels=(FewLabels("trained", 8, "1 %", 33.0, 4.1, 5),),
    )  # fmt: skip


def shown(names: tuple[str, ...] = HOSTILE, **others: Any) -> RunShown:
    """A run with all parts, all of whose names are these."""
    one = Thumbnail(names[0], uri(0))
    cosines = np.clip(np.random.default_rng(0).normal(0, 0.5, (16, 16)), -1, 1).astype(np.float32)
    parts: dict[str, Any] = {
        "name": names[0], "finished": True, "rows": rows(30),
        "config": {
            "simclr_version": "0.1.0", "python": "3.12.1", "versions": {"torch": "2.15.0"},
            "settings": {"epochs": 30, "group_by": names[1], "seed": 0},
            "choices": [{"name": "epochs", "value": "30", "reason": names[2]}],
            "census": {"folder": names[3], "images": 300},
        },
        "skipped": [(name, f"damaged: {name}") for name in names],
        "views": ViewsShown("Eight.", tuple((Thumbnail(name, uri(1)), one, one) for name in names), cosines),
        "neighbors": NeighborsShown(
            "Near.", tuple((one, *(Thumbnail(name, uri(2), 0.5) for name in names)) for _ in range(6))
        ),
        "probe": probe_of(names), "confusion": uri(3, 300), "outcome": {"state": "learning", "words": names[0]},
    }  # fmt: skip
    return RunShown(**{**parts, **others})


def elements(visited: Any) -> dict[str, int]:
    """How many elements of each kind a page has."""
    return visited.ask(
        "[...document.querySelectorAll('*')].reduce((n, e) => (n[e.tagName] = (n[e.tagName] || 0) + 1, n), {})"
    )


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_without_a_word_in_the_console_and_asks_for_nothing(
    visit: Callable[..., Any], width: int, scheme: str
) -> None:
    visited = visit(report_page(shown()), width=width, scheme=scheme)
    assert visited.complaints == []
    assert len(visited.requests) == 1 and visited.requests[0].startswith("file://")
    assert visited.ask("document.documentElement.scrollWidth") <= width  # no scrolling sideways
    assert visited.ask("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    wide = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') && !e.closest('.name')"
    assert visited.ask(f"{wide} && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)") == []


def test_names_of_files_are_text_and_make_no_element(visit: Callable[..., Any]) -> None:
    harmless = visit(report_page(shown(tuple(f"name {i}" for i in range(len(HOSTILE))))))
    expected = elements(harmless)
    hostile = visit(report_page(shown()))
    assert elements(hostile) == expected
    assert hostile.complaints == []
    words = hostile.ask("document.documentElement.textContent")
    for name in ("<img src=x onerror=alert(1)>.png", "\"><script>alert('2')</script>.png", "{{ 7 * 7 }}.png",
                 "' onmouseover='alert(3)' & more.png", "right-to-left \\u202egnp.exe", "half \\udcff\\udcfe bytes.png",
                 "emoji \U0001f98a.png", "x" * 200):  # fmt: skip
        assert name in words
    handlers = (
        "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => /^on/.test(a.name)).length"
    )
    assert hostile.ask(handlers) == 0


def test_light_and_dark_differ_and_both_can_be_read(visit: Callable[..., Any]) -> None:
    """Contrast of text to its ground at least 4.5, as WCAG AA asks for."""
    html = report_page(shown())
    colors = {}
    for scheme in ("light", "dark"):
        visited = visit(html, scheme=scheme)
        colors[scheme] = [
            visited.ask(f"getComputedStyle(document.querySelector('{where}')).{which}")
            for where, which in (("body", "backgroundColor"), ("body", "color"), (".lead", "color"), ("nav a", "color"))
        ]
    assert not set(colors["light"]) & set(colors["dark"])
    for ground, *inks in colors.values():
        assert all(contrast(ground, ink) >= 4.5 for ink in inks)


def contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        channels = np.array([int(part) for part in color[4:-1].split(",")]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_large_run_makes_a_small_page(visit: Callable[..., Any]) -> None:
    names = tuple(f"{'folder/' * 20}{i}.jpg" for i in range(5_000))
    large = shown(
        rows=rows(2_000), skipped=[(name, f"damaged: {i % 40}") for i, name in enumerate(names)],
        probe=dataclasses.replace(probe_of(names[:1_000]), label_errors=probe_of(names).label_errors),
    )  # fmt: skip
    html = report_page(large)
    assert len(html.encode()) < 5_000_000
    assert "And 4,900 more, in skipped.json" in html and "And 950 more, in probe/probe.json" in html
    visited = visit(html, width=375)
    assert visited.complaints == [] and visited.ask("document.documentElement.scrollWidth") <= 375


def test_an_unfinished_run_shows_what_there_is(visit: Callable[..., Any]) -> None:
    bare = RunShown("bare", False, {}, [], [], "Gone.", "Gone too.", "No probe.")
    visited = visit(report_page(bare))
    words = visited.ask("document.body.innerText")
    assert visited.complaints == []
    assert all(word in words for word in ("Not finished", "Nothing was trained yet", "Gone.", "Gone too.", "No probe."))


def test_health_and_knn_are_drawn_where_they_were_measured() -> None:
    without = report_page(shown(rows=[{**row, "validation": None, "knn_accuracy": None} for row in rows(3)]))
    sparse = report_page(shown(rows=rows(30, every=10)))
    assert "ValidationMetrics was not measured" in without and "Uniformity" not in without
    assert "ValidationMetrics was not measured" not in sparse
    for title in ("kNN", "View retrieval accuracy", "Cosine", "Effective rank", "Alignment", "Uniformity", "Learning rate"):
        assert f"<figcaption>{title}" in sparse
    assert sparse.count("epoch 20: 60.67 %") == 1 and "epoch 21: 60" not in sparse


def test_the_figures_are_those_of_the_probe() -> None:
    html = report_page(shown(("a", "b", "c", "d"), views="None."))
    assert "61.2 (59.7 to 62.7)" in html and "+17.2 (+12.0 to +22.4)" in html and "66.1 (64.6 to 67.6)" in html
    assert "1,234" in html and "77,777" not in html  # right ones are no confusion
    assert "33.0" in html and "4.1" in html
