"""Finding copies: how long among many vectors, and how many of known copies of photos, by which thresholds.

    python benchmarks/duplicates.py vectors [--rows 100000] [--rounds 3]
    python benchmarks/duplicates.py photos RUN IMAGES [--originals 200]

vectors    rows of 512 numbers with the structure of h (clusters, a falling spectrum, no negative numbers), 2 % of them
           near copies of others: seconds until all pairs of at least 0.95 are known, and the most memory ever taken
photos     some of IMAGES are copied exactly, at half the size, at JPEG quality 40, cut by 4 %, and 10 % brighter,
           beside the originals, in a folder of its own; RUN's encoder makes the vectors. For several thresholds, bits
           and correlations: percent of each kind of copy found, and how many pairs of other images with them

Prints one JSON object.
"""

from __future__ import annotations

from machine import describe_machine, spread  # before torch: see there

# isort: split
import argparse
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
from PIL import Image, ImageEnhance

from simclr_cli.api import DuplicatesSettings
from simclr_cli.core.events import silent
from simclr_cli.engine.nearest import pairs_above
from simclr_cli.images.fingerprints import correlation, look
from simclr_cli.search.library import choose_run, open_index

WIDTH, THRESHOLD, PLANTED = 512, 0.95, 0.02
KINDS = ("half", "quality", "cut", "bright")


def structured(rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(N, 512) rows of length 1, and of which row each of the last ones is a near copy."""
    rng = np.random.default_rng(0)
    falling = (np.arange(1, WIDTH + 1) ** -0.6).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
    centers = rng.standard_normal((50, WIDTH), dtype=np.float32) * falling
    h = np.empty((rows, WIDTH), np.float32)
    for start in range(0, rows, 8192):
        part = h[start : start + 8192]
        noise = rng.standard_normal(part.shape, dtype=np.float32) * falling
        part[:] = np.maximum((noise + centers[rng.integers(0, 50, len(part))]) @ turn + 0.02, 0)
    copies = int(rows * PLANTED)
    of = rng.integers(0, rows - copies, copies)
    h[rows - copies :] = h[of] + 0.1 * h[:1000].std() * rng.standard_normal((copies, WIDTH), dtype=np.float32)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    return h, of


def among_vectors(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds and memory of all pairs."""
    h, of = structured(given.rows)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    walls, cpus = [], []
    for _ in range(given.rounds):
        wall, cpu, found = time.perf_counter(), time.process_time(), set()
        for i, j, _ in pairs_above(h, THRESHOLD):
            found.update(zip(i.tolist(), j.tolist(), strict=True))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    first = given.rows - len(of)
    planted = sum((int(i), first + place) in found for place, i in enumerate(of))
    return {
        "rows": given.rows, "pairs": len(found), "planted": len(of), "planted_found": planted,
        "seconds": spread(walls), "cpu_seconds": spread(cpus), "load": os.getloadavg(),
        "most_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3), "before_mb": round(own / 1e3),
    }  # fmt: skip


def plant(images: Path, folder: Path, originals: int) -> dict[str, dict[str, str]]:
    """A copy of the folder with copies of some images; their names by original and kind."""
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


def among_photos(given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Recall of each kind of copy, and pairs of others, over a grid of thresholds."""
    planted = plant(given.images, place / "images", given.originals)
    run = Path(shutil.copytree(given.run, place / "run", ignore=shutil.ignore_patterns("vectors")))
    config = json.loads((run / "config.json").read_text())
    config["settings"]["images"] = str(place / "images")
    (run / "config.json").write_text(json.dumps(config))
    index, calibration = open_index(choose_run(DuplicatesSettings(run=str(run))), silent)
    h, places = index.h[slice(0, len(index))], {name: i for i, name in enumerate(index.names)}
    looks = [look(index.path(i)) for i in range(len(index))]
    hashes, small = np.array([one.hash for one in looks], np.uint64), np.array([one.small for one in looks])
    family = np.arange(len(index))
    for name, copies in planted.items():
        family[[places[copy] for copy in copies.values()]] = places[name]

    def measures(i: NDArray[np.int64], j: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        alike = np.concatenate(
            [correlation(small[i[s : s + 4096]], small[j[s : s + 4096]]) for s in range(0, len(i), 4096)]
        )
        return (h[i] * h[j]).sum(axis=1), np.bitwise_count(hashes[i] ^ hashes[j]), alike

    i, j = np.triu_indices(len(index), 1)
    other = (np.bitwise_count(hashes[i] ^ hashes[j]) <= 12) & (family[i] != family[j])
    others = measures(i[other], j[other])
    known = {
        kind: measures(np.array([places[n] for n in planted]), np.array([places[c[kind]] for c in planted.values()]))
        for kind in KINDS
    }
    thresholds = {"views 50 %": calibration.views_at(50), "random 99 %": calibration.random_at(99),
                  "random 99.9 %": calibration.random_at(99.9)}  # fmt: skip
    rows = [
        {"threshold": name, "similarity": round(least, 4), "bits": bits, "correlation": alike,
         **{kind: round(100 * float(_within(found, least, bits, alike).mean()), 1) for kind, found in known.items()},
         "others": int(_within(others, least, bits, alike).sum())}
        for name, least in thresholds.items() for bits in (4, 6, 8, 10) for alike in (-1.0, 0.95, 0.96, 0.97)
    ]  # fmt: skip
    return {"images": len(index), "originals": len(planted), "rows": rows}


def _within(measured: tuple[NDArray[Any], ...], least: float, bits: int, alike: float) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (measured[0] >= least) & (measured[1] <= bits) & (measured[2] >= alike)
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    vectors = kinds.add_parser("vectors")
    vectors.add_argument("--rows", type=int, default=100_000)
    vectors.add_argument("--rounds", type=int, default=3)
    photos = kinds.add_parser("photos")
    photos.add_argument("run", type=Path)
    photos.add_argument("images", type=Path)
    photos.add_argument("--originals", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = among_vectors(given) if given.what == "vectors" else among_photos(given, Path(place))
    json.dump({"machine": describe_machine(), **found}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
