"""What a user can get wrong in an AnnData, found before anything is written."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scdisent._errors import InputDataError, ScDisentWarning, SetupError
from scdisent._names import set_key

MAX_ROWS_CHECKED_ON_DISK = 10_000


@dataclass(frozen=True)
class ExpressionReport:
    """What the values of an expression matrix look like."""

    where: str
    n_negative: int
    n_fractional: int
    n_other_than_0_1: int
    n_above_1: int
    share_fractional: float
    largest: float

    @property
    def is_counts(self) -> bool:
        """Whether all values are whole and not negative."""
        return self.n_negative == 0 and self.n_fractional == 0


def layer_name(layer: str | None) -> str:
    """How messages call a layer."""
    return "X" if layer is None else f"layers[{layer!r}]"


def expression_of(adata: AnnData, layer: str | None) -> Any:
    """Matrix of a layer; a layer that is not there is an error listing those that are."""
    if layer is None:
        return adata.X
    if layer not in adata.layers:
        # anndata 0.13 lists X among the layers, under None
        found = sorted(name for name in adata.layers if name is not None)
        msg = f"layer {layer!r} is not in adata.layers. Found: {found}."
        raise SetupError(msg)
    return adata.layers[layer]


def inspect_expression(x: Any, *, where: str) -> ExpressionReport:
    """Look at every value once; NaN and infinity are errors: no likelihood takes them."""
    values = x.data if sparse.issparse(x) else np.asarray(x).ravel()
    finite = np.isfinite(values)
    if not finite.all():
        msg = (
            f"{where} holds {np.size(values) - int(finite.sum()):,} values that are NaN or "
            "infinite; expected finite numbers. Remove or impute them before setup."
        )
        raise InputDataError(msg)
    fractional = values != np.rint(values)
    return ExpressionReport(
        where=where,
        n_negative=int((values < 0).sum()),
        n_fractional=int(fractional.sum()),
        n_other_than_0_1=int(((values != 0) & (values != 1)).sum()),
        n_above_1=int((values > 1).sum()),
        share_fractional=float(fractional.mean()) if values.size else 0.0,
        largest=float(values.max(initial=0)),
    )


def first_rows(x: Any) -> Any:
    """Rows of a matrix on disk that are looked at before training."""
    return x[: min(x.shape[0], MAX_ROWS_CHECKED_ON_DISK)]


def check_expression(adata: AnnData, *, layer: str | None) -> ExpressionReport:
    """Refuse NaN, infinity and, in count data, cells without a count; warn of empty genes."""
    x = expression_of(adata, layer)
    where = layer_name(layer)
    if adata.isbacked:
        x = first_rows(x)
    if x is None or 0 in x.shape:
        msg = f"{where} is empty: shape {None if x is None else x.shape}. Pass cells and genes."
        raise InputDataError(msg)
    report = inspect_expression(x, where=where)
    if report.is_counts:
        _check_empty(x, where)
    return report


def _check_empty(x: Any, where: str) -> None:
    empty_cells = int((np.asarray(x.sum(axis=1)).ravel() == 0).sum())
    if empty_cells:
        msg = (
            f"{empty_cells:,} of {x.shape[0]:,} cells have no counts in {where}; every cell needs "
            "at least one. Run: sc.pp.filter_cells(adata, min_counts=1) (or adata = "
            "adata[adata.X.sum(1) > 0].copy() after choosing genes)."
        )
        raise InputDataError(msg)
    empty_genes = int((np.asarray(x.sum(axis=0)).ravel() == 0).sum())
    if empty_genes:
        msg = (
            f"{empty_genes:,} of {x.shape[1]:,} genes have no counts in {where}. They cost time "
            "and teach nothing: sc.pp.filter_genes(adata, min_counts=1)."
        )
        warnings.warn(msg, ScDisentWarning, stacklevel=4)


def check_likelihood(report: ExpressionReport, *, likelihood: str, expects: str) -> None:
    """Hold the data against what a likelihood is for."""
    where = report.where
    if expects == "counts" and report.n_negative:
        msg = (
            f"likelihood={likelihood!r} needs raw counts, but {where} holds {report.n_negative:,} "
            "negative values. Pass the layer that holds counts, or use likelihood='normal'."
        )
        raise InputDataError(msg)
    if expects == "counts" and report.n_fractional:
        msg = (
            f"likelihood={likelihood!r} needs raw counts, but {report.share_fractional:.0%} of the "
            f"stored values of {where} are not whole numbers (largest: {report.largest:.3g}). Pass "
            "the layer that holds counts, or use likelihood='normal' for log-normalised values."
        )
        raise InputDataError(msg)
    if expects == "binary" and report.n_other_than_0_1:
        msg = (
            f"likelihood={likelihood!r} needs zeros and ones, but {report.n_other_than_0_1:,} "
            f"values of {where} are others (largest: {report.largest:.3g}). Binarise them, or use "
            "likelihood='nb' for counts, 'normal' for real values."
        )
        raise InputDataError(msg)
    if expects == "unit" and (report.n_negative or report.n_above_1):
        msg = (
            f"likelihood={likelihood!r} needs values between 0 and 1, but {where} holds "
            f"{report.n_negative:,} negative values and {report.n_above_1:,} above 1 (largest: "
            f"{report.largest:.3g}). Divide pixels by 255, or use likelihood='normal'."
        )
        raise InputDataError(msg)
    if expects == "real" and report.is_counts and report.largest > 1:
        msg = (
            f"{where} looks like raw counts (whole numbers up to {report.largest:.0f}), but "
            "likelihood='normal' is for log-normalised or other real values. Use likelihood='nb', "
            "or pass the layer with normalised values."
        )
        warnings.warn(msg, ScDisentWarning, stacklevel=4)


def check_families(adata: AnnData, families: Sequence[str], *, layer: str | None) -> None:
    """Hold the columns of a table against the family that each was given."""
    found = np.asarray(families)
    for family, expects in (("bernoulli", "binary"), ("poisson", "counts")):
        columns = np.flatnonzero(found == family)
        if len(columns) and len(found) == adata.n_vars:
            report = inspect_expression(expression_of(adata, layer)[:, columns], where=family)
            bad = report.n_other_than_0_1 if expects == "binary" else not report.is_counts
            if bad:
                expected = "zeros and ones" if expects == "binary" else "whole numbers"
                names = list(adata.var_names[columns][:5])
                msg = (
                    f"families calls {len(columns)} columns {family!r} (such as {names}), which "
                    f"need {expected}; found others, up to {report.largest:.3g}. Use 'normal'."
                )
                raise InputDataError(msg)


def check_names(adata: AnnData) -> None:
    """Refuse duplicated names: cells and genes are matched by name everywhere."""
    for axis, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        if not names.is_unique:
            examples = ", ".join(map(repr, names[names.duplicated()].unique()[:3]))
            msg = (
                f"adata.{axis}_names holds duplicates (such as {examples}); names must be unique. "
                f"Run: adata.{axis}_names_make_unique()."
            )
            raise SetupError(msg)


def check_columns(adata: AnnData, columns: dict[str, str | None]) -> None:
    """Every named column is in ``obs`` and complete; ``columns`` maps argument to column."""
    for argument, column in columns.items():
        if column is None:
            continue
        if column not in adata.obs:
            msg = (
                f"{argument}={column!r} is not a column of adata.obs. "
                f"Found: {sorted(map(str, adata.obs.columns))}."
            )
            raise SetupError(msg)
        n_missing = int(adata.obs[column].isna().sum())
        if n_missing:
            msg = (
                f"adata.obs[{column!r}] ({argument}) is missing in {n_missing:,} of "
                f"{adata.n_obs:,} cells. Fill it, or drop them: "
                f"adata = adata[adata.obs[{column!r}].notna()].copy()."
            )
            raise SetupError(msg)


def check_numbers(adata: AnnData, columns: Sequence[str]) -> None:
    """Columns that enter a model as they are hold numbers."""
    for column in columns:
        if not pd.api.types.is_numeric_dtype(adata.obs[column]):
            msg = (
                f"adata.obs[{column!r}] holds {adata.obs[column].dtype} values; expected numbers. "
                f"Run: adata.obs[{column!r}] = adata.obs[{column!r}].astype(float), or name it "
                "under categorical_covariate_keys."
            )
            raise SetupError(msg)
        n_endless = int(np.isinf(adata.obs[column].to_numpy(dtype=float)).sum())
        if n_endless:
            msg = f"adata.obs[{column!r}] is infinite in {n_endless:,} cells. Correct or drop them."
            raise SetupError(msg)


def check_dose(adata: AnnData, *, dose_key: str, condition_key: str | None) -> None:
    """The column of doses is there, and there are conditions that have them."""
    if dose_key not in adata.obs:
        msg = (
            f"dose_key={dose_key!r} is not a column of adata.obs. "
            f"Found: {sorted(map(str, adata.obs.columns))}."
        )
        raise SetupError(msg)
    if condition_key is None:
        msg = f"dose_key={dose_key!r} needs condition_key: a dose of what? Name both."
        raise SetupError(msg)


def check_condition(condition: pd.Series, *, control: str | None) -> None:
    """At least two levels of at least two cells, the control among them."""
    sizes = condition.value_counts()
    sizes.index = sizes.index.astype(str)
    name = condition.name
    unused = list(sizes.index[sizes == 0])
    if unused:
        msg = (
            f"adata.obs[{name!r}] has categories without cells: {unused[:5]}. Run: "
            f"adata.obs[{name!r}] = adata.obs[{name!r}].cat.remove_unused_categories()."
        )
        raise SetupError(msg)
    if len(sizes) < 2:
        msg = (
            f"condition_key={name!r} has the level(s) {list(sizes.index)}; conditions can only be "
            "told apart when there are at least two."
        )
        raise SetupError(msg)
    if control is not None and str(control) not in sizes.index:
        msg = (
            f"control={control!r} is not a level of adata.obs[{name!r}]. "
            f"Found: {sorted(sizes.index)}."
        )
        raise SetupError(msg)
    rare = sizes[sizes < 2]
    if len(rare):
        msg = (
            f"{len(rare)} level(s) of adata.obs[{name!r}] have fewer than two cells: "
            f"{list(rare.index)[:5]}. Drop or merge them."
        )
        raise SetupError(msg)


def warn_if_confounded(obs: pd.DataFrame, *, condition_key: str, others: Sequence[str]) -> None:
    """Warn where a batch or sample never holds two conditions: the two cannot be told apart."""
    for other in dict.fromkeys(others):
        table = pd.crosstab(obs[other].astype(str), obs[condition_key].astype(str))
        if table.shape[0] < 2 or (table > 0).sum(axis=1).max() > 1:
            continue
        shown = table.head(10).to_string()
        msg = (
            f"every level of adata.obs[{other!r}] holds a single condition, so what {other!r} does "
            f"and what {condition_key!r} does cannot be told apart in these data:\n{shown}"
        )
        warnings.warn(msg, ScDisentWarning, stacklevel=4)


def warn_if_named_twice(
    conditions: "pd.Series[Any]", *, control: str | None, separator: str
) -> None:
    """Warn of combinations that differ in nothing but the order of their parts."""
    sets: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(set(conditions.astype(str))):
        sets.setdefault(set_key(name, control=control, separator=separator), []).append(name)
    twice = [names for names in sets.values() if len(names) > 1]
    if twice:
        msg = (
            f"{twice[0]} are the same parts in other words, but would be learned as different "
            f"conditions. Rename them alike: adata.obs[...].replace({twice[0][1]!r}, "
            f"{twice[0][0]!r})."
        )
        warnings.warn(msg, ScDisentWarning, stacklevel=4)
