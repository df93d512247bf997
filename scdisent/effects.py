r"""Effects of conditions in closed form: weighted sums of effects that were seen.

The effect of a condition on a group of cells (a cell type, a cell line) is the change of its mean
log-normalised expression. What cannot be looked up is a weighted sum over groups and over
conditions, and the recipes of this file differ in the weights:

.. math:: \hat\delta_{g c} = \sum_{c'} v_{c c'} \sum_{g'} w_{g g'} \, \delta_{g' c'}

They are the baselines that every prediction has to beat, and what models lean on where they cannot.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scdisent._errors import InputDataError, OptionError, one_of
from scdisent.conditions import ConditionTable

Floats = NDArray[np.float64]
TARGET_SUM = 1e4
TEMPERATURE = 0.05
"""Of the similarity weights, in units of Pearson's correlation."""
N_COMPONENTS = 3
"""Of the ridge over groups: directions in which groups differ."""


def log_normalise(counts: Any) -> Any:
    """``log(1 + counts per 10,000)`` of each cell, dense or sparse as given."""
    if not sparse.issparse(counts):
        counts = np.asarray(counts, dtype=np.float64)
        return np.log1p(counts * (TARGET_SUM / counts.sum(axis=1, keepdims=True).clip(1e-12)))
    counts = counts.tocsr().astype(np.float64)
    scale = TARGET_SUM / np.asarray(counts.sum(axis=1)).ravel().clip(1e-12)
    return (sparse.diags(scale) @ counts).tocsr().log1p()


@dataclass(frozen=True)
class EffectTable:
    """Mean expression of each group under each condition.

    ``means`` is ``(n_groups, n_conditions, n_genes)`` of log-normalised expression and ``n_cells``
    ``(n_groups, n_conditions)``; without cells the mean is NaN.
    """

    groups: tuple[str, ...]
    conditions: tuple[str, ...]
    control: str
    means: Floats
    n_cells: NDArray[np.int64]

    @classmethod
    def of_cells(
        cls,
        expression: Any,
        group: Sequence[Any] | NDArray[Any],
        condition: Sequence[Any] | NDArray[Any],
        *,
        control: str,
    ) -> "EffectTable":
        """Average cells, ``(n_cells, n_genes)`` of log-normalised expression, dense or sparse."""
        row, groups = pd.factorize(np.asarray(group).astype(str), sort=True)
        column, conditions = pd.factorize(np.asarray(condition).astype(str), sort=True)
        if control not in conditions:
            msg = f"control={control!r} is not among the conditions: {conditions.tolist()}."
            raise InputDataError(msg)
        shape = (len(groups), len(conditions))
        cell = row * shape[1] + column
        member = sparse.csr_matrix(
            (np.ones(len(cell)), (cell, np.arange(len(cell)))),
            shape=(shape[0] * shape[1], len(cell)),
        )
        n_cells = np.bincount(cell, minlength=member.shape[0])
        sums = member @ expression
        sums = sums.toarray() if sparse.issparse(sums) else np.asarray(sums)
        with np.errstate(invalid="ignore"):
            means = (sums / n_cells[:, None]).reshape(*shape, -1)
        names = tuple(map(str, groups)), tuple(map(str, conditions))
        return cls(*names, control, means, n_cells.reshape(shape))

    @property
    def treated(self) -> list[str]:
        """Conditions other than the control."""
        return [name for name in self.conditions if name != self.control]

    def profiles(self, reference: str) -> Floats:
        """Mean expression of all groups under one condition, ``(n_groups, n_genes)``."""
        return self.means[:, self.conditions.index(reference)]

    def effects(self, condition: str, reference: str) -> Floats:
        """Change of the mean from ``reference`` to ``condition``, ``(n_groups, n_genes)``."""
        return self.profiles(condition) - self.profiles(reference)


# ------------------------------------------------------------------ over groups


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


