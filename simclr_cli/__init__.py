"""SimCLR for any folder of images: learn an encoder without labels, embed, evaluate, search.

Every command is a function, imported when it is first used:

    from simclr_cli import PretrainSettings, pretrain
    result = pretrain(PretrainSettings(images=Path("images"), epochs=100))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simclr_cli.api import CacheSettings as CacheSettings
    from simclr_cli.api import CheckSettings as CheckSettings
    from simclr_cli.api import ClustersSettings as ClustersSettings
    from simclr_cli.api import DemoSettings as DemoSettings
    from simclr_cli.api import DoctorSettings as DoctorSettings
    from simclr_cli.api import DuplicatesSettings as DuplicatesSettings
    from simclr_cli.api import EmbedSettings as EmbedSettings
    from simclr_cli.api import FinetuneSettings as FinetuneSettings
    from simclr_cli.api import MapSettings as MapSettings
    from simclr_cli.api import OutliersSettings as OutliersSettings
    from simclr_cli.api import PredictSettings as PredictSettings
    from simclr_cli.api import PretrainSettings as PretrainSettings
    from simclr_cli.api import PreviewSettings as PreviewSettings
    from simclr_cli.api import ProbeSettings as ProbeSettings
    from simclr_cli.api import ReportSettings as ReportSettings
    from simclr_cli.api import SimilarSettings as SimilarSettings
    from simclr_cli.commands.cache import cache as cache
    from simclr_cli.commands.check import check as check
    from simclr_cli.commands.clusters import clusters as clusters
    from simclr_cli.commands.demo import demo as demo
    from simclr_cli.commands.doctor import doctor as doctor
    from simclr_cli.commands.duplicates import duplicates as duplicates
    from simclr_cli.commands.embed import embed as embed
    from simclr_cli.commands.finetune import finetune as finetune
    from simclr_cli.commands.map import map as map
    from simclr_cli.commands.outliers import outliers as outliers
    from simclr_cli.commands.predict import predict as predict
    from simclr_cli.commands.pretrain import pretrain as pretrain
    from simclr_cli.commands.preview import preview as preview
    from simclr_cli.commands.probe import probe as probe
    from simclr_cli.commands.report import report as report
    from simclr_cli.commands.similar import similar as similar
    from simclr_cli.core.errors import SimclrError as SimclrError
    from simclr_cli.encode.load import load_encoder as load_encoder

__version__ = "0.1.0"

COMMAND_NAMES = (
    "pretrain preview embed probe finetune predict similar duplicates outliers clusters map report check cache doctor "
    "demo"
).split()  # in the order of the help
_MODULES = {
    **{command: f"simclr_cli.commands.{command}" for command in COMMAND_NAMES},
    **{f"{command.title()}Settings": "simclr_cli.api" for command in COMMAND_NAMES},
    "load_encoder": "simclr_cli.encode.load",
    "SimclrError": "simclr_cli.core.errors",
}  # that the public names are imported from

if not TYPE_CHECKING:  # with __getattr__ a type checker would accept any name
    __all__ = ["__version__", *_MODULES]

    def __getattr__(name):
        import importlib

        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_MODULES[name]), name)

    def __dir__():
        return __all__
