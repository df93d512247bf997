"""Codes that are planted: the truth itself, turned, mixed, copied, silenced, or noise."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics import (
    METRICS,
    beta_vae_score,
    dci,
    explicitness,
    factor_vae_score,
    irs,
    mcc,
    mig,
    modularity,
    sap,
    udr,
)
from scdisent.metrics._dci import concentration
from scdisent.metrics._factors import gap, in_bins, information, read

SCORES = {
    "mcc": mcc,
    "mig": mig,
    "modularity": modularity,
    "sap": sap,
    "irs": irs,
    "factor_vae_score": factor_vae_score,
    "beta_vae_score": beta_vae_score,
    "disentanglement": lambda z, y: dci(z, y, predictor="lasso").disentanglement,
    "completeness": lambda z, y: dci(z, y, predictor="lasso").completeness,
}


def turned(values, degrees):
    """Rotate the first two columns into each other."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.eye(values.shape[1])
    rotation[:2, :2] = [[c, -s], [s, c]]
    return values @ rotation


@pytest.fixture
def factors(rng):
    return rng.uniform(-1, 1, (1500, 3))


# --- identity, symmetries, order -------------------------------------------------------------

PERFECT = {  # smallest value of a perfect code; what is lost lies in the docstrings
    "mcc": 1 - 1e-9,
    "mig": 0.94,  # finite cells for 20 x 20 bins
    "modularity": 0.99,
    "sap": 0.99,
    "irs": 0.89,  # the factor varies inside ten bins
    "factor_vae_score": 1,
    "beta_vae_score": 1,
    "disentanglement": 0.98,
    "completeness": 0.98,
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", SCORES)
def test_a_perfect_code_is_best(name, seed):
    truth = np.random.default_rng(seed).uniform(-1, 1, (1500, 3))
    assert PERFECT[name] <= SCORES[name](truth, truth) <= 1 + 1e-9


@pytest.mark.parametrize("name", SCORES)
def test_order_sign_scale_and_origin_of_codes_do_not_count(rng, factors, name):
    codes = turned(factors, 20) + 0.1 * rng.standard_normal(factors.shape)
    changed = codes[:, [2, 0, 1]] * [-1, 1, -1] * 7 + [3, 0, -40]
    tolerance = 1e-9 if name in ("mcc", "irs") else 0.02  # bins and fits round differently
    expected = SCORES[name](codes, factors)
    assert SCORES[name](changed, factors) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"irs"}))
def test_each_code_may_have_its_own_scale(rng, factors, name):
    codes = turned(factors, 20) + 0.1 * rng.standard_normal(factors.shape)
    expected = SCORES[name](codes, factors)
    assert SCORES[name](codes * [1, 100, 0.01], factors) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"beta_vae_score", "factor_vae_score"}))
def test_values_fall_while_two_factors_are_turned_into_each_other(factors, name):
    found = [SCORES[name](turned(factors, angle), factors) for angle in (0, 15, 30, 45)]
    assert (np.diff(found) < 0).all(), found
    assert found[-1] < 0.85 * found[0]


@pytest.mark.parametrize("name", ["beta_vae_score", "factor_vae_score"])
def test_at_45_degrees_two_of_three_factors_can_only_be_guessed(factors, name):
    # right for the third factor, one half for the other two
    assert SCORES[name](turned(factors, 45), factors) == pytest.approx(2 / 3, abs=0.08)


def test_at_45_degrees_the_gaps_of_a_plane_close(factors):
    plane = factors[:, :2]
    codes = turned(plane, 45)
    assert mig(codes, plane) < 0.01
    assert sap(codes, plane) < 0.05
    result = dci(codes, plane, predictor="lasso")
    assert max(result.disentanglement, result.completeness) < 0.01
    assert result.informativeness > 0.99, "turned, but nothing is lost"
    assert explicitness(codes, plane) > 0.99
    assert mcc(codes, plane) == pytest.approx(np.sqrt(0.5), abs=0.03)


