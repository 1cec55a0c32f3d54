"""The outliers command: images far from their nearest neighbors, duplicates counted once; the same in every output."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr_cli.api import EmbedSettings, OutliersResult, OutliersSettings
from simclr_cli.commands.embed import embed
from simclr_cli.commands.outliers import outliers
from simclr_cli.core.errors import InputError


def find(trained: Any, **values: Any) -> OutliersResult:
    return outliers(OutliersSettings(runs=trained.runs, **values))


def test_scores_are_those_of_brute_force_and_fall(own: Any, tmp_path: Path) -> None:
    made = embed(EmbedSettings(runs=own.runs, out=tmp_path / "v.npy"))
    h = np.load(made.out)
    names = json.loads(Path(made.rows_file).read_text())["rows"]
    cosine = (h @ h.T).astype(np.float64)
    np.fill_diagonal(cosine, -np.inf)
    score = 1 - np.sort(cosine, axis=1)[:, -5:].mean(axis=1)
    order = np.argsort(-score, kind="stable")
    result = find(own, neighbors=5, top=7)
    assert (result.folder, result.encoder) == (str(own.images), str(own.run.path))
    assert (result.searched, result.neighbors, [image.rank for image in result.images]) == (
        48,
        5,
        [1, 2, 3, 4, 5, 6, 7],
    )
    assert [image.path for image in result.images] == [str(own.images / names[i]) for i in order[:7]]
    np.testing.assert_allclose([image.score for image in result.images], score[order[:7]], atol=1e-5)
    assert result.images[0].percentile == 100 and result.images[1].percentile == pytest.approx(100 * 46 / 47)
    for image, i in zip(result.images, order, strict=False):
        assert image.nearest == str(own.images / names[int(cosine[i].argmax())])
        assert image.similarity == pytest.approx(cosine[i].max(), abs=1e-5)
        assert 0 <= image.above_random <= 100 and 0 <= image.above_views <= 100
    z = (score - np.median(score)) / (1.4826 * np.median(np.abs(score - np.median(score))))
    assert result.outliers == (z > 3.5).sum() and result.images[0].z == pytest.approx(z[order[0]], abs=1e-3)


def test_a_folder_is_searched_with_the_encoder_named(images: Path, tmp_path: Path) -> None:
    """The farthest of all is what numpy finds among the embeddings by the same random weights."""
    chosen = {"images": images, "encoder": "random:tiny_resnet", "image_size": 40, "seed": 3, "runs": tmp_path / "none"}
    h = np.load(embed(EmbedSettings(**chosen, out=tmp_path / "v.npy")).out)
    cosine = h @ h.T - 9 * np.eye(48, dtype=np.float32)
    score = 1 - np.sort(cosine, axis=1)[:, -5:].mean(axis=1)
    result = outliers(OutliersSettings(**chosen, neighbors=5, top=1))
    assert (result.folder, result.encoder, result.searched) == (str(images), "random:tiny_resnet", 48)
    assert result.images[0].score == pytest.approx(score.max(), abs=1e-5)
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("default_encoder")
def test_a_folder_is_searched_with_the_default_encoder(images: Path, tmp_path: Path) -> None:
    result = outliers(OutliersSettings(images=images, runs=tmp_path / "none"))
    assert (result.folder, result.encoder) == (str(images), "tiny_resnet.r160_in1k")
    assert {image.path for image in result.images} == {str(path) for path in images.rglob("*.*")}


def test_duplicates_of_an_outlier_do_not_hide_it(own: Any) -> None:
    before = find(own, neighbors=3, top=1).images[0]
    for i in range(5):
        shutil.copy(before.path, own.images / "dots" / f"copy-{i}.png")
    after = find(own, neighbors=3, top=48)
    assert (after.searched, after.images[0].duplicates) == (48, 6)
    assert after.images[0].score == pytest.approx(before.score, abs=1e-5)
    assert {image.duplicates for image in after.images[1:]} == {1}


def test_within_compares_only_matching_images(own: Any) -> None:
    result = find(own, within="dots/*", neighbors=2)
    names = {path.name for path in (own.images / "dots").iterdir()}
    assert (
        {Path(image.path).name for image in result.images}
        == names
        == {Path(image.path).name for image in result.images}
    )
    assert {Path(image.nearest).parent.name for image in result.images} == {"dots"}
    with pytest.raises(InputError, match="matches --within no/such"):
        find(own, within="no/such")


def test_every_output_has_the_same_images(own: Any, tmp_path: Path) -> None:
    result = [find(own, top=4, out=tmp_path / f"odd.{ending}") for ending in ("json", "csv", "html")]
    paths = [image.path for image in result[0].images]
    whole = json.loads((tmp_path / "odd.json").read_text())
    assert [image["path"] for image in whole["images"]] == paths and whole["out"] == str(tmp_path / "odd.json")
    with (tmp_path / "odd.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == paths
    assert [float(row["score"]) for row in rows] == pytest.approx([image.score for image in result[0].images])
    assert [row["nearest"] for row in rows] == [image.nearest for image in result[0].images]
    assert result[2].out == str(tmp_path / "odd.html") and (tmp_path / "odd.html").exists()
