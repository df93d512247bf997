"""CG-VAE and CG-GAN on blood cells with interferon: leakage, programmes, generated controls."""

import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from scdisent import metrics as sm
from scdisent import pl, tl
from scdisent.benchmarks._data import kang_2000_genes
from scdisent.benchmarks._grid import Row, Task, run_grid
from scdisent.benchmarks._interferon import INTERFERON
from scdisent.benchmarks._report import environment, markdown_table
from scdisent.effects import log_normalise
from scdisent.model import CGGAN, CGVAE, setup_anndata

SEEDS = (0, 1, 2)
CONTROL = "control"
BLOCKS = {
    "n_latent": "latents",
    "auroc": "AUROC of the condition",
    "within_auroc": "within type",
    "worst_auroc": "worst type",
    "type_knn": "type kNN",
    "type_logistic": "type logistic",
    "best_rank": "best rank",
    "worst_rank": "worst rank",
    "seconds": "fit, CPU s",
}
CONTROLS = {
    "mean_corr": "means, r",
    "variance_corr": "log variances, r",
    "zero_gap": "zeros, gap",
    "smallest_share": "worst type, share of true",
    "auroc": "real or generated, AUROC",
    "seconds": "fit, CPU s",
}
TARGETS = {
    "mean_corr": ("correlation of the means of genes at least 0.98", 0.98, 1),
    "variance_corr": ("correlation of their log variances at least 0.9", 0.9, 1),
    "zero_gap": ("share of zeros off by at most 0.03", 0.03, -1),
    "smallest_share": ("each cell type at least half of its true share", 0.5, 1),
}


def kang() -> AnnData:
    """Cells set up for both models."""
    adata = kang_2000_genes(keep=INTERFERON)
    keys = {"condition_key": "condition", "control": CONTROL, "labels_key": "cell_type"}
    setup_anndata(adata, **keys, sample_key="donor")
    return adata


def blocks(seed: int, *, folder: Path) -> list[Row]:
    """What each block of CG-VAE knows, and where the interferon genes are."""
    adata = kang()
    model = CGVAE(adata, n_latent=20, seed=seed)
    seconds = _train(model, seed)
    tl.programmes(adata, model)
    if seed == SEEDS[0]:
        pl.programmes(adata, show=False, save=folder / "kang_cg_programmes.png")
    columns = ("condition", "cell_type", "donor")
    condition, cell_type, donor = (adata.obs[name].astype(str).to_numpy() for name in columns)
    strength = adata.varm["scdisent_programmes"]
    rows = []
    for block in model.representations:
        codes = model.get_latent_representation(representation=block)
        leak = sm.leakage(codes, condition, groups=donor, within=cell_type, min_cells=100)
        own = strength[[name for name in strength if name.startswith(block)]].max(axis=1)
        ranks = own.rank(ascending=False, method="min")[list(INTERFERON)]
        row: Row = {"part": "blocks", "method": block, "seed": seed, "seconds": seconds}
        row |= {
            "n_latent": model.module.n_latents[block],
            "auroc": leak.auroc,
            "within_auroc": leak.within_auroc,
        }
        row["worst_auroc"] = leak.by_group["auroc"].max()
        row["type_knn"] = sm.knn_accuracy(codes, cell_type, groups=donor)
        row["type_logistic"] = sm.label_recovery(codes, cell_type, groups=donor)
        row |= {"best_rank": ranks.min(), "worst_rank": ranks.max()}
        rows.append(row)
    return rows


def controls(model_name: str, seed: int, *, folder: Path) -> list[Row]:
    """Generated controls beside real ones."""
    adata = kang()
    model = MODELS[model_name](adata, seed)
    seconds = _train(model, seed, **TRAIN[model_name])
    real = adata[adata.obs["condition"] == CONTROL]
    generated = np.asarray(model.sample(real.n_obs, condition=CONTROL, seed=seed).X)
    counts, cell_type = real.X.toarray(), real.obs["cell_type"].astype(str).to_numpy()
    row: Row = {"part": "controls", "method": model_name, "seed": seed, "seconds": seconds}
    return [row | fidelity(counts, generated, cell_type, seed=seed)]


def fidelity(
    real: NDArray[np.floating], generated: NDArray[np.floating], cell_type: NDArray, *, seed: int
) -> dict[str, float]:
    """How generated counts differ from real ones, gene by gene, type by type, as a whole."""
    logged = [log_normalise(x) for x in (real, generated)]
    variances = [np.log(x.var(axis=0) + 1e-6) for x in logged]
    told = LogisticRegression(max_iter=300).fit(logged[0], cell_type).predict(logged[1])
    shares = [pd.Series(types).value_counts(normalize=True) for types in (cell_type, told)]
    label = np.repeat([0, 1], [len(real), len(generated)])
    forest = RandomForestClassifier(200, random_state=seed)
    said = cross_val_predict(forest, np.vstack(logged), label, cv=3, method="predict_proba")
    return {
        "mean_corr": np.corrcoef(*(x.mean(axis=0) for x in logged))[0, 1],
        "variance_corr": np.corrcoef(*variances)[0, 1],
        "zero_gap": abs((real == 0).mean() - (generated == 0).mean()),
        "smallest_share": (shares[1].reindex(shares[0].index).fillna(0) / shares[0]).min(),
        "auroc": roc_auc_score(label, said[:, 1]),
    }


