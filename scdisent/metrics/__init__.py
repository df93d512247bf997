"""Metrics: pure functions on arrays of cells; :data:`METRICS` lists them all."""

from scdisent.metrics._alignment import AlignedSummary, Alignment, gas, informative_fdr
from scdisent.metrics._clustering import knn_accuracy, label_recovery, nmi
from scdisent.metrics._dci import DCI, dci
from scdisent.metrics._fixed import beta_vae_score, factor_vae_score, irs
from scdisent.metrics._identification import block_r2, dipd_small, fid_small, support_f1
from scdisent.metrics._information import LabelInformation, label_information
from scdisent.metrics._leakage import Equivalence, Leakage, composition_baseline, leakage
from scdisent.metrics._response import (
    energy_distance,
    mmd,
    mse_mean,
    pearson_delta,
    r2_variance,
    top_genes,
)
from scdisent.metrics._response_genes import (
    centroid_accuracy,
    de_overlap,
    de_pr_auc,
    de_weights,
    direction_match,
    discrimination_rank,
    r2_delta,
    weighted_mse,
)
from scdisent.metrics._separation import (
    CombinedSeparation,
    RunSeparation,
    Separation,
    lsdi,
    lsdi_by_cut,
    lsdi_over_runs,
)
from scdisent.metrics._sparse_regression import SparseRegression, dbsr_ls
from scdisent.metrics._spec import METRICS, MetricSpec
from scdisent.metrics._supervised import explicitness, mcc, mig, modularity, sap
from scdisent.metrics._traversal import (
    FeatureVariance,
    InformativeLatents,
    fvh_lt,
    informative_latents,
)
from scdisent.metrics._udr import UDR, udr

__all__ = [
    "DCI",
    "METRICS",
    "UDR",
    "AlignedSummary",
    "Alignment",
    "CombinedSeparation",
    "Equivalence",
    "FeatureVariance",
    "InformativeLatents",
    "LabelInformation",
    "Leakage",
    "MetricSpec",
    "RunSeparation",
    "Separation",
    "SparseRegression",
    "beta_vae_score",
    "block_r2",
    "centroid_accuracy",
    "composition_baseline",
    "dbsr_ls",
    "dci",
    "de_overlap",
    "de_pr_auc",
    "de_weights",
    "dipd_small",
    "direction_match",
    "discrimination_rank",
    "energy_distance",
    "explicitness",
    "factor_vae_score",
    "fid_small",
    "fvh_lt",
    "gas",
    "informative_fdr",
    "informative_latents",
    "irs",
    "knn_accuracy",
    "label_information",
    "label_recovery",
    "leakage",
    "lsdi",
    "lsdi_by_cut",
    "lsdi_over_runs",
    "mcc",
    "mig",
    "mmd",
    "modularity",
    "mse_mean",
    "nmi",
    "pearson_delta",
    "r2_delta",
    "r2_variance",
    "sap",
    "support_f1",
    "top_genes",
    "udr",
    "weighted_mse",
]
