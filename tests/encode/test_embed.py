"""Embedding in parts that the memory holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from simclr_cli.core.events import silent
from simclr_cli.encode.embed import compute_in_parts, embed_files
from simclr_cli.encode.load import LoadedEncoder
from simclr_cli.engine.encoder import create_encoder, create_scratch_spec
from simclr_cli.images.synthetic import draw_images


def test_images_are_embedded_in_parts_that_the_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of batches of 8, at most 3 images fit: 8 and 4 are tried once, and the embeddings are the same, in order."""
    draw_images(tmp_path, seed=0, count=20, size=32)
    paths = sorted(path for path in tmp_path.rglob("*") if path.is_file())[:20]
    encoder = create_encoder(create_scratch_spec("test_resnet", 32), seed=0).eval()
    loaded = LoadedEncoder(encoder, torch.device("cpu"), "a", "")
    expected, _ = embed_files(loaded, paths, None, batch_size=8, workers=1, report=silent, stage="")
    compute, sizes = encoder.embed, []

    def limited(pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(pixels)

    monkeypatch.setattr(encoder, "embed", limited)
    h, unusable = embed_files(loaded, paths, None, batch_size=8, workers=1, report=silent, stage="")
    assert np.allclose(h, expected, atol=1e-5) and not unusable
    assert sizes == [8, 4] + [2] * 10


def test_memory_too_small_for_one_image_and_other_errors_are_raised() -> None:
    def fail(error: RuntimeError) -> None:
        raise error

    with pytest.raises(torch.OutOfMemoryError):
        compute_in_parts(lambda _: fail(torch.OutOfMemoryError("CUDA out of memory")), 5, 4)
    with pytest.raises(RuntimeError, match="shape"):
        compute_in_parts(lambda _: fail(RuntimeError("shape")), 5, 4)
