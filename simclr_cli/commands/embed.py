"""The embed command: a vectors file with h of every image, the names of its rows, and the model's checksum."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_cli.api import EmbedResult, EmbedSettings
from simclr_cli.core.distributed import ProcessGroup, join_process_group
from simclr_cli.core.errors import RunError, require_extra
from simclr_cli.core.events import Note, Report, progress, silent
from simclr_cli.core.files import prepare_folder
from simclr_cli.core.world import World
from simclr_cli.encode.device import resolve_device
from simclr_cli.encode.embed import embed_census, undecodable_error
from simclr_cli.encode.load import LoadedEncoder, resolve_encoder
from simclr_cli.engine.nearest import normalize_rows
from simclr_cli.images.census import Census, SkippedImage
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers
from simclr_cli.images.thumbnails import tile_side, write_sprite
from simclr_cli.store.exports import name_sprite_file, write_embedding_projector, write_export
from simclr_cli.store.vectors import (
    Vectors,
    name_rows_file,
    name_shard_file,
    name_shard_list,
    read_vectors,
    write_shards,
    write_vectors,
)
from simclr_cli.train.outcome import describe_caution


def embed(settings: EmbedSettings, *, report: Report = silent) -> EmbedResult:
    """Embed a folder, or the run's own images.

    Each process of torchrun or srun embeds a part of the images. The main one writes all of them, or each process
    writes its own --shards.

    Raises:
        SimclrError: one of its subclasses, with what to do next.
    """
    world = World.from_environment(devices=settings.devices)
    device = resolve_device(settings.device, world)  # without its notes: loading the encoder reports them
    with join_process_group(world, device) as process_group:
        return _embed(settings, world, process_group, report)


def _embed(settings: EmbedSettings, world: World, process_group: ProcessGroup, report: Report) -> EmbedResult:
    start = time.perf_counter()
    if settings.out.suffix == ".parquet":
        require_extra("pyarrow", "parquet", "A .parquet")
    prepare_folder(settings.out.absolute().parent)
    loaded = resolve_encoder(settings, world, report)
    root = settings.images or loaded.images
    report(Note(f"Embedding {root} with {loaded.name}."))
    if caution := describe_caution(loaded.outcome_folder):
        report(Note(caution, warning=True))
    workers = count_workers(settings.workers, process_group.local_world_size)
    census = _share_census(root, workers, process_group, report)
    embedding_start = time.perf_counter()
    embedder = Embedder(loaded, settings, workers, report)
    write = _write_shards if settings.shards else _write_one_file
    rows, undecodable, embedded = write(embedder, census, process_group)
    return EmbedResult(
        out=str(name_shard_list(settings.out) if settings.shards else settings.out),
        rows_file=str(name_shard_list(settings.out) if settings.shards else name_rows_file(settings.out)),
        rows=rows,
        dimensions=loaded.encoder.width,
        normalized=not settings.raw,
        encoder=loaded.name,
        model_checksum=loaded.checksum,
        skipped=len(census.skipped) + undecodable,
        seconds=time.perf_counter() - start,
        images_per_second=embedded / (time.perf_counter() - embedding_start),
        shards=settings.shards,
    )


def _share_census(root: Path, workers: int, process_group: ProcessGroup, report: Report) -> Census:
    """Return the census, which only the main process takes."""
    on_progress = progress(report, "reading headers")
    census = take_census(root, workers=workers, progress=on_progress) if process_group.is_main else None
    if not process_group.is_single:
        shared = process_group.broadcast_object(census.to_json() if census else None)
    return census or Census.from_json(shared)


@dataclass(frozen=True)
class Embedder:
    """An encoder with the settings by which it embeds images."""

    loaded: LoadedEncoder
    settings: EmbedSettings
    workers: int
    report: Report

    def embed(self, census: Census) -> tuple[NDArray[np.float32], Census]:
        """Return h of every image that can be decoded, as it is written, and the census of these; both may be empty."""
        h, census = embed_census(
            self.loaded, census, batch_size=self.settings.batch_size, workers=self.workers, report=self.report
        )
        return h if self.settings.raw else normalize_rows(h), census

    def describe(self, h: NDArray[np.float32], census: Census, fingerprint: str) -> Vectors:
        """Return the embeddings of a census with their description."""
        return Vectors(
            values=h,
            rows=tuple(image.name for image in census.images),
            root=str(census.root.resolve()),
            model_checksum=self.loaded.checksum,
            normalized=not self.settings.raw,
            source_fingerprint=fingerprint,
            skipped=tuple(vars(file) for file in census.skipped),
        )


def _write_one_file(embedder: Embedder, census: Census, process_group: ProcessGroup) -> tuple[int, int, int]:
    """Embed a part of the census in each process; the main one writes all rows in the census's order.

    Returns:
        The number of rows, of images that cannot be decoded, and of rows that are new.
    """
    part = replace(census, images=census.images[process_group.shard(len(census.images))], skipped=())
    h, part = embedder.embed(part)
    skipped_by_rank = process_group.all_gather_object([vars(file) for file in part.skipped])
    skipped = [SkippedImage(**file) for files in skipped_by_rank for file in files]
    if len(skipped) == len(census.images):
        raise undecodable_error(census)
    census = census.without(skipped)
    rows = [rank_rows.numpy() for rank_rows in process_group.gather_rows(torch.from_numpy(h))]
    if process_group.is_main:
        values = rows[0] if process_group.is_single else np.concatenate(rows)
        _write_vectors_file(embedder, census, embedder.describe(values, census, census.fingerprint))
    return len(census.images), len(skipped), len(census.images)


def _write_vectors_file(embedder: Embedder, census: Census, vectors: Vectors) -> None:
    """Write the vectors in the format of the file's ending; .tsv, for the Embedding Projector, with thumbnails."""
    out = embedder.settings.out
    if out.suffix != ".tsv":
        return write_export(out, vectors)
    paths = [census.path(image) for image in census.images]
    on_progress = progress(embedder.report, "making thumbnails")
    write_sprite(name_sprite_file(out), paths, workers=embedder.workers, progress=on_progress)
    return write_embedding_projector(out, vectors, tile_side(len(paths)))


