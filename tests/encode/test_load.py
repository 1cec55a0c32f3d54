"""Encoders by name: each form of a name, its errors with remedies, and the choice of one where none is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from runs import Hub, Trained
from safetensors.torch import save, save_file
from timm.data import create_transform, resolve_data_config
from torch import nn

from simclr_cli.api import EmbedSettings, EncoderSettings
from simclr_cli.core.errors import MachineError, RunError, SettingsError
from simclr_cli.core.events import Note
from simclr_cli.encode.create import create_initial_encoder
from simclr_cli.encode.load import LoadedEncoder, load_named_encoder, resolve_encoder
from simclr_cli.images.decode import decode_evaluation_crop

CPU = torch.device("cpu")


def load(name: str, **settings: Any) -> LoadedEncoder:
    return load_named_encoder(name, EmbedSettings(**settings), CPU, lambda _: None)


def compute_by_timm(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Compute h by timm's own functions, of normalized images."""
    with torch.inference_mode():
        return model.eval().forward_head(model.forward_features(x), pre_logits=True)


@pytest.mark.parametrize(("name", "size"), [("test_vit", 40), ("test_vit_relpos", 8)])  # in forward; in timm
def test_remedy_for_an_image_size_names_its_option(name: str, size: int) -> None:
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    with pytest.raises(SettingsError, match=name) as caught:
        create_initial_encoder(name, "none", size, 0)
    assert "--image-size" in caught.value.remedy


def test_weights_of_another_architecture_are_an_error(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(SettingsError, match="does not hold the weights of test_vit") as caught:
        load(f"test_vit={tmp_path / 'resnet.safetensors'}")
    assert "NAME=FILE" in caught.value.remedy


def test_a_timm_name_has_its_weights_size_normalization_and_crop(default_encoder: nn.Module, images: Path) -> None:
    """The same embedding as by timm's own transform and forward pass, from the hub's cache, without a network."""
    loaded = load("tiny_resnet.r160_in1k")
    spec = loaded.encoder.spec
    config = timm.get_pretrained_cfg("tiny_resnet.r160_in1k")
    assert (spec.image_size, spec.mean, spec.std, spec.crop_fraction) == (
        config.input_size[-1], config.mean, config.std, config.crop_pct,
    )  # fmt: skip
    file = next(images.rglob("*.png"))
    pixels = torch.tensor(decode_evaluation_crop(file, spec.image_size, spec.crop_fraction))
    h = loaded.encoder.embed(pixels.permute(2, 0, 1)[None])
    mean, std = loaded.encoder.mean, loaded.encoder.std
    expected = compute_by_timm(default_encoder, (pixels.permute(2, 0, 1)[None] / 255 - mean) / std)
    torch.testing.assert_close(h, expected, rtol=1e-4, atol=1e-5)
    transform = create_transform(**resolve_data_config({}, model=default_encoder), is_training=False)
    assert transform.transforms[0].size in (int(160 / spec.crop_fraction), [int(160 / spec.crop_fraction)] * 2)


def test_the_image_size_can_be_set(default_encoder: nn.Module) -> None:
    own, small = load("tiny_resnet"), load("tiny_resnet", image_size=48)
    assert (own.encoder.spec.image_size, small.encoder.spec.image_size) == (160, 48)
    assert own.checksum != small.checksum
    assert own.checksum == load("tiny_resnet.r160_in1k").checksum  # the same encoder by its longer name


def test_position_embeddings_are_resampled_to_the_image_size_as_timm_does(tmp_path: Path) -> None:
    model = timm.create_model("test_vit")
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    loaded = load(f"test_vit={tmp_path / 'vit.safetensors'}", image_size=96)
    overlay = {"file": str(tmp_path / "vit.safetensors")}
    expected = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay=overlay, img_size=96)
    torch.testing.assert_close(loaded.encoder.backbone.pos_embed, expected.pos_embed)
    x = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        h = loaded.encoder(x)
    torch.testing.assert_close(h, compute_by_timm(expected, (x - loaded.encoder.mean) / loaded.encoder.std))


def test_a_repository_of_the_hub_and_a_local_folder_are_described_by_their_config(hub: Hub, tmp_path: Path) -> None:
    """Files of timm's own save_for_hf: architecture, size, normalization and crop are in config.json."""
    model = timm.create_model("test_vit", num_classes=0, img_size=96)
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "crop_pct": 0.9,
                            "input_size": (3, 96, 96)}  # fmt: skip
    timm.models.save_for_hf(model, tmp_path / "saved", safe_serialization=True, model_args={"img_size": 96})
    local = load(f"local-dir:{tmp_path / 'saved'}")
    spec = local.encoder.spec
    assert (spec.architecture, spec.image_size, spec.crop_fraction) == ("test_vit", 96, 0.9)
    assert spec.mean == (0.1, 0.2, 0.3)
    x = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(
            local.encoder(x), compute_by_timm(model, (x - local.encoder.mean) / local.encoder.std)
        )
    hub.add("someone/birds", **{f"{name}": (tmp_path / "saved" / name.replace("_", ".")).read_bytes()
                                for name in ("config_json", "model_safetensors")})  # fmt: skip
    assert load("hf-hub:someone/birds").checksum == local.checksum == load(str(tmp_path / "saved")).checksum
    file = load(str(tmp_path / "saved" / "model.safetensors"))
    assert file.checksum == local.checksum


