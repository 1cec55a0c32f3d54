"""What verbs return: frozen dataclasses of plain values, the same as --json prints."""

from simclr_cli.results.diagnosing import Diagnosis, DoctorResult
from simclr_cli.results.finding import (
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
from simclr_cli.results.learning import (
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
from simclr_cli.results.using import (
    CacheKept,
    CacheResult,
    CheckResult,
    DemoResult,
    EmbedResult,
    Finding,
    ReportResult,
    State,
)
