"""What other tools predict: scGen's recipe, scVI, LEMUR, biolord, asked as ours are."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray
from scipy import sparse
from scvi.model import SCVI

from scdisent.benchmarks._methods import drawn, train_briefly
from scdisent.effects import log_normalise
from scdisent.model import BFVAE, ShiftModel


class LatentArithmetic:
    """scGen's recipe with a plain VAE of this package: codes plus the difference of means.

    Source: Lotfollahi et al. 2019: the difference of the conditions' mean codes, every cell type
    counting the same; decoded at the library of each cell.
    """

    def __init__(self, train: AnnData, *, seed: int) -> None:
        self.vae = BFVAE(train, preset="vae", n_latent=50, seed=seed)
        self.vae.train(seed=seed, enable_progress_bar=False)
        arguments = self.vae.registry_["setup_args"]
        self.control = arguments["control"]
        codes = pd.DataFrame(self.vae.get_latent_representation())
        keys = [train.obs[arguments["condition_key"]].astype(str).to_numpy()]
        if arguments.get("labels_key"):
            keys.append(train.obs[arguments["labels_key"]].astype(str).to_numpy())
        self.means = codes.groupby(keys).mean()

    def predict(self, source: AnnData, *, condition: str, seed: int, **options: Any) -> AnnData:
        """Counts drawn around what is decoded, so that they compare with counts."""
        here, there = (self.means.loc[name] for name in (self.control, condition))
        shift = there - here if isinstance(here, pd.Series) else (there - here).dropna().mean()
        codes = self.vae.get_latent_representation(source) + shift.to_numpy(np.float32)
        library = np.asarray(source.X.sum(axis=1), dtype=np.float32).ravel()
        values = sparse.csr_matrix(drawn(self.vae, codes, library, seed=seed))
        return AnnData(values, var=source.var)


class ScviDecoded:
    """scVI with the condition as its batch: codes decoded under another batch, counts drawn.

    ``posterior_predictive_sample(transform_batch=)``; default architecture, about 3,000 steps of
    training.
    """

    def __init__(self, train: AnnData, *, seed: int) -> None:
        self.key = ShiftModel(train).registry_["setup_args"]["condition_key"]
        cells = AnnData(train.X, obs=train.obs[[self.key]], var=train.var[[]])
        SCVI.setup_anndata(cells, batch_key=self.key)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = SCVI(cells, gene_likelihood="nb")
            train_briefly(self.model, cells.n_obs, {})

    def predict(self, source: AnnData, *, condition: str, seed: int, **options: Any) -> AnnData:
        """Counts drawn at the library of each cell."""
        cells = AnnData(source.X, obs=source.obs[[self.key]], var=source.var[[]])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            values = self.model.posterior_predictive_sample(cells, transform_batch=[condition])
        return AnnData(values.to_scipy_sparse().tocsr(), var=source.var)


class Biolord:
    """biolord with condition and cell type as known attributes; means of log-normalised values.

    Source: Piran et al. 2024, biolord 0.0.3: ``Biolord.predict`` on training cells that carry the
    name of the target. Without its checkpoints, which this year's scvi-tools cannot write for it,
    and for :data:`N_EPOCHS` of the 400 epochs of its default: those take half an hour a fit.
    """

    def __init__(self, train: AnnData, *, seed: int) -> None:
        from biolord import Biolord as Model

        arguments = ShiftModel(train).registry_["setup_args"]
        self.key = arguments["condition_key"]
        keys = [self.key, arguments["labels_key"]]
        values = log_normalise(train.X).astype(np.float32)
        self.cells = AnnData(values, obs=train.obs[keys].copy(), var=train.var[[]].copy())
        Model.setup_anndata(self.cells, categorical_attributes_keys=keys)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = Model(self.cells)
            options = {"enable_progress_bar": False, "enable_checkpointing": False}
            self.model.train(max_epochs=N_EPOCHS, **options)

    def predict(
        self, source: AnnData, *, condition: str, seed: int, **options: Any
    ) -> NDArray[np.floating]:
        """Means of log-normalised values, which is what the model knows."""
        cells = self.cells[source.obs_names].copy()
        levels = self.cells.obs[self.key].cat.categories
        cells.obs[self.key] = pd.Categorical([condition] * len(cells), categories=levels)
        values: NDArray[np.floating] = self.model.predict(cells)[0].X.clip(0)
        return values


class Lemur:
    """LEMUR: log-normalised cells plus the change that it predicts for each of them.

    Source: Ahlmann-Eltze and Huber 2025, pylemur 0.3.1 (with harmonypy 0.0.x: its alignment fails
    beside newer ones): donors and conditions in the design, 15 dimensions, aligned by Harmony.
    """

    def __init__(self, train: AnnData, *, seed: int) -> None:
        from pylemur.tl import LEMUR

        arguments = ShiftModel(train).registry_["setup_args"]
        self.key, self.control = arguments["condition_key"], arguments["control"]
        keys = [key for key in (arguments["sample_key"], self.key) if key is not None]
        values = np.asarray(log_normalise(train.X).todense(), dtype=np.float64)
        self.cells = AnnData(values, obs=train.obs[keys].astype(str), var=train.var[[]])
        with isolate_rng():
            np.random.seed(seed)  # noqa: NPY002, TID251 - it knows no other seed
            self.model = LEMUR(self.cells, design=f"~ {' + '.join(keys)}")
            self.model.fit(verbose=False).align_with_harmony(verbose=False)

    def predict(
        self, source: AnnData, *, condition: str, seed: int, **options: Any
    ) -> NDArray[np.floating]:
        """Values of the cells, which are cells of training, plus their change, not below zero."""
        rows = self.cells.obs_names.get_indexer(source.obs_names)
        here, there = (self._decoded(rows, name) for name in (self.control, condition))
        values: NDArray[np.floating] = (self.cells.X[rows] + there - here).clip(0)
        return values

    def _decoded(self, rows: NDArray[np.intp], condition: str) -> NDArray[np.floating]:
        """Under a condition, with the donor of each cell: effects of a design add up."""
        at, control = (
            np.asarray(self.model.cond(**{self.key: name})) for name in (condition, self.control)
        )
        own = np.asarray(self.model.design_matrix)[rows]
        decoded: NDArray[np.floating] = self.model.predict(
            embedding=self.model.embedding[rows], new_design=own + at - control
        )
        return decoded


N_EPOCHS = 40

PEERS: Mapping[str, Callable[[AnnData, int], Any]] = {
    "latent arithmetic": lambda train, seed: LatentArithmetic(train, seed=seed),
    "scVI": lambda train, seed: ScviDecoded(train, seed=seed),
    "LEMUR": lambda train, seed: Lemur(train, seed=seed),
    "biolord": lambda train, seed: Biolord(train, seed=seed),
}
NEEDS = {"biolord": "biolord", "LEMUR": "pylemur"}
"""Packages of peers that are asked only where they are installed."""
