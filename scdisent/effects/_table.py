"""Mean expression of groups of cells under conditions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scdisent._errors import InputDataError

Floats = NDArray[np.float64]
TARGET_SUM = 1e4
"""Counts that a cell is scaled to before the logarithm."""


def log_normalise(counts: Any) -> Any:
    """``log(1 + counts per 10,000)`` of each cell, dense or sparse as given; read if on disk."""
    if not isinstance(counts, np.ndarray | sparse.spmatrix | sparse.sparray):
        counts = counts.to_memory() if hasattr(counts, "to_memory") else np.asarray(counts)
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
    is_log: bool = True
    """Whether values are log-normalised counts, so that ratios of rates can be taken."""
    chosen: dict[tuple[str, str], str] = field(default_factory=dict, repr=False, compare=False)
    """Recipes that ``"auto"`` stands for, by condition and reference; filled when asked for."""

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
