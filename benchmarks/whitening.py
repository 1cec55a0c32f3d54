"""Label-free linear correction of embeddings (centering, power-law whitening): does it help, and by which rule?

    python benchmarks/whitening.py TRAIN TEST --encoder E [--image-size 64] [--foreign FOREIGN]

TRAIN and TEST are folders of class folders, FOREIGN is a folder of images of something else; E is named as for
`simclr embed`. TRAIN is the library that is searched. Labels are only used for scores. A rule is fitted on the library:
rows of length 1, minus their mean, whose principal components are divided by their standard deviation to the power p;
p = 0 subtracts the mean only. `+ mean` adds the mean variance of all directions to each variance (shrinkage). Without
it, directions in which the library does not vary are dropped if p > 0. Rows have length 1 again afterwards.

The first table is of TEST images, in percent: the values of uncorrected rows (raw), and the difference of each rule
with its 95 % bootstrap interval, whose last character is + or - if it excludes 0. Differences are paired by image:

knn20      accuracy by the votes of the 20 nearest rows at the temperature 0.07
matched20  the same at 0.07 * (1 - mean cosine of two library rows), which is also 0.07 where cosines are 0 on average
nn1        share of images whose nearest row is of their class
p10        precision at 10
map        mean average precision
nmi, rand  of k-means of the library with its classes, k their number; intervals over starts
outliers   area under the curve of the product's outlier score, of 5 % foreign images among library rows, on which the
           rule is fitted as well; intervals over draws

The other tables are of p = 0 for random libraries of N images, and TEST images of the classes in them; intervals are
over draws and images. Prints the machine last, as one JSON object.
"""

from __future__ import annotations

from machine import describe_machine  # before torch

# isort: split
import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, roc_auc_score

from simclr_cli.engine.clustering import k_means
from simclr_cli.engine.nearest import normalize_rows
from simclr_cli.engine.outliers import score_outliers
from simclr_cli.engine.probes import knn_votes
from simclr_cli.store.vectors import name_rows_file

SIZES = (10, 20, 50, 100, 300)  # of libraries
DRAWS = 10  # of libraries, and of foreign images
STARTS = 8  # of k-means
MAX_CLUSTERED = 2_000
MAX_BASE = 1_000  # library rows among which foreign images are outliers
TEMPERATURE = 0.07
RESAMPLES = 2_000

Rows = NDArray[np.float32]
Scores = dict[str, NDArray[np.float64]]  # (draws, images) in percent by metric; nan: not scored


class Rule(NamedTuple):
    """A correction: components are divided by their standard deviation to the power."""

    power: float
    shrink: bool = False  # the mean variance is added to all variances


RULES: dict[str, Rule | None] = {
    "raw": None, "p=0": Rule(0), "p=0.1": Rule(0.1), "p=0.25": Rule(0.25), "p=0.5": Rule(0.5),
    "p=0.5 + mean": Rule(0.5, shrink=True),
}  # fmt: skip
CENTERING = {"raw": None, "p=0": Rule(0)}


class Folder(NamedTuple):
    """Embeddings of a folder, not normalized, and the class folder of each."""

    rows: Rows
    classes: NDArray[np.str_]


def embed(images: Path, out: Path, options: Sequence[str]) -> Folder:
    """Run `simclr embed` as a process, and read its file."""
    command = [sys.executable, "-m", "simclr_cli", "embed", str(images), "--raw", "--out", str(out), *options]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    names = json.loads(name_rows_file(out).read_text())["rows"]
    return Folder(np.load(out, allow_pickle=False), np.array([Path(name).parts[0] for name in names]))


def correct(rule: Rule | None, fitted: Rows, *others: Rows) -> list[Rows]:
    """Correct rows by a rule that is fitted on the first ones, and scale all to length 1."""
    parts = [np.asarray(normalize_rows(rows), np.float64) for rows in (fitted, *others)]
    if rule is None:
        return [np.asarray(x, np.float32) for x in parts]
    mean, (count, width) = parts[0].mean(axis=0), fitted.shape
    parts = [x - mean for x in parts]
    if rule.power == 0:
        return [normalize_rows(x) for x in parts]
    _, scales, axes = np.linalg.svd(parts[0], full_matrices=False)
    variances = scales**2 / count
    axes, variances = (item[variances > 1e-9 * variances.max()] for item in (axes, variances))
    added = variances.sum() / width if rule.shrink else 0.0
    gains = (variances + added) ** (-rule.power / 2)
    outside = added ** (-rule.power / 2) if rule.shrink else 0.0  # of directions in which the fitted rows do not vary
    return [normalize_rows((x @ axes.T * (gains - outside)) @ axes + x * outside) for x in parts]


def score_search(library: Rows, classes: NDArray[np.str_], queries: Rows, asked: NDArray[np.str_]) -> Scores:
    """Score each query by each metric, (queries,) in percent."""
    names = np.unique(np.concatenate([classes, asked]))
    labels, expected = np.searchsorted(names, classes), np.searchsorted(names, asked)
    train, test = torch.from_numpy(library), torch.from_numpy(queries)
    count = len(library)
    cosine = (float((library.sum(axis=0, dtype=np.float64) ** 2).sum()) - count) / (count * (count - 1))  # mean of two
    scores = {}
    for name, temperature in (("knn20", TEMPERATURE), ("matched20", TEMPERATURE * max(1 - cosine, 1e-3))):
        (votes,) = knn_votes(
            train, torch.from_numpy(labels), test, neighbors=[20], temperature=temperature, classes=len(names)
        )
        scores[name] = votes.argmax(dim=1).numpy() == expected
    order = (test @ train.T).argsort(dim=1, descending=True, stable=True).numpy()
    hits = labels[order] == expected[:, None]
    precision = np.cumsum(hits, axis=1) / np.arange(1, count + 1)
    scores |= {"nn1": hits[:, 0], "p10": hits[:, :10].mean(axis=1)}
    scores["map"] = (precision * hits).sum(axis=1) / np.maximum(hits.sum(axis=1), 1)
    return {name: 100 * np.asarray(value, np.float64) for name, value in scores.items()}


