"""A run's encoder/ in plain timm, in a process that cannot import simclr_cli, gives what `embed --raw` gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from simclr_cli.engine.encoder import create_encoder
from simclr_cli.reading import digest_file
from simclr_cli.settings import EmbedSettings
from simclr_cli.store.run import RunFolder
from simclr_cli.verbs.embed import embed
from simclr_cli.verbs.export import spec_from_config, timm_config

# Runs in another process: a job is a name, the code of a model card, and pictures; each gives a row of h.
PLAIN_TIMM = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "simclr_cli":
            raise ImportError("simclr_cli is blocked")

sys.meta_path.insert(0, Blocked())
try:
    import simclr_cli
except ImportError:
    pass
else:
    raise SystemExit("simclr_cli could be imported")

import numpy as np

for job in json.load(sys.stdin):
    names = {}
    exec(job["load"], names)  # up to the transform
    rows = []
    for picture in job["pictures"]:
        exec(job["use"].replace("picture.jpg", picture), names)
        rows.append(names["h"][0].numpy())
    np.save(job["out"], np.stack(rows))
assert "simclr_cli" not in sys.modules
"""


class Case(NamedTuple):
    settings: dict[str, Any]
    small_stem: bool
    weights: bool = False


CASES = {
    "deep stem at 40 px": Case({"backbone": "test_resnet", "image_size": 40}, False),
    "plain stem at 40 px": Case({"backbone": "resnet18", "image_size": 40}, False),
    "deep small stem at 32 px": Case({"backbone": "resnet10t", "image_size": 32}, True),
    "plain small stem at 24 px": Case({"backbone": "resnet18", "image_size": 24}, True),
    "transformer at 48 px": Case({"backbone": "test_vit", "image_size": 48}, False),
    "no resnet at 32 px": Case({"backbone": "test_efficientnet", "image_size": 32}, False),
    "from weights, normalised": Case({"backbone": "test_resnet", "image_size": 64}, False, weights=True),
    "from weights at 32 px": Case({"backbone": "test_resnet", "image_size": 32}, False, weights=True),
}


class Exported(NamedTuple):
    ours: NDArray[np.float32]
    timms: NDArray[np.float32]
    config: dict[str, Any]
    card: str
    folder: Path


def snippet(card: str) -> tuple[str, str]:
    """The Python of a model card: what is done once, and what is done for each picture."""
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    once, each = code.split("with torch.inference_mode():")
    return once, "with torch.inference_mode():" + each


@pytest.fixture(scope="module")
def exported(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Every case trained for one step, embedded by us, and by plain timm in one other process."""
    place = tmp_path_factory.mktemp("exported")
    upright = [path for path in sorted(pictures.rglob("*.*")) if path.suffix in (".png", ".jpg")][:9]
    folder = place / "pictures"
    folder.mkdir()
    for i, path in enumerate(upright):
        (folder / f"{i}{path.suffix}").symlink_to(path)
    ours: dict[str, Any] = {}
    jobs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(place / "cache"))
        patch.setattr("simclr_cli.verbs.pretrain.seconds_a_picture", lambda *_: 0.01)
        from simclr_cli.settings import PretrainSettings
        from simclr_cli.verbs.pretrain import pretrain

        for name, case in CASES.items():
            slug = name.replace(" ", "-")
            values = dict(case.settings)
            if case.weights:
                torch.manual_seed(2)
                state = timm.create_model(values["backbone"], num_classes=0).state_dict()
                save_file(state, place / f"{slug}.safetensors")
                values["weights"] = str(place / f"{slug}.safetensors")
            made = pretrain(
                PretrainSettings(images=folder, runs=place / "runs", run=slug, epochs=1, batch_size=8, **values)
            )
            out = place / f"{slug}.npy"
            embed(EmbedSettings(images=folder, runs=place / "runs", run=slug, out=out, raw=True))
            ours[name] = np.load(out)
            encoder = RunFolder(Path(made.run)).encoder
            once, each = snippet((encoder / "README.md").read_text().replace("THIS/FOLDER", str(encoder)))
            names = json.loads(out.with_suffix(".rows.json").read_text())["rows"]
            jobs.append(
                {
                    "load": once,
                    "use": each,
                    "pictures": [str(folder / row) for row in names],
                    "out": str(place / f"{slug}-timm.npy"),
                }
            )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["HF_HUB_OFFLINE"] = "1"
    subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_TIMM],
        input=json.dumps(jobs),
        text=True,
        check=True,
        env=environment,
        cwd=place,
    )
    found = {}
    for name, job in zip(CASES, jobs, strict=True):
        encoder = place / "runs" / name.replace(" ", "-") / "encoder"
        config, card = json.loads((encoder / "config.json").read_text()), (encoder / "README.md").read_text()
        found[name] = Exported(ours[name], np.load(job["out"]), config, card, encoder)
    return found


@pytest.mark.parametrize("name", CASES)
def test_model_card_in_plain_timm_gives_the_raw_embedding(exported: dict[str, Exported], name: str) -> None:
    case = exported[name]
    assert case.ours.shape == case.timms.shape == (9, case.config["num_features"])
    assert np.abs(case.ours - case.timms).max() <= 1e-6 * max(1, np.abs(case.ours).max())
    assert np.abs(case.ours - case.ours[0]).max() > 1e-4  # or else anything would agree


@pytest.mark.parametrize("name", CASES)
def test_encoder_folder_describes_itself(exported: dict[str, Exported], name: str) -> None:
    _, _, config, card, folder = exported[name]
    settings, small_stem, weights = CASES[name]
    size = settings["image_size"]
    # A small stem is not timm's own: by the plain name timm would load the weights, and compute other things.
    assert config["architecture"] == settings["backbone"] + "-with-small-stem" * small_stem
    assert config["simclr"]["small_stem"] is small_stem
    assert config["simclr"]["model_digest"] == digest_file(folder / "model.safetensors")
    assert config["pretrained_cfg"]["input_size"] == [3, size, size]
    assert config["pretrained_cfg"]["crop_pct"] == (1.0 if size <= 32 else 0.875)
    assert ("not normalised" in card) is not weights
    assert f"# {settings['backbone']}, trained by SimCLR" in card
    assert "trained without labels on 9 pictures, 1 times through" in card
    assert ("local-dir:" in card) is not small_stem
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize("name", CASES)
def test_spec_comes_back_from_the_config(exported: dict[str, Exported], name: str) -> None:
    spec = spec_from_config(exported[name].folder / "config.json", exported[name].config)
    written = timm_config(create_encoder(spec))
    assert {key: written[key] for key in written if key != "simclr"} == {
        key: value for key, value in exported[name].config.items() if key != "simclr"
    }


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.small_stem])
def test_local_dir_refuses_a_small_stem_rather_than_giving_other_vectors(
    exported: dict[str, Exported], name: str
) -> None:
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{exported[name].folder}", pretrained=True, num_classes=0)


def test_head_is_saved_for_those_who_go_on_training(trained: Any, digest: Callable[[Path], Any]) -> None:
    from safetensors.torch import load_file

    head = load_file(trained.run.projector_file)
    shapes = {tuple(tensor.shape) for name, tensor in head.items() if name.endswith("weight") and tensor.ndim == 2}
    assert shapes == {(96, 96), (128, 96)}
