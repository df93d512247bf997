"""Games between a generator and a critic that tells its samples from data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

Critic = Callable[[Tensor], Tensor]


def logistic_critic(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropy of data against samples; logits ``(n_cells,)``, returns a scalar."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def logistic_generator(fake: Tensor) -> Tensor:
    r"""Non-saturating: :math:`-\mathbb E \log D(\tilde x)` (Goodfellow et al. 2014)."""
    return F.softplus(-fake).mean()


def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """Mean score of samples minus that of data, which a 1-Lipschitz critic makes small."""
    return fake.mean() - real.mean()


def wasserstein_generator(fake: Tensor) -> Tensor:
    """Minus the mean score of the samples."""
    return -fake.mean()


def r1_penalty(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    r"""Half the mean squared gradient at data, in units of their total variance.

    .. math:: \tfrac12 \operatorname{tr} \mathrm{Cov}[x] \;
              \mathbb E \lVert \nabla D(x) \rVert^2

    Source: Mescheder et al. 2018 (arXiv 1801.04406), equation 9. The variance is ours: with it a
    weight means the same whatever the units and the number of features. ``fake`` is not used.
    """
    total = real.var(dim=0).sum() if len(real) > 1 else real.new_ones(())
    return total * _gradient(critic, real).square().sum(dim=-1).mean() / 2


def unit_gradient_penalty(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    r"""Mean squared distance of the gradient's norm from 1, between data and samples.

    Source: Gulrajani et al. 2017 (WGAN-GP, arXiv 1704.00028), equation 3.
    """
    share = torch.rand(len(real), 1, device=real.device, dtype=real.dtype)
    between = share * real + (1 - share) * fake
    return (_gradient(critic, between).norm(dim=-1) - 1).square().mean()


def _gradient(critic: Critic, x: Tensor) -> Tensor:
    """Gradient of the critic's score of each cell, ``(n_cells, n_features)``, differentiable."""
    x = x.detach().requires_grad_()
    gradient: Tensor = torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0]
    return gradient


@dataclass(frozen=True)
class GenerativeGame:
    """What the critic and the generator minimise, and what keeps the critic smooth."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    penalty: Callable[[Critic, Tensor, Tensor], Tensor]


GENERATIVE_GAMES: Mapping[str, GenerativeGame] = MappingProxyType(
    {
        "logistic": GenerativeGame(logistic_critic, logistic_generator, r1_penalty),
        "wasserstein": GenerativeGame(
            wasserstein_critic, wasserstein_generator, unit_gradient_penalty
        ),
    }
)
