"""What plots read from cells: values and conditions as ``tl.embed`` and ``predict`` stored them."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from scdisent._constants import UNS_KEY
from scdisent._errors import InputDataError, OptionError
from scdisent.conditions import condition_names, without_dose
from scdisent.effects import log_normalise

COUNTS = ("nb", "zinb", "poisson")
"""Likelihoods of counts."""
MAX_CHECKED = 10_000
"""Cells whose values are looked at before they are taken for counts."""


def named(given: Any, stored: Any) -> Any:
    """Argument or, without one, what was stored; an empty text is none, and 0 is a level."""
    return next((each for each in (given, stored) if each is not None and each != ""), None)


def record(adata: AnnData, name: str, *, key: str = UNS_KEY) -> Mapping[str, Any]:
    """What ``uns[key][name]`` says; empty without."""
    results = adata.uns.get(key)
    found = results.get(name) if isinstance(results, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def are_counts(is_counts: bool | None, adata: AnnData, predicted: Iterable[AnnData]) -> bool:
    """As said; else by the likelihood of the predictions, else of the embedding; else True."""
    if is_counts is not None:
        return bool(is_counts)
    records = [record(each, "prediction") for each in predicted] + [record(adata, "embed")]
    found = (each["likelihood"] for each in records if each.get("likelihood"))
    return str(next(found, COUNTS[0])) in COUNTS


def observed_values(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    """Values of the layer asked for, else of the one that ``tl.embed`` stored, else ``X``."""
    layer = named(layer, record(adata, "embed").get("layer"))
    if layer is None:
        return adata.X, "adata.X"
    if layer not in adata.layers:
        found = sorted(name for name in adata.layers if name is not None)
        msg = f"adata has no layer {layer!r}. Found: {found}. Pass layer=."
        raise OptionError(msg)
    return adata.layers[layer], f"adata.layers[{layer!r}]"


def expression(x: Any, *, is_counts: bool, where: str, whole: bool = True) -> Any:
    """Log-normalised counts, or other values as they are; ``whole=False``: expected counts."""
    if x is None or not x.shape[0]:
        msg = f"{where} holds no cells; expected at least one."
        raise InputDataError(msg)
    if not isinstance(x, np.ndarray | sparse.spmatrix | sparse.sparray):
        x = x.to_memory() if hasattr(x, "to_memory") else np.asarray(x)
    if not is_counts:
        return x
    some = x[:MAX_CHECKED]
    values = some.data if sparse.issparse(some) else np.asarray(some)
    n_negative = int((values < 0).sum())
    n_fractional = int((values != np.rint(values)).sum())
    if n_negative or (whole and n_fractional):
        msg = (
            f"{where} is read as counts, but holds {n_negative:,} negative and {n_fractional:,} "
            "fractional values. Pass layer= for the layer that holds counts, or is_counts=False "
            "for other values."
        )
        raise InputDataError(msg)
    return log_normalise(x)


def predicted_values(predicted: AnnData, *, is_counts: bool) -> Any:
    """Expression of predicted cells; those of ``kind="mean"`` are expected counts."""
    whole = record(predicted, "prediction").get("kind") != "mean"
    return expression(predicted.X, is_counts=is_counts, where="predicted.X", whole=whole)


def conditions_of(
    adata: AnnData,
    *,
    condition_key: str,
    control: str,
    dose_key: str | None,
    wanted: str | None = None,
) -> NDArray[np.object_]:
    """Condition of each cell as a model names it, with a dose key ``"level@dose"``.

    If a level without its dose is wanted, its doses are taken together.
    """
    if condition_key not in adata.obs:
        found = sorted(map(str, adata.obs.columns))
        msg = f"adata.obs has no column {condition_key!r}. Found: {found}."
        raise OptionError(msg)
    missing = adata.obs[condition_key].isna()
    if missing.any():
        msg = (
            f"adata.obs[{condition_key!r}] is missing in {int(missing.sum()):,} of "
            f"{adata.n_obs:,} cells. Fill it, or drop them: "
            f"adata = adata[adata.obs[{condition_key!r}].notna()].copy()."
        )
        raise InputDataError(msg)
    names = condition_names(
        adata.obs, condition_key=condition_key, dose_key=dose_key, control=str(control)
    )
    found = names.astype(str)
    if dose_key is not None and wanted is not None and wanted not in set(found):
        pooled = found.map({name: without_dose(name)[0] for name in found.unique()})
        found = pooled if wanted in set(pooled) else found
    return found.to_numpy(dtype=object)
