"""Effects over groups: what a condition does to a group that was not seen under it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from sklearn.linear_model import RidgeCV

from scdisent._errors import InputDataError, one_of
from scdisent.effects._table import EffectTable, Floats

TEMPERATURE = 0.05
"""Of the similarity weights, in units of Pearson's correlation."""
N_COMPONENTS = 3
"""Of the ridge over groups: directions in which groups differ."""


def equal_weights(profiles: Floats, target: Floats) -> Floats:
    """Mean shift: every group counts the same."""
    return np.full(len(profiles), 1 / len(profiles))


def similarity_weights(profiles: Floats, target: Floats) -> Floats:
    r"""Softmax of Pearson's correlation with the target's profile over :data:`TEMPERATURE`."""
    r = correlations(profiles, target)
    weights = np.exp((r - r.max()) / TEMPERATURE)
    return weights / weights.sum()


def nearest_weights(profiles: Floats, target: Floats) -> Floats:
    """All weight on the group whose profile correlates most."""
    weights = np.zeros(len(profiles))
    weights[correlations(profiles, target).argmax()] = 1
    return weights


def correlations(profiles: Floats, target: Floats) -> Floats:
    """Pearson's correlation of each profile with the target's, ``(n_groups,)``."""
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    own = target - target.mean()
    size = np.linalg.norm(centred, axis=1) * np.linalg.norm(own)
    return (centred @ own) / np.maximum(size, 1e-12)


def ridge_weights(profiles: Floats, target: Floats) -> Floats:
    r"""Ridge regression of effects on the first principal components of the profiles.

    .. math:: w = \tfrac1n \mathbf 1 + (f_* - \bar f)^T (F_c^T F_c + \lambda I)^{-1} F_c^T

    with the scores F of the groups, :math:`f_*` of the target, and :math:`\lambda` the median
    squared singular value. A prediction of ridge regression is a weighted sum of what it was
    fitted to; weights may be negative and sum to one.
    """
    both = np.vstack([profiles, target])
    centred = both - both.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    n_kept = min(N_COMPONENTS, len(profiles))
    scores = left[:, :n_kept] * singular[:n_kept]
    return smoother(scores[:-1], scores[-1], penalty=float(np.median(singular[:n_kept] ** 2)))


def smoother(features: Floats, target: Floats, *, penalty: float) -> Floats:
    """Weights of ridge regression with an intercept, ``(n,)``, for features ``(n, k)``."""
    mean = features.mean(axis=0)
    centred, offset = features - mean, target - mean
    gram = centred.T @ centred + max(penalty, 1e-12) * np.eye(len(offset))
    weights: Floats = 1 / len(features) + centred @ np.linalg.solve(gram, offset)
    return weights


GROUP_WEIGHTS: Mapping[str, Callable[[Floats, Floats], Floats]] = MappingProxyType(
    {
        "ridge": ridge_weights,
        "weighted": similarity_weights,
        "nearest": nearest_weights,
        "mean": equal_weights,
    }
)
"""Recipes over groups: profiles ``(n_groups, n_genes)`` and the target's -> weights."""


# ------------------------------------------------------------------ learned from the groups

STACKED, FALLBACK = "stacked", "weighted"
FLOOR = 0.05
"""Counts per 10,000 that are added before ratios are taken."""
FEW_CELLS = 100
"""At which a group counts half in what is learned from it."""
PENALTIES = np.logspace(-2, 4, 13)
FEWEST_CELLS = 10
"""Of a group under either condition, for its own effect to be taken."""
FEWEST_GROUPS = 3
"""That recipes can be compared on, or learned from."""


@dataclass(frozen=True)
class Seen:
    """Groups with enough cells under both conditions; with any, where none has enough."""

    profiles: Floats
    """Under the reference, ``(n_groups, n_genes)``."""
    effects: Floats
    n_cells: Floats
    """In the smaller of both samples, ``(n_groups,)``."""
    is_log: bool

    @classmethod
    def of(cls, table: EffectTable, condition: str, reference: str) -> "Seen":
        """Those of a table."""
        effects = table.effects(condition, reference)
        known = np.isfinite(effects[:, 0])
        columns = [table.conditions.index(name) for name in (condition, reference)]
        sizes = table.n_cells[:, columns].min(axis=1).astype(np.float64)
        is_sure = known & (sizes >= FEWEST_CELLS)
        known = is_sure if is_sure.any() else known
        return cls(table.profiles(reference)[known], effects[known], sizes[known], table.is_log)

    def __len__(self) -> int:
        return len(self.profiles)

    def without(self, group: int) -> "Seen":
        """All but one."""
        kept = np.arange(len(self)) != group
        return Seen(self.profiles[kept], self.effects[kept], self.n_cells[kept], self.is_log)

    def said(self, recipe: str, target: Floats) -> Floats:
        """Effect on a group with the profile ``target``, ``(n_genes,)``."""
        if recipe == STACKED:
            return stacked_effect(self, target)
        return GROUP_WEIGHTS[recipe](self.profiles, target) @ self.effects


