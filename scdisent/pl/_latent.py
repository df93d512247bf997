from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from scdisent._constants import UNS_KEY, obsm_key
from scdisent._errors import InputDataError
from scdisent.data._stored import record
from scdisent.pl._figure import PALE, Drawn, finish, level_colors, panels, stored

BLOCKS = ("invariant", "specific", "latent")
FEWEST_CELLS = 4
"""Fewer have no UMAP: it starts from three eigenvectors of the cells."""
MAX_CELLS = 20_000
"""More points than this hide one another and take minutes to lay out."""


def latent(
    adata: AnnData,
    *,
    representation: str | Sequence[str] | None = None,
    color: str | Sequence[str] | None = None,
    n_neighbors: int = 15,
    key: str = UNS_KEY,
    seed: int = 0,
    axes: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw the codes of each block as UMAP: a row for each block, a column for each colour.

    What to look for: cell types apart and conditions mixed in the invariant block, conditions
    apart in the specific block. A picture is no proof of either; ``pl.leakage`` measures it.
    Points are drawn in random order, so that no level covers another; of more than 20,000
    cells a random subset is drawn, and the figure says so.

    Parameters
    ----------
    adata
        After ``tl.embed``. It is not changed.
    representation
        Blocks to draw; None: all of the model that ``tl.embed`` was called with. Coordinates in
        ``obsm["X_umap_<key>_<block>"]`` are used if there.
    color
        Columns of ``adata.obs``. Default: condition and, if registered, cell type.
    n_neighbors, seed
        Of the UMAP.
    key
        Name under which results are stored.
    axes
        As many axes as panels, row by row.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    List of axes, unless shown.

    Raises
    ------
    InputDataError
        If codes or a column are missing, or there are too few cells for a UMAP.
    """
    if representation is None:
        representation = _stored_blocks(adata, key)
    blocks = [representation] if isinstance(representation, str) else list(representation)
    if not blocks:
        msg = "there are no codes to draw. Call tl.embed(adata, model) with a model that has some."
        raise InputDataError(msg)
    colors = _color_keys(adata, color, key=key)
    cells = drawn_cells(adata.n_obs, seed=seed)
    how: dict[str, Any] = {"cells": cells, "n_neighbors": n_neighbors, "seed": seed, "key": key}
    points = [latent_coordinates(adata, block, **how) for block in blocks]
    drawn = panels(len(blocks), len(colors), axes=axes, size=(4.6, 3.6))
    for row, block in enumerate(blocks):
        for place, name in enumerate(colors):
            ax = drawn[row * len(colors) + place]
            _scatter(ax, points[row], adata, key=name, cells=cells)
            ax.set_title(f"{block.capitalize()} codes, by {name}", fontsize=11)
            if len(cells) < adata.n_obs:
                ax.set_xlabel(f"UMAP 1  ({len(cells):,} of {adata.n_obs:,} cells drawn)")
    return finish(drawn, show=show, save=save, new=axes is None)


def _stored_blocks(adata: AnnData, key: str) -> list[str]:
    """Blocks of the model that was embedded last; other slots may be of an older one."""
    names = record(adata, "embed", key=key).get("representations")
    if names is not None:
        return [str(name) for name in names]
    return [name for name in BLOCKS if obsm_key(name, key) in adata.obsm] or list(BLOCKS[:2])


def drawn_cells(n_cells: int, *, seed: int) -> NDArray[np.intp]:
    """Positions of the cells to draw, in random order: all, or a random ``MAX_CELLS``."""
    return np.random.default_rng(seed).permutation(n_cells)[:MAX_CELLS]


def latent_coordinates(
    adata: AnnData,
    representation: str,
    *,
    cells: NDArray[np.intp],
    n_neighbors: int,
    seed: int,
    key: str = UNS_KEY,
) -> NDArray[np.floating]:
    """Coordinates of the given cells, ``(n_drawn, 2)``: stored ones, else a UMAP of the codes."""
    ready = obsm_key(representation, f"umap_{key}")
    if ready in adata.obsm:
        return np.asarray(adata.obsm[ready])[cells, :2]
    slot = obsm_key(representation, key)
    if slot not in adata.obsm:
        msg = (
            f"adata.obsm holds no {slot!r}, only {sorted(adata.obsm)}. Call tl.embed(adata, model) "
            "first, or choose another representation."
        )
        raise InputDataError(msg)
    if len(cells) < FEWEST_CELLS:
        msg = (
            f"a UMAP of {representation!r} needs at least {FEWEST_CELLS} cells, found "
            f"{len(cells)}. Pass more, or coordinates of your own in obsm[{ready!r}]."
        )
        raise InputDataError(msg)
    import scanpy as sc  # takes seconds to load, and stored coordinates do not need it

    light = AnnData(obsm={"codes": np.asarray(adata.obsm[slot])[cells]})
    n_neighbors = min(n_neighbors, len(cells) - 1)
    with threadpool_limits(limits=None):  # numba changes how many threads torch uses after it
        sc.pp.neighbors(light, n_neighbors=n_neighbors, use_rep="codes", random_state=seed)
        sc.tl.umap(light, random_state=seed)
    return light.obsm["X_umap"]


def _color_keys(adata: AnnData, color: str | Sequence[str] | None, *, key: str) -> list[str]:
    if color is None:
        embed = stored(adata, "embed", call="tl.embed(adata, model)", key=key)
        color = [key for key in (embed["condition_key"], embed["labels_key"]) if key]
    keys = [color] if isinstance(color, str) else list(color)
    missing = [key for key in keys if key not in adata.obs]
    if missing:
        msg = f"adata.obs has no {missing}. Choose among: {', '.join(adata.obs.columns)}."
        raise InputDataError(msg)
    return keys


def _scatter(
    ax: Axes, points: NDArray[np.floating], adata: AnnData, *, key: str, cells: NDArray[np.intp]
) -> None:
    """Draw cells in the given order; numbers get a colour bar, everything else a legend."""
    values = adata.obs[key].iloc[cells]
    style: dict[str, Any] = {
        "s": float(np.clip(30_000 / len(cells), 2, 20)),
        "linewidths": 0,
        "rasterized": True,
    }
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        dots = ax.scatter(points[:, 0], points[:, 1], c=values, cmap="viridis", **style)
        ax.figure.colorbar(dots, ax=ax, label=key, shrink=0.7)
    else:
        levels = adata.obs[key].astype("category").cat.categories
        colors = level_colors(adata, key, levels=levels)
        codes = pd.Categorical(values, categories=levels).codes  # -1: missing
        ax.scatter(points[:, 0], points[:, 1], c=np.array([*colors, PALE])[codes], **style)
        for level, shade in zip(levels, colors, strict=True):
            ax.scatter([], [], c=shade, s=30, label=str(level))
        ax.legend(
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            frameon=False,
            fontsize=9,
            ncols=1 + (len(levels) - 1) // 14,
            handletextpad=0.2,
            borderaxespad=0.2,
        )
    ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    ax.spines[["top", "right"]].set_visible(False)
