"""The CG-GAN model."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from anndata import AnnData

from scdisent._errors import OptionError, ScDisentWarning, one_of
from scdisent.model._codes_mixin import CONDITION_CODES
from scdisent.model._common import at_least, cuda_devices, resolve_seed
from scdisent.model._options import merge_weights, read_image_shape, replace_checked
from scdisent.model._transport_mixin import TransportMixin
from scdisent.module import CGGAN_TERMS, JOINT, CgganModule

COLLAPSE = 0.5
"""Generated cells with less than this share of the variance of real ones have collapsed."""
N_COMPARED = 1_000


@dataclass(frozen=True)
class CgganOptions:
    """Architecture and the form of the game; the weights stand beside them."""

    n_hidden: int = 256
    n_layers: int = 2
    flow: str = "affine"
    condition_code: str = "auto"
    code_dropout: float = 0.0
    game: str = "logistic"
    penalty_weight: float = 0.01
    penalty_every: int = 4
    ema: float = 0.999
    n_refine: int = 0
    scale: float | None = None


CGGAN_PRESETS: dict[str, tuple[CgganOptions, Mapping[str, float], Mapping[str, Any]]] = {
    "default": (
        CgganOptions(),
        {"generator": 1.0, "inverse": 1.0, "sparsity": 1e-3, "gate": 0.02},
        {"lr": 1e-3, "betas": (0.5, 0.9), "n_critic_steps": 1, "weight_decay": 0.0},
    ),
    "paper": (
        CgganOptions(flow="spline"),
        {"generator": 1.0, "inverse": 1.0, "sparsity": 0.1, "gate": 0.1},
        {"lr": 2.5e-3, "betas": (0.0, 0.99), "n_critic_steps": 1, "weight_decay": 0.0},
    ),
}


class CGGAN(TransportMixin):
    r"""A generator of cells or images under any condition, from one noise.

    .. math::
        \mathcal L_G = \mathrm{softplus}(-D(G(z), u))
        + \lambda \sum_{k,j} s_j \left| \frac{\partial G_k}{\partial z_j} \right|
        + \lambda_m \sum_i m_i, \qquad z_i = T_i(\varepsilon_i; u)

    with the weights ``generator, sparsity`` (:math:`\lambda`) and ``gate`` (:math:`\lambda_m`);
    ``inverse`` is :math:`-\log q(z \mid G(z))` of the inverter, which learns to read the codes of
    generated cells and then gives those of real ones. Codes, blocks, gates, prediction and
    programmes are those of :class:`scdisent.CGVAE`. The critic sees cells as data: of counts,
    negative binomial draws around the generated rate at the library of a real cell.

    Parameters
    ----------
    adata
        AnnData set up by :func:`scdisent.setup_anndata`.
    likelihood
        ``"nb"``, ``"zinb"``, ``"poisson"`` for counts, ``"normal"`` for real values,
        ``"bernoulli"`` for zeros and ones, ``"continuous_bernoulli"`` for pixels.
    n_latent, n_specific
        As in :class:`scdisent.CGVAE`.
    preset
        ``"default"``, or ``"paper"``: weights and rates of the authors' image code.
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
        Fields of :class:`CgganOptions` to change. ``game="wasserstein"`` wants
        ``penalty_weight=10`` and ``plan_kwargs={"n_critic_steps": 5}``.

    Notes
    -----
    Source: Li et al., ICLR 2025 (arXiv 2503.00639), and its authors' image code, whose intention is
    followed where the code departs from it: there the sparsity term compares the same code with
    itself. Ours: small networks instead of StyleGAN2, monotone maps of :class:`scdisent.CGVAE`
    instead of SELU flows, no second-moment normalisation, gates without a threshold, counts, the
    inverter. There is no likelihood, so runs cannot be chosen by one, and rare cells may be lost:
    for cells prefer CGVAE.
    """

    _module_cls = CgganModule
    content_from_cells = False

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
        defaults, default_weights, _ = CGGAN_PRESETS[one_of(preset, CGGAN_PRESETS, "preset")]
        self.preset, self.likelihood = preset, likelihood
        self.options = replace_checked(defaults, options)
        at_least(0, n_latent=n_latent, n_specific=n_specific)
        at_least(1, n_latent=n_latent + (n_specific or 0))
        self.weights = merge_weights(default_weights, weights, known=CGGAN_TERMS)
        n_features = self.summary_stats.n_vars
        image_shape = read_image_shape(
            image_shape, self.adata, n_features=n_features, likelihood=likelihood
        )
        arguments = asdict(self.options)
        code = one_of(arguments.pop("condition_code"), CONDITION_CODES, "condition_code")
        with torch.random.fork_rng(devices=cuda_devices()):
            torch.manual_seed(resolve_seed(seed))
            self.module = self._module_cls(
                **self._sizes(),
                condition_inputs=self._inputs_of_training(code),
                likelihood=likelihood,
                n_latent=n_latent,
                n_specific=n_specific,
                image_shape=image_shape,
                weights=self.weights,
                **arguments,
            )
        self._check_data()
        self.init_params_ = self._get_init_params(locals())
        self._model_summary_string = (
            f"CGGAN ({preset}): {self.module.n_codes} latents, likelihood {likelihood}, "
            f"{len(self.conditions)} conditions"
        )

    def _plan_defaults(self) -> dict[str, Any]:
        return dict(CGGAN_PRESETS[self.preset][2])

    def train(
        self, max_epochs: int | None = None, *, keep_best: bool = False, **options: Any
    ) -> None:
        """Fit the model; arguments as in :meth:`scdisent.CGVAE.train`.

        Parameters
        ----------
        max_epochs
            None: as many as give about 1,000 steps, between 20 and 400; a GAN wants more.
        keep_best
            Refused: no bound says which epoch is the best.
        **options
            Of :meth:`scdisent.CGVAE.train`.

        Raises
        ------
        OptionError
            For what needs a bound.
        """
        if keep_best or options.get("early_stopping"):
            msg = "a GAN has no bound to stop by or to choose an epoch by: leave these options out."
            raise OptionError(msg)
        super().train(max_epochs, keep_best=keep_best, **options)

    def _after_training(self, datamodule: Any, guard: Any) -> None:
        steps, self.module.n_refine = self.module.n_refine, 0  # anchors need no fine codes
        try:
            super()._after_training(datamodule, guard)
        finally:
            self.module.n_refine = steps
        share = self._share_of_variance(datamodule)
        if share < COLLAPSE:
            msg = (
                f"Mode collapse: generated cells have {share:.0%} of the variance of real ones. "
                "Train longer, lower the learning rate, or use game='wasserstein'."
            )
            warnings.warn(msg, ScDisentWarning, stacklevel=3)

    @torch.no_grad()
    def _share_of_variance(self, datamodule: Any) -> float:
        """Total variance of generated cells over that of real ones, as the critic sees them."""
        module, real, generated = self.module, [], []
        was_training = module.training
        module.eval()
        with torch.random.fork_rng(devices=cuda_devices()):
            torch.manual_seed(0)
            for batch in datamodule.train_dataloader():
                cells = module.moved_cells(batch)
                codes = module.inference(cells)["latents"][JOINT].sample
                generated.append(module.shown(module.decoder(codes, cells.nuisance), cells))
                real.append(module.seen(cells))
                if sum(map(len, real)) >= N_COMPARED:
                    break
        module.train(was_training)
        total = torch.cat(real).var(dim=0).sum().clamp_min(1e-12)
        return float(torch.cat(generated).var(dim=0).sum() / total)
