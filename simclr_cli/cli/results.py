"""How each verb's result is shown to a person; --json shows the same result whole."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from simclr_cli.cli.console import Data, Face, count, duration
from simclr_cli.results import (
    CacheResult,
    DemoResult,
    EmbedResult,
    PretrainResult,
    PreviewResult,
    ProbeResult,
    Score,
    SimilarResult,
)
from simclr_cli.settings import RUNS


def show_pretrain(result: PretrainResult, face: Face, data: Data) -> None:
    """What was made and what to type next."""
    if not result.finished:
        face.say("Stopped after the plan, as asked.")
        return
    face.say(
        f"Trained on {count(result.pictures, 'picture')} for {count(result.epochs, 'epoch')}"
        f" in {duration(result.seconds)}; "
        f"loss {result.first_loss:.3f} -> {result.last_loss:.3f}, {result.images_per_second:,.0f} images/s."
    )
    if result.refused:
        face.say(f"Left out: {count(result.refused, 'file')}; {result.run}/refused.json says why.", "yellow")
    data.line(result.run)
    runs = Path(result.run).parent
    where = "" if runs == RUNS else f" --runs {runs}"
    face.say("Next:")
    face.say(f"  simclr similar PICTURE{where}: the most similar pictures")
    face.say(f"  simclr embed --out vecs.npy{where}: a vector for every picture")
    face.say(f"  simclr probe FOLDER{where}: how good it is, where the folders are classes")


def show_preview(result: PreviewResult, face: Face, data: Data) -> None:
    """Each setting with its reason, and where the sheet is."""
    for choice in result.choices:
        face.say(f"  {choice.name:<15} {choice.value:<8} {choice.reason}")
    data.line(result.out)
    preset = [f"--preset {result.preset}"] if result.preset else []
    typed = [f"--{choice.name.replace(' ', '-')} {choice.value.split()[0]}" for choice in result.choices
             if choice.reason == "as set" and choice.name != "workers"]  # fmt: skip
    face.say(f"Next: {' '.join(['simclr pretrain', result.images, *preset, *typed])}")


def open_page(out: str, face: Face) -> None:
    """Show a file in the browser; where there is none, say so."""
    if not webbrowser.open(Path(out).resolve().as_uri()):
        face.say(f"No browser could be started; open {out} by hand.", "yellow")


def show_embed(result: EmbedResult, face: Face, data: Data) -> None:
    """The file, and its shape."""
    length = "length 1" if result.normalised else "as they are"
    face.say(
        f"{result.rows:,} x {result.dimensions} float32, rows of {length}, in {duration(result.seconds)} "
        f"({result.images_per_second:,.0f} images/s); names of the rows in {result.rows_file}."
    )
    if result.refused:
        face.say(f"Left out: {count(result.refused, 'file')}; {result.rows_file} says why.", "yellow")
    data.line(result.out)


def show_probe(result: ProbeResult, face: Face, data: Data) -> None:
    """The scores, and whether training helped."""
    face.say(
        f"{len(result.classes)} classes, {result.train_pictures:,} pictures with labels, "
        f"{result.test_pictures:,} held out ({result.split}); always guessing one class gives {result.chance:.1f} %."
    )
    data.table(["encoder", "kNN k=20 %", "kNN k=200 %", "linear %"], [_cells(score) for score in result.scores])
    if len(result.scores) == 1:
        return
    trained, untrained = result.scores
    gain = trained.knn_20.top_1 - untrained.knn_20.top_1
    verdict = "helped" if gain > 0 else "did not help"
    face.say(f"Training {verdict}: {gain:+.1f} points by kNN (k=20) over the untrained encoder.")


def show_similar(result: SimilarResult, face: Face, data: Data) -> None:
    """A table a query."""
    for query in result.queries:
        rows = [[str(hit.rank), f"{hit.similarity:.4f}", hit.path] for hit in query.neighbours]
        if len(result.queries) > 1 or data.out.is_terminal:
            data.line(f"Most similar to {query.query}:")
        data.table(["rank", "similarity", "path"], rows)
    for reason in result.refused:
        face.say(f"Left out: {reason}", "yellow")


def show_cache(result: CacheResult, face: Face, data: Data) -> None:
    """A row for each folder of pictures."""
    verb = "Cleared" if result.cleared else "Kept"
    face.say(f"{verb} in {result.root}: {result.bytes / 1e6:,.1f} MB for {count(len(result.caches), 'folder')}.")
    if result.caches and not result.cleared:
        rows = [[kept.folder, ", ".join(map(str, kept.sides)), f"{kept.bytes / 1e6:,.1f}", kept.used]
                for kept in result.caches]  # fmt: skip
        data.table(["path", "decoded at px", "MB", "last used"], rows)


def show_demo(result: DemoResult, face: Face, data: Data) -> None:
    """The neighbours of one picture and the comparison."""
    data.line(f"Most similar to {result.query.query}:")
    data.table(
        ["rank", "similarity", "path"],
        [[str(hit.rank), f"{hit.similarity:.4f}", hit.path] for hit in result.query.neighbours],
    )
    face.say(f"Which of {len(result.classes)} classes? By nearest neighbours, a fifth of the labels held out:")
    data.table(["representation", "kNN k=20 %", "kNN k=200 %"], [_cells(score)[:3] for score in result.scores])
    trained, *others = result.scores
    best = max(others, key=lambda score: score.knn_20.top_1)
    face.say(
        f"Training without a single label gained {trained.knn_20.top_1 - best.knn_20.top_1:+.1f} points "
        f"over the best other ({best.representation}), in {duration(result.seconds)} from drawing to here."
    )
    face.say(f"Everything is in {result.folder}. Now try your own: simclr pretrain FOLDER")


def _cells(score: Score) -> list[str]:
    linear = "-" if score.linear is None else f"{score.linear.top_1:.1f}"
    return [score.representation, f"{score.knn_20.top_1:.1f}", f"{score.knn_200.top_1:.1f}", linear]
