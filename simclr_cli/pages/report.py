"""The page of a run: what it was, how it went, what the model saw, what it takes for alike, how good it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from simclr_cli.api import Accuracy, ProbeResult
from simclr_cli.core.text import count, duration
from simclr_cli.pages.charts import heat_map, line_chart
from simclr_cli.pages.page import Section, page, render

MAX_SKIPPED_LISTED = 100  # files listed
MOST_CLASSES = 50  # rows of the table of classes
MOST_SUSPECTS = 30
STATES = {"learning": "good", "improving": "good", "collapsed": "bad", "unchanged": "warn"}


@dataclass(frozen=True)
class Thumbnail:
    """An image on the page."""

    name: str
    uri: str | None  # data:, or None where it cannot be shown
    similarity: float | None = None  # to the one it is a neighbor of


@dataclass(frozen=True)
class ViewsShown:
    """Two views each of some images, as the first step of training saw them."""

    lead: str
    images: tuple[tuple[Thumbnail, Thumbnail, Thumbnail], ...]  # the image itself, its first view, its second view
    similarity: NDArray[np.float32] | None = None  # (2n, 2n) cosines: both views of the first image, of the second, …
    of: str = "z"  # what the cosines are of


@dataclass(frozen=True)
class NeighborsShown:
    """Sample images, each with those that are nearest to it."""

    lead: str
    rows: tuple[tuple[Thumbnail, ...], ...]  # the sample first


@dataclass(frozen=True)
class RunShown:
    """All that a page says of a run. A string in place of a part says why it is missing."""

    name: str
    finished: bool
    config: Mapping[str, Any]  # config.json
    rows: Sequence[Mapping[str, Any]]  # one an epoch: see EpochDone
    skipped: Sequence[tuple[str, str]]  # name and reason
    views: ViewsShown | str
    neighbors: NeighborsShown | str
    probe: ProbeResult | str
    confusion: str | None = None  # the image of the matrix, as a data: URI
    outcome: Mapping[str, str] | None = None  # state and words


def report_page(run: RunShown) -> str:
    """The whole page, as HTML."""
    sections = [
        Section("Summary", body=_summary(run)),
        _curves(run.rows),
        _views(run.views),
        _neighbors(run.neighbors),
        _probe(run.probe, run.confusion),
        _plan(run.config),
        _skipped(run.skipped),
    ]
    census = run.config.get("census", {})
    state = "Finished" if run.finished else "Not finished"
    lead = f"{state}; {count(census.get('images', 0), 'image')} from {census.get('folder', 'a folder')}."
    return page(run.name, sections, lead=lead)


def _summary(run: RunShown) -> Markup:
    settings, rows = run.config.get("settings", {}), run.rows
    figures: list[tuple[str, str, str]] = []
    if rows:
        done, wanted = len(rows), settings.get("epochs", len(rows))
        figures.append(("Epochs", f"{done:,}", "" if done == wanted else f"of {wanted:,}"))
        figures.append(("Loss", _number(rows[-1].get("loss")), f"from {_number(rows[0].get('loss'))}"))
        if (found := _last(rows, "view_retrieval_accuracy")) is not None:
            figures.append(("Found again", f"{found:.1f} %", "views whose other view is nearest"))
        if (knn := _last(rows, "knn_accuracy")) is not None:
            figures.append(("kNN", f"{knn:.1f} %", "told right by the 20 nearest"))
        if speeds := [row["images_per_second"] for row in rows if row.get("images_per_second") is not None]:
            figures.append(("Speed", f"{np.median(speeds):,.0f}", "images/s, median"))
        figures.append(("Training", duration(sum(row.get("seconds") or 0 for row in rows)), "without what was before"))
    if not isinstance(run.probe, str) and run.probe.scores:
        score = run.probe.scores[0]
        figures.append(("Probe", f"{score.deciding.top_1:.1f} %", "linear" if score.linear else "kNN, k = 20"))
    outcome = run.outcome or {}
    return render(
        "summary.html", figures=figures, words=outcome.get("words", ""), tone=STATES.get(outcome.get("state", ""), "")
    )


def _curves(rows: Sequence[Mapping[str, Any]]) -> Section:
    if not rows:
        return Section("Curves", "No epoch is done yet.")
    epochs = [int(row["epoch"]) for row in rows]

    def chart(title: str, note: str, *keys: tuple[str, str], unit: str = "", zero: bool = False) -> Markup:
        curves = {name: [_value(row, key) for row in rows] for key, name in keys}
        return line_chart(title, epochs, curves, note=note, unit=unit, zero=zero)

    charts = [
        chart("Loss", "Mean over the steps of the epoch", ("loss", "loss")),
        chart("kNN", "Held-out images told right by their 20 nearest neighbors", ("knn_accuracy", "kNN"), unit=" %"),
        chart("View retrieval accuracy", "Views whose nearest other view is of the same image",
              ("view_retrieval_accuracy", "accuracy"), unit=" %"),
        chart(
            "Cosine", "Of the two views of an image, and of different images: far apart is good",
            ("positive_similarity", "same image"), ("negative_similarity", "different images"),
        ),
        chart("Effective rank", "Dimensions in use; near 1 is a collapse", ("rank_h", "of h"), ("rank_z", "of z")),
        chart("Alignment", "Squared distance of the two views of an image; small is good", ("alignment", "alignment")),
        chart("Uniformity", "How evenly images spread; more negative is better", ("uniformity", "uniformity")),
        chart("Learning rate", "Of the last step of the epoch", ("learning_rate", "learning rate"), zero=True),
        chart("Speed", "Images/s", ("images_per_second", "images/s"), zero=True),
    ]  # fmt: skip
    body = Markup('<div class="charts">\n{}</div>').format(Markup("").join(charts))
    missing = "" if any(row.get("validation") for row in rows) else " ValidationMetrics was not measured in this run."
    return Section("Curves", f"A point an epoch; the value stands under the pointer.{missing}", body)


def _views(views: ViewsShown | str) -> Section:
    if isinstance(views, str):
        return Section("Views", views)
    matrix = Markup("")
    if views.similarity is not None:
        shown = [view for _, *both in views.images for view in both]
        names = [f"image {i // 2 + 1}, view {i % 2 + 1}" for i in range(len(shown))]
        matrix = heat_map(views.similarity, names, [view.uri or "data:," for view in shown])
    return Section("Views", views.lead, render("views.html", images=views.images, matrix=matrix, of=views.of))


def _neighbors(neighbors: NeighborsShown | str) -> Section:
    if isinstance(neighbors, str):
        return Section("Nearest neighbors", neighbors)
    return Section("Nearest neighbors", neighbors.lead, render("neighbors.html", rows=neighbors.rows))


def _probe(probe: ProbeResult | str, confusion: str | None) -> Section:
    if isinstance(probe, str):
        return Section("Probe", probe)
    lead = (
        f"{len(probe.classes):,} classes, {probe.train_images:,} images with labels, {probe.test_images:,} held "
        f"out ({probe.split}); always guessing the largest class gives {probe.chance:.1f} %. "
        f"Brackets: where 95 % of bootstrap samples lie."
    )
    told = [one for one in probe.per_class if one.recall is not None]
    classes = sorted(told, key=lambda one: one.recall or 0.0)
    confused = sorted((cell for cell in probe.confusion if cell.label != cell.predicted), key=lambda c: -c.count)
    body = render(
        "probe.html", probe=probe, accuracy=_accuracy, confusion=confusion, confused=confused[:10],
        classes=classes[:MOST_CLASSES], more_classes=len(classes[MOST_CLASSES:]),
        label_errors=probe.label_errors[:MOST_SUSPECTS], more_label_errors=len(probe.label_errors[MOST_SUSPECTS:]),
    )  # fmt: skip
    return Section("Probe", lead, body)


def _plan(config: Mapping[str, Any]) -> Section:
    settings = config.get("settings", {})
    choices = config.get("choices", [])
    planned = {choice["name"].replace(" ", "_") for choice in choices}
    others = [(name.replace("_", " "), str(value)) for name, value in sorted(settings.items())
              if name not in planned and value not in (None, "")]  # fmt: skip
    versions = {"simclr": config.get("simclr_version"), "python": config.get("python"), **config.get("versions", {})}
    body = render("plan.html", choices=choices, others=others, versions={k: v for k, v in versions.items() if v})
    lead = "What was set, what was chosen, and why." if choices else "The settings of this run."
    return Section("Plan", lead, body)


def _skipped(skipped: Sequence[tuple[str, str]]) -> Section:
    if not skipped:
        return Section("Refused", "No file was skipped.")
    reasons = Counter(reason for _, reason in skipped).most_common(12)
    body = render(
        "skipped.html", reasons=reasons, files=skipped[:MAX_SKIPPED_LISTED], more=len(skipped[MAX_SKIPPED_LISTED:])
    )
    return Section("Refused", f"{count(len(skipped), 'file')} not used, and why.", body)


def _value(row: Mapping[str, Any], key: str) -> Any:
    """Of an epoch or of its health; None where it was not measured."""
    return row[key] if key in row else (row.get("validation") or {}).get(key)


def _last(rows: Sequence[Mapping[str, Any]], key: str) -> Any:
    return next((value for row in reversed(rows) if (value := _value(row, key)) is not None), None)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def _accuracy(value: Accuracy | None) -> str:
    return "-" if value is None else f"{value.top_1:.1f} ({value.low:.1f} to {value.high:.1f})"
