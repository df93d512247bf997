"""Query cells: any AnnData, matched to a model's genes and levels by name."""

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray

from scdisent._constants import KEYS
from scdisent._errors import InputDataError, ScDisentWarning, SetupError, UnseenLevelError
from scdisent.data import _registry as reg
from scdisent.data._cells import (
    CellLoader,
    CellTable,
    TensorTable,
    column_array,
    expression_array,
)
from scdisent.data._checks import (
    ExpressionReport,
    expression_of,
    inspect_expression,
    layer_name,
)
from scdisent.data._disk import DiskLoader
from scdisent.data._doses import conditions_of

_ADVICE = {
    KEYS.CONDITION: (
        "Cells of an unseen condition have an invariant code (representation='invariant' needs no "
        "condition); everything else needs a condition of training. A DISCoVeR model learns the "
        "new one from these cells: DISCoVeR.load_query_data(adata, model), then train()."
    ),
    KEYS.BATCH: (
        "Codes need no batch; to decode, name a batch of training: "
        "get_normalized_expression(transform_batch=...), or write it into that column. A DISCoVeR "
        "model learns the new one: DISCoVeR.load_query_data(adata, model), then train()."
    ),
    KEYS.CELL_TYPE: "Load the model without adata: the getters do not read that column.",
    KEYS.SAMPLE: "Load the model without adata: the getters do not read that column.",
    KEYS.CATEGORICAL_COVARIATES: "Covariates enter the decoders, so they must be of training.",
}


def query_loader(
    adata: AnnData,
    registry: Mapping[str, Any],
    *,
    check: Callable[[ExpressionReport], None],
    fields: Collection[str] = (),
    batch_size: int,
    device: torch.device | str,
) -> CellLoader | DiskLoader:
    """Minibatches of any AnnData as a model's registry describes them, in the order of its cells.

    Only the expression layer and ``fields`` are read, so an invariant code needs no condition
    column. Genes are matched by name: another order and extra genes are put right (extra ones with
    a warning), missing ones are refused. ``check`` holds the values against the likelihood;
    a backed AnnData is read block by block and its values are taken as they are.
    """
    layer = reg.setup_argument(registry, "layer")
    genes = _matched_genes(adata.var_names, reg.gene_names(registry))
    x = expression_of(adata, layer)
    columns = {
        key: _column(adata.obs, registry, key) for key in fields if reg.is_registered(registry, key)
    }
    if adata.isbacked:
        return DiskLoader(x, columns, batch_size=batch_size, genes=genes, device=device)
    x = x if genes is None else x[:, genes]
    check(inspect_expression(x, where=layer_name(layer)))
    table = TensorTable(CellTable(expression_array(x), columns))
    return CellLoader(table, batch_size=batch_size, device=device)


def check_like_training(
    adata: AnnData, registry: Mapping[str, Any], *, new_levels: bool = False
) -> None:
    """Refuse cells that cannot stand in for those of training: other genes, other levels."""
    if _matched_genes(adata.var_names, reg.gene_names(registry)) is not None:
        msg = (
            "the genes of adata are not those of training in the same order. Load the model "
            "without adata, then either run adata = adata[:, model.get_var_names()].copy() and "
            "load again, or pass the cells to the getters, which match genes by name."
        )
        raise InputDataError(msg)
    for key in () if new_levels else reg.ARGUMENT_OF:
        if reg.is_registered(registry, key):
            _column(adata.obs, registry, key)


def with_genes_of(adata: AnnData, registry: Mapping[str, Any]) -> AnnData:
    """Copy of the cells with the genes of training in their order, or the cells as they are.

    Further genes are left out with a warning that counts them; missing ones are refused.
    """
    genes = _matched_genes(adata.var_names, reg.gene_names(registry))
    return adata if genes is None else adata[:, genes].copy()


def _matched_genes(found: pd.Index, expected: NDArray[np.object_]) -> NDArray[np.intp] | None:
    """Positions of the model's genes in the query; None where they already stand in order."""
    if len(found) == len(expected) and (found == expected).all():
        return None
    if not found.is_unique:
        msg = "var_names of the query are not unique. Run: adata.var_names_make_unique()."
        raise SetupError(msg)
    positions = found.get_indexer(expected)
    missing = expected[positions < 0]
    if len(missing):
        shown = ", ".join(map(str, missing[:5]))
        msg = (
            f"the query lacks {len(missing):,} of the model's {len(expected):,} genes (such as "
            f"{shown}). Pass all genes of training; absent counts cannot be read as zeros."
        )
        raise InputDataError(msg)
    n_extra = len(found) - len(expected)
    if n_extra:
        msg = f"{n_extra:,} genes of the query are not in the model and were left out."
        warnings.warn(msg, ScDisentWarning, stacklevel=5)
    return positions


def _column(obs: pd.DataFrame, registry: Mapping[str, Any], key: str) -> NDArray[np.generic]:
    """Codes or numbers of one field for the query's cells."""
    names = reg.setup_argument(registry, reg.ARGUMENT_OF[key])
    if names is None:  # setup made a constant column
        return np.zeros((len(obs), 1), dtype=np.int64)
    if key == KEYS.CONDITION:
        _need(obs, [names])
        return _codes_of(conditions_of(obs, registry), reg.levels(registry, key), key)[:, None]
    if key == KEYS.CATEGORICAL_COVARIATES:
        mappings = reg.joint_levels(registry)
        return np.column_stack([_codes(obs, name, mappings[name], key) for name in names])
    if key == KEYS.CONTINUOUS_COVARIATES:
        return column_array(_need(obs, names).to_numpy(dtype=np.float32))
    if key == KEYS.SIZE_FACTOR:
        return column_array(_need(obs, [names]).to_numpy(dtype=np.float32))
    return _codes(obs, names, reg.levels(registry, key), key)[:, None]


def _need(obs: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    missing = [name for name in names if name not in obs]
    if missing:
        msg = (
            f"the query has no obs column {missing} that the model was set up with. "
            f"Found: {sorted(map(str, obs.columns))}."
        )
        raise SetupError(msg)
    return obs[names]


def _codes(obs: pd.DataFrame, name: str, known: NDArray[np.object_], key: str) -> NDArray[np.int64]:
    return _codes_of(_need(obs, [name])[name], known, key)


def _codes_of(values: "pd.Series[Any]", known: NDArray[np.object_], key: str) -> NDArray[np.int64]:
    codes = pd.Index(known).get_indexer(values.to_numpy())
    names = pd.Index([str(level) for level in known])
    if (codes < 0).any() and names.is_unique:  # a file may give numbers back as text
        codes = names.get_indexer(values.astype(str).to_numpy())
    if (codes < 0).any():
        unseen = sorted({str(value) for value in values[codes < 0]})
        msg = (
            f"obs[{values.name!r}] of the query holds levels that were not in training: "
            f"{unseen[:5]}. Known: {[str(level) for level in known][:10]}. {_ADVICE.get(key, '')}"
        )
        raise UnseenLevelError(msg)
    return codes.astype(np.int64)
