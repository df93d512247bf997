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
from scdisent._errors import InputDataError, OptionError
from scdisent.data import layer_name
from scdisent.data._stored import are_counts, check_counts, layer_of, matrix_of, record
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
    is_counts: bool | None = None,
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
        predicted genes. None: no change. No two methods may have one name.
    perturbed
        Cells of other conditions than the control. With them ``pearson_delta_perturbed`` measures
        changes from their mean: what all conditions share no longer counts (Systema,
        Viñas Torné et al. 2025).
    layer
        Layer of the observed cells that ``predicted.X`` is comparable with. Default: the one that
        ``tl.embed`` stored with them, else ``X``.
    is_counts
        Log-normalise all values; False: take them as they are. Default: what the likelihood says
        that ``predict``, else ``tl.embed``, stored; True without any.
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
        If a gene of the prediction is missing in the others, values are NaN, infinite or no counts
        where counts are said, or there are fewer than four observed cells.
    OptionError
        If there is no prediction, the layer is unknown, or two methods have one name.

    Notes
    -----
    The positive control is the interpolated duplicate of Miller et al. 2025 (recalled): half of the
    observed cells, each gene moved to the control's mean by the p-value of its Welch's t. Theirs
    moves means, to that of the data set; ours moves cells, for distances too. A metric that does
    not tell it from the baselines has no room for any method.
    """
    found = _predictions(predicted)
    _check_names(found, baselines)
    real = {"observed": observed, "control": control}
    real |= {} if perturbed is None else {"perturbed": perturbed}
    is_counts = are_counts(is_counts, found.values(), real.values())
    genes = next(iter(found.values())).var_names
    read = partial(_values, genes=genes, is_counts=is_counts)
    values = {name: read(x, layer_of(x, layer), what=name) for name, x in real.items()}
    if len(values["observed"]) < 4:
        msg = f"{len(values['observed'])} observed cells are too few to be judged by: at least 4."
        raise InputDataError(msg)
    setting = Setting.of(
        values["observed"], values["control"], n_top=n_top, n_components=n_components
    )
    setting = replace(setting, perturbed=values.get("perturbed"))
    scored = partial(_rows, setting, n_bootstrap=n_bootstrap, seed=seed)
    rows = []
    for kind, name, cells in _methods(found, baselines, control, seed):
        own = None if name == NO_CHANGE else read(cells, None, what=f"{kind} {name!r}")
        rows += scored(values["control"] if own is None else own, method=name, kind=kind)
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
    is_counts: bool | None = None,
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
    said = _predictions(predicted).values()
    genes = next(iter(said)).var_names
    are = are_counts(is_counts, said, [observed, control])

    def plain(cells: AnnData, own_layer: str | None, what: str) -> AnnData:
        values = _values(cells, own_layer, genes=genes, is_counts=are, what=what)
        obs = pd.DataFrame({condition_key: cells.obs[condition_key].astype(str)})
        return AnnData(sparse.csr_matrix(values), obs=obs, var=pd.DataFrame(index=genes))

    start = plain(control, layer_of(control, layer), "control")
    truth = plain(observed, layer_of(observed, layer), "observed")
    pairs = ([truth], [plain(cells, None, "predicted") for cells in said])
    real, made = (concat([start, *cells], index_unique="-") for cells in pairs)
    return real, made


def _predictions(predicted: AnnData | Mapping[str, AnnData]) -> dict[str, AnnData]:
    """Predictions by name."""
    found = {"prediction": predicted} if isinstance(predicted, AnnData) else predicted
    if not isinstance(found, Mapping) or not found:
        msg = "predicted holds no predictions. Pass an AnnData, or a dictionary of them."
        raise OptionError(msg)
    for name, cells in found.items():
        if not isinstance(cells, AnnData):
            msg = f"predicted[{name!r}] is of type {type(cells).__name__}; expected an AnnData."
            raise InputDataError(msg)
    return dict(found)


def _check_names(predicted: Mapping[str, AnnData], baselines: Any) -> None:
    """Refuse names that two rows of the table would share."""
    if not (baselines is None or hasattr(baselines, "transfers") or isinstance(baselines, Mapping)):
        msg = (
            f"baselines is of type {type(baselines).__name__}; expected a dictionary of cells by "
            "name, or a trained ShiftModel."
        )
        raise OptionError(msg)
    names = [CEILING, DUPLICATE, NO_CHANGE, *predicted, *_baseline_names(baselines)]
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        msg = (
            f"two methods are called {twice[0]!r}, so the table could not be told apart; "
            f"{[CEILING, DUPLICATE, NO_CHANGE]} are always there. Rename one of them."
        )
        raise OptionError(msg)


def _baseline_names(baselines: Any) -> list[str]:
    if hasattr(baselines, "transfers"):
        return [name for name in baselines.transfers if name not in ("auto", "identity")]
    return list(baselines or {})


def _methods(
    predicted: Mapping[str, AnnData], baselines: Any, control: AnnData, seed: int
) -> Iterator[tuple[str, str, AnnData | Floats]]:
    """Kind, name and cells of everything that is scored."""
    for name, cells in predicted.items():
        yield "prediction", name, cells
    yield "baseline", NO_CHANGE, control
    asks = hasattr(baselines, "transfers")
    condition = _condition_of(predicted) if asks else ""
    for name in _baseline_names(baselines):
        if asks:
            cells = baselines.predict(control, condition=condition, transfer=name, seed=seed)
        else:
            cells = baselines[name]
        yield "baseline", name, cells


def _condition_of(predicted: Mapping[str, AnnData]) -> str:
    """Condition that the predictions are about, as those of this package say."""
    said = (record(cells, "prediction") for cells in predicted.values())
    found = {str(each["condition"]) for each in said if "condition" in each}
    if len(found) != 1:
        msg = (
            "baselines=ShiftModel asks it for the condition of the predictions, but they name "
            f"{sorted(found) or 'none'}. Pass the cells that it predicts: "
            "baselines={'shift': shift.predict(control, condition=...)}."
        )
        raise InputDataError(msg)
    return found.pop()


def _values(
    adata: AnnData | Floats, layer: str | None, *, genes: pd.Index, is_counts: bool, what: str
) -> Floats:
    """Dense expression of the genes that were predicted, ``(n_cells, n_genes)``."""
    if not isinstance(adata, AnnData):
        return _checked_array(adata, len(genes), what)
    missing = genes.difference(adata.var_names)
    if len(missing):
        msg = f"{len(missing):,} predicted genes are missing, such as {missing[0]!r}."
        raise InputDataError(msg)
    own = adata if adata.var_names.equals(genes) else adata[:, genes]
    if not isinstance(own.X, np.ndarray | sparse.spmatrix | sparse.sparray):
        own = own.to_memory()  # a prediction on disk
    values = matrix_of(own, layer, what=what)
    if is_counts:
        is_mean = record(adata, "prediction").get("kind") == "mean"  # expected counts
        check_counts(values, where=f"{layer_name(layer)} of {what}", whole=not is_mean)
        values = log_normalise(values)
    dense = values.toarray() if hasattr(values, "toarray") else values
    return _checked_array(np.asarray(dense, dtype=float), len(genes), what)


def _checked_array(values: Any, n_genes: int, what: str) -> Floats:
    """Array of finite numbers with a column for each predicted gene."""
    if not isinstance(values, np.ndarray):
        msg = (
            f"{what} is of type {type(values).__name__}; expected an AnnData, or an array of "
            "log-normalised expression (of a DataFrame: .to_numpy(), of a sparse matrix: "
            ".toarray())."
        )
        raise InputDataError(msg)
    if values.ndim != 2 or values.shape[1] != n_genes or not len(values):
        msg = f"{what} has the shape {values.shape}; expected cells x {n_genes:,} predicted genes."
        raise InputDataError(msg)
    if not np.isfinite(values).all():
        n_wrong = int((~np.isfinite(values)).sum())
        msg = f"{what} holds {n_wrong:,} values that are NaN or infinite. Remove or impute them."
        raise InputDataError(msg)
    return values


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
