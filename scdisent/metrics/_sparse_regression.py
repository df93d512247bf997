"""DBSR-LS: which latents drive which features, by dirty block sparse regression."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupKFold, KFold

from scdisent._errors import InputDataError, OptionError, one_of
from scdisent.metrics._checks import Floats, Integers, as_codes, as_levels
from scdisent.metrics._dirty_model import (
    COLLAPSED,
    PENALTIES,
    DirtyPenalty,
    refit,
    selected,
    solve,
    split,
)
from scdisent.metrics._regression_moments import Moments, moments_by_fold

SMALLEST = 0.02
"""The path of penalties ends at this share of its largest one."""


@dataclass(frozen=True, repr=False, eq=False)
class SparseRegression:
    """Result of :func:`dbsr_ls`; coefficients in SD of a feature for each unit of a latent."""

    coef: Floats
    """``(n_latent, n_features)``, the sum of the two parts."""
    block: Floats
    """Part shared by many features: rows are zero for latents that drive no such block."""
    element: Floats
    """Part of single links."""
    debiased: Floats
    """Least squares on the support of ``coef``, not shrunken (``coef`` with ``debias=False``)."""
    latent_selected: NDArray[np.bool_]
    """``(n_latent,)``: rows of ``coef`` that are not zero."""
    link_selected: NDArray[np.bool_]
    """``(n_latent, n_features)``: ``debiased`` is at least ``min_effect``. Blocks are dense, so
    the support of ``coef`` is no list of links."""
    r2: Floats
    """``(n_features,)``: share of variance that ``debiased`` explains in the cells of the fit, of
    what the covariates leave; NaN where that is nothing."""
    constant: NDArray[np.bool_]
    """``(n_features,)``: features that do not vary, or only with covariates: coefficients 0."""
    objective: float
    """Value of the minimised function."""
    lambda_block: float
    lambda_element: float
    path: pd.DataFrame
    """Cross-validation, a row for each pair of penalties, empty where they were given: ``share``,
    ``lambda_block``, ``lambda_element``, ``error``, ``standard_error`` of what it exceeds the
    smallest error by, and ``n_latent``, the mean number of selected latents."""
    converged: bool

    def __repr__(self) -> str:
        n_latent, n_features = self.coef.shape
        return (
            f"SparseRegression({self.latent_selected.sum()} of {n_latent} latents, "
            f"{self.link_selected.sum()} links to {n_features} features, "
            f"mean r2 {np.nanmean(self.r2):.3f}, lambda_block={self.lambda_block:.3g}, "
            f"lambda_element={self.lambda_element:.3g})"
        )


def dbsr_ls(
    codes: ArrayLike,
    features: Any,
    *,
    lambda_block: float | None = None,
    lambda_element: float | None = None,
    norm: Literal["l2", "linf"] = "l2",
    groups: ArrayLike | None = None,
    covariates: ArrayLike | None = None,
    debias: bool = True,
    min_effect: float = 0.1,
    n_folds: int = 5,
    n_lambdas: int = 30,
    shares: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
    seed: int = 0,
) -> SparseRegression:
    r"""Regress all features on the latents, with whole latents and single links switched off.

    .. math:: \min_{B, S}\; \frac{1}{2n} \lVert Y - Z (B + S) \rVert_F^2
              + \lambda_b \sum_k \lVert B_{k\cdot} \rVert_q + \lambda_s \sum_{kj} |S_{kj}|

    Z are centred codes, Y centred features of unit variance; each feature is a task, each latent a
    row. A row of B that is zero switches off a latent that many features would have to share; S
    adds links of a latent to single features. For :math:`\lambda_s \ge \lambda_b` S is zero; for
    :math:`\lambda_b \ge \sqrt{p}\, \lambda_s` (``norm="linf"``: :math:`p \lambda_s`) B is zero.

    Only :math:`Z^\top Z`, :math:`Z^\top Y` and the squares of Y are taken from the cells, in one
    pass and for each fold, so the rest costs the same for any number of cells and sparse features
    stay sparse. Codes keep their scale: dividing a collapsed latent by its SD would blow up a tiny
    copy of the data. For counts pass log-normalised expression.

    Penalties not given are cross-validated. The ratio :math:`\lambda_b / \lambda_s` is
    :math:`\sqrt{s_0 p}` for each share :math:`s_0` (``norm="linf"``: :math:`s_0 p`): from that
    share of features on a block is cheaper than its elements. For each ratio :math:`\lambda_s`
    falls from the value that selects nothing to 0.02 of it. The error of a fold is the share of
    its sum of squares that is left by the debiased effects (``debias=False``: by ``coef``, for
    which so little shrinkage is best that noise selects latents). Of all pairs whose mean error
    exceeds the smallest by no more than the standard error of that difference, the one with the
    fewest latents is taken, then the smallest error.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``: samples of the posterior or its means.
    features
        ``(n_cells, n_features)``, dense or sparse (never made dense), for example log-normalised
        genes.
    lambda_block, lambda_element
        Both or neither: given penalties are used as they are.
    norm
        Norm of a block: Euclidean, or the largest absolute value.
    groups
        Donors, ``(n_cells,)``: folds then hold whole groups. Not used with given penalties.
    covariates
        ``(n_cells, n_covariates)``, such as one-hot batches: regressed out of codes and features
        without a penalty (Frisch-Waugh).
    debias
        Whether effects are refitted by least squares on the support of ``coef``, in the
        cross-validation too.
    min_effect
        Smallest effect that counts as a link, in SD of the feature for one unit of the latent.
    n_folds
        Of the cross-validation; at most as many as groups.
    n_lambdas, shares
        Grid of penalties: steps for each ratio, and shares :math:`s_0` of the features.
    seed
        Of the folds, where no groups are given.

    Returns
    -------
    :class:`SparseRegression`; all matrices ``(n_latent, n_features)``.

    Raises
    ------
    InputDataError
        If arrays do not match or hold NaN, or if neither codes nor features vary.
    OptionError
        If only one penalty is given, or an option is out of range.

    Notes
    -----
    The name is that of Lang and Liu 2026 (arXiv 2603.11242); the dirty model is that of Jalali et
    al. 2010, whose blocks have ``norm="linf"``. The text of the former was not at hand: features
    as responses, the Euclidean default, tuning, debiasing and the cut of links are this package's.
    Centring, covariates and scaling use all cells once; folds differ in the coefficients only.
    The reverse reading, codes regressed on features, is ``dbsr_ls(standardised_features, codes)``,
    whose rows are features.
    """
    codes = as_codes(codes)
    kind = PENALTIES[one_of(norm, PENALTIES, "norm")]
    given = _given_penalty(kind, block=lambda_block, element=lambda_element)
    folds = np.zeros(len(codes), dtype=np.intp)
    if given is None:
        folds = _assign_folds(len(codes), groups=groups, n_folds=n_folds, seed=seed)
    parts = moments_by_fold(codes, features, folds=folds, covariates=covariates)
    path = pd.DataFrame()
    if given is None:
        grid = _grid(sum_of(parts), kind=kind, shares=shares, n_lambdas=n_lambdas)
        path = _cross_validate(parts, grid=grid, kind=kind, debias=debias)
    penalty = given or kind(*_one_standard_error(path))
    return _fit(sum_of(parts), penalty=penalty, path=path, debias=debias, min_effect=min_effect)


def _given_penalty(
    kind: type[DirtyPenalty], *, block: float | None, element: float | None
) -> DirtyPenalty | None:
    """Penalty of the two numbers, None where they are to be cross-validated."""
    if block is None and element is None:
        return None
    if block is None or element is None:
        msg = (
            f"lambda_block={block} and lambda_element={element}: give both, or neither to have "
            "both cross-validated."
        )
        raise OptionError(msg)
    if not (0 < block < np.inf and 0 < element < np.inf):
        msg = f"Penalties must be positive, but are lambda_block={block}, lambda_element={element}."
        raise OptionError(msg)
    return kind(float(block), float(element))


def _assign_folds(n_cells: int, *, groups: ArrayLike | None, n_folds: int, seed: int) -> Integers:
    """Fold of each cell, ``(n_cells,)``, integers from 0; whole groups where they are given."""
    donors = None if groups is None else as_levels(groups, name="groups", n_cells=n_cells)[0]
    n_units = n_cells if donors is None else int(donors.max()) + 1
    n_folds = n_folds if donors is None else min(n_folds, n_units)
    if not 2 <= n_folds <= n_units:
        what = "cells" if donors is None else "groups"
        msg = (
            f"Cross-validation needs at least two folds and no more than there are {what}, but "
            f"n_folds={n_folds} and there are {n_units} {what}. Or give both penalties."
        )
        raise OptionError(msg)
    splitter = (
        KFold(n_folds, shuffle=True, random_state=seed) if donors is None else GroupKFold(n_folds)
    )
    folds = np.empty(n_cells, dtype=np.intp)
    for fold, (_, held_out) in enumerate(splitter.split(folds, groups=donors)):
        folds[held_out] = fold
    return folds


def _grid(
    total: Moments, *, kind: type[DirtyPenalty], shares: Sequence[float], n_lambdas: int
) -> pd.DataFrame:
    """Pairs of penalties: for each share falling from the pair that selects nothing."""
    if n_lambdas < 1 or not len(shares) or not all(0 < share <= 1 for share in shares):
        msg = f"n_lambdas={n_lambdas} must be positive and shares={tuple(shares)} lie in (0, 1]."
        raise OptionError(msg)
    gram, cross = total.means()
    if gram.diagonal().max() < COLLAPSED:
        msg = "Codes do not vary between cells (beyond covariates): nothing to regress on."
        raise InputDataError(msg)
    parts, n_features = [], int(np.count_nonzero(total.square))
    for share in dict.fromkeys(shares):
        ratio = kind.ratio(share, n_features)
        largest = kind.largest_element(cross, ratio=ratio)
        element = np.geomspace(largest, SMALLEST * largest, n_lambdas)
        columns = {"share": share, "lambda_block": ratio * element, "lambda_element": element}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _cross_validate(
    parts: list[Moments], *, grid: pd.DataFrame, kind: type[DirtyPenalty], debias: bool
) -> pd.DataFrame:
    """Grid with held-out error, standard error of what it exceeds the smallest by, and latents."""
    total = sum_of(parts)
    error, n_latent = np.empty((2, len(parts), len(grid)))
    for fold, held_out in enumerate(parts):
        gram, cross = (total - held_out).means()
        for _, path in grid.groupby("share", sort=False):
            coef, effect = None, None
            for row in path.itertuples():
                penalty = kind(row.lambda_block, row.lambda_element)
                coef, _ = solve(gram, cross, penalty=penalty, start=coef)  # warm start
                effect = refit(coef, gram=gram, cross=cross, start=effect) if debias else coef
                left = held_out.residual_squares(effect).sum()
                error[fold, row.Index] = left / held_out.square.sum()
                n_latent[fold, row.Index] = selected(coef).sum()
    mean = error.mean(axis=0)
    excess = error - error[:, [mean.argmin()]]  # what all penalties share in a fold cancels
    return grid.assign(
        error=mean,
        standard_error=excess.std(axis=0, ddof=1) / np.sqrt(len(parts)),
        n_latent=n_latent.mean(axis=0),
    )


def _one_standard_error(path: pd.DataFrame) -> tuple[float, float]:
    """Penalties with the fewest latents that are no worse than the best by a standard error."""
    good = path[path["error"] <= path["error"].min() + path["standard_error"]]
    chosen = good.sort_values(["n_latent", "error"]).iloc[0]
    return float(chosen["lambda_block"]), float(chosen["lambda_element"])


def _fit(
    total: Moments,
    *,
    penalty: DirtyPenalty,
    path: pd.DataFrame,
    debias: bool,
    min_effect: float,
) -> SparseRegression:
    """Solve once for all cells."""
    gram, cross = total.means()
    coef, converged = solve(gram, cross, penalty=penalty)
    block, element = split(coef, gram=gram, cross=cross, penalty=penalty)
    effect = _least_squares_on_support(gram, cross, coef=coef) if debias else coef
    constant = total.square == 0
    variance = np.where(constant, np.nan, total.square)
    loss = float(total.residual_squares(coef).sum()) / (2 * total.n_cells)
    return SparseRegression(
        coef=coef,
        block=block,
        element=element,
        debiased=effect,
        latent_selected=selected(coef),
        link_selected=(effect != 0) & (np.abs(effect) >= min_effect),
        r2=1 - total.residual_squares(effect) / variance,
        constant=constant,
        objective=loss + penalty.price(block, element),
        lambda_block=penalty.block,
        lambda_element=penalty.element,
        path=path,
        converged=converged,
    )


def _least_squares_on_support(gram: Floats, cross: Floats, *, coef: Floats) -> Floats:
    """Unpenalised coefficients of each feature on the latents that ``coef`` links it to.

    Features that share their set of latents are solved together; blocks make such sets few.
    """
    support = coef != 0
    patterns, member = np.unique(support, axis=1, return_inverse=True)
    member = member.reshape(-1)
    effect = np.zeros_like(coef)
    for i, pattern in enumerate(patterns.T):
        links = np.ix_(pattern, member == i)
        if pattern.any():
            effect[links] = np.linalg.lstsq(gram[np.ix_(pattern, pattern)], cross[links])[0]
    return effect


def sum_of(parts: list[Moments]) -> Moments:
    """Moments of all folds together."""
    return sum(parts[1:], start=parts[0])
