"""Likelihood heads: what a decoder's raw output means, and what data it expects."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scvi import distributions
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from scdisent import functional as fn
from scdisent._errors import one_of
from scdisent.nn._cells import Cells

Expects = Literal["counts", "real", "binary", "unit", "mixed"]


class Likelihood(nn.Module, ABC):
    """One observation model.

    ``raw`` is the decoder's output, ``(n_cells, n_outputs_per_gene * n_genes)``.
    """

    expects: ClassVar[Expects]
    n_outputs_per_gene: ClassVar[int] = 1
    shared: ClassVar[bool] = True
    """Whether the two reconstructions of a model share the gene-wise parameters."""

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.n_genes = n_genes

    @abstractmethod
    def log_prob(self, cells: Cells, raw: Tensor) -> Tensor:
        """Log-likelihood of each cell summed over genes, ``(n_cells,)``."""

    @abstractmethod
    def profile(self, raw: Tensor) -> Tensor:
        """Expression without the depth, ``(n_cells, n_genes)``: shares for counts, else means."""

    @abstractmethod
    def distribution(self, raw: Tensor, library: Tensor) -> Distribution:
        """Distribution of the data, ``(n_cells, n_genes)``, at a library ``(n_cells,)``."""

    @abstractmethod
    def relaxed_sample(self, raw: Tensor, library: Tensor) -> Tensor:
        """Values drawn as data are, ``(n_cells, n_genes)``, with a gradient to ``raw``.

        What is drawn from a finite set has the gradient of its expectation (straight through).
        """

    @abstractmethod
    def carry_over(
        self, cells: Cells, source: Tensor, target: Tensor, *, rng: np.random.Generator | None
    ) -> Tensor:
        """The same cells had the decoder said ``target`` instead of ``source``.

        Abduction, action, prediction: what the decoder did not explain of a cell (its own noise)
        is kept. Without ``rng`` the expectation. Returns ``(n_cells, n_genes)``.
        """


class CountLikelihood(Likelihood):
    """Counts whose mean is a share of the cell's library: softmax of the raw output."""

    expects: ClassVar[Expects] = "counts"

    def __init__(self, n_genes: int) -> None:
        super().__init__(n_genes)
        self.log_theta = nn.Parameter(torch.full((n_genes,), 10.0).log())

    @property
    def theta(self) -> Tensor:
        """Inverse dispersion, ``(n_genes,)``; the bounds keep ``lgamma`` away from its poles."""
        return self.log_theta.clamp(-9.0, 12.0).exp()

    def gamma(self, cells: Cells) -> Tensor:
        """Part of the log-likelihood that both reconstructions of a minibatch share."""
        return cells.once((id(self), "gamma"), lambda: fn.gamma_terms(cells.sparse, self.theta))

    def profile(self, raw: Tensor) -> Tensor:
        return torch.softmax(raw[:, : self.n_genes], dim=-1)

    def rate(self, raw: Tensor, library: Tensor) -> Tensor:
        """Expected counts before any zero inflation, ``(n_cells, n_genes)``."""
        return self.profile(raw) * library[:, None]

    def relaxed_sample(self, raw: Tensor, library: Tensor) -> Tensor:
        rate = self.rate(raw, library)
        theta = self.theta.expand_as(rate)
        rate = rate * torch.distributions.Gamma(theta, theta, validate_args=False).rsample()
        return straight_through(torch.poisson(rate.nan_to_num()), rate)

    def added(
        self, counts: Tensor, rate: Tensor, gain: Tensor, *, rng: np.random.Generator | None
    ) -> Tensor:
        r"""Counts that come where the rate rises by ``gain``, or without ``rng`` their expectation.

        .. math:: \mathrm{Poisson}(\lambda \cdot \mathrm{gain}), \qquad
                  \lambda \mid x \sim \mathrm{Gamma}(x + \theta,\; 1 + \theta / \mu)
        """
        shape, odds = counts + self.theta, gain * rate / (rate + self.theta)
        if rng is None:
            return shape * odds
        places, drawn = fn.draw_negative_binomial(shape.cpu().numpy(), odds.cpu().numpy(), rng=rng)
        out = np.zeros(shape.numel(), dtype=np.float32)
        out[places] = drawn
        return torch.from_numpy(out).reshape(shape.shape).to(counts.device)

    def carry_over(
        self, cells: Cells, source: Tensor, target: Tensor, *, rng: np.random.Generator | None
    ) -> Tensor:
        r"""Thin counts where the rate falls, add counts where it rises.

        With :math:`r = \mu' / \mu`: :math:`x' = \mathrm{Binomial}(x, r)` for :math:`r < 1`, else
        :math:`x' = x + \mathrm{Poisson}(\lambda (r - 1))` with :math:`\lambda \mid x`. If
        :math:`x \sim \mathrm{NB}(\mu, \theta)` then :math:`x' \sim \mathrm{NB}(\mu', \theta)`
        exactly, and the two are coupled as tightly as a shared rate allows. A zero inflation is
        left out.
        """
        share, counts = self.profile(source), cells.dense
        ratio = self.profile(target) / share.clamp_min(1e-12)
        kept, gain = ratio.clamp_max(1.0), (ratio - 1).clamp_min(0.0)
        added = self.added(counts, share * cells.library[:, None], gain, rng=rng)
        if rng is None:
            return counts * kept + added
        at, values = cells.sparse.positions, cells.sparse.values
        added.view(-1)[at] += _drawn(rng.binomial, values.long(), kept.view(-1)[at])
        return added


