"""Metrics that hold one factor fixed and look at which codes stay still.

Their sources ask a simulator for new samples with a chosen factor value. Here there are only the
cells at hand: cells of one level, or of one bin of a continuous factor, are those with the factor
fixed. Two things follow. Inside a bin the factor still varies a little. And if factors depend on
each other, fixing one narrows the others, which a simulator would leave alone.
"""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics._checks import Floats, Integers, one_thread
from scdisent.metrics._factors import Discrete, Factor, read

MIN_GROUP_CELLS = 20
"""Levels with fewer cells are left out: ten in each half say little about a variance."""


def irs(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    n_bins: int = 10,
    quantile: float = 0.99,
    discrete: Discrete = None,
) -> float:
    r"""Interventional robustness score: how still a code stands while its factor is fixed.

    .. math::

        \frac{\sum_k w_k \max_f R_{kf}}{\sum_k w_k}, \qquad
        R_{kf} = 1 - \frac{1}{w_k} \operatorname{mean}_v\, Q_{0.99}
            \left(|z_k - E[z_k \mid y_f = v]| \,\middle|\, y_f = v\right), \qquad
        w_k = \max |z_k - E z_k|

    (Suter et al. 2019). A code that moves while its factor is fixed, because other factors or
    noise move it, loses.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``. Latents weigh by their range, so a common scale counts for nothing
        but the relative scale of latents does; constant ones are left out.
    factors
        ``(n_cells, n_factors)``, array or DataFrame.
    n_bins
        A continuous factor is cut into so many bins of equal frequency. Inside a bin it still
        varies: a perfect code of a uniform factor reaches about ``1 - 1 / n_bins``.
    quantile
        Of the deviations, in (0, 1].
    discrete
        Whether factors are categorical: for all, or one for each. Default: text, booleans and
        numbers of at most 10 different values, each in ten cells on average, are.

    Returns
    -------
    In ``[0, 1]``; 0 if all latents are constant. Noise does not give 0: its largest deviation lies
    beyond the quantile. Levels with fewer than 20 cells are left out.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, or a factor has fewer than two levels of 20
        cells.
    OptionError
        If the quantile is outside (0, 1].
    """
    if not 0 < quantile <= 1:
        msg = f"quantile={quantile}, but it must lie in (0, 1]."
        raise OptionError(msg)
    given, known = read(codes, factors, discrete=discrete)
    z = _moving(given)
    if z.shape[1] == 0:
        return 0.0
    groups = [_groups(factor, n_bins=n_bins) for factor in known]
    largest = np.abs(z - z.mean(axis=0)).max(axis=0)  # (n_latent,)
    spread = [
        np.mean([_deviation(z[cells], quantile) for cells in of_factor], axis=0)
        for of_factor in groups
    ]
    robust = 1 - np.min(spread, axis=0) / largest  # best factor of each latent
    return float(np.average(np.maximum(robust, 0), weights=largest))


def factor_vae_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    n_votes: int = 800,
    batch_size: int = 64,
    n_bins: int = 10,
    discrete: Discrete = None,
    seed: int = 0,
) -> float:
    r"""Accuracy with which the stillest code tells which factor was fixed.

    One vote: draw a factor f and cells that share its value; the latent

    .. math:: k^* = \arg\min_k \operatorname{Var}(z_k \mid y_f = v) / \operatorname{Var}(z_k)

    votes for f (Kim and Mnih 2018). Each latent then stands for the factor it had most votes for,
    and the value is the share of new votes that this gets right. Votes to learn from and votes to
    score come from disjoint halves of the cells.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``; constant ones are left out.
    factors
        ``(n_cells, n_factors)``, array or DataFrame, at least two factors.
    n_votes
        In each half.
    batch_size
        Cells of one vote, drawn with replacement from those of the level.
    n_bins
        A continuous factor is cut into so many bins of equal frequency, each taken as one value.
    discrete
        Whether factors are categorical: for all, or one for each. Default: text, booleans and
        numbers of at most 10 different values, each in ten cells on average, are.
    seed
        Of the draws.

    Returns
    -------
    In ``[0, 1]``; about ``1 / n_factors`` by chance; 0 if all latents are constant. Levels with
    fewer than 20 cells are left out.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, there is one factor only, or a factor has
        fewer than two levels of 20 cells.
    """
    given, known = read(codes, factors, discrete=discrete, at_least=2)
    z = _moving(given)
    if z.shape[1] == 0:
        return 0.0
    z = StandardScaler().fit_transform(z)  # so variances are relative to the whole
    rng = np.random.default_rng(seed)
    tables = []
    for half in _halves([_groups(factor, n_bins=n_bins) for factor in known], rng=rng):
        table = np.zeros((z.shape[1], len(known)))
        for f in rng.integers(len(known), size=n_votes):
            level = half[f][rng.integers(len(half[f]))]
            batch = z[rng.choice(level, size=batch_size)]  # (batch_size, n_latent)
            table[batch.var(axis=0).argmin(), f] += 1
        tables.append(table)
    elected = tables[0].argmax(axis=1)  # factor of each latent
    right = tables[1][np.arange(len(elected)), elected].sum()
    return float(right / n_votes)


