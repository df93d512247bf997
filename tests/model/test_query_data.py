"""A trained model on new cells: few-shot conditions, new batches, other gene orders."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scdisent
from scdisent import metrics as sm
from scdisent._errors import InputDataError, NotTrainedError, OptionError, ScDisentWarning
from scdisent.datasets import simulate_conditions
from scdisent.effects import log_normalise

SETUP = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}
FIT = {"batch_size": 256, "seed": 0, "enable_progress_bar": False}
NEW, N_FEW = "c", 60


def world():
    return simulate_conditions(
        n_cells=4_000, n_genes=150, n_types=3, conditions=("control", "a", "b", NEW), seed=3
    )


def without(adata, mask):
    kept = adata[~mask].copy()
    kept.obs["condition"] = kept.obs["condition"].cat.remove_unused_categories()
    return kept


@pytest.fixture(scope="module")
def reference():
    adata = world()
    train = without(adata, (adata.obs["condition"] == NEW).to_numpy())
    scdisent.setup_anndata(train, **SETUP)
    model = scdisent.DISCoVeR(train, n_latent=8, n_hidden=64, seed=0)
    model.train(40, **FIT)
    return model


@pytest.fixture(scope="module")
def few():
    """A few cells of one type under the new condition, and as many controls."""
    adata = world()
    first = adata.obs["cell_type"].cat.categories[0]
    rows = []
    for condition in (NEW, "control"):
        own = (adata.obs["condition"] == condition) & (adata.obs["cell_type"] == first)
        rows.append(np.flatnonzero(own)[:N_FEW])
    return adata[np.concatenate(rows)].copy()


@pytest.fixture(scope="module")
def adapted(reference, few):
    model = scdisent.DISCoVeR.load_query_data(few, reference)
    model.train(100, batch_size=64, seed=0, enable_progress_bar=False)
    return model


def expression(adata):
    return np.asarray(log_normalise(adata.X).todense())


def test_a_few_cells_of_one_type_tell_what_a_condition_does_to_the_others(adapted, few):
    adata = world()
    other = adata.obs["cell_type"] != few.obs["cell_type"].iloc[0]
    truth = adata[other & (adata.obs["condition"] == NEW)]
    source = adata[other & (adata.obs["condition"] == "control")].copy()

    def r(condition, **options):
        found = adapted.predict(source, condition=condition, seed=0, **options)
        return sm.pearson_delta(expression(truth), expression(found), expression(source))

    others = max(r(name) for name in ("a", "b"))
    assert r(NEW) > max(0.7, others + 0.5)
    # Alone, the network can only say what it has seen genes do together.
    assert others + 0.05 < r(NEW, anchor=None) < r(NEW)


def test_what_was_known_stays_as_it_was(reference, adapted):
    source = reference.adata[reference.adata.obs["condition"] == "control"][:50].copy()
    for transfer in ("decoder", "mean_difference"):
        options = {"condition": "a", "kind": "mean", "anchor": None, "transfer": transfer}
        before, after = (m.predict(source, **options).X for m in (reference, adapted))
        np.testing.assert_allclose(after, before, rtol=1e-6)
    np.testing.assert_array_equal(
        reference.get_latent_representation(source), adapted.get_latent_representation(source)
    )
    known = len(reference.conditions)
    np.testing.assert_array_equal(
        adapted.effects_.means[:, :known], reference.effects_.means[:, :known]
    )


def test_only_new_levels_have_been_trained(reference, adapted):
    old, new = (dict(m.module.named_parameters()) for m in (reference, adapted))
    grown = {name for name in new if new[name].shape != old[name].shape}
    assert grown == {
        "encoders.specific.label.weight",
        "prior.embedding.weight",
        "decoders.invariant.first.weight",
    }
    for name in set(new) - grown:
        torch.testing.assert_close(new[name], old[name], rtol=0, atol=0)
    rows = len(reference.conditions)
    for name in ("encoders.specific.label.weight", "prior.embedding.weight"):
        torch.testing.assert_close(new[name][:rows], old[name], rtol=0, atol=0)


def test_an_adapted_model_is_saved_and_read_again(adapted, few, tmp_path):
    adapted.save(tmp_path / "model")
    loaded = scdisent.DISCoVeR.load(tmp_path / "model")
    options = {"condition": NEW, "seed": 0}
    source = few[few.obs["condition"] == "control"].copy()
    first, second = (m.predict(source, **options).X.toarray() for m in (adapted, loaded))
    np.testing.assert_array_equal(first, second)


def thinned(adata, is_thinned, share):
    """A fifth of the genes is measured less well in some cells."""
    counts = adata.X.toarray()
    fewer = np.random.default_rng(0).binomial(counts[:, ::5].astype(int), share)
    counts[:, ::5] = np.where(is_thinned[:, None], fewer, counts[:, ::5])
    adata.X = sparse.csr_matrix(counts.astype(np.float32))


def batches():
    """Two batches to train on, and a third that does four times as much of the same."""
    adata = world()
    adata.obs["batch"] = pd.Categorical(np.random.default_rng(1).choice(list("012"), adata.n_obs))
    thinned(adata, (adata.obs["batch"] == "1").to_numpy(), 0.7)
    thinned(adata, (adata.obs["batch"] == "2").to_numpy(), 0.25)
    is_query = (adata.obs["batch"] == "2").to_numpy()
    train, query = adata[~is_query].copy(), adata[is_query].copy()
    train.obs["batch"] = train.obs["batch"].cat.remove_unused_categories()
    return train, query


def share_of_thinned(values):
    values = np.asarray(values)
    return float((values[:, ::5].sum(axis=1) / values.sum(axis=1)).mean())


def test_a_new_batch_gets_weights_of_its_own():
    train, query = batches()
    scdisent.setup_anndata(train, **SETUP, batch_key="batch")
    reference = scdisent.DISCoVeR(train, n_latent=6, n_hidden=48, seed=0)
    reference.train(30, **FIT)
    model = scdisent.DISCoVeR.load_query_data(query, reference)
    model.train(40, **FIT)
    truth = share_of_thinned(query.X.toarray())
    found = {
        batch: share_of_thinned(model.get_normalized_expression(query, transform_batch=batch))
        for batch in ("0", "1", "2")
    }
    nearest = min(abs(found[batch] - truth) for batch in ("0", "1"))
    assert abs(found["2"] - truth) < 0.5 * nearest
    old = train[:20].copy()
    before, after = (np.asarray(m.get_normalized_expression(old)) for m in (reference, model))
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_the_first_batch_of_a_reference_without_any_stays_as_it_was():
    train, query = batches()
    scdisent.setup_anndata(train, **SETUP, batch_key="batch")
    train = train[train.obs["batch"] == "0"].copy()
    train.obs["batch"] = train.obs["batch"].cat.remove_unused_categories()
    scdisent.setup_anndata(train, **SETUP, batch_key="batch")
    reference = scdisent.DISCoVeR(train, n_latent=3, n_hidden=16, seed=0)
    reference.train(2, **FIT)
    model = scdisent.DISCoVeR.load_query_data(query, reference)
    assert model.module.n_nuisance == 2
    model.train(2, **FIT)
    old = train[:20].copy()
    before, after = (np.asarray(m.get_normalized_expression(old)) for m in (reference, model))
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_genes_are_matched_by_name(reference, few):
    shuffled = few[:, ::-1].copy()
    extra = few[:, :1].copy()
    extra.var_names = ["further"]
    both = anndata.concat([shuffled, extra], axis=1, merge="first")
    with pytest.warns(ScDisentWarning, match="1 genes of the query are not in the model"):
        model = scdisent.DISCoVeR.load_query_data(both, reference)
    assert list(model.adata.var_names) == list(reference.adata.var_names)
    np.testing.assert_array_equal(model.adata.X.toarray(), few.X.toarray())
    assert list(both.var_names) != list(model.adata.var_names)
    with pytest.raises(InputDataError, match="lacks 10 of the model's"):
        scdisent.DISCoVeR.load_query_data(few[:, 10:].copy(), reference)


def test_misuse_is_refused(few, kit):
    adata = kit.ready()
    with pytest.raises(NotTrainedError):
        scdisent.DISCoVeR.load_query_data(adata.copy(), scdisent.DISCoVeR(adata))
    table = pd.DataFrame({"strength": [1.0, 2.0]}, index=["stimulated", "more"])
    coded = kit.trained(scdisent.DISCoVeR, kit.ready(setup={"condition_table": table}))
    query = kit.world()
    query.obs["condition"] = query.obs["condition"].astype(str).replace("stimulated", "more")
    with pytest.raises(OptionError, match=r"\['more'\] need no cells"):
        scdisent.DISCoVeR.load_query_data(query, coded)


def test_a_fixed_prior_has_no_room_for_a_new_condition(kit):
    reference = kit.trained(scdisent.DISCoVeR, kit.ready(), specific_prior="fixed", n_specific=4)
    query = kit.world()
    query.obs["condition"] = query.obs["condition"].astype(str).replace("stimulated", "more")
    with pytest.raises(OptionError, match=r"\['more'\].*specific_prior='embedding'"):
        scdisent.DISCoVeR.load_query_data(query, reference)


def test_cells_with_nothing_new_are_refused(reference):
    known = reference.adata[:50].copy()
    known.obs = known.obs[[name for name in known.obs if not name.startswith("_scvi")]]
    known.uns.clear()
    with pytest.raises(OptionError, match="nothing to learn"):
        scdisent.DISCoVeR.load_query_data(known, reference)
    assert not [name for name in [*known.obs, *known.uns] if name.startswith("_scvi")]


def test_cells_of_an_adapted_model_serve_every_other_class(adapted):
    shift = scdisent.ShiftModel(adapted.adata)
    assert shift.conditions == adapted.conditions


def test_a_saved_adapted_model_is_not_trained_on(adapted, few, tmp_path):
    adapted.save(tmp_path / "model")
    loaded = scdisent.DISCoVeR.load(tmp_path / "model", few.copy())
    with pytest.raises(OptionError, match="adapted to new cells and saved"):
        loaded.train(1)


def test_means_of_known_classes_stay_in_the_preset_of_the_paper(few):
    train = without(world(), (world().obs["condition"] == NEW).to_numpy())
    scdisent.setup_anndata(train, **SETUP)
    reference = scdisent.DISCoVeR(train, preset="paper", n_latent=3, n_hidden=16, seed=0)
    reference.train(1, **FIT)
    model = scdisent.DISCoVeR.load_query_data(few.copy(), reference)
    model.train(2, **FIT)
    known = len(reference.conditions)
    torch.testing.assert_close(
        model.module.prior.running_mean[:known], reference.module.prior.running_mean
    )
