"""Display of each command's result: data on stdout, messages on stderr. --json prints the whole result instead."""

from __future__ import annotations

from pathlib import Path

from simclr_cli import api
from simclr_cli.cli.console import Reporter
from simclr_cli.cli.output import Output
from simclr_cli.cli.show_search_results import show_clusters as show_clusters
from simclr_cli.cli.show_search_results import show_duplicates as show_duplicates
from simclr_cli.cli.show_search_results import show_map as show_map
from simclr_cli.cli.show_search_results import show_neighbors
from simclr_cli.cli.show_search_results import show_outliers as show_outliers
from simclr_cli.cli.show_search_results import show_similar as show_similar
from simclr_cli.core.text import format_count, format_duration, quote_words


def show_pretrain(result: api.PretrainResult, reporter: Reporter, output: Output) -> None:
    """Print the run, and the commands to run next."""
    if not result.finished:
        reporter.print("Stopped after the plan (--dry-run).")
        return
    reporter.print(
        f"Trained on {format_count(result.images, 'image')} for {format_count(result.epochs, 'epoch')}"
        f" in {format_duration(result.seconds)}; "
        f"loss {result.first_loss:.3f} -> {result.last_loss:.3f}, {result.images_per_second:,.0f} images/s."
    )
    if result.skipped:
        reporter.print(f"Skipped {format_count(result.skipped, 'file')}; see {result.run}/skipped.json.", "yellow")
    reporter.print(result.outcome or "", "bold")
    if result.report:
        reporter.print(f"Report: {result.report}")
    output.print_line(result.run)
    runs = Path(result.run).parent
    option = "" if runs == api.RUNS_FOLDER else f" --runs {quote_words(runs)}"
    reporter.print("Next:")
    reporter.print(f"  simclr similar IMAGE{option}: find the most similar images")
    reporter.print(f"  simclr embed --out vecs.npy{option}: write the embedding of every image")
    reporter.print(f"  simclr probe FOLDER{option}: evaluate the encoder, if the folders are classes")


def show_preview(result: api.PreviewResult, reporter: Reporter, output: Output) -> None:
    """Print each setting with its reason, and the sheet."""
    for choice in result.choices:
        reporter.print(f"  {choice.name:<15} {choice.value:<9} {choice.reason}")
    output.print_line(result.out)
    options = [f"--{choice.name.replace(' ', '-')} {choice.value.split()[0]}" for choice in result.choices
             if choice.reason == "as set" and choice.name != "workers"]  # fmt: skip
    reporter.print(f"Next: {' '.join(['simclr pretrain', quote_words(result.folder), *options])}", wrap=False)


def show_embed(result: api.EmbedResult, reporter: Reporter, output: Output) -> None:
    """Print the file and its shape."""
    length = "scaled to length 1" if result.normalized else "not scaled"
    reporter.print(
        f"{result.rows:,} x {result.dimensions} float32, {length}, in {format_duration(result.seconds)} "
        f"({result.images_per_second:,.0f} images/s); image names in {result.rows_file}."
    )
    if result.skipped:
        reporter.print(f"Skipped {format_count(result.skipped, 'file')}; see {result.rows_file}.", "yellow")
    output.print_line(result.out)


def show_probe(result: api.ProbeResult, reporter: Reporter, output: Output) -> None:
    """Print the scores of the encoder and of the baselines, and the verdict."""
    reporter.print(
        f"{len(result.classes)} classes, {result.train_images:,} images with labels, "
        f"{result.test_images:,} held out ({result.split}). Always predicting one class scores {result.chance:.1f} %."
    )
    linear = "linear %" if result.protocol == "quick" else "linear (paper) %"
    columns = ["representation", "kNN k=20 %", "kNN k=200 %", linear, "95 % interval", "balanced %"]
    has_top_5 = result.scores[0].knn_20.top_5 is not None
    output.print_table(
        [*columns, "top-5 %"] if has_top_5 else columns, [_format_row(score, has_top_5) for score in result.scores]
    )
    if result.few_labels:
        output.print_table(
            ["labels", "representation", "labeled images", "linear %", "std"],
            [[row.wanted, row.representation, f"{row.labels:,}", f"{row.top_1:.1f}", f"{row.std:.1f}"]
             for row in result.few_labels],
            title="Linear probe with a part of the labels",
        )  # fmt: skip
    if reporter.console.is_terminal:
        _print_classes(result, reporter)
    reporter.print(result.verdict, "bold")
    if result.label_errors_note:
        reporter.print(result.label_errors_note)
    if result.folder:
        reporter.print(f"Accuracy by class, confusion matrix and label errors, if any: {result.folder}")


def _print_classes(result: api.ProbeResult, reporter: Reporter) -> None:
    """Print the classes of lowest recall, their commonest confusions, and the likely label errors."""
    scores = [score for score in result.per_class if score.recall is not None]
    hardest = sorted(scores, key=lambda score: score.recall or 0.0)[:5]
    reporter.print("Classes of lowest recall: " + ", ".join(f"{score.name} {score.recall:.0f} %" for score in hardest))
    confusions = sorted(
        (cell for cell in result.confusion if cell.label != cell.predicted), key=lambda cell: -cell.count
    )
    if confusions:
        reporter.print("Most frequent confusions: " + ", ".join(
            f"{cell.label} as {cell.predicted} ({cell.count:,})" for cell in confusions[:4]))  # fmt: skip
    if result.label_errors:
        errors = ", ".join(f"{error.path} (predicted: {error.predicted})" for error in result.label_errors[:3])
        reporter.print(f"Likely label errors, the most likely first: {errors}")


