"""Cells that stay on disk: blocks of rows are read in turn and shuffled in a buffer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scdisent._constants import KEYS
from scdisent.data._cells import CellTable, TensorTable, expression_array
from scdisent.data._datamodules import first_of_absent, own_shard, split_sizes

BLOCK = 64
"""Neighbouring rows read at once: a disk reads them as one piece."""
BUFFER = 64
"""Blocks held in memory, about 4,000 cells: minibatches are drawn from them at random."""


class DiskLoader:
    """Minibatches of cells whose expression is read from a backed AnnData.

    Parameters
    ----------
    x
        Backed matrix; only slices of rows are taken from it.
    columns
        Fields of every cell, in memory.
    rows
        Mask of the cells to use, ``(n_cells,)``; None: all.
    genes
        Columns of ``x`` to use, in this order; None: all.
    seed
        Shuffle blocks and, inside the buffer, cells; None: keep the order.
    shard
        Own rank and number of processes, which take blocks in turn.
    """

    def __init__(
        self,
        x: Any,
        columns: Mapping[str, NDArray[np.generic]],
        *,
        batch_size: int,
        rows: NDArray[np.bool_] | None = None,
        genes: NDArray[np.integer] | None = None,
        seed: int | None = None,
        shard: tuple[int, int] = (0, 1),
        device: torch.device | str | None = None,
    ) -> None:
        self.x, self.columns, self.genes = x, columns, genes
        self.rows = np.ones(x.shape[0], dtype=bool) if rows is None else rows
        self.index = np.flatnonzero(self.rows)
        self.starts, self.sizes = np.unique(self.index // BLOCK * BLOCK, return_counts=True)
        self.batch_size, self.device = batch_size, device
        self.rank, self.n_shards = shard
        # All processes must agree on the blocks, and each shuffles cells of its own.
        self.block_rng = None if seed is None else np.random.default_rng(seed)
        self.rng = None if seed is None else np.random.default_rng([seed, self.rank])

    def __len__(self) -> int:
        if self.rng is None:
            return -(-len(self.index) // self.batch_size)
        # The smallest share that can be dealt: all processes must take as many steps.
        own = int(np.sort(self.sizes)[: len(self.sizes) // self.n_shards].sum())
        return max(1, own // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        n_batches = 0
        rest, rest_x = np.empty(0, dtype=np.int64), None
        for blocks in self._buffers():
            cells = np.concatenate([rest, *blocks])
            x = _stacked([rest_x, *map(self._read, blocks)])
            table = self._table(x, cells)
            order = np.arange(len(cells)) if self.rng is None else self.rng.permutation(len(cells))
            n_full = len(cells) // self.batch_size * self.batch_size
            for start in range(0, n_full, self.batch_size):
                if n_batches == len(self):
                    return
                yield self._batch(table, order[start : start + self.batch_size])
                n_batches += 1
            left = np.sort(order[n_full:])  # they join the next buffer
            rest, rest_x = cells[left], x[left]
        if len(rest) and n_batches < len(self):
            yield self._batch(self._table(rest_x, rest), np.arange(len(rest)))

    def _buffers(self) -> Iterator[list[NDArray[np.int64]]]:
        """Cells of ``BUFFER`` blocks at a time."""
        starts = self.starts
        if self.block_rng is not None:
            starts = self.block_rng.permutation(starts)[self.rank :: self.n_shards]
        for first in range(0, len(starts), BUFFER):
            chosen = starts[first : first + BUFFER]
            yield [at + np.flatnonzero(self.rows[at : at + BLOCK]) for at in chosen]

    def _read(self, cells: NDArray[np.int64]) -> Any:
        """Expression of cells of one block, which is read as a whole."""
        at = cells[0] // BLOCK * BLOCK
        block = self.x[at : at + BLOCK]
        block = block if self.genes is None else block[:, self.genes]
        return block[cells - at]

    def _table(self, x: Any, cells: NDArray[np.int64]) -> TensorTable:
        columns = {key: column[cells] for key, column in self.columns.items()}
        return TensorTable(CellTable(expression_array(x), columns))

    def _batch(self, table: TensorTable, order: NDArray[np.integer]) -> dict[str, Tensor]:
        batch = table.rows(torch.from_numpy(np.asarray(order)))
        return batch if self.device is None else {k: v.to(self.device) for k, v in batch.items()}


def _stacked(parts: Sequence[Any]) -> Any:
    """Rows of matrices one below the other; None is no matrix."""
    found = [part for part in parts if part is not None]
    is_sparse = sparse.issparse(found[0])
    return sparse.vstack(found, format="csr") if is_sparse else np.vstack(found)


class DiskDataModule(pl.LightningDataModule):
    """Train and validation loaders over a backed AnnData; whole blocks are held out.

    Parameters
    ----------
    x, columns
        As in :class:`DiskLoader`.
    batch_size, train_size, validation_size, seed
        As in :class:`ResidentDataModule`, but the split is not stratified: that would cut blocks.
        A condition that would have no block to train on gets one.
    """

    def __init__(
        self,
        x: Any,
        columns: Mapping[str, NDArray[np.generic]],
        *,
        batch_size: int,
        train_size: float | None = None,
        validation_size: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.x, self.columns, self.batch_size, self.seed = x, columns, batch_size, seed
        train_size, validation_size = split_sizes(train_size, validation_size)
        place = np.random.default_rng(seed).permutation(-(-x.shape[0] // BLOCK))
        place = np.repeat((place + 0.5) / len(place), BLOCK)[: x.shape[0]]
        place[self._blocks_of_lost(place < train_size)] = 0.0
        self.train_rows = place < train_size
        self.val_rows = ~self.train_rows & (place < train_size + validation_size)
        self.train_idx = np.flatnonzero(self.train_rows)
        self.val_idx = np.flatnonzero(self.val_rows)
        self.test_idx = np.flatnonzero(~self.train_rows & ~self.val_rows)
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)
        self.n_obs, self.n_vars = x.shape

    def _blocks_of_lost(self, is_train: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Rows of blocks that must be trained on: else a condition would have no cell there."""
        strata = self.columns[KEYS.CONDITION].ravel() if KEYS.CONDITION in self.columns else None
        if strata is None:
            return np.zeros(len(is_train), dtype=bool)
        lost = first_of_absent(strata, np.flatnonzero(~is_train), np.flatnonzero(is_train))
        return np.isin(np.arange(len(is_train)) // BLOCK, lost // BLOCK)

    def _loader(self, rows: NDArray[np.bool_], seed: int | None) -> DiskLoader:
        trainer = self.trainer
        return DiskLoader(
            self.x,
            self.columns,
            batch_size=self.batch_size,
            rows=rows,
            seed=seed,
            shard=own_shard(self),
            device=trainer.strategy.root_device if trainer else None,
        )

    def train_dataloader(self) -> DiskLoader:
        """Shuffled blocks, shuffled cells inside the buffer."""
        return self._loader(self.train_rows, self.seed)

    def train_cells(self) -> DiskLoader:
        """Every training cell once, in order."""
        return self._loader(self.train_rows, None)

    def val_dataloader(self) -> DiskLoader | list:
        """In order; an empty list without validation cells."""
        return self._loader(self.val_rows, None) if self.n_val else []
