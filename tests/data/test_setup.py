"""Setup: what a user can get wrong, one clear error each, and nothing written."""

import logging
import random
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from scipy import sparse

import scdisent
from scdisent._errors import InputDataError, OptionError, ScDisentError, ScDisentWarning, SetupError
from scdisent.conditions import ConditionTable
from scdisent.model._setup import MODELS

SMALL = {"n_latent": 2, "n_hidden": 8}


@pytest.fixture(autouse=True)
def _first_import_done():
    """Third parties add filters for their own warnings when they are imported."""
    assert scdisent.setup_anndata


@pytest.fixture
def cells(rng):
    """60 cells of counts: two conditions crossed with batches, donors and types."""
    counts = rng.poisson(2.0, (60, 12)).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {
            "condition": np.tile(["control", "treated"], 30),
            "batch": np.tile(["b1", "b1", "b2", "b2"], 15),
            "donor": np.repeat(["d1", "d2", "d3"], 20),
            "cell_type": np.tile(["B", "T", "T"], 20),
            "depth": counts.sum(1),
        },
        index=[f"cell{i}" for i in range(60)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(12)])
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=var)


def setup(adata, **changes):
    scdisent.setup_anndata(adata, **{"condition_key": "condition", **changes})


def in_layer(adata, x):
    adata.layers["raw"] = x
    return "raw"


def contents(adata):
    """Everything an AnnData holds, in a form that can be compared."""
    x = adata.X.toarray() if sparse.issparse(adata.X) else np.array(adata.X)
    slots = {
        slot: sorted(name for name in getattr(adata, slot) if name is not None)
        for slot in ("uns", "obsm", "varm", "layers", "obsp")
    }
    return x, adata.obs.copy(), adata.var.copy(), slots


def assert_same(before, after):
    np.testing.assert_array_equal(before[0], after[0])
    pd.testing.assert_frame_equal(before[1], after[1])
    pd.testing.assert_frame_equal(before[2], after[2])
    assert before[3] == after[3]


def assert_refused(adata, error, *words, **arguments):
    """Setup raises ``error`` with a message that holds all words, and leaves the AnnData alone."""
    before = contents(adata)
    with pytest.raises(error) as caught:
        setup(adata, **arguments)
    for word in words:
        assert word in str(caught.value)
    assert isinstance(caught.value, ScDisentError)
    assert_same(before, contents(adata))


