"""Time and memory of predicting many cells."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scdisent.benchmarks._alone import measure_all
from scdisent.model import DISCoVeR, ShiftModel, setup_anndata

N_CELLS, N_GENES, DENSITY, N_TYPES = 100_000, 5_000, 0.06, 8
N_TRAINING = 4_000


def world(n_cells: int, *, seed: int = 0) -> AnnData:
    """Sparse counts of cell types under two conditions, a tenth of the genes moved."""
    rng = np.random.default_rng(seed)
    kinds, treated = rng.integers(0, N_TYPES, n_cells), rng.random(n_cells) < 0.5
    n_stored = int(DENSITY * N_GENES)
    shares = rng.dirichlet(np.full(N_GENES, 0.1), N_TYPES).cumsum(axis=1)
    genes = np.empty((n_cells, n_stored), dtype=np.int64)
    for kind in range(N_TYPES):
        own = kinds == kind
        genes[own] = np.searchsorted(shares[kind], rng.random((own.sum(), n_stored)))
    genes = np.minimum(genes, N_GENES - 1)
    moved = treated[:, None] & (genes % 10 == 0)
    genes[moved] = (genes[moved] + 1) % N_GENES
    rows = np.repeat(np.arange(n_cells), n_stored)
    values = np.ones(rows.size, dtype=np.float32)
    x = sparse.csr_matrix((values, (rows, genes.ravel())), shape=(n_cells, N_GENES))
    x.sum_duplicates()
    names = np.where(treated, "treated", "control")
    obs = {"condition": pd.Categorical(names), "cell_type": pd.Categorical(kinds.astype(str))}
    adata = AnnData(x, obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(n_cells)]))
    return adata[:, np.asarray(x.sum(axis=0)).ravel() > 0].copy()


def predict(model_class: Any, *, on_disk: bool = False, **options: Any) -> str:
    """Fit a few cells for a moment, then predict all."""
    cells = world(N_CELLS)
    train = cells[:N_TRAINING].copy()
    train = train[:, np.asarray(train.X.sum(axis=0)).ravel() > 0].copy()
    cells = cells[:, train.var_names].copy()
    setup = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}
    setup_anndata(train, **setup)
    model = model_class(train)
    model.train() if model_class is ShiftModel else model.train(2, enable_progress_bar=False)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cells.zarr" if on_disk else None
        start = time.perf_counter()
        model.predict(
            cells, condition="treated", allow_reconstruction=True, out=out, seed=0, **options
        )
        seconds = time.perf_counter() - start
    n_cells, n_genes = cells.shape
    return f"{n_cells:,} cells x {n_genes:,} genes: {n_cells / seconds:,.0f} cells a second"


TASKS: dict[str, Callable[[], str]] = {
    "DISCoVeR": partial(predict, DISCoVeR),
    "DISCoVeR, to zarr": partial(predict, DISCoVeR, on_disk=True),
    "DISCoVeR, network alone": partial(predict, DISCoVeR, anchor=None),
    "DISCoVeR, means to zarr": partial(predict, DISCoVeR, kind="mean", on_disk=True),
    "ShiftModel": partial(predict, ShiftModel),
}


def prediction_speed(out: str | Path) -> pd.DataFrame:
    """Measure every task in a process of its own; write ``prediction_speed.csv`` and ``.md``."""
    return measure_all(__name__, list(TASKS), out, head=HEAD)


HEAD = """# Speed of predictions

Each task in its own process with all cores: made data, a short fit, then one prediction of all
cells. Cells a second are those of the prediction alone; seconds and memory are of the whole
process. Made by `scdisent bench prediction_speed`, {environment}.

| task | prediction | seconds | peak memory, MiB |
| --- | --- | ---: | ---: |
"""
