"""Names beside points, moved apart so that none covers another."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression

from scdisent.pl._figure import GREY, INK, figure_of

FONT = 8.5
Array = NDArray[np.floating]


def place_labels(ax: Axes, points: Array, *, names: Sequence[str]) -> None:
    """Name the outer points of a cloud along the diagonal, each with a thin line.

    Names of points right of zero stand in a column on their left, above the diagonal; names of
    the others in a column on their right, below it: a good prediction leaves both corners empty.
    Limits of the axes must be final.

    Parameters
    ----------
    ax
        Axes with linear scales.
    points
        Points to name, in data units, ``(n_points, 2)``.
    names
        Their names.
    """
    figure_of(ax).draw_without_rendering()  # settles the layout, and with it the scale
    height = ax.get_window_extent().height * 72 / figure_of(ax).dpi  # in points, like fonts
    bottom, top = ax.get_ylim()
    gap, indent = 1.35 * FONT * (top - bottom) / height, 0.06 * np.diff(ax.get_xlim())[0]
    for is_right in (True, False):
        members = np.flatnonzero((points[:, 0] >= 0) == is_right).tolist()
        if not len(members):
            continue
        x, y = points[members].T
        column = x.min() - indent if is_right else x.max() + indent
        rows = spread(y, gap=gap, low=bottom + gap, high=top - gap)
        for i, row in zip(members, rows, strict=True):
            ax.annotate(
                str(names[i]),
                points[i],
                xytext=(column, row),
                ha="right" if is_right else "left",
                va="center",
                fontsize=FONT,
                color=INK,
                path_effects=[withStroke(linewidth=2, foreground="white")],
                arrowprops={
                    "arrowstyle": "-",
                    "lw": 0.5,
                    "color": GREY,
                    "relpos": (float(is_right), 0.5),
                    "shrinkB": 2,
                },
                zorder=5,
            )


def spread(wanted: Array, *, gap: float, low: float, high: float) -> Array:
    """Heights nearest to the wanted ones in squared distance that are at least ``gap`` apart.

    Keeping the order, ``height + rank * gap`` must not increase: isotonic regression.

    Parameters
    ----------
    wanted
        ``(n_labels,)``.
    gap, low, high
        Least distance; range that is kept if there is room for all.

    Returns
    -------
    ``(n_labels,)``, in the order of the input.
    """
    order = np.argsort(-wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    heights = isotonic_regression(wanted[order] + steps, increasing=False) - steps
    heights += max(0.0, low - heights[-1])
    heights += min(0.0, high - heights[0])
    result = np.empty_like(heights)
    result[order] = heights
    return result
