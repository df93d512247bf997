"""How well features are divided among latents, read off an association matrix alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from scdisent._errors import InputDataError, OptionError, one_of
from scdisent.metrics._checks import Floats

MIN_TOTAL = 1e-12
"""Associations of a feature that sum to less are rounding (both inputs are shares of variance)."""

CUTS = (0.003, 0.01, 0.03, 0.1)
"""Mean KL in nats at which the dependence on the cut is shown."""


@dataclass(frozen=True)
class Separation:
    """Result of :func:`lsdi`."""

    value: float
    """The index, in ``[0, 1]``: ``explained * max(0, balance + concentration - 1)``."""
    explained: float
    """Mean share of a feature that informative latents explain."""
    balance: float
    """In ``[0, 1]``; 1 if all informative latents have the same share of the features."""
    concentration: float
    """In ``[0, 1]``; 1 if each feature is driven by one latent."""
    n_informative: int
    n_features: int
    """Features that were scored: columns of NaN are left out."""
    null: float
    """Mean index of permuted associations; NaN without draws."""
    null_95: float
    """95 % quantile of the index of permuted associations; NaN without draws."""

    @property
    def adjusted(self) -> float:
        """``(value - null) / (1 - null)``: 0 at the null, 1 at best; NaN without draws."""
        return (self.value - self.null) / (1 - self.null) if self.null < 1 else float("nan")

    def combine(self, other: "Separation") -> "CombinedSeparation":
        """Mean of two indices, as of FVH-LT and of a sparse regression, and their difference."""
        return CombinedSeparation((self.value + other.value) / 2, self.value - other.value)


class CombinedSeparation(NamedTuple):
    """The final index of two association matrices of one model."""

    value: float
    difference: float


@dataclass(frozen=True, eq=False)
class RunSeparation:
    """Result of :func:`lsdi_over_runs`."""

    of_mean: Separation
    """Index of the association averaged over runs."""
    per_run: Floats
    """``(n_runs,)``: index of each run."""

    @property
    def mean(self) -> float:
        """Mean of the runs' indices."""
        return float(self.per_run.mean())

    @property
    def sd(self) -> float:
        """Standard deviation of the runs' indices; NaN for one run."""
        return float(self.per_run.std(ddof=1)) if len(self.per_run) > 1 else float("nan")


