"""Conditions with a dose: the name that the two columns of a cell make together."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from scdisent.conditions import ConditionTable, condition_names
from scdisent.data import _registry as reg

DOSED = "_scvi_condition_at_dose"
"""Column of ``obs`` that setup registers where there is a dose."""


def conditions_of(obs: pd.DataFrame, registry: Mapping[str, Any]) -> "pd.Series[Any]":
    """Condition of each cell of a query, in the names of a registry."""
    return condition_names(
        obs,
        condition_key=reg.setup_argument(registry, "condition_key"),
        dose_key=reg.setup_argument(registry, "dose_key"),
        control=reg.setup_argument(registry, "control"),
        separator=(reg.setup_argument(registry, "condition_table") or {}).get("separator", "+"),
    )


def table_of_levels(obs: pd.DataFrame, condition_key: str, control: str | None) -> ConditionTable:
    """A row for each level, told apart by name: all that is known where setup was given doses."""
    levels = {part for level in obs[condition_key].astype(str) for part in level.split("+")}
    names = sorted(levels - {str(control)})
    return ConditionTable(pd.DataFrame({condition_key: names}, index=names))
