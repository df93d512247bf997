import numpy as np
import pytest
from scipy.special import digamma
from sklearn.metrics import mutual_info_score

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics import Separation, lsdi, lsdi_by_cut, lsdi_over_runs


def blocks(*sizes):
    """One latent for each block of features."""
    return np.repeat(np.eye(len(sizes)), sizes, axis=1)


PERFECT = blocks(4, 4, 4)


def index(association, **options):
    return lsdi(association, n_null=0, **options).value


def test_perfect_separation_is_one():
    found = lsdi(PERFECT)
    assert found.value == pytest.approx(1)
    assert (found.explained, found.balance, found.concentration) == pytest.approx((1, 1, 1))
    assert (found.n_informative, found.n_features) == (3, 12)
    assert found.adjusted == pytest.approx(1)


def test_zero_without_information_domination_and_difference():
    nothing = lsdi(PERFECT, informative=np.zeros(3, dtype=bool))
    dominated = np.vstack([np.ones(12), np.zeros((2, 12))])
    alone = lsdi(dominated, informative=[True, False, False])
    equal = lsdi(np.ones((3, 12)))
    for found in (nothing, lsdi(dominated), alone, equal, lsdi(np.zeros((3, 12)))):
        assert found.value == pytest.approx(0, abs=1e-12)
        assert found.adjusted <= 1e-12
    assert (nothing.n_informative, nothing.explained) == (0, 0)
    assert (alone.n_informative, alone.balance, alone.concentration) == (1, 0, 1)
    assert (equal.balance, equal.concentration) == pytest.approx((1, 0))


def test_rows_without_information_do_not_count(rng):
    table = np.vstack([PERFECT, rng.uniform(0, 1, (5, 12))])
    found = lsdi(table, informative=np.arange(8) < 3)
    assert found == lsdi(PERFECT)
    assert index(table) < 0.8


@pytest.mark.parametrize(
    ("table", "options", "expected"),
    [
        (np.vstack([PERFECT, PERFECT[:1]]), {}, 0.792),
        (PERFECT, {"total": 2.0}, 0.500),
        (blocks(10, 1, 1), {}, 0.515),
        (blocks(8, 4), {}, 0.918),
    ],
    ids=["duplicate", "half unexplained", "unequal blocks", "merged"],
)
def test_cases_with_known_values(table, options, expected):
    assert index(table, **options) == pytest.approx(expected, abs=5e-4)


def test_a_low_index_says_which_of_three_causes_it_has():
    unequal = lsdi(blocks(10, 1, 1))
    assert unequal.balance == pytest.approx(0.515, abs=5e-4)
    assert unequal.concentration == pytest.approx(1)
    unexplained = lsdi(PERFECT, total=np.full(12, 2.0))
    assert unexplained.explained == pytest.approx(0.5)
    assert (unexplained.balance, unexplained.concentration) == pytest.approx((1, 1))
    shared = lsdi(np.vstack([PERFECT, PERFECT]))
    assert shared.balance == pytest.approx(1)
    assert shared.concentration == pytest.approx(1 - np.log(2) / np.log(6))


def test_mixing_two_latents_decreases_it():
    found = []
    for angle in np.radians(np.arange(0, 46, 9)):
        mix = np.eye(3)
        mix[:2, :2] = [
            [np.cos(angle) ** 2, np.sin(angle) ** 2],
            [np.sin(angle) ** 2, np.cos(angle) ** 2],
        ]
        found.append(index(mix @ PERFECT))
    np.testing.assert_allclose(found, [1, 0.930, 0.809, 0.691, 0.609, 0.579], atol=5e-4)
    assert (np.diff(found) < 0).all()


def test_a_dominating_latent_gives_zero_continuously():
    found = []
    for d in (0, 0.001, 0.01, 0.1):
        others = d * blocks(4, 4, 4)[:2]
        found.append(index(np.vstack([np.full(12, 1 - d), others])))
    np.testing.assert_allclose(found, [0, 0.001, 0.007, 0.068], atol=6e-4)