# ------------------------------------------------------------------ expression


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("as_matrix", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_values_that_are_not_finite_are_counted_and_refused(cells, bad, as_matrix):
    counts = cells.X.toarray()
    counts[[3, 7], [1, 2]] = bad
    cells.X = as_matrix(counts)
    assert_refused(cells, InputDataError, "X holds 2 values", "NaN or infinite", "before setup")


def test_the_layer_with_the_bad_values_is_named(cells):
    counts = cells.X.toarray()
    counts[0, 0] = np.nan
    layer = in_layer(cells, counts)
    assert_refused(cells, InputDataError, "layers['raw'] holds 1 values", layer=layer)
    setup(cells)  # X itself is fine


@pytest.mark.parametrize("as_matrix", [sparse.csr_matrix, np.asarray])
def test_cells_without_counts_stop_setup_and_the_advised_call_helps(cells, as_matrix):
    counts = cells.X.toarray()
    counts[[4, 9, 11]] = 0
    cells.X = as_matrix(counts)
    advice = "sc.pp.filter_cells(adata, min_counts=1)"
    assert_refused(cells, InputDataError, "3 of 60 cells have no counts in X", advice)
    sc.pp.filter_cells(cells, min_counts=1)
    setup(cells)
    assert cells.n_obs == 57


def test_genes_without_counts_are_a_warning_with_the_call(cells):
    counts = cells.X.toarray()
    counts[:, [2, 5]] = 0
    cells.X = sparse.csr_matrix(counts)
    with pytest.warns(ScDisentWarning, match=r"2 of 12 genes have no counts in X.*filter_genes"):
        setup(cells)
    assert MODELS[0](cells, **SMALL).module is not None


def test_empty_data_are_refused(cells):
    assert_refused(cells[:0].copy(), ScDisentError)
    assert_refused(cells[:, :0].copy(), InputDataError, "X is empty", "Pass cells and genes")
    without = cells.copy()
    without.X = None
    with pytest.raises(InputDataError, match="X is empty"):
        setup(without)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_negative_values_do_not_fit_a_count_likelihood(cells, model, likelihood):
    counts = cells.X.toarray()
    counts[[0, 1, 2], 3] = -1
    layer = in_layer(cells, counts)
    setup(cells, layer=layer)
    with pytest.raises(InputDataError) as caught:
        model(cells, likelihood=likelihood, **SMALL)
    for word in (f"likelihood={likelihood!r}", "layers['raw'] holds 3 negative", "'normal'"):
        assert word in str(caught.value)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("as_matrix", [sparse.csr_matrix, np.asarray])
def test_fractions_do_not_fit_a_count_likelihood(cells, model, as_matrix):
    half = cells.X.toarray()
    half[:30] += 0.5
    cells.X = as_matrix(half)
    setup(cells)
    share = (cells[:30].n_obs * 12) / np.count_nonzero(half)
    share = share if sparse.issparse(cells.X) else 0.5
    with pytest.raises(InputDataError) as caught:
        model(cells, likelihood="nb", **SMALL)
    for word in ("needs raw counts", f"{share:.0%}", f"largest: {half.max():.3g}", "'normal'"):
        assert word in str(caught.value)


@pytest.mark.parametrize("model", MODELS)
def test_whole_numbers_with_normal_are_a_warning_and_log_values_are_not(cells, model):
    setup(cells)
    with pytest.warns(ScDisentWarning, match=r"looks like raw counts.*likelihood='nb'"):
        model(cells, likelihood="normal", **SMALL)
    cells.layers["log"] = np.log1p(cells.X.toarray())
    setup(cells, layer="log")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScDisentWarning)
        model(cells, likelihood="normal", **SMALL)


@pytest.mark.parametrize("model", MODELS)
def test_bernoulli_takes_zeros_and_ones_only(cells, model):
    setup(cells)
    n_others = int((cells.X.data > 1).sum())
    with pytest.raises(InputDataError) as caught:
        model(cells, likelihood="bernoulli", **SMALL)
    for word in ("needs zeros and ones", f"{n_others:,} values of X", "Binarise"):
        assert word in str(caught.value)
    cells.X = sparse.csr_matrix(cells.X.toarray() > 0, dtype=np.float32)
    setup(cells)
    assert model(cells, likelihood="bernoulli", **SMALL).likelihood == "bernoulli"


# ------------------------------------------------------------------ conditions


def test_a_condition_column_that_is_not_there_lists_those_that_are(cells):
    found = "['batch', 'cell_type', 'condition', 'depth', 'donor']"
    assert_refused(cells, SetupError, "condition_key='dose'", found, condition_key="dose")


def test_missing_conditions_are_counted_and_the_advised_line_helps(cells):
    cells.obs.loc[cells.obs_names[:4], "condition"] = np.nan
    line = "adata = adata[adata.obs['condition'].notna()].copy()"
    assert_refused(cells, SetupError, "missing in 4 of 60 cells", line)
    setup(cells[cells.obs["condition"].notna()].copy())


def test_one_condition_is_not_enough(cells):
    cells.obs["condition"] = "control"
    assert_refused(cells, SetupError, "'condition' has the level(s) ['control']", "at least two")


def test_the_control_must_be_a_condition(cells):
    words = ("control='ctrl'", "not a level", "['control', 'treated']")
    assert_refused(cells, SetupError, *words, control="ctrl")


def test_conditions_of_one_cell_are_named(cells):
    cells.obs.loc[cells.obs_names[0], "condition"] = "rare"
    assert_refused(cells, SetupError, "1 level(s)", "['rare']", "Drop or merge")


def test_a_condition_without_cells_is_no_condition(cells):
    values = cells.obs["condition"]
    cells.obs["condition"] = pd.Categorical(values, categories=["control", "treated", "gone"])
    assert_refused(cells, SetupError, "'gone'", "remove_unused_categories()")
    cells.obs["condition"] = cells.obs["condition"].cat.remove_unused_categories()
    setup(cells)
    assert MODELS[0](cells, **SMALL).conditions == ["control", "treated"]


