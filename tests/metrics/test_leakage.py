import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics import composition_baseline, leakage
from scdisent.metrics._attackers import HeldOut
from scdisent.metrics._scores import area_under_roc, permuted, resampled, score

QUICK = {"n_permutations": 60, "n_bootstrap": 40}
NOT_MLP = ("logistic", "knn", "boosting")


def halves(rng, n_cells):
    return rng.permutation(np.arange(n_cells) % 2)


def xor(rng, n_cells, condition):
    """Neither dimension knows the condition, their signs together do."""
    codes = rng.standard_normal((n_cells, 4))
    codes[:, 1] = np.abs(codes[:, 1]) * np.sign(codes[:, 0]) * (2 * condition - 1)
    return codes + 0.1 * rng.standard_normal(codes.shape)


# --- what must not be found -------------------------------------------------------------------


def test_noise_is_at_chance_for_all_attackers(rng):
    condition = halves(rng, 1200)
    result = leakage(rng.standard_normal((1200, 6)), condition, **QUICK)
    assert abs(result.auroc - 0.5) < 0.05
    assert abs(result.balanced_accuracy - 0.5) < 0.05
    assert result.bits < 0.02
    assert result.null.loc["auroc", "p_value"] > 0.02
    assert 0.5 < result.null.loc["auroc", "mean"] < result.null.loc["auroc", "upper_95"] < 0.56


@pytest.mark.parametrize("donors", [False, True])
def test_p_values_of_noise_are_spread_and_seldom_small(donors):
    p_values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        condition, groups = halves(rng, 300), rng.integers(0, 8, 300)
        codes = rng.standard_normal((300, 4)) + rng.standard_normal((8, 4))[groups]
        result = leakage(
            codes,
            condition,
            groups=groups if donors else None,
            attackers=("logistic", "knn"),
            seed=seed,
            n_permutations=99,
            n_bootstrap=1,
        )
        p_values.append(result.null["p_value"])
    p_values = np.array(p_values)  # (60, 3)
    assert (p_values <= 0.05).mean(axis=0).max() < 0.11  # 3 or fewer expected, 7 is unlikely
    np.testing.assert_allclose(p_values.mean(axis=0), 0.5, atol=0.15)


def test_widened_null_is_as_wide_as_refitting_on_shuffled_labels(rng):
    codes, condition = rng.standard_normal((240, 3)), halves(rng, 240)
    quick = {"attackers": ("logistic",), "n_permutations": 300, "n_bootstrap": 1}
    refitted = [leakage(codes, rng.permutation(condition), **quick).auroc for _ in range(150)]
    result = leakage(codes, condition, **quick)
    upper = result.null.loc["auroc", "upper_95"]
    assert upper == pytest.approx(np.quantile(refitted, 0.95), abs=0.02)
    without = 0.5 + (upper - 0.5) / np.sqrt(2)  # what leaving out the widening would claim
    assert (np.array(refitted) > without).mean() > 0.07


def test_imbalanced_noise_is_chance_and_not_ninety_percent(rng):
    condition = np.where(rng.random(1000) < 0.9, "common", "rare")
    codes = rng.standard_normal((1000, 5))
    result = leakage(codes, condition, attackers=NOT_MLP, **QUICK)
    assert abs(result.balanced_accuracy - 0.5) < 0.06
    assert abs(result.auroc - 0.5) < 0.07
    assert result.bits < 0.01


def test_donor_signature_counts_only_if_donors_are_mixed(rng):
    donor = rng.integers(0, 8, 800)
    condition = donor % 2  # each donor has one condition
    codes = 3 * rng.standard_normal((8, 3))[donor] + rng.standard_normal((800, 3))
    quick = {"attackers": ("knn",), **QUICK}
    mixed = leakage(codes, condition, **quick)
    apart = leakage(codes, condition, groups=donor, **quick)
    assert mixed.auroc > 0.95
    assert mixed.null.loc["auroc", "p_value"] < 0.05
    assert apart.auroc < 0.8
    assert apart.null.loc["auroc", "p_value"] > 0.05


# --- what must be found -----------------------------------------------------------------------


