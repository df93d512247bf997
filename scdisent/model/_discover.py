"""The DISCoVeR model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from scdisent._constants import KEYS
from scdisent._errors import OptionError, one_of
from scdisent.effects import AUTO
from scdisent.model._codes_mixin import CONDITION_CODES
from scdisent.model._common import at_least, cuda_devices, resolve_seed
from scdisent.model._latent_mixin import LatentMixin
from scdisent.model._options import merge_weights, read_image_shape, replace_checked
from scdisent.model._query_mixin import QueryMixin
from scdisent.module import TERMS, DiscoverModule


@dataclass(frozen=True)
class DiscoverOptions:
    """Architecture and game; the weights of the terms stand beside them."""

    n_hidden: int = 128
    n_layers: int = 1
    specific_prior: str = "embedding"
    invariant_head: str = "z_condition"
    specific_reads: str = "x_condition"
    invariant_prior: str = "standard"
    adversary_reads: str = "z"
    adversary_game: str = "zero_sum"
    balanced_critic: bool = True
    within_labels: bool | None = None
    condition_code: str = "auto"
    scale: float | None = None


@dataclass(frozen=True)
class Preset:
    """A named setting: options, weights of the terms, arguments of the training plan."""

    options: DiscoverOptions
    weights: Mapping[str, float]
    plan: Mapping[str, Any]


_ONE_HEAD = DiscoverOptions(
    invariant_head="none",
    specific_prior="embedding",
    adversary_game="entropy",
    balanced_critic=False,
    within_labels=False,
)
_ONE_HEAD_WEIGHTS = {"nll_joint": 1.0, "kl_invariant": 0.01, "kl_specific": 0.01}
_PAPER_PLAN = {"n_critic_steps": 1, "lr": 1e-3, "weight_decay": 0.0}
_LEARNED = replace(_ONE_HEAD, specific_reads="x")

PRESETS = {
    "default": Preset(
        DiscoverOptions(),
        {
            "nll_joint": 0.8,
            "nll_invariant": 0.2,
            "kl_invariant": 0.05,
            "kl_specific": 2.0,
            "adversary": 5.0,
            "mmd": 100.0,
            "independence": 100.0,
        },
        {"n_critic_steps": 3, "lr": 2e-3},
    ),
    "paper": Preset(
        DiscoverOptions(
            specific_prior="class_mean",
            invariant_head="z",
            adversary_reads="reconstruction",
            adversary_game="entropy",
            balanced_critic=False,
            within_labels=False,
        ),
        {
            "nll_joint": 0.8,
            "nll_invariant": 0.2,
            "kl_invariant": 0.01,
            "kl_specific": 0.01,
            "adversary": 100.0,
        },
        _PAPER_PLAN,
    ),
    "csvae": Preset(
        replace(_ONE_HEAD, specific_prior="fixed"),
        {**_ONE_HEAD_WEIGHTS, "adversary": 100.0},
        _PAPER_PLAN,
    ),
    "csvae_na": Preset(replace(_ONE_HEAD, specific_prior="fixed"), _ONE_HEAD_WEIGHTS, _PAPER_PLAN),
    "diva": Preset(_LEARNED, {**_ONE_HEAD_WEIGHTS, "classifier": 100.0}, _PAPER_PLAN),
    "ccvae": Preset(
        replace(_LEARNED, invariant_prior="embedding"),
        {**_ONE_HEAD_WEIGHTS, "classifier": 100.0},
        _PAPER_PLAN,
    ),
}
"""The last four are the models that the paper compares itself with, as argument settings."""


class DISCoVeR(LatentMixin, QueryMixin):
    r"""Two latent blocks, two reconstructions, a game over the condition.

    .. math::
        \mathcal L = \;& r_w\,\mathrm{nll}[x \mid z, w] + r_z\,\mathrm{nll}[x \mid z, (y)]
        + b_z\,\mathrm{KL}[q(z \mid x) \,\|\, N(0, I)]
        + b_w\,\mathrm{KL}[q(w \mid x, y) \,\|\, p(w \mid y)] \\
        & + \lambda\,\mathrm{game}[g(y \mid z)] + \gamma\,\mathrm{MMD}^2_u[z; y]
        + \eta\,\mathrm{HSIC}_u[z, y] + \zeta\,\mathrm{HSIC}_u[w, z \mid y]

    with the weights, in this order, ``nll_joint, nll_invariant, kl_invariant, kl_specific,
    adversary, mmd, hsic, independence``; reconstruction terms are summed over genes and averaged
    over cells. The last pulls only w away from z (the assumption that both are independent given
    the condition), so that w tells conditions apart and not cell types. The weight ``classifier``,
    of relatives below, adds :math:`-\log q(y \mid w)`.

    Parameters
    ----------
    adata
        AnnData set up by :func:`scdisent.setup_anndata`.
    likelihood
        ``"nb"``, ``"zinb"``, ``"poisson"`` for counts, ``"normal"`` for real values,
        ``"bernoulli"`` for zeros and ones, ``"continuous_bernoulli"`` for values between.
    n_latent, n_specific
        Size of z and of w (None: as large as z; two columns a condition for the fixed prior).
    preset
        ``"default"``: the strongest setting found by the leakage audit; ``"paper"``: objective and
        weights of the authors' single-cell code. Relatives to compare with, each with one
        reconstruction: ``"csvae"`` (fixed prior of w, adversary on z), ``"csvae_na"`` (no
        adversary), ``"diva"`` (q(w | x), learned p(w | y), a classifier of y on w), ``"ccvae"``
        (also a learned p(z | y)).
    weights
        Weights to change, by name of the term; 0 leaves a term out.
    image_shape
        Channels, height, width: convolutional networks. ``"auto"``: ``uns["image_shape"]`` where
        there is one; None: dense networks.
    registry
        Registry of a datamodule instead of ``adata``, for cells on disk.
    seed
        Of the initial weights; None: ``scvi.settings.seed``, or 0.
    **options
        Fields of :class:`DiscoverOptions` to change.

    Notes
    -----
    Source: Slavutsky, Beker, Blei, Dumitrascu, "Variational Learning of Disentangled
    Representations", arXiv 2506.17182, and the authors' public code. Deviations of every preset:
    KL terms are analytic, the encoders read ``log(1 + 1e4 x / library)``, one forward pass serves
    both players. Ours, not the paper's, in the default: the invariant head p(x | z, y), the
    unbiased MMD, the zero-sum game on z with several critic steps, a critic with balanced classes,
    comparison within cell types where ``labels_key`` was set.
    """

    _module_cls = DiscoverModule
    default_anchor = AUTO

    def __init__(
        self,
        adata: AnnData | None = None,
        *,
        likelihood: str = "nb",
        n_latent: int = 10,
        n_specific: int | None = None,
        preset: str = "default",
        weights: Mapping[str, float] | None = None,
        image_shape: str | Sequence[int] | None = "auto",
        registry: dict[str, Any] | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(adata, registry)
        self._need_conditions()
        chosen = PRESETS[one_of(preset, PRESETS, "preset")]
        self.preset, self.likelihood = preset, likelihood
        self.options = replace_checked(chosen.options, options)
        self.weights = merge_weights(chosen.weights, weights, known=TERMS)
        n_features = self.summary_stats.n_vars
        image_shape = read_image_shape(
            image_shape, self.adata, n_features=n_features, likelihood=likelihood
        )
        if self.options.invariant_head != "none" and "nll_invariant" not in self.weights:
            msg = (
                f"invariant_head={self.options.invariant_head!r} is not trained by preset "
                f"{preset!r}. Give weights={{'nll_invariant': 0.2}}, or invariant_head='none'."
            )
            raise OptionError(msg)
        at_least(1, n_latent=n_latent, n_specific=n_specific)
        is_fixed = self.options.specific_prior == "fixed"
        size = n_specific or (2 * self.summary_stats.n_labels if is_fixed else n_latent)
        with torch.random.fork_rng(devices=cuda_devices()):
            torch.manual_seed(resolve_seed(seed))
            self.module = self._build_module(n_latent, size, image_shape=image_shape)
        self._check_data()
        self.init_params_ = self._get_init_params(locals())
        self._model_summary_string = (
            f"DISCoVeR ({preset}): {self.module.n_latents['invariant']} invariant and "
            f"{self.module.n_latents['specific']} specific latents, likelihood {likelihood}, "
            f"{len(self.conditions)} conditions"
        )

    def _encoder_fields(self, blocks: Sequence[str]) -> tuple[str, ...]:
        reads = self.options.specific_reads == "x_condition"
        return super()._encoder_fields(blocks) if reads else ()

    def _build_module(
        self, n_latent: int, n_specific: int, *, image_shape: Sequence[int] | None
    ) -> DiscoverModule:
        options = asdict(self.options)
        within = options.pop("within_labels")
        has_labels = KEYS.CELL_TYPE in self.registry_["field_registries"]
        within = has_labels if within is None else within
        if within and not has_labels:
            msg = (
                "within_labels=True compares conditions inside a cell type, but setup named no "
                "cell types. Run scdisent.setup_anndata with labels_key=..."
            )
            raise OptionError(msg)
        balanced = options.pop("balanced_critic")
        code = one_of(options.pop("condition_code"), CONDITION_CODES, "condition_code")
        has_prior = options["specific_prior"] == "embedding"
        if code == "covariates" and not has_prior:
            msg = (
                "condition_code='covariates' needs specific_prior='embedding', whose mean is read "
                f"from the code; found {options['specific_prior']!r}."
            )
            raise OptionError(msg)
        sizes = self._condition_sizes() if balanced and self.adata is not None else None
        return self._module_cls(
            **self._sizes(),
            n_cell_types=self.summary_stats.n_cell_type if within else 0,
            condition_sizes=sizes,
            condition_inputs=self._inputs_of_training(code if has_prior else "index"),
            likelihood=self.likelihood,
            n_latent=n_latent,
            n_specific=n_specific,
            specific_prior_name=options.pop("specific_prior"),
            image_shape=image_shape,
            weights=self.weights,
            **options,
        )

    def _condition_sizes(self) -> list[int]:
        codes = self.adata_manager.get_from_registry(KEYS.CONDITION).ravel()
        return np.bincount(codes, minlength=self.summary_stats.n_labels).tolist()

    def _plan_defaults(self) -> dict[str, Any]:
        return {**PRESETS[self.preset].plan, **super()._plan_defaults()}
