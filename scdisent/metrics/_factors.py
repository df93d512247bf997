"""True factors as metrics read them: continuous or categorical, in bins, and their information."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import mutual_info_score

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics._checks import Floats, Integers, as_codes, as_levels

MAX_LEVELS = 10
"""Numbers with more different values than this count as continuous, unless stated."""

Discrete = bool | Sequence[bool] | None


@dataclass(frozen=True)
class Factor:
    """One true factor of every cell."""

    name: str
    discrete: bool
    values: Floats | None
    """``(n_cells,)``; None for text, which has no numbers."""
    levels: Integers | None
    """``(n_cells,)``; None for a continuous factor."""
    level_names: tuple[Any, ...] = ()

    def binned(self, n_bins: int, *, equal: str = "width") -> Integers:
        """Levels, or bins of a continuous factor, ``(n_cells,)``."""
        if self.levels is not None:
            return self.levels
        return in_bins(np.asarray(self.values)[:, None], n_bins=n_bins, equal=equal)[:, 0]

    def one_hot(self) -> Floats:
        """Levels as indicator columns, ``(n_cells, n_levels)``."""
        return np.eye(len(self.level_names))[self.levels]


def read(
    codes: ArrayLike, factors: ArrayLike, *, discrete: Discrete, at_least: int = 1
) -> tuple[Floats, list[Factor]]:
    """Codes ``(n_cells, n_latent)`` and their true factors, checked.

    A factor is categorical if it is of text, categories or booleans, or of numbers with at most
    ``MAX_LEVELS`` different values, each held by ten cells on average. ``discrete`` overrides this
    for all factors (one boolean) or for each (one a factor); text is always categorical.

    Raises
    ------
    InputDataError
        If shapes do not match, values are missing, a factor is constant, or there are fewer than
        ``at_least`` factors.
    OptionError
        If ``discrete`` has another length than there are factors, or calls text continuous.
    """
    codes = as_codes(codes)
    table = _table(factors, n_cells=len(codes))
    if table.shape[1] < at_least:
        msg = (
            f"This metric compares factors and needs at least {at_least} of them, but factors has "
            f"{table.shape[1]} column. Pass factors of shape (n_cells, n_factors)."
        )
        raise InputDataError(msg)
    stated = _stated(discrete, n_factors=table.shape[1])
    columns = zip(table.columns, stated, strict=True)
    return codes, [_factor(str(n), table.iloc[:, i], says) for i, (n, says) in enumerate(columns)]


def _table(factors: ArrayLike, *, n_cells: int) -> pd.DataFrame:
    if isinstance(factors, pd.DataFrame):
        table = factors
    else:
        values = np.asarray(factors)
        if values.ndim != 2:
            msg = (
                f"factors must have shape (n_cells, n_factors), but have shape {values.shape}. "
                "Reshape a single factor with factors.reshape(-1, 1)."
            )
            raise InputDataError(msg)
        table = pd.DataFrame(values).infer_objects()
    if len(table) != n_cells or table.shape[1] == 0:
        msg = (
            f"factors must have one row for each of the {n_cells} cells and at least one column, "
            f"but have shape {table.shape}."
        )
        raise InputDataError(msg)
    return table


def _stated(discrete: Discrete, *, n_factors: int) -> list[bool | None]:
    if discrete is None or isinstance(discrete, bool):
        return [discrete] * n_factors
    stated: list[bool | None] = [bool(each) for each in discrete]
    if len(stated) != n_factors:
        msg = (
            f"discrete has {len(stated)} entries for {n_factors} factors. Pass one for each, one "
            "for all, or None to have it detected."
        )
        raise OptionError(msg)
    return stated


def _factor(name: str, column: pd.Series, stated: bool | None) -> Factor:
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if stated is False and not numeric:
        if not pd.api.types.is_bool_dtype(column):
            msg = (
                f"Factor {name!r} holds no numbers, so it can not be continuous. Leave it to "
                "discrete=None, or pass numbers."
            )
            raise OptionError(msg)
        numeric = True
    levels, names = as_levels(column, name=f"factor {name!r}", n_cells=len(column))
    values = _numbers(name, column) if numeric or len(names) == 2 else None
    if len(names) < 2:
        msg = f"Factor {name!r} has the same value in all cells. Leave it out."
        raise InputDataError(msg)
    few = len(names) <= min(MAX_LEVELS, len(column) / 10)
    categorical = stated if stated is not None else (not numeric or few)
    if not categorical:
        return Factor(name, False, values, None)
    return Factor(name, True, values, levels, tuple(names))


def _numbers(name: str, column: pd.Series) -> Floats:
    """Return the values of numbers; the two levels of a binary factor become 0 and 1."""
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(dtype=np.float64)
    else:
        values = pd.factorize(column.astype(object), sort=True)[0].astype(np.float64)
    if not np.isfinite(values).all():
        msg = f"factor {name!r} is infinite in some cells. Leave these cells out."
        raise InputDataError(msg)
    return values


def in_bins(values: Floats, *, n_bins: int, equal: str = "width") -> Integers:
    """Number of the bin of each entry, column by column, ``(n, n_columns)``.

    Bins are of equal width between the column's extremes, or of equal frequency (``"count"``;
    equal values share a bin, so that there may be fewer). A constant column fills one bin.
    """
    if n_bins < 2:
        msg = f"n_bins={n_bins}, but at least 2 are needed to tell values apart."
        raise OptionError(msg)
    inner = np.linspace(0, 1, n_bins + 1)[1:-1]
    binned = np.empty(values.shape, dtype=np.intp)
    for k, column in enumerate(values.T):
        low, high = column.min(), column.max()
        edges = low + inner * (high - low) if equal == "width" else np.quantile(column, inner)
        binned[:, k] = np.searchsorted(np.unique(edges), column, side="right") if high > low else 0
    return binned


def information(codes: Integers, factors: Integers) -> Floats:
    """Mutual information in nats of binned codes and factors, ``(n_latent, n_factors)``."""
    tables = [[_contingency(z, y) for y in factors.T] for z in codes.T]
    return np.array([[mutual_info_score(None, None, contingency=t) for t in row] for row in tables])


def _contingency(z: Integers, y: Integers) -> Integers:
    """Count the cells with each pair of values."""
    shape = (z.max() + 1, y.max() + 1)
    counts = np.bincount(z * shape[1] + y, minlength=shape[0] * shape[1])
    return counts.reshape(shape)


def floor(
    measure: Callable[[Integers], Any], *, n_cells: int, n_permutations: int, seed: int
) -> Any:
    """Mean of ``measure(order)`` over random orders of the cells: what chance alone reaches."""
    rng = np.random.default_rng(seed)
    draws = [measure(rng.permutation(n_cells)) for _ in range(n_permutations)]
    return np.mean(draws, axis=0)


def gap(scores: Floats) -> Floats:
    """Largest minus second largest of each column, ``(n_factors,)``; a missing second is 0."""
    ranked = np.sort(np.vstack([np.zeros(scores.shape[1]), scores]), axis=0)
    return ranked[-1] - ranked[-2]
