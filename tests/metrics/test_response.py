import numpy as np
import pytest
from scipy import sparse, stats

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics import (
    METRICS,
    energy_distance,
    mse_mean,
    pearson_delta,
    r2_variance,
    top_genes,
)
from scdisent.metrics import _response as response


@pytest.fixture
def cells(rng):
    """Observed, predicted and control cells of 30 genes."""
    base, change = rng.uniform(0, 2, 30), rng.standard_normal(30)
    control = base + 0.3 * rng.standard_normal((80, 30))
    observed = base + change + 0.3 * rng.standard_normal((60, 30))
    predicted = base + 0.5 * change + 0.6 * rng.standard_normal((70, 30))
    return observed, predicted, control


def test_pearson_delta_is_the_correlation_of_mean_changes(cells):
    observed, predicted, control = cells
    changes = [x.mean(axis=0) - control.mean(axis=0) for x in (predicted, observed)]
    assert pearson_delta(*cells) == pytest.approx(np.corrcoef(*changes)[0, 1])
    genes = [3, 7, 11, 29]
    expected = np.corrcoef(*[change[genes] for change in changes])[0, 1]
    assert pearson_delta(*cells, genes=genes) == pytest.approx(expected)
    assert pearson_delta(*cells, genes=np.isin(np.arange(30), genes)) == pytest.approx(expected)


def test_pearson_delta_at_its_extremes(cells):
    observed, _, control = cells
    change = observed.mean(axis=0) - control.mean(axis=0)
    assert pearson_delta(observed, control + 2 * change, control) == pytest.approx(1)
    assert pearson_delta(observed, control - change, control) == pytest.approx(-1)
    assert pearson_delta(observed, control, control) == 0


def test_mse_and_r2_of_the_variance_are_those_of_scikit_learn(cells):
    from sklearn.metrics import mean_squared_error, r2_score

    observed, predicted, _ = cells
    expected = mean_squared_error(observed.mean(axis=0), predicted.mean(axis=0))
    assert mse_mean(observed, predicted) == pytest.approx(expected)
    expected = r2_score(observed.var(axis=0, ddof=1), predicted.var(axis=0, ddof=1))
    assert r2_variance(observed, predicted) == pytest.approx(expected)
    assert r2_variance(observed, observed) == 1
    assert mse_mean(observed, observed) == 0


def test_energy_distance_is_the_mean_over_pairs_of_different_cells(rng, monkeypatch):
    x, y = rng.standard_normal((9, 3)), rng.standard_normal((7, 3)) + 1
    between = np.mean([np.linalg.norm(a - b) for a in x for b in y])
    inside = [
        np.mean([np.linalg.norm(a - b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])
        for z in (x, y)
    ]
    expected = 2 * between - sum(inside)
    assert energy_distance(x, y) == pytest.approx(expected)
    monkeypatch.setattr(response, "CHUNK", 2)
    assert energy_distance(x, y) == pytest.approx(expected)


def test_energy_distance_agrees_with_scipy_in_one_dimension(rng):
    x, y = rng.standard_normal((800, 1)), 1.5 * rng.standard_normal((800, 1)) + 0.7
    expected = (
        stats.energy_distance(x.ravel(), y.ravel()) ** 2
    )  # counts pairs of a cell with itself
    assert energy_distance(x, y) == pytest.approx(expected, abs=0.01)


def test_energy_distance_is_unbiased_and_sees_spread(rng):
    same = [
        energy_distance(rng.standard_normal((20, 4)), rng.standard_normal((20, 4)))
        for _ in range(200)
    ]
    assert np.mean(same) == pytest.approx(0, abs=3 * np.std(same) / np.sqrt(200))
    assert energy_distance(rng.standard_normal((300, 4)), 2 * rng.standard_normal((300, 4))) > 0.3


def test_top_genes_are_those_of_scipys_welch_test(cells):
    observed, _, control = cells
    t = stats.ttest_ind(observed, control, equal_var=False).statistic
    np.testing.assert_array_equal(top_genes(observed, control, n=7), np.argsort(-np.abs(t))[:7])
    silent = np.zeros((60, 1)), np.zeros((80, 1))
    with_silent = np.hstack([silent[0], observed]), np.hstack([silent[1], control])
    assert top_genes(*with_silent, n=100)[-1] == 0
    assert len(top_genes(*with_silent, n=100)) == 31


def test_sparse_cells_give_the_same_numbers(cells):
    dense = [np.where(x > 1, x, 0) for x in cells]
    thin = [sparse.csr_matrix(x) for x in dense]
    assert pearson_delta(*thin) == pytest.approx(pearson_delta(*dense))
    assert r2_variance(*thin[:2]) == pytest.approx(r2_variance(*dense[:2]))
    assert energy_distance(*thin[:2]) == pytest.approx(energy_distance(*dense[:2]))
    assert pearson_delta(*thin, genes=[1, 2, 5]) == pytest.approx(
        pearson_delta(*dense, genes=[1, 2, 5])
    )


def test_bad_input_is_refused(cells):
    observed, predicted, control = cells
    with pytest.raises(InputDataError, match="same genes"):
        pearson_delta(observed, predicted[:, :4], control)
    with pytest.raises(InputDataError, match="at least 2 cells"):
        energy_distance(observed, predicted[:1])
    with pytest.raises(OptionError, match="at least 1"):
        top_genes(observed, control, n=0)


def test_the_table_of_metrics_names_its_functions_and_sources():
    for name, row in METRICS.items():
        assert row.name == name == row.function.__name__
        assert row.source
        assert row.range[0] < row.range[1]
        assert "Returns" in row.function.__doc__ or "leakage" in row.function.__doc__
    with pytest.raises(TypeError):
        METRICS["new"] = METRICS["nmi"]