@pytest.mark.parametrize("angle", [0, 20, 45])
def test_mcc_of_a_turned_code_is_the_cosine(factors, angle):
    plane = factors[:, :2] / factors[:, :2].std(axis=0)
    assert mcc(turned(plane, angle), plane) == pytest.approx(np.cos(np.radians(angle)), abs=0.03)


# --- noise, constants, copies ----------------------------------------------------------------

CHANCE = {"mcc": 0.1, "mig": 0.02, "sap": 0.02, "factor_vae_score": 0.45, "beta_vae_score": 0.45}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CHANCE)
def test_noise_stays_at_chance(name, seed):
    codes, truth = np.random.default_rng(seed).standard_normal((2, 1500, 3))
    assert SCORES[name](codes, truth) < CHANCE[name]
    assert explicitness(codes, truth) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"beta_vae_score"}))
def test_constant_codes_give_zero(factors, name):
    assert SCORES[name](np.full((1500, 2), 3.0), factors) == 0


def test_constant_codes_are_no_better_than_guessing(factors):
    assert beta_vae_score(np.ones((1500, 2)), factors) == pytest.approx(1 / 3, abs=0.01)
    assert explicitness(np.ones((1500, 2)), factors) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["irs", "factor_vae_score", "disentanglement"])
def test_dead_latents_next_to_good_ones_do_not_count(factors, name):
    codes = np.c_[factors, np.zeros((1500, 2))]
    expected = SCORES[name](factors, factors)
    assert SCORES[name](codes, factors) == pytest.approx(expected, abs=0.01)


def test_dead_latents_dilute_modularity_by_their_number(factors):
    codes = np.c_[factors, np.zeros((1500, 3))]
    assert modularity(codes, factors) == pytest.approx(modularity(factors, factors) / 2)


def test_a_copied_latent_closes_the_gap_of_its_factor_only(factors):
    copied = np.c_[factors, factors[:, 0]]
    assert mig(copied, factors) == pytest.approx(mig(factors, factors) * 2 / 3, abs=0.01)
    assert sap(copied, factors) == pytest.approx(2 / 3, abs=0.01)
    assert modularity(copied, factors) > 0.99
    result = dci(copied, factors)
    assert result.disentanglement > 0.98, "each code is still about one factor"
    assert result.completeness < 0.95, "but one factor needs two codes"
    assert mcc(copied, factors) == pytest.approx(1)


def test_a_factor_without_a_latent_counts_as_zero(factors):
    assert mcc(factors[:, :1], factors) == pytest.approx(1 / 3)
    assert mig(factors[:, :1], factors[:, :1]) > 0.94, "one latent competes with nothing"


def test_noise_on_codes_lowers_informativeness_as_its_share_of_variance(rng, factors):
    codes = factors + factors.std() * rng.standard_normal(factors.shape)  # half signal
    result = dci(codes, factors, predictor="lasso")
    np.testing.assert_allclose(result.by_factor, 0.5, atol=0.08)
    assert mcc(codes, factors) == pytest.approx(np.sqrt(0.5), abs=0.03)


# --- formulas against a second way -----------------------------------------------------------


def information_by_hand(z, y):
    """Sum p log(p / (p_z p_y)) over all pairs of values, and nothing else."""
    total = 0.0
    for a in set(z.tolist()):
        for b in set(y.tolist()):
            joint = np.mean((z == a) & (y == b))
            if joint > 0:
                total += joint * np.log(joint / (np.mean(z == a) * np.mean(y == b)))
    return total


def test_mutual_information_is_the_sum_over_the_table(rng):
    y = rng.integers(0, 3, (60, 2))
    z = np.c_[(y[:, 0] + rng.integers(0, 2, 60)) % 3, rng.integers(0, 4, 60), y[:, 1]]
    expected = [[information_by_hand(a, b) for b in y.T] for a in z.T]
    np.testing.assert_allclose(information(z, y), expected, atol=1e-12)
    entropy = stats.entropy(np.bincount(y[:, 1]))
    assert information(z, y)[2, 1] == pytest.approx(entropy)


