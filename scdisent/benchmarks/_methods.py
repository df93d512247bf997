"""Embeddings that the invariance benchmark compares; each is fitted on one AnnData."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anndata as ad
import numpy as np
import scanpy as sc

from scdisent.model import DISCoVeR, setup_anndata
from scdisent.tl import decoded_features

N_LATENT = 10


@dataclass(frozen=True)
class World:
    """Cells of a benchmark with the names of their columns.

    ``train_on`` are the cells to fit on where they are not the audited ones.
    """

    name: str
    adata: ad.AnnData
    train_on: ad.AnnData | None = None
    condition: str = "condition"
    cell_type: str = "cell_type"
    sample: str = "donor"
    control: str = "control"


@dataclass(frozen=True)
class Fit:
    """What a method gives: codes that should not know the condition, and what else it has."""

    invariant: Any
    seconds: float
    specific: Any = None
    decoded: Any = None
    errors: dict[str, float] = field(default_factory=dict)


Method = Callable[[World, int], Fit]


def discover(preset: str = "default", **options: Any) -> Method:
    """DISCoVeR with a preset; ``options`` go to its constructor."""

    def fit(world: World, seed: int) -> Fit:
        cells = world.adata
        adata = (cells if world.train_on is None else world.train_on).copy()
        setup_anndata(
            adata,
            condition_key=world.condition,
            control=world.control,
            labels_key=world.cell_type,
            sample_key=world.sample,
        )
        start = time.perf_counter()
        model = DISCoVeR(adata, preset=preset, n_latent=N_LATENT, seed=seed, **options)
        model.train(seed=seed, enable_progress_bar=False)
        seconds = time.perf_counter() - start
        return Fit(
            model.get_latent_representation(cells),
            seconds,
            specific=model.get_latent_representation(cells, representation="specific"),
            decoded=decoded_features(cells, model, seed=seed),
            errors=model.get_reconstruction_error(cells, seed=seed),
        )

    return fit


def scvi(*, batch: bool) -> Method:
    """Fit scVI of equal latent size, without or with the condition as batch; its own defaults."""

    def fit(world: World, seed: int) -> Fit:
        from scvi.model import SCVI

        adata = world.adata.copy()
        start = time.perf_counter()
        with _seeded(seed):
            SCVI.setup_anndata(adata, batch_key=world.condition if batch else None)
            model = SCVI(adata, n_latent=N_LATENT, gene_likelihood="nb")
            model.train(max_epochs=_epochs(adata.n_obs), enable_progress_bar=False)
            codes = model.get_latent_representation()
        return Fit(codes, time.perf_counter() - start)

    return fit


def contrastive_vi(world: World, seed: int) -> Fit:
    """Fit contrastiveVI with the control as background; salient codes as the specific block."""
    from scvi.external import ContrastiveVI

    adata = world.adata.copy()
    is_control = (adata.obs[world.condition].astype(str) == world.control).to_numpy()
    start = time.perf_counter()
    with _seeded(seed):
        ContrastiveVI.setup_anndata(adata)
        model = ContrastiveVI(adata, n_background_latent=N_LATENT, n_salient_latent=N_LATENT)
        model.train(
            background_indices=np.flatnonzero(is_control).tolist(),
            target_indices=np.flatnonzero(~is_control).tolist(),
            max_epochs=_epochs(adata.n_obs),
            enable_progress_bar=False,
        )
        codes = {
            kind: model.get_latent_representation(representation_kind=kind)
            for kind in ("background", "salient")
        }
    return Fit(codes["background"], time.perf_counter() - start, specific=codes["salient"])


def pca(world: World, seed: int) -> Fit:
    """Principal components of log-normalised counts."""
    adata = world.adata.copy()
    start = time.perf_counter()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=N_LATENT, random_state=seed)
    return Fit(adata.obsm["X_pca"], time.perf_counter() - start)


def _epochs(n_cells: int) -> int:
    """About 3,000 steps at scvi-tools' batch size of 128."""
    return int(np.clip(round(3_000 * 128 / n_cells), 20, 400))


class _seeded:
    """Seed scvi-tools' globals for a while and put the caller's back."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        import torch
        from scvi import settings

        self.before = settings.seed, np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        self.caught = warnings.catch_warnings()
        self.caught.__enter__()
        warnings.simplefilter("ignore")
        settings.seed = self.seed

    def __exit__(self, *exception: object) -> None:
        import torch
        from scvi import settings

        seed, numpy_state, torch_state = self.before
        settings._seed = seed
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        self.caught.__exit__(None, None, None)


METHODS: dict[str, Method] = {
    "DISCoVeR default": discover(),
    "DISCoVeR paper preset": discover("paper"),
    "DISCoVeR, no adversary": discover(weights={"adversary": 0, "mmd": 0}),
    "scVI": scvi(batch=False),
    "scVI, batch = condition": scvi(batch=True),
    "contrastiveVI": contrastive_vi,
    "PCA": pca,
}
