"""Which cells a model may learn from, and what it is asked afterwards.

Tutorials, tests and benchmarks share these definitions of "unseen". All functions read columns of
``obs`` and return :class:`Split` objects, one fit each.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scdisent._errors import InputDataError, OptionError
from scdisent._names import dose_text, parts_of, set_key, without_dose
from scdisent.conditions import condition_names

__all__ = [
    "MIN_CELLS",
    "Question",
    "Split",
    "combination_folds",
    "condition_folds",
    "dose_folds",
    "leave_conditions_out",
    "leave_out",
]

Mask = NDArray[np.bool_]
MIN_CELLS = 25
"""Fewest cells, source and target each, that a question is asked about."""


@dataclass(frozen=True)
class Question:
    """Predict the target cells from the source cells."""

    condition: str
    group: str
    """Cell type, donor or cell line that is asked about; empty for all cells."""
    source: Mask
    """``(n_cells,)``: reference cells, whose counterfactuals are asked for."""
    target: Mask
    """``(n_cells,)``: the truth."""


@dataclass(frozen=True)
class Split:
    """One fit and the questions that it must answer.

    Raises
    ------
    InputDataError
        If training would see a target cell, or a source cell is a target of any question.
    """

    name: str
    train: Mask
    """``(n_cells,)``: cells that training may see."""
    questions: tuple[Question, ...]

    def __post_init__(self) -> None:
        asked = np.any([question.target for question in self.questions], axis=0)
        source = np.any([question.source for question in self.questions], axis=0)
        for cells, what in ((self.train, "in training"), (source, "a source cell")):
            n_leaked = int((asked & cells).sum())
            if n_leaked:
                msg = (
                    f"split {self.name!r} leaks: {n_leaked:,} target cells are also {what}. "
                    "Make splits with the functions of scdisent.splits."
                )
                raise InputDataError(msg)


def leave_out(
    obs: pd.DataFrame,
    by: str,
    *,
    condition_key: str,
    control: str,
    dose_key: str | None = None,
    labels_key: str | None = None,
    conditions: Sequence[str] | None = None,
    separator: str = "+",
    min_cells: int = MIN_CELLS,
) -> list[Split]:
    """Hide the treated cells of one cell type, donor or cell line at a time.

    Its control cells stay in training; they are what prediction starts from.

    Parameters
    ----------
    obs
        Columns of the cells.
    by
        Column of cell types, donors or cell lines.
    condition_key, control
        Column of conditions, and the reference among them.
    dose_key
        Column of doses, as at setup: conditions are then called ``"drug@0.5"``.
    labels_key
        Ask for each of these groups of the hidden cells by itself, as cell types of a donor.
    conditions
        Hide cells under these only: the rest of the group stays in training. None: under all.
    separator
        Between the parts of a combination, which are named in any order.
    min_cells
        Fewest source and target cells of a question.

    Returns
    -------
    One split for each level of ``by`` that has a question.

    Raises
    ------
    InputDataError
        If a column is missing or no question has enough cells.
    """
    control = str(control)
    condition = _conditions(obs, condition_key, dose_key, control, separator)
    chosen = _levels(conditions, condition, control, separator)
    level = _column(obs, by)
    inner = None if labels_key is None else _column(obs, labels_key)
    splits = []
    for name in sorted(set(level)):
        inside = level == name
        groups = {name: inside}
        if inner is not None:
            groups = {f"{name}, {g}": inside & (inner == g) for g in sorted(set(inner[inside]))}
        treated = sorted(chosen & set(condition[inside]))
        asked = _questions(condition, treated, groups, control=control, min_cells=min_cells)
        if asked:
            splits.append(Split(name, ~(inside & np.isin(condition, treated)), asked))
    return _some(splits, by=by, min_cells=min_cells)


def leave_conditions_out(
    obs: pd.DataFrame,
    groups: Mapping[str, Sequence[str]] | Sequence[str],
    *,
    condition_key: str,
    control: str,
    dose_key: str | None = None,
    labels_key: str | None = None,
    separator: str = "+",
    min_cells: int = MIN_CELLS,
) -> list[Split]:
    """Hide all cells of some conditions at a time, in every cell type.

    Levels of the same parts in another order are hidden with them.

    Parameters
    ----------
    obs
        Columns of the cells.
    groups
        Conditions hidden together, by the name of the split, for example of
        :func:`combination_folds`, :func:`dose_folds` or :func:`condition_folds`; a list hides each
        condition by itself.
    condition_key, control
        Column of conditions, and the reference among them.
    dose_key
        Column of doses, as at setup: conditions are then called ``"drug@0.5"``.
    labels_key
        Ask for each cell type by itself.
    separator
        Between the parts of a combination.
    min_cells
        Fewest source and target cells of a question.

    Returns
    -------
    One split a group.

    Raises
    ------
    InputDataError
        If a column or condition is missing, the control is among the hidden, or no question has
        enough cells.
    """
    control = str(control)
    condition = _conditions(obs, condition_key, dose_key, control, separator)
    folds = groups if isinstance(groups, Mapping) else {str(name): [name] for name in groups}
    strata = {"": np.ones(len(obs), dtype=bool)}
    if labels_key is not None:
        label = _column(obs, labels_key)
        strata = {name: label == name for name in sorted(set(label))}
    key = partial(set_key, control=control, separator=separator)
    splits, known = [], {name: key(name) for name in sorted(set(condition))}
    for name, levels in folds.items():
        hidden = [str(level) for level in levels]
        keys = {key(level) for level in hidden}
        wrong = [c for c in hidden if c == control or key(c) not in known.values()]
        if wrong:
            msg = f"split {name!r} hides {wrong}, which are the control or have no cells."
            raise InputDataError(msg)
        names = [c for c, own in known.items() if own in keys]
        asked = _questions(condition, names, strata, control=control, min_cells=min_cells)
        if asked:
            splits.append(Split(name, ~np.isin(condition, names), asked))
    return _some(splits, by=condition_key, min_cells=min_cells)


def combination_folds(
    conditions: Iterable[str],
    *,
    control: str | None = None,
    separator: str = "+",
    n_folds: int | None = None,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Combinations whose parts all have cells of their own, each alone or in random folds.

    Parameters
    ----------
    conditions
        All conditions that have cells.
    control
        No part of a combination: ``"A+control"`` is A.
    separator
        Between the parts of a name.
    n_folds
        None: each by itself.
    seed
        Of the folds.

    Returns
    -------
    Conditions by the name of their fold.
    """
    sets: dict[tuple[str, ...], str] = {}
    for name in _names(conditions):
        parts = parts_of(name, control=control, separator=separator)
        sets.setdefault(tuple(sorted(parts)), name)
    pairs = [
        name
        for parts, name in sets.items()
        if len(parts) > 1 and all((part,) in sets for part in parts)
    ]
    return {name: [name] for name in pairs} if n_folds is None else _folds(pairs, n_folds, seed)


