"""One frozen dataclass a verb: each setting's default and help stand here and nowhere else.

A setting of None is automatic: the verb resolves it once, shows the choice and its reason, and saves it resolved.
"""

from simclr_cli.api.results_diagnosing import Diagnosis, DoctorResult
from simclr_cli.api.results_finding import (
    Cluster,
    ClustersResult,
    Copy,
    DuplicateGroup,
    DuplicatesResult,
    FolderShare,
    MapResult,
    Member,
    Neighbour,
    OddPicture,
    OutliersResult,
    QueryResult,
    SimilarResult,
    TriedNumber,
)
from simclr_cli.api.results_learning import (
    Accuracy,
    ClassProbability,
    ClassScore,
    Confusion,
    FewLabels,
    FinetuneResult,
    Prediction,
    PredictResult,
    PretrainResult,
    PreviewResult,
    ProbeResult,
    Score,
    Suspect,
)
from simclr_cli.api.results_using import (
    CacheKept,
    CacheResult,
    CheckResult,
    DemoResult,
    EmbedResult,
    Finding,
    ReportResult,
    State,
)
from simclr_cli.api.settings_finding import (
    ClustersSettings,
    CopyKind,
    DuplicatesSettings,
    FindSettings,
    IndexSettings,
    MapSettings,
    OutliersSettings,
    SimilarSettings,
)
from simclr_cli.api.settings_labelled import FinetuneSettings, PredictSettings, ProbeSettings
from simclr_cli.api.settings_training import (
    Copies,
    LearningRateRule,
    Loss,
    Precision,
    PretrainSettings,
    ResolvedSettings,
)
from simclr_cli.api.settings_using import (
    CacheSettings,
    CheckSettings,
    DemoSettings,
    DoctorSettings,
    EmbedSettings,
    ReportSettings,
)
from simclr_cli.api.settings_views import Preset, PreviewSettings
from simclr_cli.api.shared import RUNS, EncoderSettings, Settings
