"""CG-VAE: latents identified by what conditions change and by how few genes each touches."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scdisent._errors import one_of
from scdisent.functional import jacobian_l1, mmd, rbf_kernel
from scdisent.module._base import LatentBlock, State, Term
from scdisent.module._discover import JOINT
from scdisent.module._transport import SPARSITY, TransportModule
from scdisent.nn import FLOWS, Cells, ConditionInputs

CGVAE_TERMS = ("nll_joint", "kl_joint", "sparsity", "gate", "mmd")
PRIORS_OF_CODES = ("standard", *FLOWS)
CONTENT_PRIORS = ("standard", "label")
SCALES = ("batch", "none")


class CgvaeModule(TransportModule):
    r"""One encoder q(z | x), a prior p(z | u) that the condition moves, one sparse decoder.

    Terms and the loss are those of :class:`scdisent.CGVAE`. Codes stand as content, then style;
    with gates each latent is style while its gate is open, and content once it is closed.

    Parameters
    ----------
    n_input, n_labels, n_batch, n_cats_per_cov, n_continuous_cov
        Sizes, in scvi-tools' names; ``n_labels`` is the number of conditions.
    n_cell_types
        Number of cell types for ``content_prior="label"``, else 0.
    condition_inputs
        What is known of the conditions of training; None: a free code for each.
    n_specific
        Latents that the condition may move, after ``n_latent`` that it may not. None: all of
        ``n_latent``, with gates.
    n_dense
        The first so many latents are free of the sparsity penalty.
    """

    def __init__(
        self,
        n_input: int,
        n_labels: int,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] | None = None,
        n_continuous_cov: int = 0,
        *,
        n_cell_types: int = 0,
        condition_inputs: ConditionInputs | None = None,
        likelihood: str = "nb",
        n_latent: int = 10,
        n_specific: int | None = None,
        n_dense: int = 0,
        n_hidden: int = 128,
        n_layers: int = 2,
        prior: str = "affine",
        content_prior: str = "standard",
        code_dropout: float = 0.0,
        sparsity_method: str = "jvp",
        sparsity_scale: str = "batch",
        warm_up_share: float = 0.3,
        scale: float | None = None,
        image_shape: Sequence[int] | None = None,
        weights: Mapping[str, float],
    ) -> None:
        one_of(prior, PRIORS_OF_CODES, "prior")
        one_of(content_prior, CONTENT_PRIORS, "content_prior")
        one_of(sparsity_scale, SCALES, "sparsity_scale")
        super().__init__(
            n_input,
            n_labels,
            n_batch=n_batch,
            n_cats_per_cov=n_cats_per_cov,
            n_continuous_cov=n_continuous_cov,
            condition_inputs=condition_inputs,
            likelihood=likelihood,
            scale=scale,
            n_latent=n_latent,
            n_specific=n_specific,
            flow="none" if prior == "standard" else prior,
            code_dropout=code_dropout,
            weights=weights,
        )
        self.n_conditions, self.n_dense = n_labels, n_dense
        self.sparsity_method, self.sparsity_scale = sparsity_method, sparsity_scale
        self.warm_up_share = warm_up_share
        self._add_coders(n_hidden=n_hidden, n_layers=n_layers, image_shape=image_shape)
        self.labels = nn.Embedding(n_cell_types, 2 * self.n_codes) if n_cell_types else None
        if self.labels is not None:
            nn.init.normal_(self.labels.weight, std=0.1)

    def law_of_codes(self, cells: Cells) -> Normal:
        """Posterior of all latents, in use or not."""
        q: Normal = self.encoder(self.read(cells))
        return q

    def encode(self, cells: Cells) -> dict[str, LatentBlock]:
        """Posterior of all latents, a sample of it, the prior under each cell's condition."""
        q = self.law_of_codes(cells)
        prior = self.latents.prior(self.base(cells), cells.condition)
        return {JOINT: LatentBlock(q, q.rsample(), prior)}

    def base(self, cells: Cells) -> Normal:
        """Law of the noise, ``(n_cells, n_codes)``: standard, or that of the cell type.

        Standard too where cell types were not read, for getters that need no prior.
        """
        shape = (len(cells), self.n_codes)
        if self.labels is None or not len(cells.cell_type):
            zeros = torch.zeros(shape, device=self.device)
            return Normal(zeros, torch.ones_like(zeros), validate_args=False)
        mean, log_scale = self.labels(cells.cell_type).chunk(2, dim=-1)
        return Normal(mean, log_scale.clamp(-5, 5).exp(), validate_args=False)

    def decode(self, cells: Cells, latents: Mapping[str, LatentBlock]) -> dict[str, Tensor]:
        """The reconstruction; in training with the size of the Jacobian beside it."""
        block = latents[JOINT]
        z = block.sample
        if not (self.training and self.weights.get(SPARSITY)):
            return {JOINT: self.decoder(z, cells.nuisance)}
        free = torch.arange(self.n_codes, device=z.device) < self.n_dense
        found = jacobian_l1(
            lambda codes: self.decoder(codes, cells.nuisance),
            z,
            # Of means: of samples, narrow posteriors would be a cheap way to a small penalty.
            scale=block.q.mean.std(dim=0) if self.sparsity_scale == "batch" else None,
            weights=(~free).to(z.dtype),
            method=self.sparsity_method,
        )
        return {JOINT: found.output, SPARSITY: found.value}

    def terms(self, state: State) -> Iterator[Term]:
        """The objective, in view; see the class docstring of the model."""
        block = state.latents[JOINT]
        yield Term("nll_joint", -self.likelihoods[JOINT].log_prob(state.cells, state.raw[JOINT]))
        yield Term("kl_joint", block.kl())
        yield from self.structure(state)
        if self.weights.get("mmd") and not self.latents.is_style.all():
            yield Term("mmd", self._discrepancy(block.sample, state.cells))

    def _discrepancy(self, z: Tensor, cells: Cells) -> Tensor:
        """How far the content of conditions differs, within cell types where they are known."""
        kernel = rbf_kernel(z[:, ~self.latents.is_style])
        within = cells.cell_type if len(cells.cell_type) else None
        return mmd(kernel, cells.condition, n_conditions=self.n_conditions, within=within)

    def warm_up(self) -> dict[str, float]:
        """Divergence from a tenth of its weight; sparsity from 0 once the divergence is whole.

        Before, shrinking posteriors would be the cheapest way to a small penalty.
        """
        rise = self.progress / self.warm_up_share if self.warm_up_share else np.inf
        return {"kl_joint": 0.1 + 0.9 * min(1.0, rise), SPARSITY: min(1.0, max(0.0, rise - 1))}