def _write_shards(embedder: Embedder, census: Census, process_group: ProcessGroup) -> tuple[int, int, int]:
    """Write one file for each part of the census, the processes in turn, and last the list of these files.

    A shard that exists for the same images and the same model is kept. Returns the same as `_write_one_file`.
    """
    out, count = embedder.settings.out, embedder.settings.shards or 1
    counts: list[list[int]] = []  # number of the shard, its rows, and its images that cannot be decoded
    embedded = 0
    for number in range(process_group.rank, count, process_group.world_size):
        total = len(census.images)
        images = census.images[number * total // count : (number + 1) * total // count]
        part = replace(census, images=images, skipped=())
        file = name_shard_file(out, number, count)
        if (shard := _read_current_shard(embedder, file, part)) is None:
            shard = embedder.describe(*embedder.embed(part), part.fingerprint)
            write_vectors(file, shard)
            embedded += len(shard.rows)
        counts.append([number, len(shard.rows), len(shard.skipped)])
    counts = sorted(entry for rank_counts in process_group.all_gather_object(counts) for entry in rank_counts)
    rows, undecodable = (sum(entry[i] for entry in counts) for i in (1, 2))
    if not rows:
        raise undecodable_error(census)
    if process_group.is_main:
        write_shards(out, [(name_shard_file(out, number, count), row_count) for number, row_count, _ in counts])
    return rows, undecodable, sum(process_group.all_gather_object(embedded))


def _read_current_shard(embedder: Embedder, file: Path, part: Census) -> Vectors | None:
    """Return the vectors of an existing shard if they are of these images, this model and this form, else None."""
    try:
        vectors = read_vectors(file, model_checksum=embedder.loaded.checksum)
    except RunError:
        return None
    is_same = vectors.source_fingerprint == part.fingerprint and vectors.root == str(part.root.resolve())
    return vectors if is_same and vectors.normalized != embedder.settings.raw else None
