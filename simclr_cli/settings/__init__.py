"""One frozen dataclass a verb: each setting's default and help stand here and nowhere else.

A setting of None is automatic: the verb resolves it once, shows the choice and its reason, and saves it resolved.
"""

from simclr_cli.settings.classifying import FinetuneSettings, PredictSettings
from simclr_cli.settings.finding import CopyKind, DuplicatesSettings, FindSettings, IndexSettings, SimilarSettings
from simclr_cli.settings.grouping import ClustersSettings, Layout, MapSettings, OutliersSettings
from simclr_cli.settings.judging import ProbeSettings
from simclr_cli.settings.shared import RUNS, EncoderSettings
from simclr_cli.settings.training import (
    Copies,
    LearningRateRule,
    Loss,
    Optimizer,
    Precision,
    PretrainSettings,
    ResolvedSettings,
    Switch,
)
from simclr_cli.settings.using import (
    CacheSettings,
    CheckSettings,
    DemoSettings,
    DoctorSettings,
    EmbedSettings,
    ReportSettings,
)
from simclr_cli.settings.views import Preset, PreviewSettings
