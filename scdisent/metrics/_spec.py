"""The one table of metrics: what each is called, means, and how it departs from its source."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from scdisent.metrics._alignment import gas, informative_fdr
from scdisent.metrics._clustering import knn_accuracy, label_recovery, nmi
from scdisent.metrics._dci import dci
from scdisent.metrics._fixed import beta_vae_score, factor_vae_score, irs
from scdisent.metrics._identification import block_r2, dipd_small, fid_small, support_f1
from scdisent.metrics._information import label_information
from scdisent.metrics._leakage import composition_baseline, leakage
from scdisent.metrics._response import (
    energy_distance,
    mmd,
    mse_mean,
    pearson_delta,
    r2_variance,
)
from scdisent.metrics._response_genes import (
    centroid_accuracy,
    de_overlap,
    de_pr_auc,
    direction_match,
    discrimination_rank,
    r2_delta,
    weighted_mse,
)
from scdisent.metrics._separation import lsdi, lsdi_by_cut, lsdi_over_runs
from scdisent.metrics._sparse_regression import dbsr_ls
from scdisent.metrics._supervised import explicitness, mcc, mig, modularity, sap
from scdisent.metrics._traversal import fvh_lt, informative_latents
from scdisent.metrics._udr import udr


@dataclass(frozen=True)
class MetricSpec:
    """One row of :data:`METRICS`."""

    name: str
    function: Callable[..., Any]
    range: tuple[float, float]
    """Smallest and largest possible value; for :func:`leakage` of the AUROC, for :func:`dci` of
    disentanglement and completeness, for :func:`udr` of each run, for :func:`dbsr_ls` of the
    explained variance."""
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
        "label_information",
        label_information,
        (-_INFINITY, _INFINITY),
        "higher",
        "Ross 2014 (PLoS ONE 9, e87357)",
        "Several dimensions at once; floor and 95 % quantile for shuffled labels beside it",
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
        "mmd",
        mmd,
        (-1, 2),
        "lower",
        "Gretton et al. 2012, unbiased estimate",
        "Mean of five Gaussian kernels around the median distance",
    ),
    MetricSpec(
        "weighted_mse",
        weighted_mse,
        (0, _INFINITY),
        "lower",
        "Weights by differential expression: Mejia et al. 2025 (recalled)",
        "Squared, min-max scaled Welch t of the observed change as weights",
    ),
    MetricSpec(
        "r2_delta",
        r2_delta,
        (-_INFINITY, 1),
        "higher",
        "Coefficient of determination of the mean change; weighted as in Mejia et al. 2025",
        "",
    ),
    MetricSpec(
        "de_overlap",
        de_overlap,
        (0, 1),
        "higher",
        "Overlap at N of cell-eval (Arc Institute)",
        "Ranked by the size of Welch's t",
    ),
    MetricSpec(
        "direction_match",
        direction_match,
        (0, 1),
        "higher",
        "Direction match of cell-eval (Arc Institute)",
        "Over the N surest observed genes instead of all significant ones",
    ),
    MetricSpec(
        "de_pr_auc",
        de_pr_auc,
        (0, 1),
        "higher",
        "PR-AUC of differential expression as in cell-eval (Arc Institute)",
        "Welch's t test with Benjamini-Hochberg instead of a rank test",
    ),
    MetricSpec(
        "centroid_accuracy",
        centroid_accuracy,
        (0, 1),
        "higher",
        "Centroid accuracy of Systema: Vinas Torne et al. 2025",
        "Manhattan distance; share of nearest own truths",
    ),
    MetricSpec(
        "discrimination_rank",
        discrimination_rank,
        (0, 1),
        "higher",
        "Perturbation discrimination score of the Virtual Cell Challenge 2025",
        "All genes count, also the perturbed one; ties count as not nearer",
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
    MetricSpec(
        "mcc",
        mcc,
        (0, 1),
        "higher",
        "Mean correlation coefficient as in nonlinear ICA: Hyvärinen and Morioka 2016 "
        "(arXiv 1605.06336)",
        "Divided by the number of factors, so a factor without a latent counts as 0",
    ),
    MetricSpec(
        "mig",
        mig,
        (0, 1),
        "higher",
        "Chen et al. 2018 (arXiv 1802.04942), on binned codes as in Locatello et al. 2019 "
        "(arXiv 1811.12359)",
        "Continuous factors are binned too; one latent alone competes with 0; on request zero is "
        "what shuffled factors reach",
    ),
    MetricSpec(
        "modularity",
        modularity,
        (0, 1),
        "higher",
        "Ridgeway and Mozer 2018 (arXiv 1802.05312)",
        "Continuous factors are binned too",
    ),
    MetricSpec(
        "explicitness",
        explicitness,
        (0, 1),
        "higher",
        "Ridgeway and Mozer 2018 (arXiv 1802.05312)",
        "AUROC of cross-validated predictions, not of the cells that were fitted; continuous "
        "factors are cut into bins of equal frequency",
    ),
    MetricSpec(
        "sap",
        sap,
        (0, 1),
        "higher",
        "Kumar et al. 2018 (arXiv 1711.00848)",
        "Cross-validated; codes are standardised, since the support vector machine depends on "
        "their scale; balanced accuracy, no score below that of a latent that knows nothing",
    ),
    MetricSpec(
        "dci",
        dci,
        (0, 1),
        "higher",
        "Eastwood and Williams 2018; boosted trees as in Locatello et al. 2019 (arXiv 1811.12359)",
        "Informativeness on a held-out quarter; categorical factors with one lasso a level; value "
        "for shuffled factors on request",
    ),
    MetricSpec(
        "irs",
        irs,
        (0, 1),
        "higher",
        "Suter et al. 2019 (arXiv 1811.00007), as in Locatello et al. 2019 (arXiv 1811.12359)",
        "Cells of one level or bin of equal frequency stand for an intervention; levels with fewer "
        "than 20 cells are left out",
    ),
    MetricSpec(
        "factor_vae_score",
        factor_vae_score,
        (0, 1),
        "higher",
        "Kim and Mnih 2018 (arXiv 1802.05983)",
        "Cells of one level or bin of equal frequency, drawn with replacement, stand for new "
        "samples with the factor fixed; votes are learnt and scored on disjoint cells",
    ),
    MetricSpec(
        "beta_vae_score",
        beta_vae_score,
        (0, 1),
        "higher",
        "Higgins et al. 2017 (beta-VAE)",
        "Pairs of cells of one level or bin of equal frequency stand for new samples that share "
        "the factor; features are standardised; fitted and scored on disjoint cells",
    ),
    MetricSpec(
        "block_r2",
        block_r2,
        (-_INFINITY, 1),
        "higher",
        "Subspace identification of nonlinear ICA by kernel regression, as in von Kügelgen et al. "
        "2021 (arXiv 2106.04619)",
        "At most 2,000 cells; the same number from the other block is the leak, lower is better",
    ),
    MetricSpec(
        "support_f1",
        support_f1,
        (0, 1),
        "higher",
        "This package: support of the decoder's Jacobian against planted parents",
        "",
    ),
    MetricSpec(
        "fid_small",
        fid_small,
        (0, _INFINITY),
        "lower",
        "Heusel et al. 2017 (arXiv 1706.08500)",
        "Features of a network that the caller trains, not Inception's",
    ),
    MetricSpec(
        "dipd_small",
        dipd_small,
        (0, _INFINITY),
        "lower",
        "Liu et al. 2019 (FUNIT, arXiv 1905.01723)",
        "Features of a network that the caller trains, not VGG's; mean over places and channels",
    ),
    MetricSpec(
        "udr",
        udr,
        (0, 1),
        "higher",
        "Duan et al. 2020 (arXiv 1905.12614)",
        "Without divergences all latents that vary are compared",
    ),
    MetricSpec(
        "dbsr_ls",
        dbsr_ls,
        (0, 1),
        "higher",
        "Lang and Liu 2026 (arXiv 2603.11242); dirty model: Jalali et al. 2010",
        "Formulation, tuning, debiasing and the cut of links are this package's: the text was not "
        "at hand. Blocks by the Euclidean norm (Jalali: largest entry); errors of debiased "
        "effects, and of all penalties within a standard error those of the fewest latents",
    ),
    MetricSpec(
        "fvh_lt",
        fvh_lt,
        (0, _INFINITY),
        "higher",
        "Lang and Liu 2026 (arXiv 2603.11242): name, purpose and one latent moved at a time; as a "
        "total effect: Jansen 1999",
        "Grids, base cells, denominators, floor and off-manifold mark are ours; theirs not known",
    ),
    MetricSpec(
        "informative_latents",
        informative_latents,
        (0, _INFINITY),
        "higher",
        "Mean KL above 0.01 nat as in UDR: Duan et al. 2020 (arXiv 1905.12614)",
        "The gap rule is ours; range and direction are those of the mean KL",
    ),
    MetricSpec(
        "informative_fdr",
        informative_fdr,
        (0, 1),
        "lower",
        "Lang and Liu 2026 (arXiv 2603.11242): a false discovery rate of informative latents",
        "Their definition is not known: latents without a factor (Spearman below 0.3) or with one "
        "that another latent has are false",
    ),
    MetricSpec(
        "lsdi",
        lsdi,
        (0, 1),
        "higher",
        "Lang and Liu 2026 (arXiv 2603.11242): LSDI in v1, LSSI in v2; purpose, both cases of 0",
        "LSDI-R, a reconstruction: explained share times normalised mutual information of latent "
        "and feature; their formula is not known",
    ),
    MetricSpec(
        "lsdi_by_cut",
        lsdi_by_cut,
        (0, 1),
        "higher",
        "This package: lsdi over cuts of the mean KL",
        "",
    ),
    MetricSpec(
        "lsdi_over_runs",
        lsdi_over_runs,
        (0, 1),
        "higher",
        "Lang and Liu 2026 (arXiv 2603.11242): v2 computes the index from aligned runs",
        "LSDI-R of the mean association; the indices of the runs are given beside it",
    ),
    MetricSpec(
        "gas",
        gas,
        (0, 1),
        "higher",
        "Lang and Liu 2026 (arXiv 2603.11242): greedy alignment strategy, best pairs first",
        "Similarities, threshold, medoid reference, signs and slots are ours; the optimal "
        "assignment is reported beside the greedy one. Range and direction: similarity",
    ),
)

METRICS: Mapping[str, MetricSpec] = MappingProxyType({row.name: row for row in _ROWS})
"""Name to specification of every metric."""

_VARIANTS = ("_top", "_perturbed", "_weighted")


def spec_of(name: str) -> MetricSpec | None:
    """Specification of a metric by the name it has in tables; None for an unknown one."""
    for variant in _VARIANTS:
        name = name.removesuffix(variant)
    return METRICS.get(name)
