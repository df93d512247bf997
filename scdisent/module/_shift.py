"""A module without latents: the noise of the data around means that need no network."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from scdisent.module._base import DisentModule, LatentBlock, State, Term
from scdisent.module._discover import JOINT
from scdisent.nn import Cells, make_likelihood

LEAST_COUNT = 1e-3
"""Counts per 10,000 of a gene that no cell expresses."""
LEAST_THETA, LARGEST_THETA = 0.1, 1e3


class ShiftModule(DisentModule):
    """No latents and no terms: a likelihood whose dispersion is found by moments.

    Parameters
    ----------
    n_input, n_labels, n_batch, n_cats_per_cov, n_continuous_cov
        Sizes, in scvi-tools' names; only the number of genes is used.
    likelihood
        ``"nb"``, ``"poisson"`` or ``"normal"``.
    """

    def __init__(
        self,
        n_input: int,
        n_labels: int,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] | None = None,
        n_continuous_cov: int = 0,
        *,
        likelihood: str = "nb",
    ) -> None:
        super().__init__(
            n_batch=n_batch,
            n_cats_per_cov=n_cats_per_cov,
            n_continuous_cov=n_continuous_cov,
            weights={},
        )
        head = make_likelihood(likelihood, n_input, families=None, scale=None)
        self.likelihoods = nn.ModuleDict({JOINT: head})

        self.register_buffer("place", torch.zeros(0))

    @property
    def device(self) -> torch.device:
        """Where the module lies; some likelihoods have no parameter to ask."""
        return cast("Tensor", self.place).device

    @property
    def n_latents(self) -> dict[str, int]:
        """There are no latent blocks."""
        return {}

    def encode(self, cells: Cells) -> dict[str, LatentBlock]:
        """Nothing to encode."""
        return {}

    def decode(self, cells: Cells, latents: Mapping[str, LatentBlock]) -> dict[str, Tensor]:
        """Nothing to decode."""
        return {}

    def terms(self, state: State) -> Iterator[Term]:
        """Nothing to minimise."""
        return iter(())

    def logits(self, mean: Tensor) -> Tensor:
        """Raw output whose profile has a mean log-normalised expression, ``(n_genes,)``."""
        if self.expects != "counts":
            return torch.zeros_like(mean)  # only differences of raw outputs count
        return (mean.expm1() + LEAST_COUNT).log()

    @torch.no_grad()
    def fit_dispersion(self, batches: Iterable[Cells]) -> None:
        r"""Inverse dispersion of each gene by moments around the mean of each minibatch's strata.

        .. math:: \theta_g = \frac{\sum_i \mu_{ig}^2}
                                  {\sum_i (x_{ig} - \mu_{ig})^2 - \sum_i \mu_{ig}}, \qquad
                  \mu_{ig} = l_i s_{c(i) g}

        with the library l and the share s of the gene in the cell's type under its condition.
        """
        if not hasattr(self.likelihoods[JOINT], "log_theta"):
            return
        excess = squared = torch.zeros(())
        for cells in batches:
            of_batch = _moments(cells)
            excess, squared = excess + of_batch[0], squared + of_batch[1]
        theta = squared / excess.clamp_min(1e-12)
        bounded = theta.clamp(LEAST_THETA, LARGEST_THETA).log()
        head: Any = self.likelihoods[JOINT]
        head.log_theta.copy_(bounded.to(torch.float32))


def _moments(cells: Cells) -> tuple[Tensor, Tensor]:
    """Both sums of the dispersion over one minibatch, ``(n_genes,)`` each; zeros are skipped.

    Squares are multiplied out, so that a mean of each cell and gene is never held.
    """
    x, library = cells.sparse, cells.library.double()
    counts, genes = x.values.double(), x.columns
    strata = _strata(cells).unique(return_inverse=True)[1]
    shape = (int(strata.max()) + 1, x.shape[1])
    index = strata[x.rows] * shape[1] + genes

    def summed(values: Tensor, at: Tensor, size: int) -> Tensor:
        return torch.zeros(size, dtype=values.dtype, device=values.device).index_add_(0, at, values)

    libraries, squares = (summed(each, strata, shape[0]) for each in (library, library**2))
    own = summed(counts, index, shape[0] * shape[1]).reshape(shape)
    with_library = summed(counts * library[x.rows], index, shape[0] * shape[1]).reshape(shape)
    share = own / libraries.clamp_min(1e-12)[:, None]
    squared = (share**2 * squares[:, None]).sum(dim=0)
    cross = (share * with_library).sum(dim=0)
    total = (share * libraries[:, None]).sum(dim=0)
    return summed(counts**2, genes, shape[1]) - 2 * cross + squared - total, squared


def _strata(cells: Cells) -> Tensor:
    """Code of each cell's type and condition."""
    if not len(cells.cell_type):
        return cells.condition
    n_conditions = int(cells.condition.max()) + 1
    return cells.cell_type * n_conditions + cells.condition