def stacked_effect(seen: Seen, target: Floats) -> Floats:
    r"""Gene-wise mixture of recipes, learned on the groups left out in turn.

    .. math:: \hat\delta = a_0 + a_1 \delta^{ridge} + a_2 \delta^{weighted}
        + a_3 \big(\log(1 + \rho\, e^{\Delta}) - x\big) + a_4 (x - \bar x) + a_5 x

    with the group's profile x, that of the others :math:`\bar x` (weighted by similarity), and the
    same change as a ratio of rates: :math:`\rho\, e^\Delta`, where :math:`\rho = e^x - 1` and
    :math:`\Delta` is the log ratio of the others' rates. A gene that only this group expresses
    changes in proportion to its expression, which sums of other groups' effects cannot say. One
    set of a for all genes, by ridge regression with the penalty of smallest generalised
    cross-validation error. Ours. With fewer than :data:`FEWEST_GROUPS` groups: ``"weighted"``.
    """
    if len(seen) < FEWEST_GROUPS:
        return seen.said(FALLBACK, target)
    inputs = [_stack_features(seen.without(i), seen.profiles[i]) for i in range(len(seen))]
    features = np.concatenate(inputs)
    scale = np.maximum(features.std(axis=0), 1e-12)
    weight = np.repeat(seen.n_cells / (seen.n_cells + FEW_CELLS), seen.effects.shape[1])
    fit = RidgeCV(alphas=PENALTIES).fit(features / scale, seen.effects.ravel(), weight)
    found: Floats = fit.predict(_stack_features(seen, target) / scale)
    return found


def _stack_features(seen: Seen, target: Floats) -> Floats:
    """What the mixture reads of each gene, ``(n_genes, n_features)``."""
    weights = similarity_weights(seen.profiles, target)
    before, change = weights @ seen.profiles, weights @ seen.effects
    columns = [seen.said("ridge", target), change, target - before, target]
    if seen.is_log:
        own, here, there = (
            np.expm1(np.maximum(x, 0)) + FLOOR for x in (target, before, before + change)
        )
        columns.append(np.log1p(np.maximum(own * there / here - FLOOR, 0)) - target)
    return np.stack(columns, axis=1)


GROUP_RECIPES = (STACKED, *GROUP_WEIGHTS)
"""Ways to make up the effect on a group, of which those in :data:`GROUP_WEIGHTS` are linear."""


AUTO = "auto"
"""The recipe of :data:`GROUP_RECIPES` that would have predicted the groups of training best."""


def left_out_errors(
    table: EffectTable, condition: str, *, reference: str | None = None
) -> dict[str, float]:
    """Squared error of each recipe, averaged over genes and over groups left out in turn.

    Parameters
    ----------
    table
        Of training.
    condition
        One that some groups were seen under.
    reference
        What effects start from; None: the control.

    Returns
    -------
    By recipe; NaN with fewer than :data:`FEWEST_GROUPS` groups seen under both conditions.
    """
    seen = Seen.of(table, condition, reference or table.control)
    if len(seen) < FEWEST_GROUPS:
        return dict.fromkeys(GROUP_RECIPES, float("nan"))
    others = [seen.without(i) for i in range(len(seen))]

    def error(recipe: str) -> float:
        gaps = [
            np.square(rest.said(recipe, profile) - effect).mean()
            for rest, profile, effect in zip(others, seen.profiles, seen.effects, strict=True)
        ]
        return float(np.mean(gaps))

    errors = {recipe: error(recipe) for recipe in GROUP_RECIPES}
    if len(seen) - 1 < FEWEST_GROUPS:  # with one left out it was not stacking at all
        errors[STACKED] = float("nan")
    return errors


def chosen_recipe(
    table: EffectTable, condition: str, *, recipe: str, reference: str | None = None
) -> str:
    """The recipe named, or for ``"auto"`` the one of the smallest :func:`left_out_errors`."""
    one_of(recipe, (*GROUP_RECIPES, AUTO), "recipe")
    if recipe != AUTO:
        return recipe
    asked = (condition, reference or table.control)
    if asked not in table.chosen:  # a prediction asks again for each group of cells
        errors = left_out_errors(table, condition, reference=reference)
        names = [name for name in errors if np.isfinite(errors[name])]
        table.chosen[asked] = min(names, key=errors.__getitem__) if names else FALLBACK
    return table.chosen[asked]


def group_effect(
    table: EffectTable,
    condition: str,
    *,
    group: str,
    recipe: str = AUTO,
    reference: str | None = None,
    profile: Floats | None = None,
) -> Floats:
    """Effect of a condition of training on a group, ``(n_genes,)``.

    Parameters
    ----------
    table
        Of training.
    condition
        One that some group was seen under.
    group
        Seen under it with at least :data:`FEWEST_CELLS` cells: its own effect, unless the recipe is
        ``"mean"``. Others get what the recipe makes of those that were seen.
    recipe
        One of :data:`GROUP_RECIPES`, or ``"auto"``; see :func:`chosen_recipe`.
    reference
        What the effect starts from; None: the control.
    profile
        Mean expression of the group under the reference, if training did not see it.

    Raises
    ------
    InputDataError
        If no group was seen under both conditions, or the group's profile is not known.
    """
    reference = reference or table.control
    takes_own = recipe != "mean"
    recipe = chosen_recipe(table, condition, recipe=recipe, reference=reference)
    seen = Seen.of(table, condition, reference)
    if not len(seen):
        msg = f"no group of training was seen under both {reference!r} and {condition!r}."
        raise InputDataError(msg)
    if group in table.groups:
        row = table.groups.index(group)
        effect = table.effects(condition, reference)[row]
        columns = [table.conditions.index(name) for name in (condition, reference)]
        is_sure = table.n_cells[row, columns].min() >= FEWEST_CELLS or len(seen) == 1
        if takes_own and is_sure and np.isfinite(effect[0]):
            return effect
        profile = table.profiles(reference)[row] if profile is None else profile
    if profile is None or np.isnan(profile).any():
        msg = f"group {group!r} was not in training under {reference!r}: give its profile."
        raise InputDataError(msg)
    return seen.said(recipe, np.asarray(profile, dtype=np.float64))
