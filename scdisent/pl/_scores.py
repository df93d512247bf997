from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, TwoSlopeNorm
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from scdisent._constants import UNS_KEY
from scdisent.pl._figure import GREY, INK, PALE, Drawn, figure_of, finish, panels, stored
from scdisent.pl._images import image_shape
from scdisent.pl._loadings import (
    HeatMap,
    heat_map,
    latent_order,
    share_of_gene,
    stored_loadings,
)

ROW, NARROW, WIDE = 0.24, 0.16, 0.32
"""Inches of a row, and of a column of many and of few genes."""
SIDE, GAP = 0.7, 0.1
"""Inches of a panel of bars, and between panels."""
MAP_COLUMNS = 8
"""Maps of pixels in a row."""
SHADE = LinearSegmentedColormap.from_list("shade", ["#f2f2f2", GREY])
"""Colours of latents that carry no information."""


def fvh_lt(
    adata: AnnData,
    *,
    n_genes: int = 4,
    block: str | None = None,
    key: str = UNS_KEY,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw which latents move which genes (FVH-LT) as a heat map.

    Rows are latents, by block and then by information, which the bars show in nats. Columns are
    the top ``n_genes`` genes of each informative latent (dots), each gene once, under the latent
    that moves it most; tables of at most 40 features are drawn whole. Top genes are those of
    largest share of the variance that counts show: rare genes, whose variance is counting, are
    not named for a large share of a small decoded change. Colour is the
    variance along the traversal over the variance of the gene, one scale for all rows, so that a
    weak latent looks weak (draw its block alone); from 1 on all is one colour. Latents without
    information are grey.

    Images (``adata.uns["image_shape"]``: channels, height, width): a map of all pixels for each
    latent, the mean over channels, in the same order and colours; ``n_genes`` is not used.
    Pixels at the rim, which hardly vary in the data, easily reach 1.

    Parameters
    ----------
    adata
        After ``tl.fvh_lt``. It is not changed.
    n_genes
        Genes of each informative latent. Shares are taken with the part that no latent explains
        as nobody's, as in :func:`scdisent.metrics.lsdi`, times ``"signal"`` of ``tl.fvh_lt``; this
        choice and the order are ours.
    block
        Block of latents to draw. Default: all.
    key
        Name under which results are stored.
    ax
        Axes to draw on; bars and colour scale stand right of it.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    The axes, unless shown.

    Raises
    ------
    InputDataError
        If there are no results, or no gene has a score.
    OptionError
        If the block is unknown, or ``n_genes`` is below one.
    """
    call = "tl.fvh_lt(adata, model)"
    settings = stored(adata, "fvh_lt", key=key, call=call)
    variance = "decoded variance" if settings["norm"] == "decoded" else "variance"
    if "image_shape" in adata.uns:
        loadings, latents = stored_loadings(adata, "fvh_lt", key=key, call=call)
        rows = latents.iloc[latent_order(latents, block=block)]
        shape = image_shape(adata.uns["image_shape"], n_features=len(loadings))
        drawn = _draw_maps(loadings[list(rows.index)], rows, shape=shape, ax=ax, what=variance)
        return finish([drawn], show=show, save=save, new=ax is None, single=True)
    numbers = fvh_lt_numbers(adata, n_genes=n_genes, block=block, key=key)
    what = _word(is_counts=settings["scale"] == "centred log")
    largest = float(np.max(numbers.values.to_numpy()))
    drawn = _draw(
        numbers,
        ax=ax,
        colors=plt.colormaps["Blues"],
        norm=Normalize(0, min(1.0, largest) or 1.0),
        legend=f"share of the\n{what}'s {variance}",
        side={"kl": "KL (nat)"},
    )
    _decorate(drawn, numbers, title=f"Which latents move which {what}s (FVH-LT)", what=what)
    return finish([drawn], show=show, save=save, new=ax is None, single=True)


def fvh_lt_numbers(
    adata: AnnData, *, n_genes: int = 4, block: str | None = None, key: str = UNS_KEY
) -> HeatMap:
    """Numbers of :func:`fvh_lt`: variance along the traversal over the variance of each gene."""
    loadings, latents = stored_loadings(adata, "fvh_lt", key=key, call="tl.fvh_lt(adata, model)")
    share = share_of_gene(loadings.to_numpy().T, latents["informative"].to_numpy(bool))
    signal = adata.uns[key]["fvh_lt"].get("signal")
    if signal is not None:  # files of older versions have none
        share = share * signal["signal"].reindex(loadings.index, fill_value=0).to_numpy()
    return heat_map(loadings, latents, share=share, n_genes=n_genes, block=block)


def programmes(
    adata: AnnData,
    *,
    n_genes: int = 6,
    block: str | None = None,
    key: str = UNS_KEY,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw which genes each latent of a sparse decoder moves, and how far.

    Laid out as :func:`fvh_lt`, with the number of genes of each programme beside its information.
    Colour is the mean change of the decoder's output for one SD of the latent: for counts of the
    log share of the gene.

    Parameters
    ----------
    adata
        After ``tl.programmes``. It is not changed.
    n_genes
        Genes of each informative latent; tables of at most 40 features are drawn whole.
    block
        Block of latents to draw. Default: all.
    key
        Name under which results are stored.
    ax
        Axes to draw on; bars and colour scale stand right of it.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    The axes, unless shown.

    Raises
    ------
    InputDataError
        If there are no results.
    OptionError
        If the block is unknown, or ``n_genes`` is below one.
    """
    numbers = programmes_numbers(adata, n_genes=n_genes, block=block, key=key)
    largest = float(np.max(numbers.values.to_numpy())) or 1.0
    drawn = _draw(
        numbers,
        ax=ax,
        colors=plt.colormaps["Blues"],
        norm=Normalize(0, largest),
        legend="change for one\nSD of the latent",
        side={"kl": "KL (nat)", "n_genes": "genes"},
    )
    _decorate(drawn, numbers, title="Programmes: genes that each latent moves", what="gene")
    return finish([drawn], show=show, save=save, new=ax is None, single=True)


def programmes_numbers(
    adata: AnnData, *, n_genes: int = 6, block: str | None = None, key: str = UNS_KEY
) -> HeatMap:
    """Numbers of :func:`programmes`: genes are chosen by the change itself."""
    call = "tl.programmes(adata, model)"
    loadings, latents = stored_loadings(adata, "programmes", key=key, call=call)
    table = stored(adata, "programmes", key=key, call=call)
    latents = latents.assign(n_genes=table["n_genes"])
    share = np.nan_to_num(loadings.to_numpy().T)
    return heat_map(loadings, latents, share=share, n_genes=n_genes, block=block)


def dbsr_ls(
    adata: AnnData,
    *,
    n_genes: int = 4,
    block: str | None = None,
    key: str = UNS_KEY,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Drawn:
    """Draw the links between latents and genes that DBSR-LS selected, with their signs.

    Laid out as :func:`fvh_lt`, with the number of links of each latent beside its information.
    Colour is the effect on the gene, in its SD, of one SD of the latent; white: no link. Genes are
    chosen by the share of their variance that a latent explains, the effect squared.

    Parameters
    ----------
    adata
        After ``tl.dbsr_ls``. It is not changed.
    n_genes
        Genes of each informative latent; tables of at most 40 features are drawn whole.
    block
        Block of latents to draw. Default: all.
    key
        Name under which results are stored.
    ax
        Axes to draw on; bars and colour scale stand right of it.
    show, save
        Show the figure (default: in interactive sessions); a file to write it to.

    Returns
    -------
    The axes, unless shown.

    Raises
    ------
    InputDataError
        If there are no results.
    OptionError
        If the block is unknown, or ``n_genes`` is below one.
    """
    call = "tl.dbsr_ls(adata, model)"
    numbers = dbsr_ls_numbers(adata, n_genes=n_genes, block=block, key=key)
    settings = stored(adata, "dbsr_ls", key=key, call=call)
    what = _word(is_counts=settings["is_counts"])
    largest = float(np.abs(numbers.values.to_numpy()).max()) or 1.0
    drawn = _draw(
        numbers,
        ax=ax,
        colors=plt.colormaps["RdBu_r"],
        norm=TwoSlopeNorm(0, -largest, largest),
        legend=f"SD of the {what} for\none SD of the latent",
        side={"kl": "KL (nat)", "n_links": "links"},
    )
    _decorate(drawn, numbers, title=f"Links of latents to {what}s (DBSR-LS)", what=what)
    return finish([drawn], show=show, save=save, new=ax is None, single=True)


def dbsr_ls_numbers(
    adata: AnnData, *, n_genes: int = 4, block: str | None = None, key: str = UNS_KEY
) -> HeatMap:
    r"""Numbers of :func:`dbsr_ls`: effects :math:`\theta_{kj} \mathrm{SD}[z_k]`, 0 without link.

    Genes are standardised, so that the square is the share of variance that a latent explains.
    Stored effects are for one unit of a latent, which would make a latent that hardly varies look
    strong.
    """
    call = "tl.dbsr_ls(adata, model)"
    loadings, latents = stored_loadings(adata, "dbsr_ls", key=key, call=call)
    effects = loadings * np.sqrt(latents["code_variance"].to_numpy(float))
    share = share_of_gene(effects.to_numpy().T ** 2, latents["informative"].to_numpy(bool))
    return heat_map(effects, latents, share=share, n_genes=n_genes, block=block)


def _draw_maps(
    maps: pd.DataFrame,
    latents: pd.DataFrame,
    *,
    shape: tuple[int, int, int],
    ax: Axes | None,
    what: str,
) -> Axes:
    """A map of pixels for each latent, on one scale, those without information in grey."""
    n_columns = min(MAP_COLUMNS, len(latents))
    n_rows = -(-len(latents) // n_columns)
    (drawn,) = panels(1, 1, axes=ax, size=(1.2 * n_columns + 1, 1.5 * n_rows + 0.5))
    images = maps.to_numpy().T.reshape(-1, *shape).mean(axis=1)  # (n_latent, height, width)
    norm = Normalize(0, min(1.0, float(np.nanmax(images))) or 1.0)
    for number, (image, (name, row)) in enumerate(zip(images, latents.iterrows(), strict=True)):
        down, right = divmod(number, n_columns)
        corner = (right / n_columns, 1 - (down + 1) / n_rows)
        tile = drawn.inset_axes((*corner, 0.9 / n_columns, 0.75 / n_rows))
        colors = plt.colormaps["Blues"] if row["informative"] else SHADE
        tile.imshow(np.ma.masked_invalid(image), cmap=colors, norm=norm)
        tile.set(xticks=[], yticks=[])
        tile.spines[:].set_color(PALE)
        color = INK if row["informative"] else GREY
        tile.set_title(f"{name}\n{row['kl']:.2g} nat", fontsize=8, color=color, pad=2)
    scale = ScalarMappable(norm, "Blues")
    beyond = "max" if np.nanmax(images) > (norm.vmax or 0) else "neither"
    bar = figure_of(drawn).colorbar(scale, ax=drawn, shrink=0.6, pad=0.01, extend=beyond)
    bar.outline.set_visible(False)
    bar.set_label(f"share of the\npixel's {what}", fontsize=8.5)
    bar.ax.tick_params(labelsize=8)
    drawn.set_title("Which latents move which pixels (FVH-LT)", fontsize=11, loc="left")
    drawn.axis("off")
    return drawn


def _word(*, is_counts: bool) -> str:
    return "gene" if is_counts else "feature"


def _draw(
    numbers: HeatMap,
    *,
    ax: Axes | None,
    colors: Colormap,
    norm: Normalize,
    legend: str,
    side: dict[str, str],
) -> Axes:
    """Heat map; right of it bars for each column of ``side``, and the scale of colours."""
    n_latent, n_genes = numbers.values.shape
    width, height = n_genes * (WIDE if numbers.is_whole else NARROW), n_latent * ROW
    size = (width + (SIDE + GAP) * len(side) + 2.2, height + 1.6)
    (drawn,) = panels(1, 1, axes=ax, size=size)
    mesh = _cells(drawn, numbers, colors=colors, norm=norm)
    # Inches from the upper right corner: a share of the width would change with the layout.
    corner = ScaledTranslation(1, 1, drawn.transAxes)  # type: ignore[arg-type]
    inches = figure_of(drawn).dpi_scale_trans + corner
    level = blended_transform_factory(inches, drawn.transAxes)
    place = GAP
    for column, label in side.items():
        bars = drawn.inset_axes((place, 0, SIDE, 1), transform=level)
        _bars(bars, numbers, column=column, label=label)
        place += SIDE + GAP
    tall = min(1.2, height)
    scale = drawn.inset_axes((place + GAP, -tall, 0.12, tall), transform=inches)
    beyond = np.abs(numbers.values.to_numpy()).max() > (norm.vmax or 0)
    bar = figure_of(drawn).colorbar(mesh, cax=scale, extend="max" if beyond else "neither")
    bar.outline.set_visible(False)
    bar.set_label(legend, fontsize=8.5)
    scale.tick_params(labelsize=8)
    return drawn


def _cells(ax: Axes, numbers: HeatMap, *, colors: Colormap, norm: Normalize) -> QuadMesh:
    """Colour the cells, those of latents without information in grey, and dot the top genes."""
    values = numbers.values.to_numpy()
    grey = np.repeat(~numbers.latents["informative"].to_numpy(bool)[:, None], values.shape[1], 1)
    lines: dict[str, Any] = {"edgecolors": "white", "linewidth": 0.5}
    hidden = grey | (values == 0)  # the middle of a diverging map is not quite white
    mesh = ax.pcolormesh(np.ma.array(values, mask=hidden), cmap=colors, norm=norm, **lines)
    sizes = np.ma.array(np.abs(values), mask=~grey)
    ax.pcolormesh(sizes, cmap=SHADE, norm=Normalize(0, norm.vmax), **lines)
    if not numbers.is_whole:
        rows, columns = np.nonzero(numbers.tops)
        red, green, blue, _ = colors(norm(values[rows, columns])).T
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        ax.scatter(columns + 0.5, rows + 0.5, s=4, c=np.where(dark, "white", INK), linewidths=0)
    blocks = numbers.latents["block"].astype(str).to_numpy()
    for edge in np.flatnonzero(blocks[1:] != blocks[:-1]) + 1:
        ax.axhline(float(edge), color=INK, lw=1)
    ax.invert_yaxis()
    return mesh


def _bars(ax: Axes, numbers: HeatMap, *, column: str, label: str) -> None:
    """One bar with its number for each latent, level with its row."""
    values = numbers.latents[column].to_numpy(float)
    colors = np.where(numbers.latents["informative"].to_numpy(bool), GREY, PALE)
    rows = np.arange(len(values)) + 0.5
    ax.barh(rows, values, height=0.7, color=colors)
    for row, value in zip(rows, values, strict=True):
        text = f"{value:.2g}" if value < 100 else f"{value:.0f}"
        ax.annotate(
            text, (value, row), xytext=(2, 0), textcoords="offset points", va="center", fontsize=7.5
        )
    ax.set(xlim=(0, 1.7 * values.max() or 1), ylim=(len(values), 0), xticks=[], yticks=[])
    ax.set_title(label, fontsize=8.5)
    ax.spines[["top", "right", "bottom"]].set_visible(False)


def _decorate(ax: Axes, numbers: HeatMap, *, title: str, what: str) -> None:
    """Names, title, and under the names what is drawn and what is not."""
    n_latent, n_genes = numbers.values.shape
    ax.set_yticks(np.arange(n_latent) + 0.5, numbers.values.index, fontsize=8.5)
    ax.set_xticks(np.arange(n_genes) + 0.5, numbers.values.columns, fontsize=7.5, rotation=90)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for text, informative in zip(ax.get_yticklabels(), numbers.latents["informative"], strict=True):
        text.set_color(INK if informative else GREY)
    ax.set_title(title, fontsize=11, loc="left")
    ax.set_xlabel("\n".join(notes(numbers, what=what)), fontsize=8.5, loc="left", color=GREY)


def notes(numbers: HeatMap, *, what: str) -> list[str]:
    """Lines that say which genes are drawn, which are not, and which latents are grey."""
    lines = []
    n_drawn = numbers.values.shape[1]
    if numbers.is_whole:
        lines.append(f"all {n_drawn} {what}s with a score")
    else:
        lines.append(f"{n_drawn} of {numbers.n_scored} {what}s: the top ones (dots) of each latent")
    if numbers.n_scored < numbers.n_genes:
        lines[0] += f"; {numbers.n_genes - numbers.n_scored} without a score"
    kl = numbers.latents.loc[~numbers.latents["informative"].astype(bool), "kl"]
    if len(kl):
        lines.append(f"grey: {len(kl)} latents without information (KL up to {kl.max():.2g} nat)")
    return lines
