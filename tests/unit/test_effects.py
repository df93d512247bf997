"""Closed-form effects: planted linear worlds are found, and each recipe is its definition."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from scdisent import effects as ef
from scdisent._errors import InputDataError, OptionError
from scdisent.conditions import ConditionTable

N_GENES = 40


@pytest.fixture
def world(rng):
    """Means of six groups whose effects are linear in three directions of their profiles."""
    scores = rng.standard_normal((6, 3))
    profiles = 2 + scores @ rng.standard_normal((3, N_GENES))
    effects = 1 + scores @ rng.standard_normal((3, N_GENES))
    return profiles, effects


def table_of(profiles, effects, *, hidden=()):
    means = np.stack([profiles, profiles + effects], axis=1)
    n_cells = np.full(means.shape[:2], 10)
    means[list(hidden), 1] = np.nan
    groups = tuple(f"g{i}" for i in range(len(profiles)))
    return ef.EffectTable(groups, ("control", "drug"), "control", means, n_cells)


def test_means_of_cells_are_those_of_pandas(rng):
    x = rng.poisson(1.0, (50, 7)).astype(float)
    group, condition = rng.choice(["a", "b", "c"], 50), rng.choice(["control", "drug"], 50)
    condition[group == "c"] = "control"
    found = ef.EffectTable.of_cells(sparse.csr_matrix(x), group, condition, control="control")
    expected = pd.DataFrame(x).groupby([group, condition]).mean()
    for (g, c), mean in expected.iterrows():
        row, column = found.groups.index(g), found.conditions.index(c)
        np.testing.assert_allclose(found.means[row, column], mean)
    assert np.isnan(found.means[2, 1]).all()
    assert found.n_cells.sum() == 50
    assert found.treated == ["drug"]
    with pytest.raises(InputDataError, match="control='none'"):
        ef.EffectTable.of_cells(x, group, condition, control="none")


def test_normalisation_is_scanpys_for_sparse_and_dense(rng):
    import scanpy as sc
    from anndata import AnnData

    x = rng.poisson(2.0, (20, 9)).astype(np.float32) + 1
    adata = AnnData(x.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    np.testing.assert_allclose(ef.log_normalise(x), adata.X, rtol=1e-5)
    np.testing.assert_allclose(ef.log_normalise(sparse.csr_matrix(x)).toarray(), adata.X, rtol=1e-5)


def test_ridge_weights_are_scikit_learns_ridge(world, rng):
    features, values = rng.standard_normal((6, 3)), rng.standard_normal((6, 5))
    target = rng.standard_normal(3)
    fitted = Ridge(alpha=0.7).fit(features, values)
    weights = ef.smoother(features, target, penalty=0.7)
    np.testing.assert_allclose(weights @ values, fitted.predict(target[None])[0])
    assert weights.sum() == pytest.approx(1)


def test_ridge_follows_a_linear_world_where_the_mean_does_not(world):
    profiles, effects = world
    errors = {}
    for recipe in ef.GROUP_WEIGHTS:
        found = [
            ef.group_effect(
                table_of(profiles, effects, hidden=[i]), "drug", group=f"g{i}", recipe=recipe
            )
            for i in range(6)
        ]
        errors[recipe] = np.square(np.array(found) - effects).mean()
    assert errors["ridge"] < 0.7 * errors["mean"]
    assert errors["ridge"] < errors["nearest"]


@pytest.mark.parametrize("recipe", ef.GROUP_RECIPES)
def test_one_effect_for_all_groups_is_found_by_every_recipe(recipe, world):
    profiles, effects = world
    table = table_of(profiles, np.tile(effects[0], (6, 1)), hidden=[2])
    found = ef.group_effect(table, "drug", group="g2", recipe=recipe)
    tolerance = 0.02 if recipe == "stacked" else 1e-9  # its penalty shrinks
    np.testing.assert_allclose(found, effects[0], atol=tolerance)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stacking_says_what_sums_cannot_of_genes_that_one_group_alone_expresses(seed):
    """Planted: every rate changes by its gene's ratio; the hidden group has genes of its own."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(1.0, 3.0, (7, 200)) * (rng.random((7, 200)) < 0.4)
    ratio = np.exp(rng.normal(-0.3, 0.7, 200))
    own = np.flatnonzero((rates[0] > 1) & (rates[1:] > 0).any(axis=0))
    profiles, after = np.log1p(rates), np.log1p(rates * ratio)
    table = table_of(profiles, after - profiles, hidden=[0])
    truth, errors = (after - profiles)[0], {}
    for recipe in ef.GROUP_RECIPES:
        found = ef.group_effect(table, "drug", group="g0", recipe=recipe)
        errors[recipe] = np.square(found - truth)[own].mean()
    assert errors["stacked"] < 0.7 * min(errors[name] for name in ef.GROUP_WEIGHTS)
    assert ef.chosen_recipe(table, "drug", recipe="auto") == "stacked"
    plain = replace(table, is_log=False)
    real = ef.group_effect(plain, "drug", group="g0", recipe="stacked")
    assert np.square(real - truth)[own].mean() > errors["stacked"]