def test_linear_leak_has_the_auroc_and_bits_of_two_gaussians(rng):
    condition, shift = halves(rng, 4000), 1.0
    codes = rng.standard_normal((4000, 3))
    codes[:, 1] += shift * condition
    result = leakage(codes, condition, attackers=("logistic",), **QUICK)
    assert result.auroc == pytest.approx(norm.cdf(shift / np.sqrt(2)), abs=0.02)
    assert result.balanced_accuracy == pytest.approx(norm.cdf(shift / 2), abs=0.02)
    x = np.linspace(-8, 9, 4001)
    density = np.stack([norm.pdf(x), norm.pdf(x - shift)]) / 2
    share = density / density.sum(axis=0)
    information = 1 + (density * np.log2(share)).sum() * (x[1] - x[0])
    assert result.bits == pytest.approx(information, abs=0.02)
    assert result.null.loc["auroc", "p_value"] == pytest.approx(1 / 61)
    lower, upper = result.interval.loc["auroc"]
    assert lower < norm.cdf(shift / np.sqrt(2)) < upper


@pytest.mark.parametrize("shape", ["xor", "ring"])
def test_nonlinear_leak_is_found_where_a_line_finds_nothing(rng, shape):
    condition = halves(rng, 1500)
    codes = xor(rng, 1500, condition)
    if shape == "ring":
        angle = rng.uniform(0, 2 * np.pi, 1500)
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (1 + condition)[:, None]
        codes = circle + 0.2 * rng.standard_normal((1500, 2))
    result = leakage(codes, condition, **QUICK)
    assert result.by_attacker.loc["logistic", "auroc"] < 0.6
    assert (result.by_attacker.drop("logistic")["auroc"] > 0.9).all()
    assert result.attacker != "logistic"
    assert result.auroc == result.by_attacker["auroc"].max()


def test_leak_hidden_by_opposite_shifts_of_two_types_is_found_within(rng):
    condition = halves(rng, 800)
    cell_type = np.where(rng.random(800) < 0.5, "B", "T")
    codes = rng.standard_normal((800, 2))
    codes[:, 0] += np.where(cell_type == "B", 1, -1) * (2 * condition - 1)
    result = leakage(codes, condition, within=cell_type, attackers=("logistic",), **QUICK)
    assert result.auroc < 0.56
    assert result.within_auroc == pytest.approx(norm.cdf(np.sqrt(2)), abs=0.03)
    assert set(result.by_group["group"]) == {"B", "T"}
    assert (result.by_group["p_value"] < 0.05).all()
    worst = result.by_group.set_index("group")["auroc"].idxmax()
    assert result.worst_group == worst


def test_several_conditions_are_scored_one_against_the_rest(rng):
    condition = rng.permutation(np.arange(1200) % 3)
    codes = rng.standard_normal((1200, 3))
    noise = leakage(codes, condition, attackers=("logistic", "knn"), **QUICK)
    assert noise.balanced_accuracy == pytest.approx(1 / 3, abs=0.05)
    assert noise.auroc == pytest.approx(0.5, abs=0.04)
    leaky = leakage(codes + 6 * np.eye(3)[condition], condition, attackers=("knn",), **QUICK)
    assert leaky.balanced_accuracy > 0.99
    assert leaky.auroc > 0.99
    assert leaky.bits == pytest.approx(np.log2(3), abs=0.1)
    assert leaky.bits <= np.log2(3)


def test_perfect_codes_give_one_bit_and_never_more_than_the_entropy(rng):
    condition = halves(rng, 600)
    codes = 10 * condition[:, None] + rng.standard_normal((600, 2))
    result = leakage(codes, condition, **QUICK)
    assert 0.98 < result.bits <= 1
    assert result.auroc == 1
    assert result.balanced_accuracy == 1
    assert result.interval.to_numpy().max() <= 1
    rare = rng.random(600) < 0.1
    codes = 10.0 * rare[:, None] + rng.standard_normal((600, 2))
    share = rare.mean()
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    result = leakage(codes, rare, attackers=("logistic",), **QUICK)
    assert 0.9 * entropy < result.bits <= entropy


