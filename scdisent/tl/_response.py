"""Predicted against observed cells, beside the baselines and the ceiling."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from anndata import AnnData, concat
from numpy.typing import NDArray
from scipy import sparse, stats
from sklearn.decomposition import PCA

from scdisent import metrics as sm
from scdisent._constants import UNS_KEY
from scdisent._errors import InputDataError, OptionError
from scdisent.effects import log_normalise
from scdisent.metrics._spec import spec_of

Floats = NDArray[np.float64]
CEILING, NO_CHANGE = "other half of the observed cells", "no change"
DUPLICATE = "interpolated duplicate"
MOST_CELLS = 2_000
"""Cells of each cloud that distances are computed on."""


@dataclass(frozen=True)
class Score:
    """A metric as the harness calls it."""

    function: Callable[..., float]
    larger_is_better: bool
    reads: str = "genes"
    """``"genes"``: (observed, predicted, control); ``"top"``: the same with the top genes;
    ``"perturbed"``: the same with cells of other conditions for control; ``"variance"``: (observed,
    predicted) of the top genes; ``"cloud"``: principal components."""


SCORES: Mapping[str, Score] = {
    "pearson_delta": Score(sm.pearson_delta, True),
    "pearson_delta_top": Score(sm.pearson_delta, True, "top"),
    "pearson_delta_perturbed": Score(sm.pearson_delta, True, "perturbed"),
    "r2_delta": Score(sm.r2_delta, True),
    "r2_delta_weighted": Score(partial(sm.r2_delta, weighted=True), True),
    "weighted_mse": Score(sm.weighted_mse, False),
    "de_overlap": Score(sm.de_overlap, True),
    "de_pr_auc": Score(sm.de_pr_auc, True),
    "direction_match": Score(sm.direction_match, True),
    "r2_variance_top": Score(sm.r2_variance, True, "variance"),
    "energy_distance": Score(sm.energy_distance, False, "cloud"),
    "mmd": Score(sm.mmd, False, "cloud"),
}


@dataclass(frozen=True)
class Setting:
    """What every method is held against: observed and control cells, the same for all."""

    observed: Floats
    control: Floats
    top: NDArray[np.intp]
    components: PCA
    perturbed: Floats | None = None

    @classmethod
    def of(cls, observed: Floats, control: Floats, *, n_top: int, n_components: int) -> "Setting":
        """Top genes and principal components of the real cells."""
        n_components = min(n_components, *observed.shape, len(observed) + len(control) - 1)
        pca = PCA(n_components, random_state=0)
        pca.fit(np.vstack([observed, control]))
        return cls(observed, control, sm.top_genes(observed, control, n=n_top), pca)

    def score(self, name: str, observed: Floats, predicted: Floats) -> float:
        """One metric of some predicted cells against some observed ones."""
        score = SCORES[name]
        if score.reads == "cloud":
            clouds = (self.components.transform(_some(x)) for x in (observed, predicted))
            return score.function(*clouds)
        if score.reads == "variance":
            return score.function(observed, predicted, genes=self.top)
        chosen = {"genes": self.top} if score.reads == "top" else {}
        start = self.perturbed if score.reads == "perturbed" else self.control
        return score.function(observed, predicted, start, **chosen)

    @property
    def scores(self) -> list[str]:
        """Names of those that can be computed."""
        has = self.perturbed is not None
        return [name for name, score in SCORES.items() if has or score.reads != "perturbed"]


def _some(cells: Floats) -> Floats:
    """At most :data:`MOST_CELLS`, drawn: the first ones may all be of one cell type."""
    if len(cells) <= MOST_CELLS:
        return cells
    return cells[np.random.default_rng(0).choice(len(cells), MOST_CELLS, replace=False)]


def evaluate_response(
    observed: AnnData,
    predicted: AnnData | Mapping[str, AnnData],
    control: AnnData,
    *,
    baselines: Any = None,
    perturbed: AnnData | None = None,
    layer: str | None = None,
    is_counts: bool = True,
    n_top: int = 100,
    n_components: int = 30,
    n_bootstrap: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Hold predictions against observed cells, beside baselines and the noise ceiling.

    .. math:: \text{normalised} = \frac{\text{value} - \text{best baseline}}
                                       {\text{ceiling} - \text{best baseline}}

    Parameters
    ----------
    observed
        Cells of the target condition, which no method has seen.
    predicted
        Their prediction, or predictions by name.
    control
        Source cells: the observed reference cells that changes are measured from, for everyone.
    baselines
        Cells by name, or a trained :class:`scdisent.ShiftModel`, whose recipes are then asked for
        the same cells. Arrays ``(n_cells, n_genes)`` are taken as log-normalised expression of the
        predicted genes. None: no change.
    perturbed
        Cells of other conditions than the control. With them ``pearson_delta_perturbed`` measures
        changes from their mean: what all conditions share no longer counts (Systema,
        Viñas Torné et al. 2025).
    layer
        Layer of ``observed`` and ``control`` that ``predicted.X`` is comparable with; None: ``X``.
    is_counts
        Log-normalise all values; False: take them as they are.
    n_top
        Observed genes of largest Welch t, for the columns that end in ``_top``.
    n_components
        Principal components of the real cells, for distances.
    n_bootstrap
        Resamples of the cells for an interval of at least 90 %; 0: none. It is moved so that
        their median is the value: resampling adds noise of its own, so clouds agree less.
    seed
        Of the halves, of the baselines' draws and of the resamples.

    Returns
    -------
    One row for each method and metric: ``method``, ``kind`` (prediction, baseline, ceiling,
    positive control: the ceiling with less noise, see Notes), ``metric`` (see
    :data:`scdisent.metrics.METRICS`), ``value``, ``low``, ``high``, ``normalised`` (0: as good as
    the best baseline, 1: as a second sample of the truth; not clipped; NaN where the best baseline
    reaches that).
    ``table.pivot(index="method", columns="metric", values="value")`` is the usual form.

    Raises
    ------
    InputDataError
        If a gene of the prediction is missing in the others, or there are fewer than four observed
        cells.

    Notes
    -----
    The positive control is the interpolated duplicate of Miller et al. 2025 (recalled): half of the
    observed cells, each gene moved to the control's mean by the p-value of its Welch's t. Theirs
    moves means, to that of the data set; ours moves cells, for distances too. A metric that does
    not tell it from the baselines has no room for any method.
    """
    found = {"prediction": predicted} if isinstance(predicted, AnnData) else dict(predicted)
    if not found:
        msg = "predicted holds no predictions. Pass an AnnData, or a dictionary of them."
        raise OptionError(msg)
    genes = next(iter(found.values())).var_names
    read = partial(_values, genes=genes, is_counts=is_counts)
    setting = Setting.of(
        read(observed, layer), read(control, layer), n_top=n_top, n_components=n_components
    )
    if perturbed is not None:
        setting = replace(setting, perturbed=read(perturbed, layer))
    if len(setting.observed) < 4:
        msg = f"{len(setting.observed)} observed cells are too few to be judged by: at least 4."
        raise InputDataError(msg)
    scored = partial(_rows, setting, n_bootstrap=n_bootstrap, seed=seed)
    rows = []
    for kind, name, cells in _methods(found, baselines, control, layer, seed):
        rows += scored(read(cells, None), method=name, kind=kind)
    order = np.random.default_rng(seed).permutation(len(setting.observed))
    first, second = np.array_split(setting.observed[order], 2)
    blend = interpolated(second, setting.control)
    for kind, name, cells in [("ceiling", CEILING, second), ("positive control", DUPLICATE, blend)]:
        rows += scored(cells, truth=first, method=name, kind=kind)
    return _normalised(pd.DataFrame(rows))


