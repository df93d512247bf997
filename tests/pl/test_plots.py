import os
import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from scipy import sparse

from scdisent import metrics, pl
from scdisent._errors import InputDataError, OptionError
from scdisent.effects import log_normalise
from scdisent.pl._figure import level_colors
from scdisent.pl._history import history_curves
from scdisent.pl._labels import spread
from scdisent.pl._latent import drawn_cells, latent_coordinates
from scdisent.pl._leakage import leakage_rows
from scdisent.pl._response import response_table

N_CELLS, N_GENES = 120, 40


@pytest.fixture(autouse=True)
def _nothing_global_changes():
    before = dict(mpl.rcParams), np.random.get_state()[1].copy()  # noqa: NPY002
    yield
    assert dict(mpl.rcParams) == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    plt.close("all")


@pytest.fixture(scope="module")
def audits():
    """The table that tl.score stores, of a block without and one with a leak."""
    rng, tables = np.random.default_rng(0), []
    condition, cell_type = np.arange(400) % 2, np.repeat(["B", "T"], 200)
    for block, leak in {"invariant": 0, "specific": 3}.items():
        codes = rng.standard_normal((400, 2)) + leak * condition[:, None]
        quick = {"attackers": ("logistic",), "n_permutations": 20, "n_bootstrap": 20}
        frame = metrics.leakage(codes, condition, within=cell_type, **quick).to_frame()
        tables.append(frame.assign(representation=block, target="condition"))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture
def adata(rng, audits):
    """What tl.embed and tl.score leave behind, on simulated counts."""
    condition, cell_type = np.arange(N_CELLS) % 2, rng.integers(0, 3, N_CELLS)
    rates = rng.gamma(2, 2, (3, N_GENES))[cell_type]
    rates[:, :10] *= np.where(condition == 1, 5, 1)[:, None]
    obs = pd.DataFrame(
        {
            "condition": pd.Categorical(np.array(["control", "stimulated"])[condition]),
            "cell_type": pd.Categorical(np.array(["B", "NK", "T"])[cell_type]),
            "depth": rng.uniform(size=N_CELLS),
        },
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)])
    adata = AnnData(sparse.csr_matrix(rng.poisson(rates).astype(np.float32)), obs=obs, var=var)
    for block in ("invariant", "specific"):
        adata.obsm[f"X_scdisent_{block}"] = rng.standard_normal((N_CELLS, 4))
        adata.obsm[f"X_umap_scdisent_{block}"] = rng.standard_normal((N_CELLS, 2))
    embed = {"condition_key": "condition", "labels_key": "cell_type", "control": "control"}
    epochs = pd.Index(range(5), name="epoch")
    history = {f"{t}_{s}": range(5) for t in ("nll_joint", "mmd") for s in ("train", "validation")}
    adata.uns["scdisent"] = {
        "embed": embed,
        "history": pd.DataFrame({**history, "lr": 0.1}, index=epochs, dtype=float),
        "leakage": audits.copy(),
    }
    return adata


@pytest.fixture
def predicted(adata, rng):
    """Predicted cells: the observed ones of the target, drawn with replacement, genes shuffled."""
    target = np.flatnonzero(adata.obs["condition"] == "stimulated")
    chosen = adata[rng.choice(target, 80)][:, rng.permutation(N_GENES)]
    result = AnnData(chosen.X.copy(), var=pd.DataFrame(index=chosen.var_names))
    result.uns["scdisent"] = {"prediction": {"condition": "stimulated", "reference": "control"}}
    return result


def snapshot(adata):
    return adata.copy(), sorted(adata.uns), sorted(adata.uns["scdisent"]), sorted(adata.obsm)


def assert_unchanged(adata, before):
    old, *keys = before
    assert keys == [sorted(adata.uns), sorted(adata.uns["scdisent"]), sorted(adata.obsm)]
    np.testing.assert_array_equal(adata.X.toarray(), old.X.toarray())
    pd.testing.assert_frame_equal(adata.obs, old.obs)
    for slot in adata.obsm:
        np.testing.assert_array_equal(adata.obsm[slot], old.obsm[slot])
    for name in ("history", "leakage"):
        pd.testing.assert_frame_equal(adata.uns["scdisent"][name], old.uns["scdisent"][name])


