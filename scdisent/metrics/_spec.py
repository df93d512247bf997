"""The one table of metrics: what each is called, means, and how it departs from its source."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from scdisent.metrics._clustering import knn_accuracy, label_recovery, nmi
from scdisent.metrics._leakage import composition_baseline, leakage
from scdisent.metrics._response import energy_distance, mse_mean, pearson_delta, r2_variance


@dataclass(frozen=True)
class MetricSpec:
    """One row of :data:`METRICS`."""

    name: str
    function: Callable[..., Any]
    range: tuple[float, float]
    """Smallest and largest possible value; for :func:`leakage` of the AUROC."""
    direction: Literal["higher", "lower"]
    """Which is better, for the use named in the function's docstring."""
    source: str
    deviation: str
    """What differs from the source; empty if nothing does."""


_INFINITY = float("inf")

_ROWS = (
    MetricSpec(
        "leakage",
        leakage,
        (0, 1),
        "lower",
        "Attackers fitted after training: Elazar and Goldberg 2018 (arXiv 1808.06640); bits as "
        "V-information: Xu et al. 2020 (arXiv 2002.10689)",
        "Largest score of four attackers on held-out donors; the null shuffles held-out labels "
        "without refitting and is widened for the labels that folds share",
    ),
    MetricSpec(
        "composition_baseline",
        composition_baseline,
        (0, 1),
        "lower",
        "This package: leakage of the cell type alone",
        "",
    ),
    MetricSpec(
        "nmi",
        nmi,
        (0, 1),
        "higher",
        "Strehl and Ghosh 2002, normalised by the arithmetic mean of the entropies",
        "",
    ),
    MetricSpec(
        "knn_accuracy",
        knn_accuracy,
        (0, 1),
        "higher",
        "k-nearest-neighbour accuracy as used to judge single-cell embeddings",
        "Balanced over labels and cross-validated, over donors where given; usual code scores "
        "cells on a graph that holds them",
    ),
    MetricSpec(
        "label_recovery",
        label_recovery,
        (0, 1),
        "higher",
        "Linear probes: Alain and Bengio 2016 (arXiv 1610.01644)",
        "Balanced over labels and cross-validated, over donors where given",
    ),
    MetricSpec(
        "pearson_delta",
        pearson_delta,
        (-1, 1),
        "higher",
        "Pearson correlation of mean changes as in GEARS: Roohani et al. 2023",
        "0, not NaN, for a prediction of no change",
    ),
    MetricSpec(
        "mse_mean",
        mse_mean,
        (0, _INFINITY),
        "lower",
        "Squared error of mean expression as in GEARS: Roohani et al. 2023",
        "",
    ),
    MetricSpec(
        "r2_variance",
        r2_variance,
        (-_INFINITY, 1),
        "higher",
        "R2 of gene variances as in scGen: Lotfollahi et al. 2019",
        "Coefficient of determination; scGen squares a correlation, which forgives a wrong scale",
    ),
    MetricSpec(
        "energy_distance",
        energy_distance,
        (-_INFINITY, _INFINITY),
        "lower",
        "Székely and Rizzo 2013; for single cells: Peidli et al. 2024 (scPerturb)",
        "Euclidean, not squared, distances, and pairs of different cells only (unbiased)",
    ),
)

METRICS: Mapping[str, MetricSpec] = MappingProxyType({row.name: row for row in _ROWS})
"""Name to specification of every metric."""
