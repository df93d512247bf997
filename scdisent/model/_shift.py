"""Closed-form prediction behind the interface of the models."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor

from scdisent._errors import OptionError, one_of
from scdisent.effects import AUTO, GROUP_RECIPES, UNSEEN, EffectTable, correlations
from scdisent.model._anchor import Stratum, training_cells
from scdisent.model._change_mixin import ChangeMixin
from scdisent.model._effect_mixin import BY_DEFAULT, Aim
from scdisent.model._transfer import Anchors, Transfer
from scdisent.module import JOINT, ShiftModule
from scdisent.nn import Cells

IDENTITY = "identity"
SHIFT_LIKELIHOODS = ("nb", "poisson", "normal")
TRAIN_BATCH_SIZE = 4096


@dataclass(frozen=True)
class Shift(Transfer):
    """Every cell has the mean of its stratum, and the offset is the whole effect."""

    base: Tensor
    """Logits of the mean of each stratum, ``(n_strata, n_genes)``."""
    trust: Tensor
    """``(n_strata,)``: see ``scdisent_support`` in :class:`ShiftModel`."""

    def _decode(self, module: Any, cells: Cells) -> tuple[Any, Tensor, Tensor]:
        base = self.base[cells.cell_type if len(self.base) > 1 else cells.condition * 0]
        return module.likelihoods[JOINT], base, base


class ShiftModel(ChangeMixin):
    r"""The baselines: effects in closed form, carried over to single cells.

    .. math:: \bar x_{g c'} = \bar x_{g c} + \sum_{k} v_k \sum_{h} w_h \, \delta_{h k}

    with the mean log-normalised expression of a cell type g under the source condition c, effects
    of the conditions k on the cell types h of training, and the weights of :mod:`scdisent.effects`.
    Counts are thinned or added gene by gene at the one ratio of rates that reaches this mean, so
    that predictions are counts with a plausible spread. Nothing is trained by gradients.

    Parameters
    ----------
    adata
        AnnData set up by :func:`scdisent.setup_anndata`, with ``labels_key`` where effects differ
        between cell types.
    likelihood
        ``"nb"``, ``"poisson"`` for counts, ``"normal"`` for real values, which are shifted.
    unseen
        How conditions without cells are made up from those with; see
        :func:`scdisent.effects.condition_weights`.
    registry
        Registry of a datamodule instead of ``adata``, for cells on disk.

    Notes
    -----
    ``predict(transfer=...)``: how the effect on a cell type that was not seen under the target is
    made up: ``"stacked"``, ``"ridge"``, ``"weighted"``, ``"nearest"``, ``"mean"``, or
    ``"identity"``, which changes nothing; ``"auto"`` (default) is the one that would have predicted
    the cell types of training best, each left out in turn. ``scdisent_support`` is the correlation
    of the stratum's mean expression with the nearest cell type that was seen under the target. The
    recipes are those of the field's benchmarks. "stacked" is ours, as is that they reach single
    cells by counts.
    """

    _module_cls = ShiftModule
    transfers: ClassVar[tuple[str, ...]] = (AUTO, *GROUP_RECIPES, IDENTITY)

    def __init__(
        self,
        adata: AnnData | None = None,
        *,
        likelihood: str = "nb",
        unseen: str = "auto",
        registry: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(adata, registry)
        self._need_conditions()
        self.likelihood = one_of(likelihood, SHIFT_LIKELIHOODS, "likelihood")
        self.unseen = one_of(unseen, UNSEEN, "unseen")
        self.module = self._module_cls(**self._sizes(), likelihood=likelihood)
        self._check_data()
        self.init_params_ = self._get_init_params(locals())
        self._model_summary_string = f"ShiftModel: likelihood {likelihood}, unseen {unseen}"

    def train(
        self, max_epochs: int | None = None, *, datamodule: Any = None, **options: Any
    ) -> None:
        """Average the cells in one pass.

        Parameters
        ----------
        max_epochs, **options
            Refused: nothing is trained by gradients.
        datamodule
            Any Lightning datamodule that yields scvi-tools' minibatches, for cells on disk.

        Raises
        ------
        OptionError
            For options of other models.
        """
        if max_epochs is not None or options:
            given = sorted({*options, *(["max_epochs"] if max_epochs is not None else [])})
            msg = f"a ShiftModel only averages cells and has no {given}. Call train()."
            raise OptionError(msg)
        if datamodule is None:
            datamodule = self._make_datamodule(
                batch_size=TRAIN_BATCH_SIZE, train_size=1.0, validation_size=None, seed=0
            )
        datamodule.setup("fit")
        self.module.fit_dispersion(map(self.module.cells, training_cells(datamodule)))
        self._read_effects(datamodule)
        self.is_trained_ = True
        self.module.eval()
        self.train_indices_ = np.arange(getattr(datamodule, "n_train", 0))
        self.validation_indices_ = self.test_indices_ = np.arange(0)

    def _transfer_to(self, condition: str, recipe: str | None, *, n_neighbors: int = 15) -> Shift:
        recipe = one_of(recipe or self.transfers[0], self.transfers, "transfer")
        seen = str(condition) in self.conditions
        target = self.condition_code(condition) if seen else -1
        device = self.module.device
        none = torch.zeros(0, device=device)
        flat, trust = torch.zeros(1, self.summary_stats.n_vars, device=device), none.new_ones(1)
        codes = Anchors(none, none, none, none)
        return Shift(recipe, n_neighbors, codes, target, flat, trust)

    def _aim(self, plan: Transfer, condition: str, **options: Any) -> Aim | None:
        if options["recipe"] not in (None, BY_DEFAULT):
            msg = "anchor= moves a network's prediction; a ShiftModel takes transfer= instead."
            raise OptionError(msg)
        if plan.recipe == IDENTITY:
            return None
        return Aim(condition, plan.recipe, 1.0, options["seed"], unseen=self.unseen)

    def _anchored(
        self, source: AnnData, codes: NDArray[np.int64], plan: Transfer, aim: Aim
    ) -> tuple[Transfer, NDArray[np.int64]]:
        strata, index = self._strata(source, codes, plan, aim)
        base, offsets, trust = [], [], []
        for stratum in strata:
            base.append(self.module.logits(stratum.mean))
            offsets.append(self._offset(on_base(stratum, base[-1]), aim))
            trust.append(self._trust(stratum, plan))
        moved = replace(
            cast("Shift", plan),
            offset=torch.stack(offsets),
            base=torch.stack(base),
            trust=torch.tensor(trust, device=self.module.device),
        )
        return moved, index

    def _trust(self, stratum: Stratum, plan: Transfer) -> float:
        """Correlation with the nearest cell type that was seen under the target."""
        effects = cast("EffectTable", self.effects_)
        seen = effects.n_cells[:, plan.target] > 0 if plan.target >= 0 else slice(None)
        profiles = effects.profiles(stratum.reference)[seen]
        known = profiles[np.isfinite(profiles).all(axis=1)]
        own = stratum.mean.double().cpu().numpy()
        return float(correlations(known, own).max(initial=0.0))

    def _support(self, cells: Cells, plan: Transfer) -> NDArray[np.float32]:
        trust = cast("Shift", plan).trust
        return trust[cells.cell_type if len(trust) > 1 else cells.condition * 0].cpu().numpy()


def on_base(stratum: Stratum, base: Tensor) -> Stratum:
    """The same cells, of each of which the decoder says the stratum's mean."""
    rows = [base.expand(len(said.cells), -1) for said in stratum.statements]
    said = zip(stratum.statements, rows, strict=True)
    moved = [replace(s, before=row, after=row) for s, row in said]
    return replace(stratum, statements=moved)
