"""What of a damaged run can be put right: made again from its last checkpoint, or removed so that a search makes it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from simclr_cli.atomic import TEMPORARY_PREFIX
from simclr_cli.engine.encoder import EncoderSpec, create_encoder, load_backbone, pretrained_spec, scratch_spec
from simclr_cli.errors import RunError
from simclr_cli.files import bind, remove, write_bytes, write_json
from simclr_cli.results import State
from simclr_cli.settings import ResolvedSettings
from simclr_cli.store.checkpoint import Checkpoint, load_checkpoint
from simclr_cli.store.contents import source_of
from simclr_cli.store.epochs import write_epochs
from simclr_cli.store.models import read_description
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import read_run_info
from simclr_cli.verbs.export import model_card, spec_from_config, timm_config
from simclr_cli.verbs.failure import BACKBONE
from simclr_cli.verbs.outcome import outcome

HEAD = "head."


def last_checkpoint(run: RunFolder, wrong: Collection[str]) -> Checkpoint | None:
    """The checkpoint of a run's last step, if it and the settings are as they should be.

    Args:
        wrong: relative paths of what is not.
    """
    if any(name == run.config_file.name or name.startswith(f"{run.checkpoints.name}/") for name in wrong):
        return None
    try:
        found = load_checkpoint(run.checkpoints)
        return found if found and len(found.metrics) == read_run_info(run).settings.epochs else None
    except RunError:
        return None


def can_be_forgotten(run: RunFolder, name: str) -> bool:
    """Whether a file that is gone is not missed: it can be made again, or nothing needs it."""
    source = source_of(name)
    return source in ("again", "vectors", "extra") or (source == "training" and run.finished)


def mend(run: RunFolder, wrong: Mapping[str, State], *, bound: bool) -> tuple[str, ...]:
    """Put right what can be.

    Args:
        wrong: what is damaged, missing or foreign, by relative path.
        bound: digests.json is whole; else it is made again, of what is there and is not wrong.

    Returns:
        A sentence for each thing done.

    Raises:
        SimclrError: a checkpoint that is not of this run, or no right or room to write.
    """
    done = []
    made = [name for name in wrong if source_of(name) == "checkpoint"]
    found = last_checkpoint(run, wrong) if made else None
    if found:
        _make_again(run, found, made)
        done += [f"Made again from the checkpoint: {name}." for name in made]
    for name, state in wrong.items():
        if state == "damaged" and source_of(name) == "vectors":
            remove(run.path / name)
            done.append(f"Removed: {name}; the next search makes it again.")
        elif state == "missing" and can_be_forgotten(run, name):
            remove(run.path / name)
            done.append(f"Forgotten: {name}.")
    if not bound:
        bind(run.path, but=[run.path / name for name in wrong if not (found and name in made)])
        done.append("Noted in digests.json: what is there.")
    return tuple(done)


def _make_again(run: RunFolder, found: Checkpoint, names: Collection[str]) -> None:
    """Write files of a run as the end of its training did; those of encoder/ together."""
    info = read_run_info(run)
    state = {name.removeprefix(BACKBONE): part for name, part in found.model.items() if name.startswith(BACKBONE)}
    head = {name.removeprefix(HEAD): part for name, part in found.model.items() if name.startswith(HEAD)}
    encoder = create_encoder(_spec(run, info.settings, names))
    load_backbone(encoder, state, str(run.checkpoints))
    card = model_card(encoder, pictures=info.census["pictures"], epochs=len(found.metrics))
    with tempfile.TemporaryDirectory(dir=run.path, prefix=TEMPORARY_PREFIX) as folder:
        aside = RunFolder(Path(folder))
        write_epochs(aside, found.metrics)
        write_json(aside.outcome_file, dataclasses.asdict(outcome(found.metrics, info.settings.batch_size, found.step)))
        aside.write_projector(head)
        aside.write_encoder(encoder.backbone.state_dict(), timm_config(encoder), card)
        of_encoder = any(name.startswith(f"{run.encoder.name}/") for name in names)
        for file in (*aside.path.glob("*.*"), *(aside.encoder.iterdir() if of_encoder else ())):
            name = file.relative_to(aside.path).as_posix()
            if name in names or file.parent == aside.encoder:
                write_bytes(run.path / name, file.read_bytes())


def _spec(run: RunFolder, kept: ResolvedSettings, wrong: Collection[str]) -> EncoderSpec:
    """What encoder/config.json says of f; if that is damaged, what it was written from."""
    described = run.encoder / "config.json"
    if described.relative_to(run.path).as_posix() not in wrong:
        return spec_from_config(described, read_description(described, "Train again."))
    if kept.weights in ("none", "imagenet"):
        make = scratch_spec if kept.weights == "none" else pretrained_spec
        return make(kept.backbone, kept.image_size)
    raise RunError(
        f"{described} is damaged, and what it says stood beside the weights that training began from.",
        "Restore it from a copy, or train again: simclr pretrain FOLDER",
    )
