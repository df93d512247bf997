"""Cells as arrays: what a model reads, taken from a registered AnnData or from a query."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scvi.data import AnnDataManager
from torch import Tensor

from scdisent._constants import KEYS
from scdisent.functional import csr_tensor


@dataclass(frozen=True)
class CellTable:
    """Expression ``x`` (n_cells, n_genes), CSR or dense, and one column per registered field.

    Columns are ``(n_cells, n_columns)``, codes as integers; a field that a query lacks is absent.
    """

    x: Any  # scipy CSR or a dense float32 array
    columns: Mapping[str, NDArray[np.generic]]

    def __len__(self) -> int:
        return int(self.x.shape[0])

    @classmethod
    def from_manager(cls, manager: AnnDataManager) -> "CellTable":
        """Read every registered field of a set-up AnnData."""
        return cls(expression_array(manager.get_from_registry(KEYS.X)), registered_columns(manager))


def registered_columns(manager: AnnDataManager) -> dict[str, NDArray[np.generic]]:
    """Every registered field but the expression."""
    return {
        key: column_array(manager.get_from_registry(key))
        for key in manager.data_registry
        if key != KEYS.X
    }


def expression_array(x: object) -> sparse.csr_matrix | NDArray[np.float32]:
    """CSR stays CSR; other sparse layouts become CSR; the rest a dense float32 array."""
    if sparse.issparse(x):
        return sparse.csr_matrix(x, dtype=np.float32)
    return np.ascontiguousarray(x, dtype=np.float32)


def column_array(values: object) -> NDArray[np.generic]:
    """One field as a ``(n_cells, n_columns)`` array: codes int64, numbers float32."""
    array = np.asarray(values)
    array = array[:, None] if array.ndim == 1 else array
    return array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32)


class TensorTable:
    """The same table as tensors on one device, from which minibatches are gathered.

    No per-cell Python and no worker processes: a minibatch of CSR rows is three gathers. On a GPU
    the whole table lives there when it fits.
    """

    def __init__(self, table: CellTable, *, device: torch.device | str = "cpu") -> None:
        self.n_cells, self.n_genes = table.x.shape
        self.device = torch.device(device)
        self.columns = {
            key: torch.from_numpy(np.ascontiguousarray(column)).to(device)
            for key, column in table.columns.items()
        }
        self.is_sparse = sparse.issparse(table.x)
        if sparse.issparse(table.x):
            matrix = table.x if table.x.has_canonical_format else table.x.copy()
            matrix.sum_duplicates()
            self.pointers = torch.from_numpy(matrix.indptr.astype(np.int64)).to(device)
            self.genes = torch.from_numpy(matrix.indices.astype(np.int32)).to(device)
            self.values = torch.from_numpy(matrix.data).to(device)
        else:
            self.dense = torch.from_numpy(table.x).to(device)

    @staticmethod
    def bytes_needed(table: CellTable) -> int:
        """Size of the tensors."""
        x = table.x
        expression = 8 * x.nnz + 8 * len(table) if sparse.issparse(x) else x.nbytes
        return int(expression + sum(column.nbytes for column in table.columns.values()))

    def rows(self, index: Tensor) -> dict[str, Tensor]:
        """Minibatch of the cells ``index`` in scvi-tools' form: a dictionary of tensors."""
        batch = {key: column[index] for key, column in self.columns.items()}
        batch[KEYS.X] = self._sparse_rows(index) if self.is_sparse else self.dense[index]
        return batch

    def _sparse_rows(self, index: Tensor) -> Tensor:
        starts = self.pointers[index]
        counts = self.pointers[index + 1] - starts
        ends = counts.cumsum(0)
        shift = torch.repeat_interleave(starts - ends + counts, counts)
        entries = torch.arange(len(shift), device=shift.device) + shift
        pointers = torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
        return csr_tensor(
            pointers, self.genes[entries], self.values[entries], n_columns=self.n_genes
        )


class CellLoader:
    """Iterate minibatches of a :class:`TensorTable`.

    In training the order is drawn anew each epoch from its own generator, cells are dealt to
    ``n_shards`` processes, and a last batch too small for batch normalisation is left out.
    """

    def __init__(
        self,
        table: TensorTable,
        *,
        index: NDArray[np.integer] | None = None,
        batch_size: int,
        seed: int | None = None,
        shard: tuple[int, int] = (0, 1),
        device: torch.device | str | None = None,
    ) -> None:
        self.table, self.batch_size, self.device = table, batch_size, device
        index = np.arange(table.n_cells) if index is None else np.asarray(index)
        self.index = torch.from_numpy(index)
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.rank, self.n_shards = shard

    @property
    def _n_own(self) -> int:
        return len(self.index) // self.n_shards if self.generator else len(self.index)

    def __len__(self) -> int:
        full, rest = divmod(self._n_own, self.batch_size)
        smallest = max(2, self.batch_size // 8) if self.generator and full else 1
        return full + (rest >= smallest)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = self.index
        if self.generator is not None:
            order = order[torch.randperm(len(order), generator=self.generator)]
            order = order[self.rank :: self.n_shards][: self._n_own]
        order = order.to(self.table.device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = self.table.rows(order[start : start + self.batch_size])
            if self.device is not None:
                batch = {key: value.to(self.device) for key, value in batch.items()}
            yield batch
