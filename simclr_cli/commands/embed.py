"""Images -> h: a file of vectors with the names of its rows, bound to the model that made them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_cli.api import EmbedResult, EmbedSettings
from simclr_cli.core.distributed import Ranks, connected
from simclr_cli.core.errors import RunError, require_extra
from simclr_cli.core.events import Note, Report, progress, silent
from simclr_cli.core.files import make_folder
from simclr_cli.core.world import Place
from simclr_cli.encode.embed import embed_census, nothing_decoded, unit_rows
from simclr_cli.encode.load import ReadyEncoder, pick_device, ready_encoder
from simclr_cli.images.census import Census, SkippedImage
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers
from simclr_cli.images.thumbnails import tile_side, write_sprite
from simclr_cli.store.exports import sprite_file, write_export, write_projector
from simclr_cli.store.vectors import (
    Vectors,
    read_vectors,
    rows_file,
    shard_file,
    shards_file,
    write_shards,
    write_vectors,
)


def embed(settings: EmbedSettings, *, report: Report = silent) -> EmbedResult:
    """Embed a folder, or the run's own images.

    Where torchrun or srun has started several processes, each calls this for a part of the images, and the first one
    writes all of them, or each its own --shards.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    place = Place.found(devices=settings.devices)
    with connected(place, pick_device(settings.device, place)) as ranks:
        return _embed(settings, place, ranks, report)


def _embed(settings: EmbedSettings, place: Place, ranks: Ranks, report: Report) -> EmbedResult:
    began = time.perf_counter()
    if settings.out.suffix == ".parquet":
        require_extra("pyarrow", "parquet", "A .parquet")
    make_folder(settings.out.absolute().parent)
    ready = ready_encoder(settings, place)
    root = settings.images or ready.images
    report(Note(f"Embedding {root} with {ready.name}."))
    workers = count_workers(settings.workers, ranks.beside())
    census = take_census(root, workers=workers, progress=progress(report, "reading headers")) if ranks.first else None
    if not ranks.alone:
        told = ranks.share(census.told() if census else None)
    census = census or Census.retold(told)
    start = time.perf_counter()
    how = Embedding(ready, settings, workers, report)
    write = _in_shards if settings.shards else _in_one
    rows, skipped, embedded = write(how, census, ranks)
    return EmbedResult(
        out=str(shards_file(settings.out) if settings.shards else settings.out),
        rows_file=str(shards_file(settings.out) if settings.shards else rows_file(settings.out)),
        rows=rows,
        dimensions=ready.encoder.width,
        normalized=not settings.raw,
        encoder=ready.name,
        model_checksum=ready.checksum,
        skipped=len(census.skipped) + skipped,
        seconds=time.perf_counter() - began,
        images_per_second=embedded / (time.perf_counter() - start),
        shards=settings.shards,
    )


@dataclass(frozen=True)
class Embedding:
    """How images become vectors."""

    ready: ReadyEncoder
    settings: EmbedSettings
    workers: int
    report: Report

    def of(self, census: Census) -> tuple[NDArray[np.float32], Census]:
        """h of every image that can be decoded, there may be none, as it is written; and the census of these."""
        h, census = embed_census(
            self.ready, census, batch_size=self.settings.batch_size, workers=self.workers, report=self.report
        )
        return h if self.settings.raw else unit_rows(h), census

    def described(self, h: NDArray[np.float32], census: Census, fingerprint: str) -> Vectors:
        """The vectors of a census, with what they are of."""
        return Vectors(
            values=h,
            rows=tuple(image.name for image in census.images),
            root=str(census.root.resolve()),
            model_checksum=self.ready.checksum,
            normalized=not self.settings.raw,
            source_fingerprint=fingerprint,
            skipped=tuple(vars(entry) for entry in census.skipped),
        )


def _in_one(how: Embedding, census: Census, ranks: Ranks) -> tuple[int, int, int]:
    """One file, in the census's order; each process embeds a part, the first one writes.

    Returns:
        How many rows there are now, how many images could not be decoded, and how many rows were not there before.
    """
    h, own = how.of(replace(census, images=census.images[ranks.part(len(census.images))], skipped=()))
    skipped = [SkippedImage(**entry) for some in ranks.collect([vars(one) for one in own.skipped]) for entry in some]
    if len(skipped) == len(census.images):
        raise nothing_decoded(census)
    census = census.without(skipped)
    rows = [part.numpy() for part in ranks.rows_in_order(torch.from_numpy(h))]
    if ranks.first:
        values = rows[0] if ranks.alone else np.concatenate(rows)
        _write(how, census, how.described(values, census, census.fingerprint))
    return len(census.images), len(skipped), len(census.images)


def _write(how: Embedding, census: Census, vectors: Vectors) -> None:
    """In the form that was asked for; the one for the Embedding Projector has thumbnails."""
    out = how.settings.out
    if out.suffix != ".tsv":
        return write_export(out, vectors)
    paths = [census.path(image) for image in census.images]
    write_sprite(sprite_file(out), paths, workers=how.workers, progress=progress(how.report, "making thumbnails"))
    return write_projector(out, vectors, tile_side(len(paths)))


def _in_shards(how: Embedding, census: Census, ranks: Ranks) -> tuple[int, int, int]:
    """Several files, each of a part of the census, and a list of them, written last; the processes take turns.

    A shard that is there already, of these images as they are now and by this model, is kept. Returns the same.
    """
    own: list[list[Any]] = []
    count, embedded = how.settings.shards or 1, 0
    for number in range(ranks.rank, count, ranks.count):
        total = len(census.images)
        part = replace(census, images=census.images[number * total // count : (number + 1) * total // count],
                       skipped=())  # fmt: skip
        file = shard_file(how.settings.out, number, count)
        if (there := _is_there(how, file, part)) is None:
            there = how.described(*how.of(part), part.fingerprint)
            write_vectors(file, there)
            embedded += len(there.rows)
        own.append([number, len(there.rows), len(there.skipped)])
    shards = sorted(shard for some in ranks.collect(own) for shard in some)
    rows, skipped = (sum(shard[i] for shard in shards) for i in (1, 2))
    if not rows:
        raise nothing_decoded(census)
    if ranks.first:
        write_shards(how.settings.out, [(shard_file(how.settings.out, number, count), n) for number, n, _ in shards])
    return rows, skipped, sum(ranks.collect(embedded))


def _is_there(how: Embedding, file: Path, part: Census) -> Vectors | None:
    try:
        there = read_vectors(file, model_checksum=how.ready.checksum)
    except RunError:
        return None
    same = there.source_fingerprint == part.fingerprint and there.root == str(part.root.resolve())
    return there if same and there.normalized != how.settings.raw else None
