"""Predictions beside baselines and the ceiling."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scdisent._errors import InputDataError
from scdisent.metrics._spec import spec_of
from scdisent.pl._figure import BLUE, GREY, INK, ORANGE, PALE, Drawn, finish, panels, tidy

SHOWN = ("pearson_delta_top", "pearson_delta", "energy_distance", "r2_variance_top")
COLOR_OF = {"prediction": BLUE, "baseline": GREY, "positive control": ORANGE, "ceiling": ORANGE}


def benchmark(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str] = SHOWN,
    axes: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw scores of predictions, baselines and ceiling, a panel for each metric.

    Large dots are means over the rows of a method (folds, seeds), small ones the rows themselves.
    A line through a single row is its interval; the dashed line is the ceiling, and orange dots are
    the positive control.

    Parameters
    ----------
    table
        Of ``tl.evaluate_response``, or several of them one below the other.
    metrics
        Metrics to draw, in this order.
    axes
        One for each metric.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    List of axes, unless shown.

    Raises
    ------
    InputDataError
        If a metric or a column is not in the table.
    """
    missing = [name for name in ("method", "kind", "metric", "value") if name not in table]
    absent = [] if missing else sorted(set(metrics) - set(table["metric"]))
    if missing or absent:
        what = f"column {missing[0]!r}" if missing else f"metric {absent[0]!r}"
        msg = f"the table has no {what}. Pass what tl.evaluate_response returns."
        raise InputDataError(msg)
    methods = table[table["kind"] != "ceiling"].sort_values("kind", ascending=False, kind="stable")
    order = list(methods["method"].unique())
    drawn = panels(1, len(metrics), axes=axes, size=(2.9, 0.9 + 0.28 * len(order)))
    for i, (ax, metric) in enumerate(zip(drawn, metrics, strict=True)):
        _draw(ax, table[table["metric"] == metric], order)
        ax.set_yticks(range(len(order)), order if i == 0 else [""] * len(order), fontsize=9)
        ax.set_ylim(len(order) - 0.5, -0.5)
        ax.set_xlabel(_title(metric), fontsize=9.5)
    return finish(drawn, show=show, save=save, new=axes is None)


def _draw(ax: Axes, rows: pd.DataFrame, order: list[str]) -> None:
    ceiling = rows.loc[rows["kind"] == "ceiling", "value"].mean()
    if np.isfinite(ceiling):
        ax.axvline(ceiling, color=ORANGE, lw=1, ls=(0, (4, 3)), zorder=0)
        ax.annotate("ceiling", (ceiling, 1), xycoords=("data", "axes fraction"), fontsize=8,
                    color=ORANGE, ha="center", va="bottom")  # fmt: skip
    for y, method in enumerate(order):
        own = rows[rows["method"] == method]
        ax.axhline(y, color=PALE, lw=0.6, zorder=0)
        color = COLOR_OF[str(own["kind"].iloc[0])] if len(own) else GREY
        if len(own) > 1:
            ax.scatter(
                own["value"], np.full(len(own), y), s=8, color=color, alpha=0.4, linewidths=0
            )
        elif len(own) and "low" in own and np.isfinite(own["low"].iloc[0]):
            ax.plot(own[["low", "high"]].to_numpy()[0], [y, y], color=color, lw=1.5)
        ax.scatter(own["value"].mean(), y, s=34, color=color, edgecolors=INK, linewidths=0.4)
    tidy(ax)


def _title(metric: str) -> str:
    """Name of the metric, and which direction is good."""
    spec = spec_of(metric)
    arrow = "" if spec is None else (" →" if spec.direction == "higher" else " ←")
    return metric.replace("_", " ") + arrow