def test_stacking_needs_three_groups(world):
    table = table_of(*world, hidden=range(4))
    found = {r: ef.group_effect(table, "drug", group="g0", recipe=r) for r in ef.GROUP_RECIPES}
    np.testing.assert_allclose(found["stacked"], found["weighted"])


def test_nearest_and_weighted_take_the_twin(world):
    profiles, effects = world
    profiles[1] = profiles[0]
    table = table_of(profiles, effects, hidden=[0])
    for recipe in ("nearest", "weighted"):
        found = ef.group_effect(table, "drug", group="g0", recipe=recipe)
        np.testing.assert_allclose(found, effects[1], atol=0.1)


def test_a_seen_effect_is_taken_as_it_is_and_the_mean_is_the_mean(world):
    table = table_of(*world)
    np.testing.assert_allclose(ef.group_effect(table, "drug", group="g3"), world[1][3])
    found = ef.group_effect(table, "drug", group="g3", recipe="mean")
    np.testing.assert_allclose(found, world[1].mean(axis=0))


def test_auto_is_the_recipe_that_predicts_the_seen_groups_best(world, rng):
    profiles, effects = world
    linear = table_of(profiles, effects)
    errors = ef.left_out_errors(linear, "drug")
    by_hand = []
    for i in range(6):
        others = np.delete(np.arange(6), i)
        by_hand.append(np.square(effects[others].mean(axis=0) - effects[i]).mean())
    assert errors["mean"] == pytest.approx(np.mean(by_hand))
    assert ef.chosen_recipe(linear, "drug", recipe="auto") == "ridge"
    alike = table_of(profiles, np.tile(effects[0], (6, 1)) + rng.standard_normal((6, N_GENES)))
    errors = ef.left_out_errors(alike, "drug")
    assert min(ef.GROUP_WEIGHTS, key=errors.get) == "mean"
    assert ef.chosen_recipe(alike, "drug", recipe="auto") == min(errors, key=errors.get)
    few = table_of(profiles, effects, hidden=range(4))
    assert np.isnan(ef.left_out_errors(few, "drug")["ridge"])
    assert ef.chosen_recipe(few, "drug", recipe="auto") == "weighted"


def test_a_seen_effect_is_taken_also_where_auto_would_choose_the_mean(world, rng, monkeypatch):
    profiles, effects = world
    noisy = np.tile(effects[0], (6, 1)) + rng.standard_normal((6, N_GENES))
    table = table_of(profiles, noisy)
    monkeypatch.setattr(ef._groups, "GROUP_RECIPES", tuple(ef.GROUP_WEIGHTS))
    assert ef.chosen_recipe(table, "drug", recipe="auto") == "mean"
    np.testing.assert_allclose(ef.group_effect(table, "drug", group="g3"), noisy[3])


def test_effects_back_to_the_control_are_the_negative_ones(world):
    table = table_of(*world)
    found = ef.group_effect(table, "control", group="g3", reference="drug")
    np.testing.assert_allclose(found, -world[1][3])


def test_groups_that_training_did_not_see_need_a_profile(world):
    table = table_of(*world)
    with pytest.raises(InputDataError, match="give its profile"):
        ef.group_effect(table, "drug", group="new")
    found = ef.group_effect(table, "drug", group="new", recipe="nearest", profile=world[0][4])
    np.testing.assert_allclose(found, world[1][4])