def test_symmetries(rng):
    table = rng.exponential(size=(5, 30))
    expected = index(table)
    assert index(table[rng.permutation(5)]) == pytest.approx(expected, abs=1e-12)
    assert index(table[:, rng.permutation(30)]) == pytest.approx(expected, abs=1e-12)
    assert index(table * rng.uniform(1e-3, 1e3, 30)) == pytest.approx(expected, abs=1e-12)
    effects = np.sqrt(table) * rng.choice([-1, 1], (5, 1))  # flipped latents
    assert index(effects**2) == pytest.approx(expected, abs=1e-12)
    assert lsdi(table, seed=3) == lsdi(table, seed=3)
    scaled = lsdi(table * rng.uniform(1e-3, 1e3, 30))
    assert scaled.null == pytest.approx(lsdi(table).null, abs=1e-12)


def test_it_is_the_normalised_mutual_information_of_latent_and_feature(rng):
    counts = rng.integers(0, 9, (4, 10))
    counts[0] += 60 - counts.sum(axis=0)  # features of equal weight, as in a contingency table
    expected = mutual_info_score(None, None, contingency=counts) / np.log(4)
    assert index(counts) == pytest.approx(expected, abs=1e-12)
    weights = rng.integers(1, 5, 10)
    expected = mutual_info_score(None, None, contingency=counts * weights) / np.log(4)
    assert index(counts, weights=weights) == pytest.approx(expected, abs=1e-12)
    assert index(counts, weights=7.5 * weights) == pytest.approx(expected, abs=1e-12)
    repeated = np.repeat(counts, weights, axis=1)
    assert index(repeated) == pytest.approx(expected, abs=1e-12)
    # what is not explained neither counts nor weighs
    parts = rng.integers(1, 4, 10)  # a half or a third of a feature is explained
    joint = counts * weights * 6 // parts  # no remainder
    explained = (weights / parts).sum() / weights.sum()
    expected = explained * mutual_info_score(None, None, contingency=joint) / np.log(4)
    found = index(counts, weights=weights, total=60 * parts)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n_features", "table_value"), [(40, 0.197), (2000, 0.204)])
def test_noise_does_not_give_zero(rng, n_features, table_value):
    n_latent, n_draws = 5, 8000 // n_features * 5 + 20
    draws = [index(rng.exponential(size=(n_latent, n_features))) for _ in range(n_draws)]
    mean, sd = np.mean(draws), np.std(draws)
    # shares are uniform on the simplex, whose mean entropy is psi(K + 1) - psi(2); to first order
    # the balance loses K (K - 1) / K^2 / (K + 1) / (2 p) more
    limit = 1 - (digamma(n_latent + 1) - digamma(2)) / np.log(n_latent)
    loss = (n_latent - 1) / (n_latent + 1) / (2 * n_features) / np.log(n_latent)
    assert mean == pytest.approx(limit - loss, abs=4 * sd / np.sqrt(n_draws) + 2e-4)
    # the values of the table are single matrices: within two standard deviations of one
    assert abs(mean - table_value) < 2 * sd


@pytest.mark.parametrize("permute", ["columns", "rows"])
def test_noise_is_at_its_null(rng, permute):
    found = [lsdi(rng.exponential(size=(5, 200)), permute=permute) for _ in range(20)]
    # one index of 200 features has a standard deviation of about 0.01
    assert np.mean([each.adjusted for each in found]) == pytest.approx(0, abs=0.01)
    assert np.mean([each.value > each.null_95 for each in found]) < 0.3


def test_nulls_of_a_good_code_differ(rng):
    mixed = np.kron([[0.97, 0.01, 0.02], [0.02, 0.97, 0.01], [0.01, 0.02, 0.97]], np.ones(500))
    columns, rows = lsdi(mixed, n_null=20), lsdi(mixed, n_null=20, permute="rows")
    assert columns.value == rows.value > 0.85
    # permuting columns keeps the concentration: nothing of a balanced code is left
    limit = columns.explained * columns.concentration
    assert columns.null == pytest.approx(limit, abs=0.01)
    assert abs(columns.adjusted) < 0.02
    assert rows.null < 0.65
    assert rows.adjusted > 0.6
    with_total = lsdi(mixed, total=1.0, n_null=20, permute="rows")
    assert with_total.null < rows.null, "features that a permutation leaves empty are unexplained"


