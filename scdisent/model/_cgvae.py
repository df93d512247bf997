"""The CG-VAE model."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scdisent._constants import KEYS
from scdisent._errors import OptionError, ScDisentWarning, SetupError, one_of
from scdisent.conditions import EncodedConditions
from scdisent.functional import support
from scdisent.model._common import resolve_seed
from scdisent.model._expression_mixin import ExpressionMixin
from scdisent.model._latent_mixin import LatentMixin
from scdisent.model._options import merge_weights, read_image_shape, replace_checked
from scdisent.model._predict_mixin import TRANSFERS, Transfer
from scdisent.module import CGVAE_TERMS, INVARIANT, SPECIFIC, CgvaeModule
from scdisent.nn import Cells, ConditionInputs

CODES = ("auto", "index", "covariates")
TRANSPORT = "transport"


@dataclass(frozen=True)
class CgvaeOptions:
    """Architecture and the forms of prior and penalty; the weights stand beside them."""

    n_hidden: int = 128
    n_layers: int = 2
    n_dense: int = 0
    prior: str = "affine"
    content_prior: str = "standard"
    condition_code: str = "auto"
    code_dropout: float = 0.1
    sparsity_method: str = "jvp"
    sparsity_scale: str = "batch"
    warm_up_share: float = 0.3
    scale: float | None = None


CG_PRESETS: dict[str, tuple[CgvaeOptions, Mapping[str, float]]] = {
    "default": (
        CgvaeOptions(),
        {"nll_joint": 1.0, "kl_joint": 1.0, "sparsity": 0.3, "gate": 0.02},
    ),
    "paper": (
        CgvaeOptions(prior="spline", sparsity_method="full", sparsity_scale="none"),
        {"nll_joint": 1.0, "kl_joint": 1.0, "sparsity": 1e-2, "gate": 0.0},
    ),
}


@dataclass(frozen=True)
class Transport(Transfer):
    """Style codes moved along the monotone maps: the same noise under another condition."""

    here: Tensor  # (n_conditions, n_specific, n_parameters)
    there: Tensor  # (n_specific, n_parameters)
    spline: float  # trust in the shape of the map far from the conditions of training
    is_seen: bool

    def specific_code(self, module: Any, cells: Cells, z: Tensor, w: Tensor) -> Tensor:
        if self.recipe != TRANSPORT:
            return super().specific_code(module, cells, z, w)
        flow = module.flow
        noise = flow.to_noise(self.here[cells.condition])(w.double())  # float32 swaps ranks
        there = self.there.expand(len(w), -1, -1)
        return flow.to_noise(there, spline=self.spline).inv(noise).to(w.dtype)

    def near(self, z: Tensor) -> Tensor:
        points = self.anchors.of(self.target)[0] if self.is_seen else self.anchors.z
        return support(z, points)


class CGVAE(LatentMixin, ExpressionMixin):
    r"""Gene programmes and the moves of a condition, by sufficient changes and sparse mixing.

    .. math::
        \mathcal L = \mathrm{nll}[x \mid z] + \mathrm{KL}[q(z \mid x) \,\|\, p(z \mid u)]
        + \lambda \sum_{k,j} s_j \left| \frac{\partial \hat x_k}{\partial z_j} \right|
        + \lambda_m \sum_i m_i

    with the weights ``nll_joint, kl_joint, sparsity`` (:math:`\lambda`) and ``gate``
    (:math:`\lambda_m`). The encoder never reads the condition u. In the prior each latent is noise
    pushed through a monotone map of its own, :math:`z_i = T_i(\varepsilon_i; u)`; latents whose
    map does not depend on u (gate :math:`m_i = 0`) are content, the ``invariant`` block, the others
    style, the ``specific`` block. The penalty is on the decoder's output before any softmax.

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
        ``"default"``, or ``"paper"``: spline prior, plain sum of the Jacobian, no gates' penalty;
        the weights of the paper are not known, these are ours.
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
        mixing; both: a VAE. ``condition_code="covariates"`` computes codes from the condition table
        (``"auto"``: where there is one), ``"index"`` learns one for each condition.

    Notes
    -----
    Source: Li et al., "Synergy Between Sufficient Changes and Sparse Mixing Procedure for
    Disentangled Representation Learning", ICLR 2025 (arXiv 2503.00639). Its code and weights were
    never published. Ours: maps centred over the conditions, which fixes the scale of the latents;
    the scale in the penalty; gates in the VAE (the paper's are in the GAN) with a proximal step;
    warm-up of divergence and sparsity. Theory needs a noise-free invertible mixing and latents that
    are independent given u: for counts it is guidance, no guarantee.
    """

    _module_cls = CgvaeModule
    transfers = (TRANSPORT, *TRANSFERS[:3])

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
        self.weights = merge_weights(default_weights, weights, known=CGVAE_TERMS)
        image_shape = read_image_shape(
            image_shape, self.adata, n_features=self.summary_stats.n_vars
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(resolve_seed(seed))
            self.module = self._build_module(n_latent, n_specific, image_shape)
        self._check_data()
        self.init_params_ = self._get_init_params(locals())
        self._model_summary_string = (
            f"CGVAE ({preset}): {self.module.n_codes} latents, likelihood {likelihood}, "
            f"{len(self.conditions)} conditions"
        )

    def _build_module(
        self, n_latent: int, n_specific: int | None, image_shape: list[int] | None
    ) -> CgvaeModule:
        options = asdict(self.options)
        code = one_of(options.pop("condition_code"), CODES, "condition_code")
        inputs = None
        if code == "covariates" or (code == "auto" and self.condition_table is not None):
            inputs = self._condition_inputs(self.conditions)
        by_label = options["content_prior"] == "label"
        if by_label and KEYS.CELL_TYPE not in self.registry_["field_registries"]:
            msg = "content_prior='label' needs cell types: run setup_anndata with labels_key=..."
            raise OptionError(msg)
        return self._module_cls(
            **self._sizes(),
            n_cell_types=self.summary_stats.n_cell_type if by_label else 0,
            condition_inputs=inputs,
            likelihood=self.likelihood,
            n_latent=n_latent,
            n_specific=n_specific,
            image_shape=image_shape,
            weights=self.weights,
            **options,
        )

    def _condition_inputs(self, conditions: list[str]) -> ConditionInputs:
        """What the condition table says of some conditions, as tensors."""
        table = self.condition_table
        if table is None:
            msg = (
                "condition_code='covariates' reads what is known of the conditions. Run "
                "scdisent.setup_anndata(adata, ..., condition_table=...)."
            )
            raise SetupError(msg)
        found: EncodedConditions = table.encode(
            conditions, like=self.conditions, control=self.control
        )
        return ConditionInputs(**{k: torch.from_numpy(v) for k, v in vars(found).items()})

    def _plan_defaults(self) -> dict[str, Any]:
        lr = 1e-3 if self.module.expects == "counts" else 5e-3
        return {"lr": lr, "weight_decay": 1e-5, "anneal": True}

    def _after_training(self, datamodule: Any, guard: Any) -> None:
        if self.is_trained_:
            self.anchors_ = self._read_anchors(datamodule)
        super()._after_training(datamodule, guard)
        self._warn_of_empty_blocks()

    def _warn_of_empty_blocks(self) -> None:
        sizes = self.module.n_latents
        if self.options.prior == "standard" or (sizes[INVARIANT] and sizes[SPECIFIC]):
            return
        closed = not sizes[SPECIFIC]
        msg = (
            "All gates are closed: no latent changes with the condition, and predictions will "
            "return the cells as they are. Lower weights={'gate': ...}."
            if closed
            else "All gates are open: every latent changes with the condition, and the invariant "
            "block is empty. Raise weights={'gate': ...}, or give n_specific."
        )
        warnings.warn(f"{msg} (now {self.weights['gate']})", ScDisentWarning, stacklevel=4)

    # ------------------------------------------------------------- prediction

    def _transfer_to(
        self, condition: str, recipe: str | None, *, n_neighbors: int = 15
    ) -> Transport:
        recipe = one_of(recipe or self.transfers[0], self.transfers, "transfer")
        if self.module.flow is None:
            msg = "prior='standard' knows no conditions, so it cannot predict. Use prior='affine'."
            raise OptionError(msg)
        if self.anchors_ is None:
            msg = "this model holds no codes of training cells: train it again."
            raise SetupError(msg)
        seen = str(condition) in self.conditions
        code = self.condition_code(condition) if seen else -1
        if not seen:
            self._check_unseen(str(condition), recipe)
        inputs = None if seen else self._on_device(self._condition_inputs([str(condition)]))
        moved = self.module.moved[self.module.n_fixed :]
        here = self.module.map_parameters()[:, moved].double()
        there = here[code] if seen else self.module.map_parameters(inputs)[0, moved].double()
        distance, trust = (0.0, 1.0) if seen else self._code_distance(inputs)
        self.code_distance_ = distance
        anchors = self.anchors_.to(self.module.device)
        return Transport(recipe, n_neighbors, anchors, code, here, there, trust, seen)

    def _check_unseen(self, condition: str, recipe: str) -> None:
        if not self.module.code.knows_new:
            msg = (
                f"condition={condition!r} was not in training, and this model has a learned code "
                f"for each of {self.conditions} only. Train with cells of it, or run setup_anndata "
                "with condition_table= (doses, categories or embeddings, with a row for it) and "
                "build CGVAE(adata, condition_code='covariates')."
            )
            raise OptionError(msg)
        if recipe != TRANSPORT:
            msg = f"transfer={recipe!r} needs training cells of {condition!r}. Use 'transport'."
            raise OptionError(msg)

    def _on_device(self, inputs: ConditionInputs) -> ConditionInputs:
        return ConditionInputs(**{k: v.to(self.module.device) for k, v in vars(inputs).items()})

    def _code_distance(self, inputs: ConditionInputs | None) -> tuple[float, float]:
        """Distance of a new code from those of training, and trust in the spline there.

        In units of the median distance of a training code from its nearest neighbour.
        """
        known = self.module.code()
        between = torch.cdist(known, known).fill_diagonal_(torch.inf).amin(dim=1).median()
        distance = torch.cdist(self.module.code(inputs), known).min() / between.clamp_min(1e-12)
        return float(distance), float(torch.exp(-(distance**2)))

    # ------------------------------------------------------------- programmes

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def get_programmes(
        self, adata: AnnData | None = None, *, max_cells: int = 1_000, seed: int | None = None
    ) -> pd.DataFrame:
        r"""How much one SD of each latent moves each gene, ``(n_genes, n_latent)``.

        .. math:: P_{kj} = \mathrm{SD}[z_j] \; \mathbb E_x
                  \left| \frac{\partial \hat x_k}{\partial z_j} \right|

        with the decoder's output before softmax: for counts in units of the log share.

        Parameters
        ----------
        adata
            Cells; None: the model's own.
        max_cells
            Cells that are drawn at random for the mean.
        seed
            Of the draw.

        Returns
        -------
        Columns ``invariant_0, ..., specific_0, ...`` as in ``representation="full"``.
        """
        self._need_training()
        n_cells = self._source(adata).n_obs
        rng = np.random.default_rng(resolve_seed(seed))
        chosen = np.sort(rng.permutation(n_cells)[:max_cells])
        codes = self.get_latent_representation(adata, representation="full", indices=chosen)
        device = self.module.device
        nuisance = self.module.first_levels(len(codes)).to(device)
        found = self.module.programmes(torch.tensor(codes, device=device), nuisance)
        names = [f"{name}_{i}" for name, n in self.module.n_latents.items() for i in range(n)]
        return pd.DataFrame(found.T.cpu().numpy(), index=self.get_var_names(), columns=names)
