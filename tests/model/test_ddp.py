"""Training by two processes: same weights, disjoint cells, history on the first."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = '''
import hashlib, json, sys
import lightning.pytorch as pl
import numpy as np
import scdisent
from scdisent.datasets import simulate_conditions

adata = simulate_conditions(n_cells=203, n_genes=30, n_types=2, n_donors=2,
                            shared_effect_genes=6, type_effect_genes=2)
adata.obs["number"] = np.arange(adata.n_obs, dtype=np.float32)
scdisent.setup_anndata(adata, condition_key="condition", labels_key="cell_type",
                       continuous_covariate_keys=["number"])
model = getattr(scdisent, sys.argv[2])(adata, n_latent=3, n_specific=2, n_hidden=16)


class Seen(pl.Callback):
    """Cells of each epoch."""

    def __init__(self):
        self.cells = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.cells.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.cells[-1] += batch["extra_continuous_covs"][:, 0].int().tolist()


def hashed(tensors):
    return {name: hashlib.sha256(value.cpu().numpy().tobytes()).hexdigest()
            for name, value in tensors.items()}


seen = Seen()
model.train(3, batch_size=32, accelerator="cpu", devices=2, enable_progress_bar=False,
            strategy="ddp_find_unused_parameters_true", callbacks=[seen], check_val_every_n_epoch=1)
best = [c.best_epoch for c in model.trainer.callbacks if hasattr(c, "best_epoch")]
result = {
    "weights": hashed(model.module.state_dict()),
    "parameters": [name for name, _ in model.module.named_parameters()],
    "anchors": hashed(vars(model.anchors_)),
    "n_anchors": len(model.anchors_.z),
    "n_train": len(model.train_indices),
    "history": {name: len(curve) for name, curve in model.history.items()},
    "cells": seen.cells,
    "best": best,
}
with open(f"{sys.argv[1]}/rank{model.trainer.global_rank}.json", "w") as file:
    json.dump(result, file)
'''

TERMS = {
    "DISCoVeR": ("nll_joint", "kl_invariant", "adversary", "elbo"),
    "CGVAE": ("nll_joint", "kl_joint", "elbo"),
    "CGGAN": ("generator", "inverse"),
}


@pytest.fixture(scope="module", params=["DISCoVeR", "CGVAE", "CGGAN"])
def ranks(request, tmp_path_factory):
    """What each of the two processes ended with."""
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "script.py").write_text(SCRIPT)
    # Lightning picks a free port; its child runs the script again.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "LOCAL_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-W", "ignore", str(folder / "script.py"), str(folder)]
    command.append(request.param)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return [{**result, "model": request.param} for result in found]


def test_both_processes_end_with_the_same_model(ranks):
    first, second = ranks
    assert first["weights"] == second["weights"]  # running statistics too
    assert first["best"] == second["best"] != [None]
    assert bool(first["best"]) == (first["model"] != "CGGAN")  # a GAN has no best epoch


def test_each_process_trains_on_cells_of_its_own(ranks):
    epochs = list(zip(ranks[0]["cells"], ranks[1]["cells"], strict=True))
    assert len(epochs) == 3
    for mine, others in epochs:
        assert len(mine) == len(others)
        assert len(set(mine) | set(others)) == len(mine) + len(others)
    assert epochs[0] != epochs[1]


def test_codes_to_transfer_from_are_those_of_all_training_cells(ranks):
    first, second = ranks
    assert first["anchors"] == second["anchors"]
    assert first["n_anchors"] == first["n_train"]


def test_the_history_is_on_the_first_process(ranks):
    first, second = ranks
    for mode in ("train", "validation"):
        for name in TERMS[first["model"]]:
            assert first["history"][f"{name}_{mode}"] == 3
    assert second["history"] == {}
