import copy

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.text import Text

from scdisent import metrics, pl
from scdisent._errors import InputDataError, OptionError
from scdisent.pl._figure import GREY, INK
from scdisent.pl._images import image_shape, montage, tile_gap
from scdisent.pl._loadings import gene_order, latent_order, share_of_gene, top_genes
from scdisent.pl._scores import dbsr_ls_numbers, fvh_lt_numbers, notes
from scdisent.pl._separation import latent_counts, lsdi_rows
from scdisent.pl._traversal import top_changes, traversed_latents

PLOTS = ("fvh_lt", "dbsr_ls", "traversal", "lsdi")
N_LATENT, N_GRID = 8, 5


@pytest.fixture(autouse=True)
def _nothing_global_changes():
    plt.close("all")  # what other files left open
    before = dict(mpl.rcParams), np.random.get_state()[1].copy()  # noqa: NPY002
    yield
    assert dict(mpl.rcParams) == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    plt.close("all")


def planted(seed=0, *, n_genes=60, noise=0.05):
    """What ``tl`` stores: latents 0-2 of each block drive genes of their own, latent 3 nothing.

    ``var["owner"]`` is the latent that drives the gene, "" for a few genes; the first
    gene has no score. Latents and genes are shuffled.
    """
    rng = np.random.default_rng(seed)
    names = [f"{block}_{number}" for block in ("invariant", "specific") for number in range(4)]
    drivers = [name for name in names if not name.endswith("_3")]
    kl = pd.Series(np.where([n in drivers for n in names], rng.uniform(1, 5, 8), 0.002), names)
    owner = np.resize([*drivers * 2, ""], n_genes)[rng.permutation(n_genes)]
    fvh = pd.DataFrame(rng.uniform(0, noise, (n_genes, 8)), columns=names)
    fvh[["invariant_3", "specific_3"]] *= 1e-3
    strength = rng.uniform(0.5, 0.9, n_genes)
    for gene, name in enumerate(owner):
        if name:
            fvh.loc[gene, name] = strength[gene]
    genes = [f"gene{i}" for i in range(n_genes)]
    fvh.index = genes
    adata = AnnData(np.zeros((3, n_genes), np.float32), var=pd.DataFrame(index=genes))
    adata.var["owner"] = owner
    variance = rng.uniform(0.5, 4, N_LATENT)
    sign = rng.choice([-1, 1], fvh.shape)
    links = fvh > noise
    adata.varm["scdisent_dbsr_ls"] = (sign * np.sqrt(fvh / variance)).where(links, 0.0)
    scored = fvh.copy()
    scored.iloc[0] = np.nan
    adata.varm["scdisent_fvh_lt"] = scored
    latents = pd.DataFrame({"block": [name[:-2] for name in names], "kl": kl}, index=names)
    latents["informative"] = latents["kl"] > 0.01
    latents["code_variance"] = variance
    latents["n_links"] = links.sum()
    grid = np.sort(rng.normal(size=(N_LATENT, N_GRID)))
    effect = np.sqrt(fvh.to_numpy().T)
    base = rng.normal(size=n_genes)
    adata.uns["scdisent"] = {
        "latents": latents,
        "fvh_lt": {"norm": "decoded", "scale": "centred log", "kl_cut": 0.01},
        "dbsr_ls": {"is_counts": True},
        "traversal": {
            "values": (base + grid[:, :, None] * effect[:, None]).astype(np.float32),
            "grid": grid,
            "base": base.astype(np.float32),
            "latents": np.array(names),
            "genes": np.array(genes),
        },
        **separation(fvh.to_numpy().T, latents),
    }
    return adata


def separation(association, latents):
    """Tables of ``tl.lsdi``, made by the metric itself."""
    rows, cuts = [], []
    for tool in ("fvh_lt", "dbsr_ls"):
        for block in ("invariant", "specific", "all"):
            chosen = (latents["block"] == block).to_numpy() | (block == "all")
            found = metrics.lsdi(
                association[chosen], informative=latents["informative"][chosen], n_null=5
            )
            names = ("value", "explained", "balance", "concentration", "n_informative", "null")
            parts = {name: getattr(found, name) for name in (*names, "adjusted")}
            rows.append({"tool": tool, "block": block, **parts})
            by_cut = metrics.lsdi_by_cut(association[chosen], latents["kl"][chosen], n_null=2)
            cuts.append(by_cut.reset_index().assign(tool=tool, block=block))
    return {"lsdi": pd.DataFrame(rows), "lsdi_by_cut": pd.concat(cuts, ignore_index=True)}


