"""Settings and results of the commands: frozen dataclasses, one module a family of commands.

A setting's default and help stand here and nowhere else. A setting of None is automatic: the command resolves it once,
shows the choice and its reason, and saves it resolved. Results hold plain values, the same as --json prints.
"""

from simclr_cli.api.analyze import (
    Cluster,
    ClusterCountScore,
    ClustersResult,
    ClustersSettings,
    CopyKind,
    DuplicateGroup,
    DuplicateImage,
    DuplicatesResult,
    DuplicatesSettings,
    FolderShare,
    MapResult,
    MapSettings,
    Member,
    Outlier,
    OutliersResult,
    OutliersSettings,
)
from simclr_cli.api.classify import (
    ClassProbability,
    FinetuneResult,
    FinetuneSettings,
    Prediction,
    PredictResult,
    PredictSettings,
)
from simclr_cli.api.fields import RUNS, EncoderSettings, Settings
from simclr_cli.api.manage import (
    CacheResult,
    CacheSettings,
    CheckResult,
    CheckSettings,
    DemoResult,
    DemoSettings,
    Diagnosis,
    DoctorResult,
    DoctorSettings,
    FileProblem,
    FolderCache,
    ReportResult,
    ReportSettings,
    State,
)
from simclr_cli.api.probe import (
    Accuracy,
    ClassScore,
    Confusion,
    FewLabels,
    LabelError,
    ProbeResult,
    ProbeSettings,
    Score,
)
from simclr_cli.api.search import (
    EmbedResult,
    EmbedSettings,
    FindSettings,
    IndexSettings,
    Neighbor,
    QueryResult,
    SimilarResult,
    SimilarSettings,
)
from simclr_cli.api.train import (
    DuplicatesRule,
    LearningRateRule,
    Loss,
    Precision,
    PretrainResult,
    PretrainSettings,
    ResolvedSettings,
)
from simclr_cli.api.views import Preset, PreviewResult, PreviewSettings
