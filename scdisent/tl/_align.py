"""Several training runs of one model, latent by latent."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scdisent import metrics as sm
from scdisent._constants import UNS_KEY
from scdisent._errors import OptionError
from scdisent.tl._embed import store_results
from scdisent.tl._foreign import readable
from scdisent.tl._latents import dbsr_ls, fvh_lt
from scdisent.tl._space import random_cells


def align(
    models: Sequence[Any],
    adata: AnnData,
    *,
    kl_cut: float = 0.01,
    max_cells: int = 5_000,
    key_added: str = UNS_KEY,
    seed: int = 0,
) -> sm.Alignment:
    """Match the latents of several runs (GAS) and store what the runs agree on.

    Latents of all blocks are matched by rank correlation on the same cells, with their signs; each
    run is scored by FVH-LT and DBSR-LS, and the scores are averaged in the common order. See
    :func:`scdisent.metrics.gas`.

    Parameters
    ----------
    models
        Trained models of the same class and genes, such as one for each seed.
    adata
        Cells with the columns named at setup.
    kl_cut
        Latents with more information, in nats, are matched.
    max_cells
        Cells used, drawn at random.
    key_added
        Name under which results are stored.
    seed
        Of the cells that are drawn.

    Returns
    -------
    :class:`scdisent.metrics.Alignment`. Stored: ``uns[<key>]["gas"]`` with ``slots`` (which latent
    of which run, sign, similarity), ``summary`` (a row a slot: share of runs that have it, mean
    similarity, consensus) and ``assignment`` (a row a run: total similarity of the greedy and of
    the best assignment); ``uns[<key>]["lsdi_runs"]``, the index of each run and of their mean;
    ``varm["<key>_aligned_fvh_lt"]`` and ``varm["<key>_aligned_dbsr_ls"]``, means over runs, effects
    with their signs, each with its standard deviation under ``..._sd``; and
    ``varm["<key>_aligned_frequency"]``, the share of runs that select a link.

    Raises
    ------
    OptionError
        If there are fewer than two runs, they know other genes, or no latent is informative.
    """
    models = [readable(model) for model in models]
    genes = _shared_genes(models)
    cells = random_cells(adata, max_cells, seed=seed)
    runs = [_scored(cells, model, genes=genes, kl_cut=kl_cut, seed=seed) for model in models]
    informative = [run["informative"] for run in runs]
    if not np.concatenate(informative).any():
        msg = f"No latent of any run has more than kl_cut={kl_cut} nats: all runs have collapsed."
        raise OptionError(msg)
    alignment = sm.gas([run["codes"] for run in runs], informative=informative)
    names = [f"slot_{number}" for number in range(alignment.present.shape[1])]
    for name, what, signed in (
        ("aligned_fvh_lt", "fvh_lt", False),
        ("aligned_dbsr_ls", "effects", True),
        ("aligned_frequency", "links", False),
    ):
        table = alignment.aggregate([run[what] for run in runs], signed=signed)
        parts = {"": table.mean} if what == "links" else {"": table.mean, "_sd": table.sd}
        for suffix, values in parts.items():
            frame = pd.DataFrame(values.T, index=genes, columns=names)
            adata.varm[f"{key_added}_{name}{suffix}"] = frame.reindex(adata.var_names)
    found = {
        "slots": alignment.slots,
        "summary": pd.DataFrame(
            {
                "frequency": alignment.frequency,
                "similarity": alignment.mean_similarity,
                "consensus": alignment.consensus,
            },
            index=names,
        ),
        "assignment": pd.DataFrame(
            {"greedy": alignment.greedy_similarity, "optimal": alignment.optimal_similarity},
            index=[f"run_{number}" for number in range(len(runs))],
        ),
        "reference": alignment.reference,
    }
    store_results(adata, key_added, gas=found, lsdi_runs=_separation(alignment, runs))
    return alignment


def _shared_genes(models: Sequence[Any]) -> pd.Index:
    """Genes of all models, in the order of the first."""
    if len(models) < 2:
        msg = f"align compares runs, but found {len(models)} model(s). Train with several seeds."
        raise OptionError(msg)
    first, *others = [pd.Index(model.get_var_names()) for model in models]
    for number, genes in enumerate(others, start=1):
        differ = first.symmetric_difference(genes)
        if len(differ):
            msg = (
                f"Runs must know the same genes, but those of models 0 and {number} differ in "
                f"{len(differ)}, such as {differ[0]!r}. Train them on the same AnnData."
            )
            raise OptionError(msg)
    return first


def _scored(
    cells: AnnData, model: Any, *, genes: pd.Index, kl_cut: float, seed: int
) -> dict[str, Any]:
    """Codes and scores of one run; the cells' own results are not touched."""
    own = AnnData(cells.X, obs=cells.obs, var=cells.var, layers=dict(cells.layers))
    found = fvh_lt(own, model, kl_cut=kl_cut, seed=seed)
    dbsr_ls(own, model, kl_cut=kl_cut, seed=seed)
    representation = "full" if len(model.representations) > 1 else None
    # rows of varm are in the order of the cells' genes, not of the model's
    effects = own.varm[f"{UNS_KEY}_dbsr_ls"].loc[genes].to_numpy().T
    return {
        "codes": model.get_latent_representation(own, representation=representation),
        "informative": own.uns[UNS_KEY]["latents"]["informative"].to_numpy(bool),
        "fvh_lt": own.varm[f"{UNS_KEY}_fvh_lt"].loc[genes].to_numpy().T,
        "total": 1.0 if found.norm == "data" else None,
        "effects": effects,
        "links": effects != 0,
    }


def _separation(alignment: sm.Alignment, runs: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Index of every run and of the mean of the aligned runs, from FVH-LT."""
    tables = alignment.apply_rows([run["fvh_lt"] for run in runs], signed=False)
    found = sm.lsdi_over_runs(tables, alignment.present, total=runs[0]["total"], n_null=0)
    values = [*found.per_run, found.of_mean.value]
    return pd.DataFrame({"run": [*map(str, range(len(runs))), "aligned mean"], "value": values})
