"""Inner cross-validation says when arithmetic would be better, and predict repeats it."""

import warnings

import numpy as np
import pytest

import scdisent
from scdisent import tl
from scdisent._errors import InputDataError, OptionError, ScDisentWarning, SetupError
from scdisent.datasets import simulate_conditions

SETUP = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}


@pytest.fixture(scope="module")
def model():
    """Hardly trained: its own answers are worth nothing."""
    adata = simulate_conditions(n_cells=1_500, n_genes=80, n_types=4, seed=0)
    scdisent.setup_anndata(adata, **SETUP)
    found = scdisent.DISCoVeR(adata, n_latent=4, n_hidden=24, seed=0)
    found.train(2, batch_size=256, seed=0, enable_progress_bar=False)
    return found


def test_a_network_that_knows_nothing_is_told_so(model, tmp_path):
    table = tl.check_response(model, n_groups=2)
    assert set(table["kind"]) == {"model", "closed form"}
    assert table.loc["network alone", "mse"] > 2 * table.loc["weighted", "mse"]
    assert table["mse"].is_monotonic_increasing
    assert table.loc["weighted", "pearson_delta"] > 0.5
    check = model.response_check_
    assert check["best"] == table.index[0]
    assert check["ratio"] == pytest.approx(table.loc["DISCoVeR", "mse"] / table["mse"].iloc[0])
    source = model.adata[model.adata.obs["condition"] == "control"][:20].copy()
    with pytest.warns(ScDisentWarning, match=r"the closed form .* was better.*ShiftModel"):
        model.predict(source, condition="stimulated")
    model.save(tmp_path / "model")
    loaded = scdisent.DISCoVeR.load(tmp_path / "model")
    assert loaded.response_check_ == check


def test_the_fits_have_not_seen_the_response(model):
    """What is compared on a type does not depend on that type's treated cells in training."""
    from scdisent.tl import _check

    obs = model.adata.obs
    groups, levels = (obs[name].astype(str).to_numpy() for name in ("cell_type", "condition"))
    pair = _check._Pair(groups, levels, groups[0], "stimulated", "control")
    again = _check._refitted(model, model.adata[~pair.target].copy(), 1, 0)
    table = again.effects_
    row, column = table.groups.index(groups[0]), table.conditions.index("stimulated")
    assert table.n_cells[row, column] == 0
    assert table.n_cells[row, table.conditions.index("control")] > 0


def test_without_a_check_or_where_the_model_is_best_nothing_is_said(model):
    source = model.adata[model.adata.obs["condition"] == "control"][:5].copy()
    for check in (None, {"condition": "stimulated", "best": "DISCoVeR", "ratio": 1.0}):
        model.response_check_ = check
        with warnings.catch_warnings():
            warnings.simplefilter("error", ScDisentWarning)
            model.predict(source, condition="stimulated")


def test_misuse_is_refused(model):
    adata = simulate_conditions(n_cells=300, n_genes=60, n_types=2)
    for setup, error, match in (
        (SETUP, InputDataError, "at least 3 are needed"),
        ({**SETUP, "labels_key": None}, SetupError, "labels_key and control"),
    ):
        scdisent.setup_anndata(adata, **setup)
        small = scdisent.DISCoVeR(adata, n_latent=2, n_hidden=8)
        small.train(1, enable_progress_bar=False)
        with pytest.raises(error, match=match):
            tl.check_response(small)
    assert np.isfinite(model.effects_.means).all()


def test_the_users_cells_stay_set_up(model):
    tl.check_response(model, n_groups=1, max_epochs=1)
    again = scdisent.DISCoVeR(model.adata, n_latent=4, n_hidden=24)
    assert again.adata is model.adata
    closed = scdisent.ShiftModel(model.adata)
    closed.train()
    with pytest.raises(OptionError, match="closed form"):
        tl.check_response(closed)