@pytest.mark.parametrize("other", ["batch_key", "sample_key", "categorical_covariate_keys"])
def test_a_condition_that_equals_a_batch_is_a_warning_with_the_cross_table(cells, other):
    cells.obs["run"] = np.where(cells.obs["condition"] == "control", "run1", "run2")
    value = ["run"] if other.endswith("s") else "run"
    with pytest.warns(ScDisentWarning, match="cannot be told apart") as caught:
        setup(cells, **{other: value})
    message = str(caught[0].message)
    assert "'run'" in message
    assert "'condition'" in message
    assert re.search(r"run1 +30 +0\s", message), message
    assert re.search(r"run2 +0 +30$", message), message


def test_one_combination_under_two_names_is_a_warning_that_says_how_to_rename(cells):
    names = np.resize(["control", "a", "b", "b+a", "a+control+b", "a+c"], len(cells))
    cells.obs["condition"] = names
    with pytest.warns(ScDisentWarning, match=r"\['a\+control\+b', 'b\+a'\] are the same parts"):
        setup(cells, control="control")
    cells.obs["condition"] = cells.obs["condition"].replace("b+a", "a+control+b")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScDisentWarning)
        setup(cells, control="control")


def test_two_names_of_one_combination_are_found_by_the_separator_of_the_table(cells):
    cells.obs["condition"] = np.resize(["control", "a", "b", "a_b", "b_a"], len(cells))
    table = pd.DataFrame({"drug": ["a", "b"]}, index=["a", "b"])
    with pytest.warns(ScDisentWarning, match=r"\['a_b', 'b_a'\] are the same parts"):
        setup(cells, control="control", condition_table=ConditionTable(table, separator="_"))


def test_a_batch_with_both_conditions_in_one_level_is_no_warning(cells):
    cells.obs["run"] = np.where(cells.obs["condition"] == "control", "run1", "run2")
    cells.obs.loc[cells.obs_names[0], "run"] = "run2"
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScDisentWarning)
        setup(cells, batch_key="run", sample_key="donor")


# -------------------------------------------------------------- names, columns


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_duplicated_names_are_refused_and_the_advised_call_helps(cells, axis):
    names = [*getattr(cells, f"{axis}_names")[:-2], "twin", "twin"]
    setattr(cells, f"{axis}_names", names)
    call = f"adata.{axis}_names_make_unique()"
    assert_refused(cells, SetupError, f"{axis}_names holds duplicates", "'twin'", call)
    getattr(cells, f"{axis}_names_make_unique")()
    setup(cells)


def test_a_view_is_refused(cells):
    view = cells[:40]
    with pytest.raises(SetupError, match=r"view .* adata = adata.copy\(\)"):
        setup(view)
    assert view.is_view
    setup(view.copy())


def test_a_layer_that_is_not_there_lists_those_that_are(cells):
    in_layer(cells, cells.X.copy())
    words = ("layer 'counts'", "Found: ['raw']")
    assert_refused(cells, SetupError, *words, layer="counts")


COLUMNS = {
    "labels_key": "nope",
    "batch_key": "nope",
    "sample_key": "nope",
    "size_factor_key": "nope",
    "categorical_covariate_keys": ["batch", "nope"],
    "continuous_covariate_keys": ["depth", "nope"],
}


@pytest.mark.parametrize(("argument", "value"), COLUMNS.items())
def test_every_other_column_must_be_there_and_complete(cells, argument, value):
    words = ("'nope' is not a column of adata.obs", "'depth'")
    assert_refused(cells, SetupError, *words, **{argument: value})
    cells.obs["nope"] = 1.0
    cells.obs.loc[cells.obs_names[:2], "nope"] = np.nan
    words = ("adata.obs['nope']", "missing in 2 of 60 cells")
    assert_refused(cells, SetupError, *words, **{argument: value})


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_size_factors_must_be_positive(cells, bad):
    cells.obs.loc[cells.obs_names[5], "depth"] = bad
    words = ("size_factor_key='depth'", "positive")
    assert_refused(cells, SetupError, *words, size_factor_key="depth")


