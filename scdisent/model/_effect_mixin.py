"""Predictions whose means are those of closed-form effects."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor

from scdisent._constants import KEYS
from scdisent._errors import InputDataError, OptionError, SetupError
from scdisent.data import _registry as reg
from scdisent.effects import EffectTable, predicted_effect
from scdisent.model._anchor import (
    N_CALIBRATION,
    Statement,
    Stratum,
    calibrated_offset,
    expression,
    groups_of,
    n_copies,
    own_mean,
    read_effects,
    training_cells,
)
from scdisent.model._base import DisentModel
from scdisent.model._common import subset
from scdisent.model._transfer import Transfer
from scdisent.nn import Cells

DECODER_FIELDS = (KEYS.BATCH, KEYS.CATEGORICAL_COVARIATES, KEYS.CONTINUOUS_COVARIATES)
LIBRARY_FIELDS = (KEYS.SIZE_FACTOR,)


@dataclass(frozen=True)
class Aim:
    """Which closed-form effect the mean of a prediction is moved towards, and how far."""

    condition: str
    recipe: str
    weight: float
    seed: int
    unseen: str = "auto"


BY_DEFAULT = "default"


class EffectMixin(DisentModel):
    """Effects of the training cells, and offsets that bring predictions to them."""

    default_anchor: ClassVar[str | None] = None
    """Recipe of ``anchor="default"``; not for seen conditions where setup named no cell types."""
    effects_: EffectTable | None = None

    @torch.inference_mode()
    def _read_effects(self, datamodule: Any) -> None:
        """Mean expression of the training cells by cell type and condition."""
        batches = training_cells(datamodule)
        self.effects_ = read_effects(self.module, self.registry_, batches, control=self.control)

    def _aim(self, plan: Transfer, condition: str, **options: Any) -> Aim | None:
        """Closed-form effect to move means towards; None: the decoder has the last word."""
        if options["recipe"] == BY_DEFAULT:
            # Without cell types the mean effect may be that of another mixture of cells; where
            # there are no cells of the condition, it is still better than the network alone.
            is_known = reg.setup_argument(self.registry_, "labels_key") is not None
            options["recipe"] = self.default_anchor if is_known or plan.target < 0 else None
        return None if options["recipe"] is None else Aim(condition, **options)

    def _moved(
        self,
        source: AnnData,
        codes: NDArray[np.int64],
        plan: Transfer,
        aim: Aim | None,
        *,
        may_fail: bool,
    ) -> tuple[Transfer, NDArray[np.int64] | None]:
        """The plan with its offsets and strata, or as it was without an aim.

        ``may_fail``: also where the model's default has no closed form to move towards.
        """
        try:
            return (plan, None) if aim is None else self._anchored(source, codes, plan, aim)
        except (InputDataError, OptionError):
            if may_fail and self.default_anchor is not None:
                return plan, None
            raise

    def _anchored(
        self, source: AnnData, codes: NDArray[np.int64], plan: Transfer, aim: Aim
    ) -> tuple[Transfer, NDArray[np.int64]]:
        """The plan with an offset for each stratum, and the stratum of each source cell."""
        strata, index = self._strata(source, codes, plan, aim)
        offsets = torch.stack([self._offset(stratum, aim) for stratum in strata])
        return replace(plan, offset=offsets), index

    def _strata(
        self, source: AnnData, codes: NDArray[np.int64], plan: Transfer, aim: Aim
    ) -> tuple[Iterator[Stratum], NDArray[np.int64]]:
        """Cell types under a source condition, and which of them each cell belongs to."""
        if self.effects_ is None:
            msg = "this model holds no effects of its training cells: train it again."
            raise SetupError(msg)
        group, names = groups_of(source.obs, self.registry_)
        pairs, index = np.unique(np.column_stack([group, codes]), axis=0, return_inverse=True)
        index, rng = index.ravel(), np.random.default_rng(aim.seed)

        def one_by_one() -> Iterator[Stratum]:  # dense cells of all types at once may be too many
            for i, (own_group, code) in enumerate(pairs):
                chosen = np.sort(rng.permutation(np.flatnonzero(index == i))[:N_CALIBRATION])
                often = np.tile(np.arange(len(chosen)), n_copies(self.module, len(chosen)))
                cells = subset(source, chosen)[often]
                own = self._cells_of(cells, codes[chosen][often], batch_size=None)
                said = [Statement(each, *plan.decode(self.module, each)) for each in own]
                mean = torch.cat([expression(self.module, s.cells) for s in said]).mean(dim=0)
                yield Stratum(names[own_group], self.conditions[code], said, mean)

        return one_by_one(), index

    def _offset(self, stratum: Stratum, aim: Aim) -> Tensor:
        """Offset on the target's logits of one stratum, ``(n_genes,)``."""
        module, statements = self.module, stratum.statements
        effect = predicted_effect(
            cast("EffectTable", self.effects_),
            aim.condition,
            group=stratum.group,
            reference=stratum.reference,
            recipe=aim.recipe,
            unseen=aim.unseen,
            conditions=self.condition_table,
            profile=self._profile(stratum),
        )
        goal = stratum.mean + torch.from_numpy(effect).to(stratum.mean)
        if aim.weight < 1:
            own = own_mean(module, statements, seed=aim.seed)
            goal = own + aim.weight * (goal - own)
        return calibrated_offset(module, statements, goal, seed=aim.seed)

    def _profile(self, stratum: Stratum) -> NDArray[np.float64] | None:
        """Profile of a group that training did not see; those of training are less noisy."""
        effects = cast("EffectTable", self.effects_)
        if stratum.group in effects.groups:
            own = effects.profiles(stratum.reference)[effects.groups.index(stratum.group)]
            if np.isfinite(own).all():
                return None
        return stratum.mean.double().cpu().numpy()

    def _cells_of(
        self,
        source: AnnData,
        codes: NDArray[np.int64] | None,
        *,
        batch_size: int | None,
        as_batch: int | None = None,
        strata: NDArray[np.int64] | None = None,
    ) -> Iterator[Cells]:
        """Minibatches with the fields that decoders need.

        ``codes`` are the conditions and ``as_batch`` the technical batch; None: read from the
        columns. ``strata`` take the place of cell types, which decoders do not read.
        """
        fields = {*DECODER_FIELDS, *LIBRARY_FIELDS}
        fields |= {KEYS.CONDITION} if codes is None else set()
        fields -= set() if as_batch is None else {KEYS.BATCH}
        start = 0
        for tensors in self._loader(source, fields=fields, batch_size=batch_size):
            if as_batch is not None:
                tensors[KEYS.BATCH] = torch.full((len(tensors[KEYS.X]), 1), as_batch)
                tensors[KEYS.BATCH] = tensors[KEYS.BATCH].to(tensors[KEYS.X].device)
            cells = self.module.cells(tensors)
            given = {"condition": codes, "cell_type": strata}
            here = slice(start, start + len(cells))
            own = {
                name: torch.from_numpy(values[here]).to(cells.x.device)
                for name, values in given.items()
                if values is not None
            }
            start += len(cells)
            yield replace(cells, **own)
