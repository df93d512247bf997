"""What each latent drives, and how well latents share the work."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from scdisent import pl
from scdisent._constants import UNS_KEY
from scdisent._errors import ScDisentError
from scdisent.pl._loadings import HeatMap
from scdisent.pl._scores import dbsr_ls_numbers, fvh_lt_numbers
from scdisent.report._html import figure, missing, read, table
from scdisent.report._source import Source

FVH, DBSR = "scdisent.tl.fvh_lt(adata, model)", "scdisent.tl.dbsr_ls(adata, model)"
LSDI = "scdisent.tl.lsdi(adata)"
N_NAMED, N_DRAWN = 6, 3
"""Genes of each latent in the table, and on the maps."""
BAD_SIGNS = (
    "Bad signs: all latents grey or one latent that moves everything (collapse), genes of depth, "
    "ribosome or cell cycle where biology was hoped for, a large share of off manifold (the "
    "decoder was asked what it never saw), FVH-LT and DBSR-LS that name different genes."
)
TOOLS = {"fvh_lt": "FVH-LT", "dbsr_ls": "DBSR-LS", "mean": "mean of both"}
HEADS = {
    "kl": "KL (nat)",
    "code_variance": "variance of the codes",
    "fvh_max": "largest share of a gene",
    "n_links": "links",
    "cut": "cut of the KL (nat)",
    "n_informative": "informative latents",
    "null": "permuted",
    "adjusted": "adjusted for chance",
    "value": "LSDI-R",
    "off_manifold": "off manifold",
    "n_features": "features",
    "null_95": "permuted: 95 %",
    "top_fvh_lt": "genes it moves most (FVH-LT)",
    "top_dbsr_ls": "genes it explains most (DBSR-LS)",
}
NUMBERS: Mapping[str, Callable[..., HeatMap]] = {
    "fvh_lt": fvh_lt_numbers,
    "dbsr_ls": dbsr_ls_numbers,
}


def latents(source: Source) -> str:
    """Maps, the table of latents with their genes, and the index with its parts."""
    parts = [
        read(BAD_SIGNS) if "latents" in source.results else "",
        _map(source, "fvh_lt", call=FVH),
        _map(source, "dbsr_ls", call=DBSR),
        _table(source),
        _separation(source),
    ]
    return "\n".join(parts)


def _has(source: Source, name: str) -> bool:
    return name in source.results and f"{UNS_KEY}_{name}" in source.adata.varm


def _map(source: Source, name: str, *, call: str) -> str:
    """One figure for each block, so that names can be read."""
    if not _has(source, name):
        return missing(f"{TOOLS[name]} is not stored.", call)
    frame = source.results.get("latents", pd.DataFrame())
    blocks = list(dict.fromkeys(frame["block"].astype(str))) if len(frame) else []
    if "image_shape" in source.adata.uns and name == "dbsr_ls":
        return missing("Links to pixels are not drawn: see adata.varm.")
    return "\n".join(_block_map(source, name, block) for block in blocks)


def _block_map(source: Source, name: str, block: str) -> str:
    draw = getattr(pl, name)
    return figure(
        lambda: draw(source.adata, block=block, n_genes=N_DRAWN, show=False),
        alt=f"Heat map of the {block} latents by genes; the table below names the genes.",
        caption={
            "fvh_lt": f"FVH-LT, {block} block: how much of a gene's variance each latent moves.",
            "dbsr_ls": f"DBSR-LS, {block} block: effect of each latent on each gene.",
        }[name],
    )


def _table(source: Source) -> str:
    """A row for each latent with its genes by name."""
    frame = source.results.get("latents")
    if frame is None or not len(frame):
        return missing("Nothing is stored about single latents.", FVH, DBSR)
    found = {f"top_{name}": top_names(source, name) for name in NUMBERS if _has(source, name)}
    named = frame.assign(
        **{column: [genes.get(str(x), "") for x in frame.index] for column, genes in found.items()}
    )
    named = named.reset_index(names="latent")
    first = [name for name in ("latent", "informative", "kl", *found) if name in named]
    named = named[[*first, *named.columns.difference(first, sort=False)]]
    return table(named, caption=f"Latents; the {N_NAMED} top genes of each", heads=HEADS)


def top_names(source: Source, name: str) -> dict[str, str]:
    """Genes of each latent, those of largest share first; DBSR-LS with the sign of the effect."""
    try:
        numbers = NUMBERS[name](source.adata, n_genes=N_NAMED)
    except ScDisentError:  # nothing was moved or linked: the figure says so
        return {}
    named = {}
    for row, latent in enumerate(numbers.values.index):
        order = np.argsort(-numbers.share[row], kind="stable")
        own = numbers.values.iloc[row, order[numbers.tops[row, order]]]
        signs = {True: "+", False: "−"} if name == "dbsr_ls" else {True: "", False: ""}
        named[str(latent)] = ", ".join(f"{gene}{signs[value > 0]}" for gene, value in own.items())
    return named


def _separation(source: Source) -> str:
    """LSDI-R with its parts."""
    frame, by_cut = (source.results.get(name) for name in ("lsdi", "lsdi_by_cut"))
    if frame is None or not len(frame):
        return missing("The index of separation (LSDI-R) is not stored.", LSDI)
    shown = frame.assign(tool=frame["tool"].map(lambda tool: TOOLS.get(tool, tool)))
    parts = [
        read(
            "LSDI-R = explained × max(0, balance + concentration − 1), our reconstruction. Read "
            "the parts first: low explained is noise or too few latents, low balance is one latent "
            "that does nearly all, low concentration is latents that share their genes. Adjusted "
            "for chance: 0 is noise."
        ),
        table(shown, caption="Separation of the latents (LSDI-R) and its parts", heads=HEADS),
    ]
    if by_cut is not None and "latents" in source.results:
        drawn = figure(
            lambda: pl.lsdi(source.adata, show=False),
            alt="The index of each block and tool with its parts, and for other cuts of the KL.",
            caption="LSDI-R, its parts, what permuted associations reach, and other cuts.",
        )
        parts.insert(1, drawn)
        cuts = by_cut.assign(tool=by_cut["tool"].map(lambda tool: TOOLS.get(tool, tool)))
        first = [name for name in ("tool", "block") if name in cuts]
        cuts = cuts[[*first, *cuts.columns.difference(first, sort=False)]]
        parts.append(table(cuts, caption="LSDI-R for other cuts of the KL", heads=HEADS))
    return "\n".join(parts)
