"""Vectors files: read back with their rows; files that do not match are an error."""

import dataclasses
import errno
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr_cli.core.errors import MachineError, RunError
from simclr_cli.store.vectors import FORMAT_VERSION, Vectors, name_rows_file, read_vectors, write_vectors

MODEL = "a" * 64
ROWS = ("a/1.png", "größe.png", "new\nline.png", os.fsdecode(b"caf\xe9\xff.png"))


def make_vectors(seed: int = 0, **changes: Any) -> Vectors:
    values = np.random.default_rng(seed).normal(size=(4, 6)).astype(np.float32)
    given = Vectors(
        values=values, rows=ROWS, root=os.fsdecode(b"/caf\xe9"), model_checksum=MODEL, normalized=True,
        source_fingerprint="f" * 64, skipped=({"name": ROWS[3] + ".jpg", "reason": "truncated"},),
    )  # fmt: skip
    return dataclasses.replace(given, **changes)


def assert_invalid(out: Path, words: str | None = None, model: str = MODEL) -> None:
    with pytest.raises(RunError, match=words) as caught:
        read_vectors(out, model_checksum=model)
    assert caught.value.exit_code == 4 and caught.value.remedy


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_vectors(tmp_path / "vecs.npy", make_vectors())
    return tmp_path / "vecs.npy"


@pytest.mark.parametrize("normalized", [True, False])
def test_all_fields_are_read_back(tmp_path: Path, normalized: bool) -> None:
    given = make_vectors(normalized=normalized)
    write_vectors(tmp_path / "v.npy", given)
    again = read_vectors(tmp_path / "v.npy", model_checksum=MODEL)
    assert again.values.dtype == np.float32 and (again.values == given.values).all()
    for field in dataclasses.fields(Vectors):
        if field.name != "values":
            assert getattr(again, field.name) == getattr(given, field.name), field.name


def test_names_that_are_not_utf8_are_read_back(out: Path) -> None:
    assert name_rows_file(out).read_bytes().isascii()
    again = read_vectors(out, model_checksum=MODEL)
    assert os.fsencode(again.rows[3]) == b"caf\xe9\xff.png" and os.fsencode(again.root) == b"/caf\xe9"


def test_numpy_reads_the_npy_without_pickle(out: Path) -> None:
    values = np.load(out, allow_pickle=False)
    assert values.shape == (4, 6) and values.flags.c_contiguous and (values == make_vectors().values).all()


def test_values_are_mapped_and_not_written_to(out: Path) -> None:
    values = read_vectors(out, model_checksum=MODEL).values
    assert isinstance(values, np.memmap) and not values.flags.writeable


def test_name_of_the_rows_file(tmp_path: Path) -> None:
    assert name_rows_file(tmp_path / "vecs.npy") == tmp_path / "vecs.rows.json"
    assert name_rows_file(tmp_path / "v1.2.npy") == tmp_path / "v1.2.rows.json"
    assert name_rows_file(tmp_path / "v1.2.csv") == tmp_path / "v1.2.csv.rows.json"
    assert name_rows_file(tmp_path / "v1.2.npz") == tmp_path / "v1.2.npz"


def test_writing_again_replaces_both(out: Path) -> None:
    new = make_vectors(seed=1, model_checksum="b" * 64)
    write_vectors(out, new)
    assert (read_vectors(out, model_checksum="b" * 64).values == new.values).all()
    assert sorted(path.name for path in out.parent.iterdir()) == ["vecs.npy", "vecs.rows.json"]


def test_a_failed_first_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target.name == "v.npy":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(MachineError):
        write_vectors(tmp_path / "v.npy", make_vectors())
    assert not list(tmp_path.iterdir())


def test_vectors_of_another_model_are_an_error(out: Path) -> None:
    assert_invalid(out, "another model", model="b" * 64)


@pytest.mark.parametrize("change", range(3))
@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
def test_a_crash_at_any_rename_leaves_the_old_or_the_new_vectors(
    out: Path, monkeypatch: pytest.MonkeyPatch, change: int, after: bool
) -> None:
    """Values and names match, and the next write succeeds."""
    replace, done = Path.replace, [0]
    new = make_vectors(seed=1, rows=("1", "2", "3", "4"))

    def crash(self: Path, target: Path) -> Path:
        done[0] += 1
        if done[0] == change + 1 and not after:
            raise KeyboardInterrupt
        replace(self, target)
        if done[0] == change + 1:
            raise KeyboardInterrupt
        return target

    for _ in range(2):  # a second crash, after the first
        done[0] = 0
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "replace", crash)
            write_vectors(out, new)
        again = read_vectors(out, model_checksum=MODEL)
        expected = make_vectors() if again.rows == ROWS else new
        assert again.rows == expected.rows and (again.values == expected.values).all()
    write_vectors(out, new)
    assert "before" not in json.loads(name_rows_file(out).read_bytes())
    assert read_vectors(out, model_checksum=MODEL).rows == new.rows


