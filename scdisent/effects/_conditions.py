"""Effects over conditions: what one without cells does."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scdisent._errors import OptionError, one_of
from scdisent._names import same_set
from scdisent.conditions import ConditionTable
from scdisent.effects._groups import AUTO, group_effect, smoother
from scdisent.effects._table import EffectTable, Floats

UNSEEN = ("auto", "additive", "dose", "mean", "nearest", "ridge")
"""Ways to make up a condition without cells."""


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
    if recipe == "additive":
        msg = f"unseen='additive' adds the parts of a combination, and {condition!r} is none."
        raise OptionError(msg)
    has_row = table is not None and table.is_single(condition)
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


def kind_of(
    condition: str,
    known: Sequence[str],
    *,
    control: str,
    table: ConditionTable | None = None,
    recipe: str = "auto",
) -> str:
    """What kind of guess a condition without cells needs: two of a kind have like errors."""
    separator = "+" if table is None else table.separator
    parts = condition.split(separator)
    if recipe in ("auto", "additive") and len(parts) > 1 and not set(parts) - {*known, control}:
        return "additive"
    if recipe in ("auto", "dose") and table is not None and table.is_single(condition):
        weights = _dose_weights(condition, known, table)
        if weights:
            return "dose between" if min(weights.values()) >= 0 else "dose beyond"
    return recipe


def _dose_weights(condition: str, known: Sequence[str], table: ConditionTable) -> dict[str, float]:
    """Interpolation in log(1 + dose) along conditions that differ in nothing but the dose."""
    row = table.row(condition)
    alike = [name for name in known if table.is_single(name)]
    if row != condition:  # "drug@dose": the same drug, whatever else has the same columns
        same = [name for name in alike if table.row(name) == row]
    elif table.dose is not None:
        others = table.frame.drop(columns=table.dose)
        if table.embedding is not None:
            others = others.join(table.embedding.add_prefix("embedding "))
        same = [name for name in alike if others.loc[table.row(name)].equals(others.loc[row])]
    else:
        return {}
    doses = [table.dose_of(name) for name in same]
    steps = sorted({*doses, 0.0})
    x = np.log1p(steps)
    if len(steps) < 2:
        return {}
    at = float(np.log1p(table.dose_of(condition)))
    right = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
    share = (at - x[right - 1]) / (x[right] - x[right - 1])
    of_step = {steps[right - 1]: 1 - share, steps[right]: share}
    return {
        name: float(of_step[dose]) / doses.count(dose)  # dose zero has no effect
        for name, dose in zip(same, doses, strict=True)
        if dose > 0 and dose in of_step
    }


def _feature_weights(
    condition: str,
    known: Sequence[str],
    table: ConditionTable,
    control: str,
    recipe: str,
    n_neighbors: int,
) -> dict[str, float]:
    described = [name for name in known if table.is_single(name)]
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
    recipe: str = AUTO,
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
        Seen or unseen, its parts in any order.
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
    separator = "+" if conditions is None else conditions.separator
    condition = same_set(condition, table.conditions, control=table.control, separator=separator)
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