def test_composition_baseline_is_the_analytic_value_and_stays_in_the_null(rng):
    cell_type = rng.permutation(np.arange(4000) % 2)
    rate = np.where(cell_type == 1, 0.8, 0.3)
    condition = (rng.random(4000) < rate).astype(int)
    result = composition_baseline(condition, cell_type, **QUICK)
    of_treated, of_control = (cell_type[condition == c].mean() for c in (1, 0))
    expected = 0.5 + (of_treated - of_control) / 2  # one-hot code of two types: AUROC = BA
    assert result.auroc == pytest.approx(expected, abs=0.01)
    assert result.balanced_accuracy == pytest.approx(expected, abs=0.01)
    assert result.null.loc["auroc", "mean"] == pytest.approx(0.5, abs=0.02)
    codes = 4 * np.eye(2)[cell_type] + rng.standard_normal((4000, 2))
    audit = leakage(codes, condition, within=cell_type, attackers=("logistic",), **QUICK)
    assert audit.auroc == pytest.approx(expected, abs=0.05)
    assert audit.null.loc["auroc", "p_value"] > 0.02  # nothing beyond composition
    assert audit.within_auroc == pytest.approx(0.5, abs=0.05)


# --- symmetries -------------------------------------------------------------------------------


def test_shifting_and_rescaling_codes_changes_nothing(rng):
    condition = halves(rng, 500)
    codes = rng.standard_normal((500, 3)) + 0.3 * condition[:, None]
    plain = leakage(codes, condition, attackers=NOT_MLP, **QUICK)
    scaled = leakage(codes * [1e3, 1e-3, -8] + 5, condition, attackers=NOT_MLP, **QUICK)
    pd.testing.assert_frame_equal(plain.by_attacker, scaled.by_attacker, atol=0.01)


def test_the_same_seed_gives_the_same_result_and_numpys_state_is_untouched(rng):
    condition = halves(rng, 400)
    codes = rng.standard_normal((400, 3)) + 0.3 * condition[:, None]
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the state that must not change
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = leakage(codes, condition, seed=3, **QUICK)
    second = leakage(codes, condition, seed=3, **QUICK)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    pd.testing.assert_frame_equal(first.to_frame(), second.to_frame())
    pd.testing.assert_frame_equal(first.interval, second.interval)
    named = leakage(codes, np.where(condition, "stimulated", "control"), seed=3, **QUICK)
    pd.testing.assert_frame_equal(first.to_frame(), named.to_frame())


# --- the parts --------------------------------------------------------------------------------


def test_area_under_roc_is_scikit_learns_with_ties_and_weights(rng):
    values = rng.integers(0, 15, 300).astype(float)
    labels = rng.integers(0, 2, (4, 300))
    weights = rng.integers(0, 4, (4, 300)).astype(float)
    found = area_under_roc(values, weights * labels, weights * (1 - labels))
    expected = [
        roc_auc_score(y, values, sample_weight=w) for y, w in zip(labels, weights, strict=True)
    ]
    np.testing.assert_allclose(found, expected)


def test_scores_of_known_predictions_are_those_written_out_by_hand():
    labels = np.array([0, 0, 1, 1])
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]])
    held_out = HeldOut(p[None], p.argmax(axis=1)[None], np.zeros(4, dtype=int))
    (accuracy, auroc, bits), *_ = score(held_out, labels[None], weights=np.ones((1, 4)))[0]
    assert accuracy == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert auroc == pytest.approx(3 / 4)
    assert bits == pytest.approx(1 + np.log2([0.9, 0.4, 0.5, 0.8]).mean())


def test_auroc_is_taken_inside_folds(rng):
    labels, folds = halves(rng, 400), np.arange(400) // 200
    values = labels + rng.standard_normal(400)
    p = 1 / (1 + np.exp(-values + 100 * folds))  # second fold on another scale
    held_out = HeldOut(np.stack([1 - p, p], axis=1)[None], np.zeros((1, 400), int), folds)
    found = score(held_out, labels[None], weights=np.ones((1, 400)))[0, 0, 1]
    inside = [roc_auc_score(labels[folds == f], values[folds == f]) for f in (0, 1)]
    assert found == pytest.approx(np.mean(inside))


def test_draws_keep_what_they_promise(rng):
    labels, strata = rng.integers(0, 3, 90), rng.integers(0, 4, 90)
    shuffled = permuted(labels, strata=strata, n_draws=20, rng=rng)
    assert (shuffled != labels).any()
    weights = resampled(strata, n_draws=20, rng=rng)
    for stratum in range(4):
        inside = strata == stratum
        expected = np.tile(np.sort(labels[inside]), (20, 1))
        np.testing.assert_array_equal(np.sort(shuffled[:, inside], axis=1), expected)
        np.testing.assert_allclose(weights[:, inside].sum(axis=1), inside.sum())


