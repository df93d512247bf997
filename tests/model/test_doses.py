"""Doses as a column of the cells: setup, names, predictions between the doses of training."""

import numpy as np
import pandas as pd
import pytest

import scdisent
from scdisent import effects as ef
from scdisent import metrics as sm
from scdisent._errors import InputDataError, OptionError, SetupError
from scdisent.datasets import simulate_conditions

DOSES = (0.1, 0.25, 0.5, 1.0)
HIDDEN = 0.5
SETUP = {
    "condition_key": "condition",
    "control": "control",
    "labels_key": "cell_type",
    "dose_key": "dose",
}


def world(seed=0, **changes):
    sizes = {"n_cells": 3_000, "n_genes": 120, "n_types": 3, "doses": DOSES, "seed": seed}
    return simulate_conditions(**{**sizes, **changes})


def split(adata):
    """Without the hidden dose, the control cells, and the cells at that dose."""
    treated = adata.obs["condition"] != "control"
    hidden = (treated & np.isclose(adata.obs["dose"], HIDDEN)).to_numpy()
    train = adata[~hidden].copy()
    return train, train[train.obs["condition"] == "control"].copy(), adata[hidden].copy()


@pytest.fixture(scope="module")
def dosed():
    train, source, truth = split(world())
    scdisent.setup_anndata(train, **SETUP)
    model = scdisent.DISCoVeR(train, n_latent=6, n_hidden=64, seed=0)
    model.train(40, batch_size=256, seed=0, enable_progress_bar=False)
    return model, source, truth


def expression(adata):
    return np.asarray(ef.log_normalise(adata.X).todense())


def test_each_dose_is_a_condition_and_the_users_columns_stay(dosed):
    train, _, _ = split(world())
    before = train.obs.copy()
    scdisent.setup_anndata(train, **SETUP)
    pd.testing.assert_frame_equal(train.obs[before.columns], before)
    assert all(name.startswith("_scvi") for name in set(train.obs) - set(before))
    model = scdisent.ShiftModel(train)
    assert sorted(model.conditions) == [
        "control", "stimulated@0.1", "stimulated@0.25", "stimulated@1",
    ]  # fmt: skip


def test_an_unseen_dose_lies_between_its_neighbours(dosed):
    model, source, truth = dosed
    real = expression(truth), expression(source)

    def r_and_gap(**target):
        found = expression(model.predict(source, condition="stimulated", seed=0, **target))
        return sm.pearson_delta(real[0], found, real[1]), sm.mse_mean(real[0], found)

    (r, gap), others = r_and_gap(dose=HIDDEN), [r_and_gap(dose=dose) for dose in (0.25, 1.0)]
    assert r > 0.85
    assert gap < 0.7 * min(other for _, other in others)
    size = {
        dose: model.predict(source, condition="stimulated", dose=dose, kind="mean").X.std()
        for dose in DOSES
    }
    assert len(set(size.values())) == len(DOSES)


def test_what_a_prediction_says_of_its_dose(dosed):
    model, source, _ = dosed
    found = model.predict(source[:5], condition="stimulated", dose=0.3)
    assert (found.obs["condition"] == "stimulated").all()
    assert (found.obs["dose"] == 0.3).all()
    assert not found.obs["scdisent_seen"].any()
    assert found.uns["scdisent"]["prediction"]["condition"] == "stimulated@0.3"
    full = model.predict(source[:5], condition="stimulated@0.3")
    np.testing.assert_array_equal(full.X.toarray(), found.X.toarray())
    back = model.predict(found, condition="control", reference="stimulated@0.25")
    assert (back.obs["condition"] == "control").all()
    assert (back.obs["dose"] == 0).all()


def test_dose_zero_is_the_control(dosed):
    model, _, truth = dosed
    treated = truth[:20].copy()
    found = [
        model.predict(treated, reference="stimulated@1", kind="mean", **target).X
        for target in ({"condition": "stimulated", "dose": 0}, {"condition": "control"})
    ]
    np.testing.assert_array_equal(*found)


