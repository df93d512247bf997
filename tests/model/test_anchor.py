"""Predictions of networks brought to the mean of the closed form."""

import numpy as np
import pytest

import scdisent
from scdisent import effects as ef
from scdisent._errors import InputDataError, OptionError, SetupError
from scdisent.nn._likelihoods import CountLikelihood


def mean_of(adata):
    return np.asarray(ef.log_normalise(adata.X).mean(axis=0)).ravel()


@pytest.fixture
def model(kit, model_cls):
    return kit.trained(model_cls, kit.ready(n_cells=600, n_genes=50))


def source_of(model):
    return model.adata[model.adata.obs["condition"] == "control"].copy()


def goal_of(model, source):
    """Mean over cell types of what the closed form says, weighted by their cells."""
    goal = 0
    for group, cells in source.obs.groupby("cell_type", observed=True):
        own = source[cells.index]
        effect = ef.group_effect(model.effects_, "stimulated", group=str(group), recipe="ridge")
        goal = goal + own.n_obs / source.n_obs * np.maximum(mean_of(own) + effect, 0)
    return goal


def test_an_anchored_prediction_has_the_mean_of_the_closed_form(model):
    source = source_of(model)
    goal = goal_of(model, source)
    gaps = {}
    for anchor in (None, "ridge"):
        options = {"anchor": anchor, "anchor_weight": 1.0, "n_samples": 5}
        found = model.predict(source, condition="stimulated", **options)
        gap = mean_of(found) - goal
        gaps[anchor] = (gap - gap.mean()).std()
    assert gaps["ridge"] < 0.05
    assert gaps["ridge"] < 0.5 * gaps[None]


def test_the_weight_moves_the_mean_from_the_network_to_the_closed_form(model):
    source = source_of(model)

    def mean(weight, anchor="mean"):
        options = {"anchor": anchor, "anchor_weight": weight, "n_samples": 5}
        return mean_of(model.predict(source, condition="stimulated", **options))

    alone, half, full = mean(0.5, anchor=None), mean(0.5), mean(1.0)
    np.testing.assert_allclose(mean(0.0), alone, atol=0.15)
    way = (half - alone) @ (full - alone) / np.square(full - alone).sum()
    assert 0.35 < way < 0.65


def test_few_cells_are_drawn_together_and_the_whole_offset_is_found_from_them(model, monkeypatch):
    """Thousands of draws of a cell at a time took seconds for five cells."""
    drawn, carry_over = [], CountLikelihood.carry_over

    def counted(self, cells, *args, **options):
        drawn.append(len(cells))
        return carry_over(self, cells, *args, **options)

    monkeypatch.setattr(CountLikelihood, "carry_over", counted)
    cell = source_of(model)[:1]
    options = {"anchor": "ridge", "anchor_weight": 1.0, "n_samples": 300}
    found = model.predict(cell, condition="stimulated", **options)
    assert drawn.count(1) == 300  # only the draws that were asked for are of the cell alone
    gap = mean_of(found) - goal_of(model, cell)
    assert (gap - gap.mean()).std() < 0.1


def test_effects_are_those_of_the_training_cells_and_are_saved(model, tmp_path):
    cells = model.adata[np.sort(model.train_indices)]
    expected = ef.EffectTable.of_cells(
        ef.log_normalise(cells.X), cells.obs["cell_type"], cells.obs["condition"], control="control"
    )
    np.testing.assert_allclose(model.effects_.means, expected.means, rtol=1e-5)
    np.testing.assert_array_equal(model.effects_.n_cells, expected.n_cells)
    model.save(tmp_path / "m")
    loaded = type(model).load(tmp_path / "m")
    first, second = (
        m.predict(source_of(model), condition="stimulated", anchor="ridge") for m in (model, loaded)
    )
    np.testing.assert_array_equal(first.X.toarray(), second.X.toarray())


def test_the_residual_of_real_values_stays(kit):
    adata = kit.ready("normal")
    model = kit.trained(scdisent.DISCoVeR, adata, likelihood="normal")
    source = source_of(model)
    found = model.predict(source, condition="stimulated", anchor="ridge", anchor_weight=1.0).X
    types = source.obs["cell_type"].astype(str)
    for group in types.unique():
        own = (types == group).to_numpy()
        effect = ef.group_effect(model.effects_, "stimulated", group=group, recipe="ridge")
        moved = found[own].mean(axis=0) - source.X[own].mean(axis=0)
        np.testing.assert_allclose(moved, effect, atol=1e-4)


def test_misuse_is_refused(model):
    source = source_of(model)
    with pytest.raises(OptionError, match="'ridge', 'weighted', 'nearest', 'mean', 'auto'"):
        model.predict(source, condition="stimulated", anchor="best")
    with pytest.raises(OptionError, match="between 0 and 1"):
        model.predict(source, condition="stimulated", anchor="ridge", anchor_weight=2)
    model.effects_ = None
    with pytest.raises(SetupError, match="train it again"):
        model.predict(source, condition="stimulated", anchor="ridge")


def test_the_default_holds_half_of_the_best_closed_form_where_cell_types_are_known(kit):
    model = kit.trained(scdisent.DISCoVeR, kit.ready(n_cells=600, n_genes=50))
    source = source_of(model)
    options = {"condition": "stimulated", "seed": 0}
    found = model.predict(source, **options)
    asked = model.predict(source, **options, anchor="auto", anchor_weight=0.5)
    np.testing.assert_array_equal(found.X.toarray(), asked.X.toarray())
    made = found.uns["scdisent"]["prediction"]
    assert (made["anchor"], made["transfer"]) == ("auto", "decoder")
    plain = kit.trained(scdisent.DISCoVeR, kit.ready(setup={"labels_key": None}))
    made = plain.predict(source_of(plain), **options).uns["scdisent"]["prediction"]
    assert made["anchor"] == ""


def test_without_a_closed_form_the_default_is_what_the_network_says(kit):
    adata = kit.ready(n_cells=600, n_genes=50)
    model = kit.trained(scdisent.DISCoVeR, adata)
    source = source_of(model)
    model.effects_.n_cells[:, 0], model.effects_.means[:, 0] = 0, np.nan  # no control cells
    options = {"condition": "stimulated", "seed": 0}
    found = model.predict(source, **options)
    alone = model.predict(source, **options, anchor=None)
    np.testing.assert_array_equal(found.X.toarray(), alone.X.toarray())
    assert found.uns["scdisent"]["prediction"]["anchor"] == ""
    with pytest.raises(InputDataError, match="no group of training was seen"):
        model.predict(source, **options, anchor="auto")