def lsdi(
    association: ArrayLike,
    *,
    informative: ArrayLike | None = None,
    total: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    n_null: int = 100,
    permute: Literal["columns", "rows"] = "columns",
    seed: int = 0,
) -> Separation:
    r"""Latent separation index LSDI-R: whether different latents drive different features.

    Of the rows A of informative latents, :math:`K_a` of them:

    .. math::

        T_j = \max\Bigl(\sum_k A_{kj},\, tot_j\Bigr), \quad w_{kj} = A_{kj} / T_j, \quad
        e_j = \sum_k w_{kj}, \quad E = \sum_j m_j e_j, \\
        v_{kj} = w_{kj} / e_j, \quad c_j = m_j e_j / E, \quad \pi_k = \sum_j c_j v_{kj}, \\
        Bal = \frac{H(\pi)}{\ln K_a}, \qquad
        Con = 1 - \frac{\sum_j c_j H(v_{\cdot j})}{\ln K_a}, \qquad
        LSDI = E\, \max(0, Bal + Con - 1) = E\, \frac{I(\text{latent}; \text{feature})}{\ln K_a}

    0 if :math:`K_a < 2` or E = 0, and NaN if no feature is scored. It is the normalised mutual
    information of "which feature" and "which latent drives it". A low index has three causes:
    little explained, one latent for all, or latents that share features; so read the parts beside
    it.

    Noise does not give 0: random associations of 5 latents give about 0.2. ``null`` permutes
    associations, and ``adjusted`` subtracts it. Permuting each column, over latents, keeps the
    concentration, so with many features its null is ``explained * concentration``: it sees
    imbalance only, and takes away nearly all of a good but not perfect index.
    ``permute="rows"``, each latent over features, breaks concentration as well; it needs features
    of one scale, which values of :func:`fvh_lt` and coefficients of standardised features have.

    Parameters
    ----------
    association
        ``(n_latent, n_features)``, not negative: values of :func:`fvh_lt`, or squared
        coefficients of standardised features. Columns of NaN (floored features) are left out.
    informative
        Mask ``(n_latent,)`` of rows to keep, as of :func:`informative_latents`; default: all.
    total
        What a feature's associations would sum to if all were explained, one number or
        ``(n_features,)``: 1 for FVH over the variance of the data. Default: all is explained.
    weights
        Weight of each feature, ``(n_features,)``; default: equal.
    n_null
        Draws for the null.
    permute
        ``"columns"`` or ``"rows"``: along what the null permutes, see above.
    seed
        Of the permutations; numpy's global state is not used.

    Returns
    -------
    :class:`Separation`. The index is unchanged by order and sign of latents, order of features
    and, without ``total``, by the scale of each feature.

    Raises
    ------
    InputDataError
        If an association is negative or not finite, or shapes do not match.

    Notes
    -----
    Lang and Liu 2026 (arXiv 2603.11242; the index is LSDI in v1 and LSSI in v2) say that it is one
    number from both association matrices and 0 without informative latents and if one latent
    dominates all features. Their formula was not available: LSDI-R is our reconstruction and must
    be called so. ``permute="rows"`` is ours as well.
    """
    one_of(permute, ("columns", "rows"), "permute")
    if n_null < 0:
        msg = f"n_null={n_null}, but it must be at least 0."
        raise OptionError(msg)
    table, ceiling, mass = _read(association, informative, total=total, weights=weights)
    if not table.shape[1]:
        n_null, parts = 0, _Parts(*[float("nan")] * 4)
    else:
        parts = _index(table, total=ceiling, weights=mass)
    rng = np.random.default_rng(seed)
    axis = 0 if permute == "columns" else 1
    draws = [
        _index(rng.permuted(table, axis=axis), total=ceiling, weights=mass).value
        for _ in range(n_null)
    ]
    null, null_95 = (np.mean(draws), np.quantile(draws, 0.95)) if draws else (np.nan, np.nan)
    return Separation(
        **parts._asdict(),
        n_informative=table.shape[0],
        n_features=table.shape[1],
        null=float(null),
        null_95=float(null_95),
    )


def lsdi_by_cut(
    association: ArrayLike,
    kl: ArrayLike,
    *,
    cuts: Sequence[float] = CUTS,
    total: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    n_null: int = 100,
    permute: Literal["columns", "rows"] = "columns",
    seed: int = 0,
) -> pd.DataFrame:
    """Index for several cuts of the mean KL: the number of informative latents jumps there.

    Parameters
    ----------
    association
        As in :func:`lsdi`.
    kl
        Mean KL of each latent in nats, ``(n_latent,)``.
    cuts
        Latents with a larger mean KL are informative; in nats.
    total, weights, n_null, permute, seed
        As in :func:`lsdi`.

    Returns
    -------
    One row for each cut: index ``cut``, the parts of :class:`Separation`, and ``adjusted``.

    Raises
    ------
    InputDataError
        As in :func:`lsdi`.
    """
    divergence = np.asarray(kl, dtype=np.float64)
    rows = []
    for cut in cuts:
        found = lsdi(
            association,
            informative=divergence > cut,
            total=total,
            weights=weights,
            n_null=n_null,
            permute=permute,
            seed=seed,
        )
        rows.append({"cut": cut} | vars(found) | {"adjusted": found.adjusted})
    return pd.DataFrame(rows).set_index("cut")


