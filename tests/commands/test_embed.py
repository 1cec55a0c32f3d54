"""The embed command: rows of h in the order of the names, with their description."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import nn

import simclr_cli
from simclr_cli.api import EmbedResult, EmbedSettings
from simclr_cli.commands.embed import embed
from simclr_cli.core.errors import InputError, MachineError, RunError, SettingsError
from simclr_cli.core.events import Note
from simclr_cli.encode.device import GpuFault
from simclr_cli.images.decode import decode_evaluation_crop
from simclr_cli.store.vectors import read_vectors


@pytest.fixture
def run_embed(trained: Any, tmp_path: Path) -> Callable[..., tuple[EmbedResult, NDArray[np.float32], dict[str, Any]]]:
    """Embed with the shared run; return the result, the vectors and their description."""

    def call(**values: Any) -> tuple[EmbedResult, NDArray[np.float32], dict[str, Any]]:
        chosen = {"runs": trained.runs, "out": tmp_path / "v.npy", **values}
        result = embed(EmbedSettings(**chosen))
        return result, np.load(result.out, allow_pickle=False), json.loads(Path(result.rows_file).read_text())

    return call


def test_images_of_the_newest_run_become_rows_of_length_one(run_embed: Any, trained: Any) -> None:
    result, vectors, description = run_embed()
    assert (result.rows, result.dimensions) == vectors.shape == (48, 96)
    assert vectors.dtype == np.float32 and vectors.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert result.normalized and description["normalized"]
    assert result.encoder == str(trained.run.path)
    assert result.model_checksum == description["model_checksum"] == trained.result.model_checksum
    assert (
        description["root"] == str(trained.images) and description["shape"] == [48, 96] and description["skipped"] == []
    )


def test_a_gpu_that_is_not_used_is_reported_once(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simclr_cli.encode.device.list_gpus", lambda: [torch.device("cuda", 0)])
    monkeypatch.setattr("simclr_cli.encode.device.get_gpu_name", str)
    monkeypatch.setattr("simclr_cli.encode.device.find_fault", lambda gpu: GpuFault("failing GPU", "it is broken"))
    notes: list[Any] = []
    embed(EmbedSettings(runs=trained.runs, out=tmp_path / "v.npy"), report=notes.append)
    assert [note.text for note in notes if "is not used" in getattr(note, "text", "")] == [
        "cuda:0 is not used, because it is broken. simclr doctor says what to do."
    ]


def test_weights_that_overflow_are_an_error(trained: Any, tmp_path: Path) -> None:
    weights = {name: value * 1e30 if value.is_floating_point() else value
               for name, value in timm.create_model("test_resnet").state_dict().items()}  # fmt: skip
    save_file(weights, tmp_path / "w.safetensors")
    encoder = f"test_resnet={tmp_path / 'w.safetensors'}"
    with pytest.raises(RunError, match="not finite"):
        embed(EmbedSettings(images=trained.images, encoder=encoder, image_size=40, out=tmp_path / "v.npy"))
    assert not (tmp_path / "v.npy").exists()


def test_order_is_that_of_the_relative_paths_bytes(run_embed: Any, trained: Any) -> None:
    names = run_embed()[2]["rows"]
    files = [path.relative_to(trained.images) for path in trained.images.rglob("*.*")]
    assert names == [os.fsdecode(name) for name in sorted(os.fsencode(path) for path in files)]


def test_order_is_by_bytes_also_if_case_folders_and_alphabets_differ(
    run_embed: Any, tmp_path: Path, draw: Callable[..., Any]
) -> None:
    names = ["a.png", "B.png", "a/z.png", "a-b.png", "ä.png", "Z/1.png", "10.png", "9.png", "😀.png", "｡.png"]
    for seed, name in enumerate(names):
        draw(tmp_path / "mixed" / name, seed)
    assert run_embed(images=tmp_path / "mixed")[2]["rows"] == sorted(names, key=lambda name: name.encode())


def test_raw_rows_are_h_with_the_same_directions(run_embed: Any, tmp_path: Path) -> None:
    raw = run_embed(raw=True)
    unit = run_embed(out=tmp_path / "unit.npy")
    assert not raw[0].normalized and not raw[2]["normalized"]
    np.testing.assert_allclose(raw[1] / np.linalg.norm(raw[1], axis=1, keepdims=True), unit[1], atol=1e-6)
    assert np.abs(np.linalg.norm(raw[1], axis=1) - 1).max() > 0.01


def test_each_row_is_the_encoder_at_that_rows_image(run_embed: Any, trained: Any) -> None:
    _, vectors, description = run_embed(raw=True)
    encoder = simclr_cli.load_encoder(trained.name, runs=trained.runs)
    for row in (0, 7, 47):
        pixels = decode_evaluation_crop(trained.images / description["rows"][row], 40, encoder.spec.crop_fraction)
        h = encoder.embed(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0].numpy()
        np.testing.assert_allclose(h, vectors[row], atol=1e-5)


def test_a_single_image_has_the_same_row_as_among_others(run_embed: Any, trained: Any, tmp_path: Path) -> None:
    _, vectors, description = run_embed(raw=True)
    row = description["rows"].index("rings/0002.png")
    (tmp_path / "alone").mkdir()
    shutil.copy(trained.images / "rings" / "0002.png", tmp_path / "alone")
    _, alone, _ = run_embed(images=tmp_path / "alone", raw=True, out=tmp_path / "alone.npy")
    np.testing.assert_allclose(alone[0], vectors[row], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 48, 1000])
def test_batch_size_changes_nothing(run_embed: Any, tmp_path: Path, batch_size: int) -> None:
    reference = run_embed(out=tmp_path / "reference.npy")[1]
    np.testing.assert_allclose(run_embed(batch_size=batch_size, workers=1)[1], reference, atol=1e-5)


def test_skipped_files_are_listed_and_the_other_rows_stay_aligned(
    run_embed: Any, tmp_path: Path, draw: Callable[..., Any]
) -> None:
    folder = tmp_path / "odd"
    names = [b"1\n.png", b"2\x1b[31m.png", b"3[bold].png", b"4\xff.png", b"6.png", b"7\xe2\x80\xae.png"]
    texts = [name.decode("utf-8", "surrogateescape") for name in names]
    for seed, name in enumerate(texts):
        draw(folder / name, seed)
    noise = draw(folder / "5 broken.png", 99)
    del noise
    whole = (folder / "5 broken.png").read_bytes()
    (folder / "5 broken.png").write_bytes(whole[:-30])
    (folder / "0 empty.jpg").write_bytes(b"")
    result, vectors, description = run_embed(images=folder)
    assert description["rows"] == texts and len(vectors) == 6
    assert [entry["name"] for entry in description["skipped"]] == [
        "0 empty.jpg",
        "5 broken.png",
    ] and result.skipped == 2
    assert Path(result.rows_file).read_bytes().isascii()
    for row, name in enumerate(texts):
        (tmp_path / "alone").mkdir(exist_ok=True)
        shutil.copy(folder / name, tmp_path / "alone" / "x.png")
        alone = run_embed(images=tmp_path / "alone", out=tmp_path / "x.npy")[1][0]
        np.testing.assert_allclose(alone, vectors[row], atol=1e-5)


def test_same_command_twice_writes_the_same_bytes(run_embed: Any, tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        run_embed(out=tmp_path / name)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert (tmp_path / "a.rows.json").read_bytes() == (tmp_path / "b.rows.json").read_bytes()


def test_only_the_two_files_are_written(
    trained: Any, tmp_path: Path, checksum: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = checksum(trained.images), checksum(trained.run.path)
    embed(EmbedSettings(runs=trained.runs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vecs.npy", "vecs.rows.json"]
    assert (checksum(trained.images), checksum(trained.run.path)) == before


@pytest.mark.parametrize("parent", ["new", "new/deep", "file"])
def test_out_must_be_in_a_folder(tmp_path: Path, parent: str) -> None:
    """As numpy's own save has it: no folder comes into being by a typing error."""
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="there is no folder"):
        EmbedSettings(out=tmp_path / parent / "v.npy")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_out_that_cannot_be_written_fails_first(run_embed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simclr_cli.encode.embed.embed_files", lambda *_, **__: pytest.fail("embedding began"))
    with pytest.raises(MachineError, match="Cannot write"):
        run_embed(out=Path("/proc/v.npy"))


def test_run_is_named_by_name_or_path_and_reported(trained: Any, tmp_path: Path, run_embed: Any) -> None:
    said: list[Any] = []
    out = tmp_path / "v.npy"
    embed(EmbedSettings(runs=trained.runs, out=out), report=said.append)
    assert Note(f"Embedding {trained.images} with {trained.run.path}.") in said
    by_name = run_embed(run=trained.name)[1]
    by_path = run_embed(run=str(trained.run.path), runs=tmp_path / "nowhere")[1]
    np.testing.assert_array_equal(by_name, by_path)
    for encoder in (trained.name, str(trained.run.path)):
        result, vectors, _ = run_embed(encoder=encoder)
        assert result.encoder == str(trained.run.path)
        np.testing.assert_array_equal(vectors, by_name)


def test_newest_finished_run_is_the_default(own: Any, tmp_path: Path) -> None:
    newer = Path(shutil.copytree(own.run.path, own.runs / "newer"))
    os.utime(newer / "encoder" / "model.safetensors", ns=(0, own.run.weights_file.stat().st_mtime_ns + 10**9))
    unfinished = Path(shutil.copytree(own.run.path, own.runs / "unfinished"))
    shutil.rmtree(unfinished / "encoder")
    settings = EmbedSettings(runs=own.runs, out=tmp_path / "v.npy")
    assert embed(settings).encoder == str(newer)


def test_missing_unfinished_and_damaged_runs_are_errors(own: Any, tmp_path: Path) -> None:
    def call(**values: Any) -> None:
        embed(EmbedSettings(**{"runs": own.runs, "out": tmp_path / "v.npy", **values}))

    with pytest.raises(RunError, match="There is no finished run under"):
        call(runs=tmp_path / "none")
    with pytest.raises(RunError, match="There is no run birds") as caught:
        call(run="birds")
    assert "pics" in caught.value.remedy
    with own.run.weights_file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x99")
    with pytest.raises(RunError, match="its checksum differs"):
        call()
    shutil.rmtree(own.run.encoder_folder)
    with pytest.raises(RunError, match="is not finished") as caught:
        call(run="pics")
    assert "--resume --run pics" in caught.value.remedy


def test_missing_images_of_the_run_are_an_error(own: Any, tmp_path: Path) -> None:
    own.images.rename(tmp_path / "moved")
    with pytest.raises(RunError, match="no longer in"):
        embed(EmbedSettings(runs=own.runs, out=tmp_path / "v.npy"))
    assert embed(EmbedSettings(images=tmp_path / "moved", runs=own.runs, out=tmp_path / "v.npy")).rows == 48


def test_folder_whose_images_cannot_be_decoded(run_embed: Any, own: Any, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    data = (own.images / "bricks" / "0001.jpg").read_bytes()
    (tmp_path / "broken" / "a.jpg").write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(InputError, match=r"No image in .* could be decoded"):
        run_embed(images=tmp_path / "broken")
    assert not (tmp_path / "v.npy").exists()


# Encoders that are not of a run; all forms of their names are tested in tests/encode/test_load.py


def test_random_weights_follow_from_the_seed(run_embed: Any, images: Path) -> None:
    values = {"images": images, "encoder": "random:tiny_resnet", "image_size": 40}
    (one, a, description), (_, again, _), (_, other, _) = (run_embed(**values, seed=seed) for seed in (1, 1, 2))
    assert one.encoder == "random:tiny_resnet" and len(description["model_checksum"]) == 64
    np.testing.assert_array_equal(a, again)
    assert not np.allclose(a, other)


def compute_by_timm(model: nn.Module, path: Path, **config: Any) -> NDArray[np.float32]:
    """Return h (width,) of an image by timm's own transform and forward pass, with the model's mean and std."""
    config = {**timm.data.resolve_data_config({}, model=model), "interpolation": "bicubic", **config}
    with torch.inference_mode(), Image.open(path) as image:
        x = timm.data.create_transform(**config, is_training=False)(image.convert("RGB"))[None]
        h: NDArray[np.float32] = model.forward_head(model.forward_features(x), pre_logits=True)[0].numpy()
    return h


def test_a_file_of_weights_gives_what_timm_computes(run_embed: Any, images: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = timm.create_model("tiny_resnet").eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    encoder = f"tiny_resnet={tmp_path / 'w.safetensors'}"
    result, vectors, description = run_embed(images=images, encoder=encoder, image_size=64, raw=True)
    assert result.encoder == encoder
    row = description["rows"].index("dots/0000.png")
    expected = compute_by_timm(model, images / "dots" / "0000.png", input_size=(3, 64, 64))
    np.testing.assert_allclose(vectors[row], expected, atol=1e-6)


def test_without_a_run_the_default_encoder_is_used_and_named(
    images: Path, default_encoder: nn.Module, tmp_path: Path
) -> None:
    said: list[Any] = []
    settings = EmbedSettings(images=images, runs=tmp_path / "none", out=tmp_path / "v.npy", raw=True)
    result = embed(settings, report=said.append)
    assert result.encoder == "tiny_resnet.r160_in1k"
    lack = f"there is no run under {tmp_path / 'none'}"
    assert Note(f"Encoder: tiny_resnet.r160_in1k at 40 px (small), because {lack}.") in said
    row = json.loads(Path(result.rows_file).read_text())["rows"].index("dots/0000.png")
    expected = compute_by_timm(default_encoder, images / "dots" / "0000.png", input_size=(3, 40, 40))
    np.testing.assert_allclose(np.load(result.out)[row], expected, atol=1e-6)


def test_a_run_embeds_at_another_image_size_as_another_model(run_embed: Any, trained: Any) -> None:
    own, larger = run_embed(), run_embed(image_size=64)
    assert larger[0].encoder == f"{trained.run.path} at 64 px"
    assert own[0].model_checksum != larger[0].model_checksum and not np.allclose(own[1], larger[1], atol=1e-3)


def test_an_encoder_without_images_of_its_own_needs_a_folder(run_embed: Any) -> None:
    with pytest.raises(SettingsError, match="The encoder random:tiny_resnet has no images of its own") as caught:
        run_embed(encoder="random:tiny_resnet")
    assert caught.value.remedy == "Add the folder of images."


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"run": "a", "encoder": "resnet18"}, "--run and --encoder name two encoders"),
        ({"image_size": 7}, "--image-size is 7, and must be at least 8"),
        ({"out": Path("vecs.txt")}, r"must end in \.npy, \.npz, \.parquet, \.csv, \.safetensors or \.tsv"),
        ({"out": Path("vecs.csv"), "shards": 2}, r"--shards requires \.npy, and --out is vecs\.csv"),
        ({"out": Path("vecs")}, r"Try --out vecs\.npy"),
        ({"batch_size": 0}, "--batch-size is 0, and must be at least 1"),
    ],
)
def test_settings_that_cannot_work(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        EmbedSettings(**values)


# Bound to the model


def test_vectors_are_read_only_with_their_own_model(run_embed: Any) -> None:
    result, vectors, _ = run_embed()
    np.testing.assert_array_equal(read_vectors(Path(result.out), model_checksum=result.model_checksum).values, vectors)
    with pytest.raises(RunError, match="vectors of another model"):
        read_vectors(Path(result.out), model_checksum="0" * 64)


def test_vectors_with_the_rows_of_another_embedding_are_an_error(run_embed: Any, trained: Any, tmp_path: Path) -> None:
    one, _, _ = run_embed()
    run_embed(raw=True, out=tmp_path / "raw.npy")
    shutil.copy(tmp_path / "raw.npy", one.out)
    with pytest.raises(RunError, match=re.escape("do not belong together")):
        read_vectors(Path(one.out), model_checksum=one.model_checksum)


# --- Other formats ---


@pytest.mark.parametrize("form", ["npz", "safetensors", "csv", "parquet", "tsv"])
def test_other_formats_hold_the_same_rows(run_embed: Any, trained: Any, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    _, vectors, description = run_embed()
    result = embed(EmbedSettings(runs=trained.runs, out=tmp_path / f"w.{form}"))
    assert (result.out, result.rows, result.dimensions) == (str(tmp_path / f"w.{form}"), 48, 96)
    own = form in ("npz", "safetensors", "parquet")
    assert result.rows_file == (result.out if own else f"{result.out}.rows.json")
    match form:
        case "npz":
            with np.load(result.out, allow_pickle=False) as members:
                h, names = members["h"], members["names"].tolist()
        case "safetensors":
            h, names = load_file(result.out)["h"], description["rows"]
        case "parquet":
            from pyarrow import parquet

            table = parquet.read_table(result.out).to_pydict()
            h, names = np.array(table["h"], np.float32), table["path"]
        case "csv":
            rows = [line.split(",") for line in Path(result.out).read_text().splitlines()[1:]]
            h, names = np.array([row[1:] for row in rows], np.float32), [row[0].strip('"') for row in rows]
        case "tsv":
            h, names = np.loadtxt(result.out, dtype=np.float32), description["rows"]
            written = {path.name for path in tmp_path.glob("w.*")}
            assert written == {
                f"w.{end}" for end in ("tsv", "tsv.rows.json", "metadata.tsv", "sprite.png", "config.json")
            }
            with Image.open(tmp_path / "w.sprite.png") as sprite:
                assert sprite.size == (7 * 64, 7 * 64)
    np.testing.assert_array_equal(h, vectors)
    assert names == description["rows"]


def test_parquet_without_its_library_fails_before_long_work(
    run_embed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("simclr_cli.commands.embed.resolve_encoder", lambda *_: pytest.fail("work began"))
    with pytest.raises(MachineError, match="needs the library pyarrow"):
        run_embed(out=tmp_path / "v.parquet")


# --- Shards ---


@pytest.mark.parametrize("count", [1, 3, 48, 60])
def test_shards_are_the_rows_of_one_file_in_order(run_embed: Any, trained: Any, tmp_path: Path, count: int) -> None:
    _, whole, description = run_embed()
    out = tmp_path / "s.npy"
    result = embed(EmbedSettings(runs=trained.runs, out=out, shards=count))
    listed = json.loads(Path(result.rows_file).read_text())
    assert result.out == result.rows_file == str(tmp_path / "s.shards.json") and not out.exists()
    assert (result.rows, result.shards, listed["rows"], len(listed["shards"])) == (48, count, 48, count)
    assert sum(shard["rows"] for shard in listed["shards"]) == 48
    names = []
    for shard in listed["shards"]:
        shard_description = json.loads((tmp_path / shard["file"]).with_suffix(".rows.json").read_text())
        assert shard_description["vectors_checksum"] == shard["vectors_checksum"]
        names += shard_description["rows"]
    assert names == description["rows"]
    parts = [np.load(tmp_path / shard["file"]) for shard in listed["shards"]]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_valid_shards_are_kept_and_others_made_again(own: Any, tmp_path: Path) -> None:
    settings = EmbedSettings(runs=own.runs, out=tmp_path / "s.npy", shards=4)
    embed(settings)
    files = sorted(tmp_path.glob("s-*.npy"))
    before = [file.stat().st_mtime_ns for file in files]
    expected = [np.load(file) for file in files]

    def made_again() -> list[bool]:
        nonlocal before
        embed(settings)
        now = [file.stat().st_mtime_ns for file in files]
        changed, before = [a != b for a, b in zip(now, before, strict=True)], now
        return changed

    assert made_again() == [False] * 4
    files[1].write_bytes(files[1].read_bytes()[:-8])  # damaged
    files[2].unlink()  # stopped before it
    assert made_again() == [False, True, True, False]
    for file, rows in zip(files, expected, strict=True):
        np.testing.assert_array_equal(np.load(file), rows)
    names = json.loads(files[3].with_suffix(".rows.json").read_text())["rows"]
    os.utime(own.images / names[0], ns=(1, 1))  # changed
    assert made_again() == [False, False, False, True]
    settings = dataclasses.replace(settings, raw=True)
    assert made_again() == [True] * 4


def test_shards_count_images_that_cannot_be_decoded(own: Any, tmp_path: Path) -> None:
    for path in sorted(own.images.rglob("*.*"))[:30]:
        path.write_bytes(path.read_bytes()[:400])  # the header is whole
    result = embed(EmbedSettings(runs=own.runs, out=tmp_path / "s.npy", shards=4))
    assert result.rows < 48 and result.rows + result.skipped == 48
    assert sum(len(np.load(file)) for file in tmp_path.glob("s-*.npy")) == result.rows
