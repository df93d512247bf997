"""The harness: the same truth for all, order of no consequence, baselines and ceiling beside."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import stats

import scdisent
from scdisent import metrics as sm
from scdisent._errors import InputDataError, OptionError
from scdisent.datasets import simulate_conditions
from scdisent.effects import log_normalise
from scdisent.tl import _response as harness
from scdisent.tl._response import (
    CEILING,
    DUPLICATE,
    NO_CHANGE,
    SCORES,
    interpolated,
    interval,
)


@pytest.fixture(scope="module")
def world():
    adata = simulate_conditions(n_cells=2_400, n_genes=60, n_types=4, shared_effect_genes=20)
    own = adata.obs["cell_type"] == adata.obs["cell_type"].cat.categories[0]
    treated = adata.obs["condition"] == "stimulated"
    train = adata[~(own & treated)].copy()
    keys = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}
    scdisent.setup_anndata(train, **keys)
    model = scdisent.ShiftModel(train)
    model.train()
    return adata[own & treated].copy(), adata[own & ~treated].copy(), model


def wide(table, value="value"):
    return table.pivot(index="method", columns="metric", values=value)


def test_values_are_those_of_the_metrics(world):
    observed, control, model = world
    predicted = model.predict(control, condition="stimulated")
    found = wide(scdisent.tl.evaluate_response(observed, predicted, control, n_top=15))
    cells = [log_normalise(x.X).toarray() for x in (observed, predicted, control)]
    top = sm.top_genes(cells[0], cells[2], n=15)
    row = found.loc["prediction"]
    assert row["pearson_delta"] == pytest.approx(sm.pearson_delta(*cells))
    assert row["pearson_delta_top"] == pytest.approx(sm.pearson_delta(*cells, genes=top))
    assert row["r2_delta_weighted"] == pytest.approx(sm.r2_delta(*cells, weighted=True))
    assert row["r2_variance_top"] == pytest.approx(sm.r2_variance(*cells[:2], genes=top))
    assert set(found.columns) == set(SCORES) - {"pearson_delta_perturbed"}


def test_what_all_conditions_share_does_not_count_beside_perturbed_cells():
    """A prediction of the mean of the other conditions says nothing of this one."""
    adata = simulate_conditions(
        n_cells=3_000, n_genes=60, n_types=1, conditions=("control", "a", "b", "c"), seed=2
    )
    kinds = {name: adata[adata.obs["condition"] == name].copy() for name in ("control", "a", "b")}
    others = adata[adata.obs["condition"].isin(["b", "c"])].copy()
    table = scdisent.tl.evaluate_response(
        kinds["a"], {"mean": others, "true": kinds["a"]}, kinds["control"], perturbed=others
    )
    values = wide(table)["pearson_delta_perturbed"]
    assert abs(values["mean"]) < 1e-9
    assert values["true"] == pytest.approx(1)
    cells = [log_normalise(x.X).toarray() for x in (kinds["a"], kinds["b"], others)]
    one = scdisent.tl.evaluate_response(kinds["a"], kinds["b"], kinds["control"], perturbed=others)
    expected = sm.pearson_delta(*cells)
    assert wide(one).loc["prediction", "pearson_delta_perturbed"] == pytest.approx(expected)


def test_the_pair_for_other_evaluations_holds_the_same_control_cells(world):
    observed, control, model = world
    predicted = model.predict(control, condition="stimulated")
    real, said = scdisent.tl.response_pair(observed, predicted, control)
    assert list(real.var_names) == list(said.var_names) == list(predicted.var_names)
    for pair, cells in ((real, observed), (said, predicted)):
        kind = pair.obs["condition"]
        expected = np.vstack([log_normalise(x.X).toarray() for x in (control, cells)])
        np.testing.assert_allclose(pair.X.toarray(), expected)
        assert kind.value_counts().to_dict() == {
            "control": control.n_obs,
            "stimulated": cells.n_obs,
        }
        assert pair.obs_names.is_unique


def test_a_second_sample_of_the_truth_scores_like_the_ceiling_and_no_change_like_nothing(world):
    observed, control, _ = world
    order = np.random.default_rng(0).permutation(observed.n_obs)
    half = observed.n_obs // 2
    first, second = observed[order[:half]], observed[order[half:]]
    table = scdisent.tl.evaluate_response(first, {"truth": second.copy()}, control)
    share = wide(table, "normalised")
    means = ["pearson_delta", "r2_delta", "energy_distance", "r2_delta_weighted"]
    np.testing.assert_allclose(share.loc["truth", means], 1, atol=0.15)
    np.testing.assert_allclose(share.loc[NO_CHANGE].dropna(), 0, atol=1e-12)
    np.testing.assert_allclose(share.loc[CEILING].dropna(), 1)
    assert wide(table).loc[NO_CHANGE, "pearson_delta"] == 0


def test_the_interpolated_duplicate_keeps_what_changed_and_loses_what_may_be_noise(rng):
    control, cells = rng.normal(size=(50, 3)), rng.normal(size=(30, 3))
    cells[:, 0] += 20  # changed beyond doubt
    control[:, 2] = cells[:, 2] = 0.0  # never seen
    moved = interpolated(cells, control)
    np.testing.assert_allclose(moved.std(axis=0), cells.std(axis=0))
    p = stats.ttest_ind(cells[:, 1], control[:, 1], equal_var=False).pvalue
    means = (1 - p) * cells[:, 1].mean() + p * control[:, 1].mean()
    np.testing.assert_allclose(moved.mean(axis=0), [cells[:, 0].mean(), means, 0.0], rtol=1e-9)


@pytest.mark.parametrize("n_cells", [20, 60])
def test_of_few_cells_the_interpolated_duplicate_says_more_than_half_of_them(n_cells):
    """Most genes do nothing: what the other half says of them is noise."""
    r = {CEILING: [], DUPLICATE: []}
    for seed in range(8):
        draw = np.random.default_rng(seed)
        change = np.where(np.arange(200) < 20, draw.normal(0, 1.5, 200), 0.0)
        genes = {"var": pd.DataFrame(index=[f"g{i}" for i in range(200)])}
        sets = [AnnData(draw.normal(m, 1.0, (n, 200)), **genes)
                for m, n in ((change, n_cells), (0.0, 500))]  # fmt: skip
        control = sets[1]
        table = scdisent.tl.evaluate_response(sets[0], control, control, is_counts=False)
        for name, own in r.items():
            own.append(wide(table).loc[name, "pearson_delta"])
    gain = np.subtract(r[DUPLICATE], r[CEILING])
    assert (gain > 0).all()
    assert set(table.loc[table["method"] == DUPLICATE, "kind"]) == {"positive control"}


def test_the_recipes_of_a_shift_model_are_baselines_and_beat_no_change(world):
    observed, control, model = world
    predicted = model.predict(control, condition="stimulated", transfer="identity")
    table = scdisent.tl.evaluate_response(observed, predicted, control, baselines=model)
    assert set(table.loc[table["kind"] == "baseline", "method"]) == {
        NO_CHANGE,
        "stacked",
        "ridge",
        "weighted",
        "nearest",
        "mean",
    }
    values = wide(table)
    for recipe in ("ridge", "mean"):
        assert values.loc[recipe, "r2_delta"] > values.loc[NO_CHANGE, "r2_delta"] + 0.3
        assert values.loc[recipe, "energy_distance"] < values.loc[NO_CHANGE, "energy_distance"]
    share = wide(table, "normalised")
    assert share.loc["prediction", "pearson_delta"] < 0  # not clipped


def test_nothing_is_normalised_where_a_baseline_is_as_good_as_the_ceiling(world):
    observed, control, _ = world
    table = scdisent.tl.evaluate_response(
        observed, {"p": control}, control, baselines={"b": observed}
    )
    assert wide(table).loc["b", "energy_distance"] <= wide(table).loc[CEILING, "energy_distance"]
    assert table.loc[table["metric"] == "energy_distance", "normalised"].isna().all()


def test_other_predictions_and_the_order_of_cells_and_genes_change_nothing(world):
    observed, control, model = world
    predicted = model.predict(control, condition="stimulated")
    alone = wide(scdisent.tl.evaluate_response(observed, predicted, control))
    rng = np.random.default_rng(1)
    genes = rng.permutation(observed.n_vars)
    mixed = [x[rng.permutation(x.n_obs)][:, genes].copy() for x in (observed, predicted, control)]
    first = {"prediction": predicted, "other": control.copy()}
    both = wide(scdisent.tl.evaluate_response(observed, first, control))
    pd.testing.assert_frame_equal(alone, both.loc[alone.index])
    known = ["method", "metric"]
    drawn = [
        scdisent.tl.evaluate_response(observed, given, control, n_bootstrap=3).set_index(known)
        for given in (predicted, first)
    ]
    pd.testing.assert_frame_equal(drawn[0], drawn[1].loc[drawn[0].index])
    pd.testing.assert_frame_equal(wide(drawn[0].reset_index()), alone)
    again = wide(scdisent.tl.evaluate_response(*mixed))
    for name in ("prediction", NO_CHANGE):
        np.testing.assert_allclose(again.loc[name], alone.loc[name], atol=1e-6)


def test_intervals_hold_the_value_and_shrink_with_the_cells(world):
    observed, control, model = world
    predicted = model.predict(control, condition="stimulated")
    table = scdisent.tl.evaluate_response(observed, predicted, control, n_bootstrap=30)
    own = table[(table["method"] == "prediction") & (table["metric"] == "pearson_delta")].iloc[0]
    rows = table.dropna(subset=["value"])
    assert rows["low"].notna().all()
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()
    assert rows.loc[rows["metric"] == "pearson_delta", "high"].max() <= 1
    few = scdisent.tl.evaluate_response(observed[:40], predicted, control, n_bootstrap=30)
    fewer = few[(few["method"] == "prediction") & (few["metric"] == "pearson_delta")].iloc[0]
    assert fewer["high"] - fewer["low"] > own["high"] - own["low"]


def test_intervals_hold_what_other_cells_would_give():
    """At least nine in ten intervals hold the mean over samples, which plain ones miss."""
    rng = np.random.default_rng(0)
    effect = rng.normal(size=60) * 0.3
    control = rng.normal(size=(500, 60))
    predicted = control + 0.8 * effect

    def sample():
        return rng.normal(size=(60, 60)) + effect

    def scored(observed):
        return sm.pearson_delta(observed, predicted, control)

    values = [scored(sample()) for _ in range(200)]
    expected = np.mean(values)
    inside, plain, widths = [], [], []
    for _ in range(100):
        own = sample()
        draws = [scored(own[rng.integers(60, size=60)]) for _ in range(50)]
        low, high = interval("pearson_delta", scored(own), draws)
        inside.append(low <= expected <= high)
        widths.append(high - low)
        plain.append(np.quantile(draws, 0.05) <= expected <= np.quantile(draws, 0.95))
    assert np.mean(inside) >= 0.88
    assert np.mean(widths) < 2 * np.ptp(np.quantile(values, [0.05, 0.95]))
    assert np.mean(plain) < 0.7


def test_predictions_of_others_stand_beside_the_recipes(world):
    observed, control, model = world
    ours = model.predict(control, condition="stimulated")
    other = AnnData(ours.X.copy(), var=ours.var)
    both = {"other": other, "ours": ours}
    table = scdisent.tl.evaluate_response(observed, both, control, baselines=model)
    values = wide(table)
    assert values.loc["other", "pearson_delta"] == values.loc["ours", "pearson_delta"]
    with pytest.raises(InputDataError, match=r"they name none\. Pass the cells"):
        scdisent.tl.evaluate_response(observed, other, control, baselines=model)


def test_layers_and_values_that_are_no_counts(world):
    observed, control, model = world
    predicted = model.predict(control, condition="stimulated")
    expected = wide(scdisent.tl.evaluate_response(observed, predicted, control))
    moved = [AnnData(x.X * 0, var=x.var, layers={"counts": x.X}) for x in (observed, control)]
    found = scdisent.tl.evaluate_response(moved[0], predicted, moved[1], layer="counts")
    pd.testing.assert_frame_equal(wide(found), expected)
    plain = [AnnData(log_normalise(x.X), var=x.var) for x in (observed, predicted, control)]
    found = scdisent.tl.evaluate_response(*plain, is_counts=False)
    pd.testing.assert_frame_equal(wide(found), expected)


def test_arrays_are_taken_as_expression(world):
    observed, control, _ = world
    shifted = {"cells": control, "array": log_normalise(control.X).toarray()}
    found = wide(scdisent.tl.evaluate_response(observed, control, control, baselines=shifted))
    np.testing.assert_allclose(found.loc["cells"], found.loc["array"])


def test_of_many_cells_distances_see_all_kinds(world, monkeypatch):
    observed, control, _ = world
    monkeypatch.setattr(harness, "MOST_CELLS", 100)
    order = np.argsort(np.asarray(observed.X.sum(axis=1)).ravel())  # the first are the shallow ones
    first, second = (
        wide(scdisent.tl.evaluate_response(x, {"truth": observed}, control))
        for x in (observed, observed[order].copy())
    )
    gap = abs(first.loc["truth", "energy_distance"] - second.loc["truth", "energy_distance"])
    assert gap < 0.2


def test_what_cannot_be_compared_is_refused(world):
    observed, control, _ = world
    with pytest.raises(InputDataError, match="predicted genes are missing"):
        scdisent.tl.evaluate_response(observed[:, 5:], control, control)
    with pytest.raises(InputDataError, match="3 observed cells"):
        scdisent.tl.evaluate_response(observed[:3], control, control)
    with pytest.raises(OptionError, match="no predictions"):
        scdisent.tl.evaluate_response(observed, {}, control)


def logged(adata):
    """The habit of scanpy: counts in a layer, logarithms in X."""
    cells = adata.copy()
    cells.layers["counts"] = cells.X.copy()
    cells.X = log_normalise(cells.X)
    return cells


def test_layer_and_likelihood_are_those_that_embed_and_predict_stored(world):
    observed, control, model = world
    predicted = model.predict(control, condition="stimulated")
    expected = wide(scdisent.tl.evaluate_response(observed, predicted, control))
    real = [logged(x) for x in (observed, control)]
    with pytest.raises(InputDataError, match="X of observed is read as counts.*is_counts=False"):
        scdisent.tl.evaluate_response(real[0], predicted, real[1])
    for cells in real:
        cells.uns["scdisent"] = {"embed": {"layer": "counts", "likelihood": "nb"}}
    found = scdisent.tl.evaluate_response(real[0], predicted, real[1])
    pd.testing.assert_frame_equal(wide(found), expected)
    pair = scdisent.tl.response_pair(real[0], predicted, real[1])
    np.testing.assert_allclose(pair[0].X.sum(), scdisent.tl.response_pair(
        observed, predicted, control)[0].X.sum())  # fmt: skip

    plain = [AnnData(log_normalise(x.X), var=x.var) for x in (observed, predicted, control)]
    plain[1].uns["scdisent"] = {"prediction": {"likelihood": "normal"}}
    pd.testing.assert_frame_equal(wide(scdisent.tl.evaluate_response(*plain)), expected)
    both = {"a": plain[1], "b": predicted}
    with pytest.raises(OptionError, match=r"\['nb', 'normal'\] are of counts and of other"):
        scdisent.tl.evaluate_response(observed, both, control)


def test_expected_counts_are_counts_and_negative_ones_are_none(world):
    observed, control, model = world
    mean = model.predict(control, condition="stimulated", kind="mean")
    assert (np.asarray(mean.X) % 1).any()
    scdisent.tl.evaluate_response(observed, mean, control)
    mean.X = -np.asarray(mean.X)
    with pytest.raises(InputDataError, match="negative"):
        scdisent.tl.evaluate_response(observed, mean, control)


def test_what_cannot_be_read_is_refused_in_plain_words(world):
    observed, control, model = world
    predicted = model.predict(control, condition="stimulated")
    broken = predicted.copy()
    broken.X = broken.X.toarray()
    broken.X[0, 0] = np.nan
    score = scdisent.tl.evaluate_response
    table = pd.DataFrame(control.X.toarray())
    with pytest.raises(OptionError, match="observed has no layer 'raw'"):
        score(observed, predicted, control, layer="raw")
    with pytest.raises(InputDataError, match="1 values that are NaN or infinite"):
        score(observed, broken, control)
    with pytest.raises(InputDataError, match="1 values that are NaN or infinite"):
        score(observed, broken, control, is_counts=False)
    for cells in (control.X, table):
        with pytest.raises(
            InputDataError, match=r"baseline 'b' is of type .*; expected an AnnData"
        ):
            score(observed, predicted, control, baselines={"b": cells})
    with pytest.raises(InputDataError, match=r"baseline 'b' has the shape \(3, 2\)"):
        score(observed, predicted, control, baselines={"b": np.zeros((3, 2))})
    with pytest.raises(InputDataError, match=r"predicted\['p'\] is of type DataFrame"):
        score(observed, {"p": table}, control)
    with pytest.raises(InputDataError, match="holds no cells"):
        score(observed, predicted[:0].copy(), control)
    with pytest.raises(OptionError, match="baselines is of type AnnData"):
        score(observed, predicted, control, baselines=control)
    for name in (NO_CHANGE, CEILING, "ridge"):
        with pytest.raises(OptionError, match=f"two methods are called '{name}'"):
            score(observed, {name: predicted}, control, baselines=model)
    with pytest.raises(OptionError, match="two methods are called 'no change'"):
        score(observed, predicted, control, baselines={NO_CHANGE: control})