@pytest.fixture
def adata():
    return planted()


@pytest.fixture
def images():
    """Traversal of images of height 2 and width 3; every pixel has a value of its own."""
    values = np.arange(3 * 4 * 6, dtype=np.float32).reshape(3, 4, 6) / 100
    adata = AnnData(np.zeros((2, 6), np.float32))
    adata.uns["image_shape"] = np.array([1, 2, 3])
    adata.uns["scdisent"] = {
        "traversal": {
            "values": values,
            "grid": np.tile(np.arange(4.0), (3, 1)),
            "base": np.full(6, 0.9, np.float32),
            "latents": np.array(["latent_0", "latent_1", "latent_2"]),
            "genes": adata.var_names.to_numpy(dtype=str),
        },
        "latents": pd.DataFrame(
            {"block": "latent", "kl": [1.0, 0.001, 3.0], "informative": [True, False, True]},
            index=["latent_0", "latent_1", "latent_2"],
        ),
    }
    return adata


def assert_equal(found, expected):
    """Whatever is stored: dicts, frames, arrays or plain values."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_equal(found[name], expected[name])
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("plot", PLOTS)
def test_each_plot_returns_axes_saves_a_file_and_leaves_the_data_alone(adata, tmp_path, plot):
    before = adata.copy()
    path = tmp_path / f"{plot}.png"
    drawn = getattr(pl, plot)(adata, show=False, save=path)
    axes = [drawn] if isinstance(drawn, Axes) else drawn
    assert len(axes) == {"fvh_lt": 1, "dbsr_ls": 1, "traversal": 6, "lsdi": 2}[plot]
    assert len(plt.get_fignums()) == 1
    assert min(plt.imread(path).shape[:2]) > 300
    assert_equal(dict(adata.uns), dict(before.uns))
    assert_equal(dict(adata.varm), dict(before.varm))


@pytest.mark.parametrize("plot", PLOTS)
def test_each_plot_reads_back_what_was_written_to_a_file(adata, tmp_path, plot):
    import anndata

    del adata.var["owner"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    drawn = [getattr(pl, plot)(each, show=False) for each in (adata, again)]
    first, second = ([one] if isinstance(one, Axes) else one for one in drawn)
    for left, right in zip(first, second, strict=True):
        assert texts(left) == texts(right)


def texts(ax):
    names = [*ax.get_xticklabels(), *ax.get_yticklabels(), *ax.texts]
    return [text.get_text() for text in names]


def test_plots_draw_on_given_axes_and_open_no_figure(adata, images):
    figure, axes = plt.subplots(3, 4)
    assert pl.fvh_lt(adata, ax=axes[0, 0]) is axes[0, 0]
    assert pl.dbsr_ls(adata, ax=axes[0, 1]) is axes[0, 1]
    pl.lsdi(adata, axes=axes[0, 2:])
    pl.traversal(adata, block="specific", axes=axes[1, :3])
    assert pl.traversal(images, axes=axes[1, 3]) == [axes[1, 3]]
    assert len(plt.get_fignums()) == 1
    assert all(ax.get_title(loc="left") for ax in figure.axes[:8])
    with pytest.raises(OptionError, match="6 panels, but 2 axes"):
        pl.traversal(adata, axes=axes[2, :2])


@pytest.mark.parametrize("plot", PLOTS)
def test_missing_results_are_named_with_the_call_that_makes_them(adata, plot):
    empty = AnnData(adata.X)
    with pytest.raises(InputDataError, match=rf"Call tl\.{plot.replace('sal', 'se')}\(adata"):
        getattr(pl, plot)(empty)
    with pytest.raises(InputDataError, match="'other"):
        getattr(pl, plot)(adata, key="other")


@pytest.mark.parametrize("plot", PLOTS[:3])
def test_unknown_blocks_and_no_genes_are_refused(adata, plot):
    with pytest.raises(OptionError, match="'content'.*'invariant', 'specific'"):
        getattr(pl, plot)(adata, block="content")
    with pytest.raises(OptionError, match="n_genes=0"):
        getattr(pl, plot)(adata, n_genes=0)


# --- heat maps: numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("numbers_of", [fvh_lt_numbers, dbsr_ls_numbers])
def test_planted_blocks_come_out_along_the_diagonal(seed, numbers_of):
    adata = planted(seed)
    owner = adata.var["owner"]
    numbers = numbers_of(adata, n_genes=3)
    informative = numbers.latents["informative"].to_numpy()
    names = numbers.values.index
    assert set(names[informative]) == set(owner) - {""}
    assert numbers.values.shape[1] == 3 * informative.sum()
    drawn_owner = owner[numbers.values.columns].tolist()
    assert drawn_owner == [name for name in names[informative] for _ in range(3)]
    largest = numbers.values.abs().to_numpy().argmax(axis=0)
    assert (np.diff(largest) >= 0).all()
    for name, tops, is_informative in zip(names, numbers.tops, informative, strict=True):
        dotted = owner[numbers.values.columns[tops]].tolist()
        assert dotted == [name] * (3 if is_informative else 0)


@pytest.mark.parametrize("seed", range(3))
def test_top_genes_are_those_of_largest_share(seed):
    adata = planted(seed)
    latents = adata.uns["scdisent"]["latents"]
    values = adata.varm["scdisent_fvh_lt"].loc[:, latents["informative"].to_numpy()]
    share = values.div(values.sum(axis=1).clip(lower=1), axis=0)
    numbers = fvh_lt_numbers(adata, n_genes=3)
    for name, tops in zip(numbers.values.index, numbers.tops, strict=True):
        expected = set(share[name].nlargest(3).index) if name in share else set()
        assert set(numbers.values.columns[tops]) == expected


@pytest.mark.parametrize("seed", range(3))
def test_genes_whose_variance_is_counting_are_not_named_before_the_others(seed, rng):
    adata = planted(seed)
    owner = adata.var["owner"]
    rare = owner[owner != ""].groupby(owner).sample(2, random_state=seed).index
    adata.varm["scdisent_fvh_lt"].loc[rare] *= 1.3  # the largest shares, of nearly nothing
    signal = pd.Series(rng.uniform(0.5, 1, adata.n_vars), adata.var_names)
    signal[rare] = 1e-3
    adata.uns["scdisent"]["fvh_lt"]["signal"] = signal.iloc[::-1].to_frame("signal")
    numbers = fvh_lt_numbers(adata, n_genes=4)
    assert not set(numbers.values.columns) & set(rare)
    for name, tops in zip(numbers.values.index, numbers.tops, strict=True):
        assert set(owner[numbers.values.columns[tops]]) <= {name}


@pytest.mark.parametrize("seed", range(3))
def test_order_of_the_input_does_not_matter(seed, rng):
    adata = planted(seed)
    genes = rng.permutation(adata.n_vars)
    shuffled = adata[:, genes].copy()
    for name in ("scdisent_fvh_lt", "scdisent_dbsr_ls"):
        columns = shuffled.varm[name].columns[rng.permutation(N_LATENT)]
        shuffled.varm[name] = shuffled.varm[name][columns]
    for numbers_of in (fvh_lt_numbers, dbsr_ls_numbers):
        pd.testing.assert_frame_equal(numbers_of(adata).values, numbers_of(shuffled).values)


def test_rows_are_ordered_by_block_and_information():
    latents = pd.DataFrame({"block": list("baab"), "kl": [1.0, 0.1, 5.0, 3.0]})
    assert latent_order(latents).tolist() == [3, 0, 2, 1]
    assert latent_order(latents, block="a").tolist() == [2, 1]


def test_shares_are_the_weights_of_the_separation_index(rng):
    association = rng.exponential(size=(4, 30)) * rng.uniform(0, 1, 30)
    informative = np.array([True, True, True, False])
    share = share_of_gene(association, informative)
    explained = metrics.lsdi(association, informative=informative, total=1.0).explained
    assert share[informative].sum(axis=0).mean() == pytest.approx(explained)
    assert share[informative].sum(axis=0).max() == pytest.approx(1)


def test_a_gene_that_nothing_moves_is_no_top_gene_for_a_large_share_of_nothing():
    association = np.array([[0.9, 1e-6, np.nan], [0.3, 0.0, np.nan]])
    share = share_of_gene(association, np.array([True, True]))
    np.testing.assert_allclose(share, [[0.75, 1e-6, 0], [0.25, 0, 0]])
    assert top_genes(share, n_genes=1).tolist() == [[True, False, False]] * 2
    assert top_genes(share, n_genes=3).tolist() == [[True, True, False], [True, False, False]]


def test_genes_stand_under_their_latent_from_strong_to_weak_and_unmoved_ones_last():
    share = np.array([[0.1, 0.9, 0.0, 0.5, 0.2], [0.6, 0.0, 0.0, 0.1, 0.8]])
    assert gene_order(share, chosen=np.arange(5)).tolist() == [1, 3, 4, 0, 2]
    assert gene_order(share, chosen=np.array([0, 3])).tolist() == [3, 0]


def test_small_tables_are_drawn_whole_without_the_features_that_have_no_score():
    adata = planted(n_genes=30)
    numbers = fvh_lt_numbers(adata, n_genes=1)
    assert sorted(numbers.values.columns) == sorted(adata.var_names[1:])
    expected = "all 29 genes with a score; 1 without a score"
    assert notes(numbers, what="gene")[0] == expected
    adata.varm["scdisent_fvh_lt"] *= np.nan
    with pytest.raises(InputDataError, match="all stored values are NaN"):
        pl.fvh_lt(adata)


def test_effects_are_per_sd_of_the_latent_and_square_to_the_explained_share(adata):
    numbers = dbsr_ls_numbers(adata, n_genes=60)
    fvh = adata.varm["scdisent_fvh_lt"]
    for gene, name in adata.var["owner"].iloc[1:].items():
        if name:
            assert numbers.values.loc[name, gene] ** 2 == pytest.approx(fvh.loc[gene, name])
    unlinked = adata.var_names[adata.var["owner"] == ""]
    assert not set(unlinked) & set(numbers.values.columns)


def test_without_informative_latents_all_of_them_show_their_genes(adata):
    adata.uns["scdisent"]["latents"]["informative"] = False
    numbers = fvh_lt_numbers(adata, n_genes=2)
    assert (numbers.tops.sum(axis=1) == 2).all()
    pl.fvh_lt(adata, show=False)
    adata.varm["scdisent_dbsr_ls"] *= 0.0
    with pytest.raises(InputDataError, match="all stored values are 0"):
        pl.dbsr_ls(adata)


def test_results_of_different_models_are_not_mixed(adata):
    adata.uns["scdisent"]["latents"] = adata.uns["scdisent"]["latents"].iloc[:5]
    with pytest.raises(InputDataError, match=r"different models\. Call tl\.fvh_lt"):
        pl.fvh_lt(adata)


# --- heat maps: pictures ----------------------------------------------------------------------


@pytest.mark.parametrize("plot", ["fvh_lt", "dbsr_ls"])
def test_heat_map_shows_the_numbers_names_and_grey_rows(adata, plot):
    numbers = {"fvh_lt": fvh_lt_numbers, "dbsr_ls": dbsr_ls_numbers}[plot](adata)
    ax = getattr(pl, plot)(adata, show=False)
    coloured, grey = ax.collections[:2]
    quiet = (~numbers.latents["informative"]).to_numpy()
    values = numbers.values.to_numpy()
    shown = np.ma.filled(coloured.get_array().reshape(values.shape), 0)
    np.testing.assert_array_equal(shown, np.where(quiet[:, None], 0, values))
    assert (~np.ma.getmaskarray(grey.get_array()).reshape(values.shape)).all(axis=1).tolist() == (
        quiet.tolist()
    )
    assert texts(ax)[: values.shape[1]] == numbers.values.columns.tolist()
    labels = ax.get_yticklabels()
    assert [text.get_text() for text in labels] == numbers.values.index.tolist()
    assert [to_hex(text.get_color()) for text in labels] == np.where(quiet, GREY, INK).tolist()
    assert "grey: 2 latents without information (KL up to 0.002 nat)" in ax.get_xlabel()
    dots = ax.collections[2].get_offsets() - 0.5
    np.testing.assert_array_equal(dots[:, ::-1], np.argwhere(numbers.tops))


def test_bars_carry_information_and_links_of_each_row(adata):
    latents = dbsr_ls_numbers(adata).latents
    ax = pl.dbsr_ls(adata, show=False)
    for side, column in zip(ax.child_axes[:2], ("kl", "n_links"), strict=True):
        assert [bar.get_width() for bar in side.patches] == latents[column].tolist()
        assert side.get_ylim() == (len(latents), 0) == ax.get_ylim()
        assert len(side.texts) == len(latents)
    low, high = ax.collections[0].get_clim()
    assert -low == high == np.abs(dbsr_ls_numbers(adata).values.to_numpy()).max()
    assert pl.fvh_lt(adata, show=False).collections[0].get_clim()[0] == 0


@pytest.mark.parametrize("plot", PLOTS)
def test_nothing_stands_outside_of_a_new_figure(adata, plot):
    drawn = getattr(pl, plot)(adata, show=False)
    axes = [drawn] if isinstance(drawn, Axes) else drawn
    figure = axes[0].figure
    figure.draw_without_rendering()
    for ax in axes:
        box = ax.get_tightbbox(for_layout_only=True)
        assert box.x0 > -1
        assert box.y0 > -1
        assert box.x1 < figure.bbox.width + 1
        assert box.y1 < figure.bbox.height + 1


@pytest.mark.parametrize("plot", ["fvh_lt", "dbsr_ls"])
def test_names_of_genes_and_latents_do_not_overlap(plot):
    ax = getattr(pl, plot)(planted(n_genes=300), n_genes=10, show=False)
    ax.figure.draw_without_rendering()
    for labels, low, high in (
        (ax.get_xticklabels(), "x0", "x1"),
        (ax.get_yticklabels(), "y0", "y1"),
    ):
        boxes = sorted((text.get_window_extent() for text in labels), key=lambda b: b.x0 - b.y0)
        ends = sorted((getattr(box, low), getattr(box, high)) for box in boxes)
        assert all(left[1] <= right[0] for left, right in zip(ends, ends[1:], strict=False))


# --- swap -------------------------------------------------------------------------------------


@pytest.fixture
def swapped():
    """Two cells under three conditions, images of height 2 and width 3, each of one grey."""
    grey = np.arange(12.0).reshape(3, 4) / 20  # first row: givers of w; first column: of z
    stored = np.repeat(grey[:, :, None], 6, axis=2)
    adata = AnnData(np.zeros((2, 6), np.float32), uns={"image_shape": np.array([1, 2, 3])})
    adata.uns["scdisent"] = {
        "swap": {
            "values": stored[1:, 1:],
            "rows": stored[1:, 0],
            "columns": stored[0, 1:],
            "cells": np.array(["x", "y"]),
            "conditions": np.array(["a", "b", "c"]),
        }
    }
    return adata


def test_a_swap_shows_givers_in_the_first_row_and_column(swapped):
    before = copy.deepcopy(swapped.uns["scdisent"])
    ax = pl.swap(swapped, show=False)
    picture = ax.get_images()[0].get_array()
    grey = np.arange(12.0).reshape(3, 4) / 20
    for row in range(3):
        for column in range(4):
            tile = picture[row * 3 : row * 3 + 2, column * 4 : column * 4 + 3]
            if row == column == 0:
                assert np.ma.getmaskarray(tile).all()
            else:
                np.testing.assert_allclose(tile, grey[row, column])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert_equal(swapped.uns["scdisent"], before)


def test_a_swap_of_genes_or_none_at_all_says_what_to_do(swapped):
    del swapped.uns["image_shape"]
    with pytest.raises(InputDataError, match=r"drawn as images.*pl\.response"):
        pl.swap(swapped)
    with pytest.raises(InputDataError, match=r"holds no 'swap'. Call tl\.swap"):
        pl.swap(AnnData(np.zeros((2, 6), np.float32)))


# --- traversal --------------------------------------------------------------------------------


def test_traversal_draws_the_genes_that_change_most_from_the_cell(adata):
    stored = adata.uns["scdisent"]["traversal"]
    axes = pl.traversal(adata, n_genes=3, show=False)
    rows = traversed_latents(stored, adata.uns["scdisent"]["latents"])
    assert rows.index.tolist() == fvh_lt_numbers(adata).values.index[[0, 1, 2, 4, 5, 6]].tolist()
    for ax, (name, row) in zip(axes, rows.iterrows(), strict=True):
        assert ax.get_title(loc="left") == f"{name} (KL {row['kl']:.2g} nat)"
        named = [text.get_text() for text in ax.texts]
        assert (adata.var.loc[named, "owner"] == name).all()
        for gene, line in zip(named, ax.get_lines()[1:], strict=True):
            change = stored["values"][row["place"]] - stored["base"]
            expected = change[:, adata.var_names.get_loc(gene)]
            np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-6)
            np.testing.assert_array_equal(line.get_xdata(), stored["grid"][row["place"]])


def test_panels_of_a_block_share_their_scale_and_names_do_not_overlap(adata):
    axes = pl.traversal(adata, n_genes=6, uninformative=True, show=False)
    limits = [ax.get_ylim() for ax in axes]
    assert len(set(limits[:4])) == len(set(limits[4:])) == 1
    titles = [
        to_hex(text.get_color())
        for ax in axes
        for text in ax.findobj(Text)
        if text.get_text() == ax.get_title(loc="left")
    ]
    assert titles == [INK, INK, INK, GREY] * 2
    axes[0].figure.draw_without_rendering()
    for ax in axes:
        places = [ax.get_yaxis_transform().transform(text.get_position()) for text in ax.texts]
        heights = sorted(height for _, height in places)
        size = ax.texts[0].get_fontsize() * ax.figure.dpi / 72
        assert np.diff(heights).min() > 1.1 * size


def test_top_changes_span_most_wherever_on_the_grid():
    change = np.array([[0.0, -1.0, 2.0], [0.5, 0.0, 2.0], [0.0, 1.0, 2.1]])
    assert top_changes(change, n_genes=2).tolist() == [1, 0]


def test_traversal_needs_no_table_of_latents_but_something_to_draw(adata):
    results = adata.uns["scdisent"]
    latents = results.pop("latents")
    rows = traversed_latents(results["traversal"], None)
    assert rows.index.tolist() == results["traversal"]["latents"].tolist()
    axes = pl.traversal(adata, show=False)
    assert axes[0].get_title(loc="left") == "invariant_0"
    results["latents"] = latents.assign(informative=False)
    with pytest.raises(InputDataError, match="uninformative=True"):
        pl.traversal(adata)
    assert len(pl.traversal(adata, uninformative=True, show=False)) == N_LATENT


def test_montage_puts_each_image_in_its_place(rng):
    shape = (3, 8, 6)
    images = rng.uniform(size=(2, 4, 144))
    picture = montage(images, shape=shape)
    gap = tile_gap(shape)
    assert picture.shape == (2 * 8 + gap, 4 * 6 + 3 * gap, 3)
    for row in range(2):
        for column in range(4):
            top, left = row * (8 + gap), column * (6 + gap)
            tile = picture[top : top + 8, left : left + 6]
            expected = images[row, column].reshape(shape).transpose(1, 2, 0)
            np.testing.assert_array_equal(tile, expected)
    assert np.isnan(picture).sum() == picture.size - images.size


def test_variances_of_pixels_are_maps_in_the_order_of_information(images):
    maps = pd.DataFrame(
        np.arange(18.0).reshape(6, 3) / 20, images.var_names, ["latent_0", "latent_1", "latent_2"]
    )
    maps.iloc[4] = np.nan  # a pixel that never varies
    images.varm["scdisent_fvh_lt"] = maps
    images.uns["scdisent"]["fvh_lt"] = {"norm": "data", "scale": "decoded"}
    ax = pl.fvh_lt(images, show=False)
    tiles = [child for child in ax.child_axes if child.images]
    titles = [tile.get_title().split("\n")[0] for tile in tiles]
    assert titles == ["latent_2", "latent_0", "latent_1"]
    for tile, name in zip(tiles, titles, strict=True):
        shown = np.ma.filled(tile.images[0].get_array(), np.nan)
        np.testing.assert_array_equal(shown, maps[name].to_numpy().reshape(2, 3))
        assert tile.images[0].get_clim() == (0, np.nanmax(maps.to_numpy()))
    assert [tile.title.get_color() for tile in tiles] == [INK, INK, GREY]


def test_images_start_with_the_image_itself_and_leave_out_empty_latents(images):
    (ax,) = pl.traversal(images, show=False)
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    stored = images.uns["scdisent"]["traversal"]
    np.testing.assert_allclose(shown[:2, :3], 0.9, rtol=1e-6)
    np.testing.assert_allclose(shown[:2, 4:7], stored["values"][2, 0].reshape(2, 3))
    np.testing.assert_allclose(shown[3:5, -3:], stored["values"][0, -1].reshape(2, 3))
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["latent_2 (KL 3 nat)", "latent_0 (KL 1 nat)"]
    (ax,) = pl.traversal(images, uninformative=True, show=False)
    assert [to_hex(text.get_color()) for text in ax.get_yticklabels()] == [INK, INK, GREY]


def test_colour_images_are_drawn_in_colour_and_white_between(images):
    stored = images.uns["scdisent"]["traversal"]
    stored["values"] = np.repeat(stored["values"], 3, axis=2)
    stored["base"], stored["genes"] = np.repeat(stored["base"], 3), np.repeat(stored["genes"], 3)
    images.uns["image_shape"] = np.array([3, 2, 3])
    (ax,) = pl.traversal(images, show=False)
    picture = ax.images[0].get_array()
    assert picture.shape[2] == 3
    assert (picture[2] == 1).all()


@pytest.mark.parametrize("shape", [[2, 3], [2, 1, 3], [1, 4, 4]])
def test_an_image_shape_that_does_not_fit_is_named(images, shape):
    with pytest.raises(InputDataError, match=r"6 features with 1 or 3 channels"):
        image_shape(shape, n_features=6)
    images.uns["image_shape"] = np.array(shape)
    with pytest.raises(InputDataError, match="delete it to draw curves"):
        pl.traversal(images)


# --- lsdi -------------------------------------------------------------------------------------


def test_lsdi_draws_every_value_with_its_parts_and_number_of_latents(adata):
    frame = adata.uns["scdisent"]["lsdi"]
    rows = lsdi_rows(frame)
    assert rows["block"].tolist() == np.repeat(["invariant", "specific", "all"], 2).tolist()
    assert rows["tool"].tolist() == ["fvh_lt", "dbsr_ls"] * 3
    left, _ = pl.lsdi(adata, show=False)
    dots = [points.get_offsets()[:, 0] for points in left.collections[1:]]
    parts = ("adjusted", "value", "explained", "balance", "concentration")
    for found, name in zip(dots, parts, strict=True):
        np.testing.assert_allclose(found, rows[name])
    assert [bar.get_width() for bar in left.patches] == rows["null"].tolist()
    names = [text.get_text() for text in left.get_yticklabels()]
    assert names[:2] == ["invariant, FVH-LT", "invariant, DBSR-LS"]
    counts = latent_counts(adata.uns["scdisent"]["latents"])
    assert counts == {"invariant": 4, "specific": 4, "all": 8}
    expected = [
        f"{row.value:.2f}    {row.n_informative} of {counts[row.block]} informative"
        for row in rows.itertuples()
    ]
    assert [text.get_text() for text in left.texts] == expected


def test_lsdi_draws_the_index_over_the_cut_with_the_number_of_latents(adata):
    by_cut = adata.uns["scdisent"]["lsdi_by_cut"]
    _, right = pl.lsdi(adata, show=False)
    assert len(right.lines) == 6
    for line, (_, curve) in zip(
        right.lines, by_cut.groupby(["block", "tool"], sort=False), strict=True
    ):
        np.testing.assert_array_equal(line.get_xdata(), curve["cut"])
        np.testing.assert_array_equal(line.get_ydata(), curve["value"])
    ticks = [text.get_text() for text in right.get_xticklabels()]
    assert ticks == ["0.003\n(6)", "0.01\n(6)", "0.03\n(6)", "0.1\n(6)"]


def test_lsdi_of_one_block_names_the_tools_alone_and_an_empty_table_is_refused(adata):
    results = adata.uns["scdisent"]
    for name in ("lsdi", "lsdi_by_cut"):
        results[name] = results[name].query("block == 'invariant'")
    left, _ = pl.lsdi(adata, show=False)
    assert [text.get_text() for text in left.get_yticklabels()] == ["FVH-LT", "DBSR-LS"]
    results["lsdi"] = results["lsdi"].iloc[:0]
    with pytest.raises(InputDataError, match="empty"):
        pl.lsdi(adata)
