"""Conditions as a table: what was done to cells, in columns a model can generalise over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scdisent._errors import InputDataError, OptionError
from scdisent._names import AT, at_dose, parts_of

Floats = NDArray[np.float32]


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
    dose = _as_written(pd.to_numeric(given, errors="coerce"))
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
    made = []
    for name, x, is_rest in unique:
        parts = parts_of(name, control=str(control), separator=separator)  # "A+control" is A
        is_control = is_rest or parts == [str(control)]
        joined = separator.join(parts)
        made.append(str(control) if is_control else at_dose(joined, x, separator=separator))
    found = pd.Categorical(np.array(made, dtype=object)[code])
    return pd.Series(found, index=obs.index, name=condition_key)


def _as_written(dose: "pd.Series[Any]") -> "pd.Series[Any]":
    """Doses of half precision as they were written: 0.1, not 0.10000000149."""
    if dose.dtype.kind != "f" or dose.dtype.itemsize == 8:
        return dose
    values, index = np.unique(dose.to_numpy(), return_inverse=True)
    exact = np.array([float(str(x)) for x in values])
    return pd.Series(exact[index], index=dose.index)


@dataclass(frozen=True)
class EncodedConditions:
    """Conditions as sets of parts, padded to the largest set."""

    features: Floats
    """``(n_conditions, n_parts, n_features)``: 1, one-hot categories, standardised numbers."""
    present: Floats
    """``(n_conditions, n_parts)``: 1, or 0 for padding."""
    dose: Floats
    """``(n_conditions, n_parts)``, in units of the largest dose of the reference conditions."""


class ConditionTable:
    """What is known of each condition: a row a condition, typed columns.

    Models that read it (``condition_code="covariates"``) give a code to every condition that has a
    row, whether or not its cells were in training.

    Parameters
    ----------
    frame
        Index: names as in the condition column. Columns of text, categories or booleans are
        categories, others numbers. Rows may exceed the conditions of the data. A condition without
        a row of its own whose name is ``"A+B"`` is the set of the rows A and B, and ``"A@0.5"`` is
        the row A at the dose 0.5.
    dose
        Column of doses, at least 0; a dose of zero means control.
    units
        Unit of number columns, for printing and to be checked by :meth:`with_rows`.
    embedding
        Vectors of the rows, for example of genes or of molecules: a DataFrame whose index holds all
        names of ``frame``.
    separator
        Between the parts of a combination.

    Raises
    ------
    InputDataError
        For names that repeat, missing values, or negative doses.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        dose: str | None = None,
        units: Mapping[str, str] | None = None,
        embedding: pd.DataFrame | None = None,
        separator: str = "+",
    ) -> None:
        self.frame = frame.set_axis(frame.index.astype(str), axis=0)
        self.dose, self.units, self.separator = dose, dict(units or {}), separator
        self.embedding = None
        if embedding is not None:
            self.embedding = embedding.set_axis(embedding.index.astype(str), axis=0).astype(float)
            self.embedding.columns = self.embedding.columns.astype(str)
        self._check()

    def _check(self) -> None:
        names = self.frame.index
        if not names.is_unique:
            twice = names[names.duplicated()].tolist()
            msg = f"condition_table has several rows for {twice[:5]}. Keep one a condition."
            raise InputDataError(msg)
        lost = self.frame.columns[self.frame.isna().any()].tolist()
        if lost:
            msg = f"condition_table has missing values in {lost}. Fill them, or drop the column."
            raise InputDataError(msg)
        endless = [c for c in self.numbers if not np.isfinite(self.frame[c].astype(float)).all()]
        if endless:
            msg = f"condition_table holds infinite values in {endless}. Correct them."
            raise InputDataError(msg)
        unknown = {*self.units, *filter(None, [self.dose])} - set(self.frame.columns)
        if unknown:
            msg = (
                f"condition_table has no column {sorted(unknown)}; it has "
                f"{list(self.frame.columns)}. Correct dose= or units=."
            )
            raise InputDataError(msg)
        if self.dose is not None:
            doses = pd.to_numeric(self.frame[self.dose], errors="coerce")
            if not ((doses >= 0) & np.isfinite(doses)).all():
                wrong = self.frame[self.dose][~((doses >= 0) & np.isfinite(doses))].iloc[0]
                msg = (
                    f"doses are numbers of at least 0, not negative, text or infinite; column "
                    f"{self.dose!r} holds {wrong}."
                )
                raise InputDataError(msg)
        if self.embedding is not None:
            missing = [name for name in names if name not in self.embedding.index]
            if missing:
                msg = f"embedding has no vector for {missing[:5]}. Give every row one."
                raise InputDataError(msg)
            used = self.embedding.loc[self.embedding.index.isin(names)]
            twice = used.index[used.index.duplicated()].unique().tolist()
            broken = used.index[~np.isfinite(used.to_numpy(dtype=float)).all(axis=1)].tolist()
            if twice or broken:
                what = f"several vectors for {twice[:5]}" if twice else f"NaN or inf: {broken[:5]}"
                msg = f"embedding has {what}. Give every row one vector of finite numbers."
                raise InputDataError(msg)

    @property
    def categories(self) -> list[str]:
        """Columns of categories."""
        return [
            str(name)
            for name, column in self.frame.items()
            if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)
        ]

    @property
    def numbers(self) -> list[str]:
        """Columns of numbers other than the dose."""
        others = {*self.categories, *filter(None, [self.dose])}
        return [str(name) for name in self.frame.columns if name not in others]

    def parts(self, condition: str, *, control: str | None = None) -> list[str]:
        """Rows that make up a condition; the control is no part, and needs no row.

        Raises
        ------
        OptionError
            If there is no row for it or for one of its parts.
        """
        if condition == control:
            return []
        if condition in self.frame.index:
            return [condition]
        parts = parts_of(condition, control=control, separator=self.separator)
        missing = [part for part in parts if self.row(part) not in self.frame.index]
        if missing:
            msg = (
                f"the condition table has no row for {missing[0]!r} (of condition {condition!r}). "
                f"Add one with with_rows; it has {self.frame.index.tolist()[:10]}."
            )
            raise OptionError(msg)
        return parts

    def row(self, part: str) -> str:
        """Name of the row of a part: what stands before its dose."""
        return part if part in self.frame.index else part.rpartition(AT)[0] or part

    def dose_of(self, part: str) -> float:
        """Dose of a part: the one in its name, else that of its row, else 1."""
        row = self.row(part)
        if row != part:
            return _read_dose(part)
        return 1.0 if self.dose is None else float(self.frame.at[row, self.dose])

    def is_single(self, condition: str) -> bool:
        """Whether a condition has a row, at its own or another dose, and no other parts."""
        if condition in self.frame.index:
            return True
        return self.separator not in condition and self.row(condition) in self.frame.index

    def encode(
        self, conditions: Sequence[str], *, like: Sequence[str], control: str | None = None
    ) -> EncodedConditions:
        """Numbers that a network reads.

        Parameters
        ----------
        conditions
            Names of conditions or combinations.
        like
            Conditions of training: their categories are the known ones, and numbers are
            standardised by their mean and standard deviation.
        control
            Condition without parts, whose code is zero. It needs no row.

        Raises
        ------
        OptionError
            If a condition has no row, or a category that no condition of training has.
        """
        known = [part for name in like for part in self.parts(name, control=control)]
        reference = self.frame.loc[[self.row(part) for part in known]]
        sets = [self.parts(name, control=control) for name in conditions]
        n_parts = max(1, *map(len, sets)) if sets else 1
        columns = self._columns(reference)
        features = np.zeros((len(sets), n_parts, columns.shape[1]), dtype=np.float32)
        present, dose = np.zeros((2, len(sets), n_parts), dtype=np.float32)
        largest = max(map(self.dose_of, known), default=1.0) or 1.0
        for row, parts in enumerate(sets):
            for slot, part in enumerate(parts):
                self._check_known(self.row(part), reference)
                features[row, slot] = columns.loc[self.row(part)]
                present[row, slot], dose[row, slot] = 1.0, self.dose_of(part) / largest
        return EncodedConditions(features, present, dose)

    def _columns(self, reference: pd.DataFrame) -> pd.DataFrame:
        """Features of all rows: a constant, one-hot categories, standardised numbers."""
        blocks = [pd.DataFrame({"constant": 1.0}, index=self.frame.index)]
        for name in self.categories:
            levels = sorted(reference[name].astype(str).unique())
            column = pd.Categorical(self.frame[name].astype(str), categories=levels)
            blocks.append(pd.get_dummies(column, dtype=float).set_axis(self.frame.index))
        numeric = self.frame[self.numbers].astype(float)
        if self.embedding is not None:
            numeric = numeric.join(self.embedding.loc[self.frame.index].add_prefix("embedding "))
        inside = numeric.loc[reference.index.unique()]
        spread = inside.std(ddof=0)
        blocks.append((numeric - inside.mean()) / spread.where(spread > 0, 1.0))
        return pd.concat(blocks, axis=1)

    def _check_known(self, part: str, reference: pd.DataFrame) -> None:
        for name in self.categories:
            level, levels = str(self.frame.at[part, name]), reference[name].astype(str).unique()
            if level not in levels:
                msg = (
                    f"{part!r} has {name}={level!r}, which no condition of training has: "
                    f"{sorted(levels)}. Describe it by numbers or an embedding instead."
                )
                raise OptionError(msg)

    def with_rows(
        self, frame: pd.DataFrame, *, embedding: pd.DataFrame | None = None
    ) -> "ConditionTable":
        """Return a table with further conditions, whose columns and kinds must be the same.

        Parameters
        ----------
        frame
            New rows.
        embedding
            Their vectors, if the table has an embedding.

        Raises
        ------
        InputDataError
            If a column is missing, of another kind, or a row is known already.
        """
        frame = frame.set_axis(frame.index.astype(str), axis=0)
        missing = [name for name in self.frame.columns if name not in frame]
        known = frame.index.intersection(self.frame.index).tolist()
        if missing or known:
            msg = (
                f"new rows lack the columns {missing}" if missing else f"rows {known[:5]} exist"
            ) + f". The table has the columns {list(self.frame.columns)}."
            raise InputDataError(msg)
        if (self.embedding is None) != (embedding is None):
            msg = "give the new rows an embedding exactly if the table has one."
            raise InputDataError(msg)
        new = ConditionTable(
            pd.concat([self.frame, frame[self.frame.columns]]),
            dose=self.dose,
            units=self.units,
            embedding=None if embedding is None else self._vectors_with(embedding, frame.index),
            separator=self.separator,
        )
        if new.categories != self.categories:
            msg = f"columns {self.categories} are categories in the table; keep their kinds."
            raise InputDataError(msg)
        return new

    def _vectors_with(self, embedding: pd.DataFrame, names: pd.Index) -> pd.DataFrame:
        """Vectors of the rows of the table, and of new ones; there may be more of both."""
        new = embedding.set_axis(embedding.index.astype(str), axis=0)
        new.columns = new.columns.astype(str)
        known = cast("pd.DataFrame", self.embedding)
        if new.shape[1] != known.shape[1]:
            msg = (
                f"the new embedding has {new.shape[1]} columns; that of the table has "
                f"{known.shape[1]}. Give vectors of the same space."
            )
            raise InputDataError(msg)
        if set(new.columns) != set(known.columns):  # names that say nothing: by position
            new = new.set_axis(known.columns, axis=1)
        return pd.concat([known[known.index.isin(self.frame.index)], new[new.index.isin(names)]])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, as they are saved with a model."""
        columns = {
            str(name): column.astype(str).tolist() if name in self.categories else column.tolist()
            for name, column in self.frame.items()
        }
        stored: dict[str, Any] = {
            "index": self.frame.index.tolist(),
            "columns": columns,
            "dose": self.dose,
            "units": self.units,
            "separator": self.separator,
        }
        if self.embedding is not None:
            stored["embedding"] = self.embedding.loc[self.frame.index].to_numpy().tolist()
            stored["embedding_columns"] = list(map(str, self.embedding.columns))
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "ConditionTable":
        """Counterpart of :meth:`to_dict`."""
        index = pd.Index(stored["index"])
        vectors, columns = stored.get("embedding"), stored.get("embedding_columns")
        return cls(
            pd.DataFrame(stored["columns"], index=index),
            dose=stored["dose"],
            units=stored["units"],
            embedding=None if vectors is None else pd.DataFrame(vectors, index, columns),
            separator=stored["separator"],
        )

    def __repr__(self) -> str:
        kinds = [f"{name} (category)" for name in self.categories]
        numbers = [*filter(None, [self.dose]), *self.numbers]
        kinds += [
            f"{name} ({'dose' if name == self.dose else 'number'}"
            + (f", {self.units[name]})" if name in self.units else ")")
            for name in numbers
        ]
        if self.embedding is not None:
            kinds.append(f"embedding ({self.embedding.shape[1]})")
        return f"ConditionTable({len(self.frame)} rows: {', '.join(kinds)})"


def _read_dose(part: str) -> float:
    dose = part.rpartition(AT)[2]
    try:
        found = float(dose)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        msg = f"{part!r}: what stands after {AT!r} must be a dose of at least 0, found {dose!r}."
        raise OptionError(msg)
    return found


def as_table(
    table: "ConditionTable | pd.DataFrame | Mapping[str, Any] | None",
) -> ConditionTable | None:
    """Table of whatever setup was given."""
    if table is None or isinstance(table, ConditionTable):
        return table
    if isinstance(table, pd.DataFrame):
        dose = "dose" if "dose" in table.columns else None
        return ConditionTable(table, dose=dose)
    return ConditionTable.from_dict(table)
