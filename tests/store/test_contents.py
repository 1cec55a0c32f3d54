"""Every file that commands put into a run's folder is of a kind, and each kind says what to do."""

from __future__ import annotations

import string

import pytest

from simclr_cli.store.contents import KINDS, OTHER, Kind, kind_of, source_of

PLACES = {"run", "file", "folder", "stem", "resume"}


@pytest.mark.parametrize("kind", [*KINDS, OTHER], ids=lambda kind: kind.pattern)
def test_remedies_name_only_what_is_known(kind: Kind) -> None:
    assert {name for _, name, _, _ in string.Formatter().parse(kind.remedy) if name} <= PLACES
    assert kind.remedy[0].isupper()


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("config.json", "kept"), ("encoder/config.json", "checkpoint"), ("classifier-10pct/config.json", "again"),
        ("vectors/cells.safetensors", "vectors"), ("checkpoint/step-000000001.safetensors", "training"),
        ("tensorboard/events.out.tfevents.1.host.2.0", "extra"), ("last-good/model.safetensors", "extra"),
    ],
)  # fmt: skip
def test_kinds_are_told_by_their_paths(name: str, source: str) -> None:
    assert kind_of(name) is not None and source_of(name) == source


@pytest.mark.parametrize("name", ["notes.txt", "vecs.npy", "config.json.bak", "old/config.json", "Config.json"])
def test_other_files_are_of_no_kind(name: str) -> None:
    assert kind_of(name) is None and source_of(name) == "again"
