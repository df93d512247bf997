"""How far closed forms were off where the answer was known, as intervals for what is not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdisent._errors import OptionError
from scdisent.conditions import ConditionTable
from scdisent.effects._conditions import condition_weights, kind_of
from scdisent.effects._groups import AUTO, Seen, chosen_recipe
from scdisent.effects._table import EffectTable, Floats

PRIOR_WEIGHT = 2.0
"""Left-out answers that the spread over all genes counts for in the spread of one."""


def half_width(gaps: Floats, *, level: float) -> Floats:
    r"""Half the width of an interval for each gene, from errors of answers left out.

    .. math:: h_g = q\, s_g, \qquad
              s_g^2 = \frac{\sum_i e_{ig}^2 + k\, \overline{e^2}}{n + k}

    with the errors e of n answers, and q the quantile at ``level`` of :math:`|e_{ig}| / s_{g,-i}`,
    where the spread is taken without answer i (after the jackknife of Barber et al. 2021). If the
    new answer is one more of the same kind it lies inside with about this probability, on average
    over genes. Ours.

    Parameters
    ----------
    gaps
        Errors, ``(n_answers, n_genes)``, at least two rows.
    level
        Probability.

    Returns
    -------
    ``(n_genes,)``; NaN with fewer than two answers.
    """
    n = len(gaps)
    if n < 2:
        return np.full(gaps.shape[1], np.nan)
    squares = np.square(gaps)
    total, overall = squares.sum(axis=0), squares.mean()
    without = np.sqrt((total - squares + PRIOR_WEIGHT * overall) / (n - 1 + PRIOR_WEIGHT))
    tiny = np.finfo(float).tiny
    q = np.quantile(np.abs(gaps) / np.maximum(without, tiny), level)
    width: Floats = q * np.sqrt((total + PRIOR_WEIGHT * overall) / (n + PRIOR_WEIGHT))
    return width


def gaps_of_groups(
    table: EffectTable, condition: str, *, recipe: str = AUTO, reference: str | None = None
) -> Floats:
    """Errors of a recipe on the groups that were seen, each left out, ``(n_groups, n_genes)``."""
    reference = reference or table.control
    recipe = chosen_recipe(table, condition, recipe=recipe, reference=reference)
    seen = Seen.of(table, condition, reference)
    rows = [
        seen.without(i).said(recipe, seen.profiles[i]) - seen.effects[i]
        for i in range(len(seen))
        if len(seen) > 1
    ]
    return np.array(rows).reshape(-1, table.means.shape[-1])


def gaps_of_conditions(
    table: EffectTable,
    condition: str,
    *,
    unseen: str = AUTO,
    conditions: ConditionTable | None = None,
) -> Floats:
    """Errors on conditions that were seen, each left out, of the kind of one that was not.

    A combination is compared with combinations whose parts were seen, a dose with doses between or
    beyond others. Returns ``(n_groups * n_conditions, n_genes)``.
    """
    options: dict[str, Any] = {"control": table.control, "table": conditions, "recipe": unseen}
    kind = kind_of(condition, table.treated, **options)
    rows: list[NDArray[np.float64]] = []
    for own in table.treated:
        known = [name for name in table.treated if name != own]
        try:
            if not known or kind_of(own, known, **options) != kind:
                continue
            weights = condition_weights(own, known, **options)
        except OptionError:  # nothing is known of it without its cells
            continue
        said = sum(w * table.effects(name, table.control) for name, w in weights.items())
        gaps = np.asarray(said - table.effects(own, table.control))
        rows += list(gaps[np.isfinite(gaps).all(axis=1)])
    return np.array(rows).reshape(-1, table.means.shape[-1])
