"""Settings of what says how good an encoder is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from simclr_cli.errors import SettingsError
from simclr_cli.fields import setting
from simclr_cli.settings.shared import EMBEDDED_AT_ONCE, LabelledSettings

Protocol = Literal["quick", "paper"]


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(LabelledSettings):
    """Settings of `simclr probe`."""

    protocol: Protocol = setting(
        "quick",
        "The linear probe: quick, logistic regression on vectors, with l2 chosen on a validation split; or paper, 90 "
        "epochs of Nesterov SGD over crops and flips of the pictures.",
    )
    baseline: tuple[str, ...] = setting(
        (), "Compare with this too: another run, or a .safetensors file for the same backbone. Several may be given."
    )
    labels_fraction: str = setting("", "Probe with a part of the labels too: shares of them, such as 0.01,0.1.")
    labels_per_class: str = setting("", "The same by numbers of labels a class, such as 1,5,10.")
    draws: int = setting(3, "How many times such a part is drawn; the mean is shown.", at_least=1)
    out: Path | None = setting(
        None, "Folder for probe.json and confusion.png. Auto: probe/ in the run's folder.", short="o"
    )
    knn_temperature: float = setting(0.07, "Neighbours vote with the weight exp(similarity / temperature).", above=0.0)
    batch_size: int = setting(128, EMBEDDED_AT_ONCE, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not 0 < share <= 1 for share in self.shares):
            raise SettingsError(f"--labels-fraction is {self.labels_fraction!r}.", "Give shares between 0 and 1.")
        if any(count < 1 for count in self.counts):
            raise SettingsError(f"--labels-per-class is {self.labels_per_class!r}.", "Give numbers of at least 1.")

    @property
    def shares(self) -> tuple[float, ...]:
        """--labels-fraction, as numbers."""
        return numbers("--labels-fraction", self.labels_fraction, float)

    @property
    def counts(self) -> tuple[int, ...]:
        """--labels-per-class, as numbers."""
        return numbers("--labels-per-class", self.labels_per_class, int)


N = TypeVar("N", int, float)


def numbers(option: str, text: str, kind: type[N]) -> tuple[N, ...]:
    """The numbers in a list with commas.

    Raises:
        SettingsError: it is no such list.
    """
    try:
        return tuple(kind(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise SettingsError(f"{option} is {text!r}.", "Give numbers with commas between them.") from None