def beta_vae_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    n_points: int = 400,
    batch_size: int = 64,
    n_bins: int = 10,
    discrete: Discrete = None,
    seed: int = 0,
) -> float:
    r"""Accuracy with which differences of cells that share a factor tell which one they share.

    From Higgins et al. 2017. One point: draw a factor f and ``batch_size`` pairs of cells with
    equal :math:`y_f`; the features are :math:`E|z_{k} - z'_{k}|` over the pairs, standardised, the
    label is f, the classifier is logistic regression. Points to fit and points to score come from
    disjoint halves of the cells. It is lenient: most rotated codes also let a line tell which
    factor was shared.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``.
    factors
        ``(n_cells, n_factors)``, array or DataFrame, at least two factors.
    n_points
        In each half.
    batch_size
        Pairs of one point.
    n_bins
        A continuous factor is cut into so many bins of equal frequency, each taken as one value.
    discrete
        Whether factors are categorical: for all, or one for each. Default: text, booleans and
        numbers of at most 10 different values, each in ten cells on average, are.
    seed
        Of the draws.

    Returns
    -------
    In ``[0, 1]``; about ``1 / n_factors`` by chance. Levels with fewer than 20 cells are left out.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, there is one factor only, or a factor has
        fewer than two levels of 20 cells.
    """
    z, known = read(codes, factors, discrete=discrete, at_least=2)
    rng = np.random.default_rng(seed)
    parts = []
    for half in _halves([_groups(factor, n_bins=n_bins) for factor in known], rng=rng):
        labels = np.arange(n_points) % len(known)
        parts.append((_differences(z, half, labels, size=batch_size, rng=rng), labels))
    with one_thread():
        line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(*parts[0])
        return float(line.score(*parts[1]))


def _differences(
    z: Floats,
    groups: list[list[Integers]],
    labels: Integers,
    *,
    size: int,
    rng: np.random.Generator,
) -> Floats:
    """Mean absolute difference of pairs that share one factor, ``(n_points, n_latent)``."""
    points = np.empty((len(labels), z.shape[1]))
    for f, of_factor in enumerate(groups):
        chosen = labels == f
        first, second = _pairs(of_factor, size=(int(chosen.sum()), size), rng=rng)
        points[chosen] = np.abs(z[first] - z[second]).mean(axis=1)  # over pairs
    return points


def _pairs(
    levels: list[Integers], *, size: tuple[int, int], rng: np.random.Generator
) -> tuple[Integers, Integers]:
    """Random cells, and for each another one of its level."""
    cells = np.concatenate(levels)
    n_cells = np.array([len(level) for level in levels])
    sizes = np.repeat(n_cells, n_cells)  # of the level of each cell
    starts = np.repeat(np.cumsum(n_cells) - n_cells, n_cells)
    first = rng.integers(len(cells), size=size)
    step = rng.integers(1, sizes[first])  # never 0 modulo the size: never the cell itself
    second = starts[first] + (first - starts[first] + step) % sizes[first]
    return cells[first], cells[second]


def _groups(factor: Factor, *, n_bins: int) -> list[Integers]:
    """Cells of each level or bin that is large enough."""
    levels = factor.binned(n_bins, equal="count")
    cells = [np.flatnonzero(levels == level) for level in np.unique(levels)]
    enough = [each for each in cells if len(each) >= MIN_GROUP_CELLS]
    if len(enough) < 2:
        msg = (
            f"Factor {factor.name!r} has {len(enough)} levels of at least {MIN_GROUP_CELLS} cells, "
            "but two are needed. Use fewer bins or more cells, or leave it out."
        )
        raise InputDataError(msg)
    return enough


def _halves(
    groups: list[list[Integers]], *, rng: np.random.Generator
) -> list[list[list[Integers]]]:
    """Split the cells in two and the groups of each factor with them."""
    n_cells = 1 + max(int(level.max()) for of_factor in groups for level in of_factor)
    first = np.zeros(n_cells, dtype=bool)
    first[rng.permutation(n_cells)[: n_cells // 2]] = True
    return [
        [
            [part for level in of_factor if len(part := level[first[level] == side]) > 1]
            for of_factor in groups
        ]
        for side in (True, False)
    ]


def _moving(codes: Floats) -> Floats:
    """Columns that are not constant."""
    return codes[:, np.ptp(codes, axis=0) > 0]


def _deviation(codes: Floats, quantile: float) -> Floats:
    """Quantile of the absolute deviation from the mean, ``(n_latent,)``."""
    return np.quantile(np.abs(codes - codes.mean(axis=0)), quantile, axis=0)
