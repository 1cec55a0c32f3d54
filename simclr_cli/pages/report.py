"""The report of a run: its outcome, curves, views, neighbors, probe, settings and skipped images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from simclr_cli.api import Accuracy, ProbeResult
from simclr_cli.core.text import format_count, format_duration
from simclr_cli.pages.charts import draw_heat_map, draw_line_chart
from simclr_cli.pages.page import Section, render_page, render_template

MAX_SKIPPED_FILES = 100
MAX_REASONS = 12
MAX_CLASSES = 50
MAX_CONFUSED_CLASSES = 10
MAX_LABEL_ERRORS = 30
OUTCOME_TONES = {"learning": "good", "improving": "good", "collapsed": "bad", "unchanged": "warn"}  # by state


@dataclass(frozen=True)
class Thumbnail:
    """An image in the report."""

    name: str
    uri: str | None  # data: URI, or None if the image cannot be decoded
    similarity: float | None = None  # of a neighbor, to its sample


@dataclass(frozen=True)
class SampleViews:
    """Two views of each of some images, as the first step of training saw them."""

    lead: str
    images: tuple[tuple[Thumbnail, Thumbnail, Thumbnail], ...]  # the image, its first view, its second view
    similarity: NDArray[np.float32] | None = None  # (2n, 2n) cosines: both views of the first image, of the second, ...
    vector: str = "z"  # "z" or "h", which the cosines are of


@dataclass(frozen=True)
class SampleNeighbors:
    """Some images, each with its nearest neighbors."""

    lead: str
    rows: tuple[tuple[Thumbnail, ...], ...]  # the sample first


@dataclass(frozen=True)
class ReportContent:
    """The content of a report. A string in place of a part says why the part is missing."""

    name: str
    finished: bool
    config: Mapping[str, Any]  # config.json
    epochs: Sequence[Mapping[str, Any]]  # the fields of an EpochDone each
    skipped: Sequence[tuple[str, str]]  # name and reason
    views: SampleViews | str
    neighbors: SampleNeighbors | str
    probe: ProbeResult | str
    confusion: str | None = None  # the image of the confusion matrix, as a data: URI
    outcome: Mapping[str, Any] | None = None  # outcome.json: state, words and gains


def render_report(run: ReportContent) -> str:
    """Return the report as HTML."""
    sections = [
        _summary_section(run),
        _curves_section(run.epochs, run.outcome),
        _views_section(run.views),
        _neighbors_section(run.neighbors),
        _probe_section(run.probe, run.confusion),
        _settings_section(run.config),
        _skipped_section(run.skipped),
    ]
    census = run.config.get("census", {})
    state = "Finished" if run.finished else "Not finished"
    lead = f"{state}; {format_count(census.get('images', 0), 'image')} from {census.get('folder', 'a folder')}."
    return render_page(run.name, sections, lead=lead)


def _summary_section(run: ReportContent) -> Section:
    outcome = run.outcome or {}
    body = render_template(
        "summary.html",
        outcome=outcome.get("words", ""),
        tone=OUTCOME_TONES.get(outcome.get("state", ""), ""),
        figures=_training_figures(run) + _probe_figures(run.probe),
    )
    return Section("Summary", body=body)


def _training_figures(run: ReportContent) -> list[tuple[str, str, str]]:
    """Return the key figures of training: name, value, and a note."""
    epochs = run.epochs
    if not epochs:
        return []
    planned = run.config.get("settings", {}).get("epochs", len(epochs))
    figures = [
        ("Epochs", f"{len(epochs):,}", "" if len(epochs) == planned else f"of {planned:,}"),
        ("Loss", _format_loss(epochs[-1].get("loss")), f"from {_format_loss(epochs[0].get('loss'))}"),
    ]
    if (retrieval := _last_value(epochs, "view_retrieval_accuracy")) is not None:
        figures.append(("View retrieval", f"{retrieval:.1f} %", _describe_retrieval(epochs)))
    if (knn := _last_value(epochs, "knn_accuracy")) is not None:
        figures.append(("kNN accuracy", f"{knn:.1f} %", f"k = 20{_describe_knn_chance(run.outcome)}"))
    if speeds := [epoch["images_per_second"] for epoch in epochs if epoch.get("images_per_second") is not None]:
        figures.append(("Speed", f"{np.median(speeds):,.0f}", "images/s, median"))
    seconds = sum(epoch.get("seconds") or 0 for epoch in epochs)
    return [*figures, ("Training", format_duration(seconds), "epochs only")]


def _describe_retrieval(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Return which images the validation metrics are of, and the view retrieval accuracy of chance."""
    count = _last_value(epochs, "images")
    kind = "held-out" if _last_value(epochs, "held_out") else "training"
    return f"of {count:,} {kind} images; chance {100 / (2 * count - 1):.1f} %"


