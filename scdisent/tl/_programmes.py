"""Gene programmes: which genes each latent of a sparse decoder moves."""

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scdisent._constants import UNS_KEY
from scdisent._errors import OptionError
from scdisent.tl._embed import store_results
from scdisent.tl._latents import MIN_MEAN, mean_counts, store_latents, store_loadings
from scdisent.tl._space import read_space

TOUCHED = 0.1
"""A gene belongs to a programme that moves it by this share of the one that moves it most."""


def programmes(
    adata: AnnData,
    model: Any,
    *,
    n_top: int = 10,
    max_cells: int = 1_000,
    kl_cut: float = 0.01,
    key_added: str = UNS_KEY,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Store how much one SD of each latent moves each gene, and name the genes it moves most.

    .. math:: P_{kj} = \mathrm{SD}[z_j] \; \mathbb E_x
              \left| \frac{\partial \hat x_k}{\partial z_j} \right|

    Parameters
    ----------
    adata
        Cells with the columns named at setup.
    model
        A trained :class:`scdisent.CGVAE`.
    n_top
        Genes that are named.
    max_cells
        Cells drawn for the mean.
    kl_cut
        Latents with more information, in nats, are informative.
    key_added
        Name under which results are stored.
    seed
        Of the cells.

    Returns
    -------
    A row a latent: ``block``, ``kl``, ``n_genes`` (that it moves by at least a tenth of what the
    latent that moves them most does) and ``top_genes``; also ``uns[<key>]["programmes"]``. The
    loadings stand in ``varm["<key>_programmes"]``, NaN for genes with less than 0.02 counts a cell.

    Raises
    ------
    OptionError
        If the model has no programmes.
    """
    if not hasattr(model, "get_programmes"):
        msg = f"{type(model).__name__} has no programmes. Use scdisent.CGVAE, or tl.fvh_lt."
        raise OptionError(msg)
    loadings = model.get_programmes(adata, max_cells=max_cells, seed=seed)
    space = read_space(adata, model, max_cells=max_cells, seed=seed)
    rare = mean_counts(space) < MIN_MEAN
    values = np.where(rare, np.nan, loadings.to_numpy().T)  # (n_latent, n_genes)
    store_loadings(adata, f"{key_added}_programmes", space, values)
    store_latents(adata, key_added, space, kl_cut=kl_cut)
    known = np.nan_to_num(values)
    order = np.argsort(-known, axis=1, kind="stable")[:, :n_top]
    table = adata.uns[key_added]["latents"][["block", "kl"]].assign(
        n_genes=((known >= TOUCHED * known.max(axis=0)) & (known > 0)).sum(axis=1),
        top_genes=[", ".join(space.genes[row]) for row in order],
    )
    store_results(adata, key_added, programmes=table)
    return table
