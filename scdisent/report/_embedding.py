"""Both blocks as points: paths that print and need no script, and what the script shows of each."""

import json
from typing import Any

import numpy as np
import pandas as pd

from scdisent.pl._figure import PALE, level_colors
from scdisent.report._html import missing, read, text
from scdisent.report._source import EMBED, ROLES, SIDE, Points, Source

N_LAYERS = 8
"""Points are drawn in so many layers, each of all levels, so that no level covers another."""
MISSING = "missing"
TWO_BLOCKS = (
    "What to look for: cell types apart and conditions mixed in the invariant block, conditions "
    "apart in the specific block. A picture is no proof of either; the leakage audit measures it."
)


def embeddings(source: Source) -> str:
    """A panel for each block and colour."""
    blocks, keys = source.blocks, _colors(source)
    lost = [name for name in source.representations if name not in blocks]
    parts = [missing(f"Codes of the block {name!r} are not stored.", EMBED) for name in lost]
    if not keys:
        parts.append(missing("adata.obs has no condition and no cell type to colour points by."))
    if not blocks or not keys:
        return "\n".join(parts)
    if "specific" in blocks:
        parts.insert(0, read(TWO_BLOCKS))
    for block in blocks:
        panels = [_panel(source, block, role) for role in keys]
        parts.append(
            f"<h3>{text(block.capitalize())} codes</h3>"
            f'<figure><div class="panels">{"".join(panels)}</div>'
            f"<figcaption>{_caption(source, block)}</figcaption></figure>"
        )
    return "\n".join(parts)


def payload(source: Source) -> str:
    """What the script knows of each point, as JSON that may stand inside a script element."""
    blocks = source.points if _colors(source) else {}
    content = {
        "columns": [_column(source, role) for role in ROLES if source.column(role)],
        "blocks": {
            name: {"x": xy[:, 0].tolist(), "y": xy[:, 1].tolist()} for name, xy in blocks.items()
        },
    }
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _colors(source: Source) -> list[str]:
    """Roles whose columns colour the points."""
    return [role for role in ("condition_key", "labels_key") if source.column(role)]


def _column(source: Source, role: str) -> dict[str, Any]:
    values, levels = _levels(source, role)
    codes = pd.Categorical(values.iloc[source.cells], categories=levels).codes
    return {"name": ROLES[role], "levels": [str(x) for x in levels], "codes": codes.tolist()}


def _levels(source: Source, role: str) -> tuple["pd.Series[Any]", list[Any]]:
    """Values of a column, and its levels in the order of their colours."""
    values = source.adata.obs[source.column(role)]
    return values, list(values.astype("category").cat.categories)


def _panel(source: Source, block: str, role: str) -> str:
    cells, points = source.cells, source.points[block]
    values, levels = _levels(source, role)
    key = source.column(role)
    colors = [*level_colors(source.adata, key, levels=levels), PALE]
    names = [*(str(level) for level in levels), MISSING]
    codes = pd.Categorical(values.iloc[cells], categories=levels).codes.astype(int)
    dot = float(np.clip(600 / np.sqrt(len(cells)), 8, 30))
    paths = "".join(
        f'<path data-level="{code}" stroke="{colors[code]}" d="{_dots(points[layer][own])}"/>'
        for layer in np.array_split(np.arange(len(cells)), min(N_LAYERS, len(cells)))
        for code in np.unique(codes[layer])
        for own in [codes[layer] == code]
    )
    shown = [code for code in range(len(levels)) if (codes == code).any()]
    shown += [-1] * bool((codes == -1).any())
    legend = "".join(
        f'<li><span class="level" data-level="{code}"><i style="background:{colors[code]}"></i>'
        f"{text(names[code])}</span></li>"
        for code in shown
    )
    title = f"By {ROLES[role]}"
    alt = (
        f"{block.capitalize()} codes of {len(cells):,} cells as points, coloured by {key}: "
        f"{', '.join(names[code] for code in shown)}. Arrow keys go from cell to cell."
    )
    return (
        f'<div class="panel"><h4>{text(title)}</h4>'
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" tabindex="0" data-block="{text(block)}" '
        f'style="--dot:{dot:.0f}px" aria-label="{text(alt)}">{paths}'
        f'<circle class="ring" r="{dot:.0f}" visibility="hidden"/></svg>'
        f'<ul class="legend">{legend}</ul></div>'
    )


def _dots(points: Points) -> str:
    return "".join(f"M{x} {y}h0" for x, y in points)


def _caption(source: Source, block: str) -> str:
    ready = f"X_umap_scdisent_{block}" in source.adata.obsm
    how = "Stored coordinates" if ready else "UMAP"
    n_cells, n_drawn = source.adata.n_obs, len(source.cells)
    which = f"all {n_cells:,} cells"
    if n_drawn < n_cells:
        which = f"{n_drawn:,} of {n_cells:,} cells, drawn at random (seed {source.seed})"
    return text(
        f"{how} of {which}. Hover over a point for its cell; click on a name to see it alone."
    )
