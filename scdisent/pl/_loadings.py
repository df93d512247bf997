"""Which latents and genes the plots of scores draw, and in which order."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scdisent._errors import InputDataError, OptionError, one_of
from scdisent.pl._figure import stored

MAX_ALL = 40
"""Tables with no more features than this are drawn whole."""
Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Numbers of a heat map: rows are latents, columns are genes, both in the order drawn."""

    values: pd.DataFrame
    """``(n_latent, n_genes)``: what the colours show."""
    latents: pd.DataFrame
    """A row for each latent: ``block``, ``kl``, ``informative`` and what else is stored."""
    tops: NDArray[np.bool_]
    """``(n_latent, n_genes)``: the genes that each informative latent was asked to show."""
    share: Array
    """``(n_latent, n_genes)``: what they were chosen by."""
    n_scored: int
    """Genes with a score; the others are never drawn."""
    n_genes: int
    """Genes of the table."""

    @property
    def is_whole(self) -> bool:
        """Whether every scored gene is drawn."""
        return self.values.shape[1] == self.n_scored


def heat_map(
    loadings: pd.DataFrame,
    latents: pd.DataFrame,
    *,
    share: Array,
    n_genes: int,
    block: str | None = None,
) -> HeatMap:
    """Choose and order rows and columns.

    Rows: by block, then by information. Columns: all scored genes of a small table, else the
    ``n_genes`` of largest share of each informative latent, each gene once; see
    :func:`top_genes` and :func:`gene_order`.

    Parameters
    ----------
    loadings
        ``(n_genes, n_latent)`` as in ``varm``; genes without a score are NaN.
    latents
        A row for each latent, in the order of the columns of ``loadings``.
    share
        ``(n_latent, n_genes)``, of :func:`share_of_gene`.
    n_genes
        Genes of each informative latent.
    block
        Block to draw; None: all.

    Raises
    ------
    InputDataError
        If no gene was scored, or none is moved.
    OptionError
        If ``n_genes`` is below one, or the block is unknown.
    """
    if n_genes < 1:
        msg = f"n_genes={n_genes}, but each latent must show at least one gene."
        raise OptionError(msg)
    scored = ~loadings.isna().any(axis=1).to_numpy()
    if not scored.any():
        msg = "No gene was scored: all stored values are NaN. Run the score on expressed genes."
        raise InputDataError(msg)
    rows = latent_order(latents, block=block)
    leads = latents["informative"].to_numpy(bool)[rows]
    if not leads.any():
        leads[:] = True  # nothing to prefer: every latent shows its genes
    own = np.where(leads[:, None], share[rows], 0)
    tops = top_genes(own, n_genes=n_genes)
    chosen = scored if scored.sum() <= MAX_ALL else tops.any(axis=0)
    if not chosen.any():
        msg = "No latent moves any gene: all stored values are 0. There is nothing to draw."
        raise InputDataError(msg)
    columns = gene_order(own, chosen=np.flatnonzero(chosen))
    return HeatMap(
        values=loadings.T.iloc[rows, columns],
        latents=latents.iloc[rows],
        tops=tops[:, columns],
        share=own[:, columns],
        n_scored=int(scored.sum()),
        n_genes=len(loadings),
    )


def latent_order(latents: pd.DataFrame, *, block: str | None = None) -> NDArray[np.intp]:
    """Positions of the latents: by block as stored, then from most to least information."""
    names = latents["block"].astype(str).to_numpy()
    blocks = list(dict.fromkeys(names))
    chosen = blocks if block is None else [one_of(block, blocks, "block")]
    order = np.argsort(-latents["kl"].to_numpy(), kind="stable")
    return np.concatenate([order[names[order] == name] for name in chosen])


def share_of_gene(association: Array, informative: NDArray[np.bool_]) -> Array:
    r"""Share of each latent in a gene, the part that no latent explains being nobody's.

    .. math:: w_{kj} = A_{kj} / \max\bigl(1, \sum_{k'\,\mathrm{informative}} A_{k'j}\bigr)

    A are shares of a gene's variance. With only the sum below, genes that no latent moves would be
    chosen for a large share of nothing. The same weights as in LSDI-R, see
    :func:`scdisent.metrics.lsdi`; ours.

    Parameters
    ----------
    association
        ``(n_latent, n_genes)``, not negative; NaN for genes without a score.
    informative
        ``(n_latent,)``.

    Returns
    -------
    ``(n_latent, n_genes)``; 0 for genes without a score.
    """
    known = np.nan_to_num(association)
    weights: Array = known / np.maximum(1, known[informative].sum(axis=0))
    return weights


def top_genes(share: Array, *, n_genes: int) -> NDArray[np.bool_]:
    """Genes of largest share of each latent, none of share 0: mask ``(n_latent, n_genes)``."""
    best = np.argsort(-share, axis=1, kind="stable")[:, :n_genes]
    mask = np.zeros(share.shape, dtype=bool)
    np.put_along_axis(mask, best, values=True, axis=1)
    return mask & (share > 0)


def gene_order(share: Array, *, chosen: NDArray[np.intp]) -> NDArray[np.intp]:
    """Order that puts genes along the diagonal.

    By the latent of largest share, in the order of the rows, then by that share from large to
    small; genes that no latent moves come last.

    Parameters
    ----------
    share
        ``(n_latent, n_genes)``, rows as drawn.
    chosen
        Positions of the genes to order.
    """
    own = share[:, chosen]
    most = own.max(axis=0)
    owner = np.where(most > 0, own.argmax(axis=0), len(own))
    return chosen[np.lexsort((-most, owner))]


def stored_loadings(
    adata: AnnData, name: str, *, key: str, call: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Loadings ``(n_genes, n_latent)`` of ``varm["<key>_<name>"]`` and the table of latents."""
    slot = f"{key}_{name}"
    if slot not in adata.varm:
        msg = f"adata.varm holds no {slot!r}. Call {call} first."
        raise InputDataError(msg)
    loadings = adata.varm[slot]
    latents = stored(adata, "latents", key=key, call=call)
    unknown = [latent for latent in latents.index if latent not in loadings]
    if unknown or len(latents) != loadings.shape[1]:
        msg = (
            f"The table of latents ({', '.join(latents.index)}) and varm[{slot!r}] "
            f"({', '.join(loadings)}) are of different models. Call {call} again."
        )
        raise InputDataError(msg)
    return loadings[list(latents.index)], latents