def test_a_file_without_a_config_needs_the_name_of_its_architecture(tmp_path: Path) -> None:
    save_file(timm.create_model("tiny_resnet").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(SettingsError, match=r"There is no config\.json next to") as caught:
        load(str(tmp_path / "w.safetensors"))
    assert f"NAME={tmp_path / 'w.safetensors'}" in caught.value.remedy
    assert load(f"tiny_resnet={tmp_path / 'w.safetensors'}").encoder.spec.has_normalization


def test_an_image_size_that_a_named_model_cannot_take_names_its_option(hub: Hub) -> None:
    hub.add("timm/test_vit.r160_in1k", model_safetensors=save(timm.create_model("test_vit").state_dict()))
    with pytest.raises(SettingsError, match="test_vit") as caught:
        load("test_vit", image_size=40)
    assert "--image-size" in caught.value.remedy


def test_random_weights_depend_on_the_seed_only() -> None:
    first, same, other = (load("random:tiny_resnet", image_size=40, seed=seed) for seed in (3, 3, 4))
    assert first.checksum == same.checksum != other.checksum


def test_a_run_is_named_by_its_name_and_by_its_folder(trained: Trained) -> None:
    by_name, by_folder = load(trained.name, runs=trained.runs), load(str(trained.run.path))
    assert by_name.run == by_folder.run == trained.run and by_name.checksum == by_folder.checksum
    resized = load(trained.name, runs=trained.runs, image_size=64)
    assert resized.encoder.spec.image_size == 64 and resized.checksum != by_name.checksum


def test_the_encoder_folder_of_a_run_is_an_encoder(trained: Trained, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.run.encoder_folder, tmp_path / "copied")
    state = load(str(folder)).encoder.state_dict()
    assert all(
        torch.equal(value, state[name]) for name, value in load(str(trained.run.path)).encoder.state_dict().items()
    )


def test_a_run_goes_before_a_timm_model_of_the_same_name(own: Trained) -> None:
    shutil.copytree(own.run.path, own.runs / "resnet18")
    assert load("resnet18", runs=own.runs).run is not None


def test_an_unknown_name_is_an_error_with_the_closest_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="There is no run and no timm model named 'resnet81'") as caught:
        load("resnet81", runs=tmp_path)
    assert "resnet18" in caught.value.remedy
    with pytest.raises(RunError, match="There is no run nothing"):
        resolve_encoder(EncoderSettings(run="nothing", runs=tmp_path))


def test_without_a_name_the_newest_run_of_the_folder_is_used_else_the_default(
    own: Trained, default_encoder: nn.Module, tmp_path: Path
) -> None:
    assert resolve_encoder(EncoderSettings(images=own.images, runs=own.runs), of_folder=True).run == own.run
    other = tmp_path / "other"
    other.mkdir()
    assert resolve_encoder(EncoderSettings(images=other, runs=own.runs)).run == own.run
    said: list[Any] = []
    loaded = resolve_encoder(EncoderSettings(images=other, runs=own.runs), report=said.append, of_folder=True)
    assert (loaded.name, loaded.run, loaded.encoder.spec.image_size) == ("tiny_resnet.r160_in1k", None, 40)
    assert next(note for note in said if isinstance(note, Note)).text == (
        f"Encoder: tiny_resnet.r160_in1k at 40 px (small), because no run was trained on {other}."
    )


def test_without_images_the_newest_run_is_used_or_the_error_names_the_ways_on(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no finished run") as caught:
        resolve_encoder(EncoderSettings(runs=tmp_path), of_folder=True)
    assert "folder of images" in caught.value.remedy
    with pytest.raises(SettingsError, match="has no images of its own"):
        _ = load("random:tiny_resnet").images


@pytest.mark.parametrize("change", [
    lambda config: config["model_args"].update(checkpoint_path="/etc/passwd"),
    lambda config: config["model_args"].update(img_size=10**9),
    lambda config: config["model_args"].update(reg_tokens=10**9),
    lambda config: config["pretrained_cfg"].update(crop_pct=0),
    lambda config: config["pretrained_cfg"].update(crop_pct=1e300),
    lambda config: config.update(architecture="hf-hub:someone/else"),
])  # fmt: skip
def test_a_config_from_elsewhere_can_only_describe_an_architecture(
    change: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    model = timm.create_model("test_vit", num_classes=0)
    timm.models.save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    file = tmp_path / "saved" / "config.json"
    config = json.loads(file.read_text())
    config.setdefault("model_args", {})
    change(config)
    file.write_text(json.dumps(config))
    with pytest.raises(RunError, match="does not describe an encoder"):
        load(str(tmp_path / "saved"))


def test_weights_that_are_nowhere_are_an_error(hub: Hub) -> None:
    with pytest.raises(MachineError, match="The weights of tiny_resnet are not on this machine"):
        load("tiny_resnet")
    with pytest.raises(SettingsError, match="There are no trained weights of resnet50_mlp"):
        load("resnet50_mlp")
    hub.add("timm/tiny_resnet.r160_in1k", model_safetensors=save({"x": torch.zeros(1)}))
    with pytest.raises(SettingsError, match="does not hold the weights of tiny_resnet"):
        load("tiny_resnet")


@pytest.mark.parametrize(
    "name", ["hf-hub:", "hf-hub:bad id", "hf-hub:a/b/c", "hf-hub:../x", "local-dir:", "x" * 300, "random:", ""]
)
def test_impossible_names_are_errors_of_the_settings(name: str, hub: Hub) -> None:
    with pytest.raises((SettingsError, RunError)):
        load(name)