def lsdi_over_runs(
    associations: ArrayLike,
    informative: ArrayLike,
    *,
    total: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    n_null: int = 100,
    permute: Literal["columns", "rows"] = "columns",
    seed: int = 0,
) -> RunSeparation:
    """Index of aligned runs: of their mean association, and of each run.

    Averaging misaligned runs lowers the index even if every run is separated, so an index of the
    mean far below the mean of the indices says that alignment failed.

    Parameters
    ----------
    associations
        Aligned by :func:`gas`, ``(n_runs, n_slots, n_features)``, absent latents as rows of zeros.
    informative
        Which latents are present, ``(n_runs, n_slots)``. The mean keeps those that are present in
        half of the runs.
    total, weights, n_null, permute, seed
        As in :func:`lsdi`.

    Returns
    -------
    :class:`RunSeparation`.

    Raises
    ------
    InputDataError
        If arrays do not match, and as in :func:`lsdi`.
    """
    tables = np.asarray(associations, dtype=np.float64)
    present = np.asarray(informative, dtype=bool)
    if tables.ndim != 3 or present.shape != tables.shape[:2] or not len(tables):
        msg = (
            "associations must be (n_runs, n_slots, n_features) and informative (n_runs, n_slots), "
            f"but they are {tables.shape} and {present.shape}."
        )
        raise InputDataError(msg)
    per_run = [
        lsdi(table, informative=mask, total=total, weights=weights, n_null=0).value
        for table, mask in zip(tables, present, strict=True)
    ]
    of_mean = lsdi(
        tables.mean(axis=0),
        informative=present.mean(axis=0) >= 0.5,
        total=total,
        weights=weights,
        n_null=n_null,
        permute=permute,
        seed=seed,
    )
    return RunSeparation(of_mean, np.array(per_run))


class _Parts(NamedTuple):
    value: float
    explained: float
    balance: float
    concentration: float


def _index(table: Floats, *, total: Floats, weights: Floats) -> _Parts:
    """Index, explained, balance and concentration of checked associations."""
    shares = _shares(table, total)  # w
    of_feature = shares.sum(axis=0)  # e
    explained = float(weights @ of_feature)
    if explained == 0:
        return _Parts(0.0, 0.0, 0.0, 0.0)
    split = np.divide(shares, of_feature, out=np.zeros_like(shares), where=of_feature > 0)  # v
    mass = weights * of_feature / explained  # c
    if len(table) < 2:  # ln 1 = 0: one latent shares with none and each feature has one
        return _Parts(0.0, explained, 0.0, 1.0)
    largest = np.log(len(table))
    balance = float(entr(split @ mass).sum() / largest)
    concentration = float(1 - entr(split).sum(axis=0) @ mass / largest)
    value = explained * max(0.0, balance + concentration - 1)
    return _Parts(value, explained, balance, concentration)


def _shares(table: Floats, total: Floats) -> Floats:
    """Share of each latent in a feature, ``(n_latent, n_features)``, 0 for empty features."""
    whole = np.maximum(table.sum(axis=0), total)
    return np.divide(table, whole, out=np.zeros_like(table), where=whole >= MIN_TOTAL)


def _read(
    association: ArrayLike,
    informative: ArrayLike | None,
    *,
    total: ArrayLike | None,
    weights: ArrayLike | None,
) -> tuple[Floats, Floats, Floats]:
    """Informative rows, totals and feature weights (sum 1) of the features that are not NaN."""
    table = np.asarray(association, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape:
        msg = f"association must be (n_latent, n_features), but has shape {table.shape}."
        raise InputDataError(msg)
    scored = ~np.isnan(table).all(axis=0)
    if not ((table[:, scored] >= 0) & np.isfinite(table[:, scored])).all():
        msg = (
            "association must be finite and not negative (columns of NaN only are left out). Pass "
            "variances or squared coefficients, not signed effects."
        )
        raise InputDataError(msg)
    n_latent, n_features = table.shape
    keep: NDArray[np.bool_] = np.asarray(
        np.ones(n_latent) if informative is None else informative, dtype=bool
    )
    ceiling = np.asarray(0.0 if total is None else total, dtype=np.float64)
    mass = np.asarray(np.ones(n_features) if weights is None else weights, dtype=np.float64)
    fits = keep.shape == (n_latent,) and ceiling.shape in ((), (n_features,))
    if not fits or mass.shape != (n_features,):
        msg = (
            f"association is {table.shape}, so informative must have {n_latent} entries, and total "
            f"and weights {n_features}; found {keep.shape}, {ceiling.shape} and {mass.shape}."
        )
        raise InputDataError(msg)
    ceiling = np.broadcast_to(ceiling, n_features)[scored]
    mass = mass[scored]
    has_weight = mass.sum() > 0 or not scored.any()
    if not (ceiling >= 0).all() or not (mass >= 0).all() or not has_weight:
        msg = "total and weights must not be negative, and some scored feature needs a weight."
        raise InputDataError(msg)
    return table[keep][:, scored], ceiling, mass / (mass.sum() or 1.0)
