"""Hostile runs, vectors, indexes, journals and image folders: read in bounded time and memory, or an error.

None of them runs code, reads or writes outside of its folder, or makes a command wait forever.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from simclr_cli.api import DuplicatesSettings, PretrainSettings, SimilarSettings
from simclr_cli.commands.duplicates import duplicates
from simclr_cli.commands.predict import load_classifier
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.commands.report import read_probe
from simclr_cli.commands.similar import similar
from simclr_cli.core.errors import InputError, RunError
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.encode.load import load_run_encoder
from simclr_cli.images.decode import decode
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.scan import take_census
from simclr_cli.images.synthetic import draw_images
from simclr_cli.search.similarity_scale import read_scale
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.history import read_epochs
from simclr_cli.store.index_files import read_index
from simclr_cli.store.moves import JOURNAL, MovedFile, move_files, restore_files
from simclr_cli.store.run import RunFolder, find_run
from simclr_cli.store.run_info import read_run_info
from simclr_cli.store.vectors import Vectors, name_rows_file, read_vectors, write_vectors

MAX_SECONDS = 10.0  # of cases that take milliseconds: long enough for a busy machine
MAX_MEGABYTES = 300  # of reading
resource = pytest.importorskip("resource")
CPU = torch.device("cpu")
MODEL = "a" * 64
WEIGHTS = "encoder/model.safetensors"

Harm = Callable[[Path], object]


@pytest.fixture(scope="module")
def trained(once: Callable[..., Path]) -> Path:
    """Train a run and embed its images; every case copies it."""

    def make(root: Path) -> None:
        draw_images(root / "images", seed=0, count=12, size=48)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SIMCLR_CACHE", str(root / "cache"))
            tiny: dict[str, Any] = {"backbone": "test_resnet", "image_size": 40, "batch_size": 8, "epochs": 1}
            pretrain(PretrainSettings(images=root / "images", runs=root / "runs", run="r", **tiny))
            query = next((root / "images").rglob("*.*"))
            similar(SimilarSettings(queries=(query,), run="r", runs=root / "runs"))

    return once("hostile", make) / "runs" / "r"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Copy the run."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "r"))


def describe_tree(folder: Path) -> dict[str, Any]:
    """Return mode, time, size and checksum of all files in a folder, without following links."""
    description: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        plain = path.is_file() and not path.is_symlink() and status.st_size < 1_000_000
        content = hashlib.sha256(path.read_bytes()).hexdigest() if plain else None
        description[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, status.st_size, content)
    return description


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """Create a folder that no case may change; check also the time and memory of the case."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret")
    Image.new("RGB", (50, 40), "red").save(folder / "image.png")
    before, start = describe_tree(folder), time.monotonic()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield folder
    assert describe_tree(folder) == before and time.monotonic() - start < MAX_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MAX_MEGABYTES * 1024


def change_json(name: str, change: Callable[[Any], object]) -> Harm:
    """Return a function that changes a JSON file."""

    def harm(folder: Path) -> None:
        content = json.loads((folder / name).read_bytes())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return harm


def replace_content(name: str, content: bytes | Callable[[bytes], bytes]) -> Harm:
    def harm(folder: Path) -> None:
        data = content if isinstance(content, bytes) else content((folder / name).read_bytes())
        (folder / name).write_bytes(data)

    return harm


def replace_by_link(name: str, target: str) -> Harm:
    """Return a function that replaces a file or folder by a link; `target` may be in the folder `outside`."""

    def harm(folder: Path) -> None:
        path = folder / name
        (shutil.rmtree if path.is_dir() else Path.unlink)(path) if path.exists() else None
        outside = next(p / "outside" for p in folder.parents if (p / "outside").is_dir())
        path.symlink_to(target.replace("outside", str(outside)))

    return harm


