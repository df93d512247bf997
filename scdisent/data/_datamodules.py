"""Lightning datamodules: cells in memory (or on the GPU), and cells on disk."""

from typing import cast

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from scdisent._constants import KEYS
from scdisent._errors import OptionError
from scdisent.data._cells import CellLoader, CellTable, TensorTable

GPU_SHARE = 0.5
"""Largest part of free GPU memory that the data may take; the rest is for the model."""


class ResidentDataModule(pl.LightningDataModule):
    """Train and validation loaders over a table held in memory, on the GPU where it fits.

    The split is stratified by condition. Cells of neither part are the test set.
    """

    def __init__(
        self,
        table: CellTable,
        *,
        batch_size: int,
        train_size: float | None = None,
        validation_size: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.table, self.batch_size, self.seed = table, batch_size, seed
        strata = table.columns[KEYS.CONDITION][:, 0]
        self.train_idx, self.val_idx, self.test_idx = split_cells(
            strata, train_size=train_size, validation_size=validation_size, seed=seed
        )
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)
        self._tensors: TensorTable | None = None

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def setup(self, stage: str | None = None) -> None:
        """Place the tensors once the device is known."""
        if self._tensors is None:
            place: torch.device | str = self._device
            kind = self._device.type
            if kind == "cuda":
                free, _ = torch.cuda.mem_get_info(place)
                place = place if TensorTable.bytes_needed(self.table) < GPU_SHARE * free else "cpu"
            elif kind != "cpu":
                place = "cpu"
            self._tensors = TensorTable(self.table, device=place)

    def loader(self, index: NDArray[np.integer], seed: int | None = None) -> CellLoader:
        """Minibatches of the cells ``index``: in their order, or shuffled when seeded."""
        self.setup()
        return CellLoader(
            cast("TensorTable", self._tensors),
            index=index,
            batch_size=self.batch_size,
            seed=seed,
            shard=own_shard(self),
            device=self._device,
        )

    def train_dataloader(self) -> CellLoader:
        """Shuffled; the order of an epoch depends on the seed only."""
        return self.loader(self.train_idx, self.seed)

    def val_dataloader(self) -> CellLoader | list:
        """In order; without validation cells an empty list, as Lightning expects."""
        return self.loader(self.val_idx, None) if self.n_val else []


def own_shard(datamodule: pl.LightningDataModule) -> tuple[int, int]:
    """Rank and number of the processes among which a fit deals its cells; outside one (0, 1)."""
    trainer = datamodule.trainer
    return (trainer.global_rank, trainer.world_size) if trainer and trainer.training else (0, 1)


def split_sizes(train_size: float | None, validation_size: float | None) -> tuple[float, float]:
    """Shares for training and validation: 0.9 and what is left of it, unless they are given."""
    train_size = 0.9 if train_size is None else train_size
    validation_size = 1 - train_size if validation_size is None else validation_size
    if not 0 < train_size <= 1 or validation_size < 0 or train_size + validation_size > 1 + 1e-9:
        msg = (
            "train_size must lie in (0, 1] and train_size + validation_size must not exceed 1; "
            f"found {train_size} and {validation_size}."
        )
        raise OptionError(msg)
    return train_size, validation_size


def split_cells(
    strata: NDArray[np.generic],
    *,
    train_size: float | None,
    validation_size: float | None,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Split cells into train, validation and test, the shares of each stratum kept."""
    train_size, validation_size = split_sizes(train_size, validation_size)
    everyone = np.arange(len(strata))
    train, rest = _stratified(everyone, strata, 1 - train_size, seed)
    if len(lost := first_of_absent(strata, rest, train)):  # too few cells to be cut into shares
        train, rest = np.union1d(train, lost), np.setdiff1d(rest, lost)
    share_of_rest = validation_size / max(1 - train_size, 1e-12)
    test, validation = _stratified(rest, strata, share_of_rest, seed)
    return train, validation, test


def first_of_absent(
    strata: NDArray[np.generic], cells: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.int64]:
    """One of ``cells`` for each stratum that none of the others is of."""
    levels, first = np.unique(strata[cells], return_index=True)
    return cells[first[~np.isin(levels, strata[others])]]


def _stratified(
    index: NDArray[np.int64], strata: NDArray[np.generic], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut ``share`` of ``index`` off, balanced over the strata where each can be cut."""
    n_cut = round(share * len(index))
    if n_cut == 0:
        return index, index[:0]
    if n_cut >= len(index):
        return index[:0], index
    _, codes, counts = np.unique(strata[index], return_inverse=True, return_counts=True)
    balanced = counts.min() > 1 and min(n_cut, len(index) - n_cut) >= len(counts)
    kept, cut = train_test_split(
        index, test_size=n_cut, random_state=seed, stratify=codes if balanced else None
    )
    return np.sort(kept), np.sort(cut)
