"""Counterfactual cells and expression under another condition."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from scdisent import __version__
from scdisent._constants import KEYS, UNS_KEY
from scdisent._errors import (
    OptionError,
    ScDisentWarning,
    SetupError,
    one_of,
)
from scdisent._names import without_dose
from scdisent.data import _registry as reg
from scdisent.data import conditions_of
from scdisent.effects import EffectTable
from scdisent.model._anchor import group_names
from scdisent.model._codes_mixin import CodesMixin
from scdisent.model._common import cuda_devices, need_cells, resolve_seed, subset
from scdisent.model._effect_mixin import BY_DEFAULT, EffectMixin
from scdisent.model._sinks import sink_at
from scdisent.model._transfer import OF_UNSEEN, TRANSFERS, Anchors, Transfer
from scdisent.module import INVARIANT, SPECIFIC
from scdisent.nn import Cells

EFFECTS, N_CELLS = "effects_means", "effects_n_cells"
"""Names under which a model folder holds the effects of the training cells."""
MAX_ANCHORS = 1_000


class PredictMixin(CodesMixin, EffectMixin):
    """Prediction for models with an invariant and a specific block."""

    transfers: ClassVar[tuple[str, ...]] = TRANSFERS
    """Recipes of the model; the first one moves codes."""
    anchors_: Anchors | None = None

    def _warn_if_arithmetic_is_better(self) -> None:
        check = self.response_check_
        if check is not None and check["ratio"] > 1:
            msg = (
                f"on cell types left out (tl.check_response, {check['condition']!r}) the closed "
                f"form {check['best']!r} was better: the model's squared error was "
                f"{check['ratio']:.2f} times as large. Consider ShiftModel, or anchor_weight=1."
            )
            warnings.warn(msg, ScDisentWarning, stacklevel=3)

    def _need_conditions(self) -> None:
        """Refuse cells that were set up without a condition."""
        if reg.setup_argument(self.registry_, "condition_key") is None:
            name = type(self).__name__
            msg = (
                f"{name} splits expression by condition, but setup was given condition_key=None. "
                "Run scdisent.setup_anndata(adata, condition_key=...), or use scdisent.BFVAE."
            )
            raise SetupError(msg)

    @torch.inference_mode()
    def predict(
        self,
        adata: AnnData | None = None,
        *,
        condition: str,
        reference: str | None = None,
        dose: float | None = None,
        kind: str = "counts",
        transfer: str | None = None,
        noise: str = "keep",
        n_neighbors: int = 15,
        anchor: str | None = "default",
        anchor_weight: float = 0.5,
        n_samples: int = 1,
        indices: Sequence[int] | NDArray[np.generic] | None = None,
        batch_size: int | None = None,
        allow_reconstruction: bool = False,
        out: str | Path | None = None,
        seed: int | None = None,
    ) -> AnnData:
        r"""Counterfactual cells: each source cell as it would be under ``condition``.

        With :math:`a, a'` the decoder's statements about the cell under its own and under the
        target condition, the cell keeps what the decoder did not explain: counts are thinned or
        added by the ratio of the two rates (see ``noise``).

        Parameters
        ----------
        adata
            Source cells; None: the model's own. Their condition column may be missing.
        condition
            Target condition.
        reference
            Condition of the source cells; None: read from their condition column, and without
            one the control of the setup.
        dose
            Of ``condition``, where setup had ``dose_key`` (or the condition table has a row to
            which the dose belongs). It need not be one of training.
        kind
            ``"counts"``: values as the likelihood draws them (whole numbers for count models);
            ``"mean"``: their expectation.
        transfer
            How the decoder's statement is moved; None: the model's default, for DISCoVeR
            ``"decoder"`` to conditions of training, ``"mean_difference"`` to others.
            ``"decoder"``: no w, the ratio p(x | z, y') / p(x | z, y) of the invariant head;
            ``"mean_difference"``: w plus the difference of the conditions' mean w in training, or
            of what the prior says; ``"local_difference"``: the same over the ``n_neighbors``
            nearest training cells in z; ``"nearest"``: mean w of the nearest training cells of the
            target; ``"prior"``: mean of p(w | z, y'); ``"swap"``: q(w | x, y'), which keeps the
            source condition that w reads in x.
        noise
            ``"keep"``: abduction, the cell's own noise; ``"fresh"``: a new draw of the decoder.
        n_neighbors
            Of the local recipes.
        anchor
            Recipe of :mod:`scdisent.effects` ("stacked", "ridge", "weighted", "nearest", "mean", or
            "auto": the best of them on cell types of training left out in turn) towards whose mean
            the prediction is moved, cell type by cell type; None: what the decoder says.
            "default": "auto" for DISCoVeR where setup named cell types, and for conditions without
            cells; else None.
        anchor_weight
            Share of the closed form in that mean; 0 leaves the decoder's.
        n_samples
            Counterfactual cells for each source cell.
        indices, batch_size
            Cells to use; cells decoded at once.
        allow_reconstruction
            Accept source cells that already carry the target condition.
        out
            New ``.zarr`` folder to which values are written batch by batch, for more cells than
            memory holds; ``X`` of the result then stays on disk. None: in memory.
        seed
            Of the draws.

        Returns
        -------
        Predicted cells. ``X``: values as described; ``obs``: the source's columns, with
        ``source_cell``, ``condition`` (target), ``scdisent_seen`` (whether the target was in
        training) and ``scdisent_support`` (near 1: z lies among training cells of the target, 0:
        further out than all of them); ``uns["scdisent"]["prediction"]``: what was done, with
        ``code_distance``: how far a new condition's code lies from those of training, in units of
        the distance between neighbours there.

        Raises
        ------
        OptionError
            For a condition that was not in training and has no code, or source cells already in it.
        """
        self._need_training()
        _check_options(kind, noise, anchor_weight=anchor_weight, n_samples=n_samples)
        if anchor == BY_DEFAULT and transfer is None:
            self._warn_if_arithmetic_is_better()
        sink, condition = sink_at(out), self._named_condition(condition, dose)
        source = need_cells(subset(self._source(adata), indices))
        plan = self._transfer_to(condition, transfer, n_neighbors=n_neighbors)
        codes = self._source_codes(source, reference)
        if not allow_reconstruction:
            self._refuse_reconstruction(codes, plan.target)
        options = {"weight": anchor_weight, "seed": resolve_seed(seed)}
        aim = self._aim(plan, condition, recipe=anchor, **options)
        plan, strata = self._moved(source, codes, plan, aim, may_fail=anchor == BY_DEFAULT)
        rng = np.random.default_rng(resolve_seed(seed)) if kind == "counts" else None
        made = {
            "condition": condition,
            "reference": sorted({self.conditions[code] for code in np.unique(codes)}),
            "kind": kind,
            "transfer": plan.recipe,
            "anchor": "" if aim is None or strata is None else aim.recipe,
            "noise": noise,
            "seed": resolve_seed(seed),
            **plan.notes,
        }
        near = []
        with sink:
            for _ in range(n_samples):
                for cells in self._cells_of(source, codes, batch_size=batch_size, strata=strata):
                    sink.add(self._predicted(cells, plan, noise=noise, rng=rng))
                    near.append(self._support(cells, plan))
            rest = self._described(source, np.concatenate(near), made=made, n_samples=n_samples)
            return sink.finish(rest)

    @torch.inference_mode()
    def _read_anchors(self, datamodule: Any) -> Anchors:
        """Codes of up to ``MAX_ANCHORS`` training cells of each condition."""
        counts = torch.zeros(len(self.conditions), dtype=torch.int64)
        kept: list[tuple[Tensor, ...]] = []
        for batch in datamodule.train_dataloader():
            cells = self.module.moved_cells(batch)
            condition = cells.condition.cpu()
            rank = F.one_hot(condition, len(counts)).cumsum(0)[range(len(condition)), condition]
            chosen = rank + counts[condition] <= MAX_ANCHORS
            z, w = (self.module.posterior(cells, block).mean for block in (INVARIANT, SPECIFIC))
            found = (z, w, cells.condition, cells.library)
            kept.append(tuple(value.cpu()[chosen] for value in found))
            counts += torch.bincount(condition, minlength=len(counts))
            if bool((counts >= MAX_ANCHORS).all()):
                break
        return Anchors(*(torch.cat(part) for part in zip(*kept, strict=True)))

    def _remember(self, datamodule: Any) -> None:
        """Keep of the training cells what predictions need."""
        if self.is_trained_:
            self.anchors_ = self._read_anchors(datamodule)
            self._read_effects(datamodule)

    def _extra_tensors(self) -> dict[str, Tensor]:
        tensors = {} if self.anchors_ is None else dict(vars(self.anchors_))
        if self.effects_ is not None:
            tensors[EFFECTS] = torch.from_numpy(self.effects_.means)
            tensors[N_CELLS] = torch.from_numpy(self.effects_.n_cells)
        return tensors

    def _set_extra_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        tensors = dict(tensors)
        if EFFECTS in tensors:
            self.effects_ = EffectTable(
                tuple(group_names(self.registry_)),
                tuple(self.conditions),
                self.control or self.conditions[0],
                tensors.pop(EFFECTS).numpy(),
                tensors.pop(N_CELLS).numpy(),
                is_log=self.module.expects == "counts",
            )
        self.anchors_ = Anchors(**tensors) if tensors else None

    def _default_transfer(self, *, seen: bool) -> str:
        """The invariant head where it sees the condition; it was the better of both on Kang.

        A condition without cells moves w: there the head, fed with a code that it never saw, was
        far off on knock-outs of Papalexi.
        """
        sees = self.module.invariant_head == "z_condition"
        return "decoder" if sees and seen else "mean_difference"

    def _transfer_to(
        self, condition: str, recipe: str | None, *, n_neighbors: int = 15
    ) -> Transfer:
        seen = str(condition) in self.conditions
        recipe = one_of(recipe or self._default_transfer(seen=seen), self.transfers, "transfer")
        if recipe == "decoder" and self.module.invariant_head != "z_condition":
            msg = (
                "transfer='decoder' needs an invariant head that sees the condition. Build the "
                "model with invariant_head='z_condition', or choose another recipe."
            )
            raise OptionError(msg)
        if self.anchors_ is None:
            msg = "this model holds no codes of training cells to transfer from: train it again."
            raise SetupError(msg)
        anchors = self.anchors_.to(self.module.device)
        if seen:
            return Transfer(recipe, n_neighbors, anchors, self.condition_code(condition))
        self._need_code(str(condition), self.module.code, recipe, may=OF_UNSEEN)
        inputs = self._condition_inputs([str(condition)])
        code, (distance, _) = (
            self.module.code(inputs),
            self._code_distance(self.module.code, inputs),
        )
        return Transfer(recipe, n_neighbors, anchors, -1, unseen=code, code_distance=distance)

    def _source_codes(self, source: AnnData, reference: str | None) -> NDArray[np.int64]:
        """Condition of each source cell: as named, as in its column, else the control."""
        key = reg.setup_argument(self.registry_, "condition_key")
        if reference is None and key in source.obs:
            names = conditions_of(source.obs, self.registry_)
            codes = {v: self.condition_code(v, argument="source condition") for v in names.unique()}
            return names.map(codes).to_numpy(dtype=np.int64, copy=True)
        name = self.control if reference is None else reference
        if name is None:
            msg = (
                f"the source cells have no column {key!r} and setup named no control: say which "
                f"condition they are in with reference=, one of {self.conditions}."
            )
            raise SetupError(msg)
        return np.full(source.n_obs, self.condition_code(name, argument="reference"))

    def _refuse_reconstruction(self, codes: NDArray[np.int64], target: int) -> None:
        n_there = int((codes == target).sum())
        if n_there:
            msg = (
                f"{n_there:,} of {len(codes):,} source cells already carry the target condition "
                f"{self.conditions[target]!r}: predicting them is reconstruction and says nothing "
                "about prediction. Pass cells of another condition, or allow_reconstruction=True."
            )
            raise OptionError(msg)

    def _predicted(
        self, cells: Cells, plan: Transfer, *, noise: str, rng: np.random.Generator | None
    ) -> sparse.csr_matrix | NDArray[np.float32]:
        """Values of one minibatch under the target."""
        head, before, after = plan.decode(self.module, cells)
        if noise == "keep":
            drawn = head.carry_over(cells, before, after, rng=rng)
        else:
            fresh = head.distribution(after, cells.library)
            drawn = fresh.mean if rng is None else seeded_sample(fresh, rng)
        values = drawn.float().cpu().numpy()
        is_counts = rng is not None and self.module.expects == "counts"
        return sparse.csr_matrix(values) if is_counts else values

    def _support(self, cells: Cells, plan: Transfer) -> NDArray[np.float32]:
        return plan.near(self.module.posterior(cells, INVARIANT).mean).cpu().numpy()

    def _described(
        self,
        source: AnnData,
        support: NDArray[np.float32],
        *,
        made: dict[str, Any],
        n_samples: int,
    ) -> AnnData:
        """Predicted cells without their values."""
        own = [column for column in source.obs if not str(column).startswith("_scvi_")]
        obs = pd.concat([source.obs[own]] * n_samples).copy()
        target = made["condition"]
        obs["source_cell"] = obs.index.to_numpy()
        suffix = [f"_{i}" if n_samples > 1 else "" for i in range(n_samples)]
        obs.index = [f"{name}_{target}{end}" for end in suffix for name in source.obs_names]
        levels = list(reg.levels(self.registry_, KEYS.CONDITION))  # as in training: text or numbers
        seen = target in self.conditions
        code = self.conditions.index(target) if seen else len(levels)
        if not seen:  # files hold levels of one type
            levels = [*levels, target] if isinstance(levels[0], str) else [*self.conditions, target]
        key, dose_key = (
            reg.setup_argument(self.registry_, name) for name in ("condition_key", "dose_key")
        )
        for column in {"condition", key}:
            obs[column] = pd.Categorical.from_codes([code] * len(obs), categories=levels)
        if dose_key is not None:
            table = self.condition_table
            separator = "+" if table is None else table.separator
            obs[key], obs[dose_key] = without_dose(target, separator=separator)
            obs.loc[obs[key] == self.control, dose_key] = 0.0
        obs["scdisent_seen"] = seen
        obs["scdisent_support"] = support
        what = "values drawn" if made["kind"] == "counts" else "expected values"
        made |= {
            "model": type(self).__name__,
            "version": __version__,
            "likelihood": self.likelihood,
            "x": f"{what} in the units of the training layer, at each source cell's library",
        }
        genes = reg.gene_names(self.registry_)
        var = source.var.reindex(genes) if source.var_names.is_unique else pd.DataFrame(index=genes)
        return AnnData(obs=obs, var=var, uns={UNS_KEY: {"prediction": made}})


def _check_options(kind: str, noise: str, *, anchor_weight: float, n_samples: int) -> None:
    """Refuse options of ``predict`` that do not fit."""
    one_of(kind, ("counts", "mean"), "kind")
    one_of(noise, ("keep", "fresh"), "noise")
    if not 0 <= anchor_weight <= 1:
        msg = f"anchor_weight={anchor_weight} must lie between 0 and 1."
        raise OptionError(msg)
    if n_samples < 1 or (kind == "mean" and n_samples > 1):
        msg = f"n_samples={n_samples} with kind={kind!r}: expected at least 1, and 1 for means."
        raise OptionError(msg)


def seeded_sample(distribution: Any, rng: np.random.Generator) -> Tensor:
    """Sample a torch distribution from a seed of ``rng``; the global state stays as it was."""
    with torch.random.fork_rng(devices=cuda_devices()):
        torch.manual_seed(int(rng.integers(2**63)))
        drawn: Tensor = distribution.sample()
    return drawn
