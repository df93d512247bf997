"""The player that tries to read the condition from the invariant block."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scdisent._errors import one_of
from scdisent.functional import GAMES, critic_cross_entropy, permuted

READS = ("z", "reconstruction", "both")


class Adversary(nn.Module):
    """Critic ``g(condition | features)`` and the game that the model plays against it.

    Parameters
    ----------
    n_features
        Size of what it reads.
    class_weights
        Weight of each condition in the critic's loss, ``(n_conditions,)``.
    game
        ``"entropy"``, ``"zero_sum"`` or ``"confusion"``; see :data:`scdisent.functional.GAMES`.
    n_context
        Number of cell types given to the critic beside its features (0: none). With it the critic
        can only gain from what the features tell beyond the cell type, so a composition that
        differs between conditions is not held against the model (CDAN: Long et al. 2018).
    """

    class_weights: Tensor

    def __init__(
        self,
        n_features: int,
        *,
        class_weights: Tensor,
        game: str,
        n_hidden: int = 128,
        n_context: int = 0,
    ) -> None:
        super().__init__()
        self.game = GAMES[one_of(game, GAMES, "adversary_game")]
        self.n_context = n_context
        self.register_buffer("class_weights", class_weights)
        self.normalise = nn.BatchNorm1d(n_features, affine=False)
        self.first = nn.Linear(n_features, n_hidden)
        self.context = nn.Embedding(n_context, n_hidden) if n_context else None
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(n_hidden, len(class_weights)))

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Logits, ``(n_cells, n_conditions)``."""
        hidden = self.first(self.normalise(features))
        if self.context is not None:
            hidden = hidden + self.context(context)
        logits: Tensor = self.rest(hidden)
        return logits

    def critic_loss(
        self, features: Tensor, condition: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """What the critic minimises; the features are detached, so the model is untouched."""
        logits = self(features.detach(), context)
        return critic_cross_entropy(logits, condition, self.class_weights)

    def model_term(
        self, features: Tensor, condition: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """What the model minimises; gradients flow through the critic into the features."""
        return self.game(self(features, context), condition, self.class_weights)


class TotalCorrelationCritic(nn.Module):
    r"""Critic :math:`D(z)` that tells codes from codes whose dimensions were shuffled.

    Its logit estimates the log density ratio, so the mean logit of codes estimates their total
    correlation. Source: Kim and Mnih 2018, equation 3; six layers of 1,000 units there.
    """

    def __init__(self, n_latent: int, *, n_hidden: int = 256, n_layers: int = 3) -> None:
        super().__init__()
        sizes = [n_latent] + [n_hidden] * n_layers
        layers: list[nn.Module] = []
        for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, codes: Tensor) -> Tensor:
        """Logits, ``(n_cells,)``."""
        logits: Tensor = self.layers(codes).squeeze(-1)
        return logits

    def critic_loss(self, codes: Tensor) -> Tensor:
        """Cross-entropy of codes against shuffled codes; the codes are detached."""
        codes = codes.detach()
        real, shuffled = self(codes), self(permuted(codes))
        return (F.softplus(-real) + F.softplus(shuffled)).mean() / 2

    def model_term(self, codes: Tensor) -> Tensor:
        """Estimate of the total correlation; gradients flow through the critic to the codes."""
        return self(codes).mean()


def balanced_weights(sizes: Tensor) -> Tensor:
    """Weights ``n / (n_conditions n_k)``: every condition counts the same, ``(n_conditions,)``."""
    sizes = sizes.to(torch.float32).clamp_min(1)
    return sizes.sum() / (len(sizes) * sizes)
