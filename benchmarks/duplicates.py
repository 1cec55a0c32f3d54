"""Near-duplicates: the time to find them among many vectors, and the recall of known ones by thresholds.

    python benchmarks/duplicates.py vectors [--rows 100000] [--rounds 3]
    python benchmarks/duplicates.py photos RUN IMAGES [--originals 200]
    python benchmarks/duplicates.py blocks IMAGES [--originals 60]
    python benchmarks/duplicates.py transformed IMAGES ENCODER [--originals 60]

vectors    rows of 512 numbers with the structure of h (clusters, a falling spectrum, no negative numbers), 2 % of them
           near-duplicates: seconds to find all pairs with a similarity of at least 0.95, and the peak memory
photos     some of IMAGES are copied exactly, at half the size, at JPEG quality 40, cropped by 4 %, and 10 % brighter,
           next to the originals in a new folder. RUN's encoder computes the vectors. For several thresholds of
           similarity, hash and color: recall of each kind of duplicate, and the pairs of unrelated images
blocks     the pairs of IMAGES with similar hashes and colors, and those of them that also match block by block; and for
           some images, changed in memory, the percent of each change that is found by both
transformed    the groups among IMAGES and the seconds to find them, without and with --transformed; and for some
           images and mirrored, rotated and cropped duplicates of them, in a folder of their own, how many of each kind
           are in the group of their original, and how many are also called by their name

Prints one JSON object.
"""

from __future__ import annotations

from machine import describe_machine, summarize  # before torch

# isort: split
import argparse
import io
import itertools
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from simclr_cli.api import DuplicatesResult, DuplicatesSettings
from simclr_cli.commands.duplicates import duplicates as find_groups
from simclr_cli.core.events import silent
from simclr_cli.engine.nearest import find_similar_pairs
from simclr_cli.images.fingerprints import (
    compute_fingerprint,
    correlation,
    downscale_colors,
    perceptual_hash,
    standardize,
)
from simclr_cli.images.scan import take_census
from simclr_cli.search.library import open_index, open_library
from simclr_cli.search.local_comparison import SIDE, Squares
from simclr_cli.search.near_duplicates import NEAR_DUPLICATE_MIN_CORRELATION, have_similar_fingerprints

WIDTH, THRESHOLD, PLANTED = 512, 0.95, 0.02
KINDS = ("half", "quality", "cut", "bright")


