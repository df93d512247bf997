"""Training speed beside scVI and contrastiveVI of equal width, in paired runs."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch.callbacks import Callback

from scdisent._errors import one_of
from scdisent.benchmarks._alone import peak_mib
from scdisent.benchmarks._data import kang_2000_genes
from scdisent.benchmarks._report import environment, markdown_table
from scdisent.model import DISCoVeR, setup_anndata

TARGET = 14_000
"""Cells a second of the default."""
N_EPOCHS, BATCH_SIZE, WIDTH, N_LATENT = 8, 512, 128, 10
COLUMNS = {
    "cells_per_second": "cells a second",
    "relative": "to scVI of the same round",
    "peak_mib": "peak memory, MiB",
}


class EpochClock(Callback):
    """Cells and seconds of each training epoch; the first one is a warm-up."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start counting."""
        self.n_cells, self.start = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the cells of a minibatch, or of several at once."""
        parts = [batch] if "X" in batch else batch.values() if isinstance(batch, dict) else batch
        self.n_cells += sum(part["X"].shape[0] for part in parts)
        self.seconds = time.perf_counter() - self.start

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the epoch's rate; validation is not part of it."""
        self.rates.append(self.n_cells / self.seconds)

    @property
    def rate(self) -> float:
        """Median over epochs after the first."""
        return float(np.median(self.rates[1:]))


def train_discover(adata: Any, clock: EpochClock, preset: str = "default") -> None:
    """Train DISCoVeR with everything a user gets: critic, penalty, validation, checkpoints."""
    setup_anndata(adata, condition_key="condition", control="control", labels_key="cell_type")
    model = DISCoVeR(adata, preset=preset, n_latent=N_LATENT, n_hidden=WIDTH)
    model.train(N_EPOCHS, batch_size=BATCH_SIZE, callbacks=[clock], enable_progress_bar=False)


def train_discover_paper(adata: Any, clock: EpochClock) -> None:
    """Train the paper's preset."""
    train_discover(adata, clock, preset="paper")


def train_scvi(adata: Any, clock: EpochClock) -> None:
    """Train scVI with one hidden layer and NB likelihood."""
    from scvi.model import SCVI

    SCVI.setup_anndata(adata)
    model = SCVI(adata, n_latent=N_LATENT, n_hidden=WIDTH, n_layers=1, gene_likelihood="nb")
    model.train(N_EPOCHS, batch_size=BATCH_SIZE, callbacks=[clock], enable_progress_bar=False)


def train_contrastive_vi(adata: Any, clock: EpochClock) -> None:
    """Train contrastiveVI; a step takes half of the batch from either group."""
    from scvi.external import ContrastiveVI

    is_control = (adata.obs["condition"] == "control").to_numpy()
    ContrastiveVI.setup_anndata(adata)
    model = ContrastiveVI(
        adata, n_background_latent=N_LATENT, n_salient_latent=N_LATENT, n_hidden=WIDTH, n_layers=1
    )
    model.train(
        background_indices=np.flatnonzero(is_control).tolist(),
        target_indices=np.flatnonzero(~is_control).tolist(),
        max_epochs=N_EPOCHS,
        batch_size=BATCH_SIZE // 2,
        callbacks=[clock],
        enable_progress_bar=False,
    )


CONTESTANTS = {
    "DISCoVeR default": train_discover,
    "DISCoVeR paper preset": train_discover_paper,
    "scVI": train_scvi,
    "contrastiveVI": train_contrastive_vi,
}


def measure(name: str) -> dict[str, float | str]:
    """One contestant in this process."""
    clock = EpochClock()
    CONTESTANTS[one_of(name, CONTESTANTS, "name")](kang_2000_genes(), clock)
    peak = peak_mib()
    return {"method": name, "cells_per_second": clock.rate, "peak_mib": peak}


def speed(out: str | Path, *, n_rounds: int = 5) -> pd.DataFrame:
    """Measure every contestant in turn, ``n_rounds`` times, each in its own process."""
    rows = []
    for seed in range(n_rounds):
        for name in CONTESTANTS:
            code = f"from scdisent.benchmarks._speed import *; print(json.dumps(measure({name!r})))"
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            rows.append({"seed": seed, **json.loads(done.stdout.strip().splitlines()[-1])})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    rival = table[table["method"] == "scVI"].set_index("seed")["cells_per_second"]
    table["relative"] = table["cells_per_second"] / table["seed"].map(rival)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "speed.csv", index=False, float_format="%.3f")
    body = HEAD.format(environment=environment(1)) + markdown_table(table, COLUMNS) + "\n"
    ours = table.loc[table["method"] == "DISCoVeR default", "cells_per_second"].mean()
    body += f"\nTarget for the default: {TARGET:,}. {'Met' if ours >= TARGET else '**Missed**'}.\n"
    (out / "speed.md").write_text(body)
    return table


HEAD = """# Speed

Training on Kang 2018 (6k subset, 2,000 genes, 6 % of the entries non-zero), one hidden layer of
128, 10 latents a block, batches of 512 cells. Made by `scdisent bench speed`, {environment}

Every contestant ran in its own process with all cores, in turn, several rounds; a round's ratio to
scVI is free of drifts of the machine. Rates are medians over epochs after the first and include
everything a training step does (loader, critic steps, penalties, optimisers), not the validation.
DISCoVeR has two encoders and two decoders, scVI one of each.

"""
