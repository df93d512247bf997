"""Counterfactual cells, decoded expression, differential expression."""

import random

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

import scdisent
from scdisent._errors import OptionError, SetupError
from scdisent.datasets import simulate_conditions, true_rates
from scdisent.model._transfer import TRANSFERS
from scdisent.nn import Cells, likelihood_class

STIMULATED, CONTROL = "stimulated", "control"
LIBRARY = 100.0
SHARES = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
TARGETS = np.array([0.2, 0.25, 0.35, 0.01, 0.19])
N_DRAWS = 40_000


def dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


# --------------------------------------------------------------- one cell's own noise


def cells_of(x):
    x = torch.as_tensor(np.asarray(x, dtype=np.float32))
    library = torch.full((len(x),), LIBRARY)
    nothing = torch.empty(0, dtype=torch.int64)
    return Cells(x, nothing, nothing, torch.zeros(len(x), 0), given_library=library)


def head_of(name, theta=2.0):
    head = likelihood_class(name)(len(SHARES))
    if name != "poisson":
        with torch.no_grad():
            head.log_theta.fill_(np.log(theta))
    return head


def raw_of(head, shares, n_cells):
    raw = torch.as_tensor(np.log(shares), dtype=torch.float32).expand(n_cells, -1)
    return torch.cat([raw] * head.n_outputs_per_gene, dim=1)


def carried(head, counts, before, after, rng):
    raws = [raw_of(head, shares, len(counts)) for shares in (before, after)]
    with torch.no_grad():
        return head.carry_over(cells_of(counts), *raws, rng=rng).numpy()


def observed(name, rng, theta=2.0):
    rate = np.tile(LIBRARY * SHARES, (N_DRAWS, 1))
    return rng.poisson(rng.gamma(theta, rate / theta) if name == "nb" else rate)