def create_vectors(rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (N, 512) unit rows, and the originals of the last ones, which are near-duplicates."""
    rng = np.random.default_rng(0)
    spectrum = (np.arange(1, WIDTH + 1) ** -0.6).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
    centers = rng.standard_normal((50, WIDTH), dtype=np.float32) * spectrum
    h = np.empty((rows, WIDTH), np.float32)
    for start in range(0, rows, 8192):
        part = h[start : start + 8192]
        noise = rng.standard_normal(part.shape, dtype=np.float32) * spectrum
        part[:] = np.maximum((noise + centers[rng.integers(0, 50, len(part))]) @ rotation + 0.02, 0)
    count = int(rows * PLANTED)
    originals = rng.integers(0, rows - count, count)
    h[rows - count :] = h[originals] + 0.1 * h[:1000].std() * rng.standard_normal((count, WIDTH), dtype=np.float32)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    return h, originals


def measure_vectors(args: argparse.Namespace) -> dict[str, Any]:
    """Measure time and memory to find all pairs."""
    h, originals = create_vectors(args.rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    walls, cpus = [], []
    for _ in range(args.rounds):
        wall_start, cpu_start, pairs = time.perf_counter(), time.process_time(), set()
        for i, j, _ in find_similar_pairs(h, THRESHOLD):
            pairs.update(zip(i.tolist(), j.tolist(), strict=True))
        walls.append(time.perf_counter() - wall_start)
        cpus.append(time.process_time() - cpu_start)
    first = args.rows - len(originals)
    planted = sum((int(i), first + row) in pairs for row, i in enumerate(originals))
    return {
        "rows": args.rows, "pairs": len(pairs), "planted": len(originals), "planted_found": planted,
        "seconds": summarize(walls), "cpu_seconds": summarize(cpus), "load": os.getloadavg(),
        "most_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3), "before_mb": round(before / 1e3),
    }  # fmt: skip


def copy_with_duplicates(images: Path, folder: Path, originals: int) -> dict[str, dict[str, str]]:
    """Copy a folder and add duplicates of some images; return their names by original and kind."""
    shutil.copytree(images, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    files = sorted(path for path in folder.rglob("*.jpg"))
    planted = {}
    for path in random.Random(0).sample(files, originals):
        path.parent.chmod(0o755)
        image = Image.open(path).convert("RGB")
        width, height = image.size
        left, top = round(0.02 * width), round(0.02 * height)
        variants = {
            "half": (image.resize((width // 2, height // 2), Image.Resampling.LANCZOS), 90),
            "quality": (image, 40),
            "cut": (image.crop((left, top, width - left, height - top)), 90),
            "bright": (ImageEnhance.Brightness(image).enhance(1.1), 90),
        }
        names = {kind: path.with_name(f"{path.stem}__{kind}.jpg") for kind in (*variants, "exact")}
        for kind, (variant, quality) in variants.items():
            variant.save(names[kind], quality=quality)
        shutil.copyfile(path, names["exact"])
        planted[str(path.relative_to(folder))] = {k: str(name.relative_to(folder)) for k, name in names.items()}
    return planted


def measure_photos(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the recall of each kind of duplicate, and the unrelated pairs, over a grid of thresholds."""
    planted = copy_with_duplicates(args.images, folder / "images", args.originals)
    run = Path(shutil.copytree(args.run, folder / "run", ignore=shutil.ignore_patterns("vectors")))
    config = json.loads((run / "config.json").read_text())
    config["settings"]["images"] = str(folder / "images")
    (run / "config.json").write_text(json.dumps(config))
    index, calibration = open_index(open_library(DuplicatesSettings(run=str(run)), silent), silent)
    h, row_of = index.h[slice(0, len(index))], {name: i for i, name in enumerate(index.names)}
    fingerprints = [compute_fingerprint(index.get_path(i)) for i in range(len(index))]
    hashes = np.array([fingerprint.hash for fingerprint in fingerprints], np.uint64)
    colors = np.array([fingerprint.colors for fingerprint in fingerprints])
    family = np.arange(len(index))
    for name, variants in planted.items():
        family[[row_of[duplicate] for duplicate in variants.values()]] = row_of[name]

    def measure_pairs(i: NDArray[np.int64], j: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        correlations = np.concatenate(
            [correlation(colors[i[s : s + 4096]], colors[j[s : s + 4096]]) for s in range(0, len(i), 4096)]
        )
        return (h[i] * h[j]).sum(axis=1), np.bitwise_count(hashes[i] ^ hashes[j]), correlations

    i, j = np.triu_indices(len(index), 1)
    is_unrelated = (np.bitwise_count(hashes[i] ^ hashes[j]) <= 12) & (family[i] != family[j])
    unrelated = measure_pairs(i[is_unrelated], j[is_unrelated])
    planted_pairs = {
        kind: measure_pairs(
            np.array([row_of[n] for n in planted]), np.array([row_of[c[kind]] for c in planted.values()])
        )
        for kind in KINDS
    }
    thresholds = {"views 50 %": calibration.view_quantile(50), "random 99 %": calibration.random_at(99),
                  "random 99.9 %": calibration.random_at(99.9)}  # fmt: skip
    rows = []
    for (name, similarity), bits, color in itertools.product(
        thresholds.items(), (4, 6, 8, 10), (-1.0, 0.95, 0.96, 0.97)
    ):
        limits = (similarity, bits, color)
        recall = {
            kind: round(100 * float(find_within(pairs, *limits).mean()), 1) for kind, pairs in planted_pairs.items()
        }
        others = int(find_within(unrelated, *limits).sum())
        row = {"threshold": name, "similarity": round(similarity, 4), "bits": bits, "correlation": color}
        rows.append({**row, **recall, "others": others})
    return {"images": len(index), "originals": len(planted), "rows": rows}


def change_image(image: Image.Image) -> dict[str, Image.Image]:
    """Return the image changed in several ways."""
    width, height = image.size

    def scale(factor: float) -> Image.Image:
        return image.resize((max(1, round(factor * width)), max(1, round(factor * height))), Image.Resampling.LANCZOS)

    def compress(changed: Image.Image, quality: int) -> Image.Image:
        stream = io.BytesIO()
        changed.save(stream, "JPEG", quality=quality)
        return Image.open(stream).convert("RGB")

    def mark(alpha: float) -> Image.Image:
        text, font = Image.new("L", image.size), ImageFont.load_default(max(10, width // 7))
        ImageDraw.Draw(text).text((0.12 * width, 0.42 * height), "(c) SAMPLE", round(255 * alpha), font)
        return Image.composite(Image.new("RGB", image.size, "white"), image, text)

    brightness, contrast = ImageEnhance.Brightness(image).enhance, ImageEnhance.Contrast(image).enhance
    return {
        "quality 30": compress(image, 30), "quality 60": compress(image, 60), "quality 95": compress(image, 95),
        "x0.3": scale(0.3), "x0.3, quality 40": compress(scale(0.3), 40), "x0.5": scale(0.5), "x2": scale(2),
        "brighter 15 %": brightness(1.15), "darker 15 %": brightness(0.85), "contrast +20 %": contrast(1.2),
        "contrast -20 %": contrast(0.8), "blur 1 px": image.filter(ImageFilter.GaussianBlur(1)),
        "blur 2 px": image.filter(ImageFilter.GaussianBlur(2)), "watermark 30 %": compress(mark(0.3), 80),
        "watermark 50 %": mark(0.5), "watermark 100 %": mark(1),
    }  # fmt: skip


def measure_blocks(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the pairs of different images, and the recall of changed ones, before and after the blocks are compared.

    Without embeddings, which only propose pairs.
    """
    census = take_census(args.images)
    images = [Image.open(census.path(image)).convert("RGB") for image in census.images]
    for image in images:
        image.load()
    originals = len(images)
    chosen = random.Random(7).sample(range(originals), min(args.originals, originals))
    planted: dict[str, list[tuple[int, int]]] = {}
    for i in chosen:
        for kind, changed in change_image(images[i]).items():
            planted.setdefault(kind, []).append((i, len(images)))
            images.append(changed)
    hashes = np.array([perceptual_hash(image) for image in images], np.uint64)
    colors = np.array([downscale_colors(image) for image in images])
    resized = (np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3)) for image in images)
    squares = dict(enumerate(resized))
    sides = np.array([min(image.size) for image in images])
    compared = Squares(lambda rows: [squares[row] for row in rows], sides)

    def count(i: NDArray[np.int64], j: NDArray[np.int64]) -> tuple[int, int]:
        near = have_similar_fingerprints(hashes, colors, i, j)
        return int(near.sum()), int((compared.match(i[near], j[near]) != 0).sum())

    blocks = find_similar_pairs(standardize(colors[:originals]), NEAR_DUPLICATE_MIN_CORRELATION)
    before, seconds = np.zeros(2, int), time.perf_counter()
    for i, j, _ in blocks:
        before += count(i, j)
    seconds = time.perf_counter() - seconds
    recall = {
        kind: [round(100 * n / len(pairs), 1) for n in count(*np.array(pairs).T)] for kind, pairs in planted.items()
    }
    return {"images": originals, "originals": len(chosen), "seconds": round(seconds, 1),
            "pairs_by_fingerprints_and_by_blocks": before.tolist(), "recall": recall}  # fmt: skip


def transform_image(image: Image.Image) -> dict[str, tuple[Image.Image, str]]:
    """Return the image transformed in several ways, and what each should be called."""
    methods = {"mirrored": "FLIP_LEFT_RIGHT", "rotated by 90 degrees": "ROTATE_270",
               "rotated by 180 degrees": "ROTATE_180", "rotated by 270 degrees": "ROTATE_90"}  # fmt: skip
    transformed = {name: (image.transpose(Image.Transpose[method]), name) for name, method in methods.items()}
    for percent, (place, (x, y)) in itertools.product((2.5, 5, 10, 20), {"": (0.5, 0.5), ", off": (0.1, 0.8)}.items()):
        width, height = (round(side * (1 - percent / 100)) for side in image.size)
        left, top = round((image.width - width) * x), round((image.height - height) * y)
        crop = image.crop((left, top, left + width, top + height))
        transformed[f"{percent} % of the sides removed{place}"] = (crop, "cropped")
    return transformed


def measure_transformed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the groups among unchanged images, and the recall of transformed images."""

    def find(images: Path, transformed: bool) -> tuple[DuplicatesResult, float]:
        start = time.perf_counter()
        settings = DuplicatesSettings(images=images, encoder=args.encoder, transformed=transformed)
        return find_groups(settings), round(time.perf_counter() - start, 1)

    find(args.images, False)  # embeds the images
    without, with_option = find(args.images, False), find(args.images, True)
    census = take_census(args.images)
    expected: dict[Path, tuple[Path, str, str]] = {}
    for number, i in enumerate(random.Random(7).sample(census.images, min(args.originals, len(census.images)))):
        original = folder / f"{number:03}.jpg"
        with Image.open(census.path(i)) as image:
            image.convert("RGB").save(original, quality=95)  # the best of its group, with the most bytes
            for kind, (changed, name) in transform_image(image.convert("RGB")).items():
                changed.save(folder / f"{number:03} {kind}.jpg", quality=80)
                expected[folder / f"{number:03} {kind}.jpg"] = (original, kind, name)
    result, seconds = find(folder, True)
    recall: dict[str, list[int]] = {kind: [0, 0] for _, kind, _ in expected.values()}
    wrong, missed = 0, set(expected)
    for group in result.groups:
        numbers = {Path(image.path).name[:3] for image in group.images}
        wrong += len(numbers) > 1
        for image in group.images:
            original, kind, name = expected.get(Path(image.path), (None, "", ""))
            if str(original) in {other.path for other in group.images}:
                recall[kind][0] += 1
                missed.discard(Path(image.path))
                recall[kind][1] += str(original) == group.images[0].path and image.transform == name
    return {"images": without[0].searched, "threshold": without[0].threshold,
            "groups_without_and_with": [
                [[Path(image.path).name for image in group.images] for group in found.groups]
                for found, _ in (without, with_option)
            ],
            "seconds_without_and_with": [without[1], with_option[1]], "transformed": len(expected),
            "seconds_of_transformed": seconds, "groups_of_several_originals": wrong,
            "missed": sorted(path.name for path in missed), "found_and_named": recall}  # fmt: skip


def find_within(
    measures: tuple[NDArray[Any], ...], least_similarity: float, most_bits: int, least_correlation: float
) -> NDArray[np.bool_]:
    """Return which pairs are within the limits."""
    is_within: NDArray[np.bool_] = (
        (measures[0] >= least_similarity) & (measures[1] <= most_bits) & (measures[2] >= least_correlation)
    )
    return is_within


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    vectors = kinds.add_parser("vectors")
    vectors.add_argument("--rows", type=int, default=100_000)
    vectors.add_argument("--rounds", type=int, default=3)
    photos = kinds.add_parser("photos")
    photos.add_argument("run", type=Path)
    photos.add_argument("images", type=Path)
    photos.add_argument("--originals", type=int, default=200)
    blocks = kinds.add_parser("blocks")
    blocks.add_argument("images", type=Path)
    blocks.add_argument("--originals", type=int, default=60)
    transformed = kinds.add_parser("transformed")
    transformed.add_argument("images", type=Path)
    transformed.add_argument("encoder")
    transformed.add_argument("--originals", type=int, default=60)
    args = parser.parse_args()
    if args.what == "blocks":
        json.dump({"machine": describe_machine(), **measure_blocks(args)}, sys.stdout, indent=1)
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "vectors":
            figures = measure_vectors(args)
        else:
            figures = (measure_photos if args.what == "photos" else measure_transformed)(args, Path(folder))
    json.dump({"machine": describe_machine(), **figures}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
