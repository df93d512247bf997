from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from scdisent._errors import InputDataError
from scdisent._names import AT
from scdisent.data._stored import are_counts, levels_of, named, record
from scdisent.metrics._response import correlation, explained, mean_and_variance, welch_t
from scdisent.pl._figure import BLUE, GREY, ORANGE, Drawn, finish, panels, stored, tidy
from scdisent.pl._labels import place_labels
from scdisent.pl._values import expression, observed_values, predicted_values


def response(
    adata: AnnData,
    predicted: AnnData,
    *,
    observed_condition: str | None = None,
    condition_key: str | None = None,
    control: str | None = None,
    dose_key: str | None = None,
    layer: str | None = None,
    is_counts: bool | None = None,
    n_top: int = 10,
    axes: Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw predicted against observed response: change of the mean, and spread, of each gene.

    Left: change of the mean of log1p counts per 10,000 (of the predicted genes) against the
    reference cells; the title gives Pearson's correlation over all genes and over the 100 genes
    of largest Welch t. Right: variance of the same values among target cells, on logarithmic
    scales: a shift of the mean alone can give the left panel, but not the right one.

    Parameters
    ----------
    adata
        Reference and target cells. It is not changed.
    predicted
        Predicted cells, as from ``model.predict``; their genes must be genes of ``adata``.
    observed_condition
        Level of the observed target cells; where there are doses ``"level@dose"``, or the level
        for all its doses. Default: the predicted condition.
    condition_key, control, dose_key
        Column of ``adata.obs``, its reference level, and the column of doses where setup had one.
        Default: as stored by ``tl.embed``.
    layer, is_counts
        Layer of ``adata``, and whether values are counts, which are log-normalised. Default: the
        layer that ``tl.embed`` stored, else ``X``; the likelihood of the prediction, else counts.
    n_top
        Genes of largest observed change to name.
    axes
        Two axes.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    List of two axes, unless shown.

    Raises
    ------
    InputDataError
        If cells, genes or conditions are missing, or counts are none.
    OptionError
        If the layer or the column is not there.
    """
    table = response_table(
        adata,
        predicted,
        observed_condition=observed_condition,
        condition_key=condition_key,
        control=control,
        dose_key=dose_key,
        layer=layer,
        is_counts=is_counts,
    )
    drawn = panels(1, 2, axes=axes, size=(4.8, 4.6))
    _draw_means(drawn[0], table, n_top=n_top)
    _draw_variances(drawn[1], table)
    if axes is None:
        names = table.attrs
        drawn[0].figure.suptitle(f"{names['condition']} against {names['control']}", fontsize=12)
    return finish(drawn, show=show, save=save, new=axes is None)


def response_table(
    adata: AnnData,
    predicted: AnnData,
    *,
    observed_condition: str | None = None,
    condition_key: str | None = None,
    control: str | None = None,
    dose_key: str | None = None,
    layer: str | None = None,
    is_counts: bool | None = None,
) -> pd.DataFrame:
    """Numbers of :func:`response`, a row for each gene of ``predicted``.

    Returns
    -------
    Columns ``observed_change``, ``predicted_change``, ``observed_variance``,
    ``predicted_variance`` and ``t`` (Welch, observed target against reference).
    """
    keys = found_keys(adata, condition_key=condition_key, control=control, dose_key=dose_key)
    control = str(keys["control"])
    target = observed_condition
    target = str(predicted_condition(predicted) if target is None else target)
    groups = levels_of(adata, **keys, wanted=target)
    genes = positions(adata, predicted)
    counts, where = observed_values(adata, layer)
    is_counts = are_counts(is_counts, [predicted], [adata])
    said = predicted_values(predicted, is_counts=is_counts)
    start, seen = (
        expression(counts[chosen][:, genes], is_counts=is_counts, where=where)
        for chosen in (
            _members(groups, control, role="reference"),
            _members(groups, target, role="observed target"),
        )
    )
    (mean_0, var_0), (mean, var), (mean_p, var_p) = map(mean_and_variance, (start, seen, said))
    table = pd.DataFrame(
        {
            "observed_change": mean - mean_0,
            "predicted_change": mean_p - mean_0,
            "observed_variance": var,
            "predicted_variance": var_p,
            "t": welch_t(mean - mean_0, error=var / seen.shape[0] + var_0 / start.shape[0]),
        },
        index=predicted.var_names,
    )
    table.attrs.update(condition=target, control=control)
    return table


def found_keys(
    adata: AnnData, *, condition_key: str | None, control: str | None, dose_key: str | None = None
) -> dict[str, Any]:
    """Columns and control as given, else as ``tl.embed`` stored them."""
    given = {"condition_key": condition_key, "control": control}
    keys: dict[str, Any] = {
        name: setting(adata, name) if named(value, None) is None else str(value)
        for name, value in given.items()
    }
    return {**keys, "dose_key": named(dose_key, record(adata, "embed").get("dose_key"))}


def setting(adata: AnnData, name: str) -> str:
    """Return what ``tl.embed`` stored about the data, unless it is empty."""
    value = stored(
        adata, "embed", call="tl.embed(adata, model), or pass condition_key and control,"
    )
    if named(value.get(name), None) is None:
        msg = f"tl.embed stored no {name}. Pass {name}=."
        raise InputDataError(msg)
    return str(value[name])


def predicted_condition(predicted: AnnData) -> str:
    """Condition that cells were predicted under."""
    call = "model.predict, or pass observed_condition,"
    return str(stored(predicted, "prediction", call=call)["condition"])


def _members(groups: NDArray[np.object_], level: str, *, role: str) -> NDArray[np.bool_]:
    """Mask of the cells of a level, at least two."""
    members = groups == str(level)
    if members.sum() < 2:
        found = ", ".join(f"{name} ({n})" for name, n in pd.Series(groups).value_counts().items())
        dosed = f", dose_key= where {AT!r} stands before a dose," if AT in str(level) else ""
        msg = (
            f"The plot needs at least two {role} cells ({level!r}), but adata holds: {found}. "
            f"Pass an AnnData that also holds them{dosed} or observed_condition=."
        )
        raise InputDataError(msg)
    return members


def positions(adata: AnnData, predicted: AnnData) -> NDArray[np.intp]:
    """Where the predicted genes are in ``adata``, ``(n_genes,)``."""
    positions = adata.var_names.get_indexer(predicted.var_names)
    absent = predicted.var_names[positions < 0]
    if len(absent):
        msg = (
            f"{len(absent)} of {predicted.n_vars} predicted genes are not in adata "
            f"({', '.join(absent[:5])}, ...). Pass the AnnData that the model was trained on."
        )
        raise InputDataError(msg)
    return positions


def _draw_means(ax: Axes, table: pd.DataFrame, *, n_top: int) -> None:
    x, y = table["observed_change"].to_numpy(), table["predicted_change"].to_numpy()
    top = np.argsort(-np.abs(table["t"].to_numpy()), kind="stable")[:100]
    named = np.argsort(-np.abs(x), kind="stable")[:n_top]
    limits = _square(ax, np.r_[x, y, 0])
    ax.plot(limits, limits, color=GREY, lw=1, ls=(0, (4, 3)), zorder=1)
    ax.scatter(x, y, s=9, color=BLUE, alpha=0.5, linewidths=0, rasterized=True, zorder=2)
    ax.scatter(x[named], y[named], s=18, color=ORANGE, linewidths=0, zorder=3)
    ax.set_xlabel("observed change of mean log expression")
    ax.set_ylabel("predicted change")
    everywhere, there = correlation(x, y), correlation(x[top], y[top])
    label = f"top {len(top)} genes" if len(top) < len(x) else "all again"
    ax.set_title(f"Mean: r = {everywhere:.2f} (all genes), {there:.2f} ({label})", fontsize=10.5)
    tidy(ax)
    place_labels(ax, np.stack([x, y], axis=1)[named], names=table.index[named])


def _draw_variances(ax: Axes, table: pd.DataFrame) -> None:
    x, y = table["observed_variance"].to_numpy(), table["predicted_variance"].to_numpy()
    positive = (x > 0) & (y > 0)  # a logarithmic scale has no zero
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):  # labels between the powers of ten overlap
        axis.set_minor_formatter(NullFormatter())
    limits = _square(ax, np.r_[x[positive], y[positive]])
    ax.plot(limits, limits, color=GREY, lw=1, ls=(0, (4, 3)), zorder=1)
    ax.scatter(x[positive], y[positive], s=9, color=BLUE, alpha=0.5, linewidths=0, rasterized=True)
    ax.set_xlabel("observed variance of log expression")
    ax.set_ylabel("predicted variance")
    left_out = int((~positive).sum())
    note = f" ({left_out} constant genes not drawn)" if left_out else ""
    ax.set_title(f"Variance: R² = {explained(x, by=y):.2f}{note}", fontsize=10.5)
    tidy(ax)


def _square(ax: Axes, values: NDArray[np.floating]) -> tuple[float, float]:
    """Give both axes the same limits with a margin, on the axes' own scale."""
    log = ax.get_xscale() == "log"
    if not len(values):
        return (0.1, 1.0)
    ends = np.log10([values.min(), values.max()]) if log else np.array([values.min(), values.max()])
    margin = 0.08 * max(ends[1] - ends[0], 1e-3)
    low, high = ends + [-margin, margin]
    limits = (10**low, 10**high) if log else (float(low), float(high))
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    return limits
