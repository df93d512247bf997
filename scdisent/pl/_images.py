"""Images side by side: pixels are features, channel by channel."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from scdisent._errors import InputDataError

GAP = 0.08
"""Space between images, as a share of their larger side."""
Array = NDArray[np.floating]


def image_shape(shape: Any, *, n_features: int) -> tuple[int, int, int]:
    """Return channels, height and width, checked against the number of pixels."""
    found = tuple(int(side) for side in np.ravel(shape))
    if len(found) != 3 or found[0] not in (1, 3) or np.prod(found) != n_features:
        msg = (
            f"adata.uns['image_shape'] is {found}, but (channels, height, width) of {n_features} "
            "features with 1 or 3 channels are expected. Correct it, or delete it to draw curves."
        )
        raise InputDataError(msg)
    return found


def montage(images: Array, *, shape: tuple[int, int, int]) -> Array:
    """Images side by side, a row each, with white space between them.

    Parameters
    ----------
    images
        ``(n_rows, n_columns, n_features)``; features are pixels, channel by channel.
    shape
        Channels, height, width.

    Returns
    -------
    ``(n_rows * (height + gap) - gap, n_columns * (width + gap) - gap, channels)``; NaN between.
    """
    channels, height, width = shape
    gap = tile_gap(shape)
    tiles = images.reshape(*images.shape[:2], *shape).astype(float)
    space = ((0, 0), (0, 0), (0, 0), (0, gap), (0, gap))
    tiles = np.pad(tiles, space, constant_values=np.nan)
    rows, columns = images.shape[:2]
    whole = tiles.transpose(0, 3, 1, 4, 2)  # rows, height, columns, width, channels
    return whole.reshape(rows * (height + gap), columns * (width + gap), channels)[:-gap, :-gap]


def draw_montage(ax: Axes, images: Array, *, shape: tuple[int, int, int]) -> None:
    """Draw a :func:`montage` without a frame; values beyond [0, 1] are rescaled."""
    picture = montage(images, shape=shape)
    low, high = min(0.0, float(np.nanmin(picture))), max(1.0, float(np.nanmax(picture)))
    if shape[0] == 1:
        ax.imshow(np.ma.masked_invalid(picture[..., 0]), cmap="gray", vmin=low, vmax=high)
    else:
        ax.imshow(np.nan_to_num((picture - low) / (high - low), nan=1.0))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def tile_gap(shape: tuple[int, int, int]) -> int:
    """Pixels between images."""
    return max(1, round(GAP * max(shape[1:])))
