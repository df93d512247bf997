"""Codes of conditions that were not in training, computed from what is known of them."""

import math
from collections.abc import Sequence
from functools import partial

import torch

from scdisent._errors import OptionError, SetupError
from scdisent._names import AT, at_dose, same_set, without_dose
from scdisent.conditions import EncodedConditions
from scdisent.data import _registry as reg
from scdisent.model._base import DisentModel
from scdisent.nn import ConditionCode, ConditionInputs

CONDITION_CODES = ("auto", "index", "covariates")


class CodesMixin(DisentModel):
    """For modules that read a :class:`scdisent.nn.ConditionCode`."""

    def _inputs_of_training(self, code: str) -> ConditionInputs | None:
        """What codes of the conditions of training are computed from; None: they are learned."""
        if code == "covariates" or (code == "auto" and self.condition_table is not None):
            return self._condition_inputs(self.conditions)
        return None

    def _condition_inputs(self, conditions: Sequence[str]) -> ConditionInputs:
        """What the condition table says of some conditions, as tensors beside the weights."""
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
        device = self.module.device if hasattr(self, "module") else "cpu"
        return ConditionInputs(
            **{k: torch.from_numpy(v).to(device) for k, v in vars(found).items()}
        )

    def _named_condition(self, condition: str, dose: float | None = None) -> str:
        """Name under which the model knows a condition at a dose.

        Parameters
        ----------
        condition
            A level of the condition column, or a full name such as ``"drug@0.5"``; the parts of a
            combination in any order.
        dose
            0: the control.

        Raises
        ------
        OptionError
            If conditions have doses and none is given.
        """
        table = self.condition_table
        separator = "+" if table is None else table.separator
        known_as = partial(
            same_set, known=self.conditions, control=self.control, separator=separator
        )
        condition = known_as(str(condition))
        if dose is not None:
            if dose == 0 and self.control is not None:
                return str(self.control)
            if not math.isnan(without_dose(condition, separator=separator)[1]):
                msg = f"condition={condition!r} names a dose already. Leave dose= out, or the name."
                raise OptionError(msg)
            return known_as(at_dose(condition, dose, separator=separator))
        if reg.setup_argument(self.registry_, "dose_key") is None or condition in self.conditions:
            return condition
        if any(AT not in part for part in condition.split(separator)):
            doses = [name for name in self.conditions if AT in name]
            msg = f"{condition!r} has no dose, but conditions are {doses[:10]}. Say it with dose=."
            raise OptionError(msg)
        return condition

    def _need_code(
        self, condition: str, code: ConditionCode | None, recipe: str, *, may: Sequence[str]
    ) -> None:
        """Refuse a condition without cells that has no code, or a recipe that needs its cells."""
        if code is None or not code.knows_new:
            name = type(self).__name__
            msg = (
                f"condition={condition!r} was not in training, and this model has a learned code "
                f"for each of {self.conditions} only. Train with cells of it, or run setup_anndata "
                "with condition_table= (doses, categories or embeddings, with a row for it) and "
                f"build {name}(adata, condition_code='covariates')."
            )
            raise OptionError(msg)
        if recipe not in may:
            msg = f"transfer={recipe!r} needs training cells of {condition!r}. Use {may[0]!r}."
            raise OptionError(msg)

    def _code_distance(
        self, code: ConditionCode, inputs: ConditionInputs | None
    ) -> tuple[float, float]:
        """Distance of a new code from those of training, and trust in what was learned there.

        In units of the median distance of a training code from its nearest neighbour.
        """
        known = code()
        between = torch.cdist(known, known).fill_diagonal_(torch.inf).amin(dim=1).median()
        distance = torch.cdist(code(inputs), known).min() / between.clamp_min(1e-12)
        return float(distance), float(torch.exp(-(distance**2)))
