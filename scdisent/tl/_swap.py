"""Cells with the specific codes of others, for drawing."""

from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from scdisent._constants import UNS_KEY
from scdisent._errors import OptionError
from scdisent.tl._embed import store_results
from scdisent.tl._space import LatentSpace, read_space, spread_cells

INVARIANT = "invariant"


def swap(
    adata: AnnData,
    model: Any,
    *,
    n_cells: int = 6,
    max_cells: int = 5_000,
    key_added: str = UNS_KEY,
    seed: int = 0,
) -> None:
    """Decode the invariant codes of some cells with the specific codes of others, and store it.

    Specific codes come from one cell of each condition, the one nearest to the mean of its own.
    If the blocks are split, a row keeps what its cell is and takes on the condition of the column.
    Writes ``uns[<key>]["swap"]``: ``values`` (n_cells, n_conditions, n_genes), decoded, for counts
    the centred log share; ``rows``, ``columns``: the same cells with their own codes; ``cells``,
    ``conditions``: names.

    Parameters
    ----------
    adata
        Cells with the columns named at setup.
    model
        A trained model of two blocks.
    n_cells
        Cells that give the invariant codes, drawn evenly over condition, cell type and batch.
    max_cells
        Cells among which both are chosen.
    key_added
        Name under which results are stored.
    seed
        Of the cells that are drawn.

    Raises
    ------
    OptionError
        If the model has one block.
    """
    if INVARIANT not in model.representations:
        msg = (
            f"{type(model).__name__} has the blocks {list(model.representations)}; a swap needs an "
            "invariant and a specific one. See tl.traverse for models of one block."
        )
        raise OptionError(msg)
    space = read_space(adata, model, max_cells=max_cells, seed=seed)
    is_invariant = np.array(space.blocks) == INVARIANT
    conditions = space.column("condition_key")
    rows = spread_cells(space, n_cells, seed=seed)
    names, columns = typical_cells(space.mean[:, ~is_invariant], conditions)
    codes = np.repeat(space.mean[rows][:, None], len(columns), axis=1)
    codes[..., ~is_invariant] = space.mean[columns][:, ~is_invariant]
    decoded = space.decode(codes.reshape(-1, codes.shape[-1]))
    found = {
        "values": decoded.reshape(*codes.shape[:2], -1).astype(np.float32),
        "rows": _decoded(space, rows),
        "columns": _decoded(space, columns),
        "cells": space.cells.obs_names[rows].to_numpy(str),
        "conditions": np.array(names),
    }
    store_results(adata, key_added, swap=found)


def typical_cells(
    codes: NDArray[np.floating], conditions: NDArray[np.str_]
) -> tuple[list[str], NDArray[np.intp]]:
    """Names of the conditions, and the position of the cell nearest to the mean code of each.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``.
    conditions
        ``(n_cells,)``.
    """
    names = sorted(set(conditions))
    found = []
    for name in names:
        own = np.flatnonzero(conditions == name)
        distance = ((codes[own] - codes[own].mean(axis=0)) ** 2).sum(axis=1)
        found.append(own[distance.argmin()])
    return names, np.array(found)


def _decoded(space: LatentSpace, cells: NDArray[np.intp]) -> NDArray[np.float32]:
    return space.decode(space.mean[cells]).astype(np.float32)
