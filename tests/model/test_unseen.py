"""DISCoVeR with codes computed from a condition table: conditions without cells."""

import numpy as np
import pandas as pd
import pytest

import scdisent
from scdisent import metrics as sm
from scdisent._errors import OptionError
from scdisent.datasets import simulate_conditions
from scdisent.effects import log_normalise

HIDDEN = "a+b"
FIT = {"max_epochs": 40, "batch_size": 256, "seed": 0, "enable_progress_bar": False}


def parts_table():
    """A row for each single treatment, and a second name for the first of them."""
    frame = pd.DataFrame({"part": ["a", "b", "c", "a"], "dose": [1.0, 1.0, 1.0, 0.0]})
    frame.index = ["a", "b", "c", "nothing of a"]
    frame.loc["alias of a"] = {"part": "a", "dose": 1.0}
    return scdisent.ConditionTable(frame, dose="dose")


@pytest.fixture(scope="module")
def pairs():
    """Singles and pairs of three treatments; one pair is hidden."""
    names = ("control", "a", "b", "c")
    adata = simulate_conditions(
        n_cells=4_000, n_genes=150, conditions=names, combinations=True, n_types=3, seed=1
    )
    hidden = (adata.obs["condition"] == HIDDEN).to_numpy()
    train, truth = adata[~hidden].copy(), adata[hidden].copy()
    train.obs["condition"] = train.obs["condition"].cat.remove_unused_categories()
    scdisent.setup_anndata(
        train,
        condition_key="condition",
        control="control",
        labels_key="cell_type",
        condition_table=parts_table(),
    )
    model = scdisent.DISCoVeR(train, n_latent=8, n_hidden=64, seed=0)
    model.train(**FIT)
    return model, train[train.obs["condition"] == "control"].copy(), truth


def expression(adata):
    return np.asarray(log_normalise(adata.X).todense())


@pytest.mark.parametrize("recipe", ["mean_difference", "prior", "decoder"])
def test_a_pair_without_cells_is_predicted_from_its_parts(pairs, recipe):
    model, source, truth = pairs
    found = model.predict(source, condition=HIDDEN, transfer=recipe, seed=0)
    arguments = expression(truth), expression(found), expression(source)
    r = sm.pearson_delta(*arguments)
    part = sm.pearson_delta(
        arguments[0], expression(model.predict(source, condition="a")), arguments[2]
    )
    assert r > 0.85
    assert r > part + 0.1
    assert not found.obs["scdisent_seen"].any()
    assert found.uns["scdisent"]["prediction"]["code_distance"] > 0


def test_the_closed_form_of_a_pair_can_lead(pairs):
    model, source, truth = pairs
    found = model.predict(source, condition=HIDDEN, anchor="auto", seed=0)
    assert sm.pearson_delta(*map(expression, (truth, found, source))) > 0.9


def test_by_default_w_is_moved_half_way_to_the_closed_form_also_without_cell_types(pairs, kit):
    model, source, _ = pairs
    same = {"transfer": "mean_difference", "anchor": "auto", "anchor_weight": 0.5}
    train = model.adata.copy()
    for key in [key for key in train.uns if key.startswith("_scvi")]:
        del train.uns[key]
    keys = {"condition_key": "condition", "control": "control", "condition_table": parts_table()}
    scdisent.setup_anndata(train, **keys)
    untyped = kit.trained(scdisent.DISCoVeR, train)
    for each in (model, untyped):
        by_default = each.predict(source, condition=HIDDEN, seed=0)
        stated = each.predict(source, condition=HIDDEN, seed=0, **same)
        np.testing.assert_array_equal(by_default.X.toarray(), stated.X.toarray())
    seen = untyped.predict(source, condition="a", seed=0).uns["scdisent"]["prediction"]
    assert (seen["transfer"], seen["anchor"]) == ("decoder", "")


@pytest.mark.parametrize("recipe", ["prior", "decoder"])
def test_another_name_with_the_same_row_is_the_same_condition(pairs, recipe):
    model, source, _ = pairs
    options = {"transfer": recipe, "kind": "mean", "anchor": None}
    seen = model.predict(source, condition="a", **options)
    alias = model.predict(source, condition="alias of a", **options)
    np.testing.assert_allclose(alias.X, seen.X, rtol=1e-4, atol=1e-5)
    assert seen.obs["scdisent_seen"].all()
    assert not alias.obs["scdisent_seen"].any()


@pytest.mark.parametrize("recipe", ["mean_difference", "decoder"])
def test_dose_zero_of_a_known_treatment_is_the_control(pairs, recipe):
    model, source, _ = pairs
    same, options = np.asarray(source.X.todense()), {"transfer": recipe, "kind": "mean"}
    found = model.predict(source, condition="nothing of a", anchor=None, **options)
    np.testing.assert_allclose(found.X, same, rtol=1e-5, atol=1e-5)
    # The closed form of dose zero is no change; the offset that leads there is found by steps.
    led = model.predict(source, condition="nothing of a", **options)
    np.testing.assert_allclose(led.X.mean(axis=0), same.mean(axis=0), rtol=1e-3)


def test_expression_is_decoded_under_an_unseen_condition(pairs):
    model, source, _ = pairs
    for reconstruction in ("joint", "invariant"):
        options = {"transform_condition": HIDDEN, "reconstruction": reconstruction}
        found = model.get_normalized_expression(source, **options)
        assert found.shape == source.shape
        assert np.isfinite(np.asarray(found)).all()


def test_a_saved_model_predicts_the_same_unseen_pair(pairs, tmp_path):
    model, source, _ = pairs
    model.save(tmp_path / "model")
    loaded = scdisent.DISCoVeR.load(tmp_path / "model")
    one, other = (m.predict(source, condition=HIDDEN, kind="mean") for m in (model, loaded))
    np.testing.assert_array_equal(one.X, other.X)


def test_recipes_that_need_cells_of_the_target_are_refused(pairs):
    model, source, _ = pairs
    for recipe in ("local_difference", "nearest", "swap"):
        with pytest.raises(OptionError, match="needs training cells of 'a\\+b'"):
            model.predict(source, condition=HIDDEN, transfer=recipe)
    with pytest.raises(OptionError, match="no row for 'd'"):
        model.predict(source, condition="a+d")


def test_codes_need_a_prior_that_reads_them(kit):
    adata = kit.ready(setup={"condition_table": pd.DataFrame({"d": [1.0]}, index=["stimulated"])})
    with pytest.raises(OptionError, match="specific_prior='embedding'"):
        scdisent.DISCoVeR(adata, specific_prior="standard", condition_code="covariates")
    assert scdisent.DISCoVeR(adata, specific_prior="standard").module.code is None
    assert scdisent.DISCoVeR(adata, condition_code="index").module.code is None
    assert scdisent.DISCoVeR(adata).module.code is not None
