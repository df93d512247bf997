"""Decoders: latent blocks and nuisance to the raw outputs that a likelihood reads."""

import torch
from torch import Tensor, nn

from scdisent.nn._encoders import hidden_layers


class Decoder(nn.Module):
    """Network from latents and known covariates to ``n_output`` raw values per cell."""

    def __init__(
        self, n_input: int, n_output: int, *, n_hidden: int, n_layers: int, style: str = "batch"
    ) -> None:
        super().__init__()
        sizes = [n_hidden] * n_layers + [n_output]
        self.first = nn.Linear(n_input, sizes[0])
        self.rest = hidden_layers(sizes, style=style)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Blocks ``(n_cells, n_block)`` are joined: returns ``(n_cells, n_output)``."""
        result: Tensor = self.rest(self.first(torch.cat(inputs, dim=-1)))
        return result
