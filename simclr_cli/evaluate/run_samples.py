"""Example views and nearest neighbors for the report of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.errors import RunError
from simclr_cli.core.events import Report
from simclr_cli.core.seeds import Purpose, create_numpy_generator, create_torch_generator
from simclr_cli.encode.embed import embed_census
from simclr_cli.encode.load import LoadedEncoder
from simclr_cli.engine.augment import TwoViews, create_view_recipe
from simclr_cli.engine.nearest import Vectors, center_rows, compute_mean, find_nearest, normalize_rows
from simclr_cli.engine.simclr import ProjectionHead
from simclr_cli.images.cache import defer_decoding
from simclr_cli.images.census import Census
from simclr_cli.images.loader import BatchLoader
from simclr_cli.images.thumbnails import make_thumbnails
from simclr_cli.pages.images import as_data_uri
from simclr_cli.pages.preview import resize_view
from simclr_cli.pages.report import SampleNeighbors, SampleViews, Thumbnail
from simclr_cli.store.index_files import read_index
from simclr_cli.store.models import read_weights
from simclr_cli.store.run import RunFolder
from simclr_cli.train.monitor import draw_held_out

VIEWED_IMAGES = 8
NEIGHBOR_QUERIES, NEIGHBORS = 6, 6
MAX_EMBEDDED_IMAGES = 512  # to find neighbors in a run without stored vectors
THUMBNAIL_SIDE = 112  # px
EMBEDDING_BATCH = 64  # images


def draw_first_views(
    census: Census, settings: ResolvedSettings, workers: int, most: int = VIEWED_IMAGES
) -> tuple[list[str], Tensor]:
    """Draw the views that `Step` gives the model in the first step of a run, of its first `most` images.

    Args:
        census: of the images that could be decoded.

    Returns:
        The names of the n images; and (2n, 3, S, S) float32 in [0, 1], first views, then second views.

    Raises:
        InputError: an image can no longer be decoded.
    """
    decoded = defer_decoding(census, settings.train_size, workers)
    count = min(settings.held_out, len(decoded) - 1)  # the folder may have fewer images than it had
    held_out = draw_held_out(len(decoded), count, settings.seed)
    batch_size = min(settings.batch_size, len(decoded) - count)
    batches = BatchLoader(decoded, batch_size, settings.seed, torch.device("cpu"), held_out=held_out)
    rows = batches.batch_rows(0)
    two_views = TwoViews(settings.train_size, create_view_recipe(settings))
    true_sizes = torch.from_numpy(decoded.sizes[rows])
    first, second = two_views.draw(true_sizes, create_torch_generator(settings.seed, Purpose.VIEWS, 0))
    part = slice(0, most)
    pixels = torch.from_numpy(decoded.read(rows[part]))
    views = two_views.make(pixels, true_sizes[part], (first[part], second[part]))
    return [census.images[row].name for row in rows[part]], views


def sample_views(
    census: Census, ready: LoadedEncoder | None, settings: ResolvedSettings, workers: int, lead: str
) -> SampleViews:
    """Return thumbnails of the views of the first step, and their similarities by the trained model, if any."""
    names, views = draw_first_views(census, settings, workers)
    count = len(names)
    pixels = (views * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    originals = _load_thumbnails(census.root, names, workers)
    uris = [as_data_uri(np.asarray(resize_view(view, min(THUMBNAIL_SIDE, len(view))))) for view in pixels]
    triples = tuple(
        (originals[i], Thumbnail(f"{name}, view 1", uris[i]), Thumbnail(f"{name}, view 2", uris[count + i]))
        for i, name in enumerate(names)
    )
    if ready is None:
        return SampleViews(lead, triples)
    similarity, of = compare_views(views, ready, settings)
    by_image = np.arange(2 * count).reshape(2, count).T.reshape(-1)  # the two views of an image in neighboring rows
    return SampleViews(lead, triples, similarity[np.ix_(by_image, by_image)], of)


@torch.no_grad()
def compare_views(views: Tensor, ready: LoadedEncoder, settings: ResolvedSettings) -> tuple[NDArray[np.float32], str]:
    """Compute the (M, M) cosines of views by the trained model: of z, or of h if the run has no projection head."""
    vectors = ready.encoder(views.to(ready.device)).float()  # (M, width)
    of = "h"
    if ready.run is not None and ready.run.projection_head_file.is_file():
        state = read_weights(ready.run.projection_head_file)
        head = ProjectionHead(vectors.shape[1], layers=settings.head_layers, dimensions=settings.projection_dimensions)
        try:
            head.load_state_dict(state)
        except RuntimeError as error:
            what = f"{ready.run.projection_head_file} does not fit its run ({str(error).splitlines()[0]})."
            raise RunError(what, "Restore it from a backup.") from None
        vectors, of = head.eval().to(ready.device)(vectors), "z"
    unit = normalize(vectors, dim=1)
    return (unit @ unit.T).cpu().numpy(), of


def sample_neighbors(
    ready: LoadedEncoder, run: RunFolder, census: Census, settings: ResolvedSettings, workers: int, report: Report
) -> SampleNeighbors | str:
    """Return a few images, drawn by the run's seed, with their nearest neighbors by h; or the reason for none.

    The neighbors are from all images, or from a sample if the run has no stored vectors.
    """
    generator = create_numpy_generator(settings.seed, Purpose.ORDER, 0)
    h, names, root, scope = _load_embeddings(ready, run, census, generator, workers, report)
    if len(names) < 2:
        return "There are too few images to compare."
    rows, mean = [], compute_mean(h)
    for query in generator.permutation(len(names))[:NEIGHBOR_QUERIES].tolist():
        (similarities,), (places,) = find_nearest(
            h, center_rows(h[slice(query, query + 1)], mean), NEIGHBORS + 1, mean=mean
        )
        pairs = zip(similarities.tolist(), places.tolist(), strict=True)
        neighbors = [(similarity, i) for similarity, i in pairs if i != query][:NEIGHBORS]
        shown = [names[i] for i in (query, *(i for _, i in neighbors))]
        rows.append(tuple(_load_thumbnails(root, shown, workers, [None, *(s for s, _ in neighbors)])))
    lead = f"Each row: an image, then its nearest neighbors by the cosine similarity of centered h, among {scope}."
    return SampleNeighbors(lead, tuple(rows))


def _load_embeddings(
    ready: LoadedEncoder,
    run: RunFolder,
    census: Census,
    generator: np.random.Generator,
    workers: int,
    report: Report,
) -> tuple[Vectors, Sequence[str], Path, str]:
    """Return h of the stored vectors, or of a sample that is embedded now; with names, their folder and its scope."""
    try:
        index = read_index(run.vectors_folder, model_checksum=ready.checksum)
    except RunError:  # damaged
        index = None
    if index is not None:
        return index.h, index.names, Path(index.root), f"all {len(index.names):,} images"
    drawn = np.sort(generator.permutation(len(census.images))[:MAX_EMBEDDED_IMAGES])
    sample = dataclasses.replace(census, images=tuple(census.images[i] for i in drawn), skipped=())
    h, sample = embed_census(
        ready, sample, batch_size=EMBEDDING_BATCH, workers=workers, report=report,
        stage="embedding a sample for report.html",
    )  # fmt: skip
    names = [image.name for image in sample.images]
    scope = "all" if len(drawn) == len(census.images) else "a sample of"
    return normalize_rows(h), names, sample.root, f"{scope} {len(names):,} images"


def _load_thumbnails(
    root: Path, names: Sequence[str], workers: int, similarities: Sequence[float | None] = ()
) -> list[Thumbnail]:
    """Return thumbnails of files, without an image where a file cannot be decoded."""
    paths = [root / name for name in names]
    uris = make_thumbnails(paths, THUMBNAIL_SIDE, workers, oversampling=2, convert=as_data_uri)
    return [Thumbnail(*parts) for parts in zip(names, uris, similarities or [None] * len(names), strict=True)]