def test_mig_and_modularity_follow_from_the_informations(rng):
    y = rng.integers(0, 3, (200, 2))
    z = np.c_[(y[:, 0] + rng.integers(0, 2, 200)) % 3, y[:, 1] + 3 * rng.integers(0, 2, 200)]
    z = np.c_[z, rng.integers(0, 2, 200)].astype(float)
    info = np.array([[information_by_hand(a, b) for b in y.T] for a in z.T])
    gaps = [(sorted(column)[-1] - sorted(column)[-2]) for column in info.T]
    entropies = [stats.entropy(np.bincount(column)) for column in y.T]
    assert mig(z, y) == pytest.approx(np.mean(np.divide(gaps, entropies)))
    two = [1 - min(row) ** 2 / max(row) ** 2 for row in info]
    assert modularity(z, y) == pytest.approx(np.mean(two))


def test_bins_of_equal_width_are_those_of_a_histogram(rng):
    values = rng.standard_normal((500, 2))
    binned = in_bins(values, n_bins=20)
    for found, column in zip(binned.T, values.T, strict=True):
        np.testing.assert_array_equal(np.bincount(found, minlength=20), np.histogram(column, 20)[0])
    even = in_bins(values, n_bins=10, equal="count")
    assert set(np.bincount(even[:, 0])) == {50}


def test_gap_is_best_minus_second():
    scores = np.array([[0.2, 0.9], [0.5, 0.1], [0.1, 0.3]])
    np.testing.assert_allclose(gap(scores), [0.3, 0.6])
    np.testing.assert_allclose(gap(scores[:1]), [0.2, 0.9])


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        (np.eye(3), 1),
        (np.ones((4, 3)), 0),
        (np.zeros((2, 2)), 0),
        ([[1, 0], [1, 1]], 1 / 3),  # masses 1 and 2, the second row undecided
        ([[3, 1]], 1 - stats.entropy([0.75, 0.25], base=2)),
    ],
)
def test_concentration_in_closed_form(importance, expected):
    assert concentration(np.array(importance, dtype=float)) == pytest.approx(expected, abs=1e-12)


def test_dci_scores_are_the_concentrations_of_its_importances(rng, factors):
    codes = turned(factors, 30) + 0.3 * rng.standard_normal(factors.shape)
    result = dci(codes, factors, predictor="lasso")
    share = result.importance / result.importance.sum(axis=1, keepdims=True)
    mass = result.importance.sum(axis=1) / result.importance.sum()
    by_hand = mass @ [1 - stats.entropy(row, base=3) for row in share]
    assert result.disentanglement == pytest.approx(by_hand)
    assert result.informativeness == pytest.approx(result.by_factor.mean())


def test_irs_of_a_discrete_world_is_the_formula_by_hand(rng):
    y = rng.integers(0, 3, (400, 2))
    z = np.c_[y[:, 0] + 0.1 * rng.uniform(-1, 1, 400), rng.standard_normal(400)]
    largest = np.abs(z - z.mean(axis=0)).max(axis=0)
    best = []
    for k in range(2):
        spreads = []
        for f in range(2):
            inside = [z[y[:, f] == v, k] for v in range(3)]
            spreads.append(np.mean([np.quantile(abs(x - x.mean()), 0.99) for x in inside]))
        best.append(1 - min(spreads) / largest[k])
    assert irs(z, y) == pytest.approx(np.average(best, weights=largest))


def test_irs_of_a_uniform_factor_loses_the_width_of_a_bin(rng):
    truth = rng.uniform(-1, 1, (20_000, 2))
    for n_bins in (5, 10, 20):
        assert irs(truth, truth, n_bins=n_bins) == pytest.approx(1 - 0.98 / n_bins, abs=0.01)


# --- chance ----------------------------------------------------------------------------------


