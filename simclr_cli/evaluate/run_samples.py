"""What a run's page shows of its images: views as the first step saw them, and what the encoder takes for alike."""

from __future__ import annotations

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
from simclr_cli.core.seeds import Purpose, numpy_generator, torch_generator
from simclr_cli.encode.embed import embed_census, unit_rows
from simclr_cli.encode.load import ReadyEncoder
from simclr_cli.engine.augment import TwoViews, view_recipe
from simclr_cli.engine.nearest import Vectors, nearest
from simclr_cli.engine.simclr import ProjectionHead
from simclr_cli.images.cache import undecoded
from simclr_cli.images.census import Census
from simclr_cli.images.loader import Batches
from simclr_cli.images.thumbnails import each_thumbnail
from simclr_cli.pages.images import as_data_uri
from simclr_cli.pages.preview import at_side
from simclr_cli.pages.report import NeighborsShown, Thumbnail, ViewsShown
from simclr_cli.store.index import read_index
from simclr_cli.store.models import read_weights
from simclr_cli.store.run import RunFolder
from simclr_cli.train.monitor import kept_out

VIEWED = 8  # images whose views are shown
SAMPLES, NEIGHBORS = 6, 6
EMBEDDED = 512  # images among which neighbors are looked for, where the run has no vectors of all
SIDE = 112  # of a thumbnail, px
BATCH = 64  # images embedded at once


def first_step(census: Census, chosen: ResolvedSettings, workers: int, most: int = VIEWED) -> tuple[list[str], Tensor]:
    """Draw the views that the first step of this seed sees of its first `most` images: what `Step` gives the model.

    Args:
        census: as it was after decoding, without what was skipped.

    Returns:
        The names of the n images; and (2n, 3, S, S) float32 in [0, 1], first views, then second views.

    Raises:
        InputError: an image can no longer be decoded.
    """
    decoded = undecoded(census, chosen.image_size, workers)
    out = kept_out(len(decoded), chosen.held_out, chosen.seed)
    batches = Batches(decoded, min(chosen.batch_size, len(decoded)), chosen.seed, torch.device("cpu"), out=out)
    rows = batches.rows(0)
    two_views = TwoViews(chosen.image_size, view_recipe(chosen))
    true_sizes = torch.from_numpy(decoded.sizes[rows])
    first, second = two_views.draw(true_sizes, torch_generator(chosen.seed, Purpose.VIEWS, 0))
    part = slice(0, most)
    pixels = torch.from_numpy(decoded.read(rows[part]))
    views = two_views.make(pixels, true_sizes[part], (first[part], second[part]))
    return [census.images[row].name for row in rows[part]], views


def show_views(
    census: Census, ready: ReadyEncoder | None, chosen: ResolvedSettings, workers: int, lead: str
) -> ViewsShown:
    """Return the views of the first step as thumbnails, and how similar the trained model finds them."""
    names, views = first_step(census, chosen, workers)
    count = len(names)
    pixels = (views * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    own = thumbnails(census.root, names, workers)
    shown = [as_data_uri(np.asarray(at_side(view, min(SIDE, len(view))))) for view in pixels]
    triples = tuple(
        (own[i], Thumbnail(f"{name}, view 1", shown[i]), Thumbnail(f"{name}, view 2", shown[count + i]))
        for i, name in enumerate(names)
    )
    if ready is None:
        return ViewsShown(lead, triples)
    similarity, of = compare(views, ready, chosen)
    together = np.arange(2 * count).reshape(2, count).T.reshape(-1)  # both views of an image side by side
    return ViewsShown(lead, triples, similarity[np.ix_(together, together)], of)


@torch.no_grad()
def compare(views: Tensor, ready: ReadyEncoder, chosen: ResolvedSettings) -> tuple[NDArray[np.float32], str]:
    """Compute the (M, M) cosines of views by the trained model, of z, or of h where the run has kept no head."""
    vectors = ready.encoder(views.to(ready.device)).float()  # (M, width)
    of = "h"
    if ready.run is not None and ready.run.projector_file.is_file():
        state = read_weights(ready.run.projector_file)
        head = ProjectionHead(vectors.shape[1], layers=chosen.head_layers, dimensions=chosen.projection_dimensions)
        try:
            head.load_state_dict(state)
        except RuntimeError as error:
            what = f"{ready.run.projector_file} does not fit its run ({str(error).splitlines()[0]})."
            raise RunError(what, "Restore it from a copy.") from None
        vectors, of = head.eval().to(ready.device)(vectors), "z"
    unit = normalize(vectors, dim=1)
    return (unit @ unit.T).cpu().numpy(), of


def show_neighbors(
    ready: ReadyEncoder, run: RunFolder, census: Census, chosen: ResolvedSettings, workers: int, report: Report
) -> NeighborsShown | str:
    """A few images and those nearest to them by h: among all, or, without stored vectors, among a sample.

    What is a sample follows from the run's seed.
    """
    generator = numpy_generator(chosen.seed, Purpose.ORDER, 0)
    h: Vectors
    try:
        index = read_index(run.vectors, model_checksum=ready.checksum)
    except RunError:  # they are damaged
        index = None
    if index is not None:
        h, names, root = index.h, index.names, Path(index.root)
        among = f"all {len(names):,} images"
    else:
        drawn = np.sort(generator.permutation(len(census.images))[:EMBEDDED])
        sample = Census(census.root, tuple(census.images[i] for i in drawn), (), 0)
        stage = "embedding some for report.html"
        made, sample = embed_census(ready, sample, batch_size=BATCH, workers=workers, report=report, stage=stage)
        h = unit_rows(made)
        names, root = [image.name for image in sample.images], sample.root
        among = f"{'all' if len(drawn) == len(census.images) else 'a sample of'} {len(names):,} images"
    if len(names) < 2:
        return "There are too few images to compare."
    rows = []
    for query in generator.permutation(len(names))[:SAMPLES].tolist():
        (similarity,), (places,) = nearest(h, h[slice(query, query + 1)], NEIGHBORS + 1)
        others = [(s, i) for s, i in zip(similarity.tolist(), places.tolist(), strict=True) if i != query][:NEIGHBORS]
        shown = [names[i] for i in (query, *(i for _, i in others))]
        rows.append(tuple(thumbnails(root, shown, workers, [None, *(s for s, _ in others)])))
    lead = f"On the left an image, then those nearest to it by the cosine similarity of h, among {among}."
    return NeighborsShown(lead, tuple(rows))


def thumbnails(
    root: Path, names: Sequence[str], workers: int, similarities: Sequence[float | None] = ()
) -> list[Thumbnail]:
    """Return thumbnails of files, without an image where a file cannot be decoded."""
    uris = each_thumbnail([root / name for name in names], SIDE, workers, oversampling=2, make=as_data_uri)
    return [Thumbnail(*one) for one in zip(names, uris, similarities or [None] * len(names), strict=True)]
