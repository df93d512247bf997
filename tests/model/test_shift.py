"""Closed-form prediction: single cells reach the mean that the effects say, and stay counts."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scdisent
from scdisent import effects as ef
from scdisent._constants import KEYS
from scdisent._errors import NotTrainedError, OptionError, SetupError
from scdisent.datasets import simulate_conditions, true_rates
from scdisent.module._shift import _moments

SETUP = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}


def world(**changes):
    sizes = {"n_cells": 3_000, "n_genes": 60, "n_types": 4, "n_donors": 2}
    return simulate_conditions(**{**sizes, "shared_effect_genes": 20, **changes})


def without(adata, hidden):
    kept = adata[~hidden].copy()
    kept.obs["condition"] = kept.obs["condition"].cat.remove_unused_categories()
    return kept


def hide_type(adata, cell_type="type_0"):
    treated = (adata.obs["cell_type"] == cell_type) & (adata.obs["condition"] != "control")
    source = (adata.obs["cell_type"] == cell_type) & (adata.obs["condition"] == "control")
    return without(adata, treated.to_numpy()), adata[source].copy(), adata[treated].copy()


def trained(adata, *, setup=None, **options):
    scdisent.setup_anndata(adata, **{**SETUP, **(setup or {})})
    model = scdisent.ShiftModel(adata, **options)
    model.train()
    return model


@pytest.fixture(scope="module")
def held_out():
    adata = world()
    train, source, truth = hide_type(adata, adata.obs["cell_type"].cat.categories[0])
    return trained(train), source, truth


def mean_of(adata):
    return np.asarray(ef.log_normalise(adata.X).mean(axis=0)).ravel()


@pytest.mark.parametrize("recipe", ef.GROUP_RECIPES)
def test_real_values_are_shifted_by_the_effect_exactly(recipe):
    adata = world()
    adata.X = np.log1p(adata.X.toarray())
    train, source, _ = hide_type(adata, adata.obs["cell_type"].cat.categories[0])
    model = trained(train, likelihood="normal")
    found = model.predict(source, condition="stimulated", transfer=recipe).X
    group = source.obs["cell_type"].iloc[0]
    expected = ef.group_effect(model.effects_, "stimulated", group=group, recipe=recipe)
    np.testing.assert_allclose(found - source.X, np.tile(expected, (len(found), 1)), atol=1e-5)


@pytest.mark.parametrize("recipe", ["ridge", "weighted", "mean"])
def test_counts_reach_the_mean_that_the_effect_says(held_out, recipe):
    model, source, _ = held_out
    found = model.predict(source, condition="stimulated", transfer=recipe, n_samples=5)
    assert sparse.issparse(found.X)
    assert (found.X.data == np.round(found.X.data)).all()
    group = source.obs["cell_type"].iloc[0]
    effect = ef.group_effect(model.effects_, "stimulated", group=group, recipe=recipe)
    goal = np.maximum(mean_of(source) + effect, 0)
    gap = mean_of(found) - goal
    gap -= gap.mean()  # effects of many genes may not add up to one library
    assert np.sqrt(np.square(gap).mean()) < 0.12 * np.sqrt(np.square(effect).mean())


def test_the_planted_response_of_a_type_that_was_not_seen_is_predicted(held_out):
    model, source, truth = held_out
    observed, control = (ef.log_normalise(x.X).toarray() for x in (truth, source))
    scores = {}
    for recipe in ("ridge", "identity"):
        found = model.predict(source, condition="stimulated", transfer=recipe, seed=1)
        cells = ef.log_normalise(found.X).toarray()
        scores[recipe] = scdisent.metrics.r2_delta(observed, cells, control)
    assert scores["ridge"] > 0.5
    assert scores["identity"] < 0.05


def test_identity_returns_the_cells(held_out):
    model, source, _ = held_out
    found = model.predict(source, condition="stimulated", transfer="identity")
    np.testing.assert_array_equal(found.X.toarray(), source.X.toarray())


def test_a_type_of_no_training_cell_is_predicted_by_its_own_profile(held_out):
    model, source, _ = held_out
    renamed = source.copy()
    renamed.obs["cell_type"] = "new"
    both = [model.predict(x, condition="stimulated", seed=2) for x in (source, renamed)]
    first, second = (mean_of(x) - mean_of(source) for x in both)
    assert np.corrcoef(first, second)[0, 1] > 0.95
    assert both[1].obs["scdisent_support"].between(0.8, 1).all()


def test_without_cell_types_there_is_one_group():
    adata = world(n_types=1)
    model = trained(adata, setup={"labels_key": None})
    source = adata[adata.obs["condition"] == "control"]
    found = model.predict(source, condition="stimulated", n_samples=3)
    observed = adata[adata.obs["condition"] == "stimulated"]
    np.testing.assert_allclose(mean_of(found), mean_of(observed), atol=0.15)


def test_an_unseen_combination_is_the_sum_of_its_parts():
    options = {"conditions": ("control", "a", "b"), "combinations": True, "interaction": 0.0}
    adata = world(n_cells=6_000, **options)
    hidden = (adata.obs["condition"] == "a+b").to_numpy()
    model = trained(without(adata, hidden))
    source = adata[adata.obs["condition"] == "control"].copy()
    found = model.predict(source, condition="a+b")
    assert not found.obs["scdisent_seen"].any()
    other_order = model.predict(source, condition="b+control+a")
    np.testing.assert_array_equal(other_order.X.toarray(), found.X.toarray())
    whole = trained(adata)
    seen = [whole.predict(source, condition=name) for name in ("a+b", "b+a", "a", "control+a")]
    assert seen[1].obs["scdisent_seen"].all()
    np.testing.assert_array_equal(seen[0].X.toarray(), seen[1].X.toarray())
    np.testing.assert_array_equal(seen[2].X.toarray(), seen[3].X.toarray())
    observed, control = (ef.log_normalise(x.X).toarray() for x in (adata[hidden], source))
    cells = ef.log_normalise(found.X).toarray()
    additive = scdisent.metrics.r2_delta(observed, cells, control)
    mean = trained(without(adata, hidden), unseen="mean").predict(source, condition="a+b")
    cells = ef.log_normalise(mean.X).toarray()
    assert additive > 0.7
    assert additive > scdisent.metrics.r2_delta(observed, cells, control) + 0.1


def test_counterfactuals_lie_nearer_to_the_true_rates_than_the_cells_themselves(held_out):
    model, source, truth = held_out
    rates = true_rates(source, "stimulated")
    found = model.predict(source, condition="stimulated", kind="mean").X
    error = np.square(np.log1p(found) - np.log1p(rates)).mean()
    assert error < 0.8 * np.square(np.log1p(source.X.toarray()) - np.log1p(rates)).mean()


def test_save_and_load_give_the_same_predictions(held_out, tmp_path):
    model, source, _ = held_out
    model.save(tmp_path / "m")
    loaded = scdisent.ShiftModel.load(tmp_path / "m")
    first, second = (m.predict(source, condition="stimulated", seed=3) for m in (model, loaded))
    np.testing.assert_array_equal(first.X.toarray(), second.X.toarray())
    np.testing.assert_array_equal(loaded.effects_.means, model.effects_.means)


@pytest.mark.parametrize("labels_key", ["cell_type", None])
def test_sums_over_stored_counts_are_those_over_all(labels_key):
    model = trained(world(n_cells=300, n_genes=30), setup={"labels_key": labels_key})
    fields = (KEYS.CONDITION, KEYS.CELL_TYPE) if labels_key else (KEYS.CONDITION,)
    (tensors,) = model._loader(None, fields=fields, batch_size=300)
    cells = model.module.cells(tensors)
    x, library = cells.dense.double(), cells.library.double()[:, None]
    mean = torch.empty_like(x)
    types = cells.cell_type if len(cells.cell_type) else torch.zeros_like(cells.condition)
    for pair in torch.stack([types, cells.condition], 1).unique(dim=0):
        own = (types == pair[0]) & (cells.condition == pair[1])
        mean[own] = library[own] * x[own].sum(dim=0) / library[own].sum()
    excess, squared = _moments(cells)
    torch.testing.assert_close(excess, ((x - mean) ** 2 - mean).sum(dim=0))
    torch.testing.assert_close(squared, (mean**2).sum(dim=0))


def test_dispersions_are_those_that_were_planted():
    adata = world(n_cells=8_000, n_genes=30, n_types=1, n_donors=1, n_factors=0, dispersion=4.0)
    model = trained(adata)
    theta = model.module.likelihoods["joint"].theta.numpy(force=True)
    assert 2.5 < np.median(theta) < 6


def test_misuse_is_refused(held_out):
    model, source, _ = held_out
    adata = world()
    scdisent.setup_anndata(adata, **SETUP)
    fresh = scdisent.ShiftModel(adata)
    with pytest.raises(NotTrainedError):
        fresh.predict(source, condition="stimulated")
    with pytest.raises(OptionError, match="only averages"):
        fresh.train(10, batch_size=3)
    with pytest.raises(OptionError, match="takes transfer="):
        model.predict(source, condition="stimulated", anchor="ridge")
    with pytest.raises(OptionError, match="'auto', 'stacked', 'ridge'"):
        model.predict(source, condition="stimulated", transfer="swap")
    with pytest.raises(OptionError, match="'nb', 'poisson', 'normal'"):
        scdisent.ShiftModel(adata, likelihood="bernoulli")
    with pytest.raises(OptionError, match="condition table"):
        trained(world(), unseen="ridge").predict(source, condition="new")
    other = world()
    scdisent.setup_anndata(other, condition_key=None)
    with pytest.raises(SetupError, match="condition_key=None"):
        scdisent.ShiftModel(other)


def test_an_unseen_dose_is_interpolated():
    adata = world(doses=(0.25, 0.5, 1.0), n_cells=6_000)
    dose = np.where(adata.obs["condition"] == "control", 0.0, adata.obs["dose"])
    adata.obs["condition"] = pd.Categorical([f"d{x:g}" for x in dose])
    table = pd.DataFrame({"dose": [0.25, 0.5, 1.0]}, index=["d0.25", "d0.5", "d1"])
    hidden = (adata.obs["condition"] == "d0.5").to_numpy()
    train = without(adata, hidden)
    model = trained(train, setup={"control": "d0", "condition_table": table})
    source = adata[adata.obs["condition"] == "d0"].copy()
    found = model.predict(source, condition="d0.5", n_samples=2)
    observed, control = (ef.log_normalise(x.X).toarray() for x in (adata[hidden], source))
    cells = ef.log_normalise(found.X).toarray()
    assert scdisent.metrics.r2_delta(observed, cells, control) > 0.7