def _describe_knn_chance(outcome: Mapping[str, Any] | None) -> str:
    """Return the kNN accuracy of chance, which the outcome holds."""
    gains = (outcome or {}).get("gains", ())
    chance = next((gain["chance"] for gain in gains if gain["metric"] == "kNN accuracy"), None)
    return "" if chance is None else f"; chance {chance:.1f} %, always the largest class"


def _probe_figures(probe: ProbeResult | str) -> list[tuple[str, str, str]]:
    if isinstance(probe, str) or not probe.scores:
        return []
    score = probe.scores[0]
    return [("Probe", f"{score.deciding.top_1:.1f} %", "linear" if score.linear else "kNN, k = 20")]


def _curves_section(epochs: Sequence[Mapping[str, Any]], outcome: Mapping[str, Any] | None) -> Section:
    if not epochs:
        return Section("Training curves", "No epoch is complete yet.")
    numbers = [int(epoch["epoch"]) for epoch in epochs]

    measured_once: list[str] = []

    def draw(title: str, note: str, *keys: tuple[str, str], unit: str = "", from_zero: bool = False) -> Markup:
        curves = {name: [_value(epoch, key) for epoch in epochs] for key, name in keys}
        if max(sum(value is not None for value in values) for values in curves.values()) == 1:  # no curve
            measured_once.append(title)
            return Markup("")
        return draw_line_chart(title, numbers, curves, note=note, unit=unit, from_zero=from_zero)

    is_monitored = any(epoch.get("validation") for epoch in epochs)
    retrieval = _describe_retrieval(epochs) if is_monitored else ""
    charts = [
        draw("Loss", "Mean over the steps of the epoch", ("loss", "loss")),
        draw("kNN accuracy", "Of a fifth of a sample, by the classes of their 20 nearest neighbors in the rest"
             f"{_describe_knn_chance(outcome)}; no image's label was trained on", ("knn_accuracy", "kNN"), unit=" %"),
        draw("View retrieval accuracy", f"Views whose nearest other view is of the same image, {retrieval}",
             ("view_retrieval_accuracy", "accuracy"), unit=" %"),
        draw("Cosine similarity", "Of two views of the same image, and of different images; a wide gap is good",
             ("positive_similarity", "same image"), ("negative_similarity", "different images")),
        draw("Effective rank", "Dimensions in use; near 1 is a collapse", ("rank_h", "of h"), ("rank_z", "of z")),
        draw("Alignment", "Squared distance of the two views of an image; lower is better", ("alignment", "alignment")),
        draw("Uniformity", "Spread of different images; lower is better", ("uniformity", "uniformity")),
        draw("Learning rate", "At the last step of the epoch", ("learning_rate", "learning rate"), from_zero=True),
        draw("Speed", "Images/s", ("images_per_second", "images/s"), from_zero=True),
    ]  # fmt: skip
    body = Markup('<div class="charts">\n{}</div>').format(Markup("").join(charts))
    lead = ["One point per epoch. Hover over a point to see its value."]
    if measured_once:
        lead.append(f"Without a curve, as they have one point only: {', '.join(measured_once)}.")
    if not is_monitored:
        lead.append("Validation metrics were not measured in this run.")
    return Section("Training curves", " ".join(lead), body)


