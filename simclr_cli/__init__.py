"""SimCLR for any folder of pictures: learn an encoder without labels, embed, evaluate, search.

The commands as functions, loaded when they are first used:

    from simclr_cli import PretrainSettings, pretrain
    result = pretrain(PretrainSettings(images=Path("images"), epochs=100))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simclr_cli.errors import SimclrError as SimclrError
    from simclr_cli.settings.finding import ClustersSettings as ClustersSettings
    from simclr_cli.settings.finding import DuplicatesSettings as DuplicatesSettings
    from simclr_cli.settings.finding import MapSettings as MapSettings
    from simclr_cli.settings.finding import OutliersSettings as OutliersSettings
    from simclr_cli.settings.finding import SimilarSettings as SimilarSettings
    from simclr_cli.settings.labelled import FinetuneSettings as FinetuneSettings
    from simclr_cli.settings.labelled import PredictSettings as PredictSettings
    from simclr_cli.settings.labelled import ProbeSettings as ProbeSettings
    from simclr_cli.settings.training import PretrainSettings as PretrainSettings
    from simclr_cli.settings.using import CacheSettings as CacheSettings
    from simclr_cli.settings.using import CheckSettings as CheckSettings
    from simclr_cli.settings.using import DemoSettings as DemoSettings
    from simclr_cli.settings.using import DoctorSettings as DoctorSettings
    from simclr_cli.settings.using import EmbedSettings as EmbedSettings
    from simclr_cli.settings.using import ReportSettings as ReportSettings
    from simclr_cli.settings.views import PreviewSettings as PreviewSettings
    from simclr_cli.verbs.cache import cache as cache
    from simclr_cli.verbs.check import check as check
    from simclr_cli.verbs.clusters import clusters as clusters
    from simclr_cli.verbs.demo import demo as demo
    from simclr_cli.verbs.doctor import doctor as doctor
    from simclr_cli.verbs.duplicates import duplicates as duplicates
    from simclr_cli.verbs.embed import embed as embed
    from simclr_cli.verbs.encoders import load_encoder as load_encoder
    from simclr_cli.verbs.finetune import finetune as finetune
    from simclr_cli.verbs.map import map as map
    from simclr_cli.verbs.outliers import outliers as outliers
    from simclr_cli.verbs.predict import predict as predict
    from simclr_cli.verbs.pretrain import pretrain as pretrain
    from simclr_cli.verbs.preview import preview as preview
    from simclr_cli.verbs.probe import probe as probe
    from simclr_cli.verbs.report import report as report
    from simclr_cli.verbs.similar import similar as similar

__version__ = "0.1.0"

VERBS = (
    "pretrain preview embed probe finetune predict similar duplicates outliers clusters map report check cache doctor "
    "demo"
).split()  # in the order of the overview
_HOMES = {
    **{verb: f"simclr_cli.verbs.{verb}" for verb in VERBS},
    **{f"{verb.title()}Settings": "simclr_cli.settings" for verb in VERBS},
    "load_encoder": "simclr_cli.verbs.encoders",
    "SimclrError": "simclr_cli.errors",
}  # of the names above

if not TYPE_CHECKING:  # a type checker would take any name for one of the package's
    __all__ = ["__version__", *_HOMES]

    def __getattr__(name):
        import importlib

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)

    def __dir__():
        return __all__
