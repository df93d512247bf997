"""DISCoVeR: two latent blocks, two reconstructions, a game over the condition."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from scdisent._errors import OptionError, one_of
from scdisent.functional import hsic, label_kernel, mmd, rbf_kernel, standardised
from scdisent.module._base import DisentModule, LatentBlock, State, Term, still_statistics
from scdisent.nn import (
    READS,
    Adversary,
    Cells,
    ConditionInputs,
    CovariateCode,
    Likelihood,
    balanced_weights,
    make_decoder,
    make_encoder,
    make_likelihood,
    specific_prior,
)

INVARIANT, SPECIFIC, JOINT = "invariant", "specific", "joint"
INVARIANT_HEADS = ("z", "z_condition", "none")
SPECIFIC_READS = ("x_condition", "x")
INVARIANT_PRIORS = ("standard", "embedding")
TERMS = (
    "nll_joint",
    "nll_invariant",
    "kl_invariant",
    "kl_specific",
    "adversary",
    "mmd",
    "hsic",
    "independence",
    "classifier",
)


class DiscoverModule(DisentModule):
    r"""Invariant block z, specific block w, and what keeps the condition y out of z.

    .. math::
        \text{encoders } q(z \mid x),\; q(w \mid x, y), \qquad
        \text{decoders } p(x \mid z, w),\; p(x \mid z)\ \text{or}\ p(x \mid z, y)

    Terms and the loss are those of :class:`scdisent.DISCoVeR`.

    Parameters
    ----------
    n_input, n_labels, n_batch, n_cats_per_cov, n_continuous_cov
        Sizes, in scvi-tools' names; ``n_labels`` is the number of conditions.
    n_cell_types
        Number of cell types where penalties compare conditions within a type, else 0.
    condition_sizes
        Training cells of each condition, for the critic's class weights; None: equal weights.
    condition_inputs
        What is known of the conditions of training, from which their codes are computed for the
        prior of w and for the invariant head; None: plain levels.
    invariant_head
        ``"z"``: p(x | z), the paper's. ``"z_condition"``: p(x | z, y), ours: whatever y explains,
        z need not carry, so reconstruction no longer pays z for leaking. ``"none"``: one
        reconstruction, from both blocks.
    specific_reads
        ``"x_condition"``: q(w | x, y); ``"x"``: q(w | x), as in DIVA and CCVAE.
    invariant_prior
        ``"standard"``: N(0, I); ``"embedding"``: p(z | y) with a learned mean, as in CCVAE.
    image_shape
        Channels, height and width: convolutional networks; None: dense ones.
    """

    encoders: Any  # torch's containers do not know what they hold
    decoders: Any

    def __init__(
        self,
        n_input: int,
        n_labels: int,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] | None = None,
        n_continuous_cov: int = 0,
        *,
        n_cell_types: int = 0,
        condition_sizes: Sequence[float] | None = None,
        condition_inputs: ConditionInputs | None = None,
        likelihood: str = "nb",
        n_latent: int = 10,
        n_specific: int = 10,
        n_hidden: int = 128,
        n_layers: int = 1,
        specific_prior_name: str = "standard",
        invariant_head: str = "z_condition",
        specific_reads: str = "x_condition",
        invariant_prior: str = "standard",
        adversary_reads: str = "z",
        adversary_game: str = "zero_sum",
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
        _check_options(n_latent, n_specific, specific_prior_name, invariant_head, adversary_reads)
        one_of(specific_reads, SPECIFIC_READS, "specific_reads")
        one_of(invariant_prior, INVARIANT_PRIORS, "invariant_prior")
        self.code = None if condition_inputs is None else CovariateCode(condition_inputs, dropout=0)
        n_code = 0 if self.code is None else self.code.n_code
        self.n_conditions, self.n_cell_types = n_labels, n_cell_types
        self.n_latents = {INVARIANT: n_latent, SPECIFIC: n_specific}
        self.invariant_head, self.adversary_reads = invariant_head, adversary_reads

        size: dict[str, Any] = {"n_hidden": n_hidden, "n_layers": n_layers}
        size["image_shape"] = image_shape
        n_read = n_labels if specific_reads == "x_condition" else 0
        self.encoders = nn.ModuleDict(
            {
                INVARIANT: make_encoder(n_input, n_latent, **size),
                SPECIFIC: make_encoder(n_input, n_specific, n_labels=n_read, **size),
            }
        )
        self.invariant_prior = specific_prior(
            invariant_prior, n_conditions=n_labels, n_latent=n_latent, n_context=n_latent
        )
        self.prior = specific_prior(
            specific_prior_name,
            n_conditions=n_labels,
            n_latent=n_specific,
            n_context=n_latent,
            n_code=n_code,
        )
        self.likelihoods = _heads(likelihood, n_input, scale, both=invariant_head != "none")
        n_output = n_input * self.likelihoods[JOINT].n_outputs_per_gene
        n_known = self.n_nuisance + (n_code or n_labels) * (invariant_head == "z_condition")
        n_codes = {JOINT: n_latent + n_specific + self.n_nuisance, INVARIANT: n_latent + n_known}
        self.decoders = nn.ModuleDict(
            {name: make_decoder(n_codes[name], n_output, **size) for name in self.likelihoods}
        )
        if weights.get("classifier"):
            self.classifier = nn.Linear(n_specific, n_labels)
        if weights.get("adversary"):
            n_features = {"z": n_latent, "reconstruction": n_input, "both": n_latent + n_input}
            sizes = torch.ones(n_labels) if condition_sizes is None else condition_sizes
            self.adversaries["condition"] = Adversary(
                n_features[adversary_reads],
                class_weights=balanced_weights(torch.as_tensor(sizes)),
                game=adversary_game,
                n_context=n_cell_types,
            )

    @property
    def input_columns(self) -> dict[str, list[tuple[object, ...]]]:
        """Names of what each weight with a column a level reads, in order."""
        z, w = ([(block, i) for i in range(n)] for block, n in self.n_latents.items())
        conditions = [("condition", i) for i in range(self.n_conditions)]
        if self.code is not None:
            conditions = [("code", i) for i in range(self.code.n_code)]
        if self.invariant_head != "z_condition":
            conditions = []
        return {
            "decoders.joint.first.weight": [*z, *w, *self.nuisance_columns],
            "decoders.invariant.first.weight": [*z, *self.nuisance_columns, *conditions],
        }

    def posterior(self, cells: Cells, block: str, condition: Tensor | None = None) -> Normal:
        """Posterior of one block; the specific one reads ``condition`` (default: the cells')."""
        x = self.read(cells)
        if block == INVARIANT:
            return self.encoders[INVARIANT](x)
        return self.encoders[SPECIFIC](x, cells.condition if condition is None else condition)

    def told(self, condition: Tensor) -> Tensor:
        """Codes where they are computed, else the index."""
        return condition if self.code is None else self.code()[condition]

    def encode(self, cells: Cells) -> dict[str, LatentBlock]:
        """Both blocks; the prior of w may read the sample of z."""
        qz, qw = self.posterior(cells, INVARIANT), self.posterior(cells, SPECIFIC)
        z, w = qz.rsample(), qw.rsample()  # (n_cells, n_latent), (n_cells, n_specific)
        return {
            INVARIANT: LatentBlock(qz, z, self.invariant_prior(z, cells.condition)),
            SPECIFIC: LatentBlock(qw, w, self.prior(z, self.told(cells.condition))),
        }

    def decode_codes(self, codes: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output of p(x | z, w) for both blocks side by side, ``(n_cells, n_latent)``."""
        z, w = codes.split(list(self.n_latents.values()), dim=-1)
        return self.decode_joint(z, w, nuisance)

    def decode_joint(self, z: Tensor, w: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output of p(x | z, w)."""
        raw: Tensor = self.decoders[JOINT](z, w, nuisance)
        return raw

    def decode_invariant(self, z: Tensor, condition: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output of p(x | z), or of p(x | z, y) where that head sees the condition.

        ``condition`` is what :meth:`told` says of it. Without a head of its own: p(x | z, w) at
        the mean of p(w | y).
        """
        if INVARIANT not in self.decoders:
            return self.decode_joint(z, self.prior(z, condition).mean, nuisance)
        known = [nuisance]
        if self.invariant_head == "z_condition":
            is_index = self.code is None
            vector = F.one_hot(condition, self.n_conditions) if is_index else condition
            known.append(vector.to(z.dtype))
        raw: Tensor = self.decoders[INVARIANT](z, *known)
        return raw

    def decode(self, cells: Cells, latents: Mapping[str, LatentBlock]) -> dict[str, Tensor]:
        """Both reconstructions."""
        z, w = latents[INVARIANT].sample, latents[SPECIFIC].sample
        raw = {JOINT: self.decode_joint(z, w, cells.nuisance)}
        if INVARIANT in self.decoders:
            told = self.told(cells.condition)
            raw[INVARIANT] = self.decode_invariant(z, told, cells.nuisance)
        return raw

    def terms(self, s: State) -> Iterator[Term]:
        """The objective, in view; see the class docstring of the model."""
        z, w = s.latents[INVARIANT], s.latents[SPECIFIC]
        condition, within = self._target(s.cells)
        for name, head in self.likelihoods.items():
            yield Term(f"nll_{name}", -head.log_prob(s.cells, s.raw[name]))
        yield Term("kl_invariant", z.kl())
        yield Term("kl_specific", w.kl())
        if self.weights.get("classifier"):
            logits = self.classifier(w.sample)
            yield Term("classifier", F.cross_entropy(logits, condition, reduction="none"))
        if self.weights.get("adversary"):
            critic = self.adversaries["condition"]
            yield Term("adversary", critic.model_term(self.features(s), *self._target(s.cells)))
        if not any(self.weights.get(name) for name in ("mmd", "hsic", "independence")):
            return
        kernel = rbf_kernel(z.sample)  # (n_cells, n_cells), shared by the three penalties
        if self.weights.get("mmd"):
            yield Term("mmd", mmd(kernel, condition, n_conditions=self.n_conditions, within=within))
        if self.weights.get("hsic"):
            yield Term("hsic", hsic(kernel, label_kernel(condition), within=within))
        if self.weights.get("independence"):
            mean = standardised(w.q.mean, condition, n_groups=self.n_conditions)
            # z is given here: only w gives way, so that cell types in z do not pay for it.
            yield Term("independence", hsic(kernel.detach(), rbf_kernel(mean), within=condition))

    def features(self, s: State, z: Tensor | None = None) -> Tensor:
        """What the adversary reads: z, the profile decoded from z, or both.

        The decoded profile is multiplied by the number of genes, so that its mean is one. With
        ``invariant_head="z_condition"`` it is decoded under the first condition for every cell:
        decoding each cell under its own would hand the label to the critic.
        """
        z = s.latents[INVARIANT].sample if z is None else z
        if self.adversary_reads == "z":
            return z
        raw = s.raw[INVARIANT]
        if self.invariant_head == "z_condition":
            first = self.told(torch.zeros_like(s.cells.condition))
            with still_statistics(self):  # they are those of cells under their own condition
                raw = self.decode_invariant(z, first, s.cells.nuisance)
        profile = self.likelihoods[INVARIANT].profile(raw)
        if self.expects == "counts":
            profile = profile * profile.shape[-1]
        return profile if self.adversary_reads == "reconstruction" else torch.cat([z, profile], -1)

    def critic_loss(self, s: State) -> Tensor | None:
        """Cross-entropy of the critic on a fresh sample of z, everything detached."""
        if "condition" not in self.adversaries:
            return None
        with torch.no_grad():
            # `rsample` because `sample` raises on NaN before the divergence guard can act.
            fresh = s.latents[INVARIANT].q.rsample() if self.adversary_reads == "z" else None
            features = self.features(s, fresh)
        loss: Tensor = self.adversaries["condition"].critic_loss(features, *self._target(s.cells))
        return loss

    def _target(self, cells: Cells) -> tuple[Tensor, Tensor | None]:
        return cells.condition, cells.cell_type if self.n_cell_types else None


def _heads(name: str, n_genes: int, scale: float | None, *, both: bool) -> nn.ModuleDict:
    """One likelihood for both reconstructions, or one each where sharing makes no sense."""

    def head() -> Likelihood:
        return make_likelihood(name, n_genes, families=None, scale=scale)

    joint = head()
    if not both:
        return nn.ModuleDict({JOINT: joint})
    return nn.ModuleDict({JOINT: joint, INVARIANT: joint if joint.shared else head()})


def _check_options(
    n_latent: int, n_specific: int, prior: str, invariant_head: str, adversary_reads: str
) -> None:
    one_of(invariant_head, INVARIANT_HEADS, "invariant_head")
    one_of(adversary_reads, READS, "adversary_reads")
    if invariant_head == "none" and adversary_reads != "z":
        msg = (
            f"adversary_reads={adversary_reads!r} needs what z alone decodes to, but "
            "invariant_head='none' decodes it with w. Choose adversary_reads='z'."
        )
        raise OptionError(msg)
    if prior == "class_mean" and n_latent != n_specific:
        msg = (
            "specific_prior='class_mean' takes its mean from z, so both blocks need the same size; "
            f"found n_latent={n_latent}, n_specific={n_specific}. Leave n_specific out, or choose "
            "specific_prior='embedding'."
        )
        raise OptionError(msg)
