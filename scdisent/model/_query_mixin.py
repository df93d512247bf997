"""New donors, data sets and conditions for a trained model."""

from typing import Any, cast

from anndata import AnnData

from scdisent._constants import KEYS
from scdisent._errors import OptionError
from scdisent.data import _registry as reg
from scdisent.data import with_genes_of
from scdisent.effects import EffectTable
from scdisent.model._adapt import adopt, joined_anchors, joined_effects
from scdisent.model._base import register
from scdisent.model._expression_mixin import ExpressionMixin
from scdisent.model._manager import as_it_was_on_failure, build_manager
from scdisent.model._transfer import Anchors

ADAPTING_RATE = 1e-2
PENALTIES = ("adversary", "mmd", "hsic", "independence")


class QueryMixin(ExpressionMixin):
    """For modules whose levels are rows and columns of weights."""

    reference_: "QueryMixin | None" = None
    is_adapted_: bool | None = None

    @classmethod
    def load_query_data(cls, adata: AnnData, reference_model: "QueryMixin") -> "QueryMixin":
        """Build a model that knows what a trained one knows, for cells with further levels.

        Conditions, batches and covariates that the reference has not seen get weights of their own;
        ``train`` then fits these and nothing else, so that a few cells of a new condition are
        enough and everything known stays as it is. Cells of known levels need none of this:
        getters and ``predict`` take them as they are.

        Parameters
        ----------
        adata
            New cells with the columns named at setup. Genes are matched by name: other orders and
            further genes are put right in a copy.
        reference_model
            A trained model of this class.

        Returns
        -------
        A model to be trained: ``model.train(max_epochs=...)``.

        Raises
        ------
        NotTrainedError, InputDataError
            If the reference is not trained, or genes are missing.
        OptionError
            If nothing in the cells is new; or for a new condition where codes are computed from the
            condition table, which needs no cells of it.

        Notes
        -----
        After Lotfollahi et al. 2022 (scArches), as in scvi-tools: new weights only, running
        statistics fixed. Unlike there, encoders are never retrained: they do not read the batch.
        New weights can only say what the network has seen genes do together; what is new of a
        condition comes into predictions by the closed form (``anchor``).
        """
        reference_model._need_training()
        adata = with_genes_of(adata, reference_model.registry_)
        with as_it_was_on_failure(adata):
            return cls._adapted_to(adata, reference_model)

    @classmethod
    def _adapted_to(cls, adata: AnnData, reference_model: "QueryMixin") -> "QueryMixin":
        registry = reference_model.registry_
        arguments = cls._get_setup_method_args(cls=cls, adata=adata)
        arguments["setup_args"] = dict(registry["setup_args"])
        manager = build_manager(adata, arguments, source_registry=registry, new_levels=True)
        register(manager)
        options = reference_model._arguments()
        weights = {**reference_model.weights, **dict.fromkeys(PENALTIES, 0.0)}
        options["weights"] = {k: v for k, v in weights.items() if k in reference_model.weights}
        conditions = map(str, reg.levels(manager.registry, KEYS.CONDITION))
        new = sorted(set(conditions) - set(reference_model.conditions))
        if new and reference_model.options.specific_prior == "fixed":
            msg = (
                f"{new}: a fixed prior has columns of w for the conditions of training only. Train "
                "with cells of all conditions, or with specific_prior='embedding'."
            )
            raise OptionError(msg)
        model = cls(adata, **options)
        if new and model.module.code is not None:
            msg = (
                f"{new} need no cells: this model computes codes from the condition table, so "
                "predict(condition=...) answers for every condition that has a row in it."
            )
            raise OptionError(msg)
        adopt(model.module, reference_model.module)
        if not any(weight.requires_grad for weight in model.module.parameters()):
            msg = (
                "these cells have no condition, batch or covariate that is new to the reference: "
                "nothing to learn. Pass them to its predict and getters as they are."
            )
            raise OptionError(msg)
        model.reference_ = reference_model
        return model

    def _before_training(self) -> None:
        if self.is_adapted_ and self.reference_ is None:
            msg = (
                "this model was adapted to new cells and saved; training it on would change what "
                "its reference knew. Call load_query_data with the reference again."
            )
            raise OptionError(msg)

    def _plan_defaults(self) -> dict[str, Any]:
        """A few weights are learned in few steps."""
        return {} if self.reference_ is None else {"lr": ADAPTING_RATE}

    def _after_training(self, datamodule: Any, guard: Any) -> None:
        self._remember(datamodule)
        if self.reference_ is not None and self.is_trained_:
            self.is_adapted_ = True
            known = self.reference_
            self.anchors_ = joined_anchors(*(cast("Anchors", m.anchors_) for m in (known, self)))
            self.effects_ = joined_effects(
                *(cast("EffectTable", m.effects_) for m in (known, self))
            )
        super()._after_training(datamodule, guard)