def interpolated(cells: Floats, control: Floats) -> Floats:
    r"""Cells whose genes are led back to the control's mean where they may not have changed.

    .. math:: x'_{ig} = x_{ig} + p_g\, (\bar c_g - \bar x_g)

    with the p-value of Welch's t.

    Parameters
    ----------
    cells, control
        Log-normalised expression, ``(n_cells, n_genes)`` each.

    Returns
    -------
    The moved cells.
    """
    p = stats.ttest_ind(cells, control, equal_var=False).pvalue
    return cells + np.nan_to_num(p, nan=1.0) * (control.mean(axis=0) - cells.mean(axis=0))


def response_pair(
    observed: AnnData,
    predicted: AnnData | Mapping[str, AnnData],
    control: AnnData,
    *,
    condition_key: str = "condition",
    layer: str | None = None,
    is_counts: bool = True,
) -> tuple[AnnData, AnnData]:
    """Observed and predicted cells in the form that other evaluations read.

    Both hold the same control cells and the same genes as log-normalised expression, and the
    condition in one column: what ``cell_eval.MetricsEvaluator(adata_pred=, adata_real=, pert_col=,
    control_pert=)`` takes, and, one below the other, distances of pertpy.

    Parameters
    ----------
    observed
        Cells of the target conditions.
    predicted
        Their prediction, or predictions by condition.
    control
        Control cells, which both get.
    condition_key
        Column of the condition in all of them.
    layer, is_counts
        As in :func:`evaluate_response`.

    Returns
    -------
    Real and predicted cells.
    """
    said = [predicted] if isinstance(predicted, AnnData) else list(predicted.values())
    genes = said[0].var_names

    def plain(cells: AnnData, own_layer: str | None) -> AnnData:
        values = _values(cells, own_layer, genes=genes, is_counts=is_counts)
        obs = pd.DataFrame({condition_key: cells.obs[condition_key].astype(str)})
        return AnnData(sparse.csr_matrix(values), obs=obs, var=pd.DataFrame(index=genes))

    start = plain(control, layer)
    pairs = ([plain(observed, layer)], [plain(cells, None) for cells in said])
    real, made = (concat([start, *cells], index_unique="-") for cells in pairs)
    return real, made