def _views_section(views: SampleViews | str) -> Section:
    if isinstance(views, str):
        return Section("Views", views)
    heat_map = Markup("")
    if views.similarity is not None:
        thumbnails = [view for _, *pair in views.images for view in pair]
        names = [f"image {i // 2 + 1}, view {i % 2 + 1}" for i in range(len(thumbnails))]
        heat_map = draw_heat_map(views.similarity, names, [view.uri or "data:," for view in thumbnails])
    body = render_template("views.html", images=views.images, heat_map=heat_map, vector=views.vector)
    return Section("Views", views.lead, body)


def _neighbors_section(neighbors: SampleNeighbors | str) -> Section:
    if isinstance(neighbors, str):
        return Section("Nearest neighbors", neighbors)
    return Section("Nearest neighbors", neighbors.lead, render_template("neighbors.html", rows=neighbors.rows))


def _probe_section(probe: ProbeResult | str, confusion: str | None) -> Section:
    if isinstance(probe, str):
        return Section("Probe", probe)
    lead = (
        f"{len(probe.classes):,} classes, {probe.train_images:,} training images with labels, "
        f"{probe.test_images:,} held-out images ({probe.split}). Always predicting the largest class scores "
        f"{probe.chance:.1f} %. Parentheses hold 95 % bootstrap intervals."
    )
    recalled = [score for score in probe.per_class if score.recall is not None]
    classes = sorted(recalled, key=lambda score: score.recall or 0.0)
    confused = sorted((cell for cell in probe.confusion if cell.label != cell.predicted), key=lambda c: -c.count)
    body = render_template(
        "probe.html", probe=probe, format_accuracy=_format_accuracy, confusion=confusion,
        confused=confused[:MAX_CONFUSED_CLASSES],
        classes=classes[:MAX_CLASSES], more_classes=len(classes[MAX_CLASSES:]),
        label_errors=probe.label_errors[:MAX_LABEL_ERRORS],
        more_label_errors=len(probe.label_errors[MAX_LABEL_ERRORS:]),
    )  # fmt: skip
    return Section("Probe", lead, body)


def _settings_section(config: Mapping[str, Any]) -> Section:
    choices = config.get("choices", [])
    planned = {choice["name"].replace(" ", "_") for choice in choices}
    other_settings = [
        (name.replace("_", " "), str(value))
        for name, value in sorted(config.get("settings", {}).items())
        if name not in planned and value not in (None, "")
    ]
    versions = {"simclr": config.get("simclr_version"), "python": config.get("python"), **config.get("versions", {})}
    known_versions = {name: version for name, version in versions.items() if version}
    body = render_template("settings.html", choices=choices, other_settings=other_settings, versions=known_versions)
    lead = "Each setting of this run, with the reason for its value." if choices else "The settings of this run."
    return Section("Settings", lead, body)


def _skipped_section(skipped: Sequence[tuple[str, str]]) -> Section:
    if not skipped:
        return Section("Skipped images", "No file was skipped.")
    body = render_template(
        "skipped.html",
        reasons=Counter(reason for _, reason in skipped).most_common(MAX_REASONS),
        files=skipped[:MAX_SKIPPED_FILES],
        more=len(skipped[MAX_SKIPPED_FILES:]),
    )
    return Section("Skipped images", f"{format_count(len(skipped), 'skipped or odd file')}, with the reasons.", body)


def _value(epoch: Mapping[str, Any], key: str) -> Any:
    """Return a value of an epoch or of its validation metrics; None if it was not measured."""
    return epoch[key] if key in epoch else (epoch.get("validation") or {}).get(key)


def _last_value(epochs: Sequence[Mapping[str, Any]], key: str) -> Any:
    return next((value for epoch in reversed(epochs) if (value := _value(epoch, key)) is not None), None)


def _format_loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.3f}"


def _format_accuracy(accuracy: Accuracy | None) -> str:
    return "-" if accuracy is None else f"{accuracy.top_1:.1f} ({accuracy.low:.1f} to {accuracy.high:.1f})"
