"""What every metric asks of its arrays, and how cells are dealt to folds."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from scdisent._errors import InputDataError, OptionError

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]

DEFAULT_FOLDS = 4
MIN_TRAINING_CELLS = 5
"""Cells of each label that a training part must hold: the attackers set aside some to tune."""


def as_codes(codes: ArrayLike) -> Floats:
    """Codes as a finite matrix ``(n_cells, n_latent)``, or an error that says what is wrong."""
    values = np.asarray(codes, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        msg = (
            f"codes must have shape (n_cells, n_latent), but have shape {values.shape}. "
            "Reshape a single dimension with codes.reshape(-1, 1)."
        )
        raise InputDataError(msg)
    n_bad = int((~np.isfinite(values)).any(axis=1).sum())
    if n_bad:
        msg = f"codes of {n_bad} cells are NaN or infinite. Leave these cells out, or train again."
        raise InputDataError(msg)
    return values


def as_levels(labels: ArrayLike, *, name: str, n_cells: int) -> tuple[Integers, list[Any]]:
    """Labels as integers ``(n_cells,)`` and the sorted list of levels that they stand for."""
    values = np.asarray(labels, dtype=object)
    if values.shape != (n_cells,):
        msg = f"{name} must have one entry for each of the {n_cells} cells, but has {values.shape}."
        raise InputDataError(msg)
    integers, levels = pd.factorize(values, sort=True)
    n_missing = int((integers < 0).sum())
    if n_missing:
        msg = f"{name} is missing for {n_missing} cells. Leave these cells out."
        raise InputDataError(msg)
    return integers.astype(np.intp), list(levels)


def one_thread() -> threadpool_limits:
    """Context in which linear algebra uses one thread.

    The matrices here are too small to gain from more, and on a busy machine threads that wait for
    one another make fits many times slower.
    """
    return threadpool_limits(1)


def combine(*columns: Integers | None) -> Integers:
    """One integer for each combination of the given integer labels; None is left out."""
    given = [column for column in columns if column is not None]
    return np.unique(np.stack(given, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def assign_folds(
    labels: Integers,
    names: list[Any],
    *,
    groups: Integers | None,
    strata: Integers,
    n_folds: int | None,
    rng: np.random.Generator,
) -> Integers:
    """Fold of each cell: whole groups where groups are given, else dealt out within strata.

    Returns
    -------
    ``(n_cells,)``, integers from 0. Every training part holds every label.

    Raises
    ------
    InputDataError
        If a label can not be in every training part.
    """
    if n_folds is not None and n_folds < 2:
        msg = f"n_folds={n_folds} leaves nothing to train on. Use at least 2."
        raise OptionError(msg)
    if groups is not None:
        return _deal_groups(labels, names, groups=groups, n_folds=n_folds)
    n_folds = n_folds or DEFAULT_FOLDS
    folds = np.empty(len(labels), dtype=np.intp)
    folds[np.lexsort((rng.random(len(labels)), strata))] = np.arange(len(labels)) % n_folds
    short = [names[i] for i in short_labels(labels, folds=folds)]
    if short:
        msg = f"Too few cells of {short} to fit and score on different cells. Leave them out."
        raise InputDataError(msg)
    return folds


def short_labels(labels: Integers, *, folds: Integers) -> list[int]:
    """Labels of which some training part holds fewer than ``MIN_TRAINING_CELLS`` cells."""
    n_cells = np.bincount(labels)
    held_out = [np.bincount(labels[folds == f], minlength=len(n_cells)) for f in np.unique(folds)]
    return np.flatnonzero(n_cells - np.max(held_out, axis=0) < MIN_TRAINING_CELLS).tolist()


def groups_per_label(labels: Integers, groups: Integers) -> Integers:
    """Count the groups in which each label occurs, ``(n_labels,)``."""
    pairs = np.unique(np.stack([groups, labels], axis=1), axis=0)
    return np.bincount(pairs[:, 1], minlength=labels.max() + 1)


def _deal_groups(
    labels: Integers, names: list[Any], *, groups: Integers, n_folds: int | None
) -> Integers:
    n_groups = groups_per_label(labels, groups)
    alone = [names[i] for i in np.flatnonzero(n_groups < 2)]
    if alone:
        msg = (
            f"Each level must occur in at least two groups (donors), but {alone} occur in one: "
            "what marks the level can not be told from what marks the donor. Leave these levels "
            "out, or pass groups=None and read the result as an upper limit."
        )
        raise InputDataError(msg)
    if n_folds is not None and n_folds > n_groups.min():
        msg = (
            f"n_folds={n_folds}, but some level occurs in only {n_groups.min()} groups. Use fewer."
        )
        raise OptionError(msg)
    for n_splits in range(n_folds or min(DEFAULT_FOLDS, int(n_groups.min())), 1, -1):
        folds = np.empty(len(labels), dtype=np.intp)
        splits = StratifiedGroupKFold(n_splits).split(labels, labels, groups)
        for fold, (_, held_out) in enumerate(splits):
            folds[held_out] = fold
        short = short_labels(labels, folds=folds)
        if not short:
            return folds
    msg = (
        f"No split of the groups leaves {MIN_TRAINING_CELLS} cells of {[names[i] for i in short]} "
        "to train on. Leave these levels out, or pass groups=None."
    )
    raise InputDataError(msg)
