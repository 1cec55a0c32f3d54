"""SimCLR for any folder of pictures: learn an encoder without labels, embed, evaluate, search.

The commands as functions, loaded when they are first used:

    from simclr_cli import PretrainSettings, pretrain
    result = pretrain(PretrainSettings(images=Path("images"), epochs=100))
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "pretrain": "simclr_cli.verbs.pretrain",
    "preview": "simclr_cli.verbs.preview",
    "embed": "simclr_cli.verbs.embed",
    "probe": "simclr_cli.verbs.probe",
    "finetune": "simclr_cli.verbs.finetune",
    "predict": "simclr_cli.verbs.predict",
    "similar": "simclr_cli.verbs.similar",
    "outliers": "simclr_cli.verbs.outliers",
    "clusters": "simclr_cli.verbs.clusters",
    "duplicates": "simclr_cli.verbs.duplicates",
    "map": "simclr_cli.verbs.map",
    "report": "simclr_cli.verbs.report",
    "check": "simclr_cli.verbs.check",
    "cache": "simclr_cli.verbs.cache",
    "doctor": "simclr_cli.verbs.doctor",
    "demo": "simclr_cli.verbs.demo",
    "load_encoder": "simclr_cli.verbs.encoders",
    "PretrainSettings": "simclr_cli.settings",
    "PreviewSettings": "simclr_cli.settings",
    "EmbedSettings": "simclr_cli.settings",
    "ProbeSettings": "simclr_cli.settings",
    "FinetuneSettings": "simclr_cli.settings",
    "PredictSettings": "simclr_cli.settings",
    "SimilarSettings": "simclr_cli.settings",
    "OutliersSettings": "simclr_cli.settings",
    "ClustersSettings": "simclr_cli.settings",
    "DuplicatesSettings": "simclr_cli.settings",
    "MapSettings": "simclr_cli.settings",
    "CheckSettings": "simclr_cli.settings",
    "CacheSettings": "simclr_cli.settings",
    "DemoSettings": "simclr_cli.settings",
    "DoctorSettings": "simclr_cli.settings",
    "ReportSettings": "simclr_cli.settings",
    "SimclrError": "simclr_cli.errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