def compare_search(
    train: Folder, test: Folder, libraries: Sequence[NDArray[np.int64]], rules: dict[str, Rule | None]
) -> dict[str, Scores]:
    """Score the test images of the classes in each library, which is a part of the train images, by each rule."""
    result: dict[str, Scores] = {name: {} for name in rules}
    for number, chosen in enumerate(libraries):
        library, classes = train.rows[chosen], train.classes[chosen]
        is_asked = np.isin(test.classes, classes)
        for name, rule in rules.items():
            rows, queries = correct(rule, library, test.rows[is_asked])
            for metric, values in score_search(rows, classes, queries, test.classes[is_asked]).items():
                table = result[name].setdefault(metric, np.full((len(libraries), len(test.rows)), np.nan))
                table[number, is_asked] = values
    return result


def add_clusters(result: dict[str, Scores], train: Folder) -> None:
    """Add the agreement of k-means with the classes, of several starts."""
    chosen = np.random.default_rng(0).permutation(len(train.rows))[:MAX_CLUSTERED]
    classes = train.classes[chosen]
    for name, rule in RULES.items():
        (rows,) = correct(rule, train.rows[chosen])
        found = [k_means(rows, len(np.unique(classes)), np.random.default_rng(seed)) for seed in range(STARTS)]
        for metric, score in (("nmi", normalized_mutual_info_score), ("rand", adjusted_rand_score)):
            result[name][metric] = 100 * np.array([[score(classes, labels)] for labels in found])


def add_outliers(result: dict[str, Scores], train: Folder, foreign: Folder) -> None:
    """Add the area under the curve of the outlier score, of several draws of foreign images."""
    areas: dict[str, list[list[float]]] = {name: [] for name in RULES}
    for seed in range(DRAWS):
        draw = np.random.default_rng(seed)
        base = train.rows[draw.permutation(len(train.rows))[:MAX_BASE]]
        odd = foreign.rows[draw.permutation(len(foreign.rows))[: max(2, len(base) // 19)]]
        is_foreign = np.arange(len(base) + len(odd)) >= len(base)
        for name, rule in RULES.items():
            (rows,) = correct(rule, np.concatenate([base, odd]))
            areas[name].append([100 * float(roc_auc_score(is_foreign, score_outliers(rows, 10).score))])
    for name, values in areas.items():
        result[name]["outliers"] = np.array(values)


def show_difference(values: NDArray[np.float64]) -> str:
    """Write the mean of (draws, images) differences and its 95 % interval over resamples of both."""
    is_scored = ~np.isnan(values)
    draw, (draws, images) = np.random.default_rng(0), values.shape
    by_draw = draw.multinomial(draws, np.full(draws, 1 / draws), RESAMPLES)
    by_image = draw.multinomial(images, np.full(images, 1 / images), RESAMPLES)
    sums, counts = (((by_draw @ table) * by_image).sum(axis=1) for table in (np.nan_to_num(values), is_scored))
    low, high = np.percentile(sums / np.maximum(counts, 1), (2.5, 97.5))
    sign = "+" if low > 0 else "-" if high < 0 else " "
    return f"{np.nanmean(values):+.1f} [{low:+.1f} {high:+.1f}]{sign}"


def print_table(title: str, result: dict[str, Scores]) -> None:
    """Print the values of raw rows, and the differences of each rule from them."""
    raw = result["raw"]
    print(f"{title:13}", *(f"{metric:>20}" for metric in raw))
    for name, scores in result.items():
        cells = [f"{np.nanmean(raw[metric]):.1f}" if name == "raw" else show_difference(scores[metric] - raw[metric])
                 for metric in raw]  # fmt: skip
        print(f"{name:13}", *(f"{cell:>20}" for cell in cells))
    print(flush=True)


def main() -> None:
    """Embed the folders, compare the rules, and print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--image-size")
    parser.add_argument("--foreign", type=Path)
    args = parser.parse_args()
    options = ["--encoder", args.encoder, *(["--image-size", args.image_size] if args.image_size else [])]
    with tempfile.TemporaryDirectory() as folder:
        train, test = (embed(getattr(args, name), Path(folder, f"{name}.npy"), options) for name in ("train", "test"))
        foreign = embed(args.foreign, Path(folder, "foreign.npy"), options) if args.foreign else None
    result = compare_search(train, test, [np.arange(len(train.rows))], RULES)
    add_clusters(result, train)
    if foreign:
        add_outliers(result, train, foreign)
    print_table(f"N={len(train.rows)}", result)
    for size in SIZES:
        if size < len(train.rows):
            draws = [np.random.default_rng(10 + seed).permutation(len(train.rows))[:size] for seed in range(DRAWS)]
            print_table(f"N={size}", compare_search(train, test, draws, CENTERING))
    print(json.dumps(describe_machine()))


if __name__ == "__main__":
    main()