def test_interval_over_donors_covers_the_truth(rng):
    truth, hits = norm.cdf(0.8 / np.sqrt(2)), 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        condition, donor = halves(draw, 300), draw.integers(0, 6, 300)
        codes = draw.standard_normal((300, 1)) + 0.8 * condition[:, None]
        result = leakage(
            codes,
            condition,
            groups=donor,
            attackers=("logistic",),
            n_permutations=1,
            n_bootstrap=200,
        )
        lower, upper = result.interval.loc["auroc"]
        hits += lower < truth < upper
    assert hits >= 34  # 38 expected of 40


# --- what is reported -------------------------------------------------------------------------


def test_equivalence_needs_enough_cells_and_no_leak(rng):
    few, many = (
        leakage(rng.standard_normal((n, 2)), halves(rng, n), attackers=("logistic",), **QUICK)
        for n in (200, 20_000)
    )
    assert not few.equivalent()
    assert "not below 0.03" in few.equivalent().text
    assert many.equivalent()
    assert many.equivalent().text.startswith("equivalence: 95 % upper limit")
    assert not many.equivalent(margin=1e-6)


def test_frame_has_a_row_for_the_pool_and_for_each_level_and_reasons_for_the_rest(rng):
    condition = halves(rng, 700)
    cell_type = np.repeat(["B", "NK", "T", "rare"], [250, 210, 220, 20])
    condition[cell_type == "NK"] = 0
    codes = rng.standard_normal((700, 2))
    result = leakage(codes, condition, within=cell_type, attackers=("logistic",), **QUICK)
    frame = result.to_frame()
    assert frame["scope"].tolist() == ["pooled", "within", "within"]
    assert frame["group"].tolist() == ["", "B", "T"]
    assert frame["n_cells"].tolist() == [700, 250, 220]
    assert frame.loc[0, "auroc"] == result.auroc
    assert "min_cells=200" in result.skipped["rare"]
    assert "there are 0 of 1." in result.skipped["NK"]
    alone = leakage(codes[cell_type == "B"], condition[cell_type == "B"], attackers=("logistic",))
    assert frame.loc[1, "auroc"] == pytest.approx(alone.auroc)
    assert "worst group" in repr(result)


def test_a_level_with_too_few_donors_is_skipped_and_the_others_are_audited(rng):
    condition, donor = halves(rng, 480), np.arange(480) % 4
    cell_type = np.where(rng.random(480) < 0.5, "B", "T")
    donor[cell_type == "T"] %= 2  # two donors cannot make three folds
    result = leakage(
        rng.standard_normal((480, 2)),
        condition,
        groups=donor,
        within=cell_type,
        attackers=("logistic",),
        n_folds=3,
        min_cells=100,
        **QUICK,
    )
    assert result.by_group["group"].tolist() == ["B"]
    assert "only 2 groups" in result.skipped["T"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"codes": np.zeros(40)}, InputDataError, "reshape"),
        ({"codes": np.full((40, 2), np.nan)}, InputDataError, "40 cells are NaN"),
        ({"condition": np.zeros(40)}, InputDataError, "one level only"),
        ({"condition": np.arange(39) % 2}, InputDataError, "each of the 40 cells"),
        ({"condition": ["a", None] * 20}, InputDataError, "missing for 20 cells"),
        (
            {"condition": [0] * 38 + [1] * 2},
            InputDataError,
            "10 cells of each condition are needed, but there are 2 of 1",
        ),
        ({"groups": np.zeros(40)}, InputDataError, "at least two groups"),
        ({"groups": np.arange(40) % 2}, InputDataError, "occur in one"),
        ({"groups": np.arange(40) // 10, "n_folds": 5}, OptionError, "Use fewer"),
        ({"attackers": ("forest",)}, OptionError, "'forest' is not known"),
        ({"attackers": ()}, OptionError, "at least one attacker"),
        ({"n_folds": 1}, OptionError, "at least 2"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(rng, change, error, message):
    arguments = {"codes": rng.standard_normal((40, 2)), "condition": np.arange(40) % 2, **change}
    with pytest.raises(error, match=message):
        leakage(arguments.pop("codes"), arguments.pop("condition"), **arguments)
