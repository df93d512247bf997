from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray

from scdisent._constants import UNS_KEY
from scdisent._errors import InputDataError, OptionError
from scdisent.pl._figure import (
    COLORS,
    GREY,
    INK,
    PALE,
    Drawn,
    figure_of,
    finish,
    panels,
    stored,
    tidy,
)
from scdisent.pl._images import draw_montage, image_shape, tile_gap
from scdisent.pl._labels import FONT, spread
from scdisent.pl._loadings import latent_order

N_COLUMNS = 4
TILE = 0.75
"""Inches of an image."""
CALL = "tl.traverse(adata, model)"
Array = NDArray[np.floating]


def traversal(
    adata: AnnData,
    *,
    n_genes: int = 4,
    block: str | None = None,
    uninformative: bool = False,
    key: str = UNS_KEY,
    axes: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw what one cell decodes to while each latent moves through its range.

    Images (``adata.uns["image_shape"]``: channels, height, width): a row of images for each latent,
    after the image of the cell itself. Genes and tables: a panel for each latent with the
    ``n_genes`` genes that change most, as difference from the cell itself; panels of a block share
    their scale, so that a weak latent looks weak. Latents stand by block, then by information.

    Parameters
    ----------
    adata
        After ``tl.traverse``; order and information come from ``tl.fvh_lt`` or ``tl.dbsr_ls``, and
        without them all latents are drawn as stored. It is not changed.
    n_genes
        Genes of each panel.
    block
        Block of latents to draw. Default: all.
    uninformative
        Draw latents without information too, with grey names.
    key
        Name under which results are stored.
    axes
        For images one; else as many axes as latents are drawn.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    List of axes, unless shown.

    Raises
    ------
    InputDataError
        If there is no traversal, no latent to draw, or the image shape does not fit.
    OptionError
        If the block is unknown, or ``n_genes`` is below one.
    """
    found = stored(adata, "traversal", key=key, call=CALL)
    if n_genes < 1:
        msg = f"n_genes={n_genes}, but each latent must show at least one gene."
        raise OptionError(msg)
    rows = traversed_latents(
        found, adata.uns.get(key, {}).get("latents"), block=block, uninformative=uninformative
    )
    if "image_shape" in adata.uns:
        shape = image_shape(adata.uns["image_shape"], n_features=len(found["genes"]))
        drawn = _draw_images(found, rows, shape=shape, axes=axes)
    else:
        drawn = _draw_curves(found, rows, n_genes=n_genes, axes=axes)
    return finish(drawn, show=show, save=save, new=axes is None)


def traversed_latents(
    traversal: dict[str, Any],
    latents: pd.DataFrame | None,
    *,
    block: str | None = None,
    uninformative: bool = False,
) -> pd.DataFrame:
    """Latents to draw, in order: ``block``, ``kl``, ``informative``, and ``place`` in the results.

    Without a table of latents, or with one of another model, all latents count as informative and
    keep their order; ``kl`` is NaN.
    """
    names = [str(name) for name in traversal["latents"]]
    if latents is None or list(latents.index) != names:
        blocks = [name.rpartition("_")[0] for name in names]
        latents = pd.DataFrame({"block": blocks, "kl": np.nan, "informative": True}, index=names)
    frame = latents.assign(place=np.arange(len(names))).iloc[latent_order(latents, block=block)]
    if not uninformative:
        frame = frame[frame["informative"].astype(bool)]
    if not len(frame):
        msg = "No latent is informative. Pass uninformative=True to draw them all the same."
        raise InputDataError(msg)
    return frame


def top_changes(change: Array, *, n_genes: int) -> NDArray[np.intp]:
    """Genes whose values along the grid span most, from most to least.

    Parameters
    ----------
    change
        ``(n_grid, n_genes)``.
    n_genes
        How many.
    """
    return np.argsort(-np.ptp(change, axis=0), kind="stable")[:n_genes]


def _draw_images(
    traversal: dict[str, Any],
    rows: pd.DataFrame,
    *,
    shape: tuple[int, int, int],
    axes: Axes | Sequence[Axes] | None,
) -> list[Axes]:
    """One picture of all images: the cell itself, then the grid from its low to its high end."""
    values = np.asarray(traversal["values"])[rows["place"].to_numpy()]
    base = np.broadcast_to(traversal["base"], (len(rows), 1, values.shape[2]))
    images = np.concatenate([base, values], axis=1)
    step_y, step_x = (side + tile_gap(shape) for side in shape[1:])
    n_rows, n_columns = images.shape[:2]
    size = (TILE * n_columns * step_x / max(step_x, step_y) + 1.4, TILE * n_rows + 0.9)
    (ax,) = panels(1, 1, axes=axes, size=size)
    draw_montage(ax, images, shape=shape)
    middle_x, middle_y = (shape[2] - 1) / 2, (shape[1] - 1) / 2
    ax.set_yticks(np.arange(n_rows) * step_y + middle_y, _titles(rows), fontsize=8.5)
    places = np.array([0, 1, n_columns - 1])
    ax.set_xticks(places * step_x + middle_x, ["start", "low end", "high end"], fontsize=8.5)
    ax.axvline(step_x - tile_gap(shape) / 2 - 0.5, color=INK, lw=1)
    for label, informative in zip(ax.get_yticklabels(), rows["informative"], strict=True):
        label.set_color(INK if informative else GREY)
    ax.set_title("One image with each latent moved through its range", fontsize=11, loc="left")
    return [ax]


def _draw_curves(
    traversal: dict[str, Any],
    rows: pd.DataFrame,
    *,
    n_genes: int,
    axes: Axes | Sequence[Axes] | None,
) -> list[Axes]:
    """A panel for each latent; curves first, names when the scale is settled."""
    change = np.asarray(traversal["values"], dtype=float) - np.asarray(
        traversal["base"], dtype=float
    )
    genes = np.asarray(traversal["genes"]).astype(str)
    n_columns = len(rows) if axes is not None else min(N_COLUMNS, len(rows))
    drawn = panels(-(-len(rows) // n_columns), n_columns, axes=axes, size=(3.1, 2.1))
    for ax in drawn[len(rows) :]:
        ax.remove()
    drawn = drawn[: len(rows)]
    tops = {place: top_changes(change[place], n_genes=n_genes) for place in rows["place"]}
    curves = {place: change[place][:, top] for place, top in tops.items()}  # (n_grid, n_genes)
    limits = rows["place"].map(lambda place: np.abs(curves[place]).max())
    limits = 1.05 * limits.groupby(rows["block"].astype(str)).transform("max")
    for ax, title, (name, row) in zip(drawn, _titles(rows), rows.iterrows(), strict=True):
        grid = traversal["grid"][row["place"]]
        ax.axhline(0, color=PALE, lw=1, zorder=0)
        ax.set_prop_cycle(color=COLORS)
        ax.plot(grid, curves[row["place"]], lw=1.6)
        limit = limits[name] or 1.0
        ax.set(xlim=(grid[0], grid[-1]), ylim=(-limit, limit))
        ax.set_title(title, fontsize=9.5, color=INK if row["informative"] else GREY, loc="left")
        tidy(ax)
        ax.tick_params(labelsize=8)
    for ax in drawn[::n_columns]:
        ax.set_ylabel("change from the cell", fontsize=8.5)
    for ax in drawn[-n_columns:]:
        ax.set_xlabel("value of the latent", fontsize=8.5)
    figure_of(drawn[0]).draw_without_rendering()  # settles the heights that names need
    for ax, place in zip(drawn, rows["place"], strict=True):
        _name_ends(ax, genes[tops[place]].tolist())
    return drawn


def _name_ends(ax: Axes, names: Sequence[str]) -> None:
    """Name lines right of the axes, level with their ends where there is room."""
    bottom, top = ax.get_ylim()
    height = ax.get_window_extent().height * 72 / figure_of(ax).dpi  # in points, like fonts
    lines = ax.get_lines()[1:]  # the first one is zero
    ends = np.array([np.asarray(line.get_ydata())[-1] for line in lines])
    gap = 1.2 * FONT * (top - bottom) / height
    rows = spread(ends, gap=gap, low=bottom, high=top)
    beside = ax.get_yaxis_transform()
    for line, name, end, row in zip(lines, names, ends, rows, strict=True):
        ax.annotate(
            name,
            (1, end),
            xycoords=beside,
            xytext=(1.06, row),
            textcoords=beside,
            va="center",
            fontsize=FONT,
            color=line.get_color(),
            arrowprops={
                "arrowstyle": "-",
                "lw": 0.6,
                "color": line.get_color(),
                "relpos": (0, 0.5),
                "shrinkA": 0,
                "shrinkB": 0,
            },
            annotation_clip=False,
        )


def _titles(rows: pd.DataFrame) -> list[str]:
    """Name of each latent with its information, if known."""
    kl = rows["kl"]
    return [
        str(name) if np.isnan(value) else f"{name} (KL {value:.2g} nat)"
        for name, value in kl.items()
    ]
