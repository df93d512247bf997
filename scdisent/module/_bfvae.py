"""bfVAE: one latent block whose information and dependence are steered."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scdisent._errors import one_of
from scdisent.functional import code_covariance, off_diagonal, total_correlation, unit_diagonal
from scdisent.module._base import DisentModule, LatentBlock, State, Term
from scdisent.nn import (
    Cells,
    TotalCorrelationCritic,
    make_decoder,
    make_encoder,
    make_likelihood,
)

LATENT = "latent"
TC_ESTIMATORS = ("critic", "minibatch")
COVARIANCES = ("mean", "sample")
BFVAE_TERMS = ("nll_latent", "kl_latent", "tc", "dip_off", "dip_diagonal")


class BfvaeModule(DisentModule):
    r"""One encoder q(z | x), one decoder p(x | z), penalties on the aggregate of the codes.

    Terms and the loss are those of :class:`scdisent.BFVAE`.

    Parameters
    ----------
    n_input, n_labels, n_batch, n_cats_per_cov, n_continuous_cov
        Sizes, in scvi-tools' names.
    smooth
        Tanh instead of batch normalisation and ReLU in dense networks. None: for all but counts.
        With a capacity to fill, kinked networks hide information in codes of nothing.
    capacity
        Target of the total KL in nats at the end of its rise; 0: the KL itself is penalised.
    capacity_rise, capacity_power
        The target rises from 0 as this power of time, over this share of training.
    tc_estimator
        ``"critic"`` (density ratio) or ``"minibatch"``.
    dip_covariance
        ``"mean"``: of the posterior means (DIP-VAE-I); ``"sample"``: of samples (DIP-VAE-II).
    families, scale
        Of the likelihood; see :func:`scdisent.nn.make_likelihood`.
    encode_covariates
        Let the encoder, too, read batch and covariates.
    image_shape
        Channels, height and width: convolutional networks; None: dense ones.
    """

    encoder: Any  # torch's containers do not know what they hold
    decoder: Any

    def __init__(
        self,
        n_input: int,
        n_labels: int = 1,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] | None = None,
        n_continuous_cov: int = 0,
        *,
        likelihood: str = "nb",
        n_latent: int = 10,
        n_hidden: int = 128,
        n_layers: int = 1,
        smooth: bool | None = None,
        capacity: float = 0.0,
        capacity_rise: float = 0.5,
        capacity_power: float = 1.0,
        tc_estimator: str = "minibatch",
        dip_covariance: str = "sample",
        families: Sequence[str] | None = None,
        scale: float | None = None,
        encode_covariates: bool = False,
        image_shape: Sequence[int] | None = None,
        weights: Mapping[str, float],
    ) -> None:
        self.beta = weights["kl_latent"]
        if capacity:  # the KL is shown, its distance from the target is penalised
            weights = {**weights, "kl_latent": 0.0, "kl_capacity": self.beta}
        super().__init__(
            n_batch=n_batch,
            n_cats_per_cov=n_cats_per_cov,
            n_continuous_cov=n_continuous_cov,
            weights=weights,
        )
        self.capacity = capacity
        self.capacity_rise, self.capacity_power = capacity_rise, capacity_power
        self.tc_estimator = one_of(tc_estimator, TC_ESTIMATORS, "tc_estimator")
        self.dip_covariance = one_of(dip_covariance, COVARIANCES, "dip_covariance")
        self.n_latents = {LATENT: n_latent}
        head = make_likelihood(likelihood, n_input, families=families, scale=scale)
        self.likelihoods = nn.ModuleDict({LATENT: head})
        n_output = n_input * head.n_outputs_per_gene
        n_code = n_latent + self.n_nuisance
        smooth = head.expects != "counts" if smooth is None else smooth
        self.smooth = smooth and image_shape is None
        style = "smooth" if smooth else "batch"
        size: dict[str, Any] = {"n_hidden": n_hidden, "n_layers": n_layers, "style": style}
        size["image_shape"] = image_shape
        self.encode_covariates = encode_covariates
        n_read = self.n_nuisance if encode_covariates else 0
        self.encoder = make_encoder(n_input, n_latent, n_labels=n_read, **size)
        self.decoder = make_decoder(n_code, n_output, **size)
        if weights.get("tc") and tc_estimator == "critic":
            self.adversaries["tc"] = TotalCorrelationCritic(n_latent)

    @property
    def capacity_now(self) -> float:
        """Target of the KL at the present point of training."""
        return self.capacity * min(1.0, self.progress / self.capacity_rise) ** self.capacity_power

    def posterior(self, cells: Cells, block: str = LATENT) -> Normal:
        """Posterior of the codes."""
        x = self.read(cells)
        q: Normal = self.encoder(x, cells.nuisance if self.encode_covariates else None)
        return q

    def encode(self, cells: Cells) -> dict[str, LatentBlock]:
        """Posterior, a sample of it, the standard prior."""
        q = self.posterior(cells)
        z = q.rsample()  # (n_cells, n_latent)
        standard = Normal(torch.zeros_like(z), torch.ones_like(z))
        return {LATENT: LatentBlock(q, z, standard)}

    def decode_codes(self, codes: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output for codes ``(n_cells, n_latent)``."""
        raw: Tensor = self.decoder(codes, nuisance)
        return raw

    def decode(self, cells: Cells, latents: Mapping[str, LatentBlock]) -> dict[str, Tensor]:
        """The reconstruction."""
        return {LATENT: self.decode_codes(latents[LATENT].sample, cells.nuisance)}

    def terms(self, state: State) -> Iterator[Term]:
        """The objective, in view; see the class docstring of the model."""
        z = state.latents[LATENT]
        kl = z.kl()
        nll = -self.likelihoods[LATENT].log_prob(state.cells, state.raw[LATENT])
        yield Term("nll_latent", nll)
        yield Term("kl_latent", kl)
        if self.capacity:
            yield Term("kl_capacity", (kl.mean() - self.capacity_now).abs())
        if self.weights.get("tc"):
            yield Term("tc", self._total_correlation(z))
        if self.weights.get("dip_off") or self.weights.get("dip_diagonal"):
            variance = z.q.variance if self.dip_covariance == "sample" else None
            covariance = code_covariance(z.q.mean, variance)
            yield Term("dip_off", off_diagonal(covariance))
            yield Term("dip_diagonal", unit_diagonal(covariance))

    def _total_correlation(self, z: LatentBlock) -> Tensor:
        if "tc" in self.adversaries:
            estimate: Tensor = self.adversaries["tc"].model_term(z.sample)
            return estimate
        return total_correlation(z.sample, z.q)

    def critic_loss(self, state: State) -> Tensor | None:
        """Cross-entropy of the critic on a fresh sample of the codes, detached."""
        if "tc" not in self.adversaries:
            return None
        with torch.no_grad():
            fresh = state.latents[LATENT].q.rsample()
        loss: Tensor = self.adversaries["tc"].critic_loss(fresh)
        return loss
