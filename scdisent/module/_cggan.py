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
from scdisent.module._base import LatentBlock, State, Term
from scdisent.module._discover import JOINT
from scdisent.module._transport import SPARSITY, TransportModule
from scdisent.nn import FLOWS, Cells, ConditionInputs, ProjectionCritic, condition_code

DEPTH = 1e4
"""Counts a cell is scaled to before the logarithm, as in the encoders."""
REFINE_RATE = 0.05
"""Of Adam; codes have a standard deviation of about 1."""
CGGAN_TERMS = ("generator", "inverse", "sparsity", "gate")
CRITIC_OF_CELLS = "cells"


class CgganModule(TransportModule):
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
            flow=one_of(flow, FLOWS, "flow"),
            code_dropout=code_dropout,
            weights=weights,
        )
        self.game = GENERATIVE_GAMES[one_of(game, GENERATIVE_GAMES, "game")]
        self.penalty_weight, self.penalty_every = penalty_weight, penalty_every
        self.ema, self.n_refine = ema, n_refine
        # Of counts the generator reads the depth, which types of cells differ in: it is drawn from
        # real cells, so that its own law needs no learning.
        self.depth = None
        if self.expects == "counts":
            self.depth = nn.BatchNorm1d(1, affine=False, momentum=None)
        self._add_coders(n_hidden=n_hidden, n_layers=n_layers, image_shape=image_shape)
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

    def encode(self, cells: Cells) -> dict[str, LatentBlock]:
        """What the inverter says of real cells."""
        q = self.law_of_codes(cells)
        zeros = torch.zeros_like(q.mean)
        base = Normal(zeros, torch.ones_like(zeros), validate_args=False)
        return {JOINT: LatentBlock(q, q.rsample(), self.latents.prior(base, cells.condition))}

    def law_of_codes(self, cells: Cells) -> Normal:
        """What the inverter says of all latents of real cells."""
        seen = self.seen(cells)
        q: Normal = self.encoder(seen)
        if not self.n_refine or self.training:
            return q
        return Normal(self._refined(q.mean, seen, cells.nuisance), q.stddev, validate_args=False)

    @torch.inference_mode(mode=False)
    @torch.enable_grad()
    def _refined(self, codes: Tensor, real: Tensor, nuisance: Tensor) -> Tensor:
        """Codes near the given ones whose generated cells are nearest to the real ones."""
        # Copies: what was made in inference mode has no gradients.
        codes, real, nuisance = (part.clone() for part in (codes, real, nuisance))
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
        yield from self.structure(state)

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
        super().after_step(optimizer)
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