def test_the_floor_of_mig_takes_out_what_few_cells_add():
    plain, adjusted = [], []
    for seed in range(8):
        codes, truth = np.random.default_rng(seed).standard_normal((2, 60, 4))
        plain.append(mig(codes, truth))
        adjusted.append(mig(codes, truth, n_permutations=20, seed=seed))
    assert min(plain) > 0, "biased upwards"
    assert abs(np.mean(adjusted)) < 0.3 * np.mean(plain)


def test_the_floor_of_mig_leaves_a_perfect_code_on_top(factors):
    known = np.digitize(factors, [-0.5, 0, 0.5])
    assert mig(known, known) == pytest.approx(1, abs=0.02)
    adjusted = mig(known, known, n_permutations=5)
    assert adjusted == pytest.approx(mig(known, known), abs=0.005)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_floor_of_dci_is_where_noise_lies(seed):
    codes, truth = np.random.default_rng(seed).standard_normal((2, 150, 3))
    result = dci(codes, truth, n_permutations=2, seed=seed)
    assert 0.005 < result.floor_disentanglement < 0.15, "importances of noise are uneven"
    assert result.disentanglement == pytest.approx(result.floor_disentanglement, abs=0.06)
    assert result.completeness == pytest.approx(result.floor_completeness, abs=0.06)
    assert result.informativeness < 0.1


def test_the_floor_of_dci_warns_that_stray_coefficients_of_the_lasso_look_disentangled():
    codes, truth = np.random.default_rng(0).standard_normal((2, 150, 3))
    noise = dci(codes, truth, predictor="lasso", n_permutations=6)
    assert noise.floor_disentanglement > 0.2
    assert noise.informativeness < 0.1
    assert np.isnan(dci(codes, truth, predictor="lasso").floor_disentanglement)
    known = dci(truth, truth, n_permutations=2)
    assert known.disentanglement > 0.98 > 0.3 > known.floor_disentanglement


