"""Pieces of the page. Whatever comes from the data is escaped here and nowhere else."""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from scdisent._errors import ScDisentError

EMPTY = "–"
LONG = 40
"""Texts with more characters may take several lines in a table."""
POINTS_TO_PIXELS = 4 / 3
SMALLEST = 0.6
"""On narrow screens a figure is scrolled rather than drawn smaller than this."""


def text(value: Any) -> str:
    """Any value as text that is safe between tags and in attributes."""
    return escape(str(value), quote=True)


def read(sentence: str) -> str:
    """How a section is to be read, and what a bad sign looks like."""
    return f'<p class="read">{text(sentence)}</p>'


def missing(what: str, *calls: str) -> str:
    """What is not there, and the call that makes it."""
    codes = " or ".join(f"<code>{text(call)}</code>" for call in calls)
    return f'<p class="missing">{text(what)}{" To make it: " if calls else ""}{codes}</p>'


def items(sentences: Sequence[str]) -> str:
    """A list of sentences, nothing if there are none."""
    entries = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f"<ul>{entries}</ul>" if entries else ""


def number(value: float, *, is_whole: bool = False) -> str:
    """A number as shown: three digits behind the point, fewer where it is large or whole."""
    size = abs(value)
    if is_whole or size == 0:
        return f"{round(value):,}"
    if size < 5e-4:
        return f"{value:.1e}"
    return f"{value:.3f}" if size < 10 else f"{value:,.1f}"


def table(frame: pd.DataFrame, *, caption: str, heads: Mapping[str, str] | None = None) -> str:
    """A sortable table in a box that scrolls; numbers carry all their digits.

    Parameters
    ----------
    frame
        Its first column names the rows; its index is not shown.
    caption
        Title of the table.
    heads
        Words for names of columns; others are shown as they are.
    """
    head = "".join(
        f'<th scope="col"{_right(frame.dtypes.iloc[place])}>'
        f"{text((heads or {}).get(str(name), name))}</th>"
        for place, name in enumerate(frame.columns)
    )
    whole = [_is_whole(frame.iloc[:, place]) for place in range(frame.shape[1])]
    rows = []
    for values in frame.itertuples(index=False, name=None):
        cells = [_cell(value, is_whole=flag) for value, flag in zip(values, whole, strict=True)]
        cells[0] = f'<th scope="row"{cells[0].removeprefix("<td").removesuffix("</td>")}</th>'
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">\n'
        f"<table>\n<caption>{text(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody>\n</table>\n</div>"
    )


def _right(dtype: Any) -> str:
    is_number = pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
    return ' class="number"' if is_number else ""


def _is_whole(values: "pd.Series[Any]") -> bool:
    """Whether all numbers of a column are whole, as counts are."""
    if not _right(values.dtype):
        return False
    known = values.to_numpy(dtype=float)
    known = known[np.isfinite(known)]
    return bool((known == np.rint(known)).all())


def _cell(value: Any, *, is_whole: bool) -> str:
    attributes = ""
    if isinstance(value, bool | np.bool_):
        shown = "yes" if value else "no"
    elif isinstance(value, int | float | np.number) and np.isfinite(value):
        value = value.item() if isinstance(value, np.number) else value
        exact = repr(value)
        attributes = f' class="number" data-value="{exact}" title="{exact}"'
        shown = number(value, is_whole=is_whole)
    elif value is None or value is pd.NA or str(value) in ("", "nan"):
        attributes = ' class="number empty"' if isinstance(value, float) else ' class="empty"'
        shown = EMPTY
    else:
        shown = text(value)
        attributes = ' class="long"' if len(str(value)) > LONG else ""
    return f"<td{attributes}>{shown}</td>"


def figure(draw: Callable[[], Any], *, alt: str, caption: str) -> str:
    """What a function of ``scdisent.pl`` draws, inside the page; or why it cannot be drawn.

    Parameters
    ----------
    draw
        Draws a new figure and returns its axes.
    alt
        What the figure shows, for those who do not see it.
    caption
        Text below it.
    """
    before = set(plt.get_fignums())
    try:
        axes = draw()
        image, width = _image(np.ravel(np.asarray(axes, dtype=object))[0].figure.figure)
    except ScDisentError as error:
        return missing(f"{caption} It could not be drawn: {error}")
    finally:
        for new in set(plt.get_fignums()) - before:
            plt.close(new)
    sizes = f'width="{width}" style="--least:{round(SMALLEST * width)}px"'
    box = f'class="paper scroll" tabindex="0" role="region" aria-label="{text(caption)}"'
    return (
        f"<figure><div {box}>"
        f'<img alt="{text(alt)}" {sizes} src="data:image/svg+xml;base64,{image}"></div>'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def _image(drawn: Any) -> tuple[str, int]:
    """Figure as SVG in base64, the same bytes each time, and its width in pixels."""
    buffer = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "scdisent", "svg.fonttype": "path"}):
        drawn.savefig(
            buffer,
            format="svg",
            bbox_inches="tight",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = buffer.getvalue()
    width = re.search(rb'<svg [^>]*?width="([\d.]+)pt"', svg, re.S)
    pixels = 0.0 if width is None else float(width[1]) * POINTS_TO_PIXELS
    return base64.b64encode(svg).decode(), round(pixels)
