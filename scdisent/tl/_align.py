"""Several training runs of one model, latent by latent."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scdisent import metrics as sm
from scdisent._constants import UNS_KEY
from scdisent._errors import OptionError
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
    of which run, sign, similarity) and ``summary`` (a row a slot: share of runs that have it, mean
    similarity, consensus); ``uns[<key>]["lsdi_runs"]``, the index of each run and of their mean;
    ``varm["<key>_aligned_fvh_lt"]``, mean over runs; ``varm["<key>_aligned_dbsr_ls"]``, mean signed
    effect; ``varm["<key>_aligned_frequency"]``, share of runs that select a link.
    """
    if len(models) < 2:
        msg = f"align compares runs, but found {len(models)} model(s). Train with several seeds."
        raise OptionError(msg)
    cells = random_cells(adata, max_cells, seed=seed)
    runs = [_scored(cells, model, kl_cut=kl_cut, seed=seed) for model in models]
    alignment = sm.gas(
        [run["codes"] for run in runs], informative=[run["informative"] for run in runs]
    )
    names = [f"slot_{number}" for number in range(alignment.present.shape[1])]
    for name, what, signed in (
        ("aligned_fvh_lt", "fvh_lt", False),
        ("aligned_dbsr_ls", "effects", True),
        ("aligned_frequency", "links", False),
    ):
        mean = alignment.aggregate([run[what] for run in runs], signed=signed).mean
        frame = pd.DataFrame(mean.T, index=runs[0]["genes"], columns=names)
        adata.varm[f"{key_added}_{name}"] = frame.reindex(adata.var_names)
    results = adata.uns.setdefault(key_added, {})
    results["gas"] = {
        "slots": alignment.slots,
        "summary": pd.DataFrame(
            {
                "frequency": alignment.frequency,
                "similarity": alignment.mean_similarity,
                "consensus": alignment.consensus,
            },
            index=names,
        ),
        "reference": alignment.reference,
    }
    results["lsdi_runs"] = _separation(alignment, runs, seed=seed)
    return alignment


def _scored(cells: AnnData, model: Any, *, kl_cut: float, seed: int) -> dict[str, Any]:
    """Codes and scores of one run; the cells' own results are not touched."""
    own = AnnData(cells.X, obs=cells.obs, var=cells.var, layers=dict(cells.layers))
    found = fvh_lt(own, model, kl_cut=kl_cut, seed=seed)
    regression = dbsr_ls(own, model, kl_cut=kl_cut, seed=seed)
    latents = own.uns[UNS_KEY]["latents"]
    representation = "full" if len(model.representations) > 1 else None
    return {
        "codes": model.get_latent_representation(own, representation=representation),
        "informative": latents["informative"].to_numpy(bool),
        "fvh_lt": np.nan_to_num(own.varm[f"{UNS_KEY}_fvh_lt"].to_numpy().T),
        "total": 1.0 if found.norm == "data" else None,
        "effects": regression.debiased * regression.link_selected,
        "links": regression.link_selected,
        "genes": pd.Index(model.get_var_names()),
    }


def _separation(
    alignment: sm.Alignment, runs: Sequence[dict[str, Any]], *, seed: int
) -> pd.DataFrame:
    """Index of every run and of the mean of the aligned runs, from FVH-LT."""
    tables = alignment.apply_rows([run["fvh_lt"] for run in runs], signed=False)
    found = sm.lsdi_over_runs(tables, alignment.present, total=runs[0]["total"], seed=seed)
    values = [*found.per_run, found.of_mean.value]
    return pd.DataFrame({"run": [*map(str, range(len(runs))), "aligned mean"], "value": values})
