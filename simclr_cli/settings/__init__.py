"""One frozen dataclass a verb: each setting's default and help stand here and nowhere else.

A setting of None is automatic: the verb resolves it once, shows the choice and its reason, and saves it resolved.
"""

from simclr_cli.settings.finding import (
    ClustersSettings,
    CopyKind,
    DuplicatesSettings,
    FindSettings,
    IndexSettings,
    MapSettings,
    OutliersSettings,
    SimilarSettings,
)
from simclr_cli.settings.labelled import FinetuneSettings, PredictSettings, ProbeSettings
from simclr_cli.settings.shared import RUNS, EncoderSettings, Settings
from simclr_cli.settings.training import Copies, LearningRateRule, Loss, Precision, PretrainSettings, ResolvedSettings
from simclr_cli.settings.using import (
    CacheSettings,
    CheckSettings,
    DemoSettings,
    DoctorSettings,
    EmbedSettings,
    ReportSettings,
)
from simclr_cli.settings.views import Preset, PreviewSettings