def _drawn(draw: Callable[..., NDArray[np.generic]], *parameters: Tensor) -> Tensor:
    """Draw with numpy's generator, which unlike torch's can be passed to every distribution."""
    arrays = [parameter.cpu().numpy() for parameter in parameters]
    drawn = np.asarray(draw(*arrays), dtype=np.float32)
    return torch.from_numpy(drawn).to(parameters[-1].device)


def straight_through(drawn: Tensor, expected: Tensor) -> Tensor:
    """Value of the draw, gradient of its expectation; NaN where that is NaN, which draws refuse."""
    return expected + (drawn - expected).detach()


class NegativeBinomial(CountLikelihood):
    """Negative binomial with one inverse dispersion a gene."""

    def log_prob(self, cells: Cells, raw: Tensor) -> Tensor:
        return fn.negative_binomial(
            cells.sparse,
            raw,
            theta=self.theta,
            library=cells.library,
            gamma=self.gamma(cells),
        )

    def distribution(self, raw: Tensor, library: Tensor) -> Distribution:
        return distributions.NegativeBinomial(mu=self.rate(raw, library), theta=self.theta)


class ZeroInflatedNegativeBinomial(CountLikelihood):
    """Negative binomial with an extra chance of zero for each gene and cell."""

    n_outputs_per_gene: ClassVar[int] = 2

    def log_prob(self, cells: Cells, raw: Tensor) -> Tensor:
        logits, gate = raw.chunk(2, dim=-1)
        return fn.zero_inflated_negative_binomial(
            cells.sparse,
            logits,
            gate=gate,
            theta=self.theta,
            library=cells.library,
            gamma=self.gamma(cells),
        )

    def relaxed_sample(self, raw: Tensor, library: Tensor) -> Tensor:
        kept = torch.sigmoid(-raw[:, self.n_genes :])
        counts = super().relaxed_sample(raw, library)
        return counts * straight_through(torch.bernoulli(kept.nan_to_num()), kept)

    def distribution(self, raw: Tensor, library: Tensor) -> Distribution:
        gate = raw[:, self.n_genes :]
        return distributions.ZeroInflatedNegativeBinomial(
            mu=self.rate(raw, library), theta=self.theta, zi_logits=gate
        )


class Poisson(CountLikelihood):
    """Counts without overdispersion."""

    def __init__(self, n_genes: int) -> None:
        Likelihood.__init__(self, n_genes)

    def relaxed_sample(self, raw: Tensor, library: Tensor) -> Tensor:
        rate = self.rate(raw, library)
        return straight_through(torch.poisson(rate.nan_to_num()), rate)

    def added(
        self, counts: Tensor, rate: Tensor, gain: Tensor, *, rng: np.random.Generator | None
    ) -> Tensor:
        expected = rate * gain  # without overdispersion a cell has no rate of its own
        return expected if rng is None else _drawn(rng.poisson, expected)

    def log_prob(self, cells: Cells, raw: Tensor) -> Tensor:
        return fn.poisson(cells.sparse, raw, library=cells.library)

    def distribution(self, raw: Tensor, library: Tensor) -> Distribution:
        return distributions.Poisson(self.rate(raw, library))


