"""The encoder f: the small-image stem, weights by seed, measured widths, and errors."""

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from simclr_cli.core.errors import SettingsError
from simclr_cli.engine.encoder import (
    Encoder,
    EncoderError,
    EncoderSpec,
    create_encoder,
    create_encoder_from_weights,
    create_scratch_spec,
    create_trained_spec,
)

SMALL = "test_resnet"  # timm's own miniature, 0.4 M weights


def forward_shapes(encoder: nn.Module, side: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of the output of every child of the backbone."""
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        child.register_forward_hook(lambda _, __, out, name=name: shapes.__setitem__(name, tuple(out.shape)))
        for name, child in encoder.backbone.named_children()
    ]
    with torch.no_grad():
        encoder.eval()(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return shapes


@pytest.mark.parametrize("side", [32, 24])
def test_small_images_get_a_3x3_stride_1_stem_without_pooling(side: int) -> None:
    """Appendix B.9: ResNet for CIFAR-10."""
    spec = create_scratch_spec("resnet18", side)
    encoder = create_encoder(spec)
    conv = encoder.backbone.conv1
    assert spec.small_stem
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert isinstance(encoder.backbone.maxpool, nn.Identity)
    shapes = forward_shapes(encoder, side)
    assert shapes["conv1"] == shapes["layer1"] == (1, 64, side, side)
    assert shapes["layer4"] == (1, 512, side // 8, side // 8)


def test_a_deep_stem_loses_its_stride_and_its_pool() -> None:
    encoder = create_encoder(create_scratch_spec("resnet18d", 32))
    assert encoder.spec.small_stem
    shapes = forward_shapes(encoder, 32)
    assert shapes["conv1"] == shapes["layer1"] == (1, 64, 32, 32)


def test_above_32_px_the_stem_is_timms_own() -> None:
    encoder = create_encoder(create_scratch_spec("resnet18", 33))
    assert not encoder.spec.small_stem
    assert encoder.backbone.conv1.kernel_size == (7, 7) and isinstance(encoder.backbone.maxpool, nn.MaxPool2d)


@pytest.mark.parametrize(
    ("name", "side", "model_args"),
    [("convnext_atto", 32, {}), ("test_efficientnet", 32, {}), ("vit_tiny_patch16_224", 32, {"img_size": 32})],
)
def test_families_without_such_a_stem_stay_unchanged(name: str, side: int, model_args: dict[str, int]) -> None:
    spec = create_scratch_spec(name, side)
    assert not spec.small_stem and spec.model_args == model_args
    encoder = create_encoder(spec).eval()
    with torch.device("meta"):
        plain = timm.create_model(name, num_classes=0, **model_args)
    assert {k: v.shape for k, v in encoder.backbone.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    assert encoder(torch.rand(2, 3, side, side)).shape == (2, encoder.width)


def test_the_stems_weights_are_drawn_as_timm_draws_them() -> None:
    """Kaiming normal, fan out: variance 2 / (64 * 3 * 3)."""
    weight = create_encoder(create_scratch_spec("resnet18", 32)).backbone.conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("name", [SMALL, "resnet10t", "mobilenetv3_small_050", "test_vit", "test_byobnet"])
def test_width_is_that_of_the_output(name: str) -> None:
    """timm's num_features differs for MobileNets."""
    encoder = create_encoder(create_scratch_spec(name, 64)).eval()
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, encoder.width)


def test_measuring_the_width_changes_neither_mode_nor_statistics() -> None:
    backbone = create_encoder(create_scratch_spec(SMALL, 32)).backbone
    assert backbone.training
    assert not backbone.bn1.running_mean.any() and backbone.bn1.num_batches_tracked == 0


def weights(name: str, seed: int) -> dict[str, Tensor]:
    return create_encoder(create_scratch_spec(name, 32), seed=seed).state_dict()


@pytest.mark.parametrize("name", [SMALL, "test_vit"])
def test_weights_follow_from_the_seed_alone(name: str) -> None:
    first = weights(name, 5)
    torch.rand(7)
    again, other = weights(name, 5), weights(name, 6)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_creating_an_encoder_does_not_change_the_global_random_state() -> None:
    before = torch.get_rng_state()
    create_encoder(EncoderSpec(SMALL, 32, small_stem=True), seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_creating_a_spec_does_not_change_the_global_random_state() -> None:
    before = torch.get_rng_state()
    create_scratch_spec(SMALL, 29)  # a size of no other test, since specs are cached
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "last_norm"), [("resnet18", "bn2"), ("resnet26", "bn3")])
def test_the_last_norm_of_each_residual_block_starts_at_zero(name: str, last_norm: str) -> None:
    """As in the paper's code: every block begins as the identity."""
    backbone = create_encoder(create_scratch_spec(name, 32)).backbone
    blocks = [block for layer in (1, 2, 3, 4) for block in getattr(backbone, f"layer{layer}")]
    assert len(blocks) == 8
    assert not any(getattr(block, last_norm).weight.any() for block in blocks)
    assert all((block.bn1.weight == 1).all() for block in blocks)


