"""Write a model's codes into an AnnData."""

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scdisent import __version__
from scdisent._constants import UNS_KEY, obsm_key

BLOCKS = ("invariant", "specific", "latent")
LOADINGS = ("fvh_lt", "fvh_lt_signed", "dbsr_ls", "dbsr_ls_coef", "programmes")


def embed(adata: AnnData, model: Any, *, key_added: str = UNS_KEY) -> None:
    """Store the latent blocks, the training curves and where they come from.

    Writes ``obsm["X_<key>_invariant"]`` and ``obsm["X_<key>_specific"]``, or
    ``obsm["X_<key>_latent"]`` for a model of one block (posterior means, ``(n_cells, n_latent)``),
    ``uns[<key>]["embed"]`` (model, preset, likelihood, version, keys of the setup) and
    ``uns[<key>]["history"]`` (one column a curve). Everything can be written to h5ad and zarr.
    What these slots held of another model is removed, with its coordinates
    (``obsm["X_umap_<key>_<block>"]``) and loadings (``varm["<key>_<score>"]``).

    Parameters
    ----------
    adata
        Cells with the genes of training and the condition column, which the specific block reads.
    model
        A trained model.
    key_added
        Name under which results are stored.
    """
    codes = {
        name: model.get_latent_representation(adata, representation=name)
        for name in model.representations
    }
    made = {"version": __version__, "representations": list(codes), **described(model)}
    history = history_frame(model.history)
    before = adata.uns.get(key_added, {}).get("history")
    if before is not None and not same_curves(before, history):
        _forget(adata, key_added)
    for name, values in codes.items():
        adata.obsm[obsm_key(name, key_added)] = values
    store_results(adata, key_added, embed=made, history=history)


def _forget(adata: AnnData, key: str) -> None:
    """Remove what was stored of another model; runs that were aligned are not of one model."""
    adata.uns[key] = {}
    for slot in (obsm_key(name, k) for name in BLOCKS for k in (key, f"umap_{key}")):
        adata.obsm.pop(slot, None)
    for slot in (f"{key}_{name}" for name in LOADINGS):
        adata.varm.pop(slot, None)


def store_results(adata: AnnData, key: str, **values: Any) -> None:
    """Add results under ``uns[key]``; a view becomes a copy, and its parent stays as it was."""
    if adata.is_view:
        adata.uns[key] = dict(adata.uns.get(key, {}))
    adata.uns.setdefault(key, {}).update(values)


def same_curves(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Whether two histories are of one model; files give other types of columns back."""
    shared = [name for name in first.columns if name in second.columns]
    same = len(first) == len(second) and bool(shared)
    return same and np.array_equal(first[shared], second[shared], equal_nan=True)


def described(model: Any) -> dict[str, str]:
    """What a model is, and the columns and the layer named at setup; empty where there is none."""
    layer = model.registry_["setup_args"].get("layer")
    return {
        "model": type(model).__name__,
        "preset": str(getattr(model, "preset", "")),
        "likelihood": str(getattr(model, "likelihood", "")),
        "layer": "" if layer is None else str(layer),
        **setup_keys(model),
    }


def setup_keys(model: Any) -> dict[str, str]:
    """Columns named at setup; an empty string where none was (h5ad knows no None)."""
    given = model.registry_["setup_args"]
    names = ("condition_key", "labels_key", "sample_key", "batch_key", "control", "dose_key")
    return {name: "" if given.get(name) is None else str(given[name]) for name in names}


def history_frame(history: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Curves side by side, indexed by epoch."""
    frame = pd.DataFrame({name: curve.iloc[:, 0] for name, curve in history.items()})
    frame.index.name = "epoch"
    return frame.astype(float)
