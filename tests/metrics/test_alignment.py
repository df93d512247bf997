import numpy as np
import pytest

from scdisent._errors import InputDataError, OptionError, ScDisentWarning
from scdisent.metrics import _alignment as alignment
from scdisent.metrics import fvh_lt, gas, informative_fdr, lsdi_over_runs


def shuffled_runs(rng, *, n_runs=4, n_cells=400, n_latent=5, noise=0.0):
    """Runs that hold the same latents in another order and sign, and what was done to them."""
    truth = rng.standard_normal((n_cells, n_latent))
    orders = [rng.permutation(n_latent) for _ in range(n_runs)]
    signs = [rng.choice([-1, 1], n_latent) for _ in range(n_runs)]
    runs = [
        truth[:, order] * sign + noise * rng.standard_normal(truth.shape)
        for order, sign in zip(orders, signs, strict=True)
    ]
    return runs, orders, signs


def partition(found, *, names=(0, 1)):
    """Slots as sets of (run, latent, sign relative to the first run of the slot)."""
    groups = []
    slots = found.slots.assign(run=np.take(names, found.slots["run"]))
    for _, slot in slots.sort_values("run").groupby("slot"):
        relative = slot["sign"] * slot["sign"].iloc[0]
        groups.append(frozenset(zip(slot["run"], slot["latent"], relative, strict=True)))
    return set(groups)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_planted_order_and_signs_are_recovered(seed, noise):
    rng = np.random.default_rng(seed)
    runs, orders, signs = shuffled_runs(rng, noise=noise)
    found = gas(runs)
    reference = found.reference
    for run in range(4):
        # slot k is latent k of the reference, which is the true latent orders[reference][k]
        expected = np.argsort(orders[run])[orders[reference]]
        assert found.permutations[run].tolist() == expected.tolist()
        relative = signs[run][expected] * signs[reference]
        assert found.signs[run].tolist() == relative.tolist()
    if noise == 0:
        np.testing.assert_allclose(found.similarity, 1)
        for aligned in found.apply(runs):
            np.testing.assert_allclose(aligned, runs[reference])


def test_similarity_is_the_absolute_spearman_correlation(rng):
    from scipy.stats import spearmanr

    (one, other), _, _ = shuffled_runs(rng, n_runs=2, noise=0.4)
    other = np.round(other, 1)  # ties
    found = gas([one, np.exp(other)])  # monotone changes are not seen
    expected = spearmanr(one, other).statistic[:5, 5:]
    assert found.reference == 0
    latents = found.permutations[1]
    np.testing.assert_allclose(found.similarity[1], np.abs(expected[np.arange(5), latents]))
    np.testing.assert_array_equal(found.signs[1], np.sign(expected[np.arange(5), latents]))


@pytest.mark.parametrize("seed", range(3))
def test_aligned_runs_align_to_themselves(seed):
    rng = np.random.default_rng(seed)
    runs, _, _ = shuffled_runs(rng, noise=0.3)
    runs[1][:, 2] = rng.standard_normal(400)  # a latent of its own: one slot more
    first = gas(runs)
    assert first.permutations.shape == (4, 6)
    again = gas(first.apply(runs), informative=first.present)
    assert again.reference == first.reference
    expected = np.where(first.present, np.arange(6), -1)
    np.testing.assert_array_equal(again.permutations, expected)
    np.testing.assert_array_equal(again.signs, first.present)
    np.testing.assert_allclose(again.similarity, first.similarity)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_runs_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    runs, _, _ = shuffled_runs(rng, n_runs=5, noise=0.5)
    for run in (1, 3):
        runs[run][:, :2] = rng.standard_normal((400, 2))
    found = gas(runs)
    order = rng.permutation(5)
    moved = gas([runs[run] for run in order])
    assert order[moved.reference] == found.reference
    back = moved.permutations[np.argsort(order)]
    np.testing.assert_array_equal(back, found.permutations)
    np.testing.assert_array_equal(moved.signs[np.argsort(order)], found.signs)


def test_two_runs_may_be_swapped(rng):
    runs, _, _ = shuffled_runs(rng, n_runs=2, noise=0.3)
    assert partition(gas(runs)) == partition(gas(runs[::-1]), names=(1, 0))


def test_the_reference_is_the_medoid(rng):
    truth = rng.standard_normal((2000, 4))
    noises = [1.0, 0.8, 0.1, 0.9]
    runs = [truth + noise * rng.standard_normal(truth.shape) for noise in noises]
    assert gas(runs).reference == 2
    assert gas(runs[::-1]).reference == 1
    # a run that matches one latent perfectly is no medoid for it
    poor = np.c_[truth[:, 0], rng.standard_normal((2000, 3))]
    assert gas([poor, *runs]).reference == 3
    assert gas([poor[:, :1], *runs]).reference == 3


