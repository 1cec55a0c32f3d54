"""Images -> h, by batches, decoding the next while the encoder is at work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Report, progress
from simclr_cli.encode.load import ReadyEncoder
from simclr_cli.engine.augment import TwoViews, view_recipe
from simclr_cli.engine.compile import folded
from simclr_cli.engine.encoder import Encoder
from simclr_cli.engine.image_ops import upload
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.census import Census, SkippedImage
from simclr_cli.images.decode import UnusableImage, evaluation_crop
from simclr_cli.images.decode_pool import apart
from simclr_cli.images.threads import each

FOLD_FROM = 256  # images, from which on folding (a second for ResNet-18) pays
VIEWED_AT_ONCE = 64  # images of which views are made


def nothing_decoded(census: Census) -> InputError:
    """The error that not one image could be."""
    return InputError(f"No image in {census.root} could be decoded.", "Give a folder of whole images.")


def embed_census(
    ready: ReadyEncoder, census: Census, *, batch_size: int, workers: int, report: Report, stage: str = "embedding"
) -> tuple[NDArray[np.float32], Census]:
    """h of every image that can be decoded.

    Returns:
        (N, D) float32, not normalized, in the census's order; and the census without those that could not.
    """
    paths = [census.path(image) for image in census.images]
    h, unusable = embed_files(ready, paths, batch_size=batch_size, workers=workers, report=report, stage=stage)
    return h, census.without([SkippedImage(census.images[i].name, unusable.reason) for i, unusable in unusable.items()])


def embed_files(
    ready: ReadyEncoder, paths: Sequence[Path], *, batch_size: int, workers: int, report: Report, stage: str
) -> tuple[NDArray[np.float32], dict[int, UnusableImage]]:
    """h of every file that can be decoded, decoding the next while the encoder is at work.

    Returns:
        (N, D) float32, not normalized, in order; and the unusable of the others by their place in `paths`.
    """
    (h,), unusable = embed_together([ready], paths, batch_size=batch_size, workers=workers, report=report, stage=stage)
    return h, unusable


def embed_together(
    ready: Sequence[ReadyEncoder], paths: Sequence[Path], *, batch_size: int, workers: int, report: Report, stage: str
) -> tuple[list[NDArray[np.float32]], dict[int, UnusableImage]]:
    """The same by several encoders that look at the same crop on the same device: every file is decoded once."""
    spec, device = ready[0].encoder.spec, ready[0].device
    encoders = [folded(one.encoder) if len(paths) >= FOLD_FROM else one.encoder for one in ready]
    crop = apart(evaluation_crop, workers)
    decoded = each(lambda path: crop(path, spec.image_size, spec.crop), paths, workers)
    say = progress(report, stage)
    unusable: dict[int, UnusableImage] = {}
    waiting: list[NDArray[np.uint8]] = []
    rows = [[np.empty((0, one.encoder.width), np.float32)] for one in ready]
    computing: list[Tensor] = []  # of at most one batch: while a GPU is at it, the next one is gathered

    def collect() -> None:
        for done, h in zip(rows, computing, strict=False):
            done.append(h.cpu().numpy())

    for i, pixels in enumerate(decoded):
        if isinstance(pixels, UnusableImage):
            unusable[i] = pixels
        else:
            waiting.append(pixels)
        if len(waiting) == batch_size or (waiting and i + 1 == len(paths)):
            batch = upload(torch.from_numpy(np.stack(waiting)), device).permute(0, 3, 1, 2)  # (M, 3, S, S)
            h = [encoder.represent(batch) for encoder in encoders]
            collect()
            computing, waiting = h, []
        say(i + 1, len(paths))
    collect()
    return [np.concatenate(parts) for parts in rows], unusable


def embed_views(
    encoder: Encoder, chosen: ResolvedSettings, decoded: DecodedImages, rows: NDArray[np.int64], draw: Generator
) -> Tensor:
    """(2, N, width): h of two views of each image in some rows of `decoded`, as a run of such settings draws them."""
    sizes = torch.from_numpy(decoded.sizes[rows])
    views = TwoViews(chosen.image_size, view_recipe(chosen))
    drawn = views.draw(sizes, draw)
    parts = []
    for start in range(0, len(rows), VIEWED_AT_ONCE):
        part = slice(start, start + VIEWED_AT_ONCE)
        pixels = torch.from_numpy(decoded.read(rows[part])).to(encoder.mean.device)
        x = views.make(pixels, sizes[part], (drawn[0][part], drawn[1][part]))
        parts.append(encoder(x).float().unflatten(0, (2, -1)))  # (2, n, width)
    return torch.cat(parts, dim=1)


def unit_rows(h: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, D) rows scaled to length 1; a row of zeros stays what it is."""
    scaled: NDArray[np.float32] = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)
    return scaled