def test_results_depend_on_the_seed_only(rng, factors):
    codes = factors + rng.standard_normal(factors.shape)
    for metric in (factor_vae_score, beta_vae_score, sap):
        assert metric(codes, factors, seed=3) == metric(codes, factors, seed=3)
    one, two = (dci(codes, factors, predictor="lasso", seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.importance, two.importance)


# --- categorical factors ---------------------------------------------------------------------


@pytest.fixture
def types(rng):
    """Three unordered levels of text, and a number."""
    kind = np.array(["B", "NK", "T"])[rng.permutation(np.arange(1200) % 3)]
    return pd.DataFrame({"cell_type": kind, "size": rng.uniform(-1, 1, 1200)})


def test_categorical_and_continuous_factors_are_scored_together(rng, types):
    codes = np.c_[types["cell_type"].map({"B": 0, "NK": 1, "T": 2}), types["size"]]
    codes = codes + 1e-3 * rng.standard_normal(codes.shape)
    assert mig(codes, types) > 0.94
    assert modularity(codes, types) > 0.99
    assert explicitness(codes, types) > 0.99
    assert irs(codes, types) > 0.9
    assert factor_vae_score(codes, types) == 1
    assert beta_vae_score(codes, types) == 1
    result = dci(codes, types)
    assert min(result.disentanglement, result.completeness, *result.by_factor) > 0.97


def test_boosting_sees_a_code_that_is_not_monotone_and_the_lasso_does_not(rng):
    truth = rng.uniform(-1, 1, (1200, 2))
    codes = np.abs(truth[:, ::-1])
    trees, lines = (dci(codes, truth**2, predictor=p) for p in ("boosting", "lasso"))
    assert trees.disentanglement > 0.98
    assert lines.disentanglement > 0.9
    folded = dci(truth, truth**2, predictor="lasso")
    assert folded.informativeness < 0.1
    assert dci(truth, truth**2).informativeness > 0.97


def test_sap_of_two_levels_is_one_minus_chance(rng):
    labels = rng.integers(0, 2, (800, 2))
    assert sap(labels + 0.01 * rng.standard_normal((800, 2)), labels) == pytest.approx(
        0.5, abs=0.05
    )


def test_names_of_levels_and_their_order_do_not_count(types):
    codes = np.c_[types["size"], np.arange(1200.0) % 7]
    renamed = types.assign(cell_type=types["cell_type"].map({"B": 2, "NK": 0, "T": 1}))
    for metric in (mig, modularity, irs):
        assert metric(codes, renamed) == pytest.approx(metric(codes, types))


def test_what_is_categorical_is_detected_and_can_be_stated(rng):
    table = pd.DataFrame(
        {
            "text": np.array(["a", "b", "c"])[np.arange(300) % 3],
            "flag": np.arange(300) % 2 == 0,
            "few": np.arange(300) % 6 * 0.1,
            "many": np.arange(300) % 40,
            "real": rng.standard_normal(300),
        }
    )
    codes = rng.standard_normal((300, 2))
    _, found = read(codes, table, discrete=None)
    assert [factor.discrete for factor in found] == [True, True, True, False, False]
    _, found = read(codes, table, discrete=[True, False, False, True, False])
    assert [factor.discrete for factor in found] == [True, False, False, True, False]
    _, found = read(codes, table.drop(columns="text"), discrete=False)
    assert not any(factor.discrete for factor in found)
    _, found = read(codes, table.to_numpy(), discrete=None)  # an array of objects
    assert [factor.discrete for factor in found] == [True, True, True, False, False]


def test_mcc_takes_binary_text_and_refuses_unordered_levels(rng, types):
    codes = np.c_[np.arange(1200) % 2, types["size"]].astype(float)
    table = types.assign(cell_type=np.array(["no", "yes"])[np.arange(1200) % 2])
    assert mcc(codes, table) == pytest.approx(1)
    with pytest.raises(InputDataError, match=r"\['cell_type'\] are text"):
        mcc(codes, types)


def test_spearman_forgives_a_monotone_change_and_pearson_does_not(factors):
    assert mcc(np.exp(6 * factors), factors, method="spearman") == pytest.approx(1)
    assert mcc(np.exp(6 * factors), factors) < 0.8


# --- agreement of runs -----------------------------------------------------------------------


def grid(n_values=9, n_latent=3):
    """A full factorial, whose columns have rank correlation zero exactly."""
    axis = np.linspace(-1, 1, n_values)
    return np.stack(np.meshgrid(*[axis] * n_latent), axis=-1).reshape(-1, n_latent)


def test_udr_of_permuted_and_flipped_runs_is_one():
    codes = grid()
    runs = [codes, codes[:, [1, 2, 0]] * [1, -1, 1], np.sinh(3 * codes[:, ::-1]) * -2]
    result = udr(runs)
    np.testing.assert_allclose(result.scores, 1)
    assert np.isnan(np.diag(result.pairwise)).all()
    assert udr(runs[:2], method="lasso").scores == pytest.approx(0.9), "1 minus the penalty"


@pytest.mark.parametrize("method", ["spearman", "lasso"])
def test_udr_of_independent_runs_is_near_its_floor(rng, method):
    result = udr(list(rng.standard_normal((4, 2000, 5))), method=method)
    assert result.scores.max() < 0.05


@pytest.mark.parametrize("method", ["spearman", "lasso"])
def test_udr_falls_with_rotation_and_ranks_the_odd_run_last(rng, method):
    codes = rng.uniform(-1, 1, (1500, 3))
    pairs = [udr([codes, turned(codes, a)], method=method).scores[0] for a in (0, 15, 30, 45)]
    assert (np.diff(pairs) < 0).all(), pairs
    result = udr([codes, -codes, turned(codes, 45), codes[:, ::-1]], method=method)
    assert result.scores.argmin() == 2
    assert result.best != 2


def test_udr_of_turned_codes_has_a_closed_form():
    codes = np.round(grid(n_values=41, n_latent=2) * 20)  # whole numbers: turning keeps ties
    half_turned = codes @ [[1, 1], [1, -1]]
    found = udr([codes, half_turned]).pairwise[0, 1]
    r = stats.spearmanr(codes[:, 0], half_turned[:, 0]).statistic
    assert found == pytest.approx(r / 2)  # r^2 / 2r in every row and column


@pytest.mark.parametrize("method", ["spearman", "lasso"])
def test_udr_ignores_dead_latents(rng, method):
    codes = rng.uniform(-1, 1, (1000, 3))
    alone = udr([codes, -codes], method=method)
    noisy = [np.c_[run, 1e-3 * rng.standard_normal((1000, 2))] for run in (codes, -codes)]
    kl = [np.array([5, 4, 3, 0.01, 0.001])] * 2
    result = udr(noisy, kl=kl, method=method)
    np.testing.assert_allclose(result.pairwise, alone.pairwise)
    assert result.n_informative == (3, 3)
    assert udr(noisy, method=method).scores.max() < alone.scores.min() - 0.1
    constant = udr([np.c_[codes, np.ones(1000)], -codes], method=method)
    np.testing.assert_allclose(constant.pairwise, alone.pairwise)


def test_udr_is_zero_for_a_run_without_information(rng):
    codes = rng.standard_normal((300, 2))
    result = udr([codes, codes, codes], kl=[[1, 1], [1, 1], [0, 0.01]])
    assert result.scores[2] == 0
    assert result.pairwise[0, 1] > 0.9


# --- bad input -------------------------------------------------------------------------------


def test_bad_input_is_refused(rng, factors):
    codes = rng.standard_normal((1500, 2))
    with pytest.raises(InputDataError, match="one row for each of the 1500 cells"):
        mig(codes, factors[:9])
    with pytest.raises(InputDataError, match="Reshape a single factor"):
        mcc(codes, factors[:, 0])
    with pytest.raises(InputDataError, match="same value in all cells"):
        mig(codes, np.ones((1500, 1)))
    with pytest.raises(InputDataError, match="factor '1' is missing for 1 cells"):
        mig(codes, np.where(factors == factors[3, 1], np.nan, factors))
    with pytest.raises(InputDataError, match="needs at least 2 of them"):
        modularity(codes, factors[:, :1])
    with pytest.raises(InputDataError, match="codes have 1 column"):
        dci(codes[:, :1], factors)
    rare = np.r_[np.zeros(1497), np.ones(3)][:, None]
    with pytest.raises(InputDataError, match="A level of factor '0' has 3 cells"):
        sap(codes, rare)
    with pytest.raises(InputDataError, match="1 levels of at least 20 cells"):
        irs(codes, rare)
    with pytest.raises(OptionError, match="2 entries for 3 factors"):
        mig(codes, factors, discrete=[True, False])
    with pytest.raises(OptionError, match="holds no numbers"):
        mig(codes, np.array(["a", "b", "c"])[np.arange(1500) % 3][:, None], discrete=False)
    for call, match in (
        (lambda: mcc(codes, factors, method="kendall"), "spearman"),
        (lambda: dci(codes, factors, predictor="forest"), "boosting"),
        (lambda: mig(codes, factors, n_bins=1), "at least 2"),
        (lambda: irs(codes, factors, quantile=0), "quantile"),
        (lambda: udr([codes, codes], method="pearson"), "lasso"),
    ):
        with pytest.raises(OptionError, match=match):
            call()


def test_runs_that_can_not_be_compared_are_refused(rng):
    codes = rng.standard_normal((30, 2))
    with pytest.raises(InputDataError, match="at least two runs"):
        udr([codes])
    with pytest.raises(InputDataError, match="same cells"):
        udr([codes, codes[:20]])
    for kl in ([[1, 1]], [[1, 1], [1]], [[1, 1], [1, np.nan]]):
        with pytest.raises(InputDataError, match="kl must hold"):
            udr([codes, codes], kl=kl)


def test_each_metric_has_its_row():
    names = {"mcc", "mig", "modularity", "explicitness", "sap", "dci", "irs", "udr"}
    assert names | {"factor_vae_score", "beta_vae_score"} <= set(METRICS)
