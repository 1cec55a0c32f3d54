"""How each verb's result is shown to a person; --json shows the same result whole."""

from __future__ import annotations

from pathlib import Path

from simclr_cli import api as results
from simclr_cli.api import RUNS
from simclr_cli.cli.console import Data, Face
from simclr_cli.cli.search_results import show_clusters as show_clusters
from simclr_cli.cli.search_results import show_duplicates as show_duplicates
from simclr_cli.cli.search_results import show_hits
from simclr_cli.cli.search_results import show_map as show_map
from simclr_cli.cli.search_results import show_outliers as show_outliers
from simclr_cli.cli.search_results import show_similar as show_similar
from simclr_cli.core.text import count, duration


def show_pretrain(result: results.PretrainResult, face: Face, data: Data) -> None:
    """What was made and what to type next."""
    if not result.finished:
        face.say("Stopped after the plan, as asked.")
        return
    face.say(
        f"Trained on {count(result.images, 'image')} for {count(result.epochs, 'epoch')}"
        f" in {duration(result.seconds)}; "
        f"loss {result.first_loss:.3f} -> {result.last_loss:.3f}, {result.images_per_second:,.0f} images/s."
    )
    if result.skipped:
        face.say(f"Left out: {count(result.skipped, 'file')}; {result.run}/skipped.json says why.", "yellow")
    face.say(result.outcome or "", "bold")
    if result.report:
        face.say(f"Report: {result.report}")
    data.line(result.run)
    runs = Path(result.run).parent
    where = "" if runs == RUNS else f" --runs {runs}"
    face.say("Next:")
    face.say(f"  simclr similar IMAGE{where}: the most similar images")
    face.say(f"  simclr embed --out vecs.npy{where}: a vector for every image")
    face.say(f"  simclr probe FOLDER{where}: how good it is, where the folders are classes")


def show_preview(result: results.PreviewResult, face: Face, data: Data) -> None:
    """Each setting with its reason, and where the sheet is."""
    for choice in result.choices:
        face.say(f"  {choice.name:<15} {choice.value:<8} {choice.reason}")
    data.line(result.out)
    preset = [f"--preset {result.preset}"] if result.preset else []
    typed = [f"--{choice.name.replace(' ', '-')} {choice.value.split()[0]}" for choice in result.choices
             if choice.reason == "as set" and choice.name != "workers"]  # fmt: skip
    face.say(f"Next: {' '.join(['simclr pretrain', result.folder, *preset, *typed])}")


def show_embed(result: results.EmbedResult, face: Face, data: Data) -> None:
    """The file, and its shape."""
    length = "length 1" if result.normalized else "as they are"
    face.say(
        f"{result.rows:,} x {result.dimensions} float32, rows of {length}, in {duration(result.seconds)} "
        f"({result.images_per_second:,.0f} images/s); names of the rows in {result.rows_file}."
    )
    if result.skipped:
        face.say(f"Left out: {count(result.skipped, 'file')}; {result.rows_file} says why.", "yellow")
    data.line(result.out)


def show_probe(result: results.ProbeResult, face: Face, data: Data) -> None:
    """The verdict, the scores beside those of the baselines, and what else was found."""
    face.say(
        f"{len(result.classes)} classes, {result.train_images:,} images with labels, "
        f"{result.test_images:,} held out ({result.split}); always guessing one class gives {result.chance:.1f} %."
    )
    linear = "linear %" if result.protocol == "quick" else "linear (paper) %"
    columns = ["representation", "kNN k=20 %", "kNN k=200 %", linear, "95 % interval", "balanced %"]
    five = result.scores[0].knn_20.top_5 is not None
    data.table([*columns, "top-5 %"] if five else columns, [_row(score, five) for score in result.scores])
    if result.few_labels:
        data.table(
            ["labels used", "representation", "labels", "linear %", "+-"],
            [[few.wanted, few.representation, f"{few.labels:,}", f"{few.top_1:.1f}", f"{few.std:.1f}"]
             for few in result.few_labels],
            title="With a part of the labels",
        )  # fmt: skip
    if face.talk.is_terminal:
        _say_classes(result, face)
    face.say(result.verdict, "bold")
    if result.folder:
        face.say(f"Class by class, what is taken for what, suspect labels: {result.folder}")


def _say_classes(result: results.ProbeResult, face: Face) -> None:
    """The classes that fared worst, what they are taken for, and the labels that look wrong."""
    told = [one for one in result.per_class if one.recall is not None]
    worst = sorted(told, key=lambda one: one.recall or 0.0)[:5]
    face.say("Hardest classes: " + ", ".join(f"{one.name} {one.recall:.0f} %" for one in worst))
    wrong = sorted((cell for cell in result.confusion if cell.label != cell.predicted), key=lambda cell: -cell.count)
    if wrong:
        face.say("Most often taken for another: " + ", ".join(
            f"{cell.label} for {cell.predicted} ({cell.count:,})" for cell in wrong[:4]))  # fmt: skip
    if result.label_errors:
        first = ", ".join(f"{one.path} (more like {one.predicted})" for one in result.label_errors[:3])
        face.say(f"Labels worth a second look, the most suspect first: {first}")


