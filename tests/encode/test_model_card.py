"""A run's encoder/ in plain timm, where simclr_cli cannot be imported, gives what `embed --raw` gives."""

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
from simclr_cli.encode.model_card import spec_from_config, timm_config
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
    """The Python of a model card: what is done once, and what is done for each image."""
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    once, each = code.split("with torch.inference_mode():")
    return once, "with torch.inference_mode():" + each


def by_timm(card: str, images: list[Path]) -> NDArray[np.float32]:
    """What the code of a card gives for images: (N, width)."""
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
    """Every case trained for one step, embedded by us, and by plain timm where simclr_cli cannot be imported."""
    place = tmp_path_factory.mktemp("exported")
    upright = [path for path in sorted(images.rglob("*.*")) if path.suffix in (".png", ".jpg")][:9]
    folder = place / "images"
    folder.mkdir()
    for i, path in enumerate(upright):
        (folder / f"{i}{path.suffix}").symlink_to(path)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(place / "cache"))
        patch.setattr("simclr_cli.commands.pretrain.seconds_a_image", lambda *_: 0.01)
        patch.setattr("simclr_cli.commands.pretrain.bytes_a_view", lambda *_: 1)
        patch.setattr("simclr_cli.commands.pretrain.try_report", lambda *_, **__: None)
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
            encoder = RunFolder(Path(made.run)).encoder
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
    # A small stem is not timm's own: by the plain name timm would load the weights, and compute other things.
    assert config["architecture"] == settings["backbone"] + "-with-small-stem" * small_stem
    assert config["simclr"]["small_stem"] is small_stem
    assert config["simclr"]["model_checksum"] == checksum_file(folder / "model.safetensors")
    assert config["pretrained_cfg"]["input_size"] == [3, size, size]
    assert config["pretrained_cfg"]["crop_pct"] == (1.0 if size <= 32 else 0.875)
    assert ("not normalized" in card) is not weights
    assert f"# {settings['backbone']}, trained by SimCLR" in card
    assert "trained without labels on 9 images, 1 times through" in card
    assert ("local-dir:" in card) is not small_stem
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize("name", CASES)
def test_spec_comes_back_from_the_config(exported: dict[str, Exported], name: str) -> None:
    spec = spec_from_config(exported[name].folder / "config.json", exported[name].config)
    written = timm_config(create_encoder(spec))
    assert {key: written[key] for key in written if key != "simclr"} == {
        key: value for key, value in exported[name].config.items() if key != "simclr"
    }


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.small_stem])
def test_local_dir_refuses_a_small_stem_rather_than_giving_other_vectors(
    exported: dict[str, Exported], name: str
) -> None:
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{exported[name].folder}", pretrained=True, num_classes=0)


def test_head_is_saved_for_those_who_go_on_training(trained: Any, checksum: Callable[[Path], Any]) -> None:
    from safetensors.torch import load_file

    head = load_file(trained.run.projector_file)
    shapes = {tuple(tensor.shape) for name, tensor in head.items() if name.endswith("weight") and tensor.ndim == 2}
    assert shapes == {(96, 96), (128, 96)}
