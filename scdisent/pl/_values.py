"""Expression that plots read, as ``tl.embed`` and ``predict`` say where it is."""

from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from scdisent._errors import InputDataError
from scdisent.data import layer_name
from scdisent.data._stored import check_counts, layer_of, matrix_of, record
from scdisent.effects import log_normalise


def observed_values(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    """Values of the layer asked for, else of the one that ``tl.embed`` stored, else ``X``."""
    layer = layer_of(adata, layer)
    return matrix_of(adata, layer, what="adata"), f"{layer_name(layer)} of adata"


def predicted_values(predicted: AnnData, *, is_counts: bool) -> Any:
    """Expression of predicted cells; those of ``kind="mean"`` are expected counts."""
    whole = record(predicted, "prediction").get("kind") != "mean"
    return expression(predicted.X, is_counts=is_counts, where="X of predicted", whole=whole)


def expression(x: Any, *, is_counts: bool, where: str, whole: bool = True) -> Any:
    """Log-normalised counts, or other values as they are; ``whole=False``: expected counts."""
    if not x.shape[0]:
        msg = f"{where} holds no cells; expected at least one."
        raise InputDataError(msg)
    if not isinstance(x, np.ndarray | sparse.spmatrix | sparse.sparray):
        x = x.to_memory() if hasattr(x, "to_memory") else np.asarray(x)
    if not is_counts:
        return x
    check_counts(x, where=where, whole=whole)
    return log_normalise(x)
