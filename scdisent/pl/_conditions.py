"""What conditions do: along the dose, and beside each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from scdisent._errors import InputDataError, OptionError
from scdisent.data._stored import are_counts, levels_of
from scdisent.pl._figure import BLUE, GREY, INK, ORANGE, Drawn, finish, panels, tidy
from scdisent.pl._response import found_keys, positions, predicted_condition
from scdisent.pl._values import expression, observed_values, predicted_values

N_COLUMNS = 4
CLOSEST = 0.09
"""Labels of doses, as a share of the axis."""
Predicted: TypeAlias = AnnData | Sequence[AnnData] | None


def dose_response(
    adata: AnnData,
    genes: str | Sequence[str],
    *,
    dose_key: str,
    predicted: Predicted = None,
    condition_key: str | None = None,
    control: str | None = None,
    layer: str | None = None,
    is_counts: bool | None = None,
    axes: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw mean log expression of genes against the dose, observed and predicted.

    Bars are 90 % intervals of the observed means (1.64 standard errors over cells). Predicted doses
    that were not in training are hollow.

    Parameters
    ----------
    adata
        Cells at several doses.
    genes
        A panel each.
    dose_key
        Column of doses; control cells are at dose 0.
    predicted
        Cells predicted at some doses, as from ``model.predict(dose=)``.
    condition_key, control
        Column of ``adata.obs`` and its reference level. Default: as stored by ``tl.embed``.
    layer, is_counts
        Layer of ``adata``, and whether values are counts, which are log-normalised. Default: the
        layer that ``tl.embed`` stored, else ``X``; the likelihood of predictions, else of the
        embedding, else counts.
    axes
        One for each gene.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    Axes, a list for several genes, unless shown.

    Raises
    ------
    InputDataError
        If a gene, a condition or a dose is missing, counts are none, or there are doses of several
        conditions.
    OptionError
        If no gene is named, ``predicted`` is empty, or a column or the layer is not there.
    """
    names = [genes] if isinstance(genes, str) else list(genes)
    if not names:
        msg = "genes names no gene. Pass at least one of adata.var_names."
        raise OptionError(msg)
    keys = found_keys(adata, condition_key=condition_key, control=control)
    table = dose_table(
        adata,
        names,
        dose_key=dose_key,
        predicted=predicted,
        condition_key=keys["condition_key"],
        control=keys["control"],
        layer=layer,
        is_counts=is_counts,
    )
    n_columns = min(N_COLUMNS, len(names))
    n_rows = -(-len(names) // n_columns)
    if axes is None:
        drawn = panels(n_rows, n_columns, axes=None, size=(3.2, 2.8))
        for spare in drawn[len(names) :]:
            spare.remove()
    else:
        drawn = panels(1, len(names), axes=axes, size=(3.2, 2.8))
    for ax, name in zip(drawn, names, strict=False):
        _draw_doses(ax, table[table["gene"] == name])
        ax.set_title(name, fontsize=10.5)
    drawn[0].set_ylabel("mean log expression")
    drawn[0].legend(frameon=False, fontsize=8.5)
    kept = drawn[: len(names)]
    return finish(kept, show=show, save=save, new=axes is None, single=len(kept) == 1)


def dose_table(
    adata: AnnData,
    genes: Sequence[str],
    *,
    dose_key: str,
    predicted: Predicted = None,
    condition_key: str,
    control: str,
    layer: str | None = None,
    is_counts: bool | None = None,
) -> pd.DataFrame:
    """Numbers of :func:`dose_response`.

    Returns
    -------
    Rows of ``gene``, ``dose``, ``kind`` (observed or predicted), ``mean``, ``error`` (standard
    error) and ``seen``.
    """
    missing = [gene for gene in genes if gene not in adata.var_names]
    if missing:
        msg = f"adata has no gene {missing[0]!r}. Pass names of adata.var_names."
        raise InputDataError(msg)
    said = _listed(predicted)
    levels = levels_of(adata, condition_key, dose_key=None, control=control)
    dose = _doses(adata, levels, dose_key=dose_key, control=control)
    counts, where = observed_values(adata, layer)
    is_counts = are_counts(is_counts, said, [adata])
    names = adata.var_names
    if said:  # on the genes that were predicted, so that depths agree
        at = positions(adata, said[0])
        counts, names = counts[:, at], names[at]
        missing = [gene for gene in genes if gene not in names]
        if missing:
            msg = f"the predicted cells have no gene {missing[0]!r}: the model does not know it."
            raise InputDataError(msg)
    values = expression(counts, is_counts=is_counts, where=where)
    parts = [_dose_rows(values, names, genes, dose).assign(kind="observed", seen=True)]
    for cells in said:
        own = _dose_column(cells, dose_key, "predicted").to_numpy(dtype=float)
        values = predicted_values(cells, is_counts=is_counts)
        rows = _dose_rows(values, cells.var_names, genes, own)
        parts.append(rows.assign(kind="predicted", seen=bool(cells.obs["scdisent_seen"].all())))
    return pd.concat(parts, ignore_index=True)


def _doses(
    adata: AnnData, levels: NDArray[np.object_], *, dose_key: str, control: str
) -> NDArray[np.floating]:
    """Dose of each cell, 0 for the control; one condition at most has doses."""
    is_control = levels == str(control)
    treated = sorted(set(levels[~is_control]))
    if len(treated) > 1:
        msg = (
            f"adata has doses of several conditions: {treated[:5]}. Pass the cells of one of them "
            f"and of {control!r}."
        )
        raise InputDataError(msg)
    dose = np.where(is_control, 0.0, _dose_column(adata, dose_key, "adata").to_numpy(dtype=float))
    if np.isnan(dose).any():
        msg = (
            f"adata.obs[{dose_key!r}] is missing in {int(np.isnan(dose).sum()):,} cells that are "
            f"not of {control!r}. Fill it, or drop them."
        )
        raise InputDataError(msg)
    return dose


def _dose_column(adata: AnnData, dose_key: str, what: str) -> "pd.Series[Any]":
    if dose_key not in adata.obs:
        found = sorted(map(str, adata.obs.columns))
        msg = f"{what}.obs has no column {dose_key!r} of doses. Found: {found}."
        raise OptionError(msg)
    return adata.obs[dose_key]


def condition_map(
    adata: AnnData,
    *,
    predicted: Predicted = None,
    condition_key: str | None = None,
    control: str | None = None,
    dose_key: str | None = None,
    layer: str | None = None,
    is_counts: bool | None = None,
    axes: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw conditions where their effects lie: near each other if they change the same genes.

    The effect of a condition is its change of the mean log expression from the control, which is
    the origin; the axes are the two directions that hold most of all observed effects (singular
    vectors, not centred). Predicted conditions are put on the same axes, hollow.

    Parameters
    ----------
    adata
        Cells under several conditions; all need one.
    predicted
        Predicted cells, a condition each, as from ``model.predict``.
    condition_key, control, dose_key
        Column of ``adata.obs``, its reference level, and the column of doses where setup had one:
        each dose is then a condition. Default: as stored by ``tl.embed``.
    layer, is_counts
        Layer of ``adata``, and whether values are counts, which are log-normalised. Default: the
        layer that ``tl.embed`` stored, else ``X``; the likelihood of predictions, else of the
        embedding, else counts.
    axes
        Axes to draw on.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    Axes, unless shown.

    Raises
    ------
    InputDataError
        If there are fewer than two genes or three conditions, the condition of a cell is missing,
        or counts are none.
    OptionError
        If ``predicted`` is empty, or a column or the layer is not there.
    """
    keys = found_keys(adata, condition_key=condition_key, control=control, dose_key=dose_key)
    table = map_table(adata, predicted=predicted, layer=layer, is_counts=is_counts, **keys)
    (ax,) = panels(1, 1, axes=axes, size=(5.2, 4.6))
    ax.axhline(0, color=GREY, lw=0.6, zorder=0)
    ax.axvline(0, color=GREY, lw=0.6, zorder=0)
    ax.plot(0, 0, "+", color=INK, ms=10)
    for kind, face, edge in (("observed", BLUE, BLUE), ("predicted", "none", ORANGE)):
        rows = table[table["kind"] == kind]
        ax.scatter(rows["x"], rows["y"], s=34, facecolors=face, edgecolors=edge, label=kind)
    for name, rows in table.groupby("condition", sort=False):
        ax.plot(rows["x"], rows["y"], color=ORANGE, lw=0.7, zorder=0)
        first = rows.iloc[0]
        ax.annotate(
            str(name),
            (first["x"], first["y"]),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
        )
    ax.margins(0.15)
    shares = table.attrs["shares"]
    ax.set_xlabel(f"first direction of effects ({shares[0]:.0%})")
    ax.set_ylabel(f"second direction ({shares[1]:.0%})")
    if predicted is not None:
        ax.legend(frameon=False, fontsize=8.5)
    tidy(ax)
    return finish([ax], show=show, save=save, new=axes is None, single=True)


def map_table(
    adata: AnnData,
    *,
    predicted: Predicted = None,
    condition_key: str,
    control: str,
    dose_key: str | None = None,
    layer: str | None = None,
    is_counts: bool | None = None,
) -> pd.DataFrame:
    """Numbers of :func:`condition_map`.

    Returns
    -------
    Rows of ``condition``, ``kind``, ``x`` and ``y``; ``attrs["shares"]``: share of the squared
    effects along both directions.
    """
    if adata.n_vars < 2:
        msg = f"a map needs at least two genes, its directions; adata has {adata.n_vars}."
        raise InputDataError(msg)
    groups = levels_of(adata, condition_key, dose_key=dose_key, control=control)
    said = _listed(predicted)
    counts, where = observed_values(adata, layer)
    is_counts = are_counts(is_counts, said, [adata])
    values = expression(counts, is_counts=is_counts, where=where)
    names = [name for name in pd.unique(groups) if name != str(control)]
    if len(names) < 2 or str(control) not in groups:
        msg = (
            f"a map needs cells of control={control!r} and of at least two other conditions; "
            f"obs[{condition_key!r}] has {sorted(set(groups))[:10]}."
        )
        raise InputDataError(msg)
    start = _mean(values[groups == str(control)])
    effects = np.stack([_mean(values[groups == name]) for name in names]) - start
    _, singular, directions = np.linalg.svd(effects, full_matrices=False)
    kinds, points = ["observed"] * len(names), [*effects]
    for cells in said:
        at = positions(adata, cells)
        change = np.zeros(adata.n_vars)
        own = counts[groups == str(control)][:, at]  # on the genes that were predicted
        start = expression(own, is_counts=is_counts, where=where)
        change[at] = _mean(predicted_values(cells, is_counts=is_counts)) - _mean(start)
        names.append(predicted_condition(cells))
        kinds.append("predicted")
        points.append(change)
    x, y = (np.stack(points) @ directions[:2].T).T
    table = pd.DataFrame({"condition": names, "kind": kinds, "x": x, "y": y})
    table.attrs["shares"] = (singular[:2] ** 2 / (singular**2).sum()).tolist()
    return table


def _listed(predicted: Predicted) -> list[AnnData]:
    """Predictions, none or at least one."""
    if predicted is None:
        return []
    found = [predicted] if isinstance(predicted, AnnData) else list(predicted)
    if not found:
        msg = "predicted holds no predictions. Pass at least one AnnData, or None."
        raise OptionError(msg)
    return found


def _mean(values: Any) -> NDArray[np.float64]:
    return np.asarray(values.mean(axis=0), dtype=np.float64).ravel()


def _dose_rows(
    values: Any, names: pd.Index, genes: Sequence[str], dose: NDArray[np.floating]
) -> pd.DataFrame:
    """Mean and standard error of each gene at each dose."""
    values = values[:, names.get_indexer(list(genes))]
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    cells = pd.DataFrame(values, columns=list(genes)).assign(dose=dose)
    found = cells.melt("dose", var_name="gene").groupby(["gene", "dose"])["value"]
    return found.agg(mean="mean", error="sem").reset_index()


def _draw_doses(ax: Axes, table: pd.DataFrame) -> None:
    seen = table[table["kind"] == "observed"].sort_values("dose")
    x, y = seen["dose"].to_numpy(), seen["mean"].to_numpy()
    ax.errorbar(x, y, 1.64 * seen["error"], fmt="o-", ms=4, lw=1, color=BLUE, label="observed")
    said = table[table["kind"] == "predicted"].sort_values("dose")
    if len(said):
        ax.plot(said["dose"], said["mean"], color=ORANGE, lw=1, ls=(0, (4, 3)), label="predicted")
        for is_seen, rows in said.groupby("seen"):
            face = ORANGE if is_seen else "white"
            ax.scatter(
                rows["dose"], rows["mean"], s=26, facecolors=face, edgecolors=ORANGE, zorder=3
            )
    doses = np.unique(x)
    positive = doses[doses > 0]
    ax.set_xscale("symlog", linthresh=positive.min() if len(positive) else 1.0)
    ax.xaxis.set_major_locator(FixedLocator(_apart(ax, doses)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.tick_params(axis="x", labelrotation=45)
    ax.set_xlabel("dose")
    tidy(ax)


def _apart(ax: Axes, values: NDArray[np.floating]) -> list[float]:
    """Values whose labels along the x axis do not touch, the largest first."""
    ax.autoscale_view()
    points = np.column_stack([values, np.zeros(len(values))])
    places = ax.transAxes.inverted().transform(ax.transData.transform(points))[:, 0]
    kept: list[int] = []
    for i in reversed(range(len(values))):
        if not kept or places[kept[-1]] - places[i] > CLOSEST:
            kept.append(i)
    return values[kept].tolist()
