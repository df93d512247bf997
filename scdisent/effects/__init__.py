r"""Effects of conditions in closed form: weighted sums of effects that were seen.

The effect of a condition on a group of cells (a cell type, a cell line) is the change of its mean
log-normalised expression. What cannot be looked up is a weighted sum over groups and over
conditions, and the recipes differ in the weights:

.. math:: \hat\delta_{g c} = \sum_{c'} v_{c c'} \sum_{g'} w_{g g'} \, \delta_{g' c'}

``"stacked"`` mixes two of these sums gene by gene with what the group expresses itself. They are
the baselines that every prediction has to beat, and what models lean on where they cannot.
"""

from scdisent.effects._conditions import UNSEEN, condition_weights, predicted_effect
from scdisent.effects._groups import (
    AUTO,
    GROUP_RECIPES,
    GROUP_WEIGHTS,
    chosen_recipe,
    correlations,
    equal_weights,
    group_effect,
    left_out_errors,
    nearest_weights,
    ridge_weights,
    similarity_weights,
    smoother,
)
from scdisent.effects._intervals import gaps_of_conditions, gaps_of_groups, half_width
from scdisent.effects._table import TARGET_SUM, EffectTable, log_normalise

__all__ = [
    "AUTO",
    "GROUP_RECIPES",
    "GROUP_WEIGHTS",
    "TARGET_SUM",
    "UNSEEN",
    "EffectTable",
    "chosen_recipe",
    "condition_weights",
    "correlations",
    "equal_weights",
    "gaps_of_conditions",
    "gaps_of_groups",
    "group_effect",
    "half_width",
    "left_out_errors",
    "log_normalise",
    "nearest_weights",
    "predicted_effect",
    "ridge_weights",
    "similarity_weights",
    "smoother",
]