def test_null_and_adjusted_are_those_of_the_definition(rng):
    table = rng.exponential(size=(4, 30)) ** 3
    found = lsdi(table, n_null=400)
    draws = [index(rng.permuted(table, axis=0)) for _ in range(400)]
    error = 4 * np.std(draws) * np.sqrt(2 / 400)
    assert found.null == pytest.approx(np.mean(draws), abs=error)
    assert found.null_95 == pytest.approx(np.quantile(draws, 0.95), abs=3 * error)
    assert found.adjusted == pytest.approx((found.value - found.null) / (1 - found.null))
    without = lsdi(table, n_null=0)
    assert np.isnan(without.null)
    assert np.isnan(without.adjusted)


def test_columns_of_nan_are_left_out(rng):
    table = rng.exponential(size=(3, 8))
    floored = np.insert(table, 4, np.nan, axis=1)
    weights = rng.uniform(1, 2, 9)
    assert lsdi(floored) == lsdi(table)
    kept = np.delete(weights, 4)
    assert lsdi(floored, weights=weights) == lsdi(table, weights=kept)


def test_cuts_show_where_the_number_of_latents_jumps(rng):
    table = np.vstack([PERFECT, 0.5 * np.ones((2, 12))])
    kl = [8, 8, 7, 0.02, 0.005]
    found = lsdi_by_cut(table, kl)
    assert found.index.tolist() == [0.003, 0.01, 0.03, 0.1]
    assert found["n_informative"].tolist() == [5, 4, 3, 3]
    np.testing.assert_allclose(found.loc[[0.03, 0.1], "value"], 1)
    assert found["value"].is_monotonic_increasing
    row = lsdi(table, informative=np.array(kl) > 0.01)
    assert found.loc[0.01, "value"] == row.value
    assert found.loc[0.01, "adjusted"] == row.adjusted


def test_runs_that_are_not_aligned_lower_the_index_of_the_mean_only():
    aligned = np.stack([PERFECT] * 3)
    rolled = np.stack([np.roll(PERFECT, shift, axis=0) for shift in range(3)])
    everywhere = np.ones((3, 3), dtype=bool)
    good, bad = lsdi_over_runs(aligned, everywhere), lsdi_over_runs(rolled, everywhere)
    np.testing.assert_allclose([*good.per_run, *bad.per_run], 1)
    assert good.of_mean.value == pytest.approx(1)
    assert bad.of_mean.value == pytest.approx(0, abs=1e-12)
    assert (bad.mean, bad.sd) == pytest.approx((1, 0))
    rare = np.concatenate([aligned, np.zeros((3, 1, 12))], axis=1)
    rare[0, 3] = 1  # a fourth latent that one of three runs has
    present = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]], dtype=bool)
    found = lsdi_over_runs(rare, present)
    assert found.of_mean.n_informative == 3
    assert found.of_mean.value == pytest.approx(1)
    assert found.per_run[0] < 0.8
    single = lsdi_over_runs(aligned[:1], everywhere[:1])
    assert single.mean == pytest.approx(1)
    assert np.isnan(single.sd)


def test_two_associations_of_a_model_are_averaged():
    parts = {"explained": 1, "balance": 1, "concentration": 1, "n_informative": 3}
    parts |= {"n_features": 15, "null": 0.2, "null_95": 0.3}
    both = Separation(0.956, **parts).combine(Separation(0.969, **parts))
    assert both == pytest.approx((0.9625, -0.013))


def test_bad_input_is_refused():
    with pytest.raises(InputDataError, match="finite and not negative"):
        lsdi(-PERFECT)
    with pytest.raises(InputDataError, match="finite and not negative"):
        lsdi(np.where(np.eye(3, 12), np.nan, 1))
    with pytest.raises(InputDataError, match="has shape \\(3,\\)"):
        lsdi([1, 2, 3])
    with pytest.raises(InputDataError, match="informative must have 3 entries"):
        lsdi(PERFECT, informative=[True, False])
    with pytest.raises(InputDataError, match="needs a weight"):
        lsdi(PERFECT, weights=np.zeros(12))
    with pytest.raises(InputDataError, match="must not be negative"):
        lsdi(PERFECT, total=-1.0)
    with pytest.raises(OptionError, match="n_null=-1"):
        lsdi(PERFECT, n_null=-1)
    with pytest.raises(OptionError, match="'columns', 'rows'"):
        lsdi(PERFECT, permute="both")
    with pytest.raises(InputDataError, match="\\(n_runs, n_slots\\)"):
        lsdi_over_runs(PERFECT, np.ones((3, 12)))
