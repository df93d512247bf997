"""Scores of the response gene by gene, against other implementations and at their limits."""

import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.metrics import average_precision_score, pairwise_distances, r2_score
from sklearn.metrics.pairwise import rbf_kernel

from scdisent import metrics as sm
from scdisent._errors import InputDataError, OptionError
from scdisent.metrics._response_genes import significant

N_GENES = 60


@pytest.fixture
def cells(rng):
    """Observed, predicted and control cells; the first 20 genes respond, half of it predicted."""
    base, change = rng.uniform(0, 2, N_GENES), np.zeros(N_GENES)
    change[:20] = rng.choice([-1, 1], 20) * rng.uniform(0.3, 1.5, 20)

    def draw(mean, n):
        return mean + 0.4 * rng.standard_normal((n, N_GENES))

    return draw(base + change, 80), draw(base + change / 2, 70), draw(base, 90)


def t_of(cells, control):
    return stats.ttest_ind(cells, control, equal_var=False).statistic


def test_weights_are_squared_scaled_t(cells):
    observed, _, control = cells
    t = np.abs(t_of(observed, control))
    expected = ((t - t.min()) / np.ptp(t)) ** 2
    np.testing.assert_allclose(sm.de_weights(observed, control), expected / expected.sum())
    same = np.ones((5, 3))
    np.testing.assert_allclose(sm.de_weights(same, same), 1 / 3)


def test_errors_and_shares_are_those_of_scikit_learn(cells):
    observed, predicted, control = cells
    weights = sm.de_weights(observed, control)
    error = (observed.mean(axis=0) - predicted.mean(axis=0)) ** 2
    assert sm.weighted_mse(*cells) == pytest.approx(np.average(error, weights=weights))
    changes = [x.mean(axis=0) - control.mean(axis=0) for x in (observed, predicted)]
    assert sm.r2_delta(*cells) == pytest.approx(r2_score(*changes))
    expected = r2_score(*changes, sample_weight=weights)
    assert sm.r2_delta(*cells, weighted=True) == pytest.approx(expected)


def test_the_observation_itself_is_perfect_and_no_change_is_not(cells):
    observed, _, control = cells
    for score in (sm.r2_delta, sm.de_overlap, sm.direction_match, sm.de_pr_auc):
        assert score(observed, observed, control) == pytest.approx(1)
        assert score(observed, control, control) < 0.6
    assert sm.direction_match(observed, control, control, n=20) == 0
    opposite = 2 * control.mean(axis=0) - observed
    assert sm.direction_match(observed, opposite, control, n=20) == 0


def test_overlap_counts_common_genes(cells):
    top = [set(np.argsort(-np.abs(t_of(x, cells[2])))[:15]) for x in cells[:2]]
    assert sm.de_overlap(*cells, n=15) == len(top[0] & top[1]) / 15


def test_significant_genes_are_those_of_scipys_tests(cells):
    observed, _, control = cells
    p = stats.ttest_ind(observed, control, equal_var=False).pvalue
    expected = stats.false_discovery_control(p) <= 0.05
    np.testing.assert_array_equal(significant(observed, control, fdr=0.05), expected)
    assert expected[:20].sum() >= 18


def test_average_precision_of_the_predicted_t(cells):
    observed, predicted, control = cells
    truth = significant(observed, control, fdr=0.01)
    expected = average_precision_score(truth, np.abs(t_of(predicted, control)))
    assert sm.de_pr_auc(*cells, fdr=0.01) == pytest.approx(expected)
    assert np.isnan(sm.de_pr_auc(control, predicted, control))
    with pytest.raises(OptionError, match="between 0 and 1"):
        sm.de_pr_auc(*cells, fdr=1.5)