def test_from_scratch_images_are_not_normalized() -> None:
    encoder = create_encoder(create_scratch_spec(SMALL, 32)).eval()
    x = torch.rand(2, 3, 32, 32)
    assert (encoder.spec.mean, encoder.spec.std) == ((0, 0, 0), (1, 1, 1))
    torch.testing.assert_close(encoder(x), encoder.backbone(x))


def test_with_trained_weights_images_are_normalized_by_the_models_own_statistics() -> None:
    spec = create_trained_spec("resnet18", 64)
    config = timm.get_pretrained_cfg("resnet18")
    assert (spec.mean, spec.std) == (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert not create_trained_spec("resnet18", 32).small_stem  # trained weights belong to timm's own stem
    spec = EncoderSpec(SMALL, 32, mean=spec.mean, std=spec.std)
    encoder = create_encoder(spec).eval()
    x = torch.rand(2, 3, 32, 32)
    channels = [(x[:, c] - spec.mean[c]) / spec.std[c] for c in range(3)]
    torch.testing.assert_close(encoder(x), encoder.backbone(torch.stack(channels, 1)))


@pytest.mark.parametrize(
    ("mean", "std", "normalizes"),
    [
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), False),
        ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), True),
        ((0.0, 0.0, 0.1), (1.0, 1.0, 1.0), True),
        ((0.0, 0.0, 0.0), (1.0, 0.5, 1.0), True),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True),
    ],
)
def test_an_encoder_normalizes_unless_mean_is_0_and_std_is_1(
    mean: tuple[float, float, float], std: tuple[float, float, float], normalizes: bool
) -> None:
    encoder = Encoder(nn.Flatten(), EncoderSpec("flat", 4, mean=mean, std=std))
    x = torch.rand(2, 3, 4, 4)
    expected = (x.double() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert encoder.spec.has_normalization is normalizes
    torch.testing.assert_close(encoder(x), expected.flatten(1).float())
    assert torch.equal(encoder(x), x.flatten(1)) is not normalizes


def test_embed_maps_bytes_to_h_without_gradient() -> None:
    encoder = create_encoder(create_scratch_spec(SMALL, 32)).eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    h = encoder.embed(pixels)
    torch.testing.assert_close(h, encoder(pixels.float() / 255).detach())
    assert h.dtype == torch.float32 and not h.requires_grad


@pytest.mark.parametrize(("side", "crop"), [(32, 1.0), (33, 0.875), (224, 0.875)])
def test_evaluation_crops_above_32_px_only(side: int, crop: float) -> None:
    assert EncoderSpec(SMALL, side).crop_fraction == crop
    assert EncoderSpec(SMALL, side, crop=0.95).crop_fraction == 0.95  # unless the spec has a crop of its own


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "resnet18", "test_vit", "vit_small_patch14_dinov2.lvd142m"])
def test_trained_weights_have_the_image_size_and_the_crop_of_timms_configuration(name: str) -> None:
    config, spec = timm.get_pretrained_cfg(name), create_trained_spec(name)
    assert (spec.image_size, spec.crop_fraction) == (config.input_size[-1], config.crop_pct)
    other = create_trained_spec(name, 112)
    assert (other.image_size, other.crop_fraction) == (112, config.crop_pct)  # as timm does at any size


def test_an_architecture_whose_configuration_timm_lacks_has_no_trained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: None)
    with pytest.raises(EncoderError, match="timm has no mean and std for resnet18") as caught:
        create_trained_spec("resnet18")
    assert caught.value.argument == "architecture"


@pytest.mark.parametrize("make", [create_scratch_spec, create_trained_spec])
def test_the_error_for_an_unknown_name_lists_the_closest(make) -> None:
    with pytest.raises(SettingsError, match="resnte18") as caught:
        make("resnte18", 64)
    assert "resnet18" in caught.value.remedy


def test_an_unknown_name_without_close_ones_is_an_error() -> None:
    with pytest.raises(SettingsError, match="qqqqqqqqqq"):
        create_scratch_spec("qqqqqqqqqq", 64)


def test_a_name_may_have_a_tag_of_timm() -> None:
    assert create_scratch_spec("resnet18.a1_in1k", 32).small_stem


@pytest.mark.parametrize("make", [create_scratch_spec, create_trained_spec])
def test_an_unknown_tag_is_a_wrong_setting(make) -> None:
    with pytest.raises(SettingsError, match="nope") as caught:
        make("resnet18.nope", 64)
    assert "resnet18.a1_in1k" in caught.value.remedy


