"""Settings that cannot work are errors at once, before torch is imported."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from simclr_cli import api
from simclr_cli.api import (
    CacheSettings,
    ClustersSettings,
    DemoSettings,
    DuplicatesSettings,
    EmbedSettings,
    EncoderSettings,
    FinetuneSettings,
    MapSettings,
    OutliersSettings,
    PredictSettings,
    PretrainSettings,
    PreviewSettings,
    ProbeSettings,
    ResolvedSettings,
    SimilarSettings,
)
from simclr_cli.core.errors import InputError, SettingsError

COMMAND_NAMES = [
    kind
    for name, kind in vars(api).items()
    if name.endswith("Settings") and dataclasses.is_dataclass(kind) and kind not in (EncoderSettings, ResolvedSettings)
]
HERE = Path(__file__).parent

# The settings that a command requires.
GIVEN: dict[type[Any], dict[str, Any]] = {kind: {} for kind in COMMAND_NAMES}
GIVEN.update(
    {
        PretrainSettings: {"images": HERE},
        PreviewSettings: {"images": HERE},
        SimilarSettings: {"queries": (HERE,)},
        PredictSettings: {"queries": (HERE,)},
    }
)

# The commands that take any encoder.
WITH_ENCODER = (
    EmbedSettings, ProbeSettings, FinetuneSettings, SimilarSettings, DuplicatesSettings, OutliersSettings,
    ClustersSettings, MapSettings,
)  # fmt: skip

IMPOSSIBLE: list[tuple[type[Any], dict[str, Any]]] = [
    (PretrainSettings, {"images": None}),
    (PretrainSettings, {"image_size": 7}),
    (PretrainSettings, {"batch_size": 1}),
    (PretrainSettings, {"epochs": 0}),
    (PretrainSettings, {"epochs": -3}),
    (PretrainSettings, {"temperature": 0.0}),
    (PretrainSettings, {"temperature": float("nan")}),
    (PretrainSettings, {"temperature": float("inf")}),
    (PretrainSettings, {"learning_rate": 0.0}),
    (PretrainSettings, {"learning_rate": float("inf")}),
    (PretrainSettings, {"weight_decay": -1e-6}),
    (PretrainSettings, {"warmup_epochs": -1}),
    (PretrainSettings, {"warmup_epochs": 11, "epochs": 10}),
    (PretrainSettings, {"head_layers": 0}),
    (PretrainSettings, {"projection_dimensions": 1}),
    (PretrainSettings, {"crop_min": 0.0}),
    (PretrainSettings, {"crop_min": 1.01}),
    (PretrainSettings, {"color_strength": -0.1}),
    (PretrainSettings, {"color_strength": 2.1}),
    (PretrainSettings, {"grayscale": 1.1}),
    (PretrainSettings, {"flip": -0.1}),
    (PretrainSettings, {"rotate": 1.1}),
    (PretrainSettings, {"preset": "cats"}),
    (PretrainSettings, {"blur": 1.1}),
    (PretrainSettings, {"seed": -1}),
    (PretrainSettings, {"workers": -1}),
    (PretrainSettings, {"accept_changes": True}),
    (PretrainSettings, {"compile": "yes"}),
    (PretrainSettings, {"cache_gb": -0.1}),
    (PretrainSettings, {"cache_gb": float("nan")}),
    (PretrainSettings, {"cache_gb": float("inf")}),
    (PretrainSettings, {"cache_gb": 1e300}),
    (PreviewSettings, {"images": None}),
    (PreviewSettings, {"preset": "cats"}),
    (PreviewSettings, {"out": Path("sheet.pdf")}),
    (PreviewSettings, {"out": Path("sheet")}),
    (PreviewSettings, {"count": 0}),
    (PreviewSettings, {"views": 0}),
    (PreviewSettings, {"crop_min": 0.0}),
    (EmbedSettings, {"run": "a", "encoder": "resnet18"}),
    (EmbedSettings, {"out": Path("vectors.txt")}),
    (EmbedSettings, {"out": Path("vectors.csv"), "shards": 2}),
    (EmbedSettings, {"out": Path("vectors")}),
    (EmbedSettings, {"batch_size": 0}),
    (EmbedSettings, {"image_size": 0}),
    (EmbedSettings, {"image_size": 7}),
    (EmbedSettings, {"image_size": 4_097}),
    (EmbedSettings, {"workers": -1}),
    (ProbeSettings, {"labels": HERE, "test": HERE}),
    (ProbeSettings, {"test_fraction": 0.0}),
    (ProbeSettings, {"test_fraction": 0.91}),
    (ProbeSettings, {"knn_temperature": 0.0}),
    (ProbeSettings, {"run": "a", "encoder": "resnet18"}),
    (FinetuneSettings, {"labels": HERE, "test": HERE}),
    (FinetuneSettings, {"labels_fraction": 0.0}),
    (FinetuneSettings, {"labels_fraction": 1.1}),
    (FinetuneSettings, {"learning_rate": 0.0}),
    (FinetuneSettings, {"epochs": 0}),
    (FinetuneSettings, {"batch_size": 1}),
    (FinetuneSettings, {"run": "a", "encoder": "resnet18"}),
    (FinetuneSettings, {"images": HERE, "encoder": "random:resnet18", "scratch": True}),
    (PredictSettings, {"queries": ()}),
    (PredictSettings, {"top": 0}),
    (PredictSettings, {"run": "a", "classifier": HERE}),
    (PredictSettings, {"out": Path("predictions.txt")}),
    (SimilarSettings, {"queries": ()}),
    (SimilarSettings, {"top": 0}),
    (SimilarSettings, {"batch_size": 0}),
    (SimilarSettings, {"run": "a", "encoder": "resnet18"}),
    (DuplicatesSettings, {"run": "a", "encoder": "resnet18"}),
    (OutliersSettings, {"run": "a", "encoder": "resnet18"}),
    (ClustersSettings, {"run": "a", "encoder": "resnet18"}),
    (MapSettings, {"run": "a", "encoder": "resnet18"}),
    (OutliersSettings, {"neighbors": 0}),
    (OutliersSettings, {"out": Path("odd.txt")}),
    (OutliersSettings, {"out": Path("odd.csv"), "open": True}),
    (ClustersSettings, {"clusters": 1}),
    (ClustersSettings, {"method": "ward"}),
    (ClustersSettings, {"method": "hdbscan", "clusters": 4}),
    (ClustersSettings, {"min_cluster_size": 4}),
    (ClustersSettings, {"out": Path("clusters.npy")}),
    (SimilarSettings, {"out": Path("found.txt")}),
    (SimilarSettings, {"out": Path("found")}),
    (SimilarSettings, {"out": Path("found.csv"), "open": True}),
    (DuplicatesSettings, {"kind": "same"}),
    (DuplicatesSettings, {"min_similarity": 1.01}),
    (DuplicatesSettings, {"min_similarity": 0.9, "kind": "exact"}),
    (DuplicatesSettings, {"transformed": True, "kind": "exact"}),
    (DuplicatesSettings, {"out": Path("copies.txt")}),
    (DuplicatesSettings, {"open": True, "out": Path("copies.csv")}),
    (DuplicatesSettings, {"restore": HERE, "move_to": HERE}),
    (MapSettings, {"out": Path("map.png")}),
    (MapSettings, {"out": Path("map")}),
    (MapSettings, {"layout": "umap"}),
    (MapSettings, {"clusters": 1}),
    (MapSettings, {"seed": -1}),
    (MapSettings, {"batch_size": 0}),
    (DemoSettings, {"count": 99}),
    (DemoSettings, {"epochs": 0}),
    (DemoSettings, {"image_size": 7}),
    (DemoSettings, {"seed": -1}),
]


def labels(cases: list[tuple[type[Any], dict[str, Any]]]) -> list[str]:
    return [f"{kind.__name__}-{'-'.join(f'{key}={value}' for key, value in given.items())}" for kind, given in cases]


@pytest.mark.parametrize("kind", [*COMMAND_NAMES, EncoderSettings, ResolvedSettings])
def test_every_setting_has_its_help(kind: type[Any]) -> None:
    for declared in dataclasses.fields(kind):
        text = declared.metadata["help"]
        assert text.strip() == text and text.endswith("."), declared.name


@pytest.mark.parametrize("kind", COMMAND_NAMES)
def test_help_of_an_automatic_setting_explains_auto(kind: type[Any]) -> None:
    for declared in dataclasses.fields(kind):
        if declared.default is None and not declared.metadata["argument"]:
            assert "Auto:" in declared.metadata["help"], declared.name


def test_an_encoder_is_named_by_the_same_settings_everywhere() -> None:
    """Same names, defaults and help; only the folder of images has a help of its own where it is searched."""
    shared = {declared.name: declared for declared in dataclasses.fields(EncoderSettings)}
    commands = [kind for kind in COMMAND_NAMES if issubclass(kind, EncoderSettings) and hasattr(kind, "about")]
    assert set(commands) == set(WITH_ENCODER)
    for kind in WITH_ENCODER:
        declared = {one.name: one for one in dataclasses.fields(kind) if one.name in shared}
        assert declared.keys() == shared.keys()
        for name in shared.keys() - {"images", "seed"}:
            assert (declared[name].default, declared[name].metadata) == (shared[name].default, shared[name].metadata)
        assert not {"backbone", "weights"} & {one.name for one in dataclasses.fields(kind)}


@pytest.mark.parametrize("kind", COMMAND_NAMES)
def test_defaults_are_possible_and_frozen(kind: type[Any]) -> None:
    made = kind(**GIVEN[kind])
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.seed = 3


@pytest.mark.parametrize(("kind", "given"), IMPOSSIBLE, ids=labels(IMPOSSIBLE))
def test_impossible_setting_is_a_settings_error(kind: type[Any], given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        kind(**{**GIVEN[kind], **given})
    assert caught.value.exit_code == 2
    assert caught.value.problem.endswith(".") and caught.value.remedy


def test_impossible_settings_are_errors_without_torch() -> None:
    cases = [(kind.__name__, {**GIVEN[kind], **given}) for kind, given in IMPOSSIBLE]
    code = f"""
