"""What each latent dimension drives, and how well the dimensions are separated."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scdisent import metrics as sm
from scdisent._constants import UNS_KEY
from scdisent._errors import ScDisentWarning, SetupError, one_of
from scdisent.tl._embed import store_results
from scdisent.tl._space import LatentSpace, need_results, read_space, spread_cells

MIN_MEAN = 0.02
"""Genes with fewer counts a cell are not scored: their decoded change is guesswork."""
MIN_VARIANCE = {True: 1e-3, False: 1e-8}
"""Floor of the decoded variance, for counts (centred log) and for other data."""
GRIDS = ("gauss_hermite", "uniform", "quantile", "jacobian")
PENALTIES: dict[str, Any] = {"n_lambdas": 8, "shares": (0.1, 0.3)}
"""Grid of the cross-validation. Effects are refitted without a penalty on what it selects, so a
finer grid costs seven times as much and changes little."""
N_NULL = {"index": 100, "cut": 20}
"""Permutations for the index, and for each of its cuts."""


def fvh_lt(
    adata: AnnData,
    model: Any,
    *,
    grid: str | None = None,
    n_grid: int = 11,
    n_base: int = 256,
    max_cells: int = 5_000,
    kl_cut: float = 0.01,
    key_added: str = UNS_KEY,
    seed: int = 0,
) -> sm.FeatureVariance:
    """Move each latent through its range and store the variance that each gene shows (FVH-LT).

    Count models are read on the centred-log scale over the variance of the decoded cells, other
    data over the variance of the data. Genes with less than 0.02 counts a cell, and those that the
    model does not know, are NaN in what is stored. See :func:`scdisent.metrics.fvh_lt`.

    Parameters
    ----------
    adata
        Cells with the columns named at setup.
    model
        A trained model, or one of scvi-tools such as ``SCVI``; blocks are traversed side by side,
        the rest of a cell's code held.
    grid
        As in :func:`scdisent.metrics.fvh_lt`; None: ``"gauss_hermite"`` for tables and images of
        one block, else ``"quantile"``, because cell types make codes multimodal.
    n_grid, n_base
        Places of a traversal; cells it starts from, drawn evenly over condition, type and batch.
    max_cells
        Cells that stand for the aggregate of the codes.
    kl_cut
        Latents with more information, in nats, are informative.
    key_added
        Name under which results are stored.
    seed
        Of the cells that are drawn.

    Returns
    -------
    :class:`scdisent.metrics.FeatureVariance`, genes as the model orders them. Stored:
    ``varm["<key>_fvh_lt"]`` and ``varm["<key>_fvh_lt_signed"]``, a column a latent;
    ``uns[<key>]["latents"]``, a row a latent; ``uns[<key>]["fvh_lt"]``, the settings and
    ``"signal"``, the share of each gene's variance that is not counting, by which plots choose.
    """
    if grid is not None:
        one_of(grid, GRIDS, "grid")
    space = read_space(adata, model, max_cells=max_cells, seed=seed)
    if grid is None:
        one_table = not space.is_counts and len(space.model.representations) == 1
        grid = "gauss_hermite" if one_table else "quantile"
    base = spread_cells(space, n_base, seed=seed)
    found = sm.fvh_lt(
        space.decode,
        space.mean[base],
        grid=grid,  # type: ignore[arg-type]
        n_grid=n_grid,
        codes=space.mean,
        total_variance=None if space.is_counts else space.expression.var(axis=0),
        min_variance=MIN_VARIANCE[space.is_counts],
    )
    mean = mean_counts(space)
    values = np.where(mean < MIN_MEAN, np.nan, found.values)
    store_loadings(adata, f"{key_added}_fvh_lt", space, values)
    store_loadings(adata, f"{key_added}_fvh_lt_signed", space, found.signed)
    columns = {
        "fvh_max": np.nanmax(np.nan_to_num(values), axis=1),
        "off_manifold": found.off_manifold,
    }
    store_latents(adata, key_added, space, kl_cut=kl_cut, **columns)
    settings = {
        "grid": grid,
        "n_grid": n_grid,
        "n_base": len(base),
        "norm": found.norm,
        "scale": "centred log" if space.is_counts else "data",
        "kl_cut": kl_cut,
        "signal": pd.DataFrame(
            {"signal": signal_share(found.decoded_variance, mean)}, index=space.genes
        ),
    }
    store_results(adata, key_added, fvh_lt=settings)
    return found


def dbsr_ls(
    adata: AnnData,
    model: Any,
    *,
    max_cells: int = 20_000,
    kl_cut: float = 0.01,
    key_added: str = UNS_KEY,
    seed: int = 0,
    **options: Any,
) -> sm.SparseRegression:
    """Regress expression on the latents with whole latents and single links off (DBSR-LS).

    Responses are log-normalised counts, which stay sparse, or the values themselves. Folds hold
    whole donors where setup named them, and batches are regressed out. See
    :func:`scdisent.metrics.dbsr_ls`.

    Parameters
    ----------
    adata
        Cells with the columns named at setup.
    model
        A trained model, or one of scvi-tools such as ``SCVI``.
    max_cells
        Cells used, drawn at random.
    kl_cut
        Latents with more information, in nats, are informative.
    key_added
        Name under which results are stored.
    seed
        Of cells and folds.
    **options
        Of :func:`scdisent.metrics.dbsr_ls`; its grid is coarser here: 8 penalties for each of two
        shares.

    Returns
    -------
    :class:`scdisent.metrics.SparseRegression`. Stored: ``varm["<key>_dbsr_ls"]``, effects of the
    selected links in SD of a gene for each unit of a latent (0: no link);
    ``varm["<key>_dbsr_ls_coef"]``, all effects before the cut of links, NaN for genes that do not
    vary; ``uns[<key>]["latents"]``; ``uns[<key>]["dbsr_ls"]`` with penalties, cross-validation and
    explained share of each gene.
    """
    space = read_space(adata, model, max_cells=max_cells, seed=seed)
    batch = space.column("batch_key")
    found = sm.dbsr_ls(
        space.mean,
        space.expression,
        groups=_several(space.column("sample_key")),
        covariates=None if _several(batch) is None else pd.get_dummies(batch).to_numpy(float),
        seed=seed,
        **{**PENALTIES, **options},
    )
    effects = np.where(found.constant, np.nan, found.debiased)
    store_loadings(adata, f"{key_added}_dbsr_ls", space, found.debiased * found.link_selected)
    store_loadings(adata, f"{key_added}_dbsr_ls_coef", space, effects)
    columns = {"selected": found.latent_selected, "n_links": found.link_selected.sum(axis=1)}
    store_latents(adata, key_added, space, kl_cut=kl_cut, **columns)
    made = {
        "lambda_block": found.lambda_block,
        "lambda_element": found.lambda_element,
        "path": found.path,
        "r2": pd.DataFrame({"r2": found.r2}, index=space.genes),
        "is_counts": space.is_counts,
    }
    store_results(adata, key_added, dbsr_ls=made)
    return found


def lsdi(adata: AnnData, *, key_added: str = UNS_KEY, seed: int = 0) -> pd.DataFrame:
    """Separation of the latents from the stored FVH-LT and DBSR-LS, by block and over all.

    LSDI-R, our reconstruction; see :func:`scdisent.metrics.lsdi`. The association of DBSR-LS is the
    share of a gene's variance that a latent explains, ``effect**2 * Var[z_k]``, of effects refitted
    without the penalty, whose strength would else decide how much counts as explained. What is not
    explained counts against the index for real values only: the noise of counts is nobody's. Genes
    that one tool could not score are left out of both. ``adjusted`` is against associations
    permuted within each latent: 0 for noise.

    Parameters
    ----------
    adata
        Holds the results of :func:`fvh_lt`, of :func:`dbsr_ls`, or of both.
    key_added
        Name under which results are stored.
    seed
        Of the permutations.

    Returns
    -------
    A row for each tool and block (and ``"all"``, and the mean of both tools):
    ``tool, block, value, explained, balance, concentration, n_informative, null, adjusted``; also
    ``uns[<key>]["lsdi"]``. ``uns[<key>]["lsdi_by_cut"]`` shows how it depends on the KL cut. All is
    NaN, with a warning, where no gene could be scored by every tool.

    Raises
    ------
    SetupError
        If neither tool was run, or the stored results are of two models.
    """
    latents = need_results(adata, key_added, "latents", call=CALL)
    inputs = _associations(adata, key_added, latents)
    blocks = [*dict.fromkeys(latents["block"])]
    rows, cuts = [], []
    for tool, (table, total) in inputs.items():
        for block in [*blocks, "all"] if len(blocks) > 1 else blocks:
            chosen = (latents["block"] == block).to_numpy() | (block == "all")
            own, of = latents[chosen], {"tool": tool, "block": block}
            given: dict[str, Any] = {"total": total, "permute": "rows", "seed": seed}
            informative = own["informative"].to_numpy(bool)
            found = sm.lsdi(table[chosen], informative=informative, n_null=N_NULL["index"], **given)
            by_cut = sm.lsdi_by_cut(
                table[chosen], own["kl"].to_numpy(), n_null=N_NULL["cut"], **given
            )
            rows.append({**of, **_parts(found)})
            cuts.append(by_cut.reset_index().assign(**of))
    frame = pd.DataFrame(rows)
    if len(inputs) > 1:
        numbers = frame.drop(columns="tool").groupby("block", sort=False).mean().reset_index()
        frame = pd.concat([frame, numbers.assign(tool="mean")], ignore_index=True)
    store_results(adata, key_added, lsdi=frame, lsdi_by_cut=pd.concat(cuts, ignore_index=True))
    return frame


CALL = "scdisent.tl.fvh_lt(adata, model) or scdisent.tl.dbsr_ls(adata, model)"
_PARTS = ("value", "explained", "balance", "concentration", "n_informative", "null", "adjusted")


def _parts(found: sm.Separation) -> dict[str, float]:
    return {name: float(getattr(found, name)) for name in _PARTS}


def _associations(
    adata: AnnData, key: str, latents: pd.DataFrame
) -> dict[str, tuple[NDArray[np.floating], float | None]]:
    """Association ``(n_latent, n_genes)`` of each tool that was run, and what it could sum to."""
    results, found = adata.uns[key], {}
    if f"{key}_fvh_lt" in adata.varm:
        share = _loadings(adata, f"{key}_fvh_lt", latents)
        found["fvh_lt"] = (share, 1.0 if results["fvh_lt"]["norm"] == "data" else None)
    if f"{key}_dbsr_ls_coef" in adata.varm:
        effects = _loadings(adata, f"{key}_dbsr_ls_coef", latents)
        share = effects**2 * latents["code_variance"].to_numpy()[:, None]
        found["dbsr_ls"] = (share, None if results["dbsr_ls"]["is_counts"] else 1.0)
    if not found:
        msg = f"adata.varm holds no scores of latents. Run {CALL} first."
        raise SetupError(msg)
    unscored = np.any([np.isnan(table).any(axis=0) for table, _ in found.values()], axis=0)
    if unscored.all():
        msg = (
            "No gene varies enough in what the model decodes to be scored: the separation index is "
            "NaN. Train longer."
        )
        warnings.warn(msg, ScDisentWarning, stacklevel=3)
    return {
        tool: (np.where(unscored, np.nan, table), total) for tool, (table, total) in found.items()
    }


def _loadings(adata: AnnData, name: str, latents: pd.DataFrame) -> NDArray[np.floating]:
    """Stored ``(n_latent, n_genes)``, refused if its latents are not those scored last."""
    frame = adata.varm[name]
    if list(frame.columns) != list(latents.index):
        msg = (
            f"adata.varm[{name!r}] has {frame.shape[1]} latents, from {frame.columns[0]!r} on, but "
            f"the model scored last has {len(latents)}, from {latents.index[0]!r} on. Run "
            "scdisent.tl.fvh_lt and scdisent.tl.dbsr_ls with the same model."
        )
        raise SetupError(msg)
    table: NDArray[np.floating] = frame.to_numpy(dtype=np.float64).T
    return table


def store_loadings(
    adata: AnnData, name: str, space: LatentSpace, values: NDArray[np.floating]
) -> None:
    """Write ``(n_latent, n_genes)`` to ``varm``; genes that the model does not know are NaN."""
    frame = pd.DataFrame(np.asarray(values).T, index=space.genes, columns=space.names)
    adata.varm[name] = frame.reindex(adata.var_names)


def store_latents(
    adata: AnnData, key: str, space: LatentSpace, *, kl_cut: float, **columns: Any
) -> None:
    """Write a row for each latent, beside what earlier calls found."""
    known = adata.uns.get(key, {}).get("latents")
    frame = pd.DataFrame(
        {
            "block": space.blocks,
            "kl": space.information,
            "informative": space.information > kl_cut,
            "code_variance": space.mean.var(axis=0),
        },
        index=pd.Index(space.names, name="latent"),
    )
    if known is not None and list(known.index) == space.names:
        frame = frame.join(known.drop(columns=frame.columns, errors="ignore"))
    store_results(adata, key, latents=frame.assign(**columns))


def mean_counts(space: LatentSpace) -> NDArray[np.floating]:
    """Counts of each gene in a cell, ``(n_genes,)``; infinite for values that are no counts."""
    if not space.is_counts:
        return np.full(len(space.genes), np.inf)
    layer = space.model.registry_["setup_args"].get("layer")
    cells = space.cells[:, space.genes]
    x = cells.X if layer is None else cells.layers[layer]
    return np.asarray(x.mean(axis=0), dtype=np.float64).ravel()


def signal_share(decoded: NDArray[np.floating], mean: NDArray[np.floating]) -> NDArray[np.floating]:
    r"""Share of a gene's variance on the log scale that is not counting.

    .. math:: S_j = \operatorname{Var}_j / (\operatorname{Var}_j + 1 / \mu_j)

    The log of a Poisson count of mean :math:`\mu` has a variance of about :math:`1 / \mu` (delta
    method). A latent's share of the decoded variance times this is its share of what counts show:
    of two genes that it moves alike, the one that a cell has more counts of says more.

    Parameters
    ----------
    decoded
        Variance of the decoded cells, ``(n_genes,)``.
    mean
        Counts of each gene in a cell; infinite for values without counting noise.
    """
    noise = np.divide(1, mean, out=np.full(len(mean), np.inf), where=mean > 0)
    return np.divide(decoded, decoded + noise, out=np.zeros(len(mean)), where=decoded > 0)


def _several(column: Any) -> Any:
    """The column where it has at least two levels, else None."""
    return column if column is not None and len(np.unique(column)) > 1 else None
