"""Time and memory of the scores without ground truth at the size of a whole transcriptome."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from scdisent import metrics as sm
from scdisent._errors import one_of
from scdisent.benchmarks._report import environment

N_LATENT, N_GENES, N_BASE, N_GRID = 30, 20_000, 256, 11
N_CELLS, DENSITY = 20_000, 0.05
SMALL = {"n_cells": 5_000, "n_genes": 2_000}
"""Of the paired run with scikit-learn, whose design must be dense."""


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


def world(n_cells: int, n_genes: int) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Codes and sparse features, a third of which follow some latents."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(n_cells, N_LATENT))
    x = sparse.random(n_cells, n_genes, DENSITY, format="csr", random_state=rng)
    driver = rng.integers(0, N_LATENT, n_genes)
    rows = np.repeat(np.arange(n_cells), np.diff(x.indptr))
    x.data += np.maximum(codes[rows, driver[x.indices]], 0) * (x.indices % 3 == 0)
    return codes, x


def regress() -> str:
    """DBSR-LS with its whole cross-validation."""
    codes, x = world(N_CELLS, N_GENES)
    sm.dbsr_ls(codes, x, n_folds=5, n_lambdas=30, shares=(0.05, 0.1, 0.2, 0.4))
    grid = "30 lambdas x 4 ratios x 5 folds"
    return f"{N_CELLS:,} cells x {N_GENES:,} genes x {N_LATENT} latents, {grid}"


def _group_lasso_problem() -> tuple[np.ndarray, sparse.csr_matrix, float]:
    codes, x = world(**SMALL)
    dense = x.toarray()
    dense = (dense - dense.mean(axis=0)) / dense.std(axis=0)
    centred = codes - codes.mean(axis=0)
    largest = np.linalg.norm(centred.T @ dense / len(dense), axis=1).max()
    return codes, x, 0.3 * largest


def group_lasso_ours() -> str:
    """One group lasso (no single links) by our descent, from the sparse matrix."""
    codes, x, penalty = _group_lasso_problem()
    start = time.perf_counter()
    found = sm.dbsr_ls(codes, x, lambda_block=penalty, lambda_element=penalty, debias=False)
    seconds = time.perf_counter() - start
    return f"{_small()}: fit alone {seconds:.3f} s, objective {found.objective:.4f}"


def group_lasso_sklearn() -> str:
    """The same by scikit-learn's ``MultiTaskLasso``, from a dense matrix."""
    from sklearn.linear_model import MultiTaskLasso

    codes, x, penalty = _group_lasso_problem()
    dense = x.toarray()
    dense = (dense - dense.mean(axis=0)) / dense.std(axis=0)
    centred = codes - codes.mean(axis=0)
    start = time.perf_counter()
    model = MultiTaskLasso(alpha=penalty, fit_intercept=False, tol=1e-8).fit(centred, dense)
    seconds = time.perf_counter() - start
    left = dense - centred @ model.coef_.T
    norms = np.linalg.norm(model.coef_, axis=0).sum()
    objective = (left**2).sum() / (2 * len(dense)) + penalty * norms
    return f"{_small()}: fit alone {seconds:.3f} s, objective {objective:.4f}"


def _small() -> str:
    return f"{SMALL['n_cells']:,} cells x {SMALL['n_genes']:,} genes x {N_LATENT} latents"


TASKS: dict[str, Callable[[], str]] = {
    "FVH-LT": traverse_all,
    "DBSR-LS": regress,
    "group lasso, ours": group_lasso_ours,
    "group lasso, scikit-learn": group_lasso_sklearn,
}


def measure(name: str) -> dict[str, float | str]:
    """One task in this process."""
    start = time.perf_counter()
    size = TASKS[one_of(name, TASKS, "name")]()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"task": name, "size": size, "seconds": seconds, "peak_mib": peak}


def score_speed(out: str | Path) -> pd.DataFrame:
    """Measure every task in a process of its own; write ``score_speed.csv`` and ``.md``."""
    rows = []
    for name in TASKS:
        code = (
            f"from scdisent.benchmarks._score_speed import *; print(json.dumps(measure({name!r})))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "score_speed.csv", index=False, float_format="%.3f")
    lines = [
        f"| {r.task} | {r.size} | {r.seconds:.1f} | {r.peak_mib:.0f} |" for r in table.itertuples()
    ]
    (out / "score_speed.md").write_text(
        HEAD.format(environment=environment(1)) + "\n".join(lines) + "\n"
    )
    return table


HEAD = """# Speed of the scores

Each task in its own process with all cores, data included. Made by `scdisent bench score_speed`,
{environment}

| task | size | seconds | peak memory, MiB |
| --- | --- | ---: | ---: |
"""