@pytest.mark.parametrize(("name", "side"), [("test_vit", 40), ("convnext_atto", 16), ("maxvit_rmlp_pico_rw_256", 33)])
def test_a_size_that_the_backbone_cannot_take_is_a_wrong_setting(name: str, side: int) -> None:
    with pytest.raises(EncoderError, match=name) as caught:
        create_encoder(create_scratch_spec(name, side))
    assert caught.value.argument == "image_size"


@pytest.mark.parametrize(("name", "side"), [("test_vit_relpos", 8), ("test_maxvit", 20)])
def test_a_size_that_timm_fails_to_build_for_is_a_wrong_setting(name: str, side: int) -> None:
    with pytest.raises(SettingsError, match=name):
        create_encoder(create_scratch_spec(name, side))


def test_a_classifier_among_the_weights_is_skipped() -> None:
    whole = timm.create_model(SMALL, num_classes=10)
    encoder = create_encoder_from_weights(EncoderSpec(SMALL, 64), whole.state_dict(), "weights.safetensors")
    state = encoder.backbone.state_dict()
    assert "fc.weight" in whole.state_dict() and "fc.weight" not in state
    assert all(torch.equal(state[key], whole.state_dict()[key]) for key in state)


@pytest.mark.parametrize("other", ["resnet10t", "test_vit"])
def test_weights_of_another_architecture_are_an_error(other: str) -> None:
    state = timm.create_model(other, num_classes=0).state_dict()
    with pytest.raises(SettingsError, match=r"weights\.safetensors"):
        create_encoder_from_weights(EncoderSpec(SMALL, 64), state, "weights.safetensors")


def test_a_tensor_of_another_shape_is_named_in_the_error() -> None:
    plain = timm.create_model("resnet18", num_classes=0).state_dict()
    with pytest.raises(SettingsError, match=r"1 have another shape, .*\(the first is conv1.weight"):
        create_encoder_from_weights(EncoderSpec("resnet18", 32, small_stem=True), plain, "weights.safetensors")


def test_weights_of_a_deeper_network_are_an_error() -> None:
    """resnet34 has all tensors of resnet18, in the same shapes, and more."""
    deeper = timm.create_model("resnet34", num_classes=0).state_dict()
    with pytest.raises(SettingsError):
        create_encoder_from_weights(EncoderSpec("resnet18", 64), deeper, "weights.safetensors")


@pytest.mark.parametrize("size", [96, 224])
def test_position_embeddings_are_converted_to_the_image_size_as_timm_does(size: int) -> None:
    """Those of test_vit are for 160 px; all other weights stay as they are."""
    state = timm.create_model("test_vit").state_dict()
    backbone = create_encoder_from_weights(create_trained_spec("test_vit", size), state, "weights.safetensors").backbone
    expected = resample_abs_pos_embed(state["pos_embed"], [size // 16] * 2, num_prefix_tokens=1)
    torch.testing.assert_close(backbone.pos_embed.detach(), expected)
    others = {name: tensor for name, tensor in backbone.state_dict().items() if name != "pos_embed"}
    assert all(torch.equal(tensor, state[name]) for name, tensor in others.items())


def test_weights_that_are_converted_must_fit_too() -> None:
    """Position embeddings of another size, and a tensor is missing."""
    state = timm.create_model("test_vit").state_dict()
    del state["cls_token"]
    with pytest.raises(EncoderError, match=r"1 tensors are missing, .*\(the first is cls_token") as caught:
        create_encoder_from_weights(create_trained_spec("test_vit", 96), state, "weights.safetensors")
    assert caught.value.argument == "state"


def test_the_weights_fit_timms_own_model() -> None:
    """An encoder is timm's own model: its state fits timm.create_model key by key, whatever the memory format."""
    encoder = create_encoder(create_scratch_spec(SMALL, 64)).eval()
    plain = timm.create_model(SMALL, num_classes=0).eval()
    plain.load_state_dict(encoder.backbone.state_dict())
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(plain(x), encoder(x), rtol=1e-4, atol=1e-5)


def test_weights_are_contiguous_where_apples_gpu_may_misread_others(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EncoderSpec(SMALL, 96)
    assert create_encoder(spec).memory_format == torch.channels_last
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert all(p.is_contiguous() for p in create_encoder(spec).parameters())


def test_too_little_memory_is_not_an_image_size_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def build(*_: object, **__: object) -> nn.Module:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(torch.OutOfMemoryError):
        Encoder(Large(), EncoderSpec("resnet18", 32))
    monkeypatch.setattr(timm, "create_model", build)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        create_encoder(EncoderSpec("resnet18", 32))
