"""Responders are found where they are planted, and only there."""

import numpy as np
import pytest
from scipy import stats

import scdisent
from scdisent import tl
from scdisent._errors import InputDataError, OptionError
from scdisent.datasets import simulate_conditions, true_rates
from scdisent.effects import log_normalise

KEYS = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}


def world(seed, share):
    """Cells of which only a share of the treated ones responded; the others are control cells."""
    adata = simulate_conditions(n_cells=2_400, n_genes=200, n_types=2, seed=seed)
    rng = np.random.default_rng(seed)
    treated = (adata.obs["condition"] == "stimulated").to_numpy()
    idle = treated & (rng.random(adata.n_obs) >= share)
    counts = adata.X.toarray()
    counts[idle] = rng.poisson(true_rates(adata[idle], condition="control"))
    adata.X = counts.astype(np.float32)
    truth = treated & ~idle
    counts_of_control = ~treated
    adata.X[counts_of_control] = rng.poisson(
        true_rates(adata[counts_of_control], condition="control")
    )
    adata.X[truth] = rng.poisson(true_rates(adata[truth], condition="stimulated"))
    return adata, truth


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_half_of_the_cells_respond_and_are_found(seed):
    adata, truth = world(seed, 0.5)
    table = tl.responsive_cells(adata, condition="stimulated", **KEYS, fdr=0.1)
    called = adata.obs["scdisent_responsive"].to_numpy()
    false = (called & ~truth).sum() / max(called.sum(), 1)
    assert false < 0.15  # the rate is 0.1 in expectation
    assert (called & truth).sum() / truth.sum() > 0.6
    np.testing.assert_allclose(table["share"], 0.5, atol=0.12)
    assert table["n_responsive"].sum() == called.sum()


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_where_nothing_responds_p_values_are_uniform_and_nothing_is_called(seed):
    adata, _ = world(seed, 0.0)
    table = tl.responsive_cells(adata, condition="stimulated", **KEYS)
    p = adata.obs["scdisent_response_p"].dropna()
    assert stats.kstest(p, "uniform").statistic < 0.1
    assert adata.obs["scdisent_responsive"].mean() < 0.01
    assert (table["share"] < 0.15).all()
    np.testing.assert_allclose(table["auroc"], 0.5, atol=0.07)


def test_control_cells_are_never_called_and_the_rest_stays():
    adata, _ = world(0, 1.0)
    before = adata.obs.copy()
    tl.responsive_cells(adata, condition="stimulated", **KEYS)
    is_control = adata.obs["condition"] == "control"
    assert not adata.obs.loc[is_control, "scdisent_responsive"].any()
    assert adata.obs.loc[is_control, "scdisent_response_p"].isna().all()
    assert adata.obs.loc[~is_control, "scdisent_response_p"].between(0, 1).all()
    assert adata.obs[before.columns].equals(before)


def test_sparse_and_dense_and_keys_from_the_embedding_give_the_same():
    adata = simulate_conditions(n_cells=400, n_genes=60, n_types=2)
    options = {"condition": "stimulated", **KEYS}
    first = tl.responsive_cells(adata, **options)
    dense = adata.copy()
    dense.X = dense.X.toarray()
    np.testing.assert_allclose(tl.responsive_cells(dense, **options), first, rtol=1e-6)
    scdisent.setup_anndata(adata, **KEYS)
    model = scdisent.DISCoVeR(adata, n_latent=3, n_hidden=16)
    model.train(1, enable_progress_bar=False)
    tl.embed(adata, model)
    np.testing.assert_allclose(tl.responsive_cells(adata, condition="stimulated"), first)


def test_misuse_is_refused():
    adata, _ = world(0, 1.0)
    with pytest.raises(OptionError, match="needs condition_key and control"):
        tl.responsive_cells(adata, condition="stimulated")
    with pytest.raises(OptionError, match="'drug' is not in obs"):
        tl.responsive_cells(adata, condition="drug", **KEYS)
    with pytest.raises(InputDataError, match="no group has 20 cells"):
        tl.responsive_cells(adata[::100].copy(), condition="stimulated", **KEYS)


def embedded(**stored):
    """Cells after tl.embed of a model that was set up without cell types."""
    adata = simulate_conditions(n_cells=400, n_genes=60, n_types=2)
    keys = {"condition_key": "condition", "control": "control", "labels_key": "", "layer": ""}
    adata.uns["scdisent"] = {"embed": {**keys, "likelihood": "nb", **stored}}
    return adata


def test_without_cell_types_all_cells_are_one_group_and_a_control_may_be_0():
    assert list(tl.responsive_cells(embedded(), condition="stimulated").index) == ["all cells"]
    adata = embedded(control="0")
    adata.obs["condition"] = (adata.obs["condition"] == "stimulated").astype(int)
    expected = tl.responsive_cells(adata, condition=1)
    found = tl.responsive_cells(adata, condition=1, control=0)
    np.testing.assert_array_equal(found, expected)


def test_counts_are_read_from_the_layer_that_was_embedded():
    adata = embedded(layer="counts")
    expected = tl.responsive_cells(embedded(), condition="stimulated")
    adata.layers["counts"] = adata.X.copy()
    adata.X = log_normalise(adata.X)
    np.testing.assert_array_equal(tl.responsive_cells(adata, condition="stimulated"), expected)
    adata.uns["scdisent"]["embed"]["layer"] = ""
    with pytest.raises(InputDataError, match="X is read as counts.*fractional"):
        tl.responsive_cells(adata, condition="stimulated")
    tl.responsive_cells(adata, condition="stimulated", is_counts=False)
    adata.uns["scdisent"]["embed"]["likelihood"] = "normal"
    tl.responsive_cells(adata, condition="stimulated")


def test_cells_without_a_type_are_left_out_and_without_a_condition_refused():
    adata = embedded(labels_key="cell_type")
    lost = np.arange(adata.n_obs) % 3 == 0
    adata.obs.loc[lost, "cell_type"] = np.nan
    table = tl.responsive_cells(adata, condition="stimulated")
    assert set(table.index) == set(adata.obs["cell_type"].dropna())
    assert adata.obs.loc[lost, "scdisent_response_score"].isna().all()
    adata.obs.loc[lost, "condition"] = np.nan
    with pytest.raises(InputDataError, match=r"obs\['condition'\] is missing in 134 of 400"):
        tl.responsive_cells(adata, condition="stimulated")


def test_one_dose_or_all_of_them_can_be_asked_for():
    adata = embedded()
    treated = (adata.obs["condition"] == "stimulated").to_numpy()
    adata.obs["dose"] = np.where(treated, np.where(np.arange(adata.n_obs) % 2, 3.0, 1.0), np.nan)
    one = tl.responsive_cells(adata, condition="stimulated@3", dose_key="dose")
    assert one["n_cells"].item() == int((adata.obs["dose"] == 3).sum())
    both = tl.responsive_cells(adata, condition="stimulated", dose_key="dose")
    assert both["n_cells"].item() == int(treated.sum())
    with pytest.raises(OptionError, match="'stimulated@2' is not in obs"):
        tl.responsive_cells(adata, condition="stimulated@2", dose_key="dose")