@pytest.mark.parametrize("plot", ["latent", "history", "leakage", "response"])
def test_each_plot_returns_axes_saves_a_file_and_leaves_the_data_alone(
    adata, predicted, tmp_path, plot
):
    before = snapshot(adata)
    arguments = (adata, predicted) if plot == "response" else (adata,)
    path = tmp_path / f"{plot}.png"
    drawn = getattr(pl, plot)(*arguments, show=False, save=path)
    axes = [drawn] if isinstance(drawn, Axes) else drawn
    assert all(isinstance(ax, Axes) for ax in axes)
    assert len(axes) == {"latent": 4, "history": 3, "leakage": 1, "response": 2}[plot]
    assert len(plt.get_fignums()) == 1
    height, width, _ = plt.imread(path).shape
    assert min(height, width) > 300
    assert_unchanged(adata, before)


def test_plots_draw_on_given_axes_and_open_no_figure(adata, predicted):
    figure, axes = plt.subplots(2, 4)
    assert pl.leakage(adata, ax=axes[0, 0]) is axes[0, 0]
    pl.history(adata, axes=axes[0, 1:])
    pl.response(adata, predicted, axes=axes[1, :2])
    pl.latent(adata, representation="invariant", axes=axes[1, 2:])
    assert len(plt.get_fignums()) == 1
    assert all(ax.get_title() or ax.get_title(loc="left") for ax in figure.axes)
    with pytest.raises(OptionError, match="4 panels, but 2 axes"):
        pl.latent(adata, axes=axes[1, 2:])


# --- latent -----------------------------------------------------------------------------------


def test_latent_draws_every_cell_in_random_order_with_the_colours_of_scanpy(adata):
    adata.uns["condition_colors"] = ["#ff0000", "#0000ff"]
    (ax,) = pl.latent(adata, representation="specific", color="condition", show=False)
    points = ax.collections[0]
    cells = drawn_cells(N_CELLS, seed=0)
    assert sorted(cells) == list(range(N_CELLS))
    assert (np.diff(cells) < 0).any()
    umap = adata.obsm["X_umap_scdisent_specific"]
    np.testing.assert_allclose(points.get_offsets(), umap[cells])
    is_red = points.get_facecolors()[:, 0] == 1
    np.testing.assert_array_equal(is_red, (adata.obs["condition"] == "control").iloc[cells])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["control", "stimulated"]
    (ax,) = pl.latent(adata, representation="specific", color="depth", show=False)
    np.testing.assert_allclose(ax.collections[0].get_array(), adata.obs["depth"].iloc[cells])


def test_latent_says_that_it_drew_a_subset(adata, monkeypatch):
    monkeypatch.setattr("scdisent.pl._latent.MAX_CELLS", 50)
    (ax,) = pl.latent(adata, representation="invariant", color="cell_type", show=False)
    assert len(ax.collections[0].get_offsets()) == 50
    assert "50 of 120 cells" in ax.get_xlabel()