@pytest.mark.parametrize("name", ["nb", "poisson"])
def test_counts_of_one_law_become_counts_of_the_other(rng, name):
    counts = observed(name, rng)
    found = carried(head_of(name), counts, SHARES, TARGETS, rng)
    np.testing.assert_array_equal(found, np.rint(found))
    mean, theta = LIBRARY * TARGETS, 2.0
    variance = mean + (mean**2 / theta if name == "nb" else 0)
    np.testing.assert_allclose(found.mean(0), mean, rtol=0.04)
    np.testing.assert_allclose(found.var(0), variance, rtol=0.06)
    for gene, rate in enumerate(mean):
        law = stats.nbinom(theta, theta / (theta + rate)) if name == "nb" else stats.poisson(rate)
        for value in (0, int(rate // 2), int(rate), int(2 * rate)):
            assert np.mean(found[:, gene] <= value) == pytest.approx(law.cdf(value), abs=0.01)
    coupled = np.corrcoef(counts[:, 2], found[:, 2])[0, 1]
    assert coupled > 0.3  # and they are still the same cells


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
def test_nothing_changes_where_the_decoder_says_the_same(rng, name):
    counts = observed("nb", rng)[:500]
    for generator in (rng, None):
        found = carried(head_of(name), counts, SHARES, SHARES, generator)
        np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
def test_falling_genes_are_thinned_and_rising_genes_are_added_to(rng, name):
    counts = observed("nb", rng)[:2000]
    found = carried(head_of(name), counts, SHARES, TARGETS, rng)
    falls, rises = TARGETS < SHARES, TARGETS > SHARES
    assert (found[:, falls] <= counts[:, falls]).all()
    assert (found[:, rises] >= counts[:, rises]).all()
    assert (found >= 0).all()


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
def test_the_expectation_is_the_mean_of_the_draws(rng, name):
    head, one = head_of(name), np.array([[60, 0, 10, 7, 0]])
    draws = carried(head, np.repeat(one, N_DRAWS, axis=0), SHARES, TARGETS, rng)
    expected = carried(head, one, SHARES, TARGETS, None)[0]
    np.testing.assert_allclose(draws.mean(0), expected, rtol=0.03, atol=0.02)


def test_a_gene_that_the_decoder_thinks_absent_does_not_explode(rng):
    nothing = np.array([1e-30, 0.5, 0.2, 0.2, 0.1])
    for before, after in ((nothing, SHARES), (SHARES, nothing)):
        found = carried(head_of("nb"), np.full((50, 5), 3), before, after, rng)
        assert np.isfinite(found).all()
        assert found.max() < 1e6


def test_real_values_keep_their_residual(rng):
    x, before, after = (rng.normal(size=(20, 5)).astype(np.float32) for _ in range(3))
    head = likelihood_class("normal")(5)
    raws = torch.from_numpy(before), torch.from_numpy(after)
    found = head.carry_over(cells_of(x), *raws, rng=rng).numpy()
    np.testing.assert_allclose(found - after, x - before, atol=1e-6)


@pytest.mark.parametrize(("before", "after"), [(0.3, 0.8), (0.8, 0.3), (0.4, 0.4), (0.01, 0.99)])
def test_zeros_and_ones_take_the_new_chance_with_as_few_flips_as_possible(rng, before, after):
    x = (rng.random((N_DRAWS, 1)) < before).astype(np.float32)
    head = likelihood_class("bernoulli")(1)
    raws = [torch.logit(torch.full((N_DRAWS, 1), p)) for p in (before, after)]
    found = head.carry_over(cells_of(x), *raws, rng=rng).numpy()
    assert set(np.unique(found)) <= {0.0, 1.0}
    assert found.mean() == pytest.approx(after, abs=0.01)
    assert (found != x).mean() == pytest.approx(abs(after - before), abs=0.01)
    chance = head.carry_over(cells_of(x), *raws, rng=None).numpy()
    assert chance.mean() == pytest.approx(after, abs=0.01)


@pytest.mark.parametrize("before", [-200.0, -30.0, 30.0, 200.0])
@pytest.mark.parametrize("after", [-200.0, 0.0, 200.0])
def test_a_decoder_that_is_sure_and_wrong_gives_chances_all_the_same(rng, before, after):
    head, x = likelihood_class("bernoulli")(2), np.array([[0.0, 1.0]])
    raws = [torch.full((1, 2), value) for value in (before, after)]
    chance = head.carry_over(cells_of(x), *raws, rng=None).numpy()
    assert ((chance >= 0) & (chance <= 1)).all()
    head.carry_over(cells_of(x), *raws, rng=rng)


# --------------------------------------------------------------------------- predict


@pytest.fixture
def query(kit, nb_model):
    return kit.query(nb_model.adata)


@pytest.fixture
def source(query):
    """The control cells, never set up."""
    return query[(query.obs["condition"] == CONTROL).to_numpy()].copy()


def predict(model, source, **arguments):
    return model.predict(source, **{"condition": STIMULATED, **arguments})


def test_predicted_cells_say_where_they_come_from(nb_model, source, tmp_path):
    before = source.copy()
    found = predict(nb_model, source, seed=3)
    assert sparse.issparse(found.X)
    values = dense(found.X)
    np.testing.assert_array_equal(values, np.rint(values))
    assert values.min() >= 0
    assert list(found.var_names) == list(source.var_names)
    assert list(found.obs["source_cell"]) == list(source.obs_names)
    assert list(found.obs_names) == [f"{name}_{STIMULATED}" for name in source.obs_names]
    assert (found.obs["condition"] == STIMULATED).all()
    assert list(found.obs["condition"].cat.categories) == nb_model.conditions
    assert (found.obs["donor"].to_numpy() == source.obs["donor"].to_numpy()).all()
    assert found.obs["scdisent_seen"].all()
    assert found.obs["scdisent_support"].between(0, 1).all()
    assert not any(column.startswith("_scvi") for column in found.obs)
    made = found.uns["scdisent"]["prediction"]
    assert made["model"] == "DISCoVeR"
    assert made["version"] == scdisent.__version__
    assert made["seed"] == 3
    assert made["condition"] == STIMULATED
    assert made["reference"] == [CONTROL]
    assert "values drawn" in made["x"]
    found.write_h5ad(tmp_path / "found.h5ad")
    again = anndata.read_h5ad(tmp_path / "found.h5ad")
    np.testing.assert_array_equal(dense(again.X), values)
    assert list(again.uns["scdisent"]["prediction"]["reference"]) == [CONTROL]
    pd.testing.assert_frame_equal(source.obs, before.obs)  # the source is left alone
    np.testing.assert_array_equal(dense(source.X), dense(before.X))


def test_one_seed_one_draw(nb_model, source):
    first, again, other = (dense(predict(nb_model, source, seed=seed).X) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_several_draws_of_each_cell(nb_model, source):
    found = predict(nb_model, source, n_samples=3, seed=1)
    n = source.n_obs
    assert found.n_obs == 3 * n
    assert found.obs_names.is_unique
    assert found.obs_names[n] == f"{source.obs_names[0]}_{STIMULATED}_1"
    assert list(found.obs["source_cell"]) == list(source.obs_names) * 3
    draws = dense(found.X).reshape(3, n, -1)
    np.testing.assert_array_equal(draws[0], dense(predict(nb_model, source, seed=1).X))
    assert (draws[0] != draws[1]).any()


def test_the_mean_is_the_mean_of_many_draws(nb_model, source):
    few = source[:12]
    for noise in ("keep", "fresh"):
        mean = dense(predict(nb_model, few, kind="mean", noise=noise).X)
        drawn = dense(predict(nb_model, few, n_samples=400, noise=noise, seed=0).X)
        drawn = drawn.reshape(400, *few.shape)
        error = (drawn.mean(0) - mean) / np.maximum(drawn.std(0), 0.3) * np.sqrt(400)
        assert np.abs(error).max() < 5.5, noise
        assert error.std() < 1.3
    assert "expected" in predict(nb_model, few, kind="mean").uns["scdisent"]["prediction"]["x"]


def test_fresh_means_sum_to_the_library_of_the_cell(nb_model, source):
    found = dense(predict(nb_model, source, kind="mean", noise="fresh").X)
    np.testing.assert_allclose(found.sum(1), dense(source.X).sum(1), rtol=1e-4)


def test_indices_order_and_batches_do_not_change_a_cells_prediction(nb_model, source, rng):
    alone = {"kind": "mean", "anchor": None}  # a closed form is that of all source cells
    expected = dense(predict(nb_model, source, **alone).X)

    def means(cells, **arguments):
        return dense(predict(nb_model, cells, **alone, **arguments).X)

    some = rng.permutation(source.n_obs)[:11]
    mask = np.isin(np.arange(source.n_obs), some)
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(means(source, indices=some), expected[some], **close)
    np.testing.assert_allclose(means(source, indices=mask), expected[mask], **close)
    np.testing.assert_allclose(means(source, batch_size=5), expected, **close)
    genes = source[:, rng.permutation(source.n_vars)]
    found = predict(nb_model, genes, **alone)
    assert list(found.var_names) == list(source.var_names)
    np.testing.assert_allclose(dense(found.X), expected, **close)


def test_source_cells_without_a_condition_column_are_controls(nb_model, source, query):
    expected = dense(predict(nb_model, source, seed=0).X)
    bare = source.copy()
    del bare.obs["condition"]
    np.testing.assert_array_equal(dense(predict(nb_model, bare, seed=0).X), expected)
    assert "condition" not in bare.obs
    treated = query[(query.obs["condition"] == STIMULATED).to_numpy()].copy()
    back = predict(nb_model, treated, condition=CONTROL, seed=0)
    named = predict(nb_model, treated, condition=CONTROL, reference=STIMULATED, seed=0)
    np.testing.assert_array_equal(dense(back.X), dense(named.X))
    assert back.uns["scdisent"]["prediction"]["reference"] == [STIMULATED]
    with pytest.raises(OptionError, match=r"reference='new'.*\['control', 'stimulated'\]"):
        predict(nb_model, source, reference="new")


def test_without_column_and_control_the_reference_must_be_named(kit):
    adata = kit.ready(setup={"control": None})
    model = kit.trained(scdisent.DISCoVeR, adata)
    bare = kit.query(adata)[:10].copy()
    del bare.obs["condition"]
    with pytest.raises(SetupError, match=r"reference=.*\['control', 'stimulated'\]"):
        predict(model, bare)
    assert predict(model, bare, reference=CONTROL).n_obs == 10


def test_cells_of_two_other_conditions_are_moved_from_their_own(kit):
    conditions = ("control", "a", "b")
    adata = kit.ready(conditions=conditions)
    model = kit.trained(scdisent.DISCoVeR, adata)
    others = adata.obs["condition"] != "b"
    mixed = predict(model, adata, condition="b", indices=others.to_numpy(), kind="mean")
    assert mixed.uns["scdisent"]["prediction"]["reference"] == ["a", "control"]
    for level in ("control", "a"):
        chosen = (adata.obs["condition"] == level).to_numpy()
        alone = predict(model, adata, condition="b", indices=chosen, kind="mean")
        part = mixed.obs["source_cell"].isin(adata.obs_names[chosen]).to_numpy()
        np.testing.assert_allclose(dense(mixed.X)[part], dense(alone.X), rtol=1e-4, atol=1e-4)


def test_numbers_serve_as_target(kit):
    adata = kit.world()
    adata.obs["dose"] = (adata.obs["condition"] == STIMULATED).to_numpy() * 10
    scdisent.setup_anndata(adata, condition_key="dose", control=0)
    model = kit.trained(scdisent.DISCoVeR, adata)
    source = adata[adata.obs["dose"] == 0]
    for target in (10, "10"):
        found = predict(model, source, condition=target)
        assert (found.obs["condition"] == 10).all()
        assert (found.obs["dose"] == 10).all()
        assert found.obs_names[0].endswith("_10")
        model.get_latent_representation(found, representation="specific")  # it reads them again
    with pytest.raises(OptionError, match="already carry"):
        predict(model, source, condition=0)


def test_unknown_options_list_the_known_ones(nb_model, source):
    for option, known in (
        ({"kind": "best"}, "'counts', 'mean'"),
        ({"noise": "loud"}, "'keep', 'fresh'"),
        ({"transfer": "magic"}, ", ".join(map(repr, TRANSFERS))),
    ):
        with pytest.raises(OptionError, match=known):
            predict(nb_model, source, **option)
    for bad in ({"n_samples": 0}, {"n_samples": 2, "kind": "mean"}):
        with pytest.raises(OptionError, match="n_samples"):
            predict(nb_model, source, **bad)


# -------------------------------------------------------------------------- transfer


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("noise", ["keep", "fresh"])
def test_every_transfer_moves_the_cells(nb_model, source, transfer, noise):
    found = dense(predict(nb_model, source, transfer=transfer, noise=noise, kind="mean").X)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert np.abs(found - dense(source.X)).max() > 0.1


@pytest.mark.parametrize("transfer", ["mean_difference", "local_difference", "swap", "decoder"])
def test_cells_moved_to_their_own_condition_are_the_observed_cells(nb_model, source, transfer):
    found = predict(
        nb_model, source, condition=CONTROL, transfer=transfer, allow_reconstruction=True
    )
    np.testing.assert_array_equal(dense(found.X), dense(source.X))


def test_the_invariant_head_must_see_the_condition_to_be_used(kit):
    adata = kit.ready()
    model = kit.trained(scdisent.DISCoVeR, adata, invariant_head="z")
    source = np.flatnonzero(adata.obs["condition"] == CONTROL)
    with pytest.raises(OptionError, match="invariant_head='z_condition'"):
        predict(model, None, indices=source, transfer="decoder")
    for transfer in set(TRANSFERS) - {"decoder"}:
        assert predict(model, None, indices=source, transfer=transfer).n_obs == len(source)


def test_anchors_are_the_codes_of_training_cells(nb_model):
    invariant, specific = (
        nb_model.get_latent_representation(representation=block, indices=nb_model.train_indices)
        for block in ("invariant", "specific")
    )
    anchors = nb_model.anchors_
    found = torch.cat([anchors.z, anchors.w], dim=1).numpy()
    expected = np.hstack([invariant, specific])
    distance = np.abs(found[:, None] - expected[None]).max(-1)
    assert distance.min(axis=1).max() < 1e-5
    assert len(found) >= 0.8 * len(expected)
    own = nb_model.adata.obs["condition"].to_numpy()[nb_model.train_indices]
    names = np.array(nb_model.conditions)[anchors.condition.numpy()]
    assert (own[distance.argmin(axis=1)] == names).all()


def test_support_is_full_inside_the_target_and_none_far_outside(nb_model, query):
    train = np.intersect1d(
        nb_model.train_indices, np.flatnonzero(query.obs["condition"] == STIMULATED)
    )
    inside = predict(nb_model, query, indices=train, allow_reconstruction=True)
    assert np.median(inside.obs["scdisent_support"]) > 0.95
    strange = query[:5].copy()
    counts = np.zeros(strange.shape, dtype=np.float32)
    counts[:, 0] = 1e6
    strange.X = counts
    outside = predict(nb_model, strange, reference=CONTROL)
    assert outside.obs["scdisent_support"].max() < 0.05


# ------------------------------------------------------------------------ expression


def test_normalised_expression_sums_to_the_library(nb_model):
    counts = dense(nb_model.adata.X)
    for size, expected in ((1e4, 1e4), (1, 1), ("latent", counts.sum(1))):
        found = nb_model.get_normalized_expression(library_size=size)
        np.testing.assert_allclose(found.sum(axis=1), expected, rtol=1e-4)
    assert list(found.index) == list(nb_model.adata.obs_names)
    assert list(found.columns) == list(nb_model.adata.var_names)


def test_a_gene_list_chooses_columns_in_its_order(nb_model):
    every = nb_model.get_normalized_expression()
    genes = ["gene_7", "gene_2"]
    pd.testing.assert_frame_equal(nb_model.get_normalized_expression(gene_list=genes), every[genes])
    with pytest.raises(OptionError, match=r"\['ACTB'\]"):
        nb_model.get_normalized_expression(gene_list=["gene_1", "ACTB"])


def test_samples_spread_around_their_mean(nb_model):
    def expression(**arguments):
        return nb_model.get_normalized_expression(return_numpy=True, **arguments)

    samples = expression(n_samples=20, return_mean=False, seed=1)
    assert samples.shape == (20, *nb_model.adata.shape)
    np.testing.assert_allclose(expression(n_samples=20, seed=1), samples.mean(0), rtol=1e-5)
    np.testing.assert_allclose(samples.sum(-1), 1e4, rtol=1e-4)
    assert (samples.std(0) > 0).all()
    assert np.corrcoef(samples.mean(0).ravel(), expression().ravel())[0, 1] > 0.95
    some = expression(n_samples_overall=7, indices=[3, 4], seed=0)
    assert some.shape == (7, nb_model.adata.n_vars)
    chosen = nb_model.get_normalized_expression(n_samples_overall=7, indices=[3, 4], seed=0)
    assert set(chosen.index) <= set(nb_model.adata.obs_names[[3, 4]])


def test_a_named_batch_replaces_the_cells_own(nb_model, query):
    def expression(cells, **arguments):
        return nb_model.get_normalized_expression(cells, return_numpy=True, **arguments)

    levels = sorted(query.obs["donor"].unique())
    as_batch = {level: expression(query, transform_batch=level) for level in levels}
    assert np.abs(as_batch[levels[0]] - as_batch[levels[1]]).max() > 1e-3
    own = expression(query)
    for level in levels:
        chosen = (query.obs["donor"] == level).to_numpy()
        np.testing.assert_allclose(own[chosen], as_batch[level][chosen], rtol=1e-5)
    with pytest.raises(OptionError, match=r"transform_batch='donor_9'.*'donor_0', 'donor_1'"):
        expression(query, transform_batch="donor_9")


def test_the_invariant_head_of_the_paper_does_not_know_the_condition(kit):
    model = kit.trained(scdisent.DISCoVeR, kit.ready(), preset="paper")
    query = kit.query(model.adata)
    own = model.get_normalized_expression(query, reconstruction="invariant")
    query.obs["condition"] = STIMULATED
    as_other = model.get_normalized_expression(query, reconstruction="invariant")
    pd.testing.assert_frame_equal(own, as_other)
    with pytest.raises(OptionError, match="'joint', 'invariant'"):
        model.get_normalized_expression(reconstruction="specific")


def test_a_named_condition_replaces_the_cells_own(nb_model, query):
    def expression(cells, **arguments):
        return nb_model.get_normalized_expression(cells, return_numpy=True, **arguments)

    there = (query.obs["condition"] == STIMULATED).to_numpy()
    own, moved = expression(query), expression(query, transform_condition=STIMULATED)
    np.testing.assert_allclose(moved[there], own[there], rtol=1e-4)
    assert np.abs(moved[~there] - own[~there]).max() > 1e-3
    head = {"reconstruction": "invariant"}
    told = expression(query, transform_condition=STIMULATED, **head)
    query.obs["condition"] = STIMULATED
    np.testing.assert_allclose(told, expression(query, **head), rtol=1e-5)


@pytest.mark.parametrize("name", ["normal", "bernoulli"])
def test_values_without_a_library_are_decoded_as_they_are(kit, name):
    model = kit.trained(scdisent.DISCoVeR, kit.ready(name), likelihood=name)
    small, large = (model.get_normalized_expression(library_size=s) for s in (1, 1e4))
    pd.testing.assert_frame_equal(small, large)
    if name == "bernoulli":
        assert small.to_numpy().min() >= 0
        assert small.to_numpy().max() <= 1


# --------------------------------------------------------------------- planted effects


def planted(seed):
    adata = simulate_conditions(
        n_cells=700,
        n_genes=40,
        n_types=2,
        n_donors=2,
        shared_effect_genes=10,
        type_effect_genes=0,
        effect_size=1.2,
        seed=seed,
    )
    scdisent.setup_anndata(
        adata, condition_key="condition", control=CONTROL, labels_key="cell_type"
    )
    model = scdisent.DISCoVeR(adata, n_latent=4, n_hidden=32, seed=seed)
    model.train(60, batch_size=128, accelerator="cpu", enable_progress_bar=False, seed=seed)
    return model


@pytest.fixture(scope="module")
def planted_model():
    return planted(0)


def check_expression_moves_as_planted(model):
    adata = model.adata
    control = np.flatnonzero(adata.obs["condition"] == CONTROL)
    true = np.log(true_rates(adata, STIMULATED) / true_rates(adata, CONTROL))[control]
    own = model.get_normalized_expression(indices=control, return_numpy=True)
    moved = model.get_normalized_expression(
        indices=control, transform_condition=STIMULATED, return_numpy=True
    )
    found = np.log(moved / own)
    assert np.corrcoef(found.mean(0), true.mean(0))[0, 1] > 0.85
    predicted = dense(predict(model, adata, indices=control, seed=0).X)
    bulk = np.log((predicted.mean(0) + 0.1) / (dense(adata.X)[control].mean(0) + 0.1))
    assert np.corrcoef(bulk, true.mean(0))[0, 1] > 0.85
    nothing = np.abs(true).max(0) == 0
    assert np.abs(bulk[nothing]).mean() < 0.5 * np.abs(bulk[~nothing]).mean()


def check_differential_expression_finds_the_planted_genes(model, seed=0):
    effects = model.adata.uns["truth"]["effects"][f"type_0|{STIMULATED}"]
    responds = effects.abs() > 0
    table = model.differential_expression(seed=seed, n_samples_overall=500)
    assert set(table["comparison"]) == {f"{STIMULATED} vs {CONTROL}"}
    assert list(table["proba_de"]) == sorted(table["proba_de"], reverse=True)
    assert roc_auc_score(responds.loc[table.index], table["proba_de"]) > 0.85
    strong = effects.index[effects.abs() > 1]
    signs = np.sign(table.loc[strong, "lfc_mean"]) == np.sign(effects[strong])
    assert signs.mean() > 0.9


def test_expression_moves_as_planted(planted_model):
    check_expression_moves_as_planted(planted_model)


def test_differential_expression_finds_the_planted_genes(planted_model):
    for seed in (0, 1):
        check_differential_expression_finds_the_planted_genes(planted_model, seed)


@pytest.mark.science
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_effects_are_found_over_seeds(seed):
    model = planted(seed)
    check_expression_moves_as_planted(model)
    check_differential_expression_finds_the_planted_genes(model)


def test_differential_expression_is_that_of_its_seed_and_leaves_the_process_alone(planted_model):
    def state():
        numpy_state = np.random.get_state()  # noqa: NPY002
        return (
            torch.random.get_rng_state().tolist(),
            (numpy_state[1].tolist(), numpy_state[2]),
            random.getstate(),
        )

    before = state()
    first, again, other = (
        planted_model.differential_expression(seed=seed, n_samples_overall=100)
        for seed in (4, 4, 5)
    )
    assert state() == before
    pd.testing.assert_frame_equal(first, again)
    assert (first["lfc_mean"] != other["lfc_mean"].loc[first.index]).any()


def test_groups_are_named_by_column_mask_or_position(planted_model):
    adata = planted_model.adata
    treated = (adata.obs["condition"] == STIMULATED).to_numpy()

    def lfc(**arguments):
        options = {"seed": 0, "n_samples_overall": 200}
        found = planted_model.differential_expression(**options, **arguments)
        return found["lfc_mean"].loc[adata.var_names].to_numpy()

    by_default = lfc()
    np.testing.assert_array_equal(lfc(groupby="condition", group1=STIMULATED), by_default)
    np.testing.assert_array_equal(lfc(idx1=treated), by_default)
    np.testing.assert_array_equal(
        lfc(idx1=np.flatnonzero(treated), idx2=np.flatnonzero(~treated)), by_default
    )
    swapped = lfc(groupby="condition", group1=CONTROL, group2=STIMULATED)
    assert np.corrcoef(swapped, -by_default)[0, 1] > 0.95
    with pytest.raises(SetupError, match=r"groupby='nope'.*'cell_type'"):
        lfc(groupby="nope")
    with pytest.raises(OptionError, match=r"name group1.*'type_0', 'type_1'"):
        lfc(groupby="cell_type")
    with pytest.raises(OptionError, match=r"group1='new'.*'control', 'stimulated'"):
        lfc(groupby="condition", group1="new")
