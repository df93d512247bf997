import tracemalloc

import numpy as np
import pytest
from scipy import stats

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics import fvh_lt, informative_latents, lsdi

GRIDS = ("gauss_hermite", "uniform", "quantile", "jacobian")


def linear(loadings):
    return lambda z: z @ loadings + 7.0


def wavy(z):
    """Three features with interactions."""
    a, b, c = z.T
    return np.stack([np.sin(a) * b, a + a * c**2 / 3, np.tanh(a + b + c)], axis=1)


def test_a_linear_decoder_gives_squared_loadings(rng):
    loadings = rng.standard_normal((4, 6))
    base = rng.standard_normal((9, 4)) * 3 + 5  # where base cells lie must not matter
    for n_grid in (2, 3, 11, 15):
        found = fvh_lt(linear(loadings), base, n_grid=n_grid)
        np.testing.assert_allclose(found.raw, loadings**2, rtol=1e-10)
    total = rng.uniform(1, 2, 6)
    found = fvh_lt(linear(loadings), base, total_variance=total)
    np.testing.assert_allclose(found.values, loadings**2 / total, rtol=1e-10)
    assert found.norm == "data"
    local = fvh_lt(linear(loadings), base, grid="jacobian")
    np.testing.assert_allclose(local.raw, loadings**2, rtol=1e-8)


def test_gauss_hermite_is_exact_for_polynomials():
    found = fvh_lt(lambda z: z**3, np.zeros((1, 1)), n_grid=7)
    assert found.raw[0, 0] == pytest.approx(15)  # Var z^3 = E z^6


