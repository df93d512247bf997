"""HCSVAE, a baseline of the DISCoVeR paper: CSVAE with a hidden code above both blocks."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from scdisent.model import DISCoVeR
from scdisent.module import (
    INVARIANT,
    JOINT,
    SPECIFIC,
    DiscoverModule,
    LatentBlock,
    State,
    Term,
)
from scdisent.nn import Cells, Decoder, GaussianEncoder

HIDDEN = "hidden"


class HierarchicalModule(DiscoverModule):
    r"""Blocks read from a hidden code :math:`\rho` of the cell.

    .. math::
        q(\rho \mid x),\; q(z \mid \rho),\; q(w \mid \rho, y), \qquad
        p(\rho \mid z, w),\; p(x \mid \rho)

    Source: the public code of the authors of DISCoVeR (the structure; sizes are ours). The
    divergence of :math:`\rho` has the weight of reconstruction: it is what z and w reconstruct.
    """

    def __init__(self, n_input: int, n_labels: int, *args: Any, **options: Any) -> None:
        super().__init__(n_input, n_labels, *args, **options)
        n_hidden, n_layers = options["n_hidden"], options["n_layers"]
        size: dict[str, Any] = {"n_hidden": n_hidden, "n_layers": n_layers}
        n_z, n_w = (self.n_latents[block] for block in (INVARIANT, SPECIFIC))
        n_rho = n_z + n_w
        self.hidden = GaussianEncoder(n_input, n_rho, **size)
        self.encoders = nn.ModuleDict(
            {
                INVARIANT: GaussianEncoder(n_rho, n_z, **size),
                SPECIFIC: GaussianEncoder(n_rho, n_w, n_labels=n_labels, **size),
            }
        )
        self.hidden_prior = Decoder(n_z + n_w, 2 * n_rho, **size)
        n_output = n_input * self.likelihoods[JOINT].n_outputs_per_gene
        self.decoders = nn.ModuleDict({JOINT: Decoder(n_rho + self.n_nuisance, n_output, **size)})

    def posterior(self, cells: Cells, block: str, condition: Tensor | None = None) -> Normal:
        """Posterior of a block at the mean of the hidden code."""
        return self._given(self._hidden(cells).mean, cells, block, condition)

    def _hidden(self, cells: Cells) -> Normal:
        q: Normal = self.hidden(self.read(cells))
        return q

    def _given(
        self, rho: Tensor, cells: Cells, block: str, condition: Tensor | None = None
    ) -> Normal:
        told = cells.condition if condition is None else condition
        q: Normal = self.encoders[block](rho, told if block == SPECIFIC else None)
        return q

    def encode(self, cells: Cells) -> dict[str, LatentBlock]:
        """The blocks, and the hidden code with its prior given them."""
        q = self._hidden(cells)
        rho = q.rsample()
        blocks = {}
        for name in (INVARIANT, SPECIFIC):
            own = self._given(rho, cells, name)
            blocks[name] = LatentBlock(own, own.rsample(), own)
        z, w = (blocks[name].sample for name in (INVARIANT, SPECIFIC))
        priors = {
            INVARIANT: self.invariant_prior(z, cells.condition),
            SPECIFIC: self.prior(z, cells.condition),
        }
        found = {name: replace(block, prior=priors[name]) for name, block in blocks.items()}
        return {**found, HIDDEN: LatentBlock(q, rho, self._prior_of_hidden(z, w))}

    def _prior_of_hidden(self, z: Tensor, w: Tensor) -> Normal:
        mean, scale = self.hidden_prior(z, w).chunk(2, dim=-1)
        return Normal(mean, F.softplus(scale) + 1e-4, validate_args=False)

    def decode(self, cells: Cells, latents: Any) -> dict[str, Tensor]:
        """Reconstruction from the hidden code."""
        return {JOINT: self.decoders[JOINT](latents[HIDDEN].sample, cells.nuisance)}

    def decode_joint(self, z: Tensor, w: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output at the mean of the hidden code given both blocks."""
        raw: Tensor = self.decoders[JOINT](self._prior_of_hidden(z, w).mean, nuisance)
        return raw

    def terms(self, s: State) -> Iterator[Term]:
        """Those of CSVAE, and the divergence of the hidden code."""
        yield from super().terms(s)
        yield Term("kl_hidden", s.latents[HIDDEN].kl())


class HCSVAE(DISCoVeR):
    """CSVAE with a hidden layer of codes; ``preset="csvae"`` or ``"csvae_na"``, dense networks."""

    _module_cls = HierarchicalModule

    def _build_module(self, *args: Any, **options: Any) -> DiscoverModule:
        self.weights["kl_hidden"] = self.weights["nll_joint"]
        return super()._build_module(*args, **options)
