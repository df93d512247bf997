"""Component-wise monotone maps between codes and noise, given the condition."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal, Transform
from zuko.flows import ElementWiseTransform
from zuko.transforms import (
    ComposedTransform,
    DependentTransform,
    MonotonicAffineTransform,
    MonotonicRQSTransform,
)

FLOWS = ("affine", "spline")
N_BINS, SLOPE = 8, 1e-2
"""Bins of a spline, and its smallest slope: below 1e-2 the inverse loses digits."""
OPENING = 0.3
"""Where gates start: open, but not yet with a large effect of the condition."""


def _affine_then_spline(*parameters: Tensor) -> Transform:
    """Spline of the standardised code: outside of [-5, 5] it is the identity, so affine first."""
    shift, scale, widths, heights, derivatives = parameters
    spline = MonotonicRQSTransform(widths, heights, derivatives, slope=SLOPE)
    return ComposedTransform(MonotonicAffineTransform(shift, scale), spline)


class ConditionFlow(nn.Module):
    r"""Prior of the codes given the condition: noise pushed through one monotone map a latent.

    .. math:: \varepsilon_i = T_i^{-1}(z_i; u), \qquad
              \theta_i(u) = b_i
              + m_i\, \frac{h_i(e_u) - \bar h_i}{\sqrt{\overline{|h_i - \bar h_i|^2}}}

    T is affine, or affine and then a monotone rational-quadratic spline (zuko), of one latent each:
    the codes stay independent given the condition, which theory needs and an autoregressive flow
    would break. h is a small network of the condition's code; bars are means over the conditions of
    training, and b is what all conditions share. Dividing by the size makes the gate
    :math:`m_i \ge 0` the size of the condition's effect on latent i (without gates
    :math:`\theta_i = b_i + h_i - \bar h_i`). A gate of exactly 0 leaves the latent's prior the same
    under every condition: content. b is free: without it few conditions would have to balance the
    others, and scales of codes have no price where the penalty is free of scale.

    Parameters
    ----------
    n_latent
        Latents that may change with the condition.
    n_code
        Size of the condition's code.
    kind
        ``"affine"`` or ``"spline"``.
    gated
        Whether latents have gates.
    hidden
        Widths of h; without any it is linear.
    """

    def __init__(
        self,
        n_latent: int,
        n_code: int,
        *,
        kind: str = "affine",
        gated: bool,
        hidden: tuple[int, ...] = (64,),
    ) -> None:
        super().__init__()
        shapes: list[tuple[int, ...]] = [(), ()]
        if kind == "spline":
            shapes += [(N_BINS,), (N_BINS,), (N_BINS - 1,)]
        univariate = _affine_then_spline if kind == "spline" else MonotonicAffineTransform
        self.kind = kind
        self.maps = ElementWiseTransform(
            n_latent, n_code, univariate=univariate, shapes=shapes, hidden_features=hidden
        )
        self.maps.hyper[-1].register_parameter("bias", None)  # centring takes it out
        self.common = nn.Parameter(torch.zeros(n_latent, self.maps.total))
        self.gates = nn.Parameter(torch.full((n_latent,), OPENING)) if gated else None

    def parameters_of(self, code: Tensor, training_codes: Tensor) -> Tensor:
        """Parameters of the maps, ``(n, n_latent, n_parameters)``.

        Parameters
        ----------
        code
            ``(n, n_code)``.
        training_codes
            Of all conditions of training, ``(n_conditions, n_code)``: what is centred on.
        """
        free = self.maps.hyper(code).unflatten(-1, (-1, self.maps.total))
        everywhere = self.maps.hyper(training_codes).unflatten(-1, (-1, self.maps.total))
        centre = everywhere.mean(dim=0)
        effect = free - centre
        if self.gates is not None:
            size = ((everywhere - centre) ** 2).mean(dim=0).sum(dim=-1).clamp_min(1e-12).sqrt()
            effect = (self.gates / size)[:, None] * effect
        return self.common + effect

    def to_noise(self, parameters: Tensor, *, spline: Tensor | float = 1.0) -> Transform:
        """Map from codes to noise with the given parameters ``(n, n_latent, n_parameters)``.

        ``spline`` multiplies the parameters of the spline; at 0 it is the identity.
        """
        sizes = [max(1, *shape) if shape else 1 for shape in self.maps.shapes]
        parts = list(parameters.split(sizes, dim=-1))
        affine = [part.squeeze(-1) for part in parts[:2]]
        rest = [spline * part for part in parts[2:]]
        return DependentTransform(self.maps.univariate(*affine, *rest), 1)

    def prior(self, parameters: Tensor, base: Normal) -> "FlowPrior":
        """Prior of codes whose noise has the law ``base``."""
        return FlowPrior(self.to_noise(parameters), base, is_affine=self.kind == "affine")


class FlowPrior:
    """Density of codes: that of their noise, times the slope of the map."""

    def __init__(self, to_noise: Any, base: Normal, *, is_affine: bool) -> None:
        self.to_noise, self.base, self.is_affine = to_noise, base, is_affine

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density, ``(n_cells,)``."""
        noise, slope = self.to_noise.call_and_ladj(z)
        density: Tensor = self.base.log_prob(noise).sum(dim=-1) + slope
        return density

    def as_normal(self) -> Normal:
        """The same law as a Gaussian, where the map is affine."""
        maps = self.to_noise.base
        return Normal(
            (self.base.mean - maps.shift) / maps.scale,
            self.base.stddev / maps.scale,
            validate_args=False,
        )