def test_umap_of_the_codes_is_the_same_twice_and_keeps_clusters_apart(adata):
    del adata.obsm["X_umap_scdisent_invariant"]
    is_b = (adata.obs["cell_type"] == "B").to_numpy()
    adata.obsm["X_scdisent_invariant"][is_b] += 20
    cells = np.arange(N_CELLS)[::-1]
    first, second = (
        latent_coordinates(adata, "invariant", cells=cells, n_neighbors=10, seed=0)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert metrics.knn_accuracy(first, is_b[cells]) == 1


def test_torch_has_as_many_threads_after_a_umap_as_before():
    """Numba starts its threads once a process, so a new one is asked."""
    code = """
import numpy as np, torch
from anndata import AnnData
from scdisent.pl._latent import latent_coordinates
adata = AnnData(obsm={"X_scdisent_invariant": np.random.default_rng(0).normal(size=(60, 4))})
latent_coordinates(adata, "invariant", cells=np.arange(60), n_neighbors=5, seed=0)
print(torch.get_num_threads())
"""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["1"], done.stderr


def test_latent_names_what_is_missing(adata):
    with pytest.raises(InputDataError, match=r"'X_scdisent_content'.*tl\.embed"):
        pl.latent(adata, representation="content")
    with pytest.raises(InputDataError, match="Choose among: condition, cell_type, depth"):
        pl.latent(adata, color="donor")
    del adata.uns["scdisent"]
    with pytest.raises(InputDataError, match=r"Call tl\.embed"):
        pl.latent(adata)


# --- history ----------------------------------------------------------------------------------


def test_history_has_a_panel_for_each_term_and_a_curve_for_each_split(adata):
    frame = adata.uns["scdisent"]["history"]
    frame.loc[3, "mmd_validation"] = np.nan
    curves = history_curves(frame)
    expected = [(t, s) for t in ("nll_joint", "mmd") for s in ("train", "validation")]
    assert list(curves) == [*expected, ("lr", "")]
    assert curves["mmd", "validation"].index.tolist() == [0, 1, 2, 4]
    axes = pl.history(frame, show=False)
    assert [ax.get_title() for ax in axes] == ["nll_joint", "mmd", "lr"]
    assert [len(ax.lines) for ax in axes] == [2, 2, 1]
    (ax,) = pl.history(frame, terms=["mmd"], show=False)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), frame["mmd_train"])
    with pytest.raises(InputDataError, match=r"no terms \['kl'\]. It has: nll_joint, mmd, lr"):
        pl.history(frame, terms=["kl"])


# --- leakage ----------------------------------------------------------------------------------


def test_leakage_rows_are_those_of_the_audit_with_the_worst_type_first(adata):
    frame = adata.uns["scdisent"]["leakage"]
    rows = leakage_rows(frame)
    assert [name for name, *_ in rows] == ["invariant", "specific"]
    for name, pooled, within in rows:
        own = frame[frame["representation"] == name]
        assert pooled["auroc"] == own.loc[own["scope"] == "pooled", "auroc"].item()
        assert set(within["group"]) == {"B", "T"}
        assert within["auroc"].is_monotonic_decreasing
    with pytest.raises(InputDataError, match=r"'cell_type' for anything"):
        leakage_rows(frame, target="cell_type")
    with pytest.raises(InputDataError, match=r"\['pca'\]. The table has: \['invariant'"):
        leakage_rows(frame, representation=["pca"])


def test_leakage_draws_dot_interval_null_and_the_name_of_the_worst_type(adata):
    frame = adata.uns["scdisent"]["leakage"]
    ax = pl.leakage(adata, representation="specific", show=False)
    ((_, pooled, within),) = leakage_rows(frame, representation="specific")
    assert ax.get_title(loc="left") == "Can the condition be read from specific codes?"
    places = np.concatenate([dots.get_offsets()[:, 0] for dots in ax.collections])
    assert {pooled["auroc"], *within["auroc"]} <= set(places)
    assert any(np.array_equal(line.get_xdata(), pooled[["lower", "upper"]]) for line in ax.lines)
    band = ax.patches[0]
    assert band.get_x() == pooled["null_auroc"]
    assert band.get_x() + band.get_width() == pytest.approx(pooled["null_auroc_95"])
    assert within["group"].iloc[0] in [text.get_text() for text in ax.texts]
    assert ax.get_xlim()[1] > 1


def test_leakage_draws_the_table_of_a_single_audit(rng):
    result = metrics.leakage(
        rng.standard_normal((60, 2)),
        np.arange(60) % 2,
        attackers=("logistic",),
        n_permutations=5,
        n_bootstrap=5,
    )
    ax = pl.leakage(result.to_frame(), show=False)
    assert ax.get_title(loc="left") == "Can the condition be read from codes?"


# --- response ---------------------------------------------------------------------------------