def test_additive_decoders_split_their_variance_over_latents(rng):
    base = rng.standard_normal((200_000, 3))

    def additive(z):
        parts = np.stack([np.sin(2 * z[:, 0]), z[:, 1] ** 2 - 1, np.exp(z[:, 2] / 2)], axis=1)
        return np.c_[parts, parts.sum(axis=1)]

    # few base cells suffice for raw: additive parts do not depend on them
    raw = fvh_lt(additive, base[:20], n_grid=25).raw
    expected = [(1 - np.exp(-8)) / 2, 2, np.exp(0.5) - np.exp(0.25)]
    np.testing.assert_allclose(raw[:, :3], np.diag(expected), rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(raw[:, 3], expected, rtol=1e-4)
    # the variance of the sum is the sum, up to the sampling error of 200 000 cells
    assert additive(base).var(axis=0)[3] == pytest.approx(raw[:, 3].sum(), rel=0.02)


def test_raw_is_the_numerator_of_the_sobol_total_effect(rng):
    normals = [stats.norm()] * 3
    sobol = stats.sobol_indices(func=lambda z: wavy(z.T).T, n=2**14, dists=normals, rng=1)
    variance = wavy(rng.standard_normal((400_000, 3))).var(axis=0)
    expected = sobol.total_order.T * variance  # (n_latent, n_features)
    base = rng.standard_normal((4000, 3))
    found = fvh_lt(wavy, base, n_grid=25, chunk_size=1000, n_neighbors=4000)
    # 4000 base cells: the standard error of a mean of squares near 1 is about 0.02
    np.testing.assert_allclose(found.raw, expected, atol=0.06)
    jansen = np.empty_like(expected)
    for k in range(3):
        z, moved = rng.standard_normal((2, 100_000, 3))
        moved = np.where(np.arange(3) == k, moved, z)
        jansen[k] = ((wavy(z) - wavy(moved)) ** 2).mean(axis=0) / 2
    np.testing.assert_allclose(found.raw, jansen, atol=0.06)
    assert (expected.sum(axis=0) > 1.1 * variance)[:2].all(), "interactions count more than once"


def test_all_grids_give_the_same_ratios_for_affine_decoders(rng):
    loadings = rng.standard_normal((3, 5))
    base = stats.norm.ppf(np.linspace(0.001, 0.999, 301))[:, None] * np.ones(3)
    raws = {grid: fvh_lt(linear(loadings), base, grid=grid).raw for grid in GRIDS}
    for raw in raws.values():
        np.testing.assert_allclose(raw / raw[0], (loadings / loadings[0]) ** 2, rtol=1e-7)
    # eleven even places on [-3, 3] have variance 0.36 * (11^2 - 1) / 12; many places 6^2 / 12
    np.testing.assert_allclose(raws["uniform"], 3.6 * loadings**2)
    dense = fvh_lt(linear(loadings), base, grid="uniform", n_grid=601).raw
    np.testing.assert_allclose(dense, 3 * loadings**2, rtol=0.01)


def test_quantile_grid_follows_the_scale_of_each_latent(rng):
    codes = rng.standard_normal((3000, 2)) * [1, 10]
    found = fvh_lt(lambda z: z, codes[:50], codes=codes, grid="quantile", n_grid=99)
    places = stats.norm.ppf(np.linspace(0.01, 0.99, 99))
    np.testing.assert_allclose(np.diag(found.raw), [places.var(), 100 * places.var()], rtol=0.1)
    np.testing.assert_allclose(np.diag(found.signed), [2 * places[-1], 20 * places[-1]], rtol=0.1)


def test_signed_has_the_sign_and_size_of_the_change(rng):
    loadings = rng.standard_normal((3, 4))
    base = rng.standard_normal((20, 3))
    signed = fvh_lt(linear(loadings), base, grid="uniform").signed
    np.testing.assert_allclose(signed, 6 * loadings)
    np.testing.assert_allclose(fvh_lt(linear(loadings), base, grid="jacobian").signed, 2 * loadings)
    flipped = fvh_lt(linear(loadings), base * [-1, 1, 1], grid="uniform")
    mirrored = fvh_lt(lambda z: linear(loadings)(z * [-1, 1, 1]), base, grid="uniform")
    np.testing.assert_allclose(mirrored.raw, flipped.raw)
    np.testing.assert_allclose(mirrored.signed, signed * [[-1], [1], [1]])


def test_saturated_decoders_show_why_the_local_limit_is_no_default():
    base = np.full((5, 1), 4.0)
    step = fvh_lt(lambda z: np.tanh(4 * z), base)
    local = fvh_lt(lambda z: np.tanh(4 * z), base, grid="jacobian")
    assert step.raw[0, 0] > 0.5
    assert local.raw[0, 0] < 1e-9


@pytest.mark.parametrize("grid", GRIDS)
def test_chunks_change_memory_and_no_number(rng, grid):
    base, codes = rng.standard_normal((23, 3)), rng.standard_normal((60, 3))
    largest = []

    def decode(z):
        largest.append(len(z))
        return wavy(z)

    results = []
    for chunk_size in (1, 4, 23, 100):
        largest.clear()
        results.append(fvh_lt(decode, base, codes=codes, grid=grid, chunk_size=chunk_size))
        assert max(largest) <= chunk_size * (2 if grid == "jacobian" else 11)
    first, *others = results
    for other in others:
        for name in ("values", "raw", "signed", "values_on_manifold", "decoded_variance"):
            expected = getattr(first, name)
            np.testing.assert_allclose(getattr(other, name), expected, rtol=1e-9, atol=1e-12)


def test_memory_is_that_of_one_chunk(rng):
    loadings, base = rng.standard_normal((2, 3000)), rng.standard_normal((100, 2))
    one_chunk = 4 * 11 * 3000 * 8  # bytes; all traversals at once would take 50 times as much
    tracemalloc.start()
    fvh_lt(lambda z: z @ loadings, base, chunk_size=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * one_chunk


def test_decoded_variance_does_not_cancel(rng):
    base = rng.standard_normal((300, 1))
    found = fvh_lt(lambda z: z + 1e7, base, chunk_size=1)
    assert found.decoded_variance[0] == pytest.approx(base.var(), rel=1e-6)
    assert found.raw[0, 0] == pytest.approx(1, rel=1e-6)


def test_rows_are_permuted_and_columns_are_rescaled_with_the_decoder(rng):
    base, order = rng.standard_normal((50, 3)), [2, 0, 1]
    found = fvh_lt(wavy, base)
    permuted = fvh_lt(lambda z: wavy(z[:, np.argsort(order)]), base[:, order])
    np.testing.assert_allclose(permuted.values, found.values[order], rtol=1e-9, atol=1e-12)
    scaled = fvh_lt(lambda z: wavy(z) * [1, 5, -2], base)
    np.testing.assert_allclose(scaled.values, found.values, rtol=1e-9, atol=1e-12)


def test_features_that_do_not_vary_are_named_and_never_divided(rng):
    base = rng.standard_normal((40, 2))
    decode = lambda z: np.c_[z[:, 0], np.full(len(z), 3.0), z[:, 1]]  # noqa: E731
    with np.errstate(all="raise"):
        found = fvh_lt(decode, base)
        shares = found.feature_share, found.latent_share, found.scaled
    assert found.floored.tolist() == [False, True, False]
    assert found.n_floored == 1
    assert "n_floored=1" in repr(found)
    for table in (found.values, *shares):
        assert np.isnan(table[:, 1]).all()
        assert np.isfinite(table[:, [0, 2]]).all()
    assert lsdi(found.values).n_features == 2
    assert lsdi(found.values).value == pytest.approx(1)
    given = fvh_lt(decode, base, total_variance=[1.0, 2.0, 1e-9])
    assert given.floored.tolist() == [False, False, True]
    np.testing.assert_allclose(given.values[:, 1], 0, atol=1e-12)
    assert fvh_lt(decode, base, min_variance=10).n_floored == 3


def test_shares_sum_to_one_and_empty_latents_have_none(rng):
    base = rng.standard_normal((60, 4))
    found = fvh_lt(lambda z: wavy(z[:, :3]), base)  # the last latent does nothing
    np.testing.assert_allclose(found.feature_share.sum(axis=0), 1)
    np.testing.assert_allclose(found.latent_share.sum(axis=1), [1, 1, 1, 0], atol=1e-12)
    assert found.scaled.max() == 1
    np.testing.assert_allclose(found.scaled * found.values.max(), found.values)
    np.testing.assert_allclose(found.row_maximum, found.values.max(axis=1))
    assert found.row_maximum[3] == pytest.approx(0, abs=1e-12)


def test_active_units_are_those_whose_codes_vary(rng):
    codes = rng.standard_normal((500, 3)) * [1, 0.2, 0.05]
    found = fvh_lt(lambda z: z, codes[:30], codes=codes)
    np.testing.assert_allclose(found.code_variance, codes.var(axis=0))
    assert found.active.tolist() == [True, True, False]


@pytest.mark.parametrize("seed", range(3))
def test_traversing_a_ring_leaves_it_and_a_normal_cloud_is_kept(seed):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, 2000)
    ring = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ring += 0.05 * rng.standard_normal(ring.shape)
    cloud = rng.standard_normal((2000, 2))
    off = {
        name: fvh_lt(lambda z: z, codes[:100], codes=codes, grid="quantile").off_manifold
        for name, codes in (("ring", ring), ("cloud", cloud))
    }
    # of eleven places a ring has two, the cloud loses corners only
    assert (off["ring"] > 0.7).all()
    assert (off["cloud"] < 0.25).all()


def test_cells_whose_traversal_leaves_the_codes_are_left_out(rng):
    # the second latent varies for cells at x = 3 only; elsewhere a traversal of it invents cells
    x = rng.choice([-3.0, 3.0], 1000)
    codes = np.stack([x, np.where(x > 0, rng.uniform(-2, 2, 1000), 0)], axis=1)
    codes += 0.02 * rng.standard_normal(codes.shape)
    decode = lambda z: np.where(z[:, [0]] > 0, z[:, [1]], 10 * z[:, [1]])  # noqa: E731
    found = fvh_lt(decode, codes[:200], codes=codes, grid="quantile", total_variance=[1.0])
    real, n_real = (x[:200] > 0), int((x[:200] > 0).sum())
    alone = fvh_lt(decode, codes[:200][real], codes=codes, grid="quantile", total_variance=[1.0])
    assert found.n_on_manifold[1] == pytest.approx(n_real, abs=0.1 * n_real)
    assert found.values_on_manifold[1, 0] == pytest.approx(alone.values[1, 0], rel=1e-6)
    assert found.values[1, 0] > 10 * found.values_on_manifold[1, 0]
    # even places visit the gap between both groups: no cell is left, and no number is made up
    gap = fvh_lt(decode, codes[:200], codes=codes, grid="uniform", total_variance=[1.0])
    assert gap.n_on_manifold[0] == 0
    assert np.isnan(gap.values_on_manifold[0]).all()


def test_the_mark_is_unknown_with_too_few_codes_and_counts_weight(rng):
    few = fvh_lt(linear(np.eye(2)), rng.standard_normal((15, 2)))
    assert np.isnan(few.off_manifold).all()
    assert np.isnan(few.values_on_manifold).all()
    one = np.linspace(-3, 3, 1000)[:, None]
    # Gauss-Hermite nodes beyond 3 (four of eleven) hold 0.0004 of the weight
    normal = fvh_lt(lambda z: z, one[::10], codes=one)
    assert 0 < normal.off_manifold[0] < 0.001
    assert normal.n_on_manifold[0] == 100
    np.testing.assert_allclose(normal.values_on_manifold, normal.values)
    # of even places one alone is more weight than codes themselves have off
    higher = 0.917 * one + 0.3  # from -2.45 to 3.05: one place of eleven is outside
    even = fvh_lt(lambda z: z, higher[::10], codes=higher, grid="uniform")
    assert even.off_manifold[0] == pytest.approx(1 / 11)
    assert even.n_on_manifold[0] == 0


def test_informative_latents_by_threshold_and_by_gap():
    published = [8.2, 0.008, 8.2, 7.6, 0.006, 0.003, 0.002, 0.0005]
    for method in ("threshold", "gap"):
        found = informative_latents(published, method=method)
        assert np.flatnonzero(found.mask).tolist() == [0, 2, 3]
    assert informative_latents(published).cut == 0.01
    assert informative_latents(published, threshold=0.005).mask.sum() == 5
    # the widest empty stretch is from 0.008 to the end of the window at 1 nat
    assert informative_latents(published, method="gap").cut == pytest.approx(np.sqrt(0.008))
    inner = informative_latents([0.6, 0.4, 0.02, 0.015, 0.004], method="gap")
    assert inner.cut == pytest.approx(np.sqrt(0.02 * 0.4))
    assert informative_latents([2.0, 1.5, 5.0], method="gap").mask.all()
    assert not informative_latents([0.0, 1e-4], method="gap").mask.any()
    order = np.random.default_rng(0).permutation(8)
    shuffled = informative_latents(np.array(published)[order], method="gap")
    assert shuffled.mask.tolist() == informative_latents(published).mask[order].tolist()


def test_bad_input_is_refused(rng):
    base = rng.standard_normal((10, 2))
    with pytest.raises(OptionError, match="'gauss_hermite', 'uniform', 'quantile'"):
        fvh_lt(linear(np.eye(2)), base, grid="normal")
    with pytest.raises(OptionError, match="n_grid=1"):
        fvh_lt(linear(np.eye(2)), base, n_grid=1)
    with pytest.raises(OptionError, match="chunk_size=0"):
        fvh_lt(linear(np.eye(2)), base, chunk_size=0)
    with pytest.raises(InputDataError, match="2 latents, but codes has 3"):
        fvh_lt(linear(np.eye(2)), base, codes=rng.standard_normal((10, 3)))
    with pytest.raises(InputDataError, match="each of the 2 decoded features"):
        fvh_lt(linear(np.eye(2)), base, total_variance=[1.0])
    with pytest.raises(InputDataError, match="1 that are negative or NaN"):
        fvh_lt(linear(np.eye(2)), base, total_variance=[1.0, np.nan])
    with pytest.raises(InputDataError, match="returned \\(10,\\)"):
        fvh_lt(lambda z: z[:, 0], base)
    with pytest.raises(InputDataError, match="infinity for 1 features"):
        fvh_lt(lambda z: np.c_[z[:, 0], np.full(len(z), -np.inf)], base)
    with pytest.raises(InputDataError, match="one finite mean KL"):
        informative_latents([0.1, np.nan])
    with pytest.raises(InputDataError, match="one finite mean KL"):
        informative_latents([[0.1, 2.0]])
    with pytest.raises(OptionError, match="'threshold', 'gap'"):
        informative_latents([0.1], method="jump")
