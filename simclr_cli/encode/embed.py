"""Embedding of images in batches: the CPU decodes the next one while the encoder computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from simclr_cli.core.errors import InputError, RunError, is_out_of_memory
from simclr_cli.core.events import Report, progress
from simclr_cli.encode.load import LoadedEncoder
from simclr_cli.engine.augment import TwoViews, ViewRecipe
from simclr_cli.engine.compile import fold_batch_norm
from simclr_cli.engine.encoder import Encoder
from simclr_cli.engine.image_ops import upload
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.census import Census, SkippedImage
from simclr_cli.images.decode import decode_evaluation_crop
from simclr_cli.images.decode_pool import isolate
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.threads import map_in_order

MIN_IMAGES_TO_FOLD = 256  # for fewer, folding (1 s for ResNet-18) takes longer than it saves
VIEW_BATCH_SIZE = 64  # images


def undecodable_error(census: Census) -> InputError:
    """Return the error for a folder without an image that can be decoded."""
    return InputError(f"No image in {census.root} could be decoded.", "Use a folder of intact images.")


def embed_census(
    loaded: LoadedEncoder, census: Census, *, batch_size: int, workers: int, report: Report, stage: str = "embedding"
) -> tuple[NDArray[np.float32], Census]:
    """Compute h of every image that can be decoded.

    Returns:
        (N, D) float32, not normalized, in the order of the census; and the census without the other images.
    """
    paths, bits = [census.path(image) for image in census.images], loaded.choose_bits(census.bits)
    h, unusable = embed_files(loaded, paths, bits, batch_size=batch_size, workers=workers, report=report, stage=stage)
    return h, census.without([SkippedImage(census.images[i].name, image.reason) for i, image in unusable.items()])


def embed_files(
    loaded: LoadedEncoder, paths: Sequence[Path], bits: int | None, *,
    batch_size: int, workers: int, report: Report, stage: str,
) -> tuple[NDArray[np.float32], dict[int, UnusableImage]]:  # fmt: skip
    """Compute h of every file that can be decoded.

    Args:
        bits: that images of 16 bits use: see convert_to_rgb.

    Returns:
        (N, D) float32, not normalized, in order; and the unusable files by their index in `paths`.
    """
    (h,), unusable = embed_with_encoders(
        [loaded], paths, bits, batch_size=batch_size, workers=workers, report=report, stage=stage
    )
    return h, unusable


def embed_with_encoders(
    loaded: Sequence[LoadedEncoder], paths: Sequence[Path], bits: int | None, *,
    batch_size: int, workers: int, report: Report, stage: str,
) -> tuple[list[NDArray[np.float32]], dict[int, UnusableImage]]:  # fmt: skip
    """Compute h as `embed_files` does, for several encoders of one crop and device; decode every file once.

    Raises:
        RunError: an embedding is not finite.
    """
    spec, device = loaded[0].encoder.spec, loaded[0].device
    encoders = [item.encoder for item in loaded]
    if len(paths) >= MIN_IMAGES_TO_FOLD:
        encoders = [fold_batch_norm(encoder) for encoder in encoders]
    crop = isolate(decode_evaluation_crop, workers)
    decoded = map_in_order(lambda path: crop(path, spec.image_size, spec.crop_fraction, bits), paths, workers)
    report_progress = progress(report, stage)
    unusable: dict[int, UnusableImage] = {}
    batch: list[NDArray[np.uint8]] = []
    rows = [[np.empty((0, encoder.width), np.float32)] for encoder in encoders]
    pending: list[Tensor] = []  # h of at most one batch: while a GPU computes it, the next batch is decoded
    largest = batch_size  # images at a time for which the memory was enough

    def embed(encoder: Encoder, x: Tensor) -> Tensor:
        nonlocal largest

        def compute(part: slice) -> Tensor:
            return encoder.embed(x[part])

        parts = compute_in_parts(compute, len(x), largest)
        largest = len(parts[0]) if len(parts) > 1 else largest
        return torch.cat(parts)

    def collect() -> None:
        for parts, h in zip(rows, pending, strict=False):
            parts.append(h.cpu().numpy())

    for i, pixels in enumerate(decoded):
        if isinstance(pixels, UnusableImage):
            unusable[i] = pixels
        else:
            batch.append(pixels)
        if len(batch) == batch_size or (batch and i + 1 == len(paths)):
            x = upload(torch.from_numpy(np.stack(batch)), device).permute(0, 3, 1, 2)  # (M, 3, S, S)
            h = [embed(encoder, x) for encoder in encoders]
            collect()
            pending, batch = h, []
        report_progress(i + 1, len(paths))
    collect()
    results = [np.concatenate(parts) for parts in rows]
    for item, h_of_item in zip(loaded, results, strict=True):
        if not np.isfinite(h_of_item).all():
            raise RunError(f"{item.name} computes embeddings that are not finite.", "Use another encoder.")
    return results, unusable


def embed_views(
    encoder: Encoder, recipe: ViewRecipe, decoded: DecodedImages, rows: NDArray[np.int64], generator: Generator
) -> Tensor:
    """Compute (2, N, width) h of two views of N rows of `decoded`."""
    sizes = torch.from_numpy(decoded.sizes[rows])
    views = TwoViews(encoder.spec.image_size, recipe)
    first, second = views.draw(sizes, generator)

    def compute(part: slice) -> Tensor:
        pixels = torch.from_numpy(decoded.read(rows[part])).to(encoder.mean.device)
        x = views.make(pixels, sizes[part], (first[part], second[part]))
        h: Tensor = encoder(x).float().unflatten(0, (2, -1))  # (2, n, width)
        return h

    return torch.cat(compute_in_parts(compute, len(rows), VIEW_BATCH_SIZE), dim=1)


def compute_in_parts(compute: Callable[[slice], Tensor], count: int, largest: int) -> list[Tensor]:
    """Compute something of each image in parts of `largest` images, and in smaller ones if the memory is too small.

    An encoder in eval mode computes the same for an image, up to rounding, whatever is in its part.

    Raises:
        RuntimeError: the memory is too small for a single image.
    """
    start, results = 0, []
    while start < count:
        part = slice(start, min(start + largest, count))
        try:
            results.append(compute(part))
        except RuntimeError as error:
            if part.stop - start == 1 or not is_out_of_memory(error):
                raise
            largest = (part.stop - start) // 2
        else:
            start = part.stop
    return results
