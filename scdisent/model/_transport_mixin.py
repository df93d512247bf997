"""Conditions that move some latents: blocks by gates, transport, programmes."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scdisent._constants import UNS_KEY
from scdisent._errors import OptionError, ScDisentWarning, SetupError, one_of
from scdisent.functional import mean_absolute_jacobian
from scdisent.model._common import resolve_seed
from scdisent.model._effect_mixin import DECODER_FIELDS, LIBRARY_FIELDS
from scdisent.model._expression_mixin import ExpressionMixin
from scdisent.model._latent_mixin import FULL, LatentMixin
from scdisent.model._predict_mixin import seeded_sample
from scdisent.model._transfer import TRANSFERS, Transfer
from scdisent.module import INVARIANT, JOINT, SPECIFIC
from scdisent.nn import Cells

TRANSPORT = "transport"


@dataclass(frozen=True)
class Transport(Transfer):
    """Style codes moved along the monotone maps: the same noise under another condition."""

    here: Tensor  # (n_conditions, n_specific, n_parameters)
    there: Tensor  # (n_specific, n_parameters)
    spline: float  # trust in the shape of the map far from the conditions of training

    def specific_code(self, module: Any, cells: Cells, z: Tensor, w: Tensor) -> Tensor:
        if self.recipe != TRANSPORT:
            return super().specific_code(module, cells, z, w)
        flow = module.latents.flow
        noise = flow.to_noise(self.here[cells.condition])(w.double())  # float32 swaps ranks
        there = self.there.expand(len(w), -1, -1)
        return flow.to_noise(there, spline=self.spline).inv(noise).to(w.dtype)

    def decode_invariant(self, module: Any, cells: Cells, z: Tensor) -> Tensor:
        if self.target >= 0:
            return super().decode_invariant(module, cells, z)
        there = self.there.expand(len(z), -1, -1)
        median = module.latents.flow.to_noise(there, spline=self.spline).inv(
            torch.zeros_like(there[..., 0])
        )
        raw: Tensor = module.decode_joint(z, median.to(z.dtype), cells.nuisance)
        return raw


class TransportMixin(LatentMixin, ExpressionMixin):
    """For modules with ``latents`` (:class:`scdisent.nn.MovedLatents`)."""

    transfers = (TRANSPORT, *TRANSFERS[:3])
    weights: dict[str, float]
    content_is_standard = False
    content_from_cells = True
    """Whether new cells take their content from training cells, else from noise."""

    def _encoder_fields(self, blocks: Sequence[str]) -> tuple[str, ...]:
        # Codes that are refined are held against what is decoded from them.
        return (*DECODER_FIELDS, *LIBRARY_FIELDS) if getattr(self.module, "n_refine", 0) else ()

    def _after_training(self, datamodule: Any, guard: Any) -> None:
        self._remember(datamodule)
        super()._after_training(datamodule, guard)
        self._warn_of_empty_blocks()

    def _warn_of_empty_blocks(self) -> None:
        sizes = self.module.n_latents
        if self.module.latents.gates is None or (sizes[INVARIANT] and sizes[SPECIFIC]):
            return  # without gates the user said how large the blocks are
        closed = not sizes[SPECIFIC]
        msg = (
            "All gates are closed: no latent changes with the condition, and predictions will "
            "return the cells as they are. Lower weights={'gate': ...}."
            if closed
            else "All gates are open: every latent changes with the condition, and the invariant "
            "block is empty. Raise weights={'gate': ...}, or give n_specific."
        )
        warnings.warn(f"{msg} (now {self.weights['gate']})", ScDisentWarning, stacklevel=4)

    @property
    def representations(self) -> tuple[str, ...]:
        """Names of the latent blocks that hold a latent; gates may leave one empty."""
        return tuple(name for name, size in self.module.n_latents.items() if size)

    def _blocks(self, representation: str | None) -> tuple[str, ...]:
        known = self.representations
        one_of(representation or FULL, (INVARIANT, SPECIFIC, FULL), "representation")
        if representation in (None, FULL):
            return known if representation else known[:1]
        if representation not in known:
            n_open, n_latent = self.module.n_latents[SPECIFIC], self.module.latents.n_latent
            msg = (
                f"the {representation} block is empty: training left {n_open} of {n_latent} gates "
                "open. Change weights={'gate': ...}, or give n_specific."
            )
            raise OptionError(msg)
        return (str(representation),)

    # ------------------------------------------------------------- prediction

    def _transfer_to(
        self, condition: str, recipe: str | None, *, n_neighbors: int = 15
    ) -> Transport:
        recipe = one_of(recipe or self.transfers[0], self.transfers, "transfer")
        if self.module.latents.flow is None:
            msg = "prior='standard' knows no conditions, so it cannot predict. Use prior='affine'."
            raise OptionError(msg)
        if self.anchors_ is None:
            msg = "this model holds no codes of training cells: train it again."
            raise SetupError(msg)
        seen = str(condition) in self.conditions
        code = self.condition_code(condition) if seen else -1
        if not seen:
            self._need_code(str(condition), self.module.latents.code, recipe, may=(TRANSPORT,))
        inputs = None if seen else self._condition_inputs([str(condition)])
        latents = self.module.latents
        here = latents.style_parameters().double()
        there = here[code] if seen else latents.style_parameters(inputs)[0].double()
        distance, trust = (0.0, 1.0) if seen else self._code_distance(latents.code, inputs)
        anchors = self.anchors_.to(self.module.device)
        arguments = recipe, n_neighbors, anchors, code, here, there, trust
        return Transport(*arguments, code_distance=distance)

    # ------------------------------------------------------------- new cells

    @torch.inference_mode()
    def sample(
        self,
        n_cells: int,
        *,
        condition: str,
        dose: float | None = None,
        kind: str = "counts",
        library_size: float | None = None,
        batch_size: int = 4096,
        seed: int | None = None,
    ) -> AnnData:
        """New cells under a condition, seen or unseen; one seed is one noise under all of them.

        Parameters
        ----------
        n_cells
            How many.
        condition, dose
            As in ``predict``.
        kind
            ``"counts"``: values as the likelihood draws them; ``"mean"``: their expectation.
        library_size
            Counts of each cell; None: drawn from those of training cells.
        batch_size
            Cells decoded at once.
        seed
            Of noise, libraries and draws.

        Returns
        -------
        AnnData ``(n_cells, n_genes)`` with ``condition`` and ``scdisent_seen`` in ``obs``;
        technical covariates at their first level. CGVAE takes content from training cells (of the
        control, where there is one), CGGAN from noise; style is noise pushed through the map of the
        condition.

        Raises
        ------
        OptionError
            For fewer than one cell, or a condition without a code.
        """
        self._need_training()
        one_of(kind, ("counts", "mean"), "kind")
        if n_cells < 1:
            msg = f"n_cells={n_cells} must be at least 1."
            raise OptionError(msg)
        condition = self._named_condition(condition, dose)
        plan = self._transfer_to(condition, TRANSPORT)
        rng = np.random.default_rng(resolve_seed(seed))
        codes, library = self._new_codes(n_cells, plan, rng)
        if library_size is not None:
            library = torch.full_like(library, library_size)
        head, parts = self.module.likelihoods[JOINT], []
        for part, size in zip(codes.split(batch_size), library.split(batch_size), strict=True):
            nuisance = self.module.levels_at(size)
            law = head.distribution(self.module.decode_codes(part, nuisance), size)
            values = law.mean if kind == "mean" else seeded_sample(law, rng)
            parts.append(values.cpu().numpy())
        obs = pd.DataFrame(index=[f"sample_{i}" for i in range(n_cells)])
        obs["condition"] = pd.Categorical([str(condition)] * n_cells)
        obs["scdisent_seen"] = plan.target >= 0
        made: dict[str, Any] = {"model": type(self).__name__, "condition": str(condition)}
        made |= {"kind": kind, "seed": resolve_seed(seed), **plan.notes}
        var = pd.DataFrame(index=self.get_var_names())
        return AnnData(np.concatenate(parts), obs=obs, var=var, uns={UNS_KEY: {"sample": made}})

    def _new_codes(
        self, n_cells: int, plan: Transport, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Content and style side by side, and libraries of training cells."""
        sizes, anchors = self.module.n_latents, plan.anchors
        noise = torch.from_numpy(rng.standard_normal((n_cells, sum(sizes.values())), np.float32))
        content, style = noise.to(anchors.z.device).split(list(sizes.values()), dim=-1)
        donors = np.arange(len(anchors.z))
        if self.control is not None:
            control = self.condition_code(self.control)
            donors = np.flatnonzero((anchors.condition == control).cpu().numpy())
        chosen = torch.from_numpy(rng.choice(donors, n_cells)).to(anchors.z.device)
        if self.content_from_cells:
            content = anchors.z[chosen]
        else:
            latents = self.module.latents
            places = torch.zeros(n_cells, latents.n_latent, device=content.device)
            places[:, latents.is_content] = content
            content = latents.unmoved(places)[:, latents.is_content]
        there = plan.there.expand(n_cells, -1, -1)
        moved = self.module.latents.flow.to_noise(there, spline=plan.spline).inv(style.double())
        return torch.cat([content, moved.to(content.dtype)], dim=-1), anchors.library[chosen]

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
        codes = np.asarray(
            self.get_latent_representation(adata, representation="full", indices=chosen)
        )
        device = self.module.device
        nuisance = self.module.first_levels(len(codes)).to(device)
        n_genes = self.module.likelihoods[JOINT].n_genes

        def raw(values: Tensor) -> Tensor:
            decoded: Tensor = self.module.decode_codes(values, nuisance)[:, :n_genes]
            return decoded

        change = mean_absolute_jacobian(raw, torch.tensor(codes, device=device))
        found = change * torch.tensor(codes.std(axis=0), device=device)[:, None]
        names = [f"{name}_{i}" for name, n in self.module.n_latents.items() for i in range(n)]
        return pd.DataFrame(found.T.cpu().numpy(), index=self.get_var_names(), columns=names)