def test_mmd_is_the_mean_of_five_kernels_over_pairs_of_different_cells(rng):
    x, y = rng.standard_normal((12, 3)), rng.standard_normal((9, 3)) + 1
    squared = pairwise_distances(x) ** 2
    between = pairwise_distances(x, y) ** 2
    median = np.median(np.r_[squared[np.triu_indices(12, 1)], between.ravel()])
    expected = 0
    for s in (0.25, 0.5, 1, 2, 4):
        g = 1 / (2 * s * median)
        xx, yy, xy = rbf_kernel(x, gamma=g), rbf_kernel(y, gamma=g), rbf_kernel(x, y, gamma=g)
        own = (xx.sum() - 12) / (12 * 11) + (yy.sum() - 9) / (9 * 8)
        expected += (own - 2 * xy.mean()) / 5
    assert sm.mmd(x, y) == pytest.approx(expected)


def test_mmd_is_unbiased_and_sees_spread(rng):
    same = [sm.mmd(rng.standard_normal((20, 4)), rng.standard_normal((20, 4))) for _ in range(200)]
    assert np.mean(same) == pytest.approx(0, abs=3 * np.std(same) / np.sqrt(200))
    assert sm.mmd(rng.standard_normal((200, 4)), 2 * rng.standard_normal((200, 4))) > 0.03


def test_ranks_of_perfect_uniform_and_swapped_predictions(rng):
    truth = rng.standard_normal((6, 10))
    assert sm.centroid_accuracy(truth, truth) == 1
    assert sm.discrimination_rank(truth, truth) == 1
    mean = np.tile(truth.mean(axis=0), (6, 1))
    assert sm.discrimination_rank(truth, mean) == pytest.approx(0.5)
    assert sm.centroid_accuracy(truth, mean) == pytest.approx(1 / 6)
    assert sm.centroid_accuracy(truth, np.roll(truth, 1, axis=0)) == 0
    chance = [sm.discrimination_rank(truth, rng.permutation(truth)) for _ in range(500)]
    assert np.mean(chance) == pytest.approx(0.5, abs=0.03)


def test_means_of_other_shapes_are_refused(rng):
    with pytest.raises(InputDataError, match="same shape"):
        sm.centroid_accuracy(rng.standard_normal((3, 4)), rng.standard_normal((2, 4)))


@pytest.mark.parametrize(
    "score",
    [
        *(sm.weighted_mse, sm.r2_delta, sm.de_overlap, sm.direction_match, sm.de_pr_auc),
    ],
)
def test_scores_are_the_same_for_sparse_cells_and_any_order_of_cells_and_genes(score, cells, rng):
    dense = [np.where(x > 1, x, 0) for x in cells]
    expected = score(*dense)
    assert score(*[sparse.csr_matrix(x) for x in dense]) == pytest.approx(expected)
    genes = rng.permutation(N_GENES)
    mixed = [rng.permutation(x)[:, genes] for x in dense]
    assert score(*mixed) == pytest.approx(expected)
    with pytest.raises(InputDataError, match="same genes"):
        score(dense[0], dense[1][:, :4], dense[2])


def test_a_constant_that_is_rounded_differently_does_not_respond(rng):
    sizes = (1_000, 700)
    observed, control = (rng.normal(size=(n, 20)) for n in sizes)
    observed[:, 3] = control[:, 3] = 0.1
    assert observed[:, 3].mean() != control[:, 3].mean() or observed[:, 3].var() > 0
    assert sm.top_genes(observed, control, n=20).tolist()[-1] == 3
    assert sm.de_weights(observed, control)[3] == 0


def test_a_gene_that_differs_without_spread_is_sure_but_finite(cells):
    observed, predicted, control = (x.copy() for x in cells)
    for x, value in ((observed, 1), (predicted, 2), (control, 0)):
        x[:, 5] = value
    for score in (sm.weighted_mse, sm.r2_delta, sm.de_overlap, sm.direction_match, sm.de_pr_auc):
        assert np.isfinite(score(observed, predicted, control))
    assert sm.de_weights(observed, control).argmax() == 5
