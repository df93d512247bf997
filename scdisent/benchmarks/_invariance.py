"""The invariance benchmark: what leaks, what is kept, what it costs."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from scdisent import metrics as sm
from scdisent._errors import one_of
from scdisent.benchmarks._data import kang_2000_genes
from scdisent.benchmarks._methods import METHODS
from scdisent.benchmarks._report import environment, write_report
from scdisent.benchmarks._world import Fit, World
from scdisent.datasets import simulate_conditions

MIN_CELLS = 100
BARE = "DISCoVeR, no adversary"
OURS = ("DISCoVeR default", "DISCoVeR paper preset", BARE, "PCA")
WORLDS = {
    "kang2018_6k": tuple(METHODS),
    "simulated": tuple(METHODS),
    "simulated, composition shift": OURS,
    "kang2018_6k, donors not trained on": ("DISCoVeR default", BARE),
}
"""Data sets, and the methods that are compared on them."""
SEEDS = (0, 1, 2)


def make_world(name: str) -> World:
    """Build one of the benchmark's data sets."""
    one_of(name, WORLDS, "world")
    if name.startswith("kang2018_6k"):
        adata = kang_2000_genes()
        if "not trained on" not in name:
            return World(name, adata)
        donors = adata.obs["donor"].astype(str)
        seen = donors.isin(sorted(donors.unique())[::2]).to_numpy()
        return World(name, adata[~seen].copy(), train_on=adata[seen].copy())
    shift = 0.7 if "shift" in name else 0.0
    return World(name, simulate_conditions(composition_shift=shift, seed=1))


def audit(world: World, fit: Fit, *, seed: int) -> dict[str, float | str]:
    """Every column of the table for one fit."""
    condition, cell_type, sample = world.condition, world.shared_labels, world.samples
    kept = {"groups": sample, "seed": seed}
    leak = sm.leakage(fit.invariant, condition, within=cell_type, min_cells=MIN_CELLS, **kept)
    row: dict[str, float | str] = {
        "auroc": leak.auroc,
        "balanced_accuracy": leak.balanced_accuracy,
        "attacker": leak.attacker,
        "null_auroc_95": leak.null.loc["auroc", "upper_95"],
        "within_auroc": leak.within_auroc,
        "within_balanced_accuracy": leak.by_group["balanced_accuracy"].mean(),
        "within_null_auroc": leak.by_group["null_auroc"].mean(),
        "worst_auroc": leak.by_group["auroc"].max(),
        "worst_null_auroc_95": leak.by_group["null_auroc_95"].max(),
        "worst_group": str(leak.worst_group),
        "type_knn": sm.knn_accuracy(fit.invariant, cell_type, **kept),
        "type_logistic": sm.label_recovery(fit.invariant, cell_type, **kept),
        "nmi_type": sm.nmi(fit.invariant, cell_type, seed=seed),
        "nmi_condition": sm.nmi(fit.invariant, condition, seed=seed),
        "type_only_balanced_accuracy": sm.composition_baseline(
            condition, cell_type, **kept
        ).balanced_accuracy,
        "seconds": fit.seconds,
        **fit.errors,
    }
    if fit.decoded is not None:
        decoded = sm.leakage(fit.decoded, condition, **kept)
        row["decoded_auroc"] = decoded.auroc
        row["decoded_balanced_accuracy"] = decoded.balanced_accuracy
    if fit.specific is not None:
        row["condition_from_specific"] = sm.label_recovery(fit.specific, condition, **kept)
        row["type_from_specific_logistic"] = sm.label_recovery(fit.specific, cell_type, **kept)
        row["type_from_specific_knn"] = sm.knn_accuracy(fit.specific, cell_type, **kept)
    return row


def run_one(task: tuple[str, str, int]) -> dict[str, float | str]:
    """Fit and audit one method on one world with one seed, on one core."""
    import torch

    torch.set_num_threads(1)
    world_name, method, seed = task
    world = make_world(world_name)
    fit = METHODS[method](world, seed)
    return {"world": world_name, "method": method, "seed": seed, **audit(world, fit, seed=seed)}


def invariance(
    out: str | Path,
    *,
    worlds: Sequence[str] = tuple(WORLDS),
    seeds: Sequence[int] = SEEDS,
    n_processes: int = 2,
) -> pd.DataFrame:
    """Run what is not in ``out/invariance.csv`` yet, then write the table ``invariance.md``.

    Each row of the file is one fit; a broken run goes on where it stopped.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "invariance.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    done = {(row["world"], row["method"], row["seed"]) for row in rows}
    tasks = [
        (world, method, seed)
        for seed in seeds
        for world in worlds
        for method in WORLDS[world]
        if (world, method, seed) not in done
    ]
    # One seed of everything first, then method by method: a run cut short is of use.
    tasks.sort(key=lambda task: (task[2] != seeds[0], list(METHODS).index(task[1])))
    context = get_context("spawn")
    with ProcessPoolExecutor(n_processes, mp_context=context) as pool:
        for row in pool.map(run_one, tasks):
            rows.append(row)
            print(f"{row['world']} | {row['method']} | seed {row['seed']}", flush=True)
            pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4f")
    table = pd.DataFrame(rows).replace({np.nan: None})
    report(out, environment=environment(n_processes))
    return table


def report(out: str | Path, *, environment: str) -> None:
    """Write ``invariance.md`` from the rows in ``invariance.csv``, in the order of METHODS."""
    rows = pd.read_csv(Path(out) / "invariance.csv")
    order = {name: place for place, name in enumerate([*WORLDS, *METHODS])}
    rows = rows.sort_values(["world", "method", "seed"], key=lambda c: c.map(order).fillna(c))
    write_report(rows, Path(out) / "invariance.md", environment=environment)