def test_one_run_is_the_identity(rng):
    codes = rng.standard_normal((50, 4))
    found = gas([codes])
    assert found.reference == 0
    np.testing.assert_array_equal(found.permutations, [np.arange(4)])
    np.testing.assert_array_equal(found.signs, np.ones((1, 4)))
    np.testing.assert_array_equal(found.apply([codes])[0], codes)
    assert np.isnan(found.mean_similarity).all()
    summary = found.aggregate([codes.T], signed=True)
    np.testing.assert_array_equal(summary.mean, codes.T)
    assert np.isnan(summary.sd).all()


def test_latents_without_information_are_never_matched(rng):
    runs, orders, _ = shuffled_runs(rng, n_runs=3)
    masks = [order != 2 for order in orders]  # the third true latent counts as empty everywhere
    found = gas(runs, informative=masks)
    assert found.permutations.shape == (3, 4)
    for run in range(3):
        assert np.argsort(orders[run])[2] not in found.permutations[run]
    # constant codes correlate with nothing: they only open slots of their own
    constant = [np.c_[run, np.ones(400)] for run in runs]
    alone = gas(constant).slots.query("latent == 5")
    assert len(alone) == 3
    assert alone["slot"].nunique() == 3
    nothing = gas(runs, informative=[np.zeros(5, dtype=bool)] * 3)
    assert nothing.permutations.shape == (3, 0)


def test_noise_stays_below_the_threshold(rng):
    runs = [rng.standard_normal((2000, 6)) for _ in range(3)]
    found = gas(runs)
    assert found.permutations.shape == (3, 18)
    np.testing.assert_allclose(found.frequency, 1 / 3)
    assert not found.consensus.any()
    assert "none" in repr(found)


def test_left_over_latents_open_slots_that_later_runs_are_compared_with(rng):
    truth = rng.standard_normal((1000, 5))
    kept = [[0, 1, 2], [2, 1, 0], [1, 3, 0, 2], [3, 4, 0, 1, 2]]
    runs = [truth[:, k] + 0.1 * rng.standard_normal((1000, len(k))) for k in kept]
    found = gas(runs)
    assert found.n_latent == (3, 3, 4, 5)
    of_truth = {}  # true latent -> runs
    for _, rows in found.slots.groupby("slot"):
        (latent,) = {kept[run][k] for run, k in zip(rows["run"], rows["latent"], strict=True)}
        of_truth[latent] = set(rows["run"])
    every = {0, 1, 2, 3}
    assert of_truth == {0: every, 1: every, 2: every, 3: {2, 3}, 4: {3}}
    assert sorted(found.frequency.tolist()) == [0.25, 0.5, 1, 1, 1]
    assert found.consensus.sum() == 4


def test_absent_latents_are_rows_of_zeros(rng):
    truth = rng.standard_normal((500, 3))
    runs = [truth, -truth[:, [1, 0, 2]], truth[:, [2, 0]]]
    found = gas(runs)
    tables = [rng.uniform(1, 2, (n, 7)) for n in (3, 3, 2)]
    variances = found.apply_rows(tables, signed=False)
    effects = found.apply_rows(tables, signed=True)
    slot = found.permutations[0].tolist().index(1)  # the latent that the last run lacks
    assert found.present[:, slot].tolist() == [True, True, False]
    np.testing.assert_array_equal(variances[2, slot], 0)
    np.testing.assert_array_equal(variances[1, slot], tables[1][0])
    np.testing.assert_array_equal(effects, variances * found.signs[:, :, None])
    assert not found.apply(runs)[2][:, slot].any()
    summary = found.aggregate(tables, signed=False)
    np.testing.assert_allclose(summary.mean[slot], (tables[0][1] + tables[1][0]) / 3)
    np.testing.assert_allclose(summary.sd[slot], variances[:, slot].std(axis=0, ddof=1))
    assert summary.frequency[slot] == pytest.approx(2 / 3)
    assert summary.consensus.all()
    selected = [table > 1.5 for table in tables]
    share = found.aggregate(selected, signed=False).mean
    np.testing.assert_allclose(share, (variances > 1.5).mean(axis=0))


