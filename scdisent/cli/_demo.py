"""The demo: train, audit, predict a donor that the model never saw, draw."""

import shlex
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData

import scdisent
from scdisent import ScDisentError
from scdisent.cli._files import refuse_outputs, write_cells
from scdisent.effects import log_normalise

SIMULATED = "simulated"
SIMULATION = {"n_cells": 3_000, "n_genes": 500}
"""Small enough for a minute on two cores, large enough for an audit."""
SETUP = {
    "condition_key": "condition",
    "control": "control",
    "labels_key": "cell_type",
    "sample_key": "donor",
}
PARTS = ("leakage", "controls", "cell_type")
MAX_GENES, MAX_AUDITED = 1_000, 3_000
FILES = {
    "latent.png": "both latent blocks",
    "history.png": "terms of the loss",
    "leakage.png": "the audit",
    "response.png": "predicted against observed response of the donor left out",
    "demo.h5ad": "cells with codes, history and scores",
    "predicted.h5ad": "predicted cells",
    "model": "the model: scdisent.load(...)",
}
"""What the demo writes."""


def demo(args: Namespace) -> None:
    """Run the demo and print what came out and where it is."""
    refuse_outputs(*(args.out / name for name in FILES), overwrite=args.overwrite)
    with step(1, f"data: {args.data}"):
        adata, setup = demo_data(args.data, seed=args.seed)
        held = held_out(adata, setup.get("sample_key"), seed=args.seed)
        known = adata[~held].copy()
    with step(2, f"training on {known.n_obs:,} cells x {known.n_vars:,} genes"):
        scdisent.setup_anndata(known, **setup)
        model = scdisent.DISCoVeR(known, seed=args.seed)
        model.train(args.epochs, seed=args.seed)
    with step(3, "leakage audit"):
        scdisent.tl.embed(adata, model)
        options = {"metrics": PARTS, "max_cells": MAX_AUDITED, "seed": args.seed}
        scores = scdisent.tl.score(adata, model, **options)
    with step(4, f"prediction of {held.sum():,} cells that were left out"):
        target = next(name for name in model.conditions if name != model.control)
        unseen = adata[held]
        source = unseen[of_condition(unseen, setup, str(model.control))]
        predicted = model.predict(source, condition=target, seed=args.seed)
        observed = unseen[of_condition(unseen, setup, target)]
        shift = scdisent.ShiftModel(known)
        shift.train()
        response = scdisent.tl.evaluate_response(observed, predicted, source, baselines=shift)
        adata.uns["scdisent"]["response"] = response
    with step(5, "figures and files"):
        args.out.mkdir(parents=True, exist_ok=True)
        draw(args.out, adata, unseen, predicted)
        model.save(args.out / "model", overwrite=True)
        write_cells(adata, args.out / "demo.h5ad")
        write_cells(predicted, args.out / "predicted.h5ad")
    change = changes(observed, predicted, source)
    print(report(scores, change, statement=adata.uns["scdisent"]["statement"], target=target))
    print_files(args.out)


@contextmanager
def step(number: int, what: str) -> Iterator[None]:
    """Say what is done and how long it took."""
    print(f"[{number}/5] {what}", flush=True)
    start = time.perf_counter()
    yield
    print(f"      {time.perf_counter() - start:.0f} s", flush=True)


def demo_data(name: str, *, seed: int) -> tuple[AnnData, dict[str, str]]:
    """Cells with counts and the arguments of their setup."""
    if name == SIMULATED:
        return scdisent.datasets.simulate_conditions(**SIMULATION, seed=seed), SETUP
    setup = dict(scdisent.datasets.card(name).setup)
    setup.pop("dose_key", None)
    if not {"condition_key", "control"} <= set(setup):
        msg = f"--data {name}: the demo needs counts of cells with a condition and a control."
        raise ScDisentError(msg)
    adata = scdisent.datasets.load(name)
    return variable_genes(adata), setup


def variable_genes(adata: AnnData) -> AnnData:
    """The genes that vary most, and the cells that have counts in them."""
    light = AnnData(adata.X.astype(np.float32), var=pd.DataFrame(index=adata.var_names))
    sc.pp.normalize_total(light, target_sum=1e4)
    sc.pp.log1p(light)
    sc.pp.highly_variable_genes(light, n_top_genes=min(MAX_GENES, adata.n_vars))
    chosen = adata[:, light.var["highly_variable"].to_numpy()]
    return chosen[np.asarray(chosen.X.sum(axis=1)).ravel() > 0].copy()


def held_out(adata: AnnData, sample_key: str | None, *, seed: int) -> np.ndarray:
    """Cells that training does not see: those of the last donor, else a random fifth."""
    if sample_key is None:
        return np.random.default_rng(seed).random(adata.n_obs) < 0.2
    donors = adata.obs[sample_key].astype(str)
    return (donors == sorted(donors.unique())[-1]).to_numpy()


def of_condition(adata: AnnData, setup: dict[str, str], level: str) -> np.ndarray:
    """Mask of the cells of one condition."""
    return (adata.obs[setup["condition_key"]].astype(str) == level).to_numpy()


def draw(out: Path, adata: AnnData, unseen: AnnData, predicted: AnnData) -> None:
    """Four figures."""
    drawn = [
        scdisent.pl.history(adata, save=out / "history.png"),
        scdisent.pl.leakage(adata, save=out / "leakage.png"),
        scdisent.pl.response(unseen, predicted, save=out / "response.png"),
        scdisent.pl.latent(adata, save=out / "latent.png"),
    ]
    import matplotlib.pyplot as plt  # after the backend was chosen

    for axes in drawn:
        plt.close(np.ravel(axes)[0].figure)


def changes(observed: AnnData, predicted: AnnData, source: AnnData) -> dict[str, float]:
    """Pearson's correlation of predicted and observed change, and R2 of the variances."""
    cells = [log_normalise(adata.X) for adata in (observed, predicted, source)]
    return {
        "pearson": scdisent.metrics.pearson_delta(*cells),
        "variance": scdisent.metrics.r2_variance(cells[0], cells[1]),
    }


def report(scores: Any, change: dict[str, float], *, statement: str, target: str) -> str:
    """Short table of what came out."""
    table = scores.set_index(["metric", "representation"])
    leaks, names = table.loc["leakage"], table.index
    lines = [
        ("condition read from z, best attacker, AUROC", leaks.loc["invariant"]),
        ("condition read from decoded z", leaks.loc["decoded"]),
        ("condition read from w", leaks.loc["specific"]),
    ]
    rows = [(what, row["value"], f"chance up to {row['null_95']:.2f}") for what, row in lines]
    if ("label_recovery", "invariant") in names:
        for block, letter, better in (("invariant", "z", "more"), ("specific", "w", "less")):
            kept = table.loc[("label_recovery", block), "value"]
            what = f"cell type read from {letter}, balanced accuracy"
            rows.append((what, kept, f"{better} is better"))
    rows += [
        (f"predicted and observed change to {target!r}, Pearson", change["pearson"], "1 is best"),
        ("spread of predicted cells, R2 of variances", change["variance"], "1 is best"),
    ]
    text = [f"  {what:<58}{value:>6.2f}   {note}".rstrip() for what, value, note in rows]
    return "\n".join(["", *text, f"  {statement}", ""])


def print_files(out: Path) -> None:
    """Say where everything is."""
    for name, what in FILES.items():
        print(f"  {out / name!s:<32} {what}")
    page = shlex.join(
        ["scdisent", "report", str(out / "demo.h5ad"), "-o", str(out / "report.html")]
    )
    print(f"\n  all on one page: {page}")