def show_finetune(result: api.FinetuneResult, reporter: Reporter, output: Output) -> None:
    """Print the classification accuracy and the classifier, and the command to run next."""
    accuracy = result.accuracy
    reporter.print(
        f"Classification accuracy {accuracy.top_1:.1f} % on {format_count(result.test_images, 'held-out image')} "
        f"(95 % interval {accuracy.low:.1f} to {accuracy.high:.1f}; mean over the classes {accuracy.balanced:.1f} %). "
        f"Always predicting one class scores {result.chance:.1f} %."
    )
    reporter.print(
        f"Trained from {result.encoder} with the labels of {format_count(result.labels, 'image')} for "
        f"{format_count(result.epochs, 'epoch')} in {format_duration(result.seconds)}."
    )
    if result.skipped:
        reporter.print(f"Skipped {format_count(result.skipped, 'file')} that could not be used.", "yellow")
    output.print_line(result.out)
    reporter.print("Next:")
    reporter.print(f"  simclr predict IMAGE --classifier {quote_words(result.out)}: predict the class of an image")


def show_predict(result: api.PredictResult, reporter: Reporter, output: Output) -> None:
    """Print a row per image, or the file written."""
    for reason in result.skipped:
        reporter.print(f"Skipped: {reason}", "yellow")
    if result.out is not None:
        reporter.print(f"{format_count(len(result.predictions), 'image')}, {len(result.labels):,} classes.")
        output.print_line(result.out)
        return
    rows = []
    for image in result.predictions:
        next_classes = ", ".join(f"{guess.label} {guess.probability:.3f}" for guess in image.classes[1:])
        rows.append([image.path, image.label, f"{image.probability:.3f}", next_classes])
    output.print_table(["path", "label", "probability", "next classes"], rows)


def show_report(result: api.ReportResult, reporter: Reporter, output: Output) -> None:
    """Print the page."""
    unfinished = "" if result.finished else " of an unfinished run"
    reporter.print(f"Report{unfinished}: {result.bytes / 1e6:.1f} MB; it needs no network.")
    output.print_line(result.out)


def show_check(result: api.CheckResult, reporter: Reporter, output: Output) -> None:
    """Print each problem, and how to repair it."""
    if not result.finished:
        reporter.print(
            f"The run is not finished: only its checkpoint is verified. Resume it with: {result.resume}", "yellow"
        )
    problems = "no problems" if result.intact else format_count(len(result.problems), "problem")
    files = format_count(result.files, "file")
    reporter.print(f"Verified {files} of {result.run}, {result.bytes / 1e6:,.1f} MB: {problems}.", "bold")
    for problem in result.problems:
        output.print_line(f"{problem.path}: {problem.state}. {problem.what} {problem.remedy}")


def show_cache(result: api.CacheResult, reporter: Reporter, output: Output) -> None:
    """Print a row per folder of images."""
    caches = f"{result.bytes / 1e6:,.1f} MB for {format_count(len(result.caches), 'folder')}"
    reporter.print(f"{'Deleted from' if result.cleared else 'Cache in'} {result.root}: {caches}.")
    if result.caches and not result.cleared:
        rows = [[cache.folder, ", ".join(map(str, cache.sides)), str(cache.encoders), f"{cache.bytes / 1e6:,.1f}",
                 cache.used] for cache in result.caches]  # fmt: skip
        output.print_table(["folder", "decoded size, px", "encoders", "MB", "last used"], rows)


def show_doctor(result: api.DoctorResult, reporter: Reporter, output: Output) -> None:
    """Print each fault and the command that fixes it, the worst first."""
    for line in result.machine:
        reporter.print(line, "dim")
    output.print_diagnoses(result.diagnoses)
    faults = sum(diagnosis.grade == "fault" for diagnosis in result.diagnoses)
    if faults:
        reporter.print(f"{format_count(faults, 'fault')} found.", "bold red")
    else:
        reporter.print(f"No fault found ({result.checks} kinds checked).", "bold green")


def show_demo(result: api.DemoResult, reporter: Reporter, output: Output) -> None:
    """Print the neighbors of one image, and the comparison with the baselines."""
    output.print_line(f"Most similar to {result.query.query}:")
    show_neighbors(result.query, result.folder, reporter, output)
    reporter.print(f"kNN classification of {len(result.classes)} classes, a fifth of the images held out:")
    rows = [_format_scores(score)[:3] for score in result.scores]
    output.print_table(["representation", "kNN k=20 %", "kNN k=200 %"], rows)
    trained, *baselines = result.scores
    best = max(baselines, key=lambda score: score.knn_20.top_1)
    gain = trained.knn_20.top_1 - best.knn_20.top_1
    name = best.representation.replace("untrained", "untrained encoder")
    reporter.print(
        f"kNN accuracy {trained.knn_20.top_1:.1f} %: {abs(gain):.1f} points {'above' if gain >= 0 else 'below'} "
        f"the best baseline ({name}), without labels, in {format_duration(result.seconds)}."
    )
    reporter.print(f"Everything is in {result.folder}. Now try your own: simclr pretrain FOLDER")


def _format_scores(score: api.Score) -> list[str]:
    linear = "-" if score.linear is None else f"{score.linear.top_1:.1f}"
    return [score.representation, f"{score.knn_20.top_1:.1f}", f"{score.knn_200.top_1:.1f}", linear]


def _format_row(score: api.Score, has_top_5: bool) -> list[str]:
    """Format a row of scores; the columns after `linear` are of the linear probe, or without one of 20 neighbors."""
    accuracy = score.deciding
    cells = [*_format_scores(score), f"{accuracy.low:.1f} to {accuracy.high:.1f}", f"{accuracy.balanced:.1f}"]
    return [*cells, f"{accuracy.top_5:.1f}"] if has_top_5 else cells
