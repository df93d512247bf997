"""Predicted changes of mean expression, with intervals."""

from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scdisent._errors import OptionError
from scdisent.effects import (
    AUTO,
    EffectTable,
    gaps_of_conditions,
    gaps_of_groups,
    half_width,
    log_normalise,
)
from scdisent.model._anchor import groups_of
from scdisent.model._predict_mixin import PredictMixin


class ChangeMixin(PredictMixin):
    """What a condition does to the mean of each cell type."""

    def predict_change(
        self,
        adata: AnnData | None = None,
        *,
        condition: str,
        dose: float | None = None,
        level: float = 0.9,
        **options: Any,
    ) -> pd.DataFrame:
        """Predict the change of mean expression of each cell type, with an interval.

        The interval is as wide as closed forms were wrong about what training knows: on cell types
        seen under the condition, each left out in turn, or, for a condition without cells, on
        conditions that could be guessed in the same way (see
        :func:`scdisent.effects.half_width`). It is meant for the mean of many cells and holds on
        average over genes; measured coverage stands in docs/prediction.md.

        Parameters
        ----------
        adata, condition, dose, **options
            As in ``predict``.
        level
            Probability of the interval.

        Returns
        -------
        A row for each cell type and gene: ``change`` of the mean (of log1p counts per 10,000, or of
        real values), ``low``, ``high``. NaN limits where training saw the answer, knows fewer than
        two others to learn from, or where a cell type's source cells are of several conditions.
        Recipes named by the caller have the intervals of ``"auto"``.

        Raises
        ------
        OptionError
            As ``predict``; or if the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            msg = f"level={level} must lie between 0 and 1, such as 0.9."
            raise OptionError(msg)
        source = self._source(adata)
        found = self.predict(source, condition=condition, dose=dose, **options)
        name = str(found.uns["scdisent"]["prediction"]["condition"])
        indices, n_samples = options.get("indices"), options.get("n_samples", 1)
        source = source if indices is None else source[np.asarray(indices)]
        codes, groups = groups_of(source.obs, self.registry_)
        starts = self._source_codes(source, options.get("reference"))
        before, after = (self._expression_of(cells) for cells in (source, found))
        frames = {}
        for code in np.unique(codes):
            here = codes == code
            change = _mean(after[np.tile(here, n_samples)]) - _mean(before[here])
            start = {self.conditions[i] for i in np.unique(starts[here])}
            width = self._width(groups[code], name, level, start=start)
            columns = {"change": change, "low": change - width, "high": change + width}
            frames[groups[code]] = pd.DataFrame(columns, index=found.var_names)
        return pd.concat(frames, names=["cell_type", "gene"])

    def _expression_of(self, cells: AnnData) -> Any:
        """Values whose means are compared, of the model's genes."""
        own = cells[:, self.get_var_names()]
        layer = self.registry_["setup_args"].get("layer")
        x = own.X if layer is None or layer not in own.layers else own.layers[layer]
        return log_normalise(x) if self.module.expects == "counts" else x

    def _width(
        self, group: str, condition: str, level: float, *, start: set[str]
    ) -> NDArray[np.float64]:
        """Half of the interval; NaN where nothing of the kind was left out."""
        table = cast("EffectTable", self.effects_)
        unknown = np.full(table.means.shape[-1], np.nan)
        if len(start) > 1:
            return unknown
        (reference,) = start
        if condition not in table.conditions:
            if reference != table.control:
                return unknown
            unseen = getattr(self, "unseen", AUTO)
            gaps = gaps_of_conditions(
                table, condition, unseen=unseen, conditions=self.condition_table
            )
            return half_width(gaps, level=level)
        column = table.conditions.index(condition)
        if group in table.groups and table.n_cells[table.groups.index(group), column]:
            return unknown
        return half_width(gaps_of_groups(table, condition, reference=reference), level=level)


def _mean(values: Any) -> NDArray[np.float64]:
    return np.asarray(values.mean(axis=0), dtype=np.float64).ravel()
