"""What a regression of features on codes needs of the cells: second moments, fold by fold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from scdisent._errors import InputDataError
from scdisent.metrics._checks import Floats, Integers

CHUNK_VALUES = 8_000_000
"""Stored values that are held in double precision at once: bounds memory, changes no number."""

ROUNDING = 1e-10
"""Features whose variance is at most this share of their mean square count as constant."""


@dataclass(frozen=True)
class Moments:
    """Sums over cells of products of centred codes Z and standardised features Y."""

    n_cells: int
    gram: Floats
    """Z'Z, ``(n_latent, n_latent)``."""
    cross: Floats
    """Z'Y, ``(n_latent, n_features)``; zero for constant features."""
    square: Floats
    """Diagonal of Y'Y, ``(n_features,)``; zero for constant features."""

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.n_cells + other.n_cells,
            self.gram + other.gram,
            self.cross + other.cross,
            self.square + other.square,
        )

    def __sub__(self, other: "Moments") -> "Moments":
        return self + Moments(-other.n_cells, -other.gram, -other.cross, -other.square)

    def means(self) -> tuple[Floats, Floats]:
        """``gram`` and ``cross`` for each cell, as the solver takes them."""
        return self.gram / self.n_cells, self.cross / self.n_cells

    def residual_squares(self, coef: Floats) -> Floats:
        r"""Sum of squared residuals :math:`Y_j'Y_j - 2 \theta_j' R_j + \theta_j' G \theta_j`."""
        on = np.flatnonzero(coef.any(axis=1))
        theta = coef[on]
        fitted = self.gram[np.ix_(on, on)] @ theta - 2 * self.cross[on]
        return self.square + np.einsum("kj,kj->j", theta, fitted)


def moments_by_fold(
    codes: Floats, features: Any, *, folds: Integers, covariates: ArrayLike | None
) -> list[Moments]:
    r"""Moments of each fold after regressing intercept and covariates out of codes and features.

    With Q an orthonormal basis of intercept and covariates, residuals of the features are
    :math:`Y - Q\,(Q^\top Y)`: every moment of them follows from those of Y (Frisch-Waugh; for the
    intercept alone the rank-one term of the means). Sparse features are therefore never centred.

    Parameters
    ----------
    codes, features
        ``(n_cells, n_latent)`` and ``(n_cells, n_features)``, features dense or sparse.
    folds
        Fold of each cell, ``(n_cells,)``, integers from 0.
    covariates
        ``(n_cells, n_covariates)``.

    Raises
    ------
    InputDataError
        If arrays do not match, hold NaN or infinity, or no feature varies.
    """
    features = _as_features(features, n_cells=len(codes))
    basis = _basis(covariates, n_cells=len(codes))
    n_basis = basis.shape[1]
    design = np.hstack([basis, codes - basis @ (basis.T @ codes)])
    cross, square = _sums(design, features, folds=folds)
    raw = square.sum(axis=0)
    _check_finite(raw)
    means = cross[:, :n_basis].sum(axis=0)  # (n_basis, n_features), least squares over all cells
    moments = []
    for fold in range(len(cross)):
        inside = design[folds == fold]
        gram = inside.T @ inside
        left = cross[fold] - gram[:, :n_basis] @ means  # design' (Y - Q means)
        square[fold] -= np.einsum("kj,kj->j", means, cross[fold, :n_basis] + left[:n_basis])
        moments.append((len(inside), gram[n_basis:, n_basis:], left[n_basis:]))
    scale = _scale(square.sum(axis=0), raw=raw, n_cells=len(codes))
    return [
        Moments(n_cells, gram, left * scale, square[fold] * scale**2)
        for fold, (n_cells, gram, left) in enumerate(moments)
    ]


def _basis(covariates: ArrayLike | None, *, n_cells: int) -> Floats:
    """Orthonormal columns that span the intercept and the covariates, ``(n_cells, n_basis)``."""
    intercept = np.full((n_cells, 1), 1 / np.sqrt(n_cells))
    if covariates is None:
        return intercept
    values = np.asarray(covariates, dtype=np.float64)
    if values.ndim != 2 or len(values) != n_cells or not np.isfinite(values).all():
        msg = (
            f"covariates must be a finite ({n_cells}, n_covariates) matrix like codes, but have "
            f"shape {values.shape}. Encode levels first, for example with pandas.get_dummies."
        )
        raise InputDataError(msg)
    values = values - values.mean(axis=0)
    size = np.linalg.norm(values, axis=0)
    values = values[:, size > 0] / size[size > 0]
    left, spread, _ = np.linalg.svd(values, full_matrices=False)
    return np.hstack([intercept, left[:, spread > 1e-10]])  # one-hot columns are dependent


def _sums(design: Floats, features: Any, *, folds: Integers) -> tuple[Floats, Floats]:
    """``design' features`` and sums of squares of features, of each fold.

    Dense features are shifted by their first cell, which later centring undoes: far from zero,
    sums of squares would lose the digits that make up the variance.
    """
    n_cells, n_features = features.shape
    cross = np.zeros((folds.max() + 1, design.shape[1], n_features))
    square = np.zeros((len(cross), n_features))
    is_sparse = sparse.issparse(features)
    shift = 0.0 if is_sparse else features[0].astype(np.float64)
    stored = features.nnz / n_cells if is_sparse else n_features
    step = max(1, int(CHUNK_VALUES / max(stored, 1)))
    for start in range(0, n_cells, step):
        near = folds[start : start + step]
        for fold in np.unique(near):
            inside = start + np.flatnonzero(near == fold)
            values = features[inside].astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):  # found by _check_finite
                values = values if is_sparse else values - shift
                cross[fold] += (values.T @ design[inside]).T
                square[fold] += _column_squares(values)
    return cross, square


def _column_squares(values: Any) -> Floats:
    if not sparse.issparse(values):
        return np.einsum("ij,ij->j", values, values)
    values.sum_duplicates()
    squares = np.bincount(values.indices, weights=values.data**2, minlength=values.shape[1])
    return np.asarray(squares, dtype=np.float64)


def _check_finite(square: Floats) -> None:
    n_bad = int((~np.isfinite(square)).sum())
    if n_bad:
        msg = f"{n_bad} features hold NaN or infinite values. Leave them out, or fill them."
        raise InputDataError(msg)


def _scale(square: Floats, *, raw: Floats, n_cells: int) -> Floats:
    """One over the SD of each feature; zero for constant ones."""
    varies = square > ROUNDING * raw
    if not varies.any():
        msg = (
            "No feature varies between cells (beyond covariates): nothing to regress. "
            "Check the layer and the covariates."
        )
        raise InputDataError(msg)
    return np.sqrt(n_cells / np.where(varies, square, np.inf))


def _as_features(features: Any, *, n_cells: int) -> Any:
    """Features as csr matrix or array, ``(n_cells, n_features)``."""
    values = features.tocsr() if sparse.issparse(features) else np.asarray(features)
    if values.ndim != 2 or values.shape[0] != n_cells or values.shape[1] == 0:
        msg = (
            f"features must be ({n_cells}, n_features), with the cells of codes, but have shape "
            f"{values.shape}. Pass both for the same cells."
        )
        raise InputDataError(msg)
    return values
