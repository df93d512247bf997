"""Encoders: expression to a diagonal Gaussian over one latent block."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

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


def _batch(width: int) -> list[nn.Module]:
    return [nn.BatchNorm1d(width, momentum=0.05, eps=1e-3), nn.ReLU()]


def _layer(width: int) -> list[nn.Module]:
    return [nn.LayerNorm(width), nn.ReLU()]


STYLES: Mapping[str, Callable[[int], list[nn.Module]]] = MappingProxyType(
    {
        "batch": _batch,
        "layer": _layer,
        "smooth": lambda _: [nn.Tanh()],
        "plain": lambda _: [nn.LeakyReLU(0.2)],
    }
)
"""What stands between two linear maps. Only "batch" joins cells; forward-mode derivatives, which
batch normalisation forbids, need another one."""


def hidden_layers(sizes: list[int], *, style: str = "batch") -> nn.Sequential:
    """Blocks of a style and a linear map that follow a first linear map to ``sizes[0]``."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [*STYLES[style](n_in), nn.Linear(n_in, n_out)]
    return nn.Sequential(*layers)


class GaussianEncoder(nn.Module):
    r"""Posterior :math:`q(z \mid x)` or :math:`q(w \mid x, y)`: mean and scale from one network.

    ``n_labels > 0`` lets the first layer read a label beside the cell. Without hidden layers the
    map to the posterior is affine.
    """

    def __init__(
        self,
        n_input: int,
        n_latent: int,
        *,
        n_hidden: int,
        n_layers: int,
        n_labels: int = 0,
        style: str = "batch",
    ) -> None:
        super().__init__()
        sizes = [n_hidden] * n_layers + [2 * n_latent]
        self.n_labels = n_labels
        self.first = CellLinear(n_input, sizes[0])
        self.label = nn.Embedding(n_labels, sizes[0]) if n_labels else None
        self.rest = hidden_layers(sizes, style=style)

    def forward(self, x: SparseCells | Tensor, label: Tensor | None = None) -> Normal:
        """Posterior with mean and scale ``(n_cells, n_latent)``.

        ``label``: codes ``(n_cells,)``, or values of all labels ``(n_cells, n_labels)``.
        """
        hidden = self.first(x)
        if self.label is not None:
            given: Any = label  # none at all fails here
            is_code = given.dim() == 1
            hidden = hidden + (self.label(given) if is_code else given @ self.label.weight)
        mean, scale = self.rest(hidden).chunk(2, dim=-1)
        return Normal(mean, F.softplus(scale) + MIN_SCALE, validate_args=False)
