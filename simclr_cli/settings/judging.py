"""Settings of what says how good an encoder is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simclr_cli.errors import SettingsError
from simclr_cli.fields import setting
from simclr_cli.settings.shared import EncoderSettings


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(EncoderSettings):
    """Settings of `simclr probe`."""

    images: Path | None = setting(
        None, "The folder of labelled pictures. Auto: the run's own.", argument=True, exists=True
    )
    labels: Path | None = setting(None, "CSV with the columns path,label. Auto: the class folders.", exists=True)
    test: Path | None = setting(
        None, "Held-out pictures in the same classes. Auto: a stratified split by --seed.", exists=True
    )
    test_fraction: float = setting(
        0.2, "Share of each class that is held out if there is no --test.", above=0.0, at_most=0.9
    )
    knn_temperature: float = setting(0.07, "Neighbours vote with the weight exp(similarity / temperature).", above=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None and self.test is not None:
            raise SettingsError(
                "--labels names the classes of one folder only.", "Leave out --test, or use class folders."
            )
        if self.backbone is not None and self.images is None:
            raise SettingsError("A plain --backbone has no pictures of its own.", "Name the folder to probe on.")
