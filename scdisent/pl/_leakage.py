from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from scdisent._constants import UNS_KEY
from scdisent._errors import InputDataError
from scdisent.pl._figure import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE,
    Drawn,
    figure_of,
    finish,
    panels,
    stored,
    tidy,
)

NAMES = {
    "invariant": "invariant codes",
    "specific": "specific codes",
    "decoded": "decoded invariant codes",
    "pca": "PCA (no correction)",
    "type only": "cell type alone",
}


def leakage(
    adata_or_frame: AnnData | pd.DataFrame,
    *,
    representation: str | Sequence[str] | None = None,
    target: str = "condition",
    key: str = UNS_KEY,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw how well the condition can be read from each representation.

    One row each: the large dot and its line are the AUROC of the best attacker and its 95 %
    interval over all cells; small dots are single cell types, the worst one named; the grey band
    is what the same attackers reach when labels are shuffled (mean to 95 %).

    Parameters
    ----------
    adata_or_frame
        After ``tl.score``, or its table: rows of ``metrics.Leakage.to_frame`` with columns
        ``representation`` and ``target`` in front.
    representation
        Rows to draw, from top. Default: all, as in the table.
    target
        What was to be read: ``"condition"`` or another target of the table.
    key
        Name under which results are stored.
    ax
        Axes to draw on.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    The axes, unless shown.

    Raises
    ------
    InputDataError
        If there is no audit, or not of the target or representation.
    """
    frame = adata_or_frame
    if isinstance(frame, AnnData):
        frame = stored(frame, "leakage", call="tl.score(adata, model)", key=key)
    rows = leakage_rows(frame, representation=representation, target=target)
    size = (9.2, 1.5 + 0.68 * len(rows))
    (drawn,) = panels(1, 1, axes=ax, size=size)
    for place, row in enumerate(rows):
        _draw_row(drawn, row, height=len(rows) - 1 - place)
    _decorate(drawn, rows, target=target)
    return finish([drawn], show=show, save=save, new=ax is None, single=True)


def leakage_rows(
    frame: pd.DataFrame,
    *,
    representation: str | Sequence[str] | None = None,
    target: str = "condition",
) -> list[tuple[str, pd.Series, pd.DataFrame]]:
    """For each representation: its name, the pooled row, and the rows of single cell types."""
    if "target" in frame:
        frame = frame[frame["target"] == target]
    if "representation" not in frame:
        frame = frame.assign(representation="codes")
    known = list(dict.fromkeys(frame.loc[frame["scope"] == "pooled", "representation"]))
    chosen = [representation] if isinstance(representation, str) else representation
    chosen = known if chosen is None else list(chosen)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        msg = f"No audit of {target!r} for {unknown or 'anything'}. The table has: {known}."
        raise InputDataError(msg)
    rows = []
    for name in chosen:
        own = frame[frame["representation"] == name]
        within = own[own["scope"] == "within"].sort_values("auroc", ascending=False)
        rows.append((str(name), own[own["scope"] == "pooled"].iloc[0], within))
    return rows


def _draw_row(ax: Axes, row: tuple[str, pd.Series, pd.DataFrame], *, height: int) -> None:
    _, pooled, within = row
    low, high = pooled["null_auroc"], pooled["null_auroc_95"]
    ax.barh(height, high - low, left=low, height=0.7, color=PALE, zorder=1)
    ax.plot([pooled["lower"], pooled["upper"]], [height + 0.16] * 2, color=INK, lw=2, zorder=3)
    ax.scatter(pooled["auroc"], height + 0.16, s=70, color=INK, zorder=4, clip_on=False)
    ax.annotate(
        f"{pooled['auroc']:.2f}  ({pooled['lower']:.2f}–{pooled['upper']:.2f})",
        (1, height + 0.16),
        xycoords=("axes fraction", "data"),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        annotation_clip=False,
    )
    if len(within):
        y = np.full(len(within), height - 0.08)
        ax.scatter(within["auroc"], y, s=22, color=BLUE, alpha=0.7, linewidths=0, zorder=3)
        worst = within.iloc[0]
        ax.scatter(worst["auroc"], y[0], s=30, color=ORANGE, zorder=4, clip_on=False)
        ax.annotate(
            str(worst["group"]),
            (worst["auroc"], y[0]),
            xytext=(0, -5),
            textcoords="offset points",
            ha="right" if worst["auroc"] > 0.85 else "center",
            va="top",
            fontsize=8.5,
            color=ORANGE,
            zorder=5,
        )


def _decorate(ax: Axes, rows: list[tuple[str, pd.Series, pd.DataFrame]], *, target: str) -> None:
    names = [NAMES.get(name, name) for name, _, _ in rows]
    ax.axvline(0.5, color=GREY, lw=1, ls=(0, (4, 3)), zorder=2)
    ax.set_yticks(range(len(rows) - 1, -1, -1), names, fontsize=10)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    smallest = min(np.r_[p["lower"], w["auroc"]].min() for _, p, w in rows)
    ax.set_xlim(min(0.45, smallest - 0.02), 1.01)
    ax.set_xlabel("AUROC of the best attacker  (0.5: can not be read, 1: always)", fontsize=10)
    what = names[0] if len(rows) == 1 else "the codes"
    name = target.replace("_", " ")
    ax.set_title(f"Can the {name} be read from {what}?", fontsize=12, loc="left")
    tidy(ax)
    ax.tick_params(axis="y", length=0, labelsize=10)
    handles = [
        ax.scatter([], [], s=70, color=INK, label="all cells, 95 % interval"),
        ax.scatter([], [], s=22, color=BLUE, label="one cell type"),
        ax.scatter([], [], s=30, color=ORANGE, label="worst cell type"),
        ax.bar(0, 0, color=PALE, label="shuffled labels"),
    ]
    shown = handles if any(len(within) for _, _, within in rows) else [handles[0], handles[3]]
    beside_numbers = ax.transAxes + ScaledTranslation(1.4, 0, figure_of(ax).dpi_scale_trans)
    place = {"bbox_to_anchor": (1, 1), "bbox_transform": beside_numbers}
    ax.legend(handles=shown, loc="upper left", frameon=False, fontsize=9, **place)