def _methods(
    predicted: Mapping[str, AnnData],
    baselines: Any,
    control: AnnData,
    layer: str | None,
    seed: int,
) -> Iterator[tuple[str, str, AnnData | Floats]]:
    """Kind, name and cells of everything that is scored."""
    for name, cells in predicted.items():
        yield "prediction", name, cells
    still = control if layer is None else AnnData(control.layers[layer], var=control.var)
    yield "baseline", NO_CHANGE, still
    if hasattr(baselines, "transfers"):
        condition = _condition_of(predicted)
        for recipe in baselines.transfers:
            if recipe not in ("auto", "identity"):
                cells = baselines.predict(control, condition=condition, transfer=recipe, seed=seed)
                yield "baseline", recipe, cells
    else:
        for name, cells in dict(baselines or {}).items():
            yield "baseline", name, cells


def _condition_of(predicted: Mapping[str, AnnData]) -> str:
    """Condition that the predictions are about, as those of this package say."""
    found = {
        str(cells.uns[UNS_KEY]["prediction"]["condition"])
        for cells in predicted.values()
        if "prediction" in cells.uns.get(UNS_KEY, {})
    }
    if len(found) != 1:
        msg = (
            "baselines=ShiftModel asks it for the condition of the predictions, but they name "
            f"{sorted(found) or 'none'}. Pass the cells that it predicts: "
            "baselines={'shift': shift.predict(control, condition=...)}."
        )
        raise InputDataError(msg)
    return found.pop()


def _values(
    adata: AnnData | Floats, layer: str | None, *, genes: pd.Index, is_counts: bool
) -> Floats:
    """Dense expression of the genes that were predicted, ``(n_cells, n_genes)``."""
    if isinstance(adata, np.ndarray):
        return adata
    missing = genes.difference(adata.var_names)
    if len(missing):
        msg = f"{len(missing):,} predicted genes are missing, such as {missing[0]!r}."
        raise InputDataError(msg)
    own = adata if adata.var_names.equals(genes) else adata[:, genes]
    if not isinstance(own.X, np.ndarray | sparse.spmatrix | sparse.sparray):
        own = own.to_memory()  # a prediction on disk
    values = own.X if layer is None else own.layers[layer]
    values = log_normalise(values) if is_counts else values
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=float)


def _rows(
    setting: Setting,
    predicted: Floats,
    *,
    method: str,
    kind: str,
    n_bootstrap: int,
    seed: int,
    truth: Floats | None = None,
) -> list[dict[str, Any]]:
    observed = setting.observed if truth is None else truth
    rng = np.random.default_rng([seed, crc32(method.encode())])  # whatever else is scored
    draws = [
        {
            name: setting.score(name, *(x[rng.integers(len(x), size=len(x))] for x in both))
            for name in setting.scores
        }
        for _ in range(n_bootstrap)
        for both in [(observed, predicted)]
    ]
    rows = []
    for name in setting.scores:
        value = setting.score(name, observed, predicted)
        low, high = interval(name, value, [draw[name] for draw in draws])
        known = {"method": method, "kind": kind, "metric": name}
        rows.append({**known, "value": value, "low": low, "high": high})
    return rows


def interval(name: str, value: float, draws: Sequence[float]) -> tuple[float, float]:
    """5 % and 95 % of the resamples around the value, within the range of the metric."""
    known = [draw for draw in draws if not np.isnan(draw)]  # some have no gene of any change
    if not known:
        return np.nan, np.nan
    spec = spec_of(name)
    moved = np.quantile(known, [0.05, 0.95]) - np.median(known) + value
    low, high = moved if spec is None else np.clip(moved, *spec.range)
    return float(low), float(high)


def _normalised(table: pd.DataFrame) -> pd.DataFrame:
    """Add where each value lies between the best baseline and the ceiling."""
    parts = []
    for name, own in table.groupby("metric", sort=False):
        baselines = own.loc[own["kind"] == "baseline", "value"]
        is_gain = SCORES[str(name)].larger_is_better
        best = baselines.max() if is_gain else baselines.min()
        ceiling = own.loc[own["kind"] == "ceiling", "value"].iloc[0]
        has_room = ceiling > best if is_gain else ceiling < best
        share = (own["value"] - best) / (ceiling - best) if has_room else np.nan
        parts.append(own.assign(normalised=share))
    return pd.concat(parts).sort_index().reset_index(drop=True)