import sys
from math import inf, nan
from pathlib import Path, PosixPath, WindowsPath
from simclr_cli import api as settings
from simclr_cli.core.errors import SettingsError
for kind, given in {cases!r}:
    try:
        getattr(settings, kind)(**given)
    except SettingsError as error:
        assert error.exit_code == 2
    else:
        raise AssertionError((kind, given))
for heavy in ("torch", "timm", "PIL", "numpy"):
    assert heavy not in sys.modules, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"batch_size": 1}, "--batch-size is 1, and must be at least 2."),
        ({"temperature": 0.0}, "--temperature is 0.0, and must be more than 0.0."),
        ({"crop_min": 2.0}, "--crop-min is 2.0, and must be at most 1.0."),
        ({"temperature": float("nan")}, "--temperature is nan, and must be finite."),
    ],
)
def test_error_names_option_value_and_bound(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        PretrainSettings(images=HERE, **given)
    assert caught.value.problem == told


@pytest.mark.parametrize("kind", COMMAND_NAMES)
def test_bounds_are_inclusive_where_declared_so(kind: type[Any]) -> None:
    for declared in dataclasses.fields(kind):
        for bound in ("at_least", "at_most"):
            if declared.metadata[bound] is not None:
                value = declared.metadata[bound]
                more = {"warmup_epochs": {"epochs": 1}, "min_cluster_size": {"method": "hdbscan"}}.get(
                    declared.name, {}
                )
                assert getattr(kind(**GIVEN[kind], **more, **{declared.name: value}), declared.name) == value


@pytest.mark.parametrize("kind", COMMAND_NAMES)
def test_every_number_has_a_bound(kind: type[Any]) -> None:
    hints = get_type_hints(kind)
    for declared in dataclasses.fields(kind):
        if {int, float} & {hints[declared.name], *get_args(hints[declared.name])}:
            assert any(declared.metadata[bound] is not None for bound in ("at_least", "above")), declared.name


POSSIBLE: list[tuple[type[Any], dict[str, Any]]] = [
    (PretrainSettings, {"images": None, "resume": True}),
    (PretrainSettings, {"warmup_epochs": 10, "epochs": 10}),
    (PretrainSettings, {"warmup_epochs": 500}),  # the plan knows the epochs
    (PretrainSettings, {"crop_min": 1.0, "color_strength": 0.0, "grayscale": 0.0, "flip": 1.0, "blur": 0.0}),
    (PretrainSettings, {"cache_gb": 0.0, "compile": "on"}),
    (PretrainSettings, {"cache_gb": 0.25, "compile": "off"}),
    (CacheSettings, {"images": HERE / "gone", "clear": True}),  # a cache may outlive its images
    *((kind, {"images": HERE, "encoder": "resnet18", "image_size": 8}) for kind in WITH_ENCODER),
    *((kind, {"images": None, "run": "a"}) for kind in WITH_ENCODER),
    (EmbedSettings, {"encoder": "a"}),  # perhaps a run, which has images of its own
    (FinetuneSettings, {"images": HERE, "encoder": "resnet18", "scratch": True}),
    (EmbedSettings, {"out": Path("a.b.npy")}),
    (ProbeSettings, {"images": HERE, "labels": HERE}),
    (SimilarSettings, {"queries": (HERE, Path(__file__))}),
    (SimilarSettings, {"out": Path("found.HTML"), "open": True, "thumbnails": True}),
    (SimilarSettings, {"out": Path("found.json")}),
]


@pytest.mark.parametrize(("kind", "given"), POSSIBLE, ids=labels(POSSIBLE))
def test_possible_setting_is_accepted(kind: type[Any], given: dict[str, Any]) -> None:
    made = kind(**{**GIVEN[kind], **given})
    assert {name: getattr(made, name) for name in given} == given


@pytest.mark.parametrize(
    ("kind", "name"),
    [(PretrainSettings, "images"), (PreviewSettings, "images"), (EmbedSettings, "images"), (ProbeSettings, "images"),
     (ProbeSettings, "labels"), (ProbeSettings, "test"), (MapSettings, "labels"), (SimilarSettings, "images"),
     (DuplicatesSettings, "images"), (OutliersSettings, "images"), (ClustersSettings, "images"),
     (MapSettings, "images")],
)  # fmt: skip
def test_missing_path_is_an_input_error(tmp_path: Path, kind: type[Any], name: str) -> None:
    with pytest.raises(InputError, match="There is no") as caught:
        kind(**{**GIVEN[kind], name: tmp_path / "nowhere"})
    assert caught.value.exit_code == 3


def test_missing_query_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        PredictSettings(queries=(tmp_path, tmp_path / "nowhere"))


def test_broken_link_exists_and_fails_later(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert PredictSettings(queries=(tmp_path / "link",)).queries


def test_resolved_settings_have_the_fields_of_pretrain() -> None:
    names = [[declared.name for declared in dataclasses.fields(kind)] for kind in (PretrainSettings, ResolvedSettings)]
    assert names[0] == names[1]


def test_huge_whole_number_is_no_accident() -> None:
    with pytest.raises(SettingsError):
        PretrainSettings(images=HERE, seed=10**400)


def choices(kind: type[Any]) -> list[str]:
    return [
        name
        for name, hint in get_type_hints(kind).items()
        if any(get_origin(part) is Literal for part in (hint, *get_args(hint)))
    ]


@pytest.mark.parametrize("name", choices(PretrainSettings))
def test_unknown_choice_is_a_settings_error(name: str) -> None:
    with pytest.raises(SettingsError):
        PretrainSettings(images=HERE, **{name: "bogus"})


@pytest.mark.parametrize("kind", COMMAND_NAMES)
def test_no_help_has_markup_of_rich(kind: type[Any]) -> None:
    assert not [f.name for f in dataclasses.fields(kind) if "[" in f.metadata["help"]]
