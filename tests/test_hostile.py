"""A stranger's run, vectors, index, journal and folder of images: read in bounded time and memory, or skipped.

None of them runs code, reads or writes outside, or makes a command wait for what never comes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import resource
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

from simclr_cli.api import PretrainSettings, SimilarSettings
from simclr_cli.commands.predict import load_classifier
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.commands.report import read_probe
from simclr_cli.commands.similar import similar
from simclr_cli.core.errors import InputError, RunError
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.encode.load import run_encoder
from simclr_cli.images.decode import UnusableImage, decode
from simclr_cli.images.scan import take_census
from simclr_cli.images.synthetic import draw_images
from simclr_cli.search.similarity_scale import calibration_of
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.history import read_epochs
from simclr_cli.store.index import read_index
from simclr_cli.store.moves import JOURNAL, Moved, move_out, put_back
from simclr_cli.store.run import RunFolder, find_run
from simclr_cli.store.run_info import read_run_info
from simclr_cli.store.vectors import Vectors, read_vectors, rows_file, write_vectors

SECONDS = 10.0  # for what takes milliseconds: a busy machine must not fail it, a wait for ever must
MEGABYTES = 300  # that reading may take
CPU = torch.device("cpu")
MODEL = "a" * 64

Harm = Callable[[Path], object]


@pytest.fixture(scope="module")
def trained(once: Callable[..., Path]) -> Path:
    """The folder of a real run with vectors of its images; copied for every case."""

    def make(place: Path) -> None:
        draw_images(place / "images", seed=0, count=12, size=48)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SIMCLR_CACHE", str(place / "cache"))
            tiny: dict[str, Any] = {"backbone": "test_resnet", "image_size": 40, "batch_size": 8, "epochs": 1}
            pretrain(PretrainSettings(images=place / "images", runs=place / "runs", run="r", **tiny))
            query = next((place / "images").rglob("*.*"))
            similar(SimilarSettings(queries=(query,), run="r", runs=place / "runs"))

    return once("stranger", make) / "runs" / "r"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "r"))


def tree(folder: Path) -> dict[str, Any]:
    """All that can be told of what is in a folder without following a link."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        plain = path.is_file() and not path.is_symlink() and status.st_size < 1_000_000
        content = hashlib.sha256(path.read_bytes()).hexdigest() if plain else None
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, status.st_size, content)
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What no case may change; and no case may take long, or much memory."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret")
    Image.new("RGB", (50, 40), "red").save(folder / "image.png")
    before, began = tree(folder), time.monotonic()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield folder
    assert tree(folder) == before and time.monotonic() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEGABYTES * 1024


def rewritten(name: str, change: Callable[[Any], object]) -> Harm:
    """JSON that is changed in place."""

    def harm(folder: Path) -> None:
        content = json.loads((folder / name).read_bytes())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return harm


def replaced(name: str, content: bytes | Callable[[bytes], bytes]) -> Harm:
    def harm(folder: Path) -> None:
        data = content if isinstance(content, bytes) else content((folder / name).read_bytes())
        (folder / name).write_bytes(data)

    return harm


def linked(name: str, target: str) -> Harm:
    """A link in the place of a file or folder; `target` may stand in the folder `outside`."""

    def harm(folder: Path) -> None:
        path = folder / name
        (shutil.rmtree if path.is_dir() else Path.unlink)(path) if path.exists() else None
        outside = next(p / "outside" for p in folder.parents if (p / "outside").is_dir())
        path.symlink_to(target.replace("outside", str(outside)))

    return harm