def test_response_table_agrees_with_scanpy_and_with_the_metrics(adata, predicted):
    import scanpy as sc

    table = response_table(adata, predicted)
    assert table.index.equals(predicted.var_names)
    cells = {}
    for name, source in {
        "control": adata[adata.obs["condition"] == "control"],
        "observed": adata[adata.obs["condition"] == "stimulated"],
        "predicted": predicted,
    }.items():
        copy = source[:, predicted.var_names].copy()
        sc.pp.normalize_total(copy, target_sum=1e4)
        sc.pp.log1p(copy)
        cells[name] = copy.X.toarray()
    change = cells["observed"].mean(axis=0) - cells["control"].mean(axis=0)
    np.testing.assert_allclose(table["observed_change"], change, rtol=1e-4, atol=1e-5)
    variance = cells["predicted"].var(axis=0, ddof=1)
    np.testing.assert_allclose(table["predicted_variance"], variance, rtol=1e-3)
    top = metrics.top_genes(cells["observed"], cells["control"], n=5)
    assert set(np.argsort(-table["t"].abs().to_numpy())[:5]) == set(top)
    r = metrics.pearson_delta(cells["observed"], cells["predicted"], cells["control"])
    axes = pl.response(adata, predicted, n_top=6, show=False)
    assert f"r = {r:.2f} (all genes)" in axes[0].get_title()
    named = {text.get_text() for text in axes[0].texts}
    assert named == set(table["observed_change"].abs().nlargest(6).index)
    spread = metrics.r2_variance(cells["observed"], cells["predicted"])
    assert f"R² = {spread:.2f}" in axes[1].get_title()


def test_a_prediction_that_is_the_observation_lies_on_the_diagonal(adata):
    predicted = adata[adata.obs["condition"] == "stimulated"].copy()
    table = response_table(adata, predicted, observed_condition="stimulated")
    np.testing.assert_allclose(table["observed_change"], table["predicted_change"], atol=1e-6)
    np.testing.assert_allclose(table["observed_variance"], table["predicted_variance"], atol=1e-6)


def test_log_normalise_is_the_same_for_dense_counts_and_keeps_empty_cells():
    counts = np.array([[1.0, 3.0], [0.0, 0.0]])
    expected = [[np.log1p(2500), np.log1p(7500)], [0, 0]]
    np.testing.assert_allclose(log_normalise(counts), expected)
    np.testing.assert_allclose(log_normalise(sparse.csr_matrix(counts)).toarray(), expected)


def test_response_uses_a_layer_and_says_what_is_missing(adata, predicted):
    by_x = response_table(adata, predicted)
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0
    pd.testing.assert_frame_equal(response_table(adata, predicted, layer="counts"), by_x)
    with pytest.raises(
        InputDataError, match=r"observed target cells \('drug'\).*stimulated \(60\)"
    ):
        pl.response(adata, predicted, observed_condition="drug")
    with pytest.raises(InputDataError, match="reference cells"):
        pl.response(adata, predicted, control="none")
    foreign = predicted.copy()
    foreign.var_names = [f"other{i}" for i in range(N_GENES)]
    with pytest.raises(InputDataError, match="40 of 40 predicted genes"):
        pl.response(adata, foreign)
    adata.uns["scdisent"]["embed"]["control"] = ""
    with pytest.raises(InputDataError, match="Pass control="):
        pl.response(adata, predicted)
    del predicted.uns["scdisent"]
    with pytest.raises(InputDataError, match="pass observed_condition"):
        pl.response(adata, predicted, control="control")


def test_labels_are_spread_with_a_gap_as_near_as_possible_to_their_points(rng):
    wanted = np.array([5.0, 1.0, 1.1, 9.0])
    heights = spread(wanted, gap=1.0, low=0, high=10)
    np.testing.assert_allclose(heights, [5, 0.55, 1.55, 9])
    wanted = rng.uniform(0, 10, 8)
    heights = spread(wanted, gap=1.0, low=0, high=10)
    assert np.diff(np.sort(heights)).min() > 1 - 1e-9
    np.testing.assert_array_equal(np.argsort(heights), np.argsort(wanted))
    assert heights.min() >= 0
    assert heights.max() <= 10


