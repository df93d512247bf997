"""Metrics: pure functions on arrays of cells; :data:`METRICS` lists them all."""

from scdisent.metrics._clustering import knn_accuracy, label_recovery, nmi
from scdisent.metrics._leakage import Equivalence, Leakage, composition_baseline, leakage
from scdisent.metrics._response import (
    energy_distance,
    mse_mean,
    pearson_delta,
    r2_variance,
    top_genes,
)
from scdisent.metrics._spec import METRICS, MetricSpec

__all__ = [
    "METRICS",
    "Equivalence",
    "Leakage",
    "MetricSpec",
    "composition_baseline",
    "energy_distance",
    "knn_accuracy",
    "label_recovery",
    "leakage",
    "mse_mean",
    "nmi",
    "pearson_delta",
    "r2_variance",
    "top_genes",
]