AUTO = "auto"
"""The recipe of :data:`GROUP_WEIGHTS` that would have predicted the groups of training best."""
FEWEST_GROUPS = 3
"""That recipes can be compared on."""


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
    reference = reference or table.control
    effects, profiles = table.effects(condition, reference), table.profiles(reference)
    known = np.flatnonzero(np.isfinite(effects[:, 0]))
    if len(known) < FEWEST_GROUPS:
        return dict.fromkeys(GROUP_WEIGHTS, float("nan"))
    errors = {}
    for name, weigh in GROUP_WEIGHTS.items():
        gaps = []
        for own in known:
            others = known[known != own]
            said = weigh(profiles[others], profiles[own]) @ effects[others]
            gaps.append(np.square(said - effects[own]).mean())
        errors[name] = float(np.mean(gaps))
    return errors


def chosen_recipe(
    table: EffectTable, condition: str, *, recipe: str, reference: str | None = None
) -> str:
    """The recipe named, or for ``"auto"`` the one of the smallest :func:`left_out_errors`."""
    one_of(recipe, (*GROUP_WEIGHTS, AUTO), "recipe")
    if recipe != AUTO:
        return recipe
    errors = left_out_errors(table, condition, reference=reference)
    names = [name for name in errors if np.isfinite(errors[name])]
    return min(names, key=errors.__getitem__) if names else "weighted"


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
        Seen under it: its own effect, unless the recipe is ``"mean"``. Others get a weighted sum.
    recipe
        Key of :data:`GROUP_WEIGHTS`, or ``"auto"``; see :func:`chosen_recipe`.
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
    effects, profiles = table.effects(condition, reference), table.profiles(reference)
    known: NDArray[np.bool_] = np.isfinite(effects[:, 0])
    if not known.any():
        msg = f"no group of training was seen under both {reference!r} and {condition!r}."
        raise InputDataError(msg)
    if group in table.groups:
        row = table.groups.index(group)
        if known[row] and takes_own:
            return effects[row]
        profile = profiles[row] if profile is None else profile
    if profile is None or np.isnan(profile).any():
        msg = f"group {group!r} was not in training under {reference!r}: give its profile."
        raise InputDataError(msg)
    weights = GROUP_WEIGHTS[recipe](profiles[known], np.asarray(profile, dtype=np.float64))
    return weights @ effects[known]


# ------------------------------------------------------------------ over conditions

UNSEEN = ("auto", "additive", "dose", "mean", "nearest", "ridge")


def condition_weights(
    condition: str,
    known: Sequence[str],
    *,
    control: str,
    table: ConditionTable | None = None,
    recipe: str = "auto",
    n_neighbors: int = 5,
    separator: str = "+",
) -> dict[str, float]:
    """Conditions of training that stand for one without cells, with weights.

    Parameters
    ----------
    condition
        Without cells.
    known
        Conditions of training but the control.
    control
        Whose effect is zero.
    table
        What is known of the conditions.
    recipe
        ``"additive"``: sum of the parts of ``"A+B"``; ``"dose"``: linear in log(1 + dose) between
        the neighbouring doses of the same row otherwise, with zero at zero, and on beyond the
        last two; ``"mean"`` of all; ``"nearest"``: mean of the ``n_neighbors`` nearest by the
        table's features; ``"ridge"`` on those features. ``"auto"``: the first of additive, dose,
        ridge, mean that can be told.
    n_neighbors
        Of ``"nearest"``.
    separator
        Between the parts of a combination.

    Raises
    ------
    OptionError
        If the recipe needs what is not known of the condition.
    """
    one_of(recipe, UNSEEN, "unseen")
    parts = condition.split(table.separator if table is not None else separator)
    if recipe in ("auto", "additive") and len(parts) > 1:
        missing = [part for part in parts if part not in known and part != control]
        if not missing:
            return {part: float(parts.count(part)) for part in parts if part != control}
        if recipe == "additive":
            msg = f"parts {missing} of {condition!r} have no cells in training: {list(known)[:10]}."
            raise OptionError(msg)
    has_row = table is not None and condition in table.frame.index
    if recipe == "auto" and not has_row:
        recipe = "mean"
    if recipe == "mean":
        return dict.fromkeys(known, 1 / len(known))
    if table is None or not has_row:
        msg = (
            f"unseen={recipe!r} reads a row of the condition table for {condition!r}. Run "
            "scdisent.setup_anndata(..., condition_table=...), or choose 'mean' or 'additive'."
        )
        raise OptionError(msg)
    if recipe in ("auto", "dose"):
        found = _dose_weights(condition, known, table)
        if found:
            return found
        if recipe == "dose":
            msg = (
                f"no condition of training differs from {condition!r} in nothing but the dose. "
                "Name the dose column (ConditionTable(..., dose=)), or choose unseen='mean'."
            )
            raise OptionError(msg)
    try:
        return _feature_weights(condition, known, table, control, recipe, n_neighbors)
    except OptionError:  # nothing but a category that no condition of training has
        if recipe != "auto":
            raise
        return dict.fromkeys(known, 1 / len(known))