# ------------------------------------------------------------------ conditions

KNOWN = ["a", "b", "a+b"]


def weights(condition, known=KNOWN, **options):
    return ef.condition_weights(condition, known, control="control", **options)


def test_combinations_are_sums_of_their_parts():
    assert weights("b+a") == {"b": 1, "a": 1}
    assert weights("a+a") == {"a": 2}
    assert weights("a+control") == {"a": 1}
    assert weights("x|y", ["x", "y"], recipe="mean") == {"x": 0.5, "y": 0.5}
    with pytest.raises(OptionError, match=r"\['c'\]"):
        weights("a+c", recipe="additive")


def test_what_nothing_is_known_of_gets_the_mean():
    assert weights("z", ["a", "b"]) == {"a": 0.5, "b": 0.5}
    with pytest.raises(OptionError, match="condition table"):
        weights("z", recipe="ridge")


@pytest.fixture
def doses():
    names = ["x1", "x2", "x4", "x8", "y2"]
    frame = pd.DataFrame({"drug": list("xxxxy"), "dose": [1.0, 2, 4, 8, 2]}, index=names)
    return ConditionTable(frame, dose="dose")


def test_doses_are_interpolated_in_the_logarithm_of_the_same_drug(doses):
    found = weights("x2", ["x1", "x4", "x8", "y2"], table=doses)
    share = (np.log(3) - np.log(2)) / (np.log(5) - np.log(2))
    assert found == pytest.approx({"x1": 1 - share, "x4": share})
    assert weights("x1", ["x4", "y2"], table=doses) == pytest.approx({"x4": np.log(2) / np.log(5)})
    beyond = weights("x8", ["x1", "x2", "x4"], table=doses)
    assert beyond["x4"] > 1
    assert beyond["x2"] < 0


def test_effects_linear_in_log_dose_are_predicted_exactly(doses):
    effect = {name: np.log1p(dose) for name, dose in doses.frame["dose"].items()}
    for target in ("x2", "x8", "x1"):
        known = [name for name in ("x1", "x2", "x4", "x8") if name != target]
        found = sum(v * effect[name] for name, v in weights(target, known, table=doses).items())
        assert found == pytest.approx(effect[target])


def test_doses_of_drugs_that_differ_in_their_embedding_are_not_mixed():
    names = ["x1", "x4", "y2"]
    vectors = pd.DataFrame([[0.0, 1.0], [0.0, 1.0], [5.0, 0.0]], index=[*names[:2], "y2"])
    vectors.loc["x2"] = [0.0, 1.0]
    frame = pd.DataFrame({"dose": [1.0, 4.0, 2.0, 2.0]}, index=[*names, "x2"])
    table = ConditionTable(frame, dose="dose", embedding=vectors)
    assert set(weights("x2", names, table=table)) == {"x1", "x4"}


def test_a_dose_that_cannot_be_told_is_refused_not_taken_for_no_effect(doses):
    with pytest.raises(OptionError, match="in nothing but the dose"):
        weights("y2", ["x1", "x4"], table=doses, recipe="dose")


@pytest.fixture
def embedded(rng):
    names = [f"gene_{i}" for i in range(30)]
    vectors = pd.DataFrame(rng.standard_normal((30, 4)), index=names)
    return ConditionTable(pd.DataFrame(index=names), embedding=vectors)


def test_ridge_on_embeddings_finds_linear_effects(embedded, rng):
    effects = embedded.embedding.to_numpy() @ rng.standard_normal((4, N_GENES)) + 1
    effects = pd.DataFrame(effects, index=embedded.frame.index)
    known = list(effects.index[1:])
    found = {}
    for recipe in ("ridge", "nearest", "mean"):
        v = weights("gene_0", known, table=embedded, recipe=recipe)
        found[recipe] = np.square(pd.Series(v) @ effects.loc[list(v)] - effects.iloc[0]).mean()
        assert sum(v.values()) == pytest.approx(1)
    assert found["ridge"] < 0.2 * found["mean"]
    assert weights("gene_0", known, table=embedded) == weights(
        "gene_0", known, table=embedded, recipe="ridge"
    )


def test_the_nearest_by_embedding_share_the_weight(embedded):
    v = weights("gene_0", list(embedded.frame.index[1:]), table=embedded, recipe="nearest")
    assert len(v) == 5
    assert set(v.values()) == {0.2}


