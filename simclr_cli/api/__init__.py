"""Settings and results of the commands: frozen dataclasses, in one module per family of commands.

The only place of a setting's default and help. A setting of None is automatic: the command resolves it once, prints the
choice with its reason, and saves it. Results hold plain values, the same as --json prints.
"""

from simclr_cli.api.analyze import (
    Cluster,
    ClusterCountScore,
    ClustersResult,
    ClustersSettings,
    DuplicateGroup,
    DuplicateImage,
    DuplicateKind,
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
from simclr_cli.api.fields import RUNS_FOLDER, EncoderSettings, Settings
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
    IndexSettings,
    Neighbor,
    QueryResult,
    SearchSettings,
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
