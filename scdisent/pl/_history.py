from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scdisent._constants import UNS_KEY
from scdisent._errors import InputDataError
from scdisent.pl._figure import BLUE, GREY, ORANGE, Drawn, finish, panels, stored, tidy

SPLITS = {"train": BLUE, "validation": ORANGE}
N_COLUMNS = 4


def history(
    adata_or_frame: AnnData | pd.DataFrame,
    *,
    terms: Sequence[str] | None = None,
    key: str = UNS_KEY,
    axes: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw the course of training: a panel for each term of the loss, over epochs.

    Parameters
    ----------
    adata_or_frame
        After ``tl.embed``, or a frame indexed by epoch with columns ``<term>_train`` and
        ``<term>_validation``; other numeric columns get a panel of their own.
    terms
        Terms to draw, in this order. Default: all.
    key
        Name under which results are stored.
    axes
        As many axes as terms.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    List of axes, one for each term, unless shown.

    Raises
    ------
    InputDataError
        If there is no history, or a term is not in it.
    """
    frame = adata_or_frame
    if isinstance(frame, AnnData):
        frame = stored(frame, "history", call="tl.embed(adata, model)", key=key)
    curves = history_curves(frame, terms=terms)
    names = list(dict.fromkeys(term for term, _ in curves))
    n_columns = len(names) if axes is not None else min(N_COLUMNS, len(names))
    n_rows = -(-len(names) // n_columns)
    drawn = panels(n_rows, n_columns, axes=axes, size=(3.0, 2.3))
    for ax in drawn[len(names) :]:
        ax.remove()
    drawn = drawn[: len(names)]
    for ax, name in zip(drawn, names, strict=True):
        for (term, split), values in curves.items():
            if term == name:
                ax.plot(values.index, values, color=SPLITS.get(split, GREY), lw=1.6)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("epoch", fontsize=9)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        tidy(ax)
    _legend(drawn[min(n_columns, len(drawn)) - 1], splits=[split for _, split in curves])
    return finish(drawn, show=show, save=save, new=axes is None)


def history_curves(
    frame: pd.DataFrame, *, terms: Sequence[str] | None = None
) -> dict[tuple[str, str], pd.Series]:
    """Curves by (term, split), without missing epochs; split is empty for columns without one."""
    curves = {}
    for column in frame.select_dtypes("number").columns:
        term, _, split = str(column).rpartition("_")
        name = (term, split) if term and split in SPLITS else (str(column), "")
        values = frame[column].dropna()
        if len(values):
            curves[name] = values
    known = list(dict.fromkeys(term for term, _ in curves))
    unknown = [term for term in terms or [] if term not in known]
    if unknown or not known:
        msg = f"The history has no terms {unknown or ''}. It has: {', '.join(known) or 'nothing'}."
        raise InputDataError(msg)
    chosen = known if terms is None else list(terms)
    return {key: curves[key] for term in chosen for key in curves if key[0] == term}


def _legend(ax: Axes, *, splits: list[str]) -> None:
    """One legend for all panels, right of the last one of the first row."""
    names = [split for split in SPLITS if split in splits]
    lines = [Line2D([], [], color=SPLITS[name], lw=2) for name in names]
    if names:
        ax.legend(lines, names, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
