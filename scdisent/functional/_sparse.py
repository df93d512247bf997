"""Sparse minibatches: 90 to 95 % of a count matrix is zero, and most work can skip the zeros."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from scipy import sparse
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scdisent.functional._precision import full_precision


def csr_tensor(row_pointers: Tensor, columns: Tensor, values: Tensor, *, n_columns: int) -> Tensor:
    """Build a CSR tensor without torch's once-a-process notice that the layout is in beta."""
    size = (len(row_pointers) - 1, n_columns)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
        return torch.sparse_csr_tensor(
            row_pointers, columns, values, size=size, check_invariants=False
        )


@dataclass(frozen=True)
class SparseCells:
    """A minibatch ``x`` of shape ``(n_cells, n_genes)`` seen through its non-zero entries.

    Everything that is derived from the pattern is computed once and shared by the two encoders
    and the two likelihoods of a training step.
    """

    csr: Tensor

    @classmethod
    def from_tensor(cls, x: Tensor) -> "SparseCells":
        """View a dense or CSR tensor; a dense one is converted once."""
        if x.layout == torch.sparse_csr:
            return cls(x)
        rows, columns = x.nonzero(as_tuple=True)
        pointers = torch.zeros(len(x) + 1, dtype=torch.int64, device=x.device)
        pointers[1:] = torch.bincount(rows, minlength=len(x)).cumsum(0)
        return cls(csr_tensor(pointers, columns, x[rows, columns], n_columns=x.shape[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_cells, n_genes)``."""
        return self.csr.shape[0], self.csr.shape[1]

    @property
    def values(self) -> Tensor:
        """The non-zero entries, ``(n_nonzero,)``."""
        return self.csr.values()

    @cached_property
    def rows(self) -> Tensor:
        """Cell of each entry, ``(n_nonzero,)``."""
        counts = self.csr.crow_indices().diff()
        cells = torch.arange(len(counts), device=counts.device)
        return torch.repeat_interleave(cells, counts, output_size=len(self.values))

    @cached_property
    def columns(self) -> Tensor:
        """Gene of each entry, ``(n_nonzero,)``."""
        return self.csr.col_indices().long()

    @cached_property
    def positions(self) -> Tensor:
        """Place of each entry in the flattened dense matrix, ``(n_nonzero,)``."""
        return self.rows * self.shape[1] + self.columns

    @cached_property
    def log_factorials(self) -> Tensor:
        """``log(x!)`` of each entry, ``(n_nonzero,)``."""
        return torch.lgamma(self.values + 1)

    @cached_property
    def transposed(self) -> Tensor:
        """The same entries as a CSR tensor of shape ``(n_genes, n_cells)``."""
        csr = self.csr.detach()
        if csr.device.type == "cpu":  # scipy counts where torch sorts: ten times as fast
            parts = (csr.values(), csr.col_indices(), csr.crow_indices())
            arrays = [part.numpy() for part in parts]
            csc = sparse.csr_matrix(tuple(arrays), shape=self.shape).tocsc()
            pointers, rows, values = map(torch.from_numpy, (csc.indptr, csc.indices, csc.data))
        else:
            moved = csr.to_sparse_csc()
            pointers, rows, values = moved.ccol_indices(), moved.row_indices(), moved.values()
        return csr_tensor(pointers, rows, values, n_columns=self.shape[0])

    @cached_property
    def totals(self) -> Tensor:
        """Total count of each cell, ``(n_cells,)``."""
        return self.sum_by_cell(self.values)

    def sum_by_cell(self, values: Tensor) -> Tensor:
        """Sum one value per entry over the genes of each cell: ``(n_nonzero,) -> (n_cells,)``."""
        out = torch.zeros(self.shape[0], dtype=values.dtype, device=values.device)
        return out.index_add(0, self.rows, values)

    def with_values(self, values: Tensor) -> "SparseCells":
        """Same pattern, other values."""
        pointers, columns = self.csr.crow_indices(), self.csr.col_indices()
        return SparseCells(csr_tensor(pointers, columns, values, n_columns=self.shape[1]))


class _SparseLinear(torch.autograd.Function):
    """``x @ weight.T`` for sparse ``x``; the gradient of the weight uses the transposed pattern."""

    @staticmethod
    def forward(ctx: Any, cells: SparseCells, weight: Tensor) -> Tensor:
        ctx.cells = cells
        return _product(cells.csr, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        # Sparse products know no half precision, and backward runs outside the forward's context.
        with full_precision(gradient):
            return None, _product(ctx.cells.transposed, gradient)


def _product(matrix: Tensor, dense: Tensor) -> Tensor:
    """Product of a CSR matrix as weighted sums of rows: faster than torch's own ``@``."""
    return F.embedding_bag(
        matrix.col_indices(),
        dense,
        matrix.crow_indices(),
        mode="sum",
        per_sample_weights=matrix.values(),
        include_last_offset=True,
    )


def sparse_linear(cells: SparseCells, weight: Tensor) -> Tensor:
    """Product of a sparse minibatch with a weight of shape ``(n_genes, n_out)``.

    Equals ``dense(x) @ weight``; cost grows with the non-zero entries only.
    """
    with full_precision(weight):
        result: Tensor = _SparseLinear.apply(cells, weight.to(cells.values.dtype))
    return result


def log1p_normalised(cells: SparseCells, *, target_sum: float = 1e4) -> SparseCells:
    """``log(1 + target_sum * x / library)``: encoder input that does not grow with depth."""
    library = cells.totals.clamp_min(1e-8)  # an empty query cell stays zero
    return cells.with_values(torch.log1p(cells.values * (target_sum / library)[cells.rows]))


def log1p_dense(counts: Tensor, *, target_sum: float = 1e4) -> Tensor:
    """The same of dense counts; a cell without counts stays zero."""
    total = counts.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    return torch.log1p(target_sum * counts / total)
