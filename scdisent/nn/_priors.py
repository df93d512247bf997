"""Priors of the condition-specific block."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scdisent._errors import OptionError, one_of
from scdisent.functional import class_means


class SpecificPrior(nn.Module, ABC):
    """Prior of ``w``, with unit scale where nothing else is said; subclasses give its mean."""

    def __init__(self, n_conditions: int, n_latent: int) -> None:
        super().__init__()
        self.n_conditions, self.n_latent = n_conditions, n_latent

    @abstractmethod
    def mean(self, z: Tensor, condition: Tensor) -> Tensor:
        """Mean for cells with invariant code ``z`` under ``condition``, ``(n_cells, n_latent)``."""

    def forward(self, z: Tensor, condition: Tensor) -> Normal:
        """Prior for cells with invariant code ``z`` under ``condition``."""
        mean = self.mean(z, condition)
        return Normal(mean, torch.ones_like(mean), validate_args=False)


class StandardPrior(SpecificPrior):
    """``w ~ N(0, I)`` whatever the condition."""

    def mean(self, z: Tensor, condition: Tensor) -> Tensor:
        return z.new_zeros(len(condition), self.n_latent)


class ClassMeanPrior(SpecificPrior):
    r""":math:`w \mid y = k \sim N(\mu_k, I)`, :math:`\mu_k` the mean of z over cells of class k.

    In training the mean of the sampled z of the minibatch, gradient not stopped (the authors'
    code; discover 1.4). Deviation: outside training a running mean is used, as in batch
    normalisation, so that a cell's prior does not depend on its neighbours in the batch.
    """

    running_mean: Tensor

    def __init__(self, n_conditions: int, n_latent: int, *, momentum: float = 0.05) -> None:
        super().__init__(n_conditions, n_latent)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(n_conditions, n_latent))

    def mean(self, z: Tensor, condition: Tensor) -> Tensor:
        if not self.training:
            return self.running_mean[condition]
        means, sizes = class_means(z, condition, n_groups=self.n_conditions)
        with torch.no_grad():
            step = self.momentum * (sizes > 0)[:, None]
            self.running_mean.lerp_(means.to(self.running_mean.dtype), step)
        return means[condition]


class EmbeddingPrior(SpecificPrior):
    """A learned mean for each condition."""

    def __init__(self, n_conditions: int, n_latent: int) -> None:
        super().__init__(n_conditions, n_latent)
        self.embedding = nn.Embedding(n_conditions, n_latent)

    def mean(self, z: Tensor, condition: Tensor) -> Tensor:
        mean: Tensor = self.embedding(condition)
        return mean


class CodePrior(SpecificPrior):
    """A mean read linearly from the code of the condition, so that unseen ones have one too."""

    def __init__(self, n_conditions: int, n_latent: int, *, n_code: int) -> None:
        super().__init__(n_conditions, n_latent)
        self.read = nn.Linear(n_code, n_latent)

    def mean(self, z: Tensor, condition: Tensor) -> Tensor:
        """``condition``: codes ``(n_cells, n_code)``."""
        mean: Tensor = self.read(condition)
        return mean


class ContextPrior(SpecificPrior):
    """A mean that depends on the cell: one hidden layer on ``(z, condition)``."""

    def __init__(self, n_conditions: int, n_latent: int, *, n_context: int, n_hidden: int = 64):
        super().__init__(n_conditions, n_latent)
        self.context = nn.Linear(n_context, n_hidden)
        self.condition = nn.Embedding(n_conditions, n_hidden)
        self.out = nn.Linear(n_hidden, n_latent)

    def mean(self, z: Tensor, condition: Tensor) -> Tensor:
        mean: Tensor = self.out(torch.relu(self.context(z) + self.condition(condition)))
        return mean


class FixedPrior(SpecificPrior):
    r"""Nothing to learn: the columns of a condition's own lie far out, all others near zero.

    :math:`w_j \mid y = k \sim N(3, 1)` for the columns of k, else :math:`N(0, 0.1^2)`. Source:
    CSVAE (Klys et al. 2018) as coded by the authors of DISCoVeR, a label for each condition.
    """

    means: Tensor
    scales: Tensor

    def __init__(self, n_conditions: int, n_latent: int) -> None:
        super().__init__(n_conditions, n_latent)
        if n_latent % n_conditions:
            msg = (
                "specific_prior='fixed' has as many columns for each condition; found n_specific="
                f"{n_latent} for {n_conditions} conditions. Give a multiple of {n_conditions}."
            )
            raise OptionError(msg)
        own = torch.eye(n_conditions).repeat_interleave(n_latent // n_conditions, dim=1)
        self.register_buffer("means", 3.0 * own)
        self.register_buffer("scales", torch.where(own > 0, 1.0, 0.1))

    def mean(self, z: Tensor, condition: Tensor) -> Tensor:
        return self.means[condition]

    def forward(self, z: Tensor, condition: Tensor) -> Normal:
        return Normal(self.means[condition], self.scales[condition], validate_args=False)


PRIORS = ("class_mean", "embedding", "standard", "context", "fixed")


def specific_prior(
    name: str, *, n_conditions: int, n_latent: int, n_context: int, n_code: int = 0
) -> SpecificPrior:
    """Build the prior of the specific block by name.

    ``n_context`` is the size of z, ``n_code`` of codes that are computed from what is known of the
    conditions; 0: conditions are plain levels.
    """
    one_of(name, PRIORS, "specific_prior")
    if n_code:
        return CodePrior(n_conditions, n_latent, n_code=n_code)
    if name == "context":
        return ContextPrior(n_conditions, n_latent, n_context=n_context)
    return BY_NAME[name](n_conditions, n_latent)


BY_NAME: Mapping[str, Callable[[int, int], SpecificPrior]] = {
    "class_mean": ClassMeanPrior,
    "embedding": EmbeddingPrior,
    "standard": StandardPrior,
    "fixed": FixedPrior,
}
