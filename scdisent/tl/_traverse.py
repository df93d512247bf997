"""Decoded traversals, for drawing."""

from typing import Any

import numpy as np
from anndata import AnnData

from scdisent._constants import UNS_KEY
from scdisent._errors import OptionError
from scdisent.tl._embed import store_results
from scdisent.tl._space import read_space


def traverse(
    adata: AnnData,
    model: Any,
    *,
    cell: str | None = None,
    n_grid: int = 9,
    max_cells: int = 5_000,
    key_added: str = UNS_KEY,
    seed: int = 0,
) -> None:
    """Decode one cell with each latent moved through its range, and store it for drawing.

    Writes ``uns[<key>]["traversal"]``: ``values`` (n_latent, n_grid, n_genes), for counts the
    centred log share, else the decoded values; ``grid`` (n_latent, n_grid), from the 1 % to the
    99 % quantile of each latent; ``base`` (n_genes,), the cell itself decoded; ``latents``,
    ``genes``.

    Parameters
    ----------
    adata
        Cells with the columns named at setup.
    model
        A trained model.
    cell
        Name of the cell that is traversed; None: the one nearest to the mean code.
    n_grid
        Places of a traversal.
    max_cells
        Cells that the quantiles are taken from.
    key_added
        Name under which results are stored.
    seed
        Of the cells that are drawn.

    Raises
    ------
    OptionError
        If there is no such cell.
    """
    if cell is not None and cell not in adata.obs_names:
        msg = f"cell={cell!r} is not in adata.obs_names, which start with {adata.obs_names[0]!r}."
        raise OptionError(msg)
    space = read_space(adata, model, max_cells=max_cells, seed=seed)
    if cell is None:
        distance = ((space.mean - space.mean.mean(axis=0)) ** 2).sum(axis=1)
        start = space.mean[distance.argmin()]
    else:
        start = read_space(adata[[cell]], model, max_cells=1, seed=seed).mean[0]
    grid = np.quantile(space.mean, np.linspace(0.01, 0.99, n_grid), axis=0).T
    moved = np.tile(start, (*grid.shape, 1))  # (n_latent, n_grid, n_latent)
    for latent, places in enumerate(grid):
        moved[latent, :, latent] = places
    decoded = space.decode(moved.reshape(-1, len(start)))
    found = {
        "values": decoded.reshape(*grid.shape, -1).astype(np.float32),
        "grid": grid,
        "base": space.decode(start[None])[0].astype(np.float32),
        "latents": np.array(space.names),
        "genes": np.array(space.genes, dtype=str),
    }
    store_results(adata, key_added, traversal=found)
