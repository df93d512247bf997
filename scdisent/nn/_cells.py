"""One minibatch as encoders, likelihoods and penalties read it."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from scdisent.functional import SparseCells, log1p_normalised


@dataclass(frozen=True)
class Cells:
    """A minibatch: expression and what is known of each cell.

    ``x`` is ``(n_cells, n_genes)``, dense or CSR; ``condition`` and ``cell_type`` are integer
    codes ``(n_cells,)``, empty where unknown; ``nuisance`` is what only decoders may see,
    ``(n_cells, n_nuisance)``, empty where it was not read; ``library`` is ``(n_cells,)``.
    """

    x: Tensor
    condition: Tensor
    cell_type: Tensor
    nuisance: Tensor
    given_library: Tensor | None = None
    _known: dict[Hashable, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.x.shape[0]

    def once(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """Compute something of this minibatch the first time it is asked for."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    @cached_property
    def sparse(self) -> SparseCells:
        """The non-zero entries."""
        return SparseCells.from_tensor(self.x)

    @cached_property
    def dense(self) -> Tensor:
        """``x`` as a dense tensor."""
        return self.x.to_dense() if self.x.layout == torch.sparse_csr else self.x

    @cached_property
    def library(self) -> Tensor:
        """Expected total count: the size factor where one was given, else the observed total."""
        if self.given_library is not None:
            return self.given_library
        return self.sparse.totals

    @cached_property
    def log_normalised(self) -> SparseCells:
        """Encoder input for counts: ``log(1 + 1e4 x / library)``, sparse."""
        return log1p_normalised(self.sparse)