def condition_folds(
    conditions: Iterable[str], *, control: str, n_folds: int = 5, seed: int = 0
) -> dict[str, list[str]]:
    """All conditions but the control in random folds: unseen perturbations.

    Parameters
    ----------
    conditions
        All conditions that have cells.
    control
        The reference.
    n_folds
        How many; at most one a condition.
    seed
        Of the folds.

    Returns
    -------
    Conditions by the name of their fold.
    """
    return _folds([n for n in _names(conditions) if n != str(control)], n_folds, seed)


def dose_folds(
    doses: Mapping[str, float] | Iterable[str], *, extrapolate: bool = False
) -> dict[str, list[str]]:
    """Conditions of one dose at a time: inside the range of the others, or the largest one.

    Parameters
    ----------
    doses
        Dose of each condition, or their names where these hold it (``"drug@0.5"``); those of dose 0
        or without one stay.
    extrapolate
        Hide the largest dose instead of the inner ones.

    Returns
    -------
    Conditions by the name of their fold.
    """
    if not isinstance(doses, Mapping):
        doses = {str(name): without_dose(str(name))[1] for name in doses}
    levels = sorted({float(dose) for dose in doses.values() if dose > 0})
    chosen = levels[-1:] if extrapolate else levels[1:-1]
    if len(levels) < (2 if extrapolate else 3):
        msg = f"doses {levels} leave none to hide. Give at least {2 if extrapolate else 3} above 0."
        raise OptionError(msg)
    return {
        f"dose {dose_text(dose)}": [n for n, d in doses.items() if d == dose] for dose in chosen
    }