def test_a_category_of_its_own_tells_nothing():
    frame = pd.DataFrame({"gene": ["a", "b", "c"]}, index=["a", "b", "c"])
    table = ConditionTable(frame)
    assert weights("c", ["a", "b"], table=table) == {"a": 0.5, "b": 0.5}
    with pytest.raises(OptionError, match="no condition of training has"):
        weights("c", ["a", "b"], table=table, recipe="ridge")


def test_only_combinations_add_up():
    table = ConditionTable(pd.DataFrame({"dose": [1.0, 2.0]}, index=["a", "b"]))
    with pytest.raises(OptionError, match="'b' is none"):
        ef.condition_weights("b", ["a"], control="control", table=table, recipe="additive")


def test_doses_of_another_drug_with_the_same_columns_are_not_mixed():
    table = ConditionTable(pd.DataFrame({"class": ["x", "x"]}, index=["A", "B"]))
    known = ["A@0.1", "A@1", "B@0.1", "B@1"]
    for dose in (0.5, 2.0):
        found = ef.condition_weights(f"A@{dose:g}", known, control="c", table=table, recipe="dose")
        assert set(found) == {"A@0.1", "A@1"}
        assert max(map(abs, found.values())) < 3


def test_rows_of_one_dose_share_its_weight():
    frame = pd.DataFrame({"dose": [1.0, 4.0, 4.0, 2.0]}, index=["a", "b", "c", "d"])
    table = ConditionTable(frame, dose="dose")
    found = ef.condition_weights("d", ["a", "b", "c"], control="o", table=table, recipe="dose")
    share = (np.log(3) - np.log(2)) / (np.log(5) - np.log(2))
    assert found == pytest.approx({"a": 1 - share, "b": share / 2, "c": share / 2})


def test_stacking_is_chosen_only_where_it_was_tried(world):
    three = table_of(*world, hidden=range(3))
    errors = ef.left_out_errors(three, "drug")
    assert np.isnan(errors["stacked"])
    assert np.isfinite(errors["weighted"])
    assert ef.chosen_recipe(three, "drug", recipe="auto") != "stacked"


def test_the_own_effect_of_a_handful_of_cells_is_not_trusted(world):
    profiles, effects = world
    table = table_of(profiles, effects)
    table.n_cells[2, 1] = 3
    found = ef.group_effect(table, "drug", group="g2", recipe="ridge")
    assert not np.allclose(found, effects[2])
    table.n_cells[2, 1] = 10
    sure = ef.group_effect(table, "drug", group="g2", recipe="ridge")
    np.testing.assert_allclose(sure, effects[2])


@pytest.mark.parametrize("recipe", ["nearest", "weighted", "mean"])
def test_a_handful_of_cells_says_nothing_about_other_groups_either(world, recipe):
    profiles, effects = world
    wild = effects.copy()
    wild[2] += 50
    table, clean = table_of(profiles, wild), table_of(profiles, effects, hidden=[2])
    table.n_cells[2, 1] = 3
    for group in ("g2", "g0"):
        found = ef.group_effect(table, "drug", group=group, recipe=recipe)
        np.testing.assert_allclose(
            found, ef.group_effect(clean, "drug", group=group, recipe=recipe)
        )
    table.n_cells[:, 1] = 3  # where there is nothing better, it is taken
    assert np.isfinite(ef.group_effect(table, "drug", group="g0", recipe=recipe)).all()


def test_the_choice_of_auto_is_made_once_for_each_question(world, monkeypatch):
    table = table_of(*world)
    first = ef.group_effect(table, "drug", group="g0", recipe="auto")
    monkeypatch.setattr("scdisent.effects._groups.left_out_errors", lambda *_, **__: 1 / 0)
    np.testing.assert_array_equal(ef.group_effect(table, "drug", group="g0", recipe="auto"), first)


def test_dose_zero_has_no_effect():
    frame = pd.DataFrame({"dose": [1.0, 2.0, 0.0]}, index=["a", "b", "none"])
    table = ConditionTable(frame, dose="dose")
    found = ef.condition_weights("none", ["a", "b"], control="c", table=table)
    assert set(found.values()) == {0.0}