@pytest.mark.parametrize("argument", ["size_factor_key", "continuous_covariate_keys"])
def test_numbers_without_end_are_counted_and_refused(cells, argument):
    cells.obs["depth"] = np.where(np.arange(60) < 2, np.inf, 1.0)
    given = "depth" if argument == "size_factor_key" else ["depth"]
    assert_refused(cells, SetupError, "'depth'", "infinite in 2 cells", **{argument: given})


def test_levels_of_text_and_numbers_are_refused_and_nothing_is_written(cells):
    cells.obs["plate"] = pd.Series([1, 1, "x", "x"] * 15, index=cells.obs_names, dtype=object)
    assert_refused(cells, SetupError, "text and numbers", "astype(str)", batch_key="plate")


@pytest.mark.parametrize("argument", ["size_factor_key", "continuous_covariate_keys"])
def test_numbers_must_be_numbers(cells, argument):
    value = ["donor"] if argument.endswith("s") else "donor"
    words = ("adata.obs['donor']", "numbers")
    assert_refused(cells, SetupError, *words, **{argument: value})


# -------------------------------------------------- what setup does and does not


def test_setup_changes_nothing_of_the_users(cells):
    cells.layers["raw"] = cells.X.copy()
    cells.uns["mine"] = {"a": 1}
    before = contents(cells)
    x = cells.X
    setup(
        cells,
        control="control",
        labels_key="cell_type",
        batch_key="batch",
        sample_key="donor",
        size_factor_key="depth",
        categorical_covariate_keys=("batch",),
        continuous_covariate_keys=("depth",),
    )
    assert cells.X is x
    assert cells.X.dtype == np.float32
    after = contents(cells)
    np.testing.assert_array_equal(before[0], after[0])
    pd.testing.assert_frame_equal(before[1], after[1][list(before[1].columns)])
    pd.testing.assert_frame_equal(before[2], after[2])
    for slot in ("uns", "obsm", "varm", "layers", "obsp"):
        added = set(after[3][slot]) - set(before[3][slot])
        assert set(before[3][slot]) <= set(after[3][slot])
        assert all(name.startswith("_scvi") for name in added), added
    assert all(c.startswith("_scvi") for c in set(after[1]) - set(before[1]))


@pytest.mark.parametrize("as_matrix", [sparse.csc_matrix, np.asfortranarray])
def test_the_layout_of_x_stays_as_it_is(cells, as_matrix):
    cells.X = as_matrix(cells.X.toarray().astype(np.int64))
    kind, dtype = type(cells.X), cells.X.dtype
    setup(cells)
    MODELS[0](cells, **SMALL)
    assert type(cells.X) is kind
    assert cells.X.dtype == dtype


def process_state():
    root = logging.getLogger()
    return {
        "filters": list(warnings.filters),
        "logging": (root.level, list(root.handlers), logging.root.manager.disable),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002 - must not be touched
        "torch": torch.random.get_rng_state().tolist(),
        "python": random.getstate(),
    }


def test_setup_and_construction_leave_the_process_alone(cells):
    before = process_state()
    setup(cells, control="control", labels_key="cell_type", batch_key="batch")
    for model in MODELS:
        model(cells, **SMALL)
    after = process_state()
    for name, value in before.items():
        assert value == after[name], name