def test_a_saved_model_knows_its_doses(dosed, tmp_path):
    model, source, _ = dosed
    model.save(tmp_path / "model")
    loaded = scdisent.DISCoVeR.load(tmp_path / "model", split(world())[0])
    options = {"condition": "stimulated", "dose": 0.7, "kind": "mean"}
    np.testing.assert_array_equal(
        model.predict(source, **options).X, loaded.predict(source, **options).X
    )
    assert len(loaded.get_latent_representation(representation="specific"))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_shift_interpolates_in_the_logarithm_of_the_dose(seed):
    train, source, _ = split(world(seed))
    scdisent.setup_anndata(train, **SETUP)
    model = scdisent.ShiftModel(train)
    model.train()
    group = model.effects_.groups[0]
    low, high = (
        ef.group_effect(model.effects_, f"stimulated@{d:g}", group=group) for d in (0.25, 1)
    )
    share = (np.log1p(0.5) - np.log1p(0.25)) / (np.log1p(1) - np.log1p(0.25))
    found = ef.predicted_effect(
        model.effects_, "stimulated@0.5", group=group, conditions=model.condition_table
    )
    np.testing.assert_allclose(found, (1 - share) * low + share * high)


def test_what_is_known_of_a_drug_holds_at_every_dose():
    adata = world()
    table = pd.DataFrame({"kind": ["cytokine"]}, index=["stimulated"])
    scdisent.setup_anndata(adata, **SETUP, condition_table=table)
    assert scdisent.DISCoVeR(adata).condition_table.categories == ["kind"]


def test_misuse_is_refused():
    adata = world(n_cells=400)
    with pytest.raises(SetupError, match="dose_key='none' is not a column"):
        scdisent.setup_anndata(adata, **{**SETUP, "dose_key": "none"})
    with pytest.raises(SetupError, match="needs condition_key"):
        scdisent.setup_anndata(adata, condition_key=None, dose_key="dose")
    frame = pd.DataFrame({"dose": [1.0]}, index=["stimulated"])
    with pytest.raises(SetupError, match="from column 'dose' of condition_table"):
        scdisent.setup_anndata(adata, **SETUP, condition_table=frame)
    wrong = adata.copy()
    wrong.obs.loc[wrong.obs_names[wrong.obs["condition"] != "control"][0], "dose"] = np.nan
    with pytest.raises(InputDataError, match="1 cells have none, such as .* with nan"):
        scdisent.setup_anndata(wrong, **SETUP)
    assert not any(name.startswith("_scvi") for name in wrong.obs)
    scdisent.setup_anndata(adata, **SETUP)
    model = scdisent.ShiftModel(adata)
    model.train()
    with pytest.raises(OptionError, match=r"'stimulated' has no dose.*dose="):
        model.predict(adata, condition="stimulated")
    with pytest.raises(OptionError, match="must be a dose of at least 0"):
        model.predict(adata, condition="stimulated", dose=-1.0)
    with pytest.raises(OptionError, match="names a dose already"):
        model.predict(adata, condition="stimulated@1", dose=1.0)


def test_a_name_without_a_dose_is_not_taken_for_dose_one(dosed):
    model, source, _ = dosed
    for call in (
        lambda: model.predict(source, condition="stimulated"),
        lambda: model.get_normalized_expression(source, transform_condition="stimulated"),
    ):
        with pytest.raises(OptionError, match="has no dose"):
            call()


def test_control_cells_need_no_column_of_doses(dosed):
    model, source, _ = dosed
    bare = source.copy()
    del bare.obs["dose"]
    options = {"condition": "stimulated", "dose": 0.25, "kind": "mean"}
    first, second = (model.predict(x, **options).X for x in (source, bare))
    np.testing.assert_array_equal(first, second)
