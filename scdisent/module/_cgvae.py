"""CG-VAE: latents identified by what conditions change and by how few genes each touches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scdisent._errors import one_of
from scdisent.functional import jacobian_l1, mmd, rbf_kernel
from scdisent.module._base import DisentModule, LatentBlock, State, Term
from scdisent.module._discover import INVARIANT, JOINT, SPECIFIC
from scdisent.nn import (
    FLOWS,
    Cells,
    ConditionInputs,
    MovedLatents,
    make_likelihood,
    sparse_coders,
)

CGVAE_TERMS = ("nll_joint", "kl_joint", "sparsity", "gate", "mmd")
PRIORS_OF_CODES = ("standard", *FLOWS)
CONTENT_PRIORS = ("standard", "label")
SCALES = ("batch", "none")
SPARSITY = "sparsity"


class CgvaeModule(DisentModule):
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

    encoder: Any  # torch's containers do not know what they hold
    decoder: Any
    likelihoods: Any

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
        super().__init__(
            n_batch=n_batch,
            n_cats_per_cov=n_cats_per_cov,
            n_continuous_cov=n_continuous_cov,
            weights=weights,
        )
        one_of(prior, PRIORS_OF_CODES, "prior")
        one_of(content_prior, CONTENT_PRIORS, "content_prior")
        one_of(sparsity_scale, SCALES, "sparsity_scale")
        self.n_conditions, self.n_dense = n_labels, n_dense
        self.sparsity_method, self.sparsity_scale = sparsity_method, sparsity_scale
        self.warm_up_share = warm_up_share
        self.latents = MovedLatents(
            0 if n_specific is None else n_latent,
            n_latent if n_specific is None else n_specific,
            n_conditions=n_labels,
            flow="none" if prior == "standard" else prior,
            gated=n_specific is None,
            inputs=condition_inputs,
            code_dropout=code_dropout,
        )
        self.n_codes = self.latents.n_latent
        head = make_likelihood(likelihood, n_input, families=None, scale=scale)
        self.likelihoods = nn.ModuleDict({JOINT: head})
        self.encoder, self.decoder = sparse_coders(
            head,
            self.n_codes,
            n_nuisance=self.n_nuisance,
            n_hidden=n_hidden,
            n_layers=n_layers,
            image_shape=image_shape,
        )
        self.labels = nn.Embedding(n_cell_types, 2 * self.n_codes) if n_cell_types else None
        if self.labels is not None:
            nn.init.normal_(self.labels.weight, std=0.1)

    @property
    def expects(self) -> str:
        """Kind of data the likelihood is for."""
        return str(self.likelihoods[JOINT].expects)

    # -------------------------------------------------------- content and style

    @property
    def n_latents(self) -> dict[str, int]:
        """Size of each block: what training has left open and in use."""
        latents = self.latents
        return {INVARIANT: int(latents.is_content.sum()), SPECIFIC: int(latents.is_style.sum())}

    def posterior(self, cells: Cells, block: str, condition: Tensor | None = None) -> Normal:
        """Posterior of one block; no block reads the condition."""
        return self.latents.block(self.whole_posterior(cells), style=block == SPECIFIC)

    def whole_posterior(self, cells: Cells) -> Normal:
        """Posterior of all latents, in use or not."""
        q: Normal = self.encoder(cells.log_normalised if self.expects == "counts" else cells.dense)
        return q

    # ------------------------------------------------------------------ the model

    def encode(self, cells: Cells) -> dict[str, LatentBlock]:
        """Posterior of all latents, a sample of it, the prior under each cell's condition."""
        q = self.whole_posterior(cells)
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

    def decode_codes(self, codes: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output for content and style side by side, ``(n_cells, n_codes)``."""
        raw: Tensor = self.decoder(self.latents.arranged(codes), nuisance)
        return raw

    def decode_joint(self, z: Tensor, w: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output of p(x | content, style)."""
        return self.decode_codes(torch.cat([z, w], dim=-1), nuisance)

    def decode_invariant(self, z: Tensor, condition: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output for content, with style at the median of its prior under the condition."""
        return self.decode_joint(z, self.latents.median_style(condition), nuisance)

    # ------------------------------------------------------------------- training

    def terms(self, state: State) -> Iterator[Term]:
        """The objective, in view; see the class docstring of the model."""
        block = state.latents[JOINT]
        yield Term("nll_joint", -self.likelihoods[JOINT].log_prob(state.cells, state.raw[JOINT]))
        yield Term("kl_joint", block.kl())
        if SPARSITY in state.raw:
            yield Term(SPARSITY, state.raw[SPARSITY])
        if self.latents.gates is not None and self.weights.get("gate"):
            # Without a gradient: after_step shrinks the gates, to exact zeros.
            yield Term("gate", self.latents.gates.detach().sum())
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

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Shrink the gates."""
        weight = self.weights.get("gate", 0.0)
        self.latents.shrink_gates(optimizer, weight=weight, progress=self.progress)
