import anndata as ad
import numpy as np
import pytest
from scipy import stats
from scipy.linalg import subspace_angles
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA, FactorAnalysis

from scdisent._errors import OptionError
from scdisent.datasets import simulate_factors

SIZES = {"fa15": (15, 3), "fa24": (24, 4), "fa100": (100, 10)}


def congruence(found, planted):
    """Smallest |cosine| of matched rows of two loading matrices."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (found, planted)]
    cosine = np.abs(unit[0] @ unit[1].T)
    return cosine[linear_sum_assignment(-cosine)].min()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", SIZES)
def test_principal_components_span_the_planted_loadings(kind, seed):
    adata = simulate_factors(kind, seed=seed)
    n_features, n_factors = SIZES[kind]
    assert adata.shape == (4000, n_features)
    found = PCA(n_factors).fit(adata.X.astype(np.float64))
    angles = subspace_angles(found.components_.T, adata.uns["truth"]["loadings"].T)
    assert np.degrees(angles.max()) < 0.5
    assert found.noise_variance_ == pytest.approx(0.02**2, rel=0.03)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ["fa15", "fa24"])
def test_factor_analysis_with_varimax_recovers_the_blocks(kind, seed):
    adata = simulate_factors(kind, noise=0.3, seed=seed)
    truth = adata.uns["truth"]
    found = FactorAnalysis(SIZES[kind][1], rotation="varimax").fit(adata.X.astype(np.float64))
    assert congruence(found.components_, truth["loadings"]) > 0.99
    np.testing.assert_allclose(found.noise_variance_, 0.3**2, rtol=0.2)


@pytest.mark.parametrize("kind", SIZES)
def test_each_feature_loads_on_the_factor_of_its_block_with_the_strength_of_the_factor(kind):
    adata = simulate_factors(kind)
    truth = adata.uns["truth"]
    size = np.abs(truth["loadings"])
    np.testing.assert_array_equal((size > 0).sum(axis=0), 1)
    np.testing.assert_array_equal(size.argmax(axis=0), truth["blocks"])
    np.testing.assert_array_equal(adata.var["block"].to_numpy(), truth["blocks"])
    ratio = size.max(axis=0) / truth["strengths"][truth["blocks"]]
    assert 0.9 <= ratio.min() < ratio.max() <= 1
    assert {-1, 1} == set(np.sign(truth["loadings"][size > 0]))
    assert (np.diff(truth["strengths"]) < -0.01).all(), "equal strengths could be rotated"


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_variance_is_communality_plus_noise(noise):
    adata = simulate_factors("fa24", n_cells=40_000, noise=noise, cross_loading=0.4)
    communality = (adata.uns["truth"]["loadings"] ** 2).sum(axis=0)
    np.testing.assert_allclose(adata.X.var(axis=0), communality + noise**2, rtol=0.04)
    left = adata.X - adata.obsm["truth_factors"] @ adata.uns["truth"]["loadings"]
    np.testing.assert_allclose(left.std(axis=0), noise, rtol=0.02)


def test_features_of_a_block_correlate_and_those_of_two_blocks_do_not():
    adata = simulate_factors("fa15", noise=0.3, n_cells=20_000)
    size = np.abs(adata.uns["truth"]["loadings"]).max(axis=0)
    same = adata.uns["truth"]["blocks"][:, None] == adata.uns["truth"]["blocks"]
    reliability = size / np.sqrt(size**2 + 0.3**2)  # correlation of a feature with its factor
    expected = np.where(same, np.outer(reliability, reliability), 0)
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(np.abs(np.corrcoef(adata.X.T)), expected, atol=0.03)


def test_cross_loadings_are_one_more_for_each_feature_and_leave_the_main_ones():
    plain, crossed = simulate_factors(), simulate_factors(cross_loading=0.3)
    before, after = (each.uns["truth"]["loadings"] for each in (plain, crossed))
    main = before != 0
    np.testing.assert_array_equal(after[main], before[main])
    np.testing.assert_array_equal((after != 0).sum(axis=0), 2)
    extra = np.where(main, 0, np.abs(after)).max(axis=0)
    np.testing.assert_allclose(extra, 0.3 * np.abs(before).max(axis=0))


@pytest.mark.parametrize(("distribution", "kurtosis"), [("normal", 0), ("uniform", -1.2)])
def test_factors_are_independent_of_unit_variance_and_of_the_named_shape(distribution, kurtosis):
    factors = simulate_factors(n_cells=40_000, distribution=distribution).obsm["truth_factors"]
    np.testing.assert_allclose(np.cov(factors.T), np.eye(3), atol=0.03)
    np.testing.assert_allclose(stats.kurtosis(factors), kurtosis, atol=0.1)


def test_a_seed_says_everything_and_results_are_kept_on_disk(tmp_path):
    first, again, other = (simulate_factors(n_cells=50, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.X, again.X)
    assert not np.allclose(first.X, other.X)
    assert first.X.dtype == np.float32
    assert list(first.var_names[:2]) == ["x_1", "x_2"]
    first.write_h5ad(tmp_path / "fa.h5ad")
    read = ad.read_h5ad(tmp_path / "fa.h5ad")
    np.testing.assert_array_equal(read.uns["truth"]["factors"], first.obsm["truth_factors"])
    np.testing.assert_array_equal(read.uns["truth"]["blocks"], first.uns["truth"]["blocks"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "fa16"},
        {"distribution": "cauchy"},
        {"noise": -1},
        {"noise": np.nan},
        {"n_cells": 1},
        {"cross_loading": 1},
    ],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        simulate_factors(**wrong)