def rewrite(out: Path, **changes: Any) -> None:
    content = {**json.loads(name_rows_file(out).read_text()), **changes}
    name_rows_file(out).write_text(json.dumps({key: value for key, value in content.items() if value != "missing"}))


def write_zip(out: Path) -> None:
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.npy", b"x")


HARMS: dict[str, Callable[[Path], object]] = {
    "npy of other values": lambda out: np.save(out, make_vectors(seed=1).values),
    "npy of other shape": lambda out: np.save(out, make_vectors().values.T),
    "npy of float64": lambda out: np.save(out, make_vectors().values.astype(np.float64)),
    "npy of Fortran order": lambda out: np.save(out, np.asfortranarray(make_vectors().values)),
    "npy with one bit flipped": lambda out: out.write_bytes(out.read_bytes()[:-1] + b"\x77"),
    "npy with a row more": lambda out: np.save(out, np.concatenate([make_vectors().values, make_vectors().values[:1]])),
    "npy without a row": lambda out: np.save(out, make_vectors().values[:-1]),
    "npy of a number": lambda out: np.save(out, np.float32(3)),
    "npy pickled": lambda out: np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "npy cut": lambda out: out.write_bytes(out.read_bytes()[:-1]),
    "npy cut in its header": lambda out: out.write_bytes(out.read_bytes()[:20]),
    "npy empty": lambda out: out.write_bytes(b""),
    "npy a text": lambda out: out.write_text("x" * 200),
    "npy missing": lambda out: out.unlink(),
    "rows missing": lambda out: name_rows_file(out).unlink(),
    "rows empty": lambda out: name_rows_file(out).write_bytes(b""),
    "rows cut": lambda out: name_rows_file(out).write_bytes(name_rows_file(out).read_bytes()[:50]),
    "rows not text": lambda out: name_rows_file(out).write_bytes(b"\xff\xfe"),
    "rows a list": lambda out: name_rows_file(out).write_text("[]"),
    "a name taken out": lambda out: rewrite(out, rows=ROWS[1:]),
    "a name put in": lambda out: rewrite(out, rows=[*ROWS, "z.png"]),
    "shape changed": lambda out: rewrite(out, shape=[6, 4]),
    "checksum changed": lambda out: rewrite(out, vectors_checksum="0" * 64),
    **{f"no {key}": lambda out, key=key: rewrite(out, **{key: "missing"}) for key in (
        "vectors_checksum", "shape", "model_checksum", "normalized", "root", "rows", "skipped", "source_fingerprint",
    )},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:numpy")
@pytest.mark.parametrize("harm", HARMS)
def test_files_that_do_not_match_are_an_error(out: Path, harm: str) -> None:
    HARMS[harm](out)
    assert_invalid(out)


ACCIDENTS: dict[str, Callable[[Path], object]] = {
    "npy a zip file": write_zip,
    "model a number": lambda out: rewrite(out, model_checksum=3),
    "rows a number": lambda out: rewrite(out, rows=3),
    "version a text": lambda out: rewrite(out, format_version="1"),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("accident", ACCIDENTS)
def test_content_of_a_wrong_type_is_an_error(out: Path, accident: str) -> None:
    ACCIDENTS[accident](out)
    assert_invalid(out)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="requires named pipes")
@pytest.mark.parametrize("before", [False, True])
def test_a_pipe_is_not_read(out: Path, before: bool) -> None:
    description = json.loads(name_rows_file(out).read_text())
    name_rows_file(out).write_text(json.dumps({**description, "before": description} if before else description))
    out.unlink()
    os.mkfifo(out)
    assert_invalid(out, "do not belong together")


def test_newer_format_suggests_an_upgrade(out: Path) -> None:
    rewrite(out, format_version=FORMAT_VERSION + 1)
    assert_invalid(out, "[Uu]pgrade")


def test_newer_format_with_other_keys_suggests_an_upgrade(out: Path) -> None:
    rewrite(out, format_version=FORMAT_VERSION + 1, skipped="missing")
    assert_invalid(out, "[Uu]pgrade")


def test_names_in_another_order_are_an_error(out: Path) -> None:
    rewrite(out, rows=ROWS[::-1])
    assert_invalid(out)


def test_missing_rows_file_is_named(out: Path) -> None:
    name_rows_file(out).unlink()
    assert_invalid(out, r"vecs\.rows\.json")
