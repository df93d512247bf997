"""Which cells are read: by position, mask or name, of files, of conditions that are numbers."""

import anndata
import numpy as np
import pandas as pd
import pytest

import scdisent
from scdisent._errors import InputDataError, OptionError
from scdisent.datasets import simulate_conditions

SMALL = {"n_latent": 2, "n_hidden": 8}
FAST = {"max_epochs": 1, "batch_size": 64, "enable_progress_bar": False, "seed": 0}
KEYS = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}


def world():
    return simulate_conditions(n_cells=300, n_genes=50, n_types=2, seed=0)


@pytest.fixture(scope="module")
def model():
    adata = world()
    scdisent.setup_anndata(adata, **KEYS)
    model = scdisent.DISCoVeR(adata, **SMALL)
    model.train(**FAST)
    return model


def test_positions_masks_and_names_choose_the_same_cells(model):
    chosen = np.array([7, 3, 12])
    mask = np.isin(np.arange(300), chosen)
    read = model.get_latent_representation
    by_place = read(indices=chosen)
    np.testing.assert_array_equal(read(indices=list(model.adata.obs_names[chosen])), by_place)
    np.testing.assert_array_equal(read(indices=chosen - 300), by_place)
    np.testing.assert_array_equal(read(indices=mask), by_place[np.argsort(chosen)])
    names = model.adata.obs_names
    tables = [
        model.differential_expression(idx1=first, idx2=second, seed=0)
        for first, second in [(mask, ~mask), (list(names[mask]), list(names[~mask]))]
    ]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize("wrong", [[300], [-301], ["nobody"], [0.5], np.ones(299, dtype=bool)])
def test_cells_that_are_not_there_are_told(model, wrong):
    with pytest.raises(OptionError, match="positions below 300, a mask of that length, or names"):
        model.get_latent_representation(indices=wrong)


def test_no_cells_are_told(model):
    with pytest.raises(InputDataError, match="there are no cells"):
        model.predict(condition="stimulated", indices=[])


def test_a_part_of_a_file_is_predicted_as_in_memory(model, tmp_path):
    adata = world()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    is_control = (adata.obs["condition"] == "control").to_numpy()
    in_memory = model.predict(adata[is_control].copy(), condition="stimulated", seed=0)
    on_disk = model.predict(backed[is_control], condition="stimulated", seed=0)
    np.testing.assert_array_equal(on_disk.X.toarray(), in_memory.X.toarray())
    backed.file.close()


def numbered(**levels):
    """Cells whose conditions are numbers."""
    adata = simulate_conditions(n_cells=900, n_genes=50, conditions=tuple(levels), seed=0)
    adata.obs["condition"] = adata.obs["condition"].astype(str).map(levels).astype(int)
    return adata


def of_condition(adata, level):
    return adata[(adata.obs["condition"] == level).to_numpy()].copy()


def test_a_reference_called_zero_is_a_level_like_others():
    adata = numbered(start=1, other=0, end=2)
    scdisent.setup_anndata(adata, condition_key="condition", control=1)
    model = scdisent.ShiftModel(adata)
    model.train()
    zero = of_condition(adata, 0)
    named = model.predict(zero, condition=2, reference=0, seed=0)
    assert named.uns["scdisent"]["prediction"]["reference"] == ["0"]
    read = model.predict(zero, condition=2, seed=0)
    np.testing.assert_array_equal(named.X.toarray(), read.X.toarray())


def test_a_group_called_zero_is_compared_as_asked():
    adata = numbered(start=1, other=0, end=2)
    scdisent.setup_anndata(adata, condition_key="condition", control=1)
    model = scdisent.DISCoVeR(adata, **SMALL)
    model.train(**FAST)
    table = model.differential_expression(group1=2, group2=0, seed=0)
    assert set(table["comparison"]) == {"2 vs 0"}


def test_a_number_that_training_did_not_see_can_be_written(tmp_path):
    adata = numbered(start=0, one=1)
    table = pd.DataFrame({"strength": [1.0, 2.0]}, index=["1", "2"])
    scdisent.setup_anndata(adata, condition_key="condition", control=0, condition_table=table)
    model = scdisent.DISCoVeR(adata, **SMALL)
    model.train(**FAST)
    model.predict(of_condition(adata, 0), condition=2).write_h5ad(tmp_path / "made.h5ad")
    read = anndata.read_h5ad(tmp_path / "made.h5ad")
    assert set(read.obs["condition"].astype(str)) == {"2"}


def test_levels_that_a_file_gave_back_as_text_are_those_of_training():
    adata = world()
    adata.obs["plate"] = np.arange(300) % 2
    scdisent.setup_anndata(adata, **KEYS, batch_key="plate")
    model = scdisent.DISCoVeR(adata, **SMALL)
    model.train(**FAST)
    query = of_condition(adata, "control")
    query.obs["plate"] = query.obs["plate"].astype(str)
    cells = (of_condition(adata, "control"), query)
    made = [model.predict(own, condition="stimulated", seed=0).X.toarray() for own in cells]
    np.testing.assert_array_equal(*made)


def test_every_condition_keeps_a_cell_to_be_trained_on():
    rare = [f"rare {i}" for i in range(60) for _ in range(2)]
    adata = world()
    adata.obs["condition"] = np.array(["control"] * 180 + rare)
    scdisent.setup_anndata(adata, condition_key="condition", control="control")
    model = scdisent.DISCoVeR(adata, **SMALL)
    model.train(**FAST)
    assert (model.effects_.n_cells > 0).all()


def test_stopping_early_needs_cells_to_validate_on(model):
    fresh = scdisent.DISCoVeR(model.adata, **SMALL)
    with pytest.raises(OptionError, match="early_stopping=True needs validation cells"):
        fresh.train(early_stopping=True, train_size=1.0, **FAST)
