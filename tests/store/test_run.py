"""Run folders: files are read back as written; damaged or foreign files are errors."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import write_json
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.core.text import quote_words
from simclr_cli.store.models import read_config, read_weights
from simclr_cli.store.run import FORMAT_VERSION, RunFolder
from simclr_cli.store.run_info import read_run_info

NAMES = ["plain.png", "größe.png", "new\nline.png", os.fsdecode(b"caf\xe9\xff.png")]
ENCODER = {"architecture": "resnet18", "num_classes": 0, "simclr": {"format_version": FORMAT_VERSION, "run": "r"}}


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    transposed = torch.randn(5, 4, generator=generator).t()  # not contiguous
    return {
        "conv.weight": torch.randn(2, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last),
        "transposed": torch.nn.Parameter(transposed),
        "half": torch.randn(3, generator=generator).bfloat16(),
        "bn.num_batches_tracked": torch.tensor(7),
    }


def finished_run(path: Path, seed: int = 0) -> RunFolder:
    run = RunFolder(path)
    run.write_config({"settings": {"seed": seed}})
    run.write_encoder(weights(seed), ENCODER, "# Card")
    return run


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


# Round trips


def test_config_is_written_with_its_version(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    assert not run.is_started
    run.write_config({"settings": {"images": os.fsdecode(b"/caf\xe9"), "rate": 0.1}, "seed": 3})
    assert run.is_started and not run.is_finished
    assert json.loads(run.config_file.read_bytes()) == {
        "format_version": FORMAT_VERSION, "settings": {"images": os.fsdecode(b"/caf\xe9"), "rate": 0.1}, "seed": 3,
    }  # fmt: skip


def test_skipped_files_are_read_back_with_any_name(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    skipped = [(name, f"reason {i}") for i, name in enumerate(NAMES)]
    run.write_skipped(skipped)
    assert run.read_skipped() == skipped
    assert os.fsencode(run.read_skipped()[3][0]) == b"caf\xe9\xff.png"


def test_encoder_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    checksum = run.write_encoder(weights(), ENCODER, "# größe\n")
    assert run.is_finished and run.is_started
    assert checksum == checksum_file(run.weights_file)
    config, state = run.read_encoder()
    assert config == {**ENCODER, "simclr": {**ENCODER["simclr"], "model_checksum": checksum}}
    assert state.keys() == weights().keys()
    for name, tensor in weights().items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor)
    assert (run.encoder_folder / "README.md").read_text(encoding="utf-8") == "# größe\n"
    assert sorted(path.name for path in run.path.iterdir()) == ["encoder", "manifest.json"]


def test_encoders_of_the_same_weights_have_the_same_checksum(tmp_path: Path) -> None:
    checksums = [
        RunFolder(tmp_path / name).write_encoder(weights(seed), ENCODER, "x")
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert checksums[0] == checksums[1] != checksums[2]


def test_timm_loads_the_encoder(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=0)
    run = RunFolder(tmp_path / "r")
    run.write_encoder(model.state_dict(), {**ENCODER, "architecture": "test_resnet", "pretrained_cfg": {}}, "x")
    again = timm.create_model(f"local-dir:{run.encoder_folder}", pretrained=True, num_classes=0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_projection_head_is_read_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    run.write_projection_head(weights())
    assert all(torch.equal(tensor, weights()[name]) for name, tensor in load_file(run.projection_head_file).items())


def test_writing_does_not_change_the_tensors(tmp_path: Path) -> None:
    given = weights()
    RunFolder(tmp_path / "r").write_encoder(given, ENCODER, "x")
    assert given["transposed"].requires_grad and not given["transposed"].is_contiguous()


# Complete or not at all


def test_archived_encoders_of_equal_epochs_have_different_names(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    for seed in range(3):
        run.write_encoder(weights(seed), ENCODER, f"card {seed}")
        write_json(run.outcome_file, {"state": str(seed)})
        write_json(run.probe_folder / "probe.json", [seed])
        run.archive_encoder(4)
        assert not run.outcome_file.exists() and not run.probe_folder.exists()
    names = ("encoder-4-epochs", "encoder-4-epochs-2", "encoder-4-epochs-3")
    assert [(run.path / name / "README.md").read_text() for name in names] == ["card 0", "card 1", "card 2"]
    assert json.loads((run.path / names[1] / "probe" / "probe.json").read_text()) == [1]
    assert json.loads((run.path / names[2] / "outcome.json").read_text()) == {"state": "2"}
    assert not run.is_finished


def test_finished_encoder_is_never_overwritten(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "r", seed=0)
    before = run.weights_file.read_bytes()
    with pytest.raises((OSError, RunError)):
        run.write_encoder(weights(1), ENCODER, "x")
    assert run.weights_file.read_bytes() == before
    run.read_encoder()


def test_overwriting_a_finished_run_is_a_run_error(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "r")
    with pytest.raises(RunError):
        run.write_encoder(weights(1), ENCODER, "x")


def test_a_crash_leaves_the_run_unfinished_and_the_next_try_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "r")
    run.write_config({})

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    for broken in ("write_json", "checksum_file"):
        with monkeypatch.context() as patch:
            patch.setattr(f"simclr_cli.store.models.{broken}", crash)
            with pytest.raises(KeyboardInterrupt):
                run.write_encoder(weights(), ENCODER, "x")
        assert not run.is_finished
        with pytest.raises(RunError, match="not finished"):
            run.read_encoder()
    run.write_encoder(weights(), ENCODER, "x")
    run.read_encoder()
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "encoder", "manifest.json"]


@pytest.mark.parametrize("position", [9, 200, -1])
def test_flipped_bit_in_the_weights_is_an_error(tmp_path: Path, position: int) -> None:
    run = finished_run(tmp_path / "r")
    flip_byte(run.weights_file, position)
    with pytest.raises(RunError, match="checksum differs") as caught:
        run.read_encoder()
    assert caught.value.exit_code == 4


def test_weights_of_another_run_are_an_error(tmp_path: Path) -> None:
    one, other = finished_run(tmp_path / "one", 0), finished_run(tmp_path / "other", 1)
    one.weights_file.write_bytes(other.weights_file.read_bytes())
    with pytest.raises(RunError, match="checksum differs"):
        one.read_encoder()


def test_error_of_an_unfinished_run_has_the_resume_command(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "birds")
    run.write_config({})
    with pytest.raises(RunError, match="pretrain --resume --run birds"):
        run.read_encoder()
    assert RunFolder(tmp_path / "my runs" / "a'b").resume_command == quote_words(
        "simclr", "pretrain", "--resume", "--run", "a'b", "--runs", tmp_path / "my runs"
    )


# Descriptions


def encoder_config(run: RunFolder) -> Path:
    return run.encoder_folder / "config.json"


@pytest.mark.parametrize("of_run", [True, False], ids=["config", "encoder"])
def test_newer_version_suggests_an_upgrade(tmp_path: Path, of_run: bool) -> None:
    run = finished_run(tmp_path / "r")
    path = run.config_file if of_run else encoder_config(run)
    content = json.loads(path.read_text())
    (content if of_run else content["simclr"])["format_version"] = FORMAT_VERSION + 1
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match="Upgrade") as caught:
        read_run_info(run) if of_run else run.read_encoder()
    assert f"version {FORMAT_VERSION + 1}" in caught.value.problem


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[1]", b"null", b"3", b"{}", b'{"format_version": "1"}', b'{"format_version": null}',
     b'{"simclr": {}}'],
)  # fmt: skip
def test_damaged_config_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RunError, match=r"config\.json"):
        read_config(tmp_path / "config.json", "Train again.")


def test_config_that_timm_wrote_has_no_version(tmp_path: Path) -> None:
    """Our own keys, if there are any, need theirs."""
    path, content = tmp_path / "config.json", {"architecture": "resnet18", "pretrained_cfg": {"mean": [0, 0, 0]}}
    path.write_text(json.dumps(content))
    assert read_config(path, "Train again.") == content
    for own in ({}, {"format_version": "1"}, None):
        path.write_text(json.dumps({**content, "simclr": own}))
        with pytest.raises(RunError, match="it has no format version"):
            read_config(path, "Train again.")


@pytest.mark.parametrize("content", [b'{"simclr": 3}', b'{"simclr": null}', b'{"simclr": [1]}'])
def test_config_with_another_type_under_simclr_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RunError):
        read_config(tmp_path / "config.json", "Train again.")


def test_error_of_a_missing_config_has_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="simclr pretrain FOLDER"):
        read_run_info(RunFolder(tmp_path))


@pytest.mark.parametrize("content", [None, b"", b"{", b"3", b"[3]", b'[{"name": "a"}]', b'{"name": "a"}'])
def test_damaged_list_of_skipped_files_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    run = RunFolder(tmp_path)
    if content is not None:
        run.skipped_file.write_bytes(content)
    with pytest.raises(RunError, match=r"skipped\.json cannot be read"):
        run.read_skipped()


HARMS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "no header": lambda path: path.write_bytes(b"x" * 100),
    "pickled": lambda path: torch.save({"a": torch.zeros(1)}, path),
}


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_weights_are_an_error(tmp_path: Path, harm: str) -> None:
    run = finished_run(tmp_path / "r")
    HARMS[harm](run.weights_file)
    with pytest.raises(RunError, match=r"model\.safetensors"):
        read_weights(run.weights_file)