def _dose_weights(condition: str, known: Sequence[str], table: ConditionTable) -> dict[str, float]:
    """Interpolation in log(1 + dose) along rows that differ in nothing but the dose."""
    if table.dose is None:
        return {}
    frame = table.frame
    others = frame.drop(columns=table.dose)
    if table.embedding is not None:
        others = others.join(table.embedding.add_prefix("embedding "))
    own = others.loc[condition]
    same = [name for name in known if name in others.index and others.loc[name].equals(own)]
    x = np.log1p(frame.loc[same, table.dose].astype(float).to_numpy())
    order = np.argsort(x)
    names, x = ["", *np.array(same, dtype=object)[order]], np.r_[0.0, x[order]]
    if len(names) < 2:
        return {}
    at = float(np.log1p(float(frame.at[condition, table.dose])))
    right = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
    share = (at - x[right - 1]) / max(x[right] - x[right - 1], 1e-12)
    weights = {names[right - 1]: 1 - share, names[right]: share}
    weights.pop("", None)  # dose zero has no effect
    return weights


def _feature_weights(
    condition: str,
    known: Sequence[str],
    table: ConditionTable,
    control: str,
    recipe: str,
    n_neighbors: int,
) -> dict[str, float]:
    described = [name for name in known if name in table.frame.index]
    if not described:
        return dict.fromkeys(known, 1 / len(known))
    coded = table.encode([*described, condition], like=described, control=control)
    features = coded.features[:, 0, 1:].astype(np.float64)
    if recipe == "nearest":
        distance = np.linalg.norm(features[:-1] - features[-1], axis=1)
        near = np.argsort(distance, kind="stable")[:n_neighbors]
        return {described[i]: 1 / len(near) for i in near}
    # Leave-one-out would choose the penalty by effects; the mean squared norm needs none.
    penalty = float(np.square(features[:-1] - features[:-1].mean(axis=0)).sum(axis=1).mean())
    weights = smoother(features[:-1], features[-1], penalty=penalty)
    return dict(zip(described, weights.tolist(), strict=True))


def predicted_effect(
    table: EffectTable,
    condition: str,
    *,
    group: str,
    reference: str | None = None,
    recipe: str = "ridge",
    unseen: str = "auto",
    conditions: ConditionTable | None = None,
    profile: Floats | None = None,
    n_neighbors: int = 5,
) -> Floats:
    """Effect of any condition on any group, ``(n_genes,)``: both recipes of this file together.

    Parameters
    ----------
    table
        Of training.
    condition
        Seen or unseen.
    group, recipe, profile
        As in :func:`group_effect`.
    reference
        What the effect starts from; None: the control.
    unseen, conditions, n_neighbors
        As in :func:`condition_weights`, for a condition without cells.

    Raises
    ------
    InputDataError, OptionError
        Of the two functions.
    """
    shared: dict[str, Any] = {"group": group, "recipe": recipe}
    reference = reference or table.control
    if condition in table.conditions:
        return group_effect(table, condition, reference=reference, profile=profile, **shared)
    weights = condition_weights(
        condition,
        table.treated,
        control=table.control,
        table=conditions,
        recipe=unseen,
        n_neighbors=n_neighbors,
    )
    effect = np.zeros(table.means.shape[-1])
    for name, weight in weights.items():
        effect += weight * group_effect(table, name, profile=profile, **shared)
    if reference != table.control:
        effect -= group_effect(table, reference, profile=profile, **shared)
    return effect