def test_aggregates_recover_signed_loadings_that_a_plain_mean_loses(rng):
    loadings = rng.standard_normal((5, 20))
    runs, orders, signs = shuffled_runs(rng, n_runs=6, noise=0.1)
    tables = [
        loadings[order] * sign[:, None] + 0.1 * rng.standard_normal((5, 20))
        for order, sign in zip(orders, signs, strict=True)
    ]
    found = gas(runs)
    summary = found.aggregate(tables, signed=True)
    expected = loadings[orders[found.reference]] * signs[found.reference][:, None]
    np.testing.assert_allclose(summary.mean, expected, atol=5 * 0.1 / np.sqrt(6))
    assert summary.sd.mean() == pytest.approx(0.1, rel=0.1)
    assert (summary.similarity > 0.98).all()


def test_greedy_loses_on_an_adversarial_matrix_and_says_so(rng):
    matrix = np.array([[0.9, 0.8], [0.8, 0.1]])
    assert alignment._greedy(matrix, 0.0) == [(0, 0), (1, 1)]
    assert alignment._greedy(matrix, 0.5) == [(0, 0)]
    # unit rows with exactly these cosines
    one = np.linalg.cholesky([[1, 0.6], [0.6, 1]])
    other = np.linalg.solve(one, matrix).T  # one @ other.T is the matrix
    rest = np.diag(np.sqrt(1 - (other**2).sum(axis=1)))
    profiles = [np.c_[one, np.zeros((2, 2))], np.c_[other, rest]]
    np.testing.assert_allclose(profiles[0] @ profiles[1].T, matrix)
    codes = rng.standard_normal((20, 2))
    with pytest.warns(ScDisentWarning, match="best assignment") as caught:
        found = gas([codes, codes], similarity="fvh_cosine", profiles=profiles)
    assert caught[0].filename == __file__
    np.testing.assert_allclose(found.greedy_similarity, [2, 1.0])
    np.testing.assert_allclose(found.optimal_similarity, [2, 1.6])


@pytest.mark.parametrize("seed", range(3))
def test_greedy_and_optimal_agree_on_runs_that_match(seed):
    rng = np.random.default_rng(seed)
    runs, _, _ = shuffled_runs(rng, noise=0.4)
    found = gas(runs)
    np.testing.assert_allclose(found.greedy_similarity, found.optimal_similarity)
    np.testing.assert_allclose(found.similarity.sum(axis=1), found.greedy_similarity)


def test_ties_go_to_lower_indices():
    equal = np.full((3, 3), 0.7)
    assert alignment._greedy(equal, 0.5) == [(0, 0), (1, 1), (2, 2)]
    assert alignment._greedy(equal, 0.8) == []
    assert alignment._greedy(np.empty((2, 0)), 0.0) == []


def test_ties_are_not_broken_by_rounding():
    columns = [np.eye(1), np.array([[0.7 - 1e-14, 0.7]])]
    similarities = alignment._Similarities([columns], columns)
    size, _ = similarities.between([(0, 0)], [(1, 0), (1, 1)])
    assert alignment._greedy(size, 0.5) == [(0, 0)]


def test_a_rotation_is_not_undone_and_shows_in_the_similarity(rng):
    truth = rng.standard_normal((5000, 3))
    angle = np.pi / 4
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    found = gas([truth, truth @ turn])
    slots = dict(zip(found.permutations[0].tolist(), found.similarity[1], strict=True))
    # Spearman correlation of normals: 6 / pi * arcsin(r / 2)
    expected = 6 / np.pi * np.arcsin(np.cos(angle) / 2)
    assert slots[2] == pytest.approx(1)
    assert [slots[0], slots[1]] == pytest.approx([expected] * 2, abs=0.03)


def fvh_runs(rng, n_runs=3):
    """Linear decoders that share loadings, in another order and sign, on cells of their own."""
    loadings = rng.standard_normal((4, 30))
    _, orders, signs = shuffled_runs(rng, n_runs=n_runs, n_latent=4)
    codes = [rng.standard_normal((50 + 10 * run, 4)) for run in range(n_runs)]
    tables = [
        fvh_lt(lambda z, a=loadings[o] * s[:, None]: z @ a, c, total_variance=np.ones(30))
        for o, s, c in zip(orders, signs, codes, strict=True)
    ]
    return codes, tables, orders, signs


def test_profiles_align_runs_that_share_no_cells(rng):
    codes, tables, orders, signs = fvh_runs(rng)
    found = gas(
        codes,
        similarity="fvh_cosine",
        profiles=[table.values for table in tables],
        directions=[table.signed for table in tables],
    )
    reference = found.reference
    for run in range(3):
        expected = np.argsort(orders[run])[orders[reference]]
        assert found.permutations[run].tolist() == expected.tolist()
        assert found.signs[run].tolist() == (signs[run][expected] * signs[reference]).tolist()
    np.testing.assert_allclose(found.similarity, 1)
    gone = [np.where(np.arange(30) == 3, np.nan, table.values) for table in tables]
    again = gas(codes, similarity="fvh_cosine", profiles=gone, directions=gone)
    np.testing.assert_array_equal(again.permutations, found.permutations)


