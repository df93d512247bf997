"""The CG-VAE model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from anndata import AnnData

from scdisent._constants import KEYS
from scdisent._errors import OptionError, one_of
from scdisent.model._codes_mixin import CONDITION_CODES
from scdisent.model._common import at_least, cuda_devices, resolve_seed
from scdisent.model._options import merge_weights, read_image_shape, replace_checked
from scdisent.model._transport_mixin import TransportMixin
from scdisent.module import CGVAE_TERMS, CgvaeModule
from scdisent.nn import likelihood_class

OF_COUNTS = {"sparsity": 0.03, "mmd": 100.0}
"""Log shares of thousands of genes add up to more than the columns of a table."""
MIN_INFORMATION = 0.03
"""Nats of a cell below which content is idle."""
N_COMPARED = 10_000


@dataclass(frozen=True)
class CgvaeOptions:
    """Architecture and the forms of prior and penalty; the weights stand beside them."""

    n_hidden: int = 128
    n_layers: int = 2
    n_dense: int = 0
    prior: str = "affine"
    content_prior: str = "standard"
    condition_code: str = "auto"
    code_dropout: float = 0.0
    sparsity_method: str = "jvp"
    sparsity_scale: str = "batch"
    warm_up_share: float = 0.3
    min_information: float | None = None
    scale: float | None = None


CG_PRESETS: dict[str, tuple[CgvaeOptions, Mapping[str, float]]] = {
    "default": (
        CgvaeOptions(),
        {"nll_joint": 1.0, "kl_joint": 1.0, "sparsity": 0.1, "gate": 0.2, "mmd": 0.0},
    ),
    "paper": (
        CgvaeOptions(prior="spline", sparsity_method="full", sparsity_scale="none"),
        {"nll_joint": 1.0, "kl_joint": 1.0, "sparsity": 1e-2, "gate": 0.0, "mmd": 0.0},
    ),
}


class CGVAE(TransportMixin):
    r"""Gene programmes and the moves of a condition, by sufficient changes and sparse mixing.

    .. math::
        \mathcal L = \mathrm{nll}[x \mid z] + \mathrm{KL}[q(z \mid x) \,\|\, p(z \mid u)]
        + \lambda \sum_{k,j} s_j \left| \frac{\partial \hat x_k}{\partial z_j} \right|
        + \lambda_m \sum_i m_i + \gamma\, \mathrm{MMD}[z_\text{content}; u]

    with the weights ``nll_joint, kl_joint, sparsity`` (:math:`\lambda`), ``gate``
    (:math:`\lambda_m`) and ``mmd`` (:math:`\gamma`; within cell types where setup named them). The
    encoder never reads the condition u. In the prior each latent is noise pushed through a monotone
    map of its own, :math:`z_i = T_i(\varepsilon_i; u)`; latents whose map does not depend on u
    (gate :math:`m_i = 0`) are content, the ``invariant`` block, the others style, the ``specific``
    block. The sparsity penalty is on the decoder's output before any softmax.

    Parameters
    ----------
    adata
        AnnData set up by :func:`scdisent.setup_anndata`; with ``condition_table`` unseen conditions
        that have a row can be predicted.
    likelihood
        ``"nb"``, ``"zinb"``, ``"poisson"`` for counts, ``"normal"`` for real values,
        ``"bernoulli"``, ``"continuous_bernoulli"``.
    n_latent, n_specific
        With ``n_specific``: sizes of content and style. Without: ``n_latent`` latents of which any
        may change with the condition, and gates decide.
    preset
        ``"default"`` (``sparsity`` 0.1, ``mmd`` 0; for counts 0.03 and 100), or ``"paper"``: spline
        prior, plain sum of the Jacobian, no penalty of gates; the weights of the paper are unknown,
        these are ours.
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
        Fields of :class:`CgvaeOptions` to change. Ablations are settings:
        ``prior="standard"``: without conditions; ``weights={"sparsity": 0}``: without sparse
        mixing; both, and for counts ``"mmd": 0``: a VAE. ``condition_code="covariates"`` computes
        codes from the condition table
        (``"auto"``: where there is one), ``"index"`` learns one for each condition. Content latents
        that say less than ``min_information`` nats of a cell are switched off after training; None:
        0.03 with gates, and none where ``n_specific`` was given.

    Notes
    -----
    Source: Li et al., "Synergy Between Sufficient Changes and Sparse Mixing Procedure for
    Disentangled Representation Learning", ICLR 2025 (arXiv 2503.00639). Its code and weights were
    never published. Ours: the scale in the penalty; gates in the VAE (the paper's are in the GAN)
    with a proximal step; warm-up of divergence and sparsity; the discrepancy of content. Theory
    needs a noise-free invertible mixing and latents that are independent given u: for counts it is
    guidance, no guarantee.
    """

    _module_cls = CgvaeModule

    def __init__(
        self,
        adata: AnnData | None = None,
        *,
        likelihood: str = "nb",
        n_latent: int = 10,
        n_specific: int | None = None,
        preset: str = "default",
        weights: Mapping[str, float] | None = None,
        image_shape: Any = "auto",
        registry: dict[str, Any] | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(adata, registry)
        self._need_conditions()
        defaults, default_weights = CG_PRESETS[one_of(preset, CG_PRESETS, "preset")]
        self.preset, self.likelihood = preset, likelihood
        self.options = replace_checked(defaults, options)
        at_least(0, n_latent=n_latent, n_specific=n_specific)
        at_least(1, n_latent=n_latent + (n_specific or 0))
        if preset == "default" and likelihood_class(likelihood).expects == "counts":
            default_weights = {**default_weights, **OF_COUNTS}
        self.weights = merge_weights(default_weights, weights, known=CGVAE_TERMS)
        n_features = self.summary_stats.n_vars
        image_shape = read_image_shape(
            image_shape, self.adata, n_features=n_features, likelihood=likelihood
        )
        self.image_shape = image_shape
        with torch.random.fork_rng(devices=cuda_devices()):
            torch.manual_seed(resolve_seed(seed))
            self.module = self._build_module(n_latent, n_specific)
        self._check_data()
        self.init_params_ = self._get_init_params(locals())
        self._model_summary_string = (
            f"CGVAE ({preset}): {self.module.n_codes} latents, likelihood {likelihood}, "
            f"{len(self.conditions)} conditions"
        )

    def _build_module(self, n_latent: int, n_specific: int | None) -> CgvaeModule:
        options = asdict(self.options)
        code = one_of(options.pop("condition_code"), CONDITION_CODES, "condition_code")
        del options["min_information"]  # for after training
        by_label = options["content_prior"] == "label"
        if by_label and KEYS.CELL_TYPE not in self.registry_["field_registries"]:
            msg = "content_prior='label' needs cell types: run setup_anndata with labels_key=..."
            raise OptionError(msg)
        return self._module_cls(
            **self._sizes(),
            n_cell_types=self.summary_stats.n_cell_type if by_label else 0,
            condition_inputs=self._inputs_of_training(code),
            likelihood=self.likelihood,
            n_latent=n_latent,
            n_specific=n_specific,
            image_shape=self.image_shape,
            weights=self.weights,
            **options,
        )

    def _after_training(self, datamodule: Any, guard: Any) -> None:
        least = self.options.min_information
        if least is None and self.module.latents.gates is not None:
            least = MIN_INFORMATION
        if self.is_trained_ and least:
            self._switch_off_idle_content(datamodule, least)
        super()._after_training(datamodule, guard)

    @torch.inference_mode()
    def _switch_off_idle_content(self, datamodule: Any, least: float) -> None:
        r"""Take latents out of use that say less than ``least`` nats of a cell.

        :math:`\frac12 \log(1 + \mathrm{Var}[\mu] / \mathbb E[\sigma^2])`, what a Gaussian channel
        passes on.
        """
        module, means, variances = self.module, [], []
        for batch in datamodule.train_dataloader():
            q = module.law_of_codes(module.moved_cells(batch))
            means.append(q.mean)
            variances.append(q.variance)
            if sum(map(len, means)) >= N_COMPARED:
                break
        signal, noise = torch.cat(means).var(dim=0), torch.cat(variances).mean(dim=0)
        information = 0.5 * torch.log1p(signal / noise)
        module.latents.switch_off(information, below=least)

    def _plan_defaults(self) -> dict[str, Any]:
        lr = 5e-3 if self.image_shape is None else 1e-3
        return {"lr": lr, "weight_decay": 1e-5, "anneal": True}