def _questions(
    condition: NDArray[np.object_],
    asked: Sequence[str],
    groups: Mapping[str, Mask],
    *,
    control: str,
    min_cells: int,
) -> tuple[Question, ...]:
    found = []
    for name in asked:
        for group, inside in groups.items():
            source, target = inside & (condition == control), inside & (condition == name)
            if min(source.sum(), target.sum()) >= min_cells:
                found.append(Question(name, group, source, target))
    return tuple(found)


def _folds(names: list[str], n_folds: int, seed: int) -> dict[str, list[str]]:
    if not 1 <= n_folds <= len(names):
        msg = f"n_folds={n_folds} must be between 1 and the number of conditions ({len(names)})."
        raise OptionError(msg)
    order = np.random.default_rng(seed).permutation(names)
    return {f"fold {i}": sorted(order[i::n_folds].tolist()) for i in range(n_folds)}


def _column(obs: pd.DataFrame, name: str) -> NDArray[np.object_]:
    if name not in obs:
        msg = f"obs has no column {name!r}. Found: {sorted(map(str, obs.columns))}."
        raise InputDataError(msg)
    n_missing = int(obs[name].isna().sum())
    if n_missing:
        msg = (
            f"obs[{name!r}] is missing in {n_missing:,} of {len(obs):,} cells, which no split can "
            f"place. Fill it, or drop them: adata = adata[adata.obs[{name!r}].notna()].copy()."
        )
        raise InputDataError(msg)
    return obs[name].astype(str).to_numpy(dtype=object)


def _names(conditions: Iterable[str]) -> list[str]:
    """Names of conditions in order, each once."""
    found = list(conditions)
    if any(pd.isna(name) for name in found):
        msg = "conditions holds missing values. Pass the names alone: obs[...].dropna().unique()."
        raise InputDataError(msg)
    return sorted({str(name) for name in found})


def _conditions(
    obs: pd.DataFrame, condition_key: str, dose_key: str | None, control: str, separator: str
) -> NDArray[np.object_]:
    _column(obs, condition_key)
    if dose_key is not None and dose_key not in obs:
        _column(obs, dose_key)  # says which columns there are; a control needs no dose
    names = condition_names(
        obs,
        condition_key=condition_key,
        dose_key=dose_key,
        control=control,
        separator=separator,
    )
    return names.astype(str).to_numpy(dtype=object)


def _levels(
    chosen: Sequence[str] | None, condition: NDArray[np.object_], control: str, separator: str
) -> set[str]:
    """Conditions to hide cells of, in all orders of their parts."""
    known = set(condition) - {control}
    if chosen is None:
        return known
    key = partial(set_key, control=control, separator=separator)
    keys = {key(str(name)): str(name) for name in chosen}
    wrong = sorted(set(keys.values()) - {keys.get(key(name)) for name in known})
    if wrong:
        msg = f"conditions={wrong} are the control or have no cells. Found: {sorted(known)[:20]}."
        raise InputDataError(msg)
    return {name for name in known if key(name) in keys}


def _some(splits: list[Split], *, by: str, min_cells: int) -> list[Split]:
    if not splits:
        msg = (
            f"no level of {by!r} has {min_cells} cells of the control and of a hidden condition. "
            "Lower min_cells, or check condition_key and control."
        )
        raise InputDataError(msg)
    return splits
