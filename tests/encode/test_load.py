"""Encoders by name: errors of the engine become remedies with options."""

from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from simclr_cli.core.errors import SettingsError
from simclr_cli.encode.load import create_initial_encoder


@pytest.mark.parametrize(("name", "size"), [("test_vit", 40), ("test_vit_relpos", 8)])  # in forward; in timm
def test_remedy_for_an_image_size_names_its_option(name: str, size: int) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        create_initial_encoder(name, "none", size, 0)
    assert "--image-size" in caught.value.remedy and "--backbone" in caught.value.remedy


def test_remedy_for_weights_of_another_architecture_names_its_option(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(SettingsError, match="does not hold the weights of test_vit") as caught:
        create_initial_encoder("test_vit", str(tmp_path / "resnet.safetensors"), 64, 0)
    assert "--backbone" in caught.value.remedy


def test_remedy_for_an_architecture_without_trained_weights_names_its_option() -> None:
    with pytest.raises(SettingsError, match="resnet50_mlp") as caught:
        create_initial_encoder("resnet50_mlp", "imagenet", 64, 0)
    assert "--weights none" in caught.value.remedy
