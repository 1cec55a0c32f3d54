"""Files of trained weights on the Hugging Face hub: from its cache on this machine, or downloaded into it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import huggingface_hub
import timm
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from simclr_cli.core.errors import Interrupted, MachineError, SettingsError, first_line
from simclr_cli.core.events import Note, Progress, Report, silent

T = TypeVar("T")

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
PERMISSIVE_LICENSES = frozenset(
    {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc-by-4.0", "cc0-1.0", "unlicense"}
)
CONNECT_SECONDS = 2.5  # for the hub to answer, the look-up of its address included
NO_NETWORK = "no network connection"


@dataclass(frozen=True)
class Downloads:
    """Terms on which weights may be downloaded."""

    offline: bool = False  # not at all, as with HF_HUB_OFFLINE=1
    accept_license: bool = False  # also under a license that is not permissive
    report: Report = silent


ANY_DOWNLOADS = Downloads()


def locate_timm_weights(name: str) -> tuple[str, str] | None:
    """Return repository and file of a timm model's weights on the hub; None if it has no .safetensors there."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    return config.hf_hub_id, (config.hf_hub_filename or WEIGHTS_FILE).replace("pytorch_", "").replace(
        ".bin", ".safetensors"
    )


def find_timm_weights(name: str) -> str | None:
    """Return the path of a timm model's trained weights if they are on this machine, or None."""
    location = locate_timm_weights(name)
    return find_cached_file(*location) if location else None


def get_timm_license(name: str) -> str:
    """Return the license of a timm model's weights, "unknown" if timm names none."""
    config = timm.get_pretrained_cfg(name)
    return (config and config.license) or "unknown"


def find_cached_file(repository: str, file: str) -> str | None:
    """Return the path of a file of the hub in its cache on this machine, or None."""
    name, _, revision = repository.partition("@")
    path = huggingface_hub.try_to_load_from_cache(name, file, revision=revision or None)
    return path if isinstance(path, str) else None


def fetch_file(repository: str, file: str, title: str, license: str | None, downloads: Downloads) -> str:
    """Return the path of a file of the hub: from its cache, or downloaded into it after a line about it.

    Args:
        repository: its ID, with a revision after an @ if not the newest.
        title: name of the encoder, for messages.
        license: of the weights; None: ask the hub.

    Raises:
        MachineError: the file is not on this machine, and is not to be or cannot be downloaded.
        SettingsError: its license is not permissive, and was not accepted.
    """
    if path := find_cached_file(repository, file):
        return path
    if downloads.offline or huggingface_hub.is_offline_mode():
        raise _unavailable_error(repository, file, title, "the use of the network is switched off")
    name, _, revision = repository.partition("@")
    url = huggingface_hub.hf_hub_url(name, file, revision=revision or None)
    try:
        size = _call_within(CONNECT_SECONDS, lambda: huggingface_hub.get_hf_file_metadata(url, timeout=3).size)
        license = license or _call_within(CONNECT_SECONDS, lambda: _ask_license(name))
    except Exception as error:  # of the hub's client and its libraries, many types
        raise _unavailable_error(repository, file, title, _summarize(error)) from error
    if license not in PERMISSIVE_LICENSES and not downloads.accept_license:
        raise SettingsError(
            f"The license of {title} is {license}, which is not a permissive one.",
            f"Read it at {huggingface_hub.constants.ENDPOINT}/{name}, and add --accept-license.",
        )
    mb = f"{(size or 0) / 1e6:,.1f} MB"
    source = f"{huggingface_hub.constants.ENDPOINT}/{name}"
    downloads.report(Note(f"Downloading {title}: {mb}, license {license}, from {source}."))
    try:
        progress_class = _make_progress_class(downloads.report)
        return huggingface_hub.hf_hub_download(name, file, revision=revision or None, tqdm_class=progress_class)
    except Interrupted:  # raised by the report of progress
        raise
    except Exception as error:
        raise _unavailable_error(repository, file, title, _summarize(error)) from error


def _unavailable_error(repository: str, file: str, title: str, reason: str) -> MachineError:
    where = f"{huggingface_hub.constants.ENDPOINT}/{repository.partition('@')[0]}"
    return MachineError(
        f"The weights of {title} are not on this machine, and could not be downloaded ({reason}).",
        f"Download {file} from {where} elsewhere, and use --encoder NAME={file} or copy the hub's cache; "
        f"or use --encoder random:NAME.",
    )


def _call_within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of a call on another thread; a look-up of an address cannot be given a time limit.

    Raises:
        TimeoutError: it takes longer. The thread is left to itself.
    """
    results: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(NO_NETWORK) from None
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _ask_license(repository: str) -> str:
    """Return the license in the card of a repository, or "unknown"."""
    card = huggingface_hub.model_info(repository, timeout=3).card_data
    return str((card and (card.get("license_name") or card.get("license"))) or "unknown")


def _summarize(error: BaseException) -> str:
    """Return why a download failed, in a few words."""
    if isinstance(error, huggingface_hub.errors.GatedRepoError):
        return "its owner must allow it first, see its page"
    if isinstance(error, huggingface_hub.errors.HfHubHTTPError):
        return first_line(error)
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return first_line(error)  # such as a full disk
    return NO_NETWORK


def _make_progress_class(report: Report) -> type[tqdm]:
    """Return a class of progress bars for the hub's client that reports its progress instead of drawing it."""

    class ReportedProgress(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]
            self.total = options.get("total") or 0
            self.done = options.get("initial") or 0

        def update(self, n: float | None = 1) -> None:
            self.done += n or 0
            report(Progress("downloading", int(self.done), int(max(self.total, self.done))))

    return ReportedProgress
