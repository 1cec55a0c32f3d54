"""Files of the hub: cached, downloaded from a server of the test, forbidden, or out of reach."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import timm
from runs import Hub

from simclr_cli.core.errors import Interrupted, MachineError, SettingsError
from simclr_cli.core.events import Note, Progress
from simclr_cli.encode import weights
from simclr_cli.encode.weights import (
    CONNECT_SECONDS,
    Downloads,
    fetch_file,
    find_timm_weights,
    get_timm_license,
    locate_timm_weights,
)

FILE = "model.safetensors"


@pytest.fixture
def online(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that answers: its metadata, a card, and a file of 2,000,000 bytes. Returns what was asked for."""
    asked: list[str] = []

    def download(name: str, file: str, *, revision: str | None, tqdm_class: Any) -> str:
        asked.append(f"download {name} {file} {revision}")
        bar = tqdm_class(total=2_000_000, initial=0, desc=file)
        bar.update(1_500_000)
        bar.update(500_000)
        bar.close()
        return str(hub.add(name, model_safetensors=b"x") / file)

    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: SimpleNamespace(size=2_000_000))
    monkeypatch.setattr(
        huggingface_hub, "model_info",
        lambda name, timeout: SimpleNamespace(card_data={"license": "other", "license_name": "odd-license"}),
    )  # fmt: skip
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_a_download_is_announced_and_reports_its_progress(online: list[str]) -> None:
    said: list[Any] = []
    path = fetch_file("timm/a", FILE, "a", "apache-2.0", Downloads(report=said.append))
    assert Path(path).read_bytes() == b"x"
    assert said[0] == Note("Downloading a: 2.0 MB, license apache-2.0, from https://huggingface.co/timm/a.")
    assert said[1:] == [Progress("downloading", 1_500_000, 2_000_000), Progress("downloading", 2_000_000, 2_000_000)]
    assert fetch_file("timm/a", FILE, "a", "apache-2.0", Downloads(offline=True)) == path  # now it is in the cache
    assert online == ["download timm/a model.safetensors None"]


def test_a_license_that_is_not_permissive_is_named_and_asked_for(online: list[str]) -> None:
    with pytest.raises(SettingsError, match="The license of a is dinov3-license, which is not") as caught:
        fetch_file("timm/a", FILE, "a", "dinov3-license", Downloads())
    assert caught.value.remedy == "Read it at https://huggingface.co/timm/a, and add --accept-license."
    with pytest.raises(SettingsError, match="The license of a is odd-license"):  # the hub is asked
        fetch_file("someone/a@v2", FILE, "a", None, Downloads())
    assert not online
    fetch_file("someone/a@v2", FILE, "a", None, Downloads(accept_license=True))
    assert online == ["download someone/a model.safetensors v2"]


@pytest.mark.parametrize("is_set", [True, False], ids=["HF_HUB_OFFLINE", "--offline"])
def test_offline_nothing_is_asked_for(online: list[str], monkeypatch: pytest.MonkeyPatch, is_set: bool) -> None:
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: is_set)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", None)
    with pytest.raises(MachineError, match="the use of the network is switched off") as caught:
        fetch_file("timm/a", FILE, "a", "mit", Downloads(offline=not is_set))
    assert "The weights of a are not on this machine" in caught.value.problem
    for way in ("Download model.safetensors from https://huggingface.co/timm/a", "NAME=model.safetensors", "random:"):
        assert way in caught.value.remedy


def test_a_hub_that_does_not_answer_is_given_up_soon(online: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up of its address may take minutes, which no option of the client limits."""
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: time.sleep(60))
    start = time.monotonic()
    with pytest.raises(MachineError, match=r"could not be downloaded \(no network connection\)"):
        fetch_file("timm/a", FILE, "a", "mit", Downloads())
    assert CONNECT_SECONDS <= time.monotonic() - start < 30


def test_an_error_of_the_hub_is_told(online: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk is full\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(MachineError, match=r"not on this machine, and could not be downloaded \(disk is full\)"):
        fetch_file("timm/a", FILE, "a", "mit", Downloads())


def test_a_stop_during_a_download_is_a_stop(online: list[str]) -> None:
    def report(event: Any) -> None:
        if isinstance(event, Progress):
            raise Interrupted("Stopped.", "")

    with pytest.raises(Interrupted):
        fetch_file("timm/a", FILE, "a", "mit", Downloads(report=report))


def test_weights_of_timm_are_located_as_timm_locates_them() -> None:
    assert locate_timm_weights("tf_efficientnet_lite0.in1k") == ("timm/tf_efficientnet_lite0.in1k", FILE)
    assert get_timm_license("vit_small_patch16_dinov3.lvd1689m") == "dinov3-license"
    assert get_timm_license("legacy_xception.tf_in1k") and locate_timm_weights("legacy_xception.tf_in1k") is None
    located = [locate_timm_weights(name) for name in timm.list_pretrained()]
    assert {file for place in located if place for _, file in [place]} <= {
        FILE, "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
    }  # fmt: skip


def test_the_default_encoders_exist_and_are_permissive(hub: Hub) -> None:
    from simclr_cli.encode.load import DEFAULT_FOR_CPU, DEFAULT_FOR_GPU

    for name, size, _ in (DEFAULT_FOR_CPU, DEFAULT_FOR_GPU):
        assert locate_timm_weights(name) and get_timm_license(name) in weights.PERMISSIVE_LICENSES
        assert size % 14 == 0 and find_timm_weights(name) is None
