"""Games between an encoder and a critic that tries to read the condition."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def critic_cross_entropy(logits: Tensor, target: Tensor, class_weights: Tensor) -> Tensor:
    """Cross-entropy of the critic, weighted so that every condition counts the same; scalar."""
    return F.cross_entropy(logits, target, weight=class_weights)


def entropy_game(logits: Tensor, target: Tensor, class_weights: Tensor) -> Tensor:
    r"""Encoder maximises the critic's predictive entropy: returns :math:`-H(\mathrm{softmax}\,g)`.

    General-sum: the label is not used. Source: the authors' code of DISCoVeR (objective of
    discover 2.2). Critic logits ``(n_cells, n_conditions)``, returns a scalar.
    """
    log_p = F.log_softmax(logits, dim=-1)
    return (log_p.exp() * log_p).sum(-1).mean()


def zero_sum_game(logits: Tensor, target: Tensor, class_weights: Tensor) -> Tensor:
    r"""Encoder maximises the critic's own loss: returns :math:`-\mathrm{CE}(g, y)`.

    At the critic's best response this is :math:`I(y; z) - H(y)`, strictly concave in the encoder.
    """
    return -critic_cross_entropy(logits, target, class_weights)


def confusion_game(logits: Tensor, target: Tensor, class_weights: Tensor) -> Tensor:
    r"""Encoder pulls the critic towards the uniform law: :math:`\mathrm{KL}(\pi\,\|\,g) \ge 0`.

    Uniform because the critic is trained with balanced classes. Its gradient, unlike those of the
    other two games, does not vanish when the critic is sure. Source: Tzeng et al. 2015.
    """
    log_p = F.log_softmax(logits, dim=-1)
    n_conditions = torch.tensor(logits.shape[-1], dtype=log_p.dtype, device=log_p.device)
    return -(log_p.mean(-1) + n_conditions.log()).mean()


Game = Callable[[Tensor, Tensor, Tensor], Tensor]

GAMES: dict[str, Game] = {
    "entropy": entropy_game,
    "zero_sum": zero_sum_game,
    "confusion": confusion_game,
}