class Normal(Likelihood):
    """Real values with one standard deviation a gene and reconstruction: learned, or given."""

    expects: ClassVar[Expects] = "real"
    shared: ClassVar[bool] = False

    def __init__(self, n_genes: int, *, scale: float | None = None) -> None:
        super().__init__(n_genes)
        self.scale = scale
        if scale is None:
            self.raw_scale = nn.Parameter(torch.full((n_genes,), 0.5413))  # softplus gives 1

    def log_prob(self, cells: Cells, raw: Tensor) -> Tensor:
        return self.distribution(raw, cells.library).log_prob(cells.dense).sum(-1)

    def profile(self, raw: Tensor) -> Tensor:
        return raw

    def distribution(self, raw: Tensor, library: Tensor) -> Distribution:
        if self.scale is not None:
            return torch.distributions.Normal(raw, self.scale, validate_args=False)
        scale = F.softplus(self.raw_scale) + 1e-3  # a perfect fit must not divide by zero
        return torch.distributions.Normal(raw, scale, validate_args=False)

    def relaxed_sample(self, raw: Tensor, library: Tensor) -> Tensor:
        return self.distribution(raw, library).rsample()

    def carry_over(
        self, cells: Cells, source: Tensor, target: Tensor, *, rng: np.random.Generator | None
    ) -> Tensor:
        """Keep the residual: ``x + (target - source)``."""
        return cells.dense + (target - source)


class Bernoulli(Likelihood):
    """Zeros and ones."""

    expects: ClassVar[Expects] = "binary"

    def log_prob(self, cells: Cells, raw: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(raw, cells.dense, reduction="none").sum(-1)

    def profile(self, raw: Tensor) -> Tensor:
        return torch.sigmoid(raw)

    def distribution(self, raw: Tensor, library: Tensor) -> Distribution:
        return torch.distributions.Bernoulli(logits=raw, validate_args=False)

    def relaxed_sample(self, raw: Tensor, library: Tensor) -> Tensor:
        chance = torch.sigmoid(raw)
        return straight_through(torch.bernoulli(chance.nan_to_num()), chance)

    def carry_over(
        self, cells: Cells, source: Tensor, target: Tensor, *, rng: np.random.Generator | None
    ) -> Tensor:
        """Flip as few values as the change of the probability allows."""
        # Ratios of probabilities in logs: a decoder that is sure has sigmoids of exactly 0 or 1.
        stays_one = (F.logsigmoid(target) - F.logsigmoid(source)).clamp_max(0.0).exp()
        becomes_one = -(F.logsigmoid(-target) - F.logsigmoid(-source)).clamp_max(0.0).expm1()
        chance = torch.where(cells.dense > 0, stays_one, becomes_one)
        return chance if rng is None else _drawn(rng.binomial, torch.tensor(1), chance)


class ContinuousBernoulli(Likelihood):
    """Values between 0 and 1, such as grey pixels (Loaiza-Ganem and Cunningham 2019)."""

    expects: ClassVar[Expects] = "unit"

    def log_prob(self, cells: Cells, raw: Tensor) -> Tensor:
        return self.distribution(raw, cells.library).log_prob(cells.dense).sum(-1)

    def profile(self, raw: Tensor) -> Tensor:
        """The parameter, as published pictures show it; the mean lies nearer to one half."""
        return torch.sigmoid(raw)

    def distribution(self, raw: Tensor, library: Tensor) -> Distribution:
        return torch.distributions.ContinuousBernoulli(logits=raw, validate_args=False)

    def relaxed_sample(self, raw: Tensor, library: Tensor) -> Tensor:
        """The mean: pixels have no noise of their own."""
        mean: Tensor = self.distribution(raw, library).mean
        return mean

    def carry_over(
        self, cells: Cells, source: Tensor, target: Tensor, *, rng: np.random.Generator | None
    ) -> Tensor:
        """Keep the residual from the mean, inside the unit interval."""
        before, after = (self.distribution(raw, cells.library).mean for raw in (source, target))
        return (cells.dense + (after - before)).clamp(0, 1)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "nb": NegativeBinomial,
    "zinb": ZeroInflatedNegativeBinomial,
    "poisson": Poisson,
    "normal": Normal,
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
}


def likelihood_class(name: str) -> type[Likelihood]:
    """Look a likelihood up by name; unknown names list the known ones."""
    return LIKELIHOODS[one_of(name, LIKELIHOODS, "likelihood")]