def pipe(name: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return harm


def json_harms(name: str) -> dict[str, Harm]:
    """What may be wrong with any JSON."""
    deep = b"[" * 100_000
    return {
        f"{name} nested deep": replaced(name, deep),
        f"{name} nested deep in a key": replaced(name, lambda old: b'{"x": ' + deep + b", " + old.lstrip()[1:]),
        f"{name} with a key twice": replaced(name, lambda old: b'{"x": 1, "x": 2, ' + old.lstrip()[1:]),
        f"{name} with NaN": replaced(name, lambda old: b'{"x": NaN, ' + old.lstrip()[1:]),
        f"{name} with 1e999": replaced(name, lambda old: b'{"x": 1e999, ' + old.lstrip()[1:]),
        f"{name} with a number of 10,000 digits": replaced(
            name, lambda old: b'{"x": ' + b"9" * 10_000 + b", " + old.lstrip()[1:]
        ),
        f"{name} in UTF-16": replaced(name, lambda old: old.decode().encode("utf-16")),
        f"{name} with a BOM": replaced(name, lambda old: b"\xef\xbb\xbf" + old),
        f"{name} not UTF-8": replaced(name, b'{"format_version": 1, "x": "\xff\xfe"}'),
        f"{name} a list": replaced(name, b"[1]"),
        f"{name} empty": replaced(name, b""),
        f"{name} a pipe": pipe(name),
        f"{name} a device": linked(name, "/dev/zero"),
        f"{name} a folder": lambda folder: ((folder / name).unlink(), (folder / name).mkdir()),
    }


def header_of(columns: dict[str, Any], length: int | None = None) -> bytes:
    text = json.dumps(columns).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text


def long_header(name: str) -> Harm:
    """100 MB of it."""

    def harm(folder: Path) -> None:
        (folder / name).write_bytes((10**8).to_bytes(8, "little"))
        os.truncate(folder / name, 8 + 10**8)

    return harm


HUGE = header_of({"w": {"dtype": "F32", "shape": [10**12, 128], "data_offsets": [0, 512 * 10**12]}})


def bound(harm: Harm) -> Harm:
    """A stranger can compute a checksum too."""

    def both(run: Path) -> None:
        harm(run)
        checksum = checksum_file(run / "encoder/model.safetensors")
        rewritten("encoder/config.json", lambda content: content["simclr"].update(model_checksum=checksum))(run)

    return both


def encoder_says(**changes: Any) -> Harm:
    def change(content: dict[str, Any]) -> None:
        for name, value in changes.items():
            part = {"architecture": "simclr", "small_stem": "simclr", "model_args": "", "label_names": ""}.get(
                name, "pretrained_cfg"
            )
            (content[part] if part else content)[name] = value

    return rewritten("encoder/config.json", change)


def set_as(**changes: Any) -> Harm:
    return rewritten("config.json", lambda content: content["settings"].update(changes))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/simclr-was-here",)


def f(run: Path) -> Any:
    return run_encoder(RunFolder(run), CPU)


def settings(run: Path) -> Any:
    return read_run_info(RunFolder(run)).settings


def classifier(run: Path) -> Any:
    return load_classifier(run / "encoder", CPU)


def written_to(run: Path) -> Any:
    return find_run(str(run), run.parent)


RUNS: dict[str, tuple[Harm, Callable[[Path], Any]]] = {
    **{name: (harm, settings) for name, harm in json_harms("config.json").items()},
    **{name: (harm, f) for name, harm in json_harms("encoder/config.json").items()},
    "config.json of 17 MB": (replaced("config.json", lambda old: b" " * 17_000_000 + old), settings),
    "config.json newer": (rewritten("config.json", lambda content: content.update(format_version=2)), settings),
    "config.json of version true": (rewritten("config.json", lambda c: c.update(format_version=True)), settings),
    "config.json of version -1": (rewritten("config.json", lambda c: c.update(format_version=-1)), settings),
    "a batch of text": (set_as(batch_size="8"), settings),
    "a batch of a list": (set_as(batch_size=[8]), settings),
    "a batch of -8": (set_as(batch_size=-8), settings),
    "no batch": (set_as(batch_size=None), settings),
    "a head of 10^9 layers": (set_as(head_layers=10**9), settings),
    "z of 10^12 dimensions": (set_as(projection_dimensions=10**12), settings),
    "views of 10^9 px": (set_as(image_size=10**9), settings),
    "a name with NUL": (set_as(images="/tmp/a\0b"), settings),
    "a setting that is none": (set_as(run_code="import os"), settings),
    "a run named ..": (set_as(run="../../x"), settings),
    "images of 10^9 px": (encoder_says(input_size=[3, 10**9, 10**9]), f),
    "images of -40 px": (encoder_says(input_size=[3, -40, -40]), f),
    "images of no scale": (encoder_says(std=[0, 0, 0]), f),
    "a mean of 100,000 channels": (encoder_says(mean=[0] * 100_000), f),
    "a model of the hub": (encoder_says(architecture="hf-hub:someone/evil"), f),
    "a model of another folder": (encoder_says(architecture="local-dir:/tmp"), f),
    "a model of another size": (encoder_says(architecture="resnet200"), f),
    "a model that is a path": (encoder_says(architecture="../../outside/model"), f),
    "a checkpoint for torch.load": (encoder_says(model_args={"checkpoint_path": "/tmp/evil.pth"}), f),
    "weights of elsewhere": (encoder_says(model_args={"pretrained_cfg": {"file": "/tmp/evil.pth"}}), f),
    "10^12 channels": (encoder_says(model_args={"in_chans": 10**12}), f),
    "weights of 10^12 rows": (bound(replaced("encoder/model.safetensors", HUGE)), f),
    "weights with a header of 100 MB": (
        bound(long_header("encoder/model.safetensors")), f,
    ),
    "weights with a header of 2^63": (bound(replaced("encoder/model.safetensors", b"\xff" * 8 + b"{}")), f),
    "weights pickled": (bound(replaced("encoder/model.safetensors", pickle.dumps(Evil()))), f),
    "weights changed": (replaced("encoder/model.safetensors", lambda old: old[:-1] + b"\x77"), f),
    "weights a pipe": (pipe("encoder/model.safetensors"), f),
    "weights a device": (linked("encoder/model.safetensors", "/dev/zero"), f),
    "weights of another model": (
        bound(replaced("encoder/model.safetensors", lambda old: header_of(
            {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"1234")), f,
    ),
    "100,000 classes": (encoder_says(label_names=["x"] * 100_000), classifier),
    "classes that are numbers": (encoder_says(label_names=[1, 2]), classifier),
    "vectors/ that lead out": (linked("vectors", "outside"), written_to),
    "pages/ that lead out": (linked("pages", "outside"), written_to),
    "checkpoint/ that leads out": (linked("checkpoint", "outside"), written_to),
    "probe/ that leads to the root": (linked("probe", "/"), written_to),
    "metrics that are a pipe": (pipe("metrics.jsonl"), lambda run: read_epochs(RunFolder(run))),
    "metrics nested deep": (replaced("metrics.jsonl", b"[" * 99_999), lambda run: read_epochs(RunFolder(run))),
    "metrics of no epoch": (replaced("metrics.jsonl", b'{"epoch": "x"}'), lambda run: read_epochs(RunFolder(run))),
    "skipped files that are numbers": (replaced("skipped.json", b"[1, 2]"), lambda run: RunFolder(run).read_skipped()),
    "skipped.json a device": (linked("skipped.json", "/dev/zero"), lambda run: RunFolder(run).read_skipped()),
}  # fmt: skip


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("case", RUNS)
def test_a_strangers_run(run: Path, case: str) -> None:
    harm, read = RUNS[case]
    harm(run)
    before = tree(run)
    with pytest.raises((RunError, InputError)) as caught:
        read(run)
    assert caught.value.remedy and tree(run) == before and not Path("/tmp/simclr-was-here").exists()
    assert ("newer" in case) == ("Upgrade" in caught.value.remedy)


@pytest.mark.xdist_group("clock")
@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("harm", [replaced("x", HUGE), replaced("x", HUGE + b"\0" * 1000)])
def test_a_claim_of_rows_is_refused_at_once(run: Path, harm: Harm) -> None:
    """In under 0.1 s; the best of several, as others are at work on the machine."""
    checkpoint = run / "checkpoint" / "step-000000009.safetensors"
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    checkpoint.parent.mkdir()
    harm(run)
    (run / "x").rename(checkpoint)
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        with pytest.raises(RunError, match="damaged"):
            load_checkpoint(checkpoint.parent)
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.1


def test_what_can_be_made_again_is_no_error(run: Path, outside: Path) -> None:
    """A probe's findings: the page says so instead."""
    (run / "probe").mkdir(exist_ok=True)
    for harm in json_harms("probe.json").values():
        (run / "probe/probe.json").unlink(missing_ok=True)
        (run / "probe/probe.json").write_bytes(b'{"x": 1}')
        harm(run / "probe")
        assert isinstance(read_probe(run / "probe/probe.json"), str)
        if (run / "probe/probe.json").is_dir():
            (run / "probe/probe.json").rmdir()


def part_says(kind: str, **changes: Any) -> Harm:
    return rewritten("index.json", lambda content: content["parts"][kind].update(changes))


def index_says(**changes: Any) -> Harm:
    return rewritten("index.json", lambda content: content.update(changes))


def part(folder: Path, kind: str) -> str:
    return next(folder.glob(f"{kind}-*")).name


def part_is(kind: str, content: bytes | Callable[[bytes], bytes]) -> Harm:
    """A file of the index, with its size and checksum."""

    def harm(folder: Path) -> None:
        replaced(part(folder, kind), content)(folder)
        data = (folder / part(folder, kind)).read_bytes()
        part_says(kind, bytes=len(data), crc32=zlib.crc32(data))(folder)

    return harm


def first_name(name: bytes) -> Harm:
    return part_is("names", lambda old: name + b"\0" + old.split(b"\0", 1)[1])


INDEXES: dict[str, Harm] = {
    **json_harms("index.json"),
    "newer": index_says(format_version=2),
    "rows of elsewhere": part_says("embeddings", file="/etc/passwd"),
    "rows above": part_says("embeddings", file="../encoder/model.safetensors"),
    "rows of no name": part_says("embeddings", file=""),
    "rows named with NUL": part_says("embeddings", file="a\0b"),
    "rows named by a number": part_says("embeddings", file=7),
    "rows a pipe": lambda folder: pipe(part(folder, "embeddings"))(folder),
    "rows a device": lambda folder: linked(part(folder, "embeddings"), "/dev/zero")(folder),
    "rows a link to a secret": lambda folder: linked(part(folder, "embeddings"), "outside/secret.txt")(folder),
    "rows of other bytes": lambda folder: replaced(
        part(folder, "embeddings"), lambda old: old[:-1] + bytes([old[-1] ^ 1])
    )(folder),
    "rows pickled": part_is("embeddings", pickle.dumps(Evil())),
    "names pickled": part_is("names", pickle.dumps(Evil())),
    "a row more": part_is("embeddings", lambda old: old + old[:4]),
    "names that do not end": part_is("names", lambda old: old[:-1]),
    "names of one byte each": part_is("names", lambda old: b"\0" * len(old)),
    "a name that is absolute": first_name(b"/etc/passwd"),
    "a name that leads up": first_name(b"../../outside/image.png"),
    "a name that leads up at its end": first_name(b"a/.."),
    "a name with NUL": first_name(b"a\0.png"),
    "gone rows of 10^30": index_says(gone=[10**30]),
    "gone rows of -1": index_says(gone=[-1]),
    "gone rows in disorder": index_says(gone=[1, 0]),
    "gone rows that are text": index_says(gone=["x"]),
    "10^12 rows": part_says("embeddings", bytes=512 * 10**12),
    "10^12 images": part_says("images", bytes=56 * 10**12),
    "10^12 rows searched": index_says(searched=10**12),
    "-1 bytes": part_says("names", bytes=-1),
    "a checksum of text": part_says("names", crc32="x"),
    "a width of 10^12": index_says(width=10**12),
    "a width of text": index_says(width="x"),
    "a width of 0": index_says(width=0),
    "a root that is relative": index_says(root="../.."),
    "a root with NUL": index_says(root="/a\0"),
    "a root that is a number": index_says(root=7),
    "parts that are no object": index_says(parts=7),
    "a part that is null": index_says(parts={"embeddings": None}),
    "skipped files that are numbers": index_says(skipped=[[1]]),
    "a model that is a list": index_says(model_checksum=["a"]),
}


SIMILARITIES: tuple[Any, ...] = (
    None, 7, [], {}, "x", {"images": 3}, {"images": 3, "random": [0], "views": [0], "view_pairs": 1},
    {"images": 48, "random": [[0]], "views": ["x"], "random_pairs": 1, "view_pairs": 1},
    {"images": 48, "random": [*range(550), 0], "views": [0] * 551, "random_pairs": 1, "view_pairs": 1},
    {"images": 48, "random": [0] * 551, "views": [10**400] * 551, "random_pairs": 1, "view_pairs": 1},
)  # fmt: skip


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_what_is_said_of_similarities_and_is_not_true_counts_as_nothing(run: Path, similarity: Any) -> None:
    index_says(similarity=similarity)(run / "vectors")
    index = read_index(run / "vectors", model_checksum=checksum_file(run / "encoder/model.safetensors"))
    assert index is not None and calibration_of(index) is None


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("case", INDEXES)
def test_a_strangers_index(run: Path, case: str) -> None:
    INDEXES[case](run / "vectors")
    before = tree(run)
    with pytest.raises(RunError) as caught:
        read_index(run / "vectors", model_checksum=checksum_file(run / "encoder/model.safetensors"))
    assert caught.value.remedy and tree(run) == before
    assert (case == "newer") == ("Upgrade" in caught.value.remedy)


def names_are(*names: Any) -> Harm:
    """Other names, with their checksum."""

    def change(content: dict[str, Any]) -> None:
        checksum = hashlib.sha256(json.dumps(names).encode("ascii")).hexdigest()
        content.update(rows=list(names), rows_checksum=checksum)

    return rewritten("v.rows.json", change)


def npy(described: str, more: bytes = b"") -> Harm:
    """A .npy with this header, and its checksum."""

    def harm(folder: Path) -> None:
        text = described.encode() + b"\n"
        (folder / "v.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + more)
        checksum = checksum_file(folder / "v.npy")
        rewritten("v.rows.json", lambda content: content.update(vectors_checksum=checksum))(folder)

    return harm


def form(shape: str, kind: str = "'<f4'") -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}"


VECTORS: dict[str, Harm] = {
    **json_harms("v.rows.json"),
    "newer": rewritten("v.rows.json", lambda content: content.update(format_version=2)),
    "a name that is absolute": names_are("/etc/passwd", "b.png"),
    "a name that leads up": names_are("a.png", "../b.png"),
    "a name with NUL": names_are("a.png", "b\0.png"),
    "a name that is a number": names_are("a.png", 7),
    "a name that is nothing": names_are("a.png", ""),
    "10^12 rows": npy(form("(1000000000000, 3)")),
    "10^12 rows, said twice": lambda folder: (
        npy(form("(1000000000000, 3)"))(folder),
        rewritten("v.rows.json", lambda content: content.update(shape=[10**12, 3]))(folder),
    ),
    "more rows than numbers can count": npy(form("(9223372036854775807, 9223372036854775807)")),
    "-2 rows": npy(form("(-2, 3)"), b"\0" * 24),
    "-2 rows of -3": npy(form("(-2, -3)"), b"\0" * 24),
    "rows of objects": npy(form("(2, 3)", "'|O'"), pickle.dumps(Evil())),
    "rows of records": npy(form("(2,)", "[('a', '<f4', (3,))]"), b"\0" * 24),
    "a header that is code": npy("__import__('os').mkdir('/tmp/simclr-was-here')"),
    "a header nested deep": npy("(" * 9_000),
    "a header of 60,000 bytes": npy(form("(2, 3)") + " " * 60_000, b"\0" * 24),
    "a file pickled": replaced("v.npy", pickle.dumps(Evil())),
    "a pipe": pipe("v.npy"),
    "a device": linked("v.npy", "/dev/zero"),
    "a link to a secret": linked("v.npy", "outside/secret.txt"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", VECTORS)
def test_strangers_vectors(tmp_path: Path, outside: Path, case: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    values = np.zeros((2, 3), np.float32)
    write_vectors(folder / "v.npy", Vectors(values, ("a.png", "b.png"), "/p", MODEL, True, "f" * 64))
    assert rows_file(folder / "v.npy").name == "v.rows.json"
    VECTORS[case](folder)
    before = tree(folder)
    with pytest.raises(RunError) as caught:
        read_vectors(folder / "v.npy", model_checksum=MODEL)
    assert caught.value.remedy and tree(folder) == before and not Path("/tmp/simclr-was-here").exists()
    assert (case == "newer") == ("Upgrade" in caught.value.remedy)


def relisted(change: Callable[[list[Any]], object]) -> Harm:
    """Lines of JSON that are changed in place."""

    def harm(folder: Path) -> None:
        lines = [json.loads(line) for line in (folder / JOURNAL).read_bytes().splitlines()]
        change(lines)
        (folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))

    return harm


def journal(**changes: Any) -> Harm:
    return relisted(lambda lines: lines[0].update(changes))


def journal_file(**changes: Any) -> Harm:
    return relisted(lambda lines: lines[1].update(changes))


def way(place: str) -> Harm:
    """The folder of a file is a link that leads out."""

    def harm(folder: Path) -> None:
        where = folder if place == "away" else folder.parent / "home"
        outside = folder.parent / "outside"
        (shutil.rmtree(where / "deep") if place == "away" else None)
        with contextlib.suppress(FileNotFoundError):
            (where / "deep").rmdir()
        (where / "deep").symlink_to(outside)

    return harm


def rooted(folder: Path) -> None:
    """A stranger who knows the path, but not the numbers of the file system."""
    journal(root=str(folder.parent / "outside"), inodes=[folder.stat().st_ino, 2])(folder)


JOURNALS: dict[str, Harm] = {
    **json_harms(JOURNAL),
    "newer": journal(format_version=2),
    "a root elsewhere": lambda folder: journal(root=str(folder.parent / "outside"))(folder),
    "a root elsewhere, said well": rooted,
    "a root that is /": journal(root="/"),
    "a root that is relative": journal(root="outside"),
    "a root with NUL": journal(root="/a\0"),
    "a root that is a file": lambda folder: journal(root=str(folder.parent / "outside/secret.txt"))(folder),
    "a root that is a number": journal(root=7),
    "not written there": journal(inodes=[1, 2]),
    "not said where written": journal(inodes=None),
    "a name that is absolute": journal_file(name="/etc/cron.d/x"),
    "a name that leads up": journal_file(name="../outside/x.png"),
    "a name with NUL": journal_file(name="a\0.png"),
    "a name that is nothing": journal_file(name=""),
    "a checksum that is a path": journal_file(checksum="../../outside/x"),
    "a checksum that is a number": journal_file(checksum=7),
    "a line that is text": relisted(lambda lines: lines.append("abc")),
    "a line that is a number": relisted(lambda lines: lines.append(1)),
}

LEFT: dict[str, Harm] = {
    "a file that is a pipe": pipe("deep/a.png"),
    "a file that is a device": linked("deep/a.png", "/dev/zero"),
    "a file that is a link": linked("deep/a.png", "outside/secret.txt"),
    "a way from there that leads out": way("away"),
    "a way home that leads out": way("home"),
    "a name that is the folder": relisted(lambda lines: lines.append({**lines[1], "name": "."})),
}


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    home, folder = tmp_path / "home", tmp_path / "away"
    (home / "deep").mkdir(parents=True)
    folder.mkdir()
    (home / "deep/a.png").write_bytes(b"content")
    move_out(home, folder, [Moved("deep/a.png", hashlib.sha256(b"content").hexdigest())], lambda *_: None)
    return folder


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("case", JOURNALS)
def test_a_strangers_journal(moved: Path, case: str) -> None:
    JOURNALS[case](moved)
    before = tree(moved.parent)
    with pytest.raises((InputError, RunError)) as caught:
        put_back(moved, lambda *_: None)
    assert caught.value.remedy and tree(moved.parent) == before


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("case", LEFT)
def test_what_a_stranger_put_in_the_place_of_files_is_left(moved: Path, case: str) -> None:
    LEFT[case](moved)
    home, _, left = put_back(moved, lambda *_: None)
    assert left and "secret" not in {path.name for path in home.rglob("*")}
    assert not (moved.parent / "outside/a.png").exists()


def test_a_copied_journal_goes_where_the_person_says(moved: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(moved, tmp_path / "copied"))
    with pytest.raises(InputError, match="was not written there") as caught:
        put_back(copied, lambda *_: None)
    assert "--restore-to" in caught.value.remedy
    (tmp_path / "chosen").mkdir()
    assert put_back(copied, lambda *_: None, tmp_path / "chosen")[1:] == (1, ())
    assert (tmp_path / "chosen/deep/a.png").read_bytes() == b"content"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def jpeg_with(exif: bytes) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40)).save(stream, "JPEG")
    data = b"Exif\0\0" + exif
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(data) + 2) + data + stream.getvalue()[2:]


def put(name: str, data: bytes) -> Harm:
    return lambda folder: (folder / name).write_bytes(data)


def socket_file(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
        listener.bind("x.png")


def nested(folder: Path) -> None:
    with contextlib.chdir(folder):
        for _ in range(100):
            Path("d" * 50).mkdir()
            os.chdir("d" * 50)


BOMB = zlib.compress(b"\0" * 50_000_000)
IMAGES: dict[str, Harm] = {
    "a pipe": pipe("x.png"),
    "a link to a device": linked("x.png", "/dev/zero"),
    "a link to noise": linked("x.png", "/dev/urandom"),
    "a link to the terminal": linked("x.png", "/dev/tty"),
    "a socket": socket_file,
    "a link to itself": linked("x.png", "x.png"),
    "a link to a folder outside": linked("x", "outside"),
    "a link to /": linked("x.png", "/"),
    "a link to a secret": linked("x.png", "outside/secret.txt"),
    "a link to nowhere": linked("x.png", "/nowhere/at/all"),
    "a folder named as an image": lambda folder: (folder / "x.png").mkdir(),
    "a way of 100 folders": nested,
    "nothing": put("x.png", b""),
    "10^9 x 10^9 px": put("x.png", png(10**9, 10**9)),
    "0 px": put("x.png", png(0, 0)),
    "a text that unfolds": put("x.png", png(9_000, 9_000, chunk(b"zTXt", b"a\0\0" + BOMB))),
    "a profile that unfolds": put("x.png", png(9_000, 9_000, chunk(b"iCCP", b"a\0\0" + BOMB))),
    "a GIF of 65,535 px": put("x.gif", b"GIF89a" + b"\xff" * 4 + b"\0" * 20),
    "a BMP of 2^31 px": put(
        "x.bmp", b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, *[0] * 6)
    ),
    "a TIFF that leads to itself": put("x.tif", b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0"),
    "a TIFF of 65,535 entries": put("x.tif", b"II*\0\x08\0\0\0" + b"\xff\xff" + b"\x01" * 900),
    "a PPM of 10^99 px": put("x.ppm", b"P6 " + b"9" * 99 + b" " + b"9" * 99 + b" 255\n"),
    "PostScript": put("x.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/simclr-was-here) (w) file\n"),
    "PDF": put("x.png", b"%PDF-1.7\n/OpenAction"),
    "SVG": put("x.png", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
    "pickle": put("x.png", pickle.dumps(Evil())),
    "a name of escapes": put("\x1b[31m\r\n.png", b"x"),
}  # fmt: skip


@pytest.mark.parametrize("case", IMAGES)
def test_a_strangers_folder_of_images(tmp_path: Path, outside: Path, case: str) -> None:
    """The other images are found; what is no image is passed over, or skipped by name."""
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
def test_metadata_that_is_none_harms_no_image(tmp_path: Path, exif: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg_with(exif))
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


def test_a_link_to_a_image_is_read_and_never_written(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/x.png").symlink_to(outside / "image.png")
    census = take_census(tmp_path / "images")
    assert [image.name for image in census.images] == ["x.png"] and _decodes(tmp_path / "images/x.png")
    checksum = checksum_file(outside / "image.png")
    (tmp_path / "away").mkdir()
    moved, left = move_out(tmp_path / "images", tmp_path / "away", [Moved("x.png", checksum)], lambda *_: None)
    assert moved == 0 and "a link" in left[0]
