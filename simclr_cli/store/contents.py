"""What a run's folder may hold: each kind of file, and what to do if one of it is damaged or gone."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

# kept: nothing can make it again. checkpoint: the last checkpoint holds it. training: it is needed to go on with.
# again: a command makes it again. vectors: the next search does, once it is removed. extra: nothing needs it.
Source = Literal["kept", "checkpoint", "training", "again", "vectors", "extra"]


@dataclass(frozen=True)
class Kind:
    """Files of a run."""

    pattern: str  # of relative paths
    source: Source
    remedy: str  # with {run}, the run's folder, {file}, its {folder} and {stem}, and {resume}, a command
    bound: bool = True  # False: others write it, and it has checksums of its own


RETRAIN = "Restore it from a copy, or train again: simclr pretrain FOLDER"
MEND = "Make it again from the checkpoint: simclr check {run} --mend"
KINDS = (
    Kind("*.simclr-lock", "extra", "Delete {file}, if no command is at work in this run.", bound=False),
    Kind("digests.json", "kept", "If all else is in order, note what is there: simclr check {run} --mend"),
    Kind("config.json", "kept", RETRAIN),
    Kind("refused.json", "kept", "Restore it from a copy. A finished run works without it."),
    Kind("pictures.json", "kept", "Restore it from a copy. A finished run works without it."),
    Kind("metrics.jsonl", "checkpoint", MEND),
    Kind("speed.jsonl", "checkpoint", MEND),
    Kind("outcome.json", "checkpoint", MEND),
    Kind("projector.safetensors", "checkpoint", MEND),
    Kind("encoder/*", "checkpoint", MEND),
    Kind("encoder-*-epochs*/*", "extra", "Delete {folder}, or restore it from a copy: it is of fewer epochs."),
    Kind("checkpoint/*", "training",
         "Restore it from a copy, or delete {file}. A finished run works without it; another begins again: {resume}"),
    Kind("report.html", "again", "Make it again: simclr report {run}"),
    Kind("probe/*", "again", "Make it again: simclr probe FOLDER --run {run}"),
    Kind("pages/*", "again", "Make it again: simclr {stem} --run {run} --open"),
    Kind("classifier*/*", "again", "Delete {folder}, and make it again: simclr finetune FOLDER --run {run}"),
    Kind("vectors/*", "vectors", "Remove it, and the next search makes it again: simclr check {run} --mend"),
    Kind("tensorboard/*", "extra", "Delete {file}: what it shows stands in metrics.jsonl too.", bound=False),
    Kind("failed-batch.json", "extra", "Delete {file}, or restore it from a copy: it tells of a training that failed."),
    Kind("last-good/*", "extra", "Delete {folder}, or restore it from a copy: it is of a training that failed."),
)  # fmt: skip
OTHER = Kind("*", "again", "Make it again with the command that wrote it, or delete {file}")


def kind_of(name: str) -> Kind | None:
    """The kind of file that a relative path of a run is; None: none of ours."""
    return next((kind for kind in KINDS if fnmatchcase(name, kind.pattern)), None)


def source_of(name: str) -> Source:
    """What such a file can be made again from."""
    return (kind_of(name) or OTHER).source
