"""What all plots share: panels, colours, showing and saving. Nothing global is changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from scdisent._constants import UNS_KEY
from scdisent._errors import InputDataError, OptionError

INK, GREY, PALE = "#333333", "#8c8c8c", "#dddddd"
BLUE, ORANGE = "#0072b2", "#d55e00"
COLORS = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6d31", "#332288",
    "#882255", "#999999",
]  # fmt: skip
"""Okabe and Ito's colours and some of Tol's, which colour-blind readers can tell apart too."""

Drawn = Axes | list[Axes] | None


def panels(
    n_rows: int, n_columns: int, *, axes: Axes | Sequence[Axes] | None, size: tuple[float, float]
) -> list[Axes]:
    """Return the given axes, checked, or those of a new figure, row by row; ``size``: a panel."""
    if not n_rows * n_columns:
        msg = "there is nothing to draw: an empty list was given. Name at least one, or pass None."
        raise OptionError(msg)
    if axes is None:
        figure, grid = plt.subplots(
            n_rows,
            n_columns,
            figsize=(n_columns * size[0], n_rows * size[1]),
            squeeze=False,
            layout="constrained",
        )
        return list(grid.ravel())
    given = [axes] if isinstance(axes, Axes) else list(np.ravel(np.asarray(axes, dtype=object)))
    if len(given) != n_rows * n_columns:
        msg = f"The plot has {n_rows * n_columns} panels, but {len(given)} axes were given."
        raise OptionError(msg)
    return given


def finish(
    axes: list[Axes], *, show: bool | None, save: str | Path | None, new: bool, single: bool = False
) -> Drawn:
    """Save, show if asked (by default: new figures of interactive sessions), return the axes."""
    if save is not None:
        figure_of(axes[0]).savefig(save, dpi=200, bbox_inches="tight")
    if show or (show is None and new and plt.isinteractive()):
        plt.show()
        return None
    return axes[0] if single else axes


def figure_of(ax: Axes) -> Figure:
    """Figure of the axes, also if they are in a subfigure."""
    return ax.figure.figure


def tidy(ax: Axes) -> None:
    """Leave only the two spines that carry numbers."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9)


def stored(adata: AnnData, name: str, *, call: str, key: str = UNS_KEY) -> Any:
    """Return ``adata.uns[key][name]``, or say which call writes it."""
    results = adata.uns.get(key, {})
    if not isinstance(results, Mapping) or name not in results:
        msg = f"adata.uns[{key!r}] holds no {name!r}. Call {call} first."
        raise InputDataError(msg)
    return results[name]


def level_colors(adata: AnnData, key: str, *, levels: Sequence[str]) -> list[str]:
    """Colours of the levels: those that scanpy stored, else our own; nothing is stored."""
    known = adata.uns.get(f"{key}_colors")
    if isinstance(known, Mapping):  # colours by level
        by_name = {str(level): color for level, color in known.items()}
        known = [by_name[str(level)] for level in levels if str(level) in by_name]
    if known is not None and len(known) == len(levels):
        return [to_hex(color) for color in known]
    if len(levels) <= len(COLORS):
        return COLORS[: len(levels)]
    if len(levels) <= 20:
        return [to_hex(color) for color in plt.colormaps["tab20"](np.arange(len(levels)))]
    return [to_hex(color) for color in plt.colormaps["turbo"](np.linspace(0.03, 0.97, len(levels)))]
