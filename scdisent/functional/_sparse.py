"""Sparse minibatches: 90 to 95 % of a count matrix is zero, and most work can skip the zeros."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
    def log_factorials(self) -> Tensor:
        """``log(x!)`` of each entry, ``(n_nonzero,)``."""
        return torch.lgamma(self.values + 1)

    @cached_property
    def transposed(self) -> Tensor:
        """The same entries as a CSR tensor of shape ``(n_genes, n_cells)``."""
        csc = self.csr.detach().to_sparse_csc()
        return csr_tensor(
            csc.ccol_indices(), csc.row_indices(), csc.values(), n_columns=self.shape[0]
        )

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
        return cells.csr @ weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        # Sparse products know no half precision, and backward runs outside the forward's context.
        with torch.autocast(device_type=gradient.device.type, enabled=False):
            return None, ctx.cells.transposed @ gradient


def sparse_linear(cells: SparseCells, weight: Tensor) -> Tensor:
    """Product of a sparse minibatch with a weight of shape ``(n_genes, n_out)``.

    Equals ``dense(x) @ weight``; cost grows with the non-zero entries only.
    """
    with torch.autocast(device_type=weight.device.type, enabled=False):
        result: Tensor = _SparseLinear.apply(cells, weight.to(cells.values.dtype))
    return result


def log1p_normalised(cells: SparseCells, *, target_sum: float = 1e4) -> SparseCells:
    """``log(1 + target_sum * x / library)``: encoder input that does not grow with depth."""
    library = cells.sum_by_cell(cells.values).clamp_min(1e-8)  # an empty query cell stays zero
    return cells.with_values(torch.log1p(cells.values * (target_sum / library)[cells.rows]))