def test_the_mean_of_both_similarities(rng):
    runs, _, _ = shuffled_runs(rng, n_runs=2, noise=0.3)
    profiles = [rng.uniform(size=(5, 12)) for _ in runs]
    with np.errstate(all="raise"):
        found = gas(runs, similarity="mean", profiles=profiles, threshold=0.0)
    (one, other), latents = profiles, found.permutations[1]
    one, other = one[found.permutations[0]], other[latents]
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    ranks = [alignment._standardised_ranks([run])[0] for run in runs]
    spearman = np.abs((ranks[0].T @ ranks[1])[found.permutations[0], latents])
    expected = ((one * other).sum(axis=1) / norms + spearman) / 2
    np.testing.assert_allclose(found.similarity[1], expected)


@pytest.mark.parametrize("seed", range(3))
def test_from_decoders_to_the_index_of_separated_runs(seed):
    rng = np.random.default_rng(seed)
    loadings = np.zeros((5, 13))  # three latents with four features, two empty, one inert feature
    loadings[:3, :12] = np.repeat(np.eye(3), 4, axis=1) * rng.uniform(1, 2, 12)
    runs, orders, signs = shuffled_runs(rng, noise=0.1)
    tables = [
        fvh_lt(lambda z, a=loadings[o] * s[:, None]: z @ a, run[:64])
        for run, o, s in zip(runs, orders, signs, strict=True)
    ]
    found = gas(runs, informative=[table.row_maximum > 1e-6 for table in tables])
    assert found.permutations.shape == (4, 3)
    values = found.apply_rows([table.values for table in tables], signed=False)
    index = lsdi_over_runs(values, found.present)
    assert index.of_mean.n_features == 12
    assert index.of_mean.value == pytest.approx(1)
    np.testing.assert_allclose(index.per_run, 1)
    mixed = np.stack([np.roll(run, shift, axis=0) for shift, run in enumerate(values)])
    assert lsdi_over_runs(mixed, found.present).of_mean.value < 0.2
    effects = found.apply_rows([table.signed for table in tables], signed=True)
    np.testing.assert_allclose(effects, effects[[0, 0, 0, 0]])


def test_fdr_counts_latents_without_a_factor_of_their_own(rng):
    factors = rng.standard_normal((2000, 3))
    noise = rng.standard_normal((2000, 2))
    perfect = np.exp(-factors[:, [2, 0, 1]])
    assert informative_fdr(perfect, factors) == 0
    assert informative_fdr(np.c_[perfect, noise], factors) == pytest.approx(2 / 5)
    assert informative_fdr(np.c_[perfect, factors[:, 0]], factors) == pytest.approx(1 / 4)
    assert informative_fdr(noise, factors) == 1
    mask = [True, True, True, False, False]
    assert informative_fdr(np.c_[perfect, noise], factors, informative=mask) == 0
    assert informative_fdr(noise, factors, informative=[False, False]) == 0


def test_bad_input_is_refused(rng):
    codes = rng.standard_normal((30, 3))
    with pytest.raises(InputDataError, match="have \\[30, 20\\] cells"):
        gas([codes, codes[:20]])
    with pytest.raises(InputDataError, match="codes of 1 cells are NaN"):
        gas([codes, np.where(np.arange(30)[:, None] == 4, np.nan, codes)])
    with pytest.raises(InputDataError, match="one mask for each run"):
        gas([codes, codes], informative=[np.ones(3)])
    with pytest.raises(InputDataError, match="profiles must be"):
        gas([codes], similarity="mean", profiles=[np.ones((2, 5))])
    with pytest.raises(OptionError, match="Pass them as profiles="):
        gas([codes], similarity="fvh_cosine")
    with pytest.raises(OptionError, match="'spearman', 'fvh_cosine', 'mean'"):
        gas([codes], similarity="pearson")
    with pytest.raises(OptionError, match="found 0"):
        gas([])
    with pytest.raises(OptionError, match="threshold in"):
        gas([codes], threshold=1.5)
    found = gas([codes, codes])
    with pytest.raises(InputDataError, match="same order"):
        found.apply([codes])
    with pytest.raises(InputDataError, match="same order"):
        found.apply_rows([np.ones((3, 4)), np.ones((2, 4))], signed=False)
