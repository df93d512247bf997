"""Conditions with a dose: the name that the two columns of a cell make together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from scdisent._errors import InputDataError
from scdisent.conditions import ConditionTable, at_dose
from scdisent.data import _registry as reg

DOSED = "_scvi_condition_at_dose"
"""Column of ``obs`` that setup registers where there is a dose."""


def condition_names(
    obs: pd.DataFrame,
    *,
    condition_key: str,
    dose_key: str | None,
    control: str | None,
    separator: str = "+",
) -> "pd.Series[Any]":
    """Condition of each cell: its level, or ``"level@dose"`` where there is a dose.

    The control, which is also dose zero of everything else, keeps its name.

    Raises
    ------
    InputDataError
        For doses that are missing or negative.
    """
    levels = obs[condition_key]
    if dose_key is None:
        return levels
    names = levels.astype(str)
    given = obs[dose_key] if dose_key in obs else pd.Series(np.nan, index=obs.index)
    dose = pd.to_numeric(given, errors="coerce")
    is_control = names == str(control)
    wrong = ~is_control & ~(dose >= 0)
    if wrong.any():
        first = f"{obs.index[wrong][0]!r} with {given[wrong].iloc[0]}"
        msg = (
            f"obs[{dose_key!r}] must hold a dose of at least 0 for each cell that is not a control "
            f"one; {int(wrong.sum()):,} cells have none, such as {first}."
        )
        raise InputDataError(msg)
    untreated = is_control | ((dose == 0) & (control is not None))
    pairs = pd.DataFrame({"name": names, "dose": dose, "untreated": untreated})
    code, unique = pd.factorize(pd.MultiIndex.from_frame(pairs))
    made = [
        str(control) if rest else at_dose(name, x, separator=separator) for name, x, rest in unique
    ]
    found = pd.Categorical(np.array(made, dtype=object)[code])
    return pd.Series(found, index=obs.index, name=condition_key)


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