def test_the_first_use_in_a_process_adds_no_filter_for_general_warnings_and_no_root_handler():
    code = (
        "import logging, warnings\n"
        "before = list(warnings.filters)\n"
        "import scdisent; scdisent.setup_anndata\n"
        "new = [f for f in warnings.filters if f not in before]\n"
        "general = (Warning, UserWarning, DeprecationWarning, FutureWarning, RuntimeWarning)\n"
        "wide = [f for f in new if f[2] in general and f[1] is None and f[3] is None]\n"
        "assert not wide, wide\n"
        "assert not logging.root.handlers and logging.root.level == logging.WARNING\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_setup_serves_every_model(cells):
    setup(cells, control="control", labels_key="cell_type")
    for model in MODELS:
        built = model(cells, **SMALL)
        assert built.conditions == ["control", "treated"]
        assert built.control == "control"


@pytest.mark.parametrize("model", MODELS)
def test_the_class_method_registers_the_same(cells, model):
    arguments = {"condition_key": "condition", "control": "control", "batch_key": "batch"}
    model.setup_anndata(cells, **arguments)
    by_class = model(cells, **SMALL).registry_
    scdisent.setup_anndata(cells, **arguments)
    by_function = model(cells, **SMALL).registry_
    assert by_class["setup_args"] == by_function["setup_args"]
    assert by_class["field_registries"].keys() == by_function["field_registries"].keys()


def test_numbers_serve_as_conditions(cells):
    cells.obs["dose"] = np.tile([0, 10], 30)
    setup(cells, condition_key="dose", control=0)
    model = MODELS[0](cells, **SMALL)
    assert model.conditions == ["0", "10"]
    assert model.control == "0"


# ---------------------------------------------------------- before construction


@pytest.mark.parametrize("model", MODELS)
def test_a_model_needs_setup_and_a_copy_or_subset_does_not_count(cells, model):
    call = r"scdisent\.setup_anndata\(adata, condition_key=\.\.\.\)"
    with pytest.raises(SetupError, match=call):
        model(cells, **SMALL)
    setup(cells)
    for other in (cells.copy(), cells[:30], cells[:30].copy(), cells[:, :6].copy()):
        with pytest.raises(SetupError, match=call):
            model(other, **SMALL)
    model(cells, **SMALL)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_without_data_says_what_to_pass(model):
    with pytest.raises(ValueError, match="adata or registry must be provided"):
        model()


TERM = {
    "DISCoVeR": "kl_invariant",
    "CGVAE": "kl_joint",
    "CGGAN": "generator",
    "BFVAE": "kl_latent",
}


@pytest.mark.parametrize("model", MODELS)
def test_unknown_names_list_the_valid_ones(cells, model):
    setup(cells)
    with pytest.raises(OptionError, match=r"preset='best' .*'default', '"):
        model(cells, preset="best")
    with pytest.raises(OptionError, match=r"likelihood='gaussian' .*'nb'.*'normal'"):
        model(cells, likelihood="gaussian")
    with pytest.raises(OptionError, match=r"option='n_hiden' .*'n_hidden'"):
        model(cells, n_hiden=8)
    with pytest.raises(OptionError, match=rf"weight='kl' .*'{TERM[model.__name__]}'"):
        model(cells, weights={"kl": 1.0})


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("model", MODELS)
def test_weights_must_be_finite_and_not_negative(cells, model, bad):
    setup(cells)
    term = TERM[model.__name__]
    with pytest.raises(OptionError, match=rf"weights\['{term}'\]"):
        model(cells, weights={term: bad})


OPTIONS = {
    "specific_prior": r"'class_mean', 'embedding', 'standard', 'context'",
    "invariant_head": r"'z', 'z_condition'",
    "adversary_reads": r"'z', 'reconstruction', 'both'",
    "adversary_game": r"'entropy', 'zero_sum', 'confusion'",
}


@pytest.mark.parametrize(("option", "known"), OPTIONS.items())
def test_unknown_values_of_options_list_the_valid_ones(cells, option, known):
    setup(cells)
    with pytest.raises(OptionError, match=rf"{option}='other' .*{known}"):
        scdisent.DISCoVeR(cells, **{option: "other"})


@pytest.mark.parametrize("arguments", [{"preset": "paper"}, {"specific_prior": "class_mean"}])
def test_a_prior_read_from_z_needs_blocks_of_one_size(cells, arguments):
    setup(cells)
    with pytest.raises(OptionError, match=r"n_latent=4, n_specific=3.*'embedding'"):
        scdisent.DISCoVeR(cells, n_latent=4, n_specific=3, **arguments)
    assert scdisent.DISCoVeR(cells, n_latent=4, n_specific=4, n_hidden=8, **arguments)


def test_comparison_within_types_needs_types(cells):
    setup(cells)
    with pytest.raises(OptionError, match=r"within_labels=True.*labels_key"):
        scdisent.DISCoVeR(cells, within_labels=True)
