"""Disentanglement, completeness and informativeness from one predictor for each factor."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LassoCV
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.multioutput import MultiOutputRegressor
from sklearn.preprocessing import StandardScaler

from scdisent._errors import InputDataError, one_of
from scdisent.metrics._checks import Floats, Integers, one_thread
from scdisent.metrics._factors import Discrete, Factor, floor, read
from scdisent.metrics._supervised import level_folds

PREDICTORS = ("boosting", "lasso")
HELD_OUT = 0.25
"""Share of the cells that informativeness is scored on."""


@dataclass(frozen=True)
class DCI:
    """Result of :func:`dci`; each score 1 at best."""

    disentanglement: float
    """Whether each code is important for one factor only, in [0, 1]."""
    completeness: float
    """Whether one code is enough for each factor, in [0, 1]."""
    informativeness: float
    """Mean of ``by_factor``."""
    by_factor: Floats
    """Held-out accuracy (categorical) or R2 (continuous, may be negative), ``(n_factors,)``."""
    importance: Floats
    """Importance of each latent for each factor, ``(n_latent, n_factors)``."""
    floor_disentanglement: float = float("nan")
    """Mean for shuffled factors; NaN if not asked for."""
    floor_completeness: float = float("nan")
    """Mean for shuffled factors; NaN if not asked for."""


def dci(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    predictor: Literal["boosting", "lasso"] = "boosting",
    discrete: Discrete = None,
    n_permutations: int = 0,
    seed: int = 0,
) -> DCI:
    r"""Disentanglement, completeness, informativeness (Eastwood and Williams 2018).

    With importances :math:`R_{kf} \ge 0` of latent k in a predictor of factor f from all latents,

    .. math::

        D = \sum_k \rho_k \left(1 - H_F(R_{k\cdot})\right), \quad
        \rho_k = \frac{\sum_f R_{kf}}{\sum_{kf} R_{kf}}, \qquad
        C = \sum_f \rho'_f \left(1 - H_K(R_{\cdot f})\right),

    entropies :math:`H` of rows and columns scaled to sum 1, in base of their length, and
    :math:`\rho'` the column masses. Informativeness is scored on a quarter of the cells that the
    predictors did not see.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``, at least two latents; standardised here.
    factors
        ``(n_cells, n_factors)``, array or DataFrame, at least two factors.
    predictor
        ``"boosting"``: trees, impurity importances, which also see what is not linear; time grows
        with cells, latents and levels. ``"lasso"``: absolute coefficients, fast, linear only; a
        categorical factor gets one line for each level, the largest of which decides, so middle
        levels of an ordered factor are lost.
    discrete
        Whether factors are categorical: for all, or one for each. Default: text, booleans and
        numbers of at most 10 different values, each in ten cells on average, are.
    n_permutations
        Importances of noise are never even, so noise scores above 0, most of all where the lasso
        keeps a single stray coefficient. With a number above 0, predictors are fitted to so many
        shuffles of the factors too, which gives ``floor_disentanglement`` and
        ``floor_completeness``.
    seed
        Of the split, of the trees and of the shuffles.

    Returns
    -------
    :class:`DCI`. D and C are 0 if no latent is of any importance.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, there are fewer than two latents or factors, a
        factor is constant, or a level has too few cells for the split.
    """
    one_of(predictor, PREDICTORS, "predictor")
    given, known = read(codes, factors, discrete=discrete, at_least=2)
    if given.shape[1] < 2:
        msg = "dci compares latents and needs at least 2 of them, but codes have 1 column."
        raise InputDataError(msg)
    z = StandardScaler().fit_transform(given)

    def fits(order: Integers) -> tuple[Floats, Floats]:
        pairs = [_fit(z, each, order, predictor=predictor, seed=seed) for each in known]
        return np.column_stack([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])

    def parts(order: Integers) -> tuple[float, float]:
        importance = fits(order)[0]
        return concentration(importance), concentration(importance.T)

    with one_thread():
        importance, scores = fits(np.arange(len(z)))
        floors = (float("nan"), float("nan"))
        if n_permutations > 0:
            floors = floor(parts, n_cells=len(z), n_permutations=n_permutations, seed=seed)
    return DCI(
        disentanglement=concentration(importance),
        completeness=concentration(importance.T),
        informativeness=float(scores.mean()),
        by_factor=scores,
        importance=importance,
        floor_disentanglement=float(floors[0]),
        floor_completeness=float(floors[1]),
    )


def concentration(importance: Floats) -> float:
    """Mean over rows, weighted by their sum, of one minus the entropy in base of the columns."""
    mass = importance.sum(axis=1)
    if mass.sum() == 0:
        return 0.0
    used = mass > 0
    shares = importance[used] / mass[used, None]
    entropy = entr(shares).sum(axis=1) / np.log(importance.shape[1])
    return float(np.average(1 - entropy, weights=mass[used]).clip(0, 1))  # clip: rounding


def _fit(
    codes: Floats, factor: Factor, order: Integers, *, predictor: str, seed: int
) -> tuple[Floats, float]:
    """Importances ``(n_latent,)`` and held-out score of one factor, its cells in that order."""
    levels = None if factor.levels is None else factor.levels[order]
    if levels is not None:
        level_folds(levels, name=factor.name, seed=seed)  # refuses levels too rare to split
    train, test = train_test_split(
        np.arange(len(codes)), test_size=HELD_OUT, random_state=seed, stratify=levels
    )
    if predictor == "boosting":
        trees = GradientBoostingRegressor if levels is None else GradientBoostingClassifier
        target = np.asarray(factor.values)[order] if levels is None else levels
        model = trees(random_state=seed).fit(codes[train], target[train])
        return model.feature_importances_, float(model.score(codes[test], target[test]))
    target = (np.asarray(factor.values)[:, None] if levels is None else factor.one_hot())[order]
    lines = MultiOutputRegressor(LassoCV(cv=4)).fit(codes[train], target[train])
    importance = np.sum([np.abs(line.coef_) for line in lines.estimators_], axis=0)  # over levels
    guess = lines.predict(codes[test])
    if levels is None:
        return importance, float(r2_score(target[test], guess))
    return importance, float((guess.argmax(axis=1) == levels[test]).mean())
