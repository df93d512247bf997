from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from scdisent._constants import UNS_KEY
from scdisent._errors import InputDataError
from scdisent.pl._figure import (
    BLUE,
    COLORS,
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

TOOLS = {"fvh_lt": "FVH-LT", "dbsr_ls": "DBSR-LS", "mean": "mean of both"}
DASHES: dict[str, Any] = {"fvh_lt": "-", "dbsr_ls": (0, (4, 2)), "mean": (0, (1, 1.5))}
PARTS = {
    "explained": ("explained", "|", COLORS[2]),
    "balance": ("balance", "s", BLUE),
    "concentration": ("concentration", "D", ORANGE),
}
"""Label, marker and colour: shapes tell them apart without colours too."""


def lsdi(
    adata: AnnData,
    *,
    key: str = UNS_KEY,
    axes: Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw how well the latents are separated (LSDI-R), and why.

    LSDI-R is our reconstruction, see :func:`scdisent.metrics.lsdi`. Left: a row for each block and
    tool. The black dot is the index, the grey bar what permuted
    associations reach, and the circle the index adjusted for it (0 at the null, negative below).
    Small marks are the parts of which the index is made, ``explained * max(0, balance +
    concentration - 1)``; right of the row, how many latents are informative. Right: the index for
    other cuts of the KL, under each the number of latents above it (of all blocks).

    Parameters
    ----------
    adata
        After ``tl.lsdi``. It is not changed.
    key
        Name under which results are stored.
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
        If there are no results, or no gene could be scored.
    """
    call = "tl.lsdi(adata)"
    rows = lsdi_rows(stored(adata, "lsdi", key=key, call=call))
    latents = stored(adata, "latents", key=key, call="tl.fvh_lt(adata, model)")
    by_cut = stored(adata, "lsdi_by_cut", key=key, call=call)
    size = (4.6, max(2.6, 1.4 + 0.42 * len(rows)))
    drawn = panels(1, 2, axes=axes, size=size)
    grid = drawn[0].get_gridspec()
    if axes is None and grid is not None:
        grid.set_width_ratios([5, 2])
    _draw_rows(drawn[0], rows, n_latent=latent_counts(latents))
    _draw_cuts(drawn[1], by_cut)
    return finish(drawn, show=show, save=save, new=axes is None)


def lsdi_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the table of ``tl.lsdi`` as drawn from top: by block, then by tool."""
    if not len(frame):
        msg = "The table of tl.lsdi is empty. Call tl.fvh_lt or tl.dbsr_ls, then tl.lsdi, again."
        raise InputDataError(msg)
    if frame["value"].isna().all():
        msg = "No gene could be scored (tl.lsdi is NaN): there is nothing to draw. Train longer."
        raise InputDataError(msg)
    blocks = list(dict.fromkeys(frame["block"].astype(str)))
    place = frame["block"].astype(str).map(blocks.index)
    return frame.iloc[np.argsort(place.to_numpy(), kind="stable")].reset_index(drop=True)


def latent_counts(latents: pd.DataFrame) -> dict[str, int]:
    """Number of latents of each block, and of ``"all"``."""
    counts = latents["block"].astype(str).value_counts().to_dict()
    return {**counts, "all": len(latents)}


def _draw_rows(ax: Axes, rows: pd.DataFrame, *, n_latent: dict[str, int]) -> None:
    heights = len(rows) - 1 - np.arange(len(rows))
    above, below = heights + 0.16, heights - 0.16
    ax.barh(above, rows["null"], height=0.24, color=PALE, zorder=1)
    ax.hlines(above, rows["adjusted"], rows["value"], color=INK, lw=1, zorder=2)
    ax.scatter(
        rows["adjusted"], above, s=36, facecolors="white", edgecolors=INK, zorder=3, clip_on=False
    )
    ax.scatter(rows["value"], above, s=46, color=INK, zorder=4, clip_on=False)
    for name, (_, marker, color) in PARTS.items():
        size, level = (80, 4) if marker == "|" else (22, 3)  # a stroke leaves other marks in sight
        style: dict[str, Any] = {"s": size, "color": color, "marker": marker, "zorder": level}
        ax.scatter(rows[name], below, clip_on=False, **style)
    for height, row in zip(heights, rows.itertuples(), strict=True):
        total = n_latent.get(str(row.block))
        of = f" of {total}" if total else ""
        text = f"{row.value:.2f}    {row.n_informative:.0f}{of} informative"
        ax.annotate(
            text,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )
    _name_rows(ax, rows)


def _name_rows(ax: Axes, rows: pd.DataFrame) -> None:
    """Names of the rows, lines between blocks, and the legend under the axis."""
    blocks = rows["block"].astype(str)
    single = blocks.nunique() == 1
    tools = [TOOLS.get(tool, tool) for tool in rows["tool"]]
    names = [tool if single else f"{b}, {tool}" for b, tool in zip(blocks, tools, strict=True)]
    ax.set_yticks(len(rows) - 1 - np.arange(len(rows)), names, fontsize=9)
    for edge in np.flatnonzero(blocks.to_numpy()[1:] != blocks.to_numpy()[:-1]):
        ax.axhline(len(rows) - 1.5 - edge, color=PALE, lw=1, zorder=0)
    ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    low = min(0.0, float(rows["adjusted"].min()))
    ax.set(xlim=(low - 0.03, 1.03), ylim=(-0.6, len(rows) - 0.4))
    ax.set_title("Separation of the latents (LSDI-R)", fontsize=11, loc="left")
    tidy(ax)
    ax.tick_params(axis="y", length=0)
    circle: dict[str, Any] = {"ls": "", "marker": "o", "color": INK}
    handles = [
        Line2D([], [], ms=7, label="index", **circle),
        Line2D([], [], ms=6, mfc="white", label="adjusted for chance", **circle),
        Line2D([], [], lw=6, color=PALE, label="permuted"),
        *(
            Line2D([], [], ls="", marker=marker, ms=5, mew=1.5, color=color, label=label)
            for label, marker, color in PARTS.values()
        ),
    ]
    below = ax.transAxes + ScaledTranslation(0, -0.3, figure_of(ax).dpi_scale_trans)
    place = {"bbox_to_anchor": (0, 0), "bbox_transform": below, "borderaxespad": 0}
    ax.legend(handles=handles, loc="upper left", ncols=2, frameon=False, fontsize=8.5, **place)


def _draw_cuts(ax: Axes, by_cut: pd.DataFrame) -> None:
    """Index over the cut of the KL: a colour for each block, a dash for each tool."""
    blocks = list(dict.fromkeys(by_cut["block"].astype(str)))
    tools = list(dict.fromkeys(by_cut["tool"].astype(str)))
    colors = {block: INK if block == "all" else COLORS[i] for i, block in enumerate(blocks)}
    for (block, tool), curve in by_cut.groupby(["block", "tool"], sort=False, observed=True):
        style: dict[str, Any] = {"color": colors[str(block)], "ls": DASHES.get(str(tool), "-")}
        ax.plot(curve["cut"], curve["value"], marker="o", ms=3.5, lw=1.4, **style)
    last = by_cut[(by_cut["block"] == blocks[-1]) & (by_cut["tool"] == tools[0])]
    ticks = [f"{row.cut:g}\n({row.n_informative:.0f})" for row in last.itertuples()]
    ax.set(xscale="log", ylim=(0, 1.2 * by_cut["value"].max() or 1))
    ax.set_xticks(last["cut"], ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("cut of the KL, nat (latents above)", fontsize=8.5)
    ax.set_title("Index for other cuts", fontsize=11, loc="left")
    tidy(ax)
    ax.tick_params(axis="x", labelsize=8)
    handles = [Line2D([], [], color=colors[b], lw=2, label=b) for b in blocks if len(blocks) > 1]
    for tool in tools:
        style = {"color": GREY, "ls": DASHES.get(tool, "-"), "label": TOOLS.get(tool, tool)}
        handles.append(Line2D([], [], lw=1.4, **style))
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8.5)
