"""encoder/ of a run in plain timm, without simclr_cli, returns the same h as `embed --raw`."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from simclr_cli.api import EmbedSettings, PretrainSettings
from simclr_cli.commands.embed import embed
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.encode.model_card import build_timm_config, parse_spec
from simclr_cli.engine.encoder import create_encoder
from simclr_cli.store.run import RunFolder


class Case(NamedTuple):
    settings: dict[str, Any]
    small_stem: bool
    weights: bool = False


CASES = {
    "deep stem at 40 px": Case({"backbone": "tiny_resnet", "image_size": 40}, False),
    "plain stem at 40 px": Case({"backbone": "resnet18", "image_size": 40}, False),
    "deep small stem at 32 px": Case({"backbone": "resnet10t", "image_size": 32}, True),
    "plain small stem at 24 px": Case({"backbone": "resnet18", "image_size": 24}, True),
    "transformer at 48 px": Case({"backbone": "test_vit", "image_size": 48}, False),
    "no resnet at 32 px": Case({"backbone": "test_efficientnet", "image_size": 32}, False),
    "from weights, normalized": Case({"backbone": "tiny_resnet", "image_size": 64}, False, weights=True),
    "from weights at 32 px": Case({"backbone": "tiny_resnet", "image_size": 32}, False, weights=True),
}


class Exported(NamedTuple):
    ours: NDArray[np.float32]
    images: list[Path]
    config: dict[str, Any]
    card: str
    folder: Path
    timms: NDArray[np.float32] | None = None


def snippet(card: str) -> tuple[str, str]:
    """Split the Python of a model card into setup and code for each image."""
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    once, each = code.split("with torch.inference_mode():")
    return once, "with torch.inference_mode():" + each


def by_timm(card: str, images: list[Path]) -> NDArray[np.float32]:
    """Compute (N, width) h of images by the code of a card."""
    once, each = snippet(card)
    names: dict[str, Any] = {}
    exec(once, names)  # up to the transform
    rows = []
    for image in images:
        exec(each.replace("image.jpg", str(image)), names)
        rows.append(names["h"][0].numpy())
    return np.stack(rows)


@pytest.fixture(scope="module")
def exported(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Train every case for one step, and embed by simclr_cli and by plain timm in a process without simclr_cli."""
    place = tmp_path_factory.mktemp("exported")
    upright = [path for path in sorted(images.rglob("*.*")) if path.suffix in (".png", ".jpg")][:9]
    folder = place / "images"
    folder.mkdir()
    for i, path in enumerate(upright):
        (folder / f"{i}{path.suffix}").symlink_to(path)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(place / "cache"))
        patch.setattr("simclr_cli.train.prepare.estimate_seconds", lambda *_: 1.0)
        patch.setattr("simclr_cli.train.prepare.measure_bytes_per_view", lambda *_: 1)
        patch.setattr("simclr_cli.commands.pretrain.try_report", lambda *_, **__: None)
        patch.setattr("simclr_cli.train.guard.choose", lambda *_, **__: ("adapted", "for this test"))
        for name, case in CASES.items():
            slug = name.replace(" ", "-")
            values = dict(case.settings)
            if case.weights:
                torch.manual_seed(2)
                state = timm.create_model(values["backbone"], num_classes=0).state_dict()
                save_file(state, place / f"{slug}.safetensors")
                values["weights"] = str(place / f"{slug}.safetensors")
            made = pretrain(
                PretrainSettings(
                    images=folder, runs=place / "runs", run=slug, epochs=1, batch_size=8, optimizer="sgd", **values
                )
            )
            out = place / f"{slug}.npy"
            embed(EmbedSettings(images=folder, runs=place / "runs", run=slug, out=out, raw=True))
            encoder = RunFolder(Path(made.run)).encoder_folder
            config, card = json.loads((encoder / "config.json").read_text()), (encoder / "README.md").read_text()
            names = json.loads(out.with_suffix(".rows.json").read_text())["rows"]
            found[name] = Exported(np.load(out), [folder / row for row in names], config, card, encoder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        for module in [module for module in sys.modules if module.partition(".")[0] == "simclr_cli"]:
            patch.setitem(sys.modules, module, None)  # an import of it fails
        with pytest.raises(ImportError):
            importlib.import_module("simclr_cli")
        return {
            name: one._replace(timms=by_timm(one.card.replace("THIS/FOLDER", str(one.folder)), one.images))
            for name, one in found.items()
        }


@pytest.mark.parametrize("name", CASES)
def test_model_card_in_plain_timm_gives_the_raw_embedding(exported: dict[str, Exported], name: str) -> None:
    case = exported[name]
    assert case.ours.shape == case.timms.shape == (9, case.config["num_features"])
    assert np.abs(case.ours - case.timms).max() <= 1e-6 * max(1, np.abs(case.ours).max())
    assert np.abs(case.ours - case.ours[0]).max() > 1e-4  # or else anything would agree


@pytest.mark.parametrize("name", CASES)
def test_encoder_folder_describes_itself(exported: dict[str, Exported], name: str) -> None:
    _, _, config, card, folder, _ = exported[name]
    settings, small_stem, weights = CASES[name]
    size = settings["image_size"]
    # With the plain name, timm would load the weights of a small stem into its own and compute something else.
    assert config["architecture"] == settings["backbone"] + "-with-small-stem" * small_stem
    assert config["simclr"]["small_stem"] is small_stem
    assert config["simclr"]["model_checksum"] == checksum_file(folder / "model.safetensors")
    assert config["pretrained_cfg"]["input_size"] == [3, size, size]
    own_crop = timm.get_pretrained_cfg(settings["backbone"]).crop_pct
    assert config["pretrained_cfg"]["crop_pct"] == (own_crop if weights else 1.0 if size <= 32 else 0.875)
    assert ("not normalized" in card) is not weights
    assert f"# {settings['backbone']}, trained by simclr" in card
    origin = "trained weights; adapted ones are kept" if weights else "random weights"
    loss = "distill" if weights else "nt-xent"
    assert f"trained without labels on 9 images (epochs: 1; loss: {loss}; start: {origin})." in card
    assert ("local-dir:" in card) is not small_stem
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize("name", CASES)
def test_spec_is_parsed_from_the_config(exported: dict[str, Exported], name: str) -> None:
    spec = parse_spec(exported[name].folder / "config.json", exported[name].config)
    written = build_timm_config(create_encoder(spec))
    assert {key: written[key] for key in written if key != "simclr"} == {
        key: value for key, value in exported[name].config.items() if key != "simclr"
    }


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.small_stem])
def test_local_dir_with_a_small_stem_is_an_error_in_timm(exported: dict[str, Exported], name: str) -> None:
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{exported[name].folder}", pretrained=True, num_classes=0)


def test_head_is_saved_for_further_training(trained: Any, checksum: Callable[[Path], Any]) -> None:
    from safetensors.torch import load_file

    head = load_file(trained.run.projection_head_file)
    shapes = {tuple(tensor.shape) for name, tensor in head.items() if name.endswith("weight") and tensor.ndim == 2}
    assert shapes == {(96, 96), (128, 96)}
