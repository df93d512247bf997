"""Latents of which a condition moves some: content and style, and what the condition does."""

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scdisent.nn._conditions import ConditionCode, ConditionInputs, condition_code
from scdisent.nn._flows import ConditionFlow, FlowPrior

RELEASE = 0.75
"""Share of training after which gates are no longer penalised."""


class MovedLatents(nn.Module):
    """Latents that stand as content, then style, with the maps by which conditions move the style.

    The first ``n_fixed`` are content whatever happens. Of the others all are style, or with gates
    those whose gate is open. Content that was switched off belongs to no block.

    Parameters
    ----------
    n_fixed, n_free
        Latents that no condition may move, and those that it may.
    n_conditions
        Conditions of training.
    flow
        ``"affine"``, ``"spline"``; ``"none"``: no condition moves anything.
    gated
        Whether the free latents have gates.
    inputs
        What is known of the conditions; None: a free code for each.
    code_dropout
        Of codes that are computed from what is known.
    """

    code: ConditionCode | None
    flow: ConditionFlow | None
    in_use: Tensor

    def __init__(
        self,
        n_fixed: int,
        n_free: int,
        *,
        n_conditions: int,
        flow: str,
        gated: bool,
        inputs: ConditionInputs | None = None,
        code_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_fixed, self.n_latent = n_fixed, n_fixed + n_free
        self.code, self.flow = None, None
        if flow != "none":
            self.code = condition_code(n_conditions, inputs, dropout=code_dropout)
            # What columns of a condition do should add up: computed codes are read linearly.
            hidden = (64,) if inputs is None else ()
            self.flow = ConditionFlow(
                n_free, self.code.n_code, kind=flow, gated=gated, hidden=hidden
            )
        self._closed: Tensor | None = None
        self.register_buffer("in_use", torch.ones(self.n_latent, dtype=torch.bool))

    @property
    def gates(self) -> nn.Parameter | None:
        """How far the condition moves each free latent, where there are gates."""
        return None if self.flow is None else self.flow.gates

    @property
    def is_style(self) -> Tensor:
        """Which latents the condition moves: a mask ``(n_latent,)``."""
        gates = self.gates
        if self.flow is None:
            return torch.zeros_like(self.in_use)
        free = torch.ones_like(self.in_use[self.n_fixed :])
        free = free if gates is None else gates.detach() > 0
        return torch.cat([torch.zeros_like(self.in_use[: self.n_fixed]), free])

    @property
    def is_content(self) -> Tensor:
        """Which latents no condition moves and are in use: a mask ``(n_latent,)``."""
        return ~self.is_style & self.in_use

    def switch_off(self, information: Tensor, *, below: float) -> None:
        """Take content out of use that says too little of a cell, all but the most telling.

        Its means are almost the same for every cell and nothing is decoded from them, but scaled up
        they still say something, for example the condition.
        """
        self.in_use.fill_(True)
        content = self.is_content
        if content.any():
            enough = min(below, float(information[content].max()))
            self.in_use[content & (information < enough)] = False

    def block(self, q: Normal, *, style: bool) -> Normal:
        """Content or style of a law of all latents, ``(n_cells, n_block)``."""
        chosen = self.is_style if style else self.is_content
        return Normal(q.mean[:, chosen], q.stddev[:, chosen], validate_args=False)

    def arranged(self, codes: Tensor) -> Tensor:
        """Content and style as networks read them: every latent in its place."""
        places = torch.cat([self.is_content.nonzero(), self.is_style.nonzero()]).flatten()
        idle = self.unmoved(codes.new_zeros(len(codes), self.n_latent))
        return idle.index_copy(1, places, codes)

    def unmoved(self, noise: Tensor) -> Tensor:
        """Latents of noise before any condition moves them, ``(n_cells, n_latent)``."""
        if self.flow is None:
            return noise
        fixed, free = noise[:, : self.n_fixed], noise[:, self.n_fixed :]
        parameters = self.flow.common.expand(len(noise), -1, -1)
        return torch.cat([fixed, self.flow.to_noise(parameters).inv(free)], dim=1)

    def median_style(self, condition: Tensor) -> Tensor:
        """Style of noise 0 under the condition of each cell, ``(n_cells, n_style)``."""
        zeros = torch.zeros(len(condition), int(self.is_style.sum()), device=condition.device)
        if self.flow is None:
            return zeros
        median: Tensor = self.flow.to_noise(self.style_parameters()[condition]).inv(zeros)
        return median

    def parameters_of(self, inputs: ConditionInputs | None = None) -> Tensor:
        """Parameters of the maps under each condition of training, or under others.

        ``(n_conditions, n_free, n_parameters)``.
        """
        if self.code is None or self.flow is None:
            msg = "without a flow no condition moves a latent"
            raise ValueError(msg)  # models ask before
        training = self.code()
        codes = training if inputs is None else self.code(inputs)
        return self.flow.parameters_of(codes, training)

    def style_parameters(self, inputs: ConditionInputs | None = None) -> Tensor:
        """The same for the style alone, ``(n_conditions, n_style, n_parameters)``."""
        return self.parameters_of(inputs)[:, self.is_style[self.n_fixed :]]

    def prior(self, base: Normal, condition: Tensor) -> Normal | FlowPrior:
        """Law of the latents of cells whose noise has the law ``base``, ``(n_cells, n_latent)``."""
        if self.flow is None:
            return base
        prior = self.flow.prior(self._of_cells(condition), base)
        return prior.as_normal() if prior.is_affine else prior

    def from_noise(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Latents of noise under the condition of each cell, ``(n_cells, n_latent)``."""
        if self.flow is None:
            return noise
        latents: Tensor = self.flow.to_noise(self._of_cells(condition)).inv(noise)
        return latents

    def _of_cells(self, condition: Tensor) -> Tensor:
        """Parameters for each cell; 0, the identity, for latents that no condition may move."""
        free = self.parameters_of()[condition]
        fixed = free.new_zeros(len(free), self.n_fixed, free.shape[-1])
        return torch.cat([fixed, free], dim=1)

    @torch.no_grad()
    def shrink_gates(
        self, optimizer: torch.optim.Optimizer, *, weight: float, progress: float
    ) -> None:
        r"""Proximal step of the gates, :math:`m \leftarrow \max(0, m - \eta \lambda / \sqrt v)`.

        In the metric of Adam, whose step is :math:`\eta g / \sqrt v`: a gate stays open if its
        gradient exceeds the weight, whatever its size, and a closed one can open again. The weight
        rises from a fifth of training to a half of it. In the last quarter closed gates stay closed
        and open ones are free, because the penalty would leave the effects too small.
        """
        gates = self.gates
        if gates is None or not weight:
            return
        if self._closed is not None and progress > RELEASE:
            gates[self._closed] = 0.0
            gates.clamp_(min=0.0)
            return
        weight = weight * max(0.0, min(1.0, (progress - 0.2) / 0.3))
        group, state = optimizer.param_groups[0], optimizer.state[gates]
        correction = 1 - group["betas"][1] ** state["step"]  # no float: a GPU would wait for it
        size = (state["exp_avg_sq"] / correction).sqrt() + group["eps"]
        gates.sub_(group["lr"] * weight / size).clamp_(min=0.0)
        self._closed = gates == 0 if progress > RELEASE else None
