"""Encoders: expression to a diagonal Gaussian over one latent block."""

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from scdisent.functional import SparseCells, sparse_linear

MIN_SCALE = 1e-4
"""Smallest posterior standard deviation: keeps densities finite."""


class CellLinear(nn.Module):
    """Affine map of a minibatch that may be sparse; weight ``(n_input, n_output)``."""

    def __init__(self, n_input: int, n_output: int) -> None:
        super().__init__()
        bound = n_input**-0.5  # as torch.nn.Linear
        self.weight = nn.Parameter(torch.empty(n_input, n_output).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_output).uniform_(-bound, bound))

    def forward(self, x: SparseCells | Tensor) -> Tensor:
        """``(n_cells, n_input) -> (n_cells, n_output)``."""
        product = sparse_linear(x, self.weight) if isinstance(x, SparseCells) else x @ self.weight
        return product + self.bias

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


def hidden_layers(sizes: list[int], *, smooth: bool = False) -> nn.Sequential:
    """Blocks of BatchNorm, ReLU and Linear that follow a first linear map to ``sizes[0]``.

    ``smooth``: Tanh instead of BatchNorm and ReLU.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        norm = [] if smooth else [nn.BatchNorm1d(n_in, momentum=0.05, eps=1e-3)]
        layers += [*norm, nn.Tanh() if smooth else nn.ReLU(), nn.Linear(n_in, n_out)]
    return nn.Sequential(*layers)


class GaussianEncoder(nn.Module):
    r"""Posterior :math:`q(z \mid x)` or :math:`q(w \mid x, y)`: mean and scale from one network.

    ``n_labels > 0`` appends a one-hot label to the input. Without hidden layers the map to the
    posterior is affine.
    """

    def __init__(
        self,
        n_input: int,
        n_latent: int,
        *,
        n_hidden: int,
        n_layers: int,
        n_labels: int = 0,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        sizes = [n_hidden] * n_layers + [2 * n_latent]
        self.n_labels = n_labels
        self.first = CellLinear(n_input, sizes[0])
        self.label = nn.Embedding(n_labels, sizes[0]) if n_labels else None
        self.rest = hidden_layers(sizes, smooth=smooth)

    def forward(self, x: SparseCells | Tensor, label: Tensor | None = None) -> Normal:
        """Posterior with mean and scale ``(n_cells, n_latent)``; ``label`` is ``(n_cells,)``."""
        hidden = self.first(x)
        if self.label is not None:
            hidden = hidden + self.label(label)
        mean, scale = self.rest(hidden).chunk(2, dim=-1)
        return Normal(mean, F.softplus(scale) + MIN_SCALE, validate_args=False)
