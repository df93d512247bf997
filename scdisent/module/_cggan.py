"""CG-GAN: noise moved by the condition, a sparse generator, a critic, an inverter."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from scvi.module.base import auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal

from scdisent._errors import one_of
from scdisent.functional import GENERATIVE_GAMES, jacobian_l1, log1p_dense
from scdisent.module._base import DisentModule, LatentBlock, State, Term
from scdisent.module._cgvae import SPARSITY
from scdisent.module._discover import INVARIANT, JOINT, SPECIFIC
from scdisent.nn import (
    FLOWS,
    Cells,
    ConditionInputs,
    MovedLatents,
    ProjectionCritic,
    condition_code,
    make_likelihood,
    sparse_coders,
)

DEPTH = 1e4
"""Counts a cell is scaled to before the logarithm, as in the encoders."""
REFINE_RATE = 0.05
"""Of Adam; codes have a standard deviation of about 1."""
CGGAN_TERMS = ("generator", "inverse", "sparsity", "gate")
CRITIC_OF_CELLS = "cells"


class CgganModule(DisentModule):
    r"""Generator of cells from noise and condition, and the critic that judges it.

    Terms and the loss are those of :class:`scdisent.CGGAN`.

    Parameters
    ----------
    n_input, n_labels, n_batch, n_cats_per_cov, n_continuous_cov
        Sizes, in scvi-tools' names; ``n_labels`` is the number of conditions.
    condition_inputs
        What is known of the conditions of training; None: a free code for each.
    n_specific
        Latents that the condition may move, after ``n_latent`` that it may not. None: all of
        ``n_latent``, with gates.
    game, penalty_weight
        ``"logistic"`` with R1, or ``"wasserstein"`` with a gradient penalty, and its weight.
    penalty_every
        The penalty is computed in one of so many steps, with so many times the weight (lazy
        regularisation: Karras et al. 2020, arXiv 1912.04958).
    ema
        Share of the running average of weights that a step keeps; the average is what training
        leaves behind.
    n_refine
        Gradient steps by which codes of real cells are moved from what the inverter says towards
        those whose generated cell is nearest.
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
        condition_inputs: ConditionInputs | None = None,
        likelihood: str = "nb",
        n_latent: int = 10,
        n_specific: int | None = None,
        n_hidden: int = 256,
        n_layers: int = 2,
        flow: str = "affine",
        game: str = "logistic",
        penalty_weight: float = 0.01,
        code_dropout: float = 0.0,
        penalty_every: int = 4,
        ema: float = 0.999,
        n_refine: int = 0,
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
        self.game = GENERATIVE_GAMES[one_of(game, GENERATIVE_GAMES, "game")]
        self.penalty_weight, self.penalty_every = penalty_weight, penalty_every
        self.ema, self.n_refine = ema, n_refine
        self.latents = MovedLatents(
            0 if n_specific is None else n_latent,
            n_latent if n_specific is None else n_specific,
            n_conditions=n_labels,
            flow=one_of(flow, FLOWS, "flow"),
            gated=n_specific is None,
            inputs=condition_inputs,
            code_dropout=code_dropout,
        )
        self.n_codes = self.latents.n_latent
        head = make_likelihood(likelihood, n_input, families=None, scale=scale)
        # Of counts the generator reads the depth, which types of cells differ in: it is drawn from
        # real cells, so that its own law needs no learning.
        self.depth = None
        if head.expects == "counts":
            self.depth = nn.BatchNorm1d(1, affine=False, momentum=None)
        self.likelihoods = nn.ModuleDict({JOINT: head})
        self.encoder, self.decoder = sparse_coders(
            head,
            self.n_codes,
            n_nuisance=self.n_nuisance,
            n_hidden=n_hidden,
            n_layers=n_layers,
            image_shape=image_shape,
        )
        code = condition_code(n_labels, condition_inputs, dropout=0.0)
        self.adversaries[CRITIC_OF_CELLS] = ProjectionCritic(
            n_input, code, n_hidden=n_hidden, image_shape=image_shape
        )
        self._average: dict[str, Tensor] = {}
        self._n_steps = self._n_critic_steps = 0

    @property
    def n_nuisance(self) -> int:
        """Width of the technical covariates and the depth."""
        return super().n_nuisance + (self.depth is not None)

    def cells(self, tensors: Mapping[str, Tensor]) -> Cells:
        """Read a loader's minibatch; the depth joins what only decoders see."""
        cells = super().cells(tensors)
        if self.depth is None or cells.nuisance.ndim < 2:
            return cells
        depth = self.depth(cells.library.log()[:, None])
        return replace(cells, nuisance=torch.cat([cells.nuisance, depth], dim=-1))

    def levels_at(self, library: Tensor) -> Tensor:
        """First levels, and the depth of new cells."""
        levels = super().levels_at(library)
        if self.depth is not None:
            levels[:, -1:] = self.depth(library.log()[:, None])
        return levels

    @property
    def expects(self) -> str:
        """Kind of data the likelihood is for."""
        return str(self.likelihoods[JOINT].expects)

    @property
    def n_latents(self) -> dict[str, int]:
        """Size of each block; with gates it is what training has left open."""
        latents = self.latents
        return {INVARIANT: int(latents.is_content.sum()), SPECIFIC: int(latents.is_style.sum())}

    def posterior(self, cells: Cells, block: str, condition: Tensor | None = None) -> Normal:
        """What the inverter says of one block; no block reads the condition."""
        return self.latents.block(self.inverted(cells), style=block == SPECIFIC)

    def encode(self, cells: Cells) -> dict[str, LatentBlock]:
        """What the inverter says of real cells."""
        q = self.inverted(cells)
        zeros = torch.zeros_like(q.mean)
        base = Normal(zeros, torch.ones_like(zeros), validate_args=False)
        return {JOINT: LatentBlock(q, q.rsample(), self.latents.prior(base, cells.condition))}

    def inverted(self, cells: Cells) -> Normal:
        """Law of the codes of real cells, ``(n_cells, n_codes)``."""
        q: Normal = self.encoder(self.seen(cells))
        if not self.n_refine or self.training:
            return q
        return Normal(self._refined(q.mean, cells), q.stddev, validate_args=False)

    @torch.inference_mode(mode=False)
    @torch.enable_grad()
    def _refined(self, codes: Tensor, cells: Cells) -> Tensor:
        """Codes near the given ones whose generated cells are nearest to the real ones."""
        # Copies: what was made in inference mode has no gradients.
        codes, real, nuisance = (part.clone() for part in (codes, self.seen(cells), cells.nuisance))
        codes.requires_grad_()
        optimizer = torch.optim.Adam([codes], lr=REFINE_RATE)
        for _ in range(self.n_refine):
            made = self.expected(self.decoder(codes, nuisance))
            (codes.grad,) = torch.autograd.grad((made - real).square().sum(), [codes])
            optimizer.step()
        return codes.detach()

    def expected(self, raw: Tensor) -> Tensor:
        """Generated cells as the critic would see them without noise, ``(n_cells, n_genes)``."""
        profile = self.likelihoods[JOINT].profile(raw)
        return torch.log1p(DEPTH * profile) if self.expects == "counts" else profile

    def decode(self, cells: Cells, latents: Mapping[str, LatentBlock]) -> dict[str, Tensor]:
        """The generator's output; in training with the size of its Jacobian beside it."""
        z = latents[JOINT].sample
        if not (self.training and self.weights.get(SPARSITY)):
            return {JOINT: self.decoder(z, cells.nuisance)}
        found = jacobian_l1(
            lambda codes: self.decoder(codes, cells.nuisance), z, scale=z.std(dim=0), method="fd"
        )
        return {JOINT: found.output, SPARSITY: found.value}

    def decode_codes(self, codes: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output for content and style side by side, ``(n_cells, n_codes)``."""
        raw: Tensor = self.decoder(self.latents.arranged(codes), nuisance)
        return raw

    def decode_joint(self, z: Tensor, w: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output of the generator for content and style."""
        return self.decode_codes(torch.cat([z, w], dim=-1), nuisance)

    def decode_invariant(self, z: Tensor, condition: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output for content, with style at the median of its law under the condition."""
        return self.decode_joint(z, self.latents.median_style(condition), nuisance)

    # ------------------------------------------------------------------- the game

    @auto_move_data
    def inference(self, cells: Cells) -> dict[str, Any]:
        """Draw codes for as many new cells, under the conditions of these."""
        zeros = torch.zeros(len(cells), self.n_codes, device=self.device)
        noise = Normal(zeros, torch.ones_like(zeros), validate_args=False)
        codes = self.latents.from_noise(torch.randn_like(zeros), cells.condition)
        return {"cells": cells, "latents": {JOINT: LatentBlock(noise, codes, noise)}}

    def seen(self, cells: Cells) -> Tensor:
        """Real cells as critic and inverter read them, ``(n_cells, n_genes)``."""
        if self.expects != "counts":
            return cells.dense
        return cells.log_normalised.csr.to_dense()

    def shown(self, raw: Tensor, cells: Cells) -> Tensor:
        """Generated cells in the same units, with the noise that real ones have.

        Counts are drawn around the generated rate at the library of a real cell: without the draw
        the critic would win by looking for whole numbers. Draws have the gradient of their mean.
        """
        drawn: Tensor = self.likelihoods[JOINT].relaxed_sample(raw, cells.library)
        if self.expects != "counts":
            return drawn
        return log1p_dense(drawn, target_sum=DEPTH)

    def terms(self, state: State) -> Iterator[Term]:
        """The objective of the generator; see the class docstring of the model."""
        cells, z = state.cells, state.latents[JOINT].sample
        shown = self.shown(state.raw[JOINT], cells)
        critic = self.adversaries[CRITIC_OF_CELLS]
        yield Term("generator", self.game.generator(critic(shown, cells.condition)))
        # Only the inverter learns from this one: codes and cells are given.
        inverted = self.encoder(shown.detach())
        yield Term("inverse", -inverted.log_prob(z.detach()).sum(dim=-1))
        if SPARSITY in state.raw:
            yield Term(SPARSITY, state.raw[SPARSITY])
        if self.latents.gates is not None and self.weights.get("gate"):
            yield Term("gate", self.latents.gates.detach().sum())

    def critic_loss(self, state: State) -> Tensor | None:
        """Loss of the critic on the cells and on fresh samples, and its gradient penalty."""
        cells = state.cells
        with torch.no_grad():
            codes = self.inference(cells)["latents"][JOINT].sample
            fake = self.shown(self.decoder(codes, cells.nuisance), cells)
            real = self.seen(cells)

        def critic(x: Tensor) -> Tensor:
            scores: Tensor = self.adversaries[CRITIC_OF_CELLS](x, cells.condition)
            return scores

        loss = self.game.critic(critic(real), critic(fake))
        self._n_critic_steps += 1
        if self._n_critic_steps % self.penalty_every == 0:
            weight = self.penalty_weight * self.penalty_every
            loss = loss + weight * self.game.penalty(critic, real, fake)
        return loss

    def warm_up(self) -> dict[str, float]:
        """Sparsity rises over the second quarter of training, when there is something to mix."""
        return {SPARSITY: min(1.0, max(0.0, 4 * self.progress - 1))}

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Shrink the gates and follow the weights with their running average."""
        weight = self.weights.get("gate", 0.0)
        self.latents.shrink_gates(optimizer, weight=weight, progress=self.progress)
        self._n_steps += 1
        keep = min(self.ema, (1 + self._n_steps) / (10 + self._n_steps))
        for name, value in self._averaged():
            if name in self._average:
                self._average[name].lerp_(value, 1 - keep)
            else:
                self._average[name] = value.clone()

    def _averaged(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter but the critic's and the gates, whose zeros must stay zeros."""
        gates = self.latents.gates
        for name, value in self.named_parameters():
            if not name.startswith("adversaries.") and value is not gates:
                yield name, value

    @torch.no_grad()
    def finish(self) -> None:
        """Take the running average of the weights; not where training diverged."""
        if not all(bool(value.isfinite().all()) for value in self._average.values()):
            self._average = {}
        for name, value in self._averaged():
            if name in self._average:
                value.copy_(self._average[name])
        self._average, self._n_steps, self._n_critic_steps = {}, 0, 0
