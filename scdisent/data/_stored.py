"""What results say of the cells beside them: layer, likelihood, condition."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scdisent._constants import UNS_KEY
from scdisent._errors import InputDataError, OptionError
from scdisent._names import without_dose
from scdisent.conditions import condition_names
from scdisent.data._checks import first_rows, inspect_expression, layer_name

COUNTS = ("nb", "zinb", "poisson")
"""Likelihoods of counts."""


def record(adata: AnnData, name: str, *, key: str = UNS_KEY) -> Mapping[str, Any]:
    """What ``uns[key][name]`` says, as ``tl.embed`` and ``predict`` store it; empty without."""
    results = adata.uns.get(key)
    found = results.get(name) if isinstance(results, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def layer_of(adata: AnnData, layer: str | None, *, key: str = UNS_KEY) -> str | None:
    """Layer that was asked for, else the one that ``tl.embed`` stored, if there; None: ``X``."""
    embedded = record(adata, "embed", key=key).get("layer")
    return named(layer, embedded if embedded in adata.layers else None)


def are_counts(
    is_counts: bool | None,
    predicted: Iterable[AnnData],
    others: Iterable[AnnData],
    *,
    key: str = UNS_KEY,
) -> bool:
    """As said; else by the likelihood of predictions, then of what was embedded; else True."""
    if is_counts is not None:
        return bool(is_counts)
    for name, cells in (("prediction", predicted), ("embed", others)):
        own = UNS_KEY if name == "prediction" else key
        found = {str(record(each, name, key=own).get("likelihood") or "") for each in cells} - {""}
        kinds = {likelihood in COUNTS for likelihood in found}
        if len(kinds) > 1:
            msg = (
                f"the likelihoods {sorted(found)} are of counts and of other values, which cannot "
                "be compared. Pass is_counts=, or one kind at a time."
            )
            raise OptionError(msg)
        if kinds:
            return kinds.pop()
    return True


def matrix_of(adata: AnnData, layer: str | None, *, what: str) -> Any:
    """Values of a layer, or of ``X``."""
    if layer is not None and layer not in adata.layers:
        known = sorted(name for name in adata.layers if name is not None)
        msg = f"{what} has no layer {layer!r}. Found: {known}. Pass layer=."
        raise OptionError(msg)
    values = adata.X if layer is None else adata.layers[layer]
    if values is None or not adata.n_obs:
        msg = f"{layer_name(layer)} of {what} holds no cells; expected at least one."
        raise InputDataError(msg)
    return values


def check_counts(x: Any, *, where: str, whole: bool = True) -> None:
    """Refuse values that cannot be counts; ``whole=False``: expected counts."""
    report = inspect_expression(first_rows(x), where=where)
    if report.n_negative or (whole and report.n_fractional):
        msg = (
            f"{where} is read as counts, but holds {report.n_negative:,} negative and "
            f"{report.n_fractional:,} fractional values (largest: {report.largest:.3g}). Pass "
            "layer= for the layer that holds counts, or is_counts=False for other values."
        )
        raise InputDataError(msg)


def named(given: Any, stored: Any) -> Any:
    """Argument or, without one, what was stored; an empty text is none, and 0 is a level."""
    return next((each for each in (given, stored) if each is not None and each != ""), None)


def levels_of(
    adata: AnnData,
    condition_key: str,
    *,
    dose_key: str | None,
    control: str,
    wanted: str | None = None,
) -> NDArray[np.object_]:
    """Condition of each cell as a model names it; of a level without dose, all doses together."""
    missing = column_of(adata, condition_key).isna()
    if missing.any():
        msg = (
            f"obs[{condition_key!r}] is missing in {int(missing.sum()):,} of {adata.n_obs:,} "
            f"cells. Fill it, or drop them: "
            f"adata = adata[adata.obs[{condition_key!r}].notna()].copy()."
        )
        raise InputDataError(msg)
    names = condition_names(
        adata.obs, condition_key=condition_key, dose_key=dose_key, control=str(control)
    )
    found = names.astype(str)
    if dose_key is not None and wanted not in {None, *found}:
        pooled = found.map({name: without_dose(name)[0] for name in found.unique()})
        found = pooled if wanted in set(pooled) else found
    return found.to_numpy(dtype=object)


def column_of(adata: AnnData, key: str) -> "pd.Series[Any]":
    if key not in adata.obs:
        msg = f"adata.obs has no column {key!r}. Found: {sorted(map(str, adata.obs.columns))}."
        raise OptionError(msg)
    return adata.obs[key]