def test_response_reads_what_embed_and_predict_stored_and_refuses_logarithms(adata, predicted):
    expected = response_table(adata, predicted)
    adata.layers["counts"] = adata.X.copy()
    adata.X = log_normalise(adata.X)
    with pytest.raises(InputDataError, match=r"X of adata is read as counts.*is_counts=False"):
        pl.response(adata, predicted)
    adata.uns["scdisent"]["embed"]["layer"] = "counts"
    pd.testing.assert_frame_equal(response_table(adata, predicted), expected)
    with pytest.raises(OptionError, match="no layer 'raw'"):
        pl.response(adata, predicted, layer="raw")
    adata.uns["scdisent"]["embed"]["layer"] = ""
    plain = predicted.copy()
    plain.X = log_normalise(plain[:, predicted.var_names].X)
    plain.uns["scdisent"]["prediction"]["likelihood"] = "normal"
    pd.testing.assert_frame_equal(response_table(adata, plain), expected)
    with pytest.raises(InputDataError, match="X of predicted holds no cells"):
        pl.response(adata, predicted[:0].copy())


def test_a_level_called_0_is_a_level(adata, predicted):
    expected = response_table(adata, predicted)
    adata.obs["number"] = 1 - (adata.obs["condition"] == "control").astype(int)
    adata.uns["scdisent"]["embed"]["control"] = "1"
    found = response_table(
        adata, predicted, condition_key="number", control=0, observed_condition=1
    )
    pd.testing.assert_frame_equal(found, expected)
    assert found.attrs["control"] == "0"
    swapped = response_table(
        adata, predicted, condition_key="number", control=1, observed_condition=0
    )
    np.testing.assert_allclose(swapped["observed_change"], -expected["observed_change"])


def test_one_dose_is_drawn_against_its_prediction(adata, predicted):
    treated = (adata.obs["condition"] == "stimulated").to_numpy()
    adata.obs["dose"] = np.where(treated, np.where(np.arange(N_CELLS) % 4 == 1, 3.0, 1.0), np.nan)
    predicted.uns["scdisent"]["prediction"]["condition"] = "stimulated@3"
    with pytest.raises(InputDataError, match="dose_key="):
        pl.response(adata, predicted)
    alone = adata[(adata.obs["dose"] == 3) | ~treated].copy()
    expected = response_table(alone, predicted, observed_condition="stimulated")
    pd.testing.assert_frame_equal(response_table(adata, predicted, dose_key="dose"), expected)
    adata.uns["scdisent"]["embed"]["dose_key"] = "dose"
    pd.testing.assert_frame_equal(response_table(adata, predicted), expected)
    every = response_table(adata, predicted, observed_condition="stimulated")
    bare = response_table(adata[:, :].copy(), predicted, observed_condition="stimulated")
    pd.testing.assert_frame_equal(every, bare)


def test_latent_draws_the_blocks_of_the_model_embedded_last(adata):
    adata.obsm["X_scdisent_latent"] = adata.obsm["X_umap_scdisent_latent"] = np.zeros((N_CELLS, 2))
    adata.uns["scdisent"]["embed"]["representations"] = np.array(["latent"], dtype=object)
    drawn = pl.latent(adata, color="condition")
    assert [ax.get_title() for ax in drawn] == ["Latent codes, by condition"]
    adata.uns["scdisent"]["embed"]["representations"] = []
    with pytest.raises(InputDataError, match="no codes to draw"):
        pl.latent(adata, color="condition")


def test_too_few_cells_for_a_umap_are_refused_and_colours_may_be_named_by_level(adata):
    del adata.obsm["X_umap_scdisent_invariant"]
    with pytest.raises(InputDataError, match="at least 4 cells, found 3"):
        pl.latent(adata[:3].copy(), representation="invariant", color="condition")
    adata.uns["condition_colors"] = {
        "stimulated": "#ff0000",
        "control": "#00ff00",
        "old": "#0000ff",
    }
    levels = ["control", "stimulated"]
    assert level_colors(adata, "condition", levels=levels) == ["#00ff00", "#ff0000"]
    pl.latent(adata, representation="specific", color="condition")
    with pytest.raises(OptionError, match="nothing to draw"):
        pl.latent(adata, representation="specific", color=[])
