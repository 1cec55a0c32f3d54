"""What verbs return: frozen dataclasses of plain values, the same as --json prints."""

from simclr_cli.results.classifying import ClassProbability, FinetuneResult, Prediction, PredictResult
from simclr_cli.results.diagnosing import Diagnosis, DoctorResult
from simclr_cli.results.finding import Copy, DuplicateGroup, DuplicatesResult, Neighbour, QueryResult, SimilarResult
from simclr_cli.results.grouping import (
    Cluster,
    ClustersResult,
    FolderShare,
    MapResult,
    Member,
    OddPicture,
    OutliersResult,
    TriedNumber,
)
from simclr_cli.results.judging import Accuracy, ClassScore, Confusion, FewLabels, ProbeResult, Score, Suspect
from simclr_cli.results.learning import PretrainResult, PreviewResult
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
