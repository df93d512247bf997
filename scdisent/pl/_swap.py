"""Images with the condition of others."""

from pathlib import Path

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from scdisent._constants import UNS_KEY
from scdisent._errors import InputDataError
from scdisent.pl._figure import INK, Drawn, finish, panels, stored
from scdisent.pl._images import draw_montage, image_shape, tile_gap

TILE = 0.75
"""Inches of an image."""
CALL = "tl.swap(adata, model)"


def swap(
    adata: AnnData,
    *,
    key: str = UNS_KEY,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw images decoded from the invariant code of a row and the specific code of a column.

    The first column and the first row show the cells that give the codes, with their own. If the
    blocks are split, shapes follow the rows and conditions follow the columns.

    Parameters
    ----------
    adata
        After ``tl.swap``, with ``uns["image_shape"]``: channels, height, width. It is not changed.
    key
        Name under which results are stored.
    ax
        Axes to draw into.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    The axes, unless shown.

    Raises
    ------
    InputDataError
        If there is no swap, or the cells are no images.
    """
    found = stored(adata, "swap", key=key, call=CALL)
    values = np.asarray(found["values"], dtype=float)
    if "image_shape" not in adata.uns:
        msg = (
            "adata.uns has no 'image_shape', and a swap is drawn as images. For genes see "
            "pl.response, which draws what a condition changes."
        )
        raise InputDataError(msg)
    shape = image_shape(adata.uns["image_shape"], n_features=values.shape[2])
    corner = np.full((1, 1, values.shape[2]), np.nan)
    top = np.concatenate([corner, np.asarray(found["columns"])[None]], axis=1)
    body = np.concatenate([np.asarray(found["rows"])[:, None], values], axis=1)
    images = np.concatenate([top, body])
    (axes,) = panels(1, 1, axes=ax, size=(TILE * images.shape[1] + 0.6, TILE * len(images) + 0.9))
    step_y, step_x = (side + tile_gap(shape) for side in shape[1:])
    draw_montage(axes, images, shape=shape)
    for line, step in ((axes.axvline, step_x), (axes.axhline, step_y)):
        line(step - tile_gap(shape) / 2 - 0.5, color=INK, lw=1)
    centres = (np.arange(images.shape[1]) * step_x + (shape[2] - 1) / 2)[1:]
    names = [str(name) for name in found["conditions"]]
    axes.set_xticks(centres, names, fontsize=8.5, rotation=30, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.set_ylabel("what the image is", fontsize=9)
    axes.set_title("condition taken from", fontsize=9)
    return finish([axes], show=show, save=save, new=ax is None, single=True)