def _train(model: Any, seed: int, **options: Any) -> float:
    """CPU seconds."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # collapse and gates are what the table shows
        model.train(seed=seed, enable_progress_bar=False, **options)
    return time.process_time() - start


def _cg_vae(adata: AnnData, seed: int) -> CGVAE:
    return CGVAE(adata, n_latent=20, seed=seed)


def _cg_gan(adata: AnnData, seed: int) -> CGGAN:
    return CGGAN(adata, n_latent=20, n_hidden=128, seed=seed)


MODELS = {"CG-VAE": _cg_vae, "CG-GAN": _cg_gan}
TRAIN: dict[str, dict[str, Any]] = {"CG-VAE": {}, "CG-GAN": {"max_epochs": 120, "batch_size": 128}}


def halves(seed: int, *, folder: Path) -> list[Row]:
    """The ceiling: one half of the real controls beside the other."""
    adata = kang()
    real = adata[adata.obs["condition"] == CONTROL]
    order = np.random.default_rng(seed).permutation(real.n_obs)
    counts, cell_type = real.X.toarray()[order], real.obs["cell_type"].astype(str).to_numpy()[order]
    half = real.n_obs // 2
    row: Row = {"part": "controls", "method": "other real cells", "seed": seed}
    return [row | fidelity(counts[:half], counts[half:], cell_type[:half], seed=seed)]


def run_task(task: Task, *, folder: Path) -> list[Row]:
    """Rows of one model and seed."""
    part, *arguments = task
    rows: list[Row] = PARTS[part](*arguments, folder=folder)
    return rows


PARTS: dict[str, Any] = {"blocks": blocks, "controls": controls, "halves": halves}


def kang_cg(out: str | Path, *, seeds: Sequence[int] = SEEDS, n_processes: int = 2) -> pd.DataFrame:
    """Run what is not in ``out/kang_cg.csv`` yet, then write ``kang_cg.md`` and a figure."""
    out = Path(out)
    tasks: list[Task] = [("blocks", seed) for seed in seeds]
    tasks += [("halves", seed) for seed in seeds]
    tasks += [("controls", name, seed) for name in MODELS for seed in seeds]
    run = partial(run_task, folder=out)
    table = run_grid(out / "kang_cg.csv", tasks, run, n_processes=n_processes)
    (out / "kang_cg.md").write_text(_page(table, environment(n_processes)))
    return table


def _page(table: pd.DataFrame, where: str) -> str:
    found = {part: table[table["part"] == part] for part in ("blocks", "controls")}
    parts = [HEAD.format(environment=where, n=len(table["seed"].unique()))]
    parts += [f"## Blocks of CG-VAE\n\n{markdown_table(found['blocks'], BLOCKS)}\n", FIGURE]
    parts += [f"## Generated controls\n\n{markdown_table(found['controls'], CONTROLS)}\n"]
    gan = found["controls"][found["controls"]["method"] == "CG-GAN"]
    lines = ["## Targets of CG-GAN", "", "| target | mean | |", "| --- | ---: | --- |"]
    for column, (text, limit, sign) in TARGETS.items():
        value = gan[column].mean()
        hit = "met" if sign * value >= sign * limit else "missed"
        lines.append(f"| {text} | {value:.3f} | {hit} |")
    return "\n".join([*parts, *lines]) + "\n"


FIGURE = "![Programmes of CG-VAE, seed 0](kang_cg_programmes.png)\n"
HEAD = """# CG-VAE and CG-GAN on blood cells with interferon

Kang 2018 (6k subset, 2,000 most variable genes and those of the table), defaults with 20 latents
and gates, {n} seeds, mean ± standard deviation. Made by `scdisent bench kang_cg`, {environment}

Blocks: AUROC of the condition by the best of four attackers on donors they were not fitted on (0.5
is chance; within type: mean over cell types of at least 100 cells), cell type by nearest neighbours
and logistic regression (balanced accuracy, over donors), best and worst rank of six interferon
genes (ISG15, IFI6, IFIT1, IFIT2, IFIT3, MX1) among the genes by their largest loading in the block.

Generated controls: `model.sample` of as many controls as there are, beside the real ones in log(1 +
counts per ten thousand): correlation over genes of means and of log variances, difference of the
share of zeros, share of the cell type that is met least often (told by logistic regression) over
its true share, AUROC of a random forest that tells real from generated (0.5 is chance).

"""
