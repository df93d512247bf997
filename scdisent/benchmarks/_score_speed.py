"""Time and memory of the scores without ground truth at the size of a whole transcriptome."""

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from scdisent import metrics as sm
from scdisent.benchmarks._alone import measure_all

N_LATENT, N_GENES, N_BASE, N_GRID = 30, 20_000, 256, 11
N_CELLS, DENSITY = 20_000, 0.05
N_CELLS_PAIRED = 5_000
"""Of the run beside other group lassos, whose features must be dense."""


def traverse_all() -> str:
    """FVH-LT of a decoder with one hidden layer."""
    import torch

    torch.manual_seed(0)
    decoder = torch.nn.Sequential(
        torch.nn.Linear(N_LATENT, 128), torch.nn.ReLU(), torch.nn.Linear(128, N_GENES)
    )

    @torch.inference_mode()
    def decode(codes):
        logits = decoder(torch.as_tensor(codes, dtype=torch.float32))
        return torch.log_softmax(logits, dim=-1).numpy()

    base = np.random.default_rng(0).normal(size=(N_BASE, N_LATENT))
    sm.fvh_lt(decode, base, n_grid=N_GRID)
    return f"{N_BASE} bases x {N_LATENT} latents x {N_GENES:,} genes, {N_GRID} places"


def world(n_cells: int) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Codes and sparse features, a third of which follow one latent each."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(n_cells, N_LATENT))
    n_stored = int(DENSITY * N_GENES)
    rows = np.repeat(np.arange(n_cells), n_stored)
    genes = rng.integers(0, N_GENES, n_cells * n_stored)
    driver = rng.integers(0, N_LATENT, N_GENES)
    values = rng.random(len(rows)) + np.maximum(codes[rows, driver[genes]], 0) * (genes % 3 == 0)
    return codes, sparse.coo_matrix((values, (rows, genes)), shape=(n_cells, N_GENES)).tocsr()


def regress() -> str:
    """DBSR-LS with its whole cross-validation."""
    codes, x = world(N_CELLS)
    start = time.perf_counter()
    sm.dbsr_ls(codes, x, n_folds=5, n_lambdas=30, shares=(0.05, 0.1, 0.2, 0.4))
    return (
        f"{_size(N_CELLS)}, 30 lambdas x 4 ratios x 5 folds: "
        f"{time.perf_counter() - start:.1f} s without making the data"
    )


def _dense_problem() -> tuple[np.ndarray, np.ndarray, float]:
    """Centred codes, standardised features and a penalty that keeps some latents."""
    codes, x = world(N_CELLS_PAIRED)
    features = x.toarray()
    features -= features.mean(axis=0)
    features /= features.std(axis=0)
    codes -= codes.mean(axis=0)
    pull = np.linalg.norm(codes.T @ features / len(codes), axis=1)
    return codes, features, float(np.median(pull))


def group_lasso_ours() -> str:
    """One group lasso (no single links) by our descent."""
    codes, features, penalty = _dense_problem()
    start = time.perf_counter()
    found = sm.dbsr_ls(codes, features, lambda_block=penalty, lambda_element=penalty, debias=False)
    return _fitted(codes, features, penalty, found.coef, time.perf_counter() - start)


def group_lasso_other(package: str) -> str:
    """The same by a multi-task lasso of another package, fitted twice if it compiles itself."""
    module = import_module(package)
    codes, features, penalty = _dense_problem()
    if package == "skglm":  # numba compiles on the first call
        module.MultiTaskLasso(alpha=penalty, fit_intercept=False).fit(codes[:50], features[:50])
    model = module.MultiTaskLasso(alpha=penalty, fit_intercept=False, tol=1e-6)
    start = time.perf_counter()
    model.fit(codes, features)
    return _fitted(codes, features, penalty, model.coef_.T, time.perf_counter() - start)


def _fitted(
    codes: np.ndarray, features: np.ndarray, penalty: float, coef: np.ndarray, seconds: float
) -> str:
    left = features - codes @ coef
    norms = np.linalg.norm(coef, axis=1).sum()
    objective = (left**2).sum() / (2 * len(left)) + penalty * norms
    n_latent = int(coef.any(axis=1).sum())
    return (
        f"{_size(len(codes))}: fit alone {seconds:.2f} s, objective {objective:.5f}, "
        f"{n_latent} latents"
    )


def _size(n_cells: int) -> str:
    return f"{n_cells:,} cells x {N_GENES:,} genes x {N_LATENT} latents"


TASKS: dict[str, Callable[[], str]] = {
    "FVH-LT": traverse_all,
    "DBSR-LS": regress,
    "group lasso, ours": group_lasso_ours,
    "group lasso, scikit-learn": partial(group_lasso_other, "sklearn.linear_model"),
    "group lasso, celer": partial(group_lasso_other, "celer"),
    "group lasso, skglm": partial(group_lasso_other, "skglm"),
}


def score_speed(out: str | Path) -> pd.DataFrame:
    """Measure every task in a process of its own; write ``score_speed.csv`` and ``.md``."""
    packages = {name: name.rpartition(", ")[2] for name in TASKS}
    optional = {"celer", "skglm"}
    found = [n for n, package in packages.items() if package not in optional or find_spec(package)]
    return measure_all(__name__, found, out, head=HEAD)


HEAD = """# Speed of the scores

Each task in its own process with all cores; seconds and memory include the imports and the data.
Made by `scdisent bench score_speed`, {environment}. The group lassos solve one problem (one
penalty, dense features) with celer and skglm where they are installed; lower objectives are better.

| task | size | seconds | peak memory, MiB |
| --- | --- | ---: | ---: |
"""
