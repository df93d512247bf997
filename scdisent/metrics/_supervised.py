"""Codes against known factors: is each factor in one code, and each code about one factor."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from scdisent._errors import InputDataError, one_of
from scdisent.metrics._checks import DEFAULT_FOLDS, Floats, Integers, one_thread
from scdisent.metrics._factors import Discrete, Factor, floor, gap, in_bins, information, read

CORRELATIONS = ("pearson", "spearman")


def mcc(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    method: Literal["pearson", "spearman"] = "pearson",
) -> float:
    r"""Mean correlation coefficient of factors and codes under the best one-to-one matching.

    .. math:: \frac1F \max_\pi \sum_f |\operatorname{corr}(z_{\pi(f)}, y_f)|

    over all injective matchings :math:`\pi` of factors to latents, as used for nonlinear ICA since
    Hyvärinen and Morioka 2016. Not Matthews' coefficient.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``.
    factors
        ``(n_cells, n_factors)``, array or DataFrame, of numbers or of two levels; other text has no
        order to correlate with.
    method
        ``"pearson"`` asks for codes that are linear in the factors, ``"spearman"`` for monotone
        ones.

    Returns
    -------
    In ``[0, 1]``. A factor that finds no latent, because there are fewer latents than factors or
    they are constant, counts as 0. Noise gives about the largest of ``n_latent`` correlations of
    size ``1 / sqrt(n_cells)``.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, a factor is constant or is of text with more
        than two levels.
    """
    one_of(method, CORRELATIONS, "method")
    z, known = read(codes, factors, discrete=None)
    unordered = [factor.name for factor in known if factor.values is None]
    if unordered:
        msg = (
            f"Factors {unordered} are text with more than two levels: mcc needs numbers. Leave "
            "them out, or ask dci or mig."
        )
        raise InputDataError(msg)
    truth = np.column_stack([factor.values for factor in known if factor.values is not None])
    found = np.abs(cross_correlation(z, truth, method=method))  # (n_latent, n_factors)
    return float(found[linear_sum_assignment(found, maximize=True)].sum() / len(known))


def mig(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    n_bins: int = 20,
    discrete: Discrete = None,
    n_permutations: int = 0,
    seed: int = 0,
) -> float:
    r"""Mutual information gap: by how much the best code of a factor beats the second best.

    .. math:: \frac1F \sum_f \frac{I(z_{k^*}; y_f) - I(z_{k'}; y_f)}{H(y_f)}

    (Chen et al. 2018) with the two latents of most information on factor f, codes and continuous
    factors in bins of equal width between their extremes. A factor that is held twice gives 0,
    however well.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``.
    factors
        ``(n_cells, n_factors)``, array or DataFrame.
    n_bins
        Of each code and continuous factor. The value depends on it.
    discrete
        Whether factors are categorical: for all, or one for each. Default: text, booleans and
        numbers of at most 10 different values, each in ten cells on average, are.
    n_permutations
        With few cells for each pair of bins, information is biased upwards, and so is the gap of
        noise. With a number above 0, the mean value :math:`m_0` for shuffled factors is the new
        zero: :math:`(m - m_0) / (1 - m_0)`.
    seed
        Of the shuffles.

    Returns
    -------
    In ``[0, 1]``; adjusted for chance, also slightly below 0. One latent alone competes with 0.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, or a factor is constant.
    """
    given, known = read(codes, factors, discrete=discrete)
    z = in_bins(given, n_bins=n_bins)
    y = np.column_stack([factor.binned(n_bins) for factor in known])
    entropy = np.array([information(each[:, None], each[:, None])[0, 0] for each in y.T])

    def value(order: Integers) -> float:
        return float((gap(information(z, y[order])) / entropy).mean())

    found = value(np.arange(len(y)))
    if n_permutations < 1:
        return found
    by_chance = floor(value, n_cells=len(y), n_permutations=n_permutations, seed=seed)
    return float((found - by_chance) / (1 - by_chance))


def modularity(
    codes: ArrayLike, factors: ArrayLike, *, n_bins: int = 20, discrete: Discrete = None
) -> float:
    r"""Whether each code carries information on one factor only.

    .. math::

        \frac1K \sum_k 1 - \frac{\sum_f I_{kf}^2 - \max_f I_{kf}^2}{(F - 1) \max_f I_{kf}^2}

    (Ridgeway and Mozer 2018) with mutual informations :math:`I` in bins of equal width, as in
    :func:`mig`. A code without information counts as 0, so dead latents lower the value: leave them
    out first if they should not. It does not say how much is known (see :func:`explicitness`), and
    two codes may share one factor.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``.
    factors
        ``(n_cells, n_factors)``, array or DataFrame, at least two factors.
    n_bins
        Of each code and continuous factor.
    discrete
        Whether factors are categorical: for all, or one for each. Default: text, booleans and
        numbers of at most 10 different values, each in ten cells on average, are.

    Returns
    -------
    In ``[0, 1]``. Noise is above 0: its informations are small, but never quite equal.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, a factor is constant, or there is only one.
    """
    given, known = read(codes, factors, discrete=discrete, at_least=2)
    y = np.column_stack([factor.binned(n_bins) for factor in known])
    squared = information(in_bins(given, n_bins=n_bins), y) ** 2  # (n_latent, n_factors)
    largest = squared.max(axis=1)
    active = largest > 1e-20  # squared nats: below, the logarithms' rounding
    rest = squared.sum(axis=1) - largest
    share = np.divide(rest, largest, out=np.ones_like(rest), where=active) / (len(known) - 1)
    return float(np.where(active, 1 - share, 0).mean())


def explicitness(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    n_bins: int = 5,
    discrete: Discrete = None,
    seed: int = 0,
) -> float:
    r"""How well all codes together tell the levels of a factor by a line: one-vs-rest AUROC.

    Mean over factors and levels of the AUROC of held-out probabilities of balanced logistic
    regression on standardised codes. The companion of :func:`modularity` (Ridgeway and Mozer 2018).

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``.
    factors
        ``(n_cells, n_factors)``, array or DataFrame.
    n_bins
        A continuous factor is cut into so many bins of equal frequency.
    discrete
        Whether factors are categorical: for all, or one for each. Default: text, booleans and
        numbers of at most 10 different values, each in ten cells on average, are.
    seed
        Of the folds.

    Returns
    -------
    In ``[0, 1]``; 0.5 is chance.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, or a level has too few cells for the folds.
    """
    z, known = read(codes, factors, discrete=discrete)
    line = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=500)
    )
    scores = []
    with one_thread():
        for factor in known:
            y = factor.binned(n_bins, equal="count")
            folds = level_folds(y, name=factor.name, seed=seed)
            chance = cross_val_predict(line, z, y, cv=folds, method="predict_proba")
            each = [roc_auc_score(y == v, chance[:, i]) for i, v in enumerate(np.unique(y))]
            scores.append(np.mean(each))
    return float(np.mean(scores))


def sap(codes: ArrayLike, factors: ArrayLike, *, discrete: Discrete = None, seed: int = 0) -> float:
    r"""Separated attribute predictability: how far the best single code leads the second best.

    .. math:: \frac1F \sum_f S_{k^* f} - S_{k' f}

    (Kumar et al. 2018) with :math:`S_{kf}` the held-out :math:`R^2` of a line from latent k alone
    to a continuous factor, or the held-out balanced accuracy of a linear support vector machine (C
    = 0.01, balanced classes) for a categorical one. The machine separates one level from the rest
    at one threshold, so middle levels of an ordered factor are out of its reach, as in the source:
    such a factor does not reach 1 in a perfect code.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``.
    factors
        ``(n_cells, n_factors)``, array or DataFrame.
    discrete
        Whether factors are categorical: for all, or one for each. Default: text, booleans and
        numbers of at most 10 different values, each in ten cells on average, are.
    seed
        Of the folds.

    Returns
    -------
    In ``[0, 1]``; below 1 for a categorical factor, since also a latent that knows nothing reaches
    one in the number of levels. One latent alone competes with chance.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, a factor is constant, or a level has too few
        cells for the folds.
    """
    given, known = read(codes, factors, discrete=discrete)
    z = StandardScaler().fit_transform(given)
    with one_thread():
        scores = [_predictability(z, factor, seed=seed) for factor in known]
    return float(np.mean([gap(each[:, None])[0] for each in scores]))


def _predictability(codes: Floats, factor: Factor, *, seed: int) -> Floats:
    """Held-out score of each latent alone, and of none, ``(n_latent + 1,)``."""
    if factor.levels is None:
        folds = KFold(DEFAULT_FOLDS, shuffle=True, random_state=seed)
        y = factor.values
        line = LinearRegression()
        guesses = [cross_val_predict(line, z[:, None], y, cv=folds) for z in codes.T]
        return np.array([*(max(0.0, r2_score(y, guess)) for guess in guesses), 0.0])
    folds = level_folds(factor.levels, name=factor.name, seed=seed)
    machine = LinearSVC(C=0.01, class_weight="balanced", dual=False)
    chance = 1 / len(factor.level_names)
    scores = [
        balanced_accuracy_score(
            factor.levels, cross_val_predict(machine, z[:, None], factor.levels, cv=folds)
        )
        for z in codes.T
    ]
    return np.maximum([*scores, chance], chance)


def level_folds(levels: Integers, *, name: str, seed: int) -> StratifiedKFold:
    """Folds that each hold every level, or an error that names the factor."""
    rarest = np.unique(levels, return_counts=True)[1].min()
    if rarest < 2 * DEFAULT_FOLDS:
        msg = (
            f"A level of factor {name!r} has {rarest} cells; fitting and scoring on different "
            f"cells needs {2 * DEFAULT_FOLDS}. Leave the level out, or pass discrete=False if the "
            "factor is a number."
        )
        raise InputDataError(msg)
    return StratifiedKFold(DEFAULT_FOLDS, shuffle=True, random_state=seed)


def cross_correlation(x: Floats, y: Floats, *, method: str) -> Floats:
    """Correlation of every column of x with every column of y; 0 where one is constant."""
    if method == "spearman":
        x, y = rankdata(x, axis=0), rankdata(y, axis=0)
    unit = [StandardScaler().fit_transform(each) for each in (x, y)]
    return unit[0].T @ unit[1] / len(x)