def show_finetune(result: results.FinetuneResult, face: Face, data: Data) -> None:
    """How many held-out images it tells right, where it is, and what to type next."""
    told = result.accuracy
    face.say(
        f"{told.top_1:.1f} % of {count(result.test_images, 'held-out image')} told right "
        f"(95 % interval {told.low:.1f} to {told.high:.1f}; mean over the classes {told.balanced:.1f} %); "
        f"always guessing one class gives {result.chance:.1f} %."
    )
    face.say(
        f"Trained from {result.encoder} with the labels of {count(result.labels, 'image')} for "
        f"{count(result.epochs, 'epoch')} in {duration(result.seconds)}."
    )
    if result.skipped:
        face.say(f"Left out: {count(result.skipped, 'file')} that could not be used.", "yellow")
    data.line(result.out)
    face.say("Next:")
    face.say(f"  simclr predict IMAGE --classifier {result.out}: which class an image is of")


def show_predict(result: results.PredictResult, face: Face, data: Data) -> None:
    """A row an image, or the file that they were written to."""
    for reason in result.skipped:
        face.say(f"Left out: {reason}", "yellow")
    if result.out is not None:
        face.say(f"{count(len(result.predictions), 'image')}, {len(result.labels):,} classes.")
        data.line(result.out)
        return
    rows = []
    for one in result.predictions:
        others = ", ".join(f"{other.label} {other.probability:.3f}" for other in one.classes[1:])
        rows.append([one.path, one.label, f"{one.probability:.3f}", others])
    data.table(["path", "label", "probability", "then"], rows)


def show_report(result: results.ReportResult, face: Face, data: Data) -> None:
    """Where the page is."""
    unfinished = "" if result.finished else " of a run that is not finished"
    face.say(f"A page{unfinished}, of {result.bytes / 1e6:.1f} MB; it needs no network.")
    data.line(result.out)


def show_check(result: results.CheckResult, face: Face, data: Data) -> None:
    """What is not as it should be, and what to do about each."""
    if not result.finished:
        face.say(f"The run is not finished: only its checkpoint is verified. Go on with: {result.resume}", "yellow")
    checked = f"{count(result.files, 'file')} of {result.run}, {result.bytes / 1e6:,.1f} MB"
    face.say(f"{checked}: {'all as written' if result.intact else 'not all as written'}.", "bold")
    for one in result.problems:
        data.line(f"{one.path}: {one.state}. {one.what} {one.remedy}")


def show_cache(result: results.CacheResult, face: Face, data: Data) -> None:
    """A row for each folder of images."""
    verb = "Cleared" if result.cleared else "Kept"
    face.say(f"{verb} in {result.root}: {result.bytes / 1e6:,.1f} MB for {count(len(result.caches), 'folder')}.")
    if result.caches and not result.cleared:
        rows = [[kept.folder, ", ".join(map(str, kept.sides)), f"{kept.bytes / 1e6:,.1f}", kept.used]
                for kept in result.caches]  # fmt: skip
        data.table(["path", "decoded at px", "MB", "last used"], rows)


def show_doctor(result: results.DoctorResult, face: Face, data: Data) -> None:
    """Each fault with what mends it, the worst first."""
    for line in result.machine:
        face.say(line, "dim")
    data.diagnoses(result.diagnoses)
    faults = sum(one.grade == "fault" for one in result.diagnoses)
    if faults:
        face.say(f"{count(faults, 'fault')} that a command would stop of.", "bold red")
    else:
        what = "Nothing is wrong" if not result.diagnoses else "Nothing that a command would stop of"
        face.say(f"{what}; {result.checks} kinds of fault were looked for.", "bold green")


def show_demo(result: results.DemoResult, face: Face, data: Data) -> None:
    """The neighbors of one image and the comparison."""
    data.line(f"Most similar to {result.query.query}:")
    show_hits(result.query, data)
    face.say(f"Which of {len(result.classes)} classes? By nearest neighbors, a fifth of the labels held out:")
    data.table(["representation", "kNN k=20 %", "kNN k=200 %"], [_cells(score)[:3] for score in result.scores])
    trained, *others = result.scores
    best = max(others, key=lambda score: score.knn_20.top_1)
    face.say(
        f"Training without a single label gained {trained.knn_20.top_1 - best.knn_20.top_1:+.1f} points "
        f"over the best other ({best.representation}), in {duration(result.seconds)} from drawing to here."
    )
    face.say(f"Everything is in {result.folder}. Now try your own: simclr pretrain FOLDER")


def _cells(score: results.Score) -> list[str]:
    linear = "-" if score.linear is None else f"{score.linear.top_1:.1f}"
    return [score.representation, f"{score.knn_20.top_1:.1f}", f"{score.knn_200.top_1:.1f}", linear]


def _row(score: results.Score, five: bool) -> list[str]:
    """The interval, balanced accuracy and top-5 are those of the linear probe, or of 20 neighbors without one."""
    of = score.deciding
    cells = [*_cells(score), f"{of.low:.1f} to {of.high:.1f}", f"{of.balanced:.1f}"]
    return [*cells, f"{of.top_5:.1f}"] if five else cells
