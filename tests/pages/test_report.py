"""The report in Chromium: offline, safe with any name, readable on a phone, of limited size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from simclr_cli.api import Accuracy, ClassScore, Confusion, FewLabels, LabelError, ProbeResult, Score
from simclr_cli.core.events import EpochDone, ValidationMetrics
from simclr_cli.pages.images import as_data_uri
from simclr_cli.pages.report import ReportContent, SampleNeighbors, SampleViews, Thumbnail, render_report

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


def make_epochs(epochs: int, every: int = 1) -> list[dict[str, Any]]:
    validation = ValidationMetrics(0.3, -2.5, 40.0, 20.0, 97.0, 0.9, 0.1, 256, True)
    return [
        dataclasses.asdict(
            EpochDone(e, 4.0 / e, 0.001, 180.0, 7.0, *((validation, 60.0 + e / epochs) if e % every == 0 else ()))
        )
        for e in range(1, epochs + 1)
    ]


def make_uri(seed: int, side: int = 112) -> str:
    return as_data_uri(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def make_accuracy(top_1: float) -> Accuracy:
    return Accuracy(top_1, top_1 - 1.5, top_1 + 1.5, top_1 - 0.5, 99.0)


def make_probe(names: tuple[str, ...]) -> ProbeResult:
    return ProbeResult(
        encoder="run", train_images=300, test_images=100, classes=names, chance=18.2,
        scores=(Score("trained", make_accuracy(61.2), make_accuracy(55.0), make_accuracy(66.1)),
                Score(names[0], make_accuracy(44.0), make_accuracy(40.0), None, 17.2, 12.0, 22.4)),
        split="a fifth of each class", knn_temperature=0.07, skipped=0, model_checksum="d",
        verdict=f"It is of {names[0]}.",
        per_class=tuple(ClassScore(name, 30, 10, 50.0, None) for name in names),
        confusion=(Confusion(names[0], names[-1], 1_234), Confusion(names[0], names[0], 77_777)),
        label_errors=tuple(LabelError(name, name, names[0], 0.012) for name in names),
        few_labels=(FewLabels("trained", 8, "1 %", 33.0, 4.1, 5),),
    )  # fmt: skip


def make_content(names: tuple[str, ...] = HOSTILE, **changes: Any) -> ReportContent:
    """Return a run with all parts and with these names in all places."""
    thumbnail = Thumbnail(names[0], make_uri(0))
    cosines = np.clip(np.random.default_rng(0).normal(0, 0.5, (16, 16)), -1, 1).astype(np.float32)
    parts: dict[str, Any] = {
        "name": names[0], "finished": True, "epochs": make_epochs(30),
        "config": {
            "simclr_version": "0.1.0", "python": "3.12.1", "versions": {"torch": "2.15.0"},
            "settings": {"epochs": 30, "group_by": names[1], "seed": 0},
            "choices": [{"name": "epochs", "value": "30", "reason": names[2]}],
            "census": {"folder": names[3], "images": 300},
        },
        "skipped": [(name, f"damaged: {name}") for name in names],
        "views": SampleViews(
            "Eight.", tuple((Thumbnail(name, make_uri(1)), thumbnail, thumbnail) for name in names), cosines
        ),
        "neighbors": SampleNeighbors(
            "Near.", tuple((thumbnail, *(Thumbnail(name, make_uri(2), 0.5) for name in names)) for _ in range(6))
        ),
        "probe": make_probe(names), "confusion": make_uri(3, 300), "outcome": {"state": "learning", "words": names[0]},
    }  # fmt: skip
    return ReportContent(**{**parts, **changes})


def count_elements(visited: Any) -> dict[str, int]:
    """Count the elements of a page by tag."""
    return visited.ask(
        "[...document.querySelectorAll('*')].reduce((n, e) => (n[e.tagName] = (n[e.tagName] || 0) + 1, n), {})"
    )


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_logs_nothing_and_requests_nothing(visit: Callable[..., Any], width: int, scheme: str) -> None:
    visited = visit(render_report(make_content()), width=width, scheme=scheme)
    assert visited.complaints == []
    assert len(visited.requests) == 1 and visited.requests[0].startswith("file://")
    assert visited.ask("document.documentElement.scrollWidth") <= width  # no scrolling sideways
    assert visited.ask("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    wide = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') && !e.closest('.name')"
    assert visited.ask(f"{wide} && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)") == []


def test_names_of_files_are_text_and_make_no_element(visit: Callable[..., Any]) -> None:
    harmless = visit(render_report(make_content(tuple(f"name {i}" for i in range(len(HOSTILE))))))
    expected = count_elements(harmless)
    hostile = visit(render_report(make_content()))
    assert count_elements(hostile) == expected
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


def test_light_and_dark_differ_and_are_readable(visit: Callable[..., Any]) -> None:
    """The contrast of text is at least 4.5, as WCAG AA requires."""
    html = render_report(make_content())
    colors = {}
    for scheme in ("light", "dark"):
        visited = visit(html, scheme=scheme)
        colors[scheme] = [
            visited.ask(f"getComputedStyle(document.querySelector('{where}')).{which}")
            for where, which in (("body", "backgroundColor"), ("body", "color"), (".lead", "color"), ("nav a", "color"))
        ]
    assert not set(colors["light"]) & set(colors["dark"])
    for ground, *inks in colors.values():
        assert all(compute_contrast(ground, ink) >= 4.5 for ink in inks)


def compute_contrast(first: str, second: str) -> float:
    def luminance(color: str) -> float:
        channels = np.array([int(part) for part in color[4:-1].split(",")]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_a_large_run_makes_a_small_page(visit: Callable[..., Any]) -> None:
    names = tuple(f"{'folder/' * 20}{i}.jpg" for i in range(5_000))
    large = make_content(
        epochs=make_epochs(2_000), skipped=[(name, f"damaged: {i % 40}") for i, name in enumerate(names)],
        probe=dataclasses.replace(make_probe(names[:1_000]), label_errors=make_probe(names).label_errors),
    )  # fmt: skip
    html = render_report(large)
    assert len(html.encode()) < 5_000_000
    assert "4,900 more in skipped.json" in html and "950 more in probe/probe.json" in html
    visited = visit(html, width=375)
    assert visited.complaints == [] and visited.ask("document.documentElement.scrollWidth") <= 375


def test_an_unfinished_run_shows_what_there_is(visit: Callable[..., Any]) -> None:
    bare = ReportContent("bare", False, {}, [], [], "Gone.", "Gone too.", "No probe.")
    visited = visit(render_report(bare))
    words = visited.ask("document.body.innerText")
    assert visited.complaints == []
    assert all(
        word in words for word in ("Not finished", "No epoch is complete yet", "Gone.", "Gone too.", "No probe.")
    )


def test_validation_metrics_and_knn_are_drawn_where_they_were_measured() -> None:
    without = render_report(
        make_content(epochs=[{**epoch, "validation": None, "knn_accuracy": None} for epoch in make_epochs(3)])
    )
    sparse = render_report(make_content(epochs=make_epochs(30, every=10)))
    assert "Validation metrics were not measured" in without and "Uniformity" not in without
    assert "Validation metrics were not measured" not in sparse
    for title in ("kNN accuracy", "View retrieval accuracy", "Cosine similarity", "Effective rank", "Alignment",
                  "Uniformity", "Learning rate"):  # fmt: skip
        assert f"<figcaption>{title}" in sparse
    assert sparse.count("epoch 20: 60.67 %") == 1 and "epoch 21: 60" not in sparse


def test_probe_figures_are_shown() -> None:
    html = render_report(make_content(("a", "b", "c", "d"), views="None."))
    assert "61.2 (59.7 to 62.7)" in html and "+17.2 (+12.0 to +22.4)" in html and "66.1 (64.6 to 67.6)" in html
    assert "1,234" in html and "77,777" not in html  # correct predictions are no confusion
    assert "33.0" in html and "4.1" in html


def test_nothing_is_called_held_out_that_was_trained_on_and_chance_is_named() -> None:
    epochs = make_epochs(12)
    outcome = {"state": "learning", "words": "", "gains": [{"metric": "kNN accuracy", "chance": 37.5}]}
    for held_out in (True, False):
        told = [{**epoch, "validation": epoch["validation"] and {**epoch["validation"], "held_out": held_out}}
                for epoch in epochs]  # fmt: skip
        page = render_report(make_content(epochs=told, outcome=outcome, probe="Not run yet."))
        assert ("held-out" in page) == held_out and ("training images" in page) == (not held_out)
        count = next(epoch["validation"]["images"] for epoch in told if epoch["validation"])
        assert f"chance {100 / (2 * count - 1):.1f} %" in page and "chance 37.5 %, always the largest class" in page


def test_one_point_is_no_curve() -> None:
    epochs = [{**epoch, "knn_accuracy": 41.0 if epoch["epoch"] == 5 else None} for epoch in make_epochs(5)]
    page = render_report(make_content(epochs=epochs))
    assert "as they have one point only: kNN accuracy." in page and 'aria-label="kNN accuracy' not in page
    assert 'aria-label="Loss' in page and "41.0 %" in page
    assert 'aria-label="Loss' not in render_report(make_content(epochs=make_epochs(1)))
