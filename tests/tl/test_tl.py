"""What the tools store, checked on a model whose leaks are planted."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scdisent
from scdisent import tl
from scdisent.datasets import simulate_conditions

WITH_LABELS = ("leakage", "controls", "cell_type", "nmi", "likelihood")
"""Parts of the score that this file is about; the others have a file of their own."""


class PlantedModel:
    """Codes are made by hand: the invariant ones leak in one cell type only, if asked to."""

    conditions = ("control", "stimulated")
    representations = ("invariant", "specific")
    module = SimpleNamespace(expects="counts")

    def __init__(self, adata, *, leaking_type=None, labels_key="cell_type"):
        rng = np.random.default_rng(1)
        self.registry_ = {
            "setup_args": {
                "condition_key": "condition",
                "labels_key": labels_key,
                "sample_key": "donor",
                "batch_key": None,
                "control": "control",
            }
        }
        stimulated = (adata.obs["condition"] == "stimulated").to_numpy()
        types = adata.obs["cell_type"].cat.codes.to_numpy()
        noise = rng.normal(size=(adata.n_obs, 6)).astype(np.float32)
        invariant = noise[:, :4] + 4 * np.eye(4, dtype=np.float32)[types % 4]
        if leaking_type is not None:
            leaks = (adata.obs["cell_type"] == leaking_type).to_numpy()
            invariant[leaks & stimulated, 3] += 3
        specific = noise[:, 4:] + 6 * stimulated[:, None]
        self.codes = {
            name: pd.DataFrame(values, index=adata.obs_names)
            for name, values in (("invariant", invariant), ("specific", specific))
        }
        self.history = {"elbo_train": pd.DataFrame({"elbo_train": [3.0, 2.0]})}

    def get_latent_representation(self, adata, *, representation="invariant"):
        return self.codes[representation].loc[adata.obs_names].to_numpy()

    def get_normalized_expression(self, adata, **kwargs):
        return np.exp(self.get_latent_representation(adata))

    def expression_summary(self, adata, **kwargs):
        return self.get_latent_representation(adata, representation="specific"), np.ones(
            (adata.n_obs, 1)
        )

    def get_reconstruction_error(self, adata, **kwargs):
        return {"nll_joint": 10.0, "nll_invariant": 11.0}


@pytest.fixture(scope="module")
def cells():
    return simulate_conditions(n_cells=800, n_genes=60, n_types=3, n_donors=4, seed=2)


def rows(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def test_embed_stores_codes_keys_and_history(cells):
    adata = cells.copy()
    tl.embed(adata, PlantedModel(adata))
    assert adata.obsm["X_scdisent_invariant"].shape == (800, 4)
    assert adata.obsm["X_scdisent_specific"].shape == (800, 2)
    stored = adata.uns["scdisent"]["embed"]
    assert stored["condition_key"] == "condition"
    assert stored["batch_key"] == stored["layer"] == ""
    assert stored["version"] == scdisent.__version__
    assert adata.uns["scdisent"]["history"]["elbo_train"].tolist() == [3.0, 2.0]


def test_score_clears_clean_codes_and_its_controls_light_up(cells):
    adata = cells.copy()
    table = tl.score(adata, PlantedModel(adata), metrics=WITH_LABELS)
    leak = rows(table, metric="leakage").set_index("representation")
    assert leak.loc["invariant", "value"] < leak.loc["invariant", "null_95"] + 0.03
    assert leak.loc["shuffled", "value"] < 0.58
    assert leak.loc["specific", "value"] > 0.99
    assert leak.loc["expression", "value"] > 0.99
    assert leak.loc["type only", "value"] < 0.58
    kept = rows(table, target="cell_type").set_index(["metric", "representation"])["value"]
    assert kept["knn_accuracy", "invariant"] > 0.95
    assert kept["label_recovery", "specific"] < 0.45
    assert rows(table, metric="nll_invariant")["value"].tolist() == [11.0]


def test_score_finds_a_leak_that_one_cell_type_hides(cells):
    adata = cells.copy()
    tl.score(adata, PlantedModel(adata, leaking_type="type_1"), metrics=["leakage"])
    audit = adata.uns["scdisent"]["leakage"]
    within = rows(audit, representation="invariant", scope="within").set_index("group")["auroc"]
    assert within.idxmax() == "type_1"
    assert within["type_1"] > 0.9
    assert within.drop("type_1").max() < 0.6
    assert "no equivalence" in adata.uns["scdisent"]["statement"]
    assert not len(adata.uns["scdisent"]["leakage_skipped"])


def test_cell_types_that_are_not_audited_are_told_with_the_reason(cells, tmp_path):
    adata = cells.copy()
    tl.score(adata, PlantedModel(adata), metrics=["leakage"], min_cells=270)
    skipped = adata.uns["scdisent"]["leakage_skipped"]
    own = skipped[skipped["representation"] == "invariant"]
    sizes = adata.obs["cell_type"].value_counts()
    assert set(own["group"]) == set(sizes.index[sizes < 270])
    assert own["reason"].str.contains("fewer than min_cells=270").all()
    adata.write_h5ad(tmp_path / "cells.h5ad")


def test_what_cells_cannot_answer_is_left_out_with_a_reason(cells):
    adata = cells.copy()
    adata.obs["donor"] = np.where(adata.obs["condition"] == "control", "a", "b")
    with pytest.warns(scdisent.ScDisentWarning, match="leaves out 'leakage'.*at least two groups"):
        table = tl.score(adata, PlantedModel(adata), metrics=["leakage", "nmi", "likelihood"])
    assert set(table["metric"]) == {"nmi", "nll_joint", "nll_invariant"}
    assert "leakage" not in adata.uns["scdisent"]


def test_a_subset_holds_enough_cells_of_rare_conditions(cells):
    adata = cells.copy()
    control = np.flatnonzero((adata.obs["condition"] == "control").to_numpy())
    adata = adata[np.r_[control[:40], np.flatnonzero(adata.obs["condition"] != "control")]].copy()
    table = tl.score(adata, PlantedModel(adata), metrics=["leakage"], max_cells=100)
    assert len(table) == 2
    some = tl._space.random_cells(adata, 100, seed=0, spread_over="condition")
    assert some.obs["condition"].value_counts()["control"] >= 25
    assert some.n_obs == 100
    assert list(some.obs_names) == [name for name in adata.obs_names if name in some.obs_names]


def test_a_closed_form_has_nothing_to_audit(cells):
    adata = cells.copy()
    scdisent.setup_anndata(adata, condition_key="condition", control="control")
    model = scdisent.ShiftModel(adata)
    model.train()
    with pytest.raises(ValueError, match="ShiftModel has no latent codes"):
        tl.score(adata, model)


def test_embedding_another_model_removes_the_results_of_the_first(cells):
    adata = cells.copy()
    model = PlantedModel(adata)
    tl.embed(adata, model)
    tl.score(adata, model, metrics=["nmi"])
    tl.embed(adata, model)
    assert "scores" in adata.uns["scdisent"]
    other = PlantedModel(adata)
    other.history = {"elbo_train": pd.DataFrame({"elbo_train": [3.0, 1.0]})}
    nothing = np.zeros((adata.n_obs, 2))
    for name in ("umap_scdisent_invariant", "scdisent_latent", "scdisent_2_invariant"):
        adata.obsm[f"X_{name}"] = nothing
    adata.varm["scdisent_fvh_lt"] = adata.varm["mine"] = np.zeros((adata.n_vars, 2))
    tl.embed(adata, other)
    assert set(adata.uns["scdisent"]) == {"embed", "history"}
    blocks = {f"X_scdisent_{name}" for name in other.representations}
    assert {*adata.obsm} - {*cells.obsm} == {*blocks, "X_scdisent_2_invariant"}
    assert {*adata.varm} - {*cells.varm} == {"mine"}


def test_results_survive_h5ad_and_zarr(cells, tmp_path):
    adata = cells.copy()
    model = PlantedModel(adata)
    tl.embed(adata, model)
    tl.score(adata, model, metrics=["leakage", "nmi"])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    adata.write_zarr(tmp_path / "cells.zarr")
    for found in (ad.read_h5ad(tmp_path / "cells.h5ad"), ad.read_zarr(tmp_path / "cells.zarr")):
        for name in ("scores", "leakage", "history"):
            expected = adata.uns["scdisent"][name]
            pd.testing.assert_frame_equal(
                found.uns["scdisent"][name], expected, check_dtype=False, check_names=False,
                check_index_type=False, check_column_type=False,
            )  # fmt: skip
        np.testing.assert_array_equal(
            found.obsm["X_scdisent_invariant"], adata.obsm["X_scdisent_invariant"]
        )


def test_score_works_without_cell_types_and_keeps_random_state(cells):
    adata = cells.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    table = tl.score(adata, PlantedModel(adata, labels_key=None), metrics=["leakage", "cell_type"])
    assert set(table["metric"]) == {"leakage"}
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_scores_of_a_part_equal_those_of_the_whole(cells):
    model = PlantedModel(cells)
    whole = tl.score(cells.copy(), model, metrics=WITH_LABELS)
    part = tl.score(cells.copy(), model, metrics=["nmi"])
    pd.testing.assert_frame_equal(
        part.reset_index(drop=True), rows(whole, metric="nmi").reset_index(drop=True)
    )


def test_unknown_parts_and_missing_columns_are_named(cells):
    model = PlantedModel(cells)
    with pytest.raises(scdisent.ScDisentError, match="'leakage', 'controls'"):
        tl.score(cells.copy(), model, metrics=["accuracy"])
    bare = cells.copy()
    del bare.obs["donor"]
    with pytest.raises(scdisent.ScDisentError, match="'donor' \\(sample_key at setup\\)"):
        tl.score(bare, model, metrics=WITH_LABELS)


def test_cells_without_a_type_are_left_out_and_without_a_condition_refused(cells):
    model, some = PlantedModel(cells), cells.copy()
    lost = np.arange(some.n_obs) % 4 == 0
    some.obs.loc[lost, "cell_type"] = np.nan
    expected = tl.score(some[~lost].copy(), model, metrics=["leakage", "nmi"])
    pd.testing.assert_frame_equal(tl.score(some, model, metrics=["leakage", "nmi"]), expected)
    assert "nan" not in set(some.uns["scdisent"]["leakage"]["group"].astype(str).str.lower())
    for column in ("condition", "donor"):
        broken = cells.copy()
        broken.obs[column] = broken.obs[column].where(~lost)
        with pytest.raises(scdisent.ScDisentError, match=rf"'{column}'.* is missing in 200 of 800"):
            tl.score(broken, model, metrics=["nmi"])
    some.obs["cell_type"] = np.nan
    with pytest.raises(scdisent.ScDisentError, match="missing in all 800 cells"):
        tl.score(some, model, metrics=["nmi"])