def replace_by_pipe(name: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return harm


def json_harms(name: str) -> dict[str, Harm]:
    """Return the harms that apply to any JSON file."""
    deep = b"[" * 100_000
    return {
        f"{name} nested deep": replace_content(name, deep),
        f"{name} nested deep in a key": replace_content(name, lambda old: b'{"x": ' + deep + b", " + old.lstrip()[1:]),
        f"{name} with a key twice": replace_content(name, lambda old: b'{"x": 1, "x": 2, ' + old.lstrip()[1:]),
        f"{name} with NaN": replace_content(name, lambda old: b'{"x": NaN, ' + old.lstrip()[1:]),
        f"{name} with 1e999": replace_content(name, lambda old: b'{"x": 1e999, ' + old.lstrip()[1:]),
        f"{name} with a number of 10,000 digits": replace_content(
            name, lambda old: b'{"x": ' + b"9" * 10_000 + b", " + old.lstrip()[1:]
        ),
        f"{name} in UTF-16": replace_content(name, lambda old: old.decode().encode("utf-16")),
        f"{name} with a BOM": replace_content(name, lambda old: b"\xef\xbb\xbf" + old),
        f"{name} not UTF-8": replace_content(name, b'{"format_version": 1, "x": "\xff\xfe"}'),
        f"{name} a list": replace_content(name, b"[1]"),
        f"{name} empty": replace_content(name, b""),
        f"{name} a pipe": replace_by_pipe(name),
        f"{name} a device": replace_by_link(name, "/dev/zero"),
        f"{name} a folder": lambda folder: ((folder / name).unlink(), (folder / name).mkdir()),
    }


def encode_header(columns: dict[str, Any], length: int | None = None) -> bytes:
    text = json.dumps(columns).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text


def write_long_header(name: str) -> Harm:
    """Return a function that writes a header of 100 MB."""

    def harm(folder: Path) -> None:
        (folder / name).write_bytes((10**8).to_bytes(8, "little"))
        os.truncate(folder / name, 8 + 10**8)

    return harm


EMPTY = encode_header({f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(250_000)})
HUGE = encode_header({"w": {"dtype": "F32", "shape": [10**12, 128], "data_offsets": [0, 512 * 10**12]}})


def with_valid_checksum(harm: Harm) -> Harm:
    """Return a function that also updates the checksum of the weights."""

    def both(run: Path) -> None:
        harm(run)
        checksum = checksum_file(run / WEIGHTS)
        change_json("encoder/config.json", lambda content: content["simclr"].update(model_checksum=checksum))(run)

    return both


def change_encoder(**changes: Any) -> Harm:
    def change(content: dict[str, Any]) -> None:
        for name, value in changes.items():
            part = {"architecture": "simclr", "small_stem": "simclr", "model_args": "", "label_names": ""}.get(
                name, "pretrained_cfg"
            )
            (content[part] if part else content)[name] = value

    return change_json("encoder/config.json", change)


def change_settings(**changes: Any) -> Harm:
    return change_json("config.json", lambda content: content["settings"].update(changes))


def fill_weights(run: Path) -> None:
    """Replace one weight by NaN."""
    state = load_file(run / WEIGHTS)
    max(state.values(), key=torch.Tensor.numel).view(-1)[0] = float("nan")
    save_file(state, run / WEIGHTS, metadata={"format": "pt"})


class CreatesFolder:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/simclr-was-here",)


def load_encoder(run: Path) -> Any:
    return load_run_encoder(RunFolder(run), CPU)


def read_settings(run: Path) -> Any:
    return read_run_info(RunFolder(run)).settings


def read_classifier(run: Path) -> Any:
    return load_classifier(run / "encoder", CPU)


def find_hostile_run(run: Path) -> Any:
    return find_run(str(run), run.parent)


def load_newest_checkpoint(run: Path) -> Any:
    return load_checkpoint(run / "checkpoint")


def read_metrics(run: Path) -> Any:
    return read_epochs(RunFolder(run))


def read_skipped(run: Path) -> Any:
    return RunFolder(run).read_skipped()


RUNS: dict[str, tuple[Harm, Callable[[Path], Any]]] = {
    **{name: (harm, read_settings) for name, harm in json_harms("config.json").items()},
    **{name: (harm, load_encoder) for name, harm in json_harms("encoder/config.json").items()},
    "config.json of 17 MB": (replace_content("config.json", lambda old: b" " * 17_000_000 + old), read_settings),
    "config.json newer": (change_json("config.json", lambda content: content.update(format_version=2)), read_settings),
    "config.json of version true": (change_json("config.json", lambda c: c.update(format_version=True)), read_settings),
    "config.json of version -1": (change_json("config.json", lambda c: c.update(format_version=-1)), read_settings),
    "a batch of text": (change_settings(batch_size="8"), read_settings),
    "a batch of a list": (change_settings(batch_size=[8]), read_settings),
    "a batch of -8": (change_settings(batch_size=-8), read_settings),
    "no batch": (change_settings(batch_size=None), read_settings),
    "a head of 10^9 layers": (change_settings(head_layers=10**9), read_settings),
    "z of 10^12 dimensions": (change_settings(projection_dimensions=10**12), read_settings),
    "views of 10^9 px": (change_settings(image_size=10**9), read_settings),
    "a name with NUL": (change_settings(images="/tmp/a\0b"), read_settings),
    "a setting that is none": (change_settings(run_code="import os"), read_settings),
    "a choice named by a list": (change_json("config.json", lambda c: c["choices"][0].update(name=[])), read_settings),
    "a run named ..": (change_settings(run="../../x"), read_settings),
    "images of 10^9 px": (change_encoder(input_size=[3, 10**9, 10**9]), load_encoder),
    "images of 4096 px": (change_encoder(input_size=[3, 4096, 4096]), load_encoder),
    "images of -40 px": (change_encoder(input_size=[3, -40, -40]), load_encoder),
    "images of no scale": (change_encoder(std=[0, 0, 0]), load_encoder),
    "a mean of 100,000 channels": (change_encoder(mean=[0] * 100_000), load_encoder),
    "a model of the hub": (change_encoder(architecture="hf-hub:someone/evil"), load_encoder),
    "a model of another folder": (change_encoder(architecture="local-dir:/tmp"), load_encoder),
    "a model of another size": (change_encoder(architecture="resnet200"), load_encoder),
    "a model that is a path": (change_encoder(architecture="../../outside/model"), load_encoder),
    "a checkpoint for torch.load": (change_encoder(model_args={"checkpoint_path": "/tmp/evil.pth"}), load_encoder),
    "weights of elsewhere": (change_encoder(model_args={"pretrained_cfg": {"file": "/tmp/evil.pth"}}), load_encoder),
    "10^12 channels": (change_encoder(model_args={"in_chans": 10**12}), load_encoder),
    "weights of 10^12 rows": (with_valid_checksum(replace_content(WEIGHTS, HUGE)), load_encoder),
    "weights with a header of 100 MB": (
        with_valid_checksum(write_long_header(WEIGHTS)), load_encoder,
    ),
    "weights with a header of 2^63": (with_valid_checksum(replace_content(WEIGHTS, b"\xff" * 8 + b"{}")), load_encoder),
    "250,000 weights of no values": (with_valid_checksum(replace_content(WEIGHTS, EMPTY)), load_encoder),
    "weights that are not finite": (with_valid_checksum(fill_weights), load_encoder),
    "weights pickled": (with_valid_checksum(replace_content(WEIGHTS, pickle.dumps(CreatesFolder()))), load_encoder),
    "weights changed": (replace_content(WEIGHTS, lambda old: old[:-1] + b"\x77"), load_encoder),
    "weights a pipe": (replace_by_pipe(WEIGHTS), load_encoder),
    "weights a device": (replace_by_link(WEIGHTS, "/dev/zero"), load_encoder),
    "weights of no end": (lambda run: os.truncate(run / WEIGHTS, 2**40), load_encoder),
    "a checkpoint of no end": (
        lambda run: os.truncate(next(run.glob("checkpoint/*")), 2**40),
        load_newest_checkpoint,
    ),
    "weights of another model": (
        with_valid_checksum(replace_content(WEIGHTS, lambda old: encode_header(
            {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"1234")), load_encoder,
    ),
    "100,000 classes": (change_encoder(label_names=["x"] * 100_000), read_classifier),
    "classes that are numbers": (change_encoder(label_names=[1, 2]), read_classifier),
    "vectors/ that lead out": (replace_by_link("vectors", "outside"), find_hostile_run),
    "pages/ that lead out": (replace_by_link("pages", "outside"), find_hostile_run),
    "checkpoint/ that leads out": (replace_by_link("checkpoint", "outside"), find_hostile_run),
    "probe/ that leads to the root": (replace_by_link("probe", "/"), find_hostile_run),
    "metrics that are a pipe": (replace_by_pipe("metrics.jsonl"), read_metrics),
    "metrics nested deep": (replace_content("metrics.jsonl", b"[" * 99_999), read_metrics),
    "metrics that are text": (replace_content("metrics.jsonl", b'{"epoch": 1, "loss": "x"}'), read_metrics),
    "metrics of lists": (replace_content("metrics.jsonl", b'{"epoch": 1, "validation": {"rank_h": []}}'), read_metrics),
    "validation of a number": (replace_content("metrics.jsonl", b'{"epoch": 1, "validation": 7}'), read_metrics),
    "times that are objects": (replace_content("speed.jsonl", b'{"epoch": 1, "seconds": {}}'), read_metrics),
    "metrics of no epoch": (replace_content("metrics.jsonl", b'{"epoch": "x"}'), read_metrics),
    "skipped files that are numbers": (replace_content("skipped.json", b"[1, 2]"), read_skipped),
    "skipped.json of 70 MB": (replace_content("skipped.json", b"[" + b"[]," * 23_333_333 + b"[]]"), read_skipped),
    "skipped.json a device": (replace_by_link("skipped.json", "/dev/zero"), read_skipped),
}  # fmt: skip


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("case", RUNS)
def test_hostile_runs(run: Path, case: str) -> None:
    harm, read = RUNS[case]
    harm(run)
    before = describe_tree(run)
    with pytest.raises((RunError, InputError)) as caught:
        read(run)
    assert caught.value.remedy and describe_tree(run) == before and not Path("/tmp/simclr-was-here").exists()
    assert ("newer" in case) == ("Upgrade" in caught.value.remedy)


@pytest.mark.xdist_group("clock")
@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("harm", [replace_content("x", HUGE), replace_content("x", HUGE + b"\0" * 1000)])
def test_a_huge_shape_is_an_error_at_once(run: Path, harm: Harm) -> None:
    """Under 0.1 s: the best of several, as the machine may be busy."""
    checkpoint = run / "checkpoint" / "step-000000009.safetensors"
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    checkpoint.parent.mkdir()
    harm(run)
    (run / "x").rename(checkpoint)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        with pytest.raises(RunError, match="damaged"):
            load_checkpoint(checkpoint.parent)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1


def test_a_damaged_probe_is_no_error(run: Path, outside: Path) -> None:
    """The report names the problem instead."""
    (run / "probe").mkdir(exist_ok=True)
    for harm in json_harms("probe.json").values():
        (run / "probe/probe.json").unlink(missing_ok=True)
        (run / "probe/probe.json").write_bytes(b'{"x": 1}')
        harm(run / "probe")
        assert isinstance(read_probe(run / "probe/probe.json"), str)
        if (run / "probe/probe.json").is_dir():
            (run / "probe/probe.json").rmdir()


def change_part(kind: str, **changes: Any) -> Harm:
    return change_json("index.json", lambda content: content["parts"][kind].update(changes))


def change_index(**changes: Any) -> Harm:
    return change_json("index.json", lambda content: content.update(changes))


def find_part(folder: Path, kind: str) -> str:
    return next(folder.glob(f"{kind}-*")).name


def replace_part(kind: str, content: bytes | Callable[[bytes], bytes]) -> Harm:
    """Return a function that replaces a file of the index, with its size and checksum."""

    def harm(folder: Path) -> None:
        replace_content(find_part(folder, kind), content)(folder)
        data = (folder / find_part(folder, kind)).read_bytes()
        change_part(kind, bytes=len(data), crc32=zlib.crc32(data))(folder)

    return harm


def replace_first_name(name: bytes) -> Harm:
    return replace_part("names", lambda old: name + b"\0" + old.split(b"\0", 1)[1])


INDEXES: dict[str, Harm] = {
    **json_harms("index.json"),
    "longer than its images explain": replace_content("index.json", lambda old: b" " * 5_000_000 + old),
    "newer": change_index(format_version=2),
    "rows of elsewhere": change_part("embeddings", file="/etc/passwd"),
    "rows above": change_part("embeddings", file="../encoder/model.safetensors"),
    "rows of no name": change_part("embeddings", file=""),
    "rows named with NUL": change_part("embeddings", file="a\0b"),
    "rows named by a number": change_part("embeddings", file=7),
    "rows a pipe": lambda folder: replace_by_pipe(find_part(folder, "embeddings"))(folder),
    "rows a device": lambda folder: replace_by_link(find_part(folder, "embeddings"), "/dev/zero")(folder),
    "rows a link to a secret": lambda folder: replace_by_link(find_part(folder, "embeddings"), "outside/secret.txt")(
        folder
    ),
    "rows of other bytes": lambda folder: replace_content(
        find_part(folder, "embeddings"), lambda old: old[:-1] + bytes([old[-1] ^ 1])
    )(folder),
    "rows pickled": replace_part("embeddings", pickle.dumps(CreatesFolder())),
    "names pickled": replace_part("names", pickle.dumps(CreatesFolder())),
    "a row more": replace_part("embeddings", lambda old: old + old[:4]),
    "names that do not end": replace_part("names", lambda old: old[:-1]),
    "names of one byte each": replace_part("names", lambda old: b"\0" * len(old)),
    "a name that is absolute": replace_first_name(b"/etc/passwd"),
    "a name that leads up": replace_first_name(b"../../outside/image.png"),
    "a name that leads up at its end": replace_first_name(b"a/.."),
    "a name with NUL": replace_first_name(b"a\0.png"),
    "gone rows of 10^30": change_index(gone=[10**30]),
    "gone rows of -1": change_index(gone=[-1]),
    "gone rows in disorder": change_index(gone=[1, 0]),
    "gone rows twice": change_index(gone=[1, 1]),
    "2 million gone rows": change_index(gone=[0] * 2 * 10**6),
    "gone rows that are text": change_index(gone=["x"]),
    "10^12 rows": change_part("embeddings", bytes=512 * 10**12),
    "10^12 images": change_part("images", bytes=56 * 10**12),
    "10^12 rows searched": change_index(searched=10**12),
    "10^400 rows searched": change_index(searched=10**400),
    "a similarity scale of 10^400 images": change_index(similarity={"images": 10**400}),
    "-1 bytes": change_part("names", bytes=-1),
    "a checksum of text": change_part("names", crc32="x"),
    "a width of 10^12": change_index(width=10**12),
    "a width of text": change_index(width="x"),
    "a width of 0": change_index(width=0),
    "a root that is relative": change_index(root="../.."),
    "a root with NUL": change_index(root="/a\0"),
    "a root that is a number": change_index(root=7),
    "parts that are no object": change_index(parts=7),
    "a part that is null": change_index(parts={"embeddings": None}),
    "skipped files that are numbers": change_index(skipped=[[1]]),
    "a skipped file twice": change_index(skipped=[["a.png", "damaged", 1, 1]] * 2),
    "a model that is a list": change_index(model_checksum=["a"]),
}


SIMILARITIES: tuple[Any, ...] = (
    None, 7, [], {}, "x", {"images": 3}, {"images": 3, "random": [0], "views": [0], "view_pairs": 1},
    {"images": 48, "random": [[0]], "views": ["x"], "random_pairs": 1, "view_pairs": 1},
    {"images": 48, "random": [*range(550), 0], "views": [0] * 551, "random_pairs": 1, "view_pairs": 1},
)  # fmt: skip


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_an_invalid_similarity_scale_is_ignored(run: Path, similarity: Any) -> None:
    change_index(similarity=similarity)(run / "vectors")
    index = read_index(run / "vectors", model_checksum=checksum_file(run / WEIGHTS))
    assert index is not None and read_scale(index) is None


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("case", INDEXES)
def test_hostile_indexes(run: Path, case: str) -> None:
    INDEXES[case](run / "vectors")
    before = describe_tree(run)
    with pytest.raises(RunError) as caught:
        read_index(run / "vectors", model_checksum=checksum_file(run / WEIGHTS))
    assert caught.value.remedy and describe_tree(run) == before
    assert (case == "newer") == ("Upgrade" in caught.value.remedy)


def replace_names(*names: Any) -> Harm:
    """Return a function that replaces the names, with their checksum."""

    def change(content: dict[str, Any]) -> None:
        checksum = hashlib.sha256(json.dumps(names).encode("ascii")).hexdigest()
        content.update(rows=list(names), rows_checksum=checksum)

    return change_json("v.rows.json", change)


def replace_npy(header: str, more: bytes = b"") -> Harm:
    """Return a function that writes a .npy with this header, and its checksum."""

    def harm(folder: Path) -> None:
        text = header.encode() + b"\n"
        (folder / "v.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + more)
        checksum = checksum_file(folder / "v.npy")
        change_json("v.rows.json", lambda content: content.update(vectors_checksum=checksum))(folder)

    return harm


def format_npy_header(shape: str, kind: str = "'<f4'") -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}"


VECTORS: dict[str, Harm] = {
    **json_harms("v.rows.json"),
    "names longer than the rows explain": replace_content("v.rows.json", lambda old: b" " * 17_000_000 + old),
    "newer": change_json("v.rows.json", lambda content: content.update(format_version=2)),
    "a name that is absolute": replace_names("/etc/passwd", "b.png"),
    "a name that leads up": replace_names("a.png", "../b.png"),
    "a name with NUL": replace_names("a.png", "b\0.png"),
    "a name that is a number": replace_names("a.png", 7),
    "a name that is nothing": replace_names("a.png", ""),
    "10^12 rows": replace_npy(format_npy_header("(1000000000000, 3)")),
    "10^12 rows, said twice": lambda folder: (
        replace_npy(format_npy_header("(1000000000000, 3)"))(folder),
        change_json("v.rows.json", lambda content: content.update(shape=[10**12, 3]))(folder),
    ),
    "more rows than numbers can count": replace_npy(format_npy_header("(9223372036854775807, 9223372036854775807)")),
    "-2 rows": replace_npy(format_npy_header("(-2, 3)"), b"\0" * 24),
    "-2 rows of -3": replace_npy(format_npy_header("(-2, -3)"), b"\0" * 24),
    "rows of objects": replace_npy(format_npy_header("(2, 3)", "'|O'"), pickle.dumps(CreatesFolder())),
    "rows of records": replace_npy(format_npy_header("(2,)", "[('a', '<f4', (3,))]"), b"\0" * 24),
    "a header that is code": replace_npy("__import__('os').mkdir('/tmp/simclr-was-here')"),
    "a header nested deep": replace_npy("(" * 9_000),
    "a header of 60,000 bytes": replace_npy(format_npy_header("(2, 3)") + " " * 60_000, b"\0" * 24),
    "a file pickled": replace_content("v.npy", pickle.dumps(CreatesFolder())),
    "a pipe": replace_by_pipe("v.npy"),
    "a device": replace_by_link("v.npy", "/dev/zero"),
    "a link to a secret": replace_by_link("v.npy", "outside/secret.txt"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", VECTORS)
def test_hostile_vectors(tmp_path: Path, outside: Path, case: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    values = np.zeros((2, 3), np.float32)
    write_vectors(folder / "v.npy", Vectors(values, ("a.png", "b.png"), "/p", MODEL, True, "f" * 64))
    assert name_rows_file(folder / "v.npy").name == "v.rows.json"
    VECTORS[case](folder)
    before = describe_tree(folder)
    with pytest.raises(RunError) as caught:
        read_vectors(folder / "v.npy", model_checksum=MODEL)
    assert caught.value.remedy and describe_tree(folder) == before and not Path("/tmp/simclr-was-here").exists()
    assert (case == "newer") == ("Upgrade" in caught.value.remedy)


def change_journal_lines(change: Callable[[list[Any]], object]) -> Harm:
    """Return a function that changes the lines of the journal."""

    def harm(folder: Path) -> None:
        lines = [json.loads(line) for line in (folder / JOURNAL).read_bytes().splitlines()]
        change(lines)
        (folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))

    return harm


def change_journal(**changes: Any) -> Harm:
    return change_journal_lines(lambda lines: lines[0].update(changes))


def change_journal_file(**changes: Any) -> Harm:
    return change_journal_lines(lambda lines: lines[1].update(changes))


def replace_folder_by_link(side: str) -> Harm:
    """Return a function that replaces the folder of a file by a link to the outside."""

    def harm(folder: Path) -> None:
        parent = folder if side == "away" else folder.parent / "home"
        outside = folder.parent / "outside"
        (shutil.rmtree(parent / "deep") if side == "away" else None)
        with contextlib.suppress(FileNotFoundError):
            (parent / "deep").rmdir()
        (parent / "deep").symlink_to(outside)

    return harm


JOURNALS: dict[str, Harm] = {
    **json_harms(JOURNAL),
    "newer": change_journal(format_version=2),
    "a root that is relative": change_journal(root="outside"),
    "a root with NUL": change_journal(root="/a\0"),
    "a root that is a number": change_journal(root=7),
    "a name that is absolute": change_journal_file(name="/etc/cron.d/x"),
    "a name that leads up": change_journal_file(name="../outside/x.png"),
    "a name with NUL": change_journal_file(name="a\0.png"),
    "a name that is hidden": change_journal_file(name=".bash_aliases"),
    "a name in a hidden folder": change_journal_file(name=".config/autostart/a.desktop"),
    "open to others": lambda folder: (folder / JOURNAL).chmod(0o666),
    "a name that is nothing": change_journal_file(name=""),
    "a checksum that is a path": change_journal_file(checksum="../../outside/x"),
    "a checksum that is a number": change_journal_file(checksum=7),
    "a line that is text": change_journal_lines(lambda lines: lines.append("abc")),
    "a line that is a number": change_journal_lines(lambda lines: lines.append(1)),
}

MOVED_FILES: dict[str, Harm] = {
    "a file that is a pipe": replace_by_pipe("deep/a.png"),
    "a file that is a device": replace_by_link("deep/a.png", "/dev/zero"),
    "a file that is a link": replace_by_link("deep/a.png", "outside/secret.txt"),
    "a way from there that leads out": replace_folder_by_link("away"),
    "a way home that leads out": replace_folder_by_link("home"),
    "a name that is the folder": change_journal_lines(lambda lines: lines.append({**lines[1], "name": "."})),
}


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    home, folder = tmp_path / "home", tmp_path / "away"
    (home / "deep").mkdir(parents=True)
    folder.mkdir()
    (home / "deep/a.png").write_bytes(b"content")
    move_files(home, folder, [MovedFile("deep/a.png", hashlib.sha256(b"content").hexdigest())], lambda *_: None)
    return folder


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("case", JOURNALS)
def test_hostile_journals(moved: Path, case: str) -> None:
    JOURNALS[case](moved)
    before = describe_tree(moved.parent)
    with pytest.raises((InputError, RunError)) as caught:
        restore_files(moved, moved.parent / "home", lambda *_: None)
    assert caught.value.remedy and describe_tree(moved.parent) == before


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("case", MOVED_FILES)
def test_hostile_files_are_not_restored(moved: Path, case: str) -> None:
    MOVED_FILES[case](moved)
    home = moved.parent / "home"
    _, not_restored = restore_files(moved, home, lambda *_: None)
    assert not_restored and "secret" not in {path.name for path in home.rglob("*")}
    assert not (moved.parent / "outside/a.png").exists()


ROOTS = ["outside", "outside/secret.txt", "/"]


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("root", ROOTS)
def test_a_journal_does_not_choose_the_folder(moved: Path, root: str) -> None:
    """Without a folder on the command line, nothing moves; with one, the files move there."""
    change_journal(root=str(moved.parent / root))(moved)
    before = describe_tree(moved.parent)
    with pytest.raises(InputError, match="only into a folder that you name"):
        duplicates(DuplicatesSettings(restore=moved))
    assert describe_tree(moved.parent) == before
    assert duplicates(DuplicatesSettings(restore=moved, images=moved.parent / "home")).moved == 1
    assert (moved.parent / "home/deep/a.png").read_bytes() == b"content"


def encode_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encode_png(width: int, height: int, *more: bytes) -> bytes:
    head = encode_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(more)
        + encode_chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + encode_chunk(b"IEND", b"")
    )


def encode_jpeg(exif: bytes) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40)).save(stream, "JPEG")
    data = b"Exif\0\0" + exif
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(data) + 2) + data + stream.getvalue()[2:]


def write_content(name: str, data: bytes) -> Harm:
    return lambda folder: (folder / name).write_bytes(data)


def create_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
        listener.bind("x.png")


def create_deep_folders(folder: Path) -> None:
    with contextlib.chdir(folder):
        for _ in range(100):
            Path("d" * 50).mkdir()
            os.chdir("d" * 50)


BOMB = zlib.compress(b"\0" * 50_000_000)
IMAGES: dict[str, Harm] = {
    "a pipe": replace_by_pipe("x.png"),
    "a link to a device": replace_by_link("x.png", "/dev/zero"),
    "a link to noise": replace_by_link("x.png", "/dev/urandom"),
    "a link to the memory of the process": replace_by_link("x.png", "/proc/self/mem"),
    "a link to its memory, by another name": replace_by_link("x", "/proc/self/mem"),
    "a link to messages of the kernel": replace_by_link("x", "/proc/kmsg"),
    "a link to the terminal": replace_by_link("x.png", "/dev/tty"),
    "a socket": create_socket,
    "a link to itself": replace_by_link("x.png", "x.png"),
    "a link to a folder outside": replace_by_link("x", "outside"),
    "a link to /": replace_by_link("x.png", "/"),
    "a link to a secret": replace_by_link("x.png", "outside/secret.txt"),
    "a link to nowhere": replace_by_link("x.png", "/nowhere/at/all"),
    "a folder named as an image": lambda folder: (folder / "x.png").mkdir(),
    "a way of 100 folders": create_deep_folders,
    "nothing": write_content("x.png", b""),
    "10^9 x 10^9 px": write_content("x.png", encode_png(10**9, 10**9)),
    "0 px": write_content("x.png", encode_png(0, 0)),
    "a text that unfolds": write_content("x.png", encode_png(9_000, 9_000, encode_chunk(b"zTXt", b"a\0\0" + BOMB))),
    "a profile that unfolds": write_content("x.png", encode_png(9_000, 9_000, encode_chunk(b"iCCP", b"a\0\0" + BOMB))),
    "a GIF of 65,535 px": write_content("x.gif", b"GIF89a" + b"\xff" * 4 + b"\0" * 20),
    "a BMP of 2^31 px": write_content(
        "x.bmp", b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, *[0] * 6)
    ),
    "a TIFF that leads to itself": write_content("x.tif", b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0"),
    "a TIFF of 65,535 entries": write_content("x.tif", b"II*\0\x08\0\0\0" + b"\xff\xff" + b"\x01" * 900),
    "a PPM of 10^99 px": write_content("x.ppm", b"P6 " + b"9" * 99 + b" " + b"9" * 99 + b" 255\n"),
    "PostScript": write_content(
        "x.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/simclr-was-here) (w) file\n"
    ),
    "PDF": write_content("x.png", b"%PDF-1.7\n/OpenAction"),
    "SVG": write_content("x.png", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
    "pickle": write_content("x.png", pickle.dumps(CreatesFolder())),
    "a name of escapes": write_content("\x1b[31m\r\n.png", b"x"),
}  # fmt: skip


@pytest.mark.parametrize("case", IMAGES)
def test_hostile_image_folders(tmp_path: Path, outside: Path, case: str) -> None:
    """The valid images are found, and the other files ignored or skipped by name."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (50, 40), "blue").save(folder / "good.png")
    IMAGES[case](folder)
    census = take_census(folder, workers=1)
    assert [image.name for image in census.images if _decodes(folder / image.name)] == ["good.png"]
    assert not Path("/tmp/simclr-was-here").exists()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # of Pillow, and an error in tests only
@pytest.mark.parametrize(
    "exif", [b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 99, b"MM", b"II*\0" + b"\xff" * 4, b"\0" * 60_000]
)
def test_invalid_metadata_does_not_harm_an_image(tmp_path: Path, exif: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(encode_jpeg(exif))
    Image.new("RGB", (40, 40)).save(tmp_path / "plain.jpg")
    census = take_census(tmp_path)
    assert [image.name for image in census.images] == ["plain.jpg", "x.jpg"] and census.skipped == ()
    assert decode(tmp_path / "x.jpg").tobytes() == decode(tmp_path / "plain.jpg").tobytes()


def _decodes(path: Path) -> bool:
    try:
        decode(path)
    except UnusableImage:
        return False
    return True


def test_a_link_to_an_image_is_read_and_never_written(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/x.png").symlink_to(outside / "image.png")
    census = take_census(tmp_path / "images")
    assert [image.name for image in census.images] == ["x.png"] and _decodes(tmp_path / "images/x.png")
    checksum = checksum_file(outside / "image.png")
    (tmp_path / "away").mkdir()
    moved, not_moved = move_files(
        tmp_path / "images", tmp_path / "away", [MovedFile("x.png", checksum)], lambda *_: None
    )
    assert moved == 0 and "a link" in not_moved[0]
