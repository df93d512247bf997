"""Cells that reach a model: queries matched by name, tables, loaders, splits."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import scdisent
from scdisent._errors import (
    InputDataError,
    NotTrainedError,
    OptionError,
    ScDisentWarning,
    SetupError,
    UnseenLevelError,
)
from scdisent.data import CellLoader, CellTable, TensorTable, split_cells
from scdisent.datasets import simulate_conditions

SMALL = {"n_latent": 3, "n_hidden": 16, "n_specific": 3}
FAST = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}


def simulated():
    adata = simulate_conditions(
        n_cells=160, n_genes=30, n_types=2, n_donors=2, shared_effect_genes=6, type_effect_genes=2
    )
    adata.obs["run"] = np.where(np.arange(adata.n_obs) % 3 == 0, "run1", "run2")
    return adata


@pytest.fixture(scope="module")
def model():
    adata = simulated()
    scdisent.setup_anndata(
        adata,
        condition_key="condition",
        control="control",
        labels_key="cell_type",
        batch_key="run",
        categorical_covariate_keys=["donor"],
    )
    model = scdisent.DISCoVeR(adata, **SMALL)
    model.train(**FAST)
    return model


@pytest.fixture
def query(model):
    """The training cells as an AnnData that was never set up."""
    own = model.adata
    obs = own.obs[["condition", "cell_type", "donor", "run"]].copy()
    return AnnData(own.X.copy(), obs=obs, var=own.var.copy())


def codes(model, adata=None, representation="full", **arguments):
    return model.get_latent_representation(adata, representation=representation, **arguments)


def decoded(model, adata=None, **arguments):
    return model.get_normalized_expression(adata, return_numpy=True, **arguments)


# ----------------------------------------------------------------- genes, cells


def test_a_query_needs_no_setup(model, query):
    before = query.copy()
    np.testing.assert_array_equal(codes(model, query), codes(model))
    np.testing.assert_array_equal(decoded(model, query), decoded(model))
    pd.testing.assert_frame_equal(query.obs, before.obs)
    assert list(query.uns) == []


def test_genes_in_another_order_give_the_same_codes(model, query, rng):
    shuffled = query[:, rng.permutation(query.n_vars)].copy()
    assert list(shuffled.var_names) != list(query.var_names)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScDisentWarning)
        np.testing.assert_array_equal(codes(model, shuffled), codes(model))
    pd.testing.assert_frame_equal(
        model.get_normalized_expression(shuffled), model.get_normalized_expression()
    )


def test_extra_genes_are_left_out_with_a_warning(model, query, rng):
    extra = AnnData(
        sparse.csr_matrix(rng.poisson(5.0, (query.n_obs, 4)).astype(np.float32)),
        var=pd.DataFrame(index=[f"other{i}" for i in range(4)]),
    )
    names = [*extra.var_names, *query.var_names]
    wide = AnnData(
        sparse.hstack([extra.X, query.X], format="csr"),
        obs=query.obs,
        var=pd.DataFrame(index=names),
    )
    with pytest.warns(ScDisentWarning, match="4 genes of the query are not in the model"):
        found = codes(model, wide)
    np.testing.assert_array_equal(found, codes(model))


def test_missing_genes_are_refused_by_name(model, query):
    with pytest.raises(InputDataError, match=r"lacks 2 .* 30 genes \(such as gene_3, gene_9\)"):
        codes(model, query[:, ~query.var_names.isin(["gene_3", "gene_9"])])


def test_a_query_with_duplicated_genes_is_refused(model, query):
    query.var_names = ["gene_1", *query.var_names[1:]]
    with pytest.raises(SetupError, match=r"var_names_make_unique\(\)"):
        codes(model, query)


def test_values_of_a_query_are_held_against_the_likelihood(model, query):
    query.X = query.X * 0.5
    with pytest.raises(InputDataError, match="likelihood='nb' needs raw counts"):
        codes(model, query)


FORMS = {
    "dense": lambda x: x.toarray(),
    "fortran": lambda x: np.asfortranarray(x.toarray()),
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "float64": lambda x: x.astype(np.float64),
    "int64": lambda x: x.astype(np.int64),
    "dense_int32": lambda x: x.toarray().astype(np.int32),
    "unsorted": lambda x: unsorted(x),
    "stored_zeros": lambda x: with_stored_zeros(x),
}


def unsorted(x):
    """The same CSR matrix with the entries of each row stored backwards."""
    x = x.copy()
    for start, end in zip(x.indptr[:-1], x.indptr[1:], strict=True):
        x.indices[start:end] = x.indices[start:end][::-1]
        x.data[start:end] = x.data[start:end][::-1]
    x.has_sorted_indices = False
    return x


def with_stored_zeros(x):
    dense = x.toarray()
    rows, columns = np.indices(dense.shape)
    every = (dense.ravel(), (rows.ravel(), columns.ravel()))
    return sparse.csr_matrix(every, shape=x.shape, dtype=x.dtype)


@pytest.mark.parametrize("form", FORMS)
def test_every_layout_and_type_of_x_gives_the_same_codes(model, query, form):
    expected = codes(model)
    query.X = FORMS[form](query.X)
    np.testing.assert_allclose(codes(model, query), expected, rtol=1e-5, atol=1e-5)
    errors = model.get_reconstruction_error(query), model.get_reconstruction_error()
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_indices_and_batch_size_only_choose(model, query, rng):
    expected = codes(model)
    some = rng.permutation(query.n_obs)[:23]
    mask = np.zeros(query.n_obs, dtype=bool)
    mask[some] = True
    np.testing.assert_allclose(codes(model, query, batch_size=7), expected, atol=1e-6)
    np.testing.assert_allclose(codes(model, query, indices=some), expected[some], atol=1e-6)
    np.testing.assert_allclose(codes(model, query, indices=mask), expected[mask], atol=1e-6)
    np.testing.assert_allclose(codes(model, query[some]), expected[some], atol=1e-6)


# ------------------------------------------------------------ columns and levels


def test_the_invariant_code_needs_no_column_at_all(model, query):
    query.obs = query.obs[[]]
    invariant = codes(model, query, "invariant")
    np.testing.assert_array_equal(invariant, codes(model, representation="invariant"))
    with pytest.raises(SetupError, match=r"no obs column \['condition'\]"):
        codes(model, query, "specific")


def test_of_an_unseen_condition_only_the_invariant_code_is_read(model, query):
    query.obs["condition"] = "new_drug"
    invariant = codes(model, query, "invariant")
    np.testing.assert_array_equal(invariant, codes(model, representation="invariant"))
    for asked in ("specific", "full"):
        with pytest.raises(UnseenLevelError) as caught:
            codes(model, query, asked)
        known = ("['new_drug']", "['control', 'stimulated']", "representation='invariant'")
        for word in (*known, "DISCoVeR.load_query_data(adata, model)"):
            assert word in str(caught.value)
    with pytest.raises(OptionError, match="source condition='new_drug' was not in training"):
        model.predict(query, condition="stimulated")
    as_control = model.predict(query, condition="stimulated", reference="control")
    assert as_control.n_obs == query.n_obs


def test_an_unseen_batch_has_codes_and_is_decoded_as_a_batch_of_training(model, query):
    query.obs["run"] = "run3"
    np.testing.assert_array_equal(codes(model, query), codes(model))
    with pytest.raises(UnseenLevelError, match=r"'run'.*\['run3'\].*transform_batch.*load_query"):
        decoded(model, query)
    with pytest.raises(UnseenLevelError, match=r"\['run3'\]"):
        model.predict(query[query.obs["condition"] == "control"], condition="stimulated")
    found = decoded(model, query, transform_batch="run1")  # what the message advises
    np.testing.assert_allclose(found, decoded(model, transform_batch="run1"), rtol=1e-5)


def test_an_unseen_covariate_is_refused_where_it_is_read(model, query):
    query.obs["donor"] = "donor_9"
    codes(model, query)
    with pytest.raises(UnseenLevelError, match=r"'donor'.*\['donor_9'\].*of training"):
        decoded(model, query)


def test_an_unseen_cell_type_is_never_read(model, query):
    query.obs["cell_type"] = "new"
    np.testing.assert_array_equal(codes(model, query), codes(model))
    np.testing.assert_array_equal(decoded(model, query), decoded(model))


def test_levels_are_matched_by_name_not_by_position(model, query):
    values = query.obs["condition"].astype(str)
    query.obs["condition"] = pd.Categorical(values, categories=["stimulated", "x", "control"])
    query.obs["run"] = pd.Categorical(query.obs["run"], categories=["run2", "run1"])
    np.testing.assert_array_equal(codes(model, query), codes(model))
    np.testing.assert_array_equal(decoded(model, query), decoded(model))


def test_a_subset_of_levels_keeps_the_codes_of_training(model, query):
    treated = (query.obs["condition"] == "stimulated").to_numpy()
    one = query[treated].copy()
    np.testing.assert_allclose(codes(model, one), codes(model)[treated], atol=1e-6)


def test_number_columns_reach_the_decoder():
    adata = simulated()
    adata.obs["age"] = np.linspace(-1, 1, adata.n_obs)
    adata.obs["size"] = 500.0
    scdisent.setup_anndata(
        adata,
        condition_key="condition",
        continuous_covariate_keys=["age"],
        size_factor_key="size",
    )
    model = scdisent.DISCoVeR(adata, **SMALL)
    model.train(**FAST)
    rates = decoded(model, library_size="latent")
    np.testing.assert_allclose(rates.sum(1), 500.0, rtol=1e-4)
    adata.obs["age"] = adata.obs["age"] + 2
    older = decoded(model, adata.copy(), library_size="latent")
    assert np.abs(older - rates).max() > 1e-3
    with pytest.raises(SetupError, match=r"no obs column \['age'\]"):
        decoded(model, AnnData(adata.X, obs=adata.obs[["condition", "size"]], var=adata.var))


GETTERS = {
    "codes": lambda m: m.get_latent_representation(),
    "expression": lambda m: m.get_normalized_expression(),
    "moved expression": lambda m: m.get_normalized_expression(transform_condition="stimulated"),
    "prediction": lambda m: m.predict(condition="stimulated"),
    "differences": lambda m: m.differential_expression(),
    "errors": lambda m: m.get_reconstruction_error(),
    "summary": lambda m: m.expression_summary(),
}


@pytest.mark.parametrize("getter", GETTERS)
def test_getters_before_training_name_the_missing_call(getter):
    adata = simulated()
    scdisent.setup_anndata(adata, condition_key="condition", control="control")
    model = scdisent.DISCoVeR(adata, **SMALL)
    with pytest.raises(NotTrainedError, match=r"Call model\.train\(\) first"):
        GETTERS[getter](model)


# ----------------------------------------------------------------------- tables


def table_of(x, rng):
    columns = {
        "labels": rng.integers(3, size=(x.shape[0], 1)),
        "age": rng.normal(size=(x.shape[0], 2)).astype(np.float32),
    }
    return CellTable(x, columns)


@pytest.mark.parametrize("layout", ["sparse", "dense", "empty_rows"])
def test_rows_of_a_table_equal_numpy_indexing(rng, layout):
    dense = rng.poisson(0.5, (50, 17)).astype(np.float32)
    if layout == "empty_rows":
        dense[::2] = 0
    table = table_of(dense if layout == "dense" else sparse.csr_matrix(dense), rng)
    tensors = TensorTable(table)
    for index in (np.arange(50), rng.permutation(50)[:9], np.array([3, 3, 0]), np.array([], int)):
        rows = tensors.rows(torch.from_numpy(index))
        x = rows["X"] if layout == "dense" else rows["X"].to_dense()
        np.testing.assert_array_equal(x.numpy(), dense[index])
        for name, column in table.columns.items():
            np.testing.assert_array_equal(rows[name].numpy(), column[index])


def test_a_table_leaves_the_users_matrix_alone(rng):
    x = sparse.csr_matrix(rng.poisson(0.5, (20, 9)).astype(np.float32))
    x = unsorted(x)
    before = x.indices.copy()
    TensorTable(CellTable(x, {}))
    np.testing.assert_array_equal(x.indices, before)


# ---------------------------------------------------------------------- loaders


def loader(n_cells=103, **arguments):
    x = np.arange(n_cells, dtype=np.float32)[:, None]  # a cell's only value is its number
    return CellLoader(TensorTable(CellTable(x, {})), **{"batch_size": 16, **arguments})


def epoch(batches):
    return [batch["X"][:, 0].int().tolist() for batch in batches]


def test_in_order_every_cell_comes_once_and_in_its_place():
    found = epoch(loader())
    assert sum(found, []) == list(range(103))
    assert len(found) == len(loader()) == 7
    chosen = np.array([5, 90, 3])
    assert epoch(loader(index=chosen)) == [[5, 90, 3]]


def test_in_training_a_cell_comes_at_most_once_an_epoch_and_the_order_changes():
    batches = loader(seed=1)
    first, second = epoch(batches), epoch(batches)
    for found in (first, second):
        flat = sum(found, [])
        assert len(set(flat)) == len(flat)
        assert set(flat) <= set(range(103))
        assert len(found) == len(batches)
        assert all(len(cells) == 16 for cells in found[:-1])
    assert first != second


@pytest.mark.parametrize(
    ("n_cells", "sizes"),
    [(32, [16, 16]), (33, [16, 16]), (34, [16, 16, 2]), (40, [16, 16, 8]), (5, [5])],
)
def test_a_last_batch_too_small_for_batch_normalisation_is_dropped(n_cells, sizes):
    assert [len(cells) for cells in epoch(loader(n_cells, seed=0))] == sizes
    rest = [n_cells % 16] if n_cells % 16 else []
    assert [len(c) for c in epoch(loader(n_cells))] == [16] * (n_cells // 16) + rest


def test_the_order_is_that_of_the_seed():
    def two_epochs(seed):
        batches = loader(seed=seed)
        return epoch(batches), epoch(batches)

    assert two_epochs(3) == two_epochs(3)
    assert two_epochs(3) != two_epochs(4)
    state = torch.random.get_rng_state()
    two_epochs(3)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("n_shards", [2, 3])
def test_shards_are_disjoint_and_of_one_length(n_shards):
    parts = [epoch(loader(seed=7, shard=(rank, n_shards))) for rank in range(n_shards)]
    flat = [cell for part in parts for batch in part for cell in batch]
    assert len(set(flat)) == len(flat)
    assert len({tuple(len(batch) for batch in part) for part in parts}) == 1  # no rank waits
    assert len(flat) >= 103 - n_shards - n_shards * 2
    for rank in range(n_shards):
        assert sum(epoch(loader(shard=(rank, n_shards))), []) == list(range(103))


# ----------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("train_size", "validation_size", "expected"),
    [
        (None, None, (0.9, 0.1, 0.0)),
        (0.7, None, (0.7, 0.3, 0.0)),
        (0.6, 0.1, (0.6, 0.1, 0.3)),
        (1.0, None, (1.0, 0.0, 0.0)),
        (0.8, 0.0, (0.8, 0.0, 0.2)),
    ],
)
def test_splits_are_disjoint_complete_stratified_and_of_the_size_asked(
    train_size, validation_size, expected
):
    strata = np.repeat([0, 1, 2], [500, 300, 200])
    parts = split_cells(strata, train_size=train_size, validation_size=validation_size, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    for part, share in zip(parts, expected, strict=True):
        assert len(part) == round(1000 * share)
        found = np.bincount(strata[part], minlength=3)
        np.testing.assert_allclose(found, share * np.array([500, 300, 200]), atol=1)


def test_a_split_is_that_of_its_seed():
    strata = np.repeat([0, 1], 50)

    def train_of(seed):
        return split_cells(strata, train_size=0.5, validation_size=None, seed=seed)[0].tolist()

    assert train_of(0) == train_of(0)
    assert train_of(0) != train_of(1)


def test_strata_too_small_to_cut_do_not_stop_a_split():
    strata = np.array([0] * 30 + [1])
    parts = split_cells(strata, train_size=0.8, validation_size=None, seed=0)
    assert [len(part) for part in parts] == [25, 6, 0]


BAD_SIZES = [(0.0, None), (1.2, None), (-0.1, 0.5), (0.9, 0.3), (0.5, -1)]


@pytest.mark.parametrize(("train_size", "validation_size"), BAD_SIZES)
def test_sizes_that_are_no_shares_are_refused(train_size, validation_size):
    with pytest.raises(OptionError, match=r"train_size must lie in \(0, 1\].*found"):
        split_cells(np.zeros(10), train_size=train_size, validation_size=validation_size, seed=0)


def test_training_refuses_them_too_and_stays_untrained(model):
    untrained = scdisent.DISCoVeR(model.adata, **SMALL)
    with pytest.raises(OptionError, match="found 0.9 and 0.5"):
        untrained.train(train_size=0.9, validation_size=0.5, **FAST)
    assert not untrained.is_trained_
