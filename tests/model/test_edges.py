"""Corners that one meets in real data: interrupted fits, sorted files, images, empty queries."""

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from torch import nn

import scdisent
from scdisent._errors import InputDataError, OptionError
from scdisent.conditions import ConditionTable
from scdisent.data import DiskDataModule
from scdisent.model import _transfer as transfer
from scdisent.model._anchor import training_cells
from scdisent.model._probe import make_probe
from scdisent.module._base import still_statistics
from scdisent.nn._moved_latents import MovedLatents
from scdisent.train._plans import guess_cross_entropy

# ---------------------------------------------------------------------- images


def pictures(kit, likelihood="bernoulli"):
    adata = kit.world(likelihood, n_genes=64)
    adata.uns["image_shape"] = [1, 8, 8]
    scdisent.setup_anndata(adata, **kit.setup)
    return adata


@pytest.mark.filterwarnings("ignore:Mode collapse")
@pytest.mark.parametrize("name", ["DISCoVeR", "CGVAE", "CGGAN", "BFVAE"])
def test_a_model_of_images_is_loaded_without_cells(kit, name, tmp_path):
    adata = pictures(kit)
    model = kit.trained(getattr(scdisent, name), adata, likelihood="bernoulli")
    model.save(tmp_path / "model")
    again = scdisent.load(tmp_path / "model")
    block = model.representations[0]
    first, second = (
        m.get_latent_representation(adata, representation=block) for m in (model, again)
    )
    np.testing.assert_array_equal(first, second)


def test_convolutions_refuse_counts_by_name(kit):
    adata = pictures(kit, "nb")
    with pytest.raises(OptionError, match=r"not for counts.*image_shape=None"):
        scdisent.DISCoVeR(adata)
    assert scdisent.DISCoVeR(adata, image_shape=None, **kit.small).module is not None


# ---------------------------------------------------------------------- training


class Stop(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        msg = "no more"
        raise RuntimeError(msg)


def test_an_interrupted_fit_leaves_a_trained_model_usable(kit):
    adata = kit.ready()
    model = kit.trained(scdisent.DISCoVeR, adata)
    with pytest.raises(RuntimeError, match="no more"):
        model.train(**kit.fast, callbacks=[Stop()])
    assert not model.module.training
    assert model.module.progress == 1.0
    codes = [model.get_latent_representation(batch_size=size) for size in (16, 160)]
    np.testing.assert_allclose(*codes, atol=1e-5)


def test_the_probe_sees_all_conditions_of_a_sorted_file(kit):
    adata = kit.world()
    adata = adata[np.argsort(adata.obs["condition"].astype(str), kind="stable")].copy()
    scdisent.setup_anndata(adata, **kit.setup)
    model = kit.build(scdisent.DISCoVeR, adata)
    data = model._make_datamodule(batch_size=32, train_size=0.5, validation_size=0.5, seed=0)
    *_, truth = make_probe(model, data, n_cells=20)(model.module)
    assert 4 < truth.sum() < 16


def test_made_up_cells_leave_running_statistics_alone():
    layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    x = torch.randn(50, 3)
    layers(x)
    before = {name: value.clone() for name, value in layers[1].named_buffers()}
    with still_statistics(layers):
        made = layers(x + 5)
    torch.testing.assert_close(made.mean(dim=0), layers[1].bias, atol=1e-5, rtol=0)
    for name in ("running_mean", "running_var"):
        assert torch.equal(before[name], getattr(layers[1], name))
    layers(x)
    assert not torch.equal(before["running_mean"], layers[1].running_mean)


def test_the_best_guess_of_a_critic_has_its_closed_form():
    even = torch.full((3, 4), 5.0)
    assert guess_cross_entropy(even) == pytest.approx(np.log(4))
    rare = torch.tensor([[90.0, 10.0]])
    expected = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert guess_cross_entropy(rare) == pytest.approx(expected)
    apart = torch.tensor([[8.0, 0.0], [0.0, 3.0], [0.0, 0.0]])  # types of one condition each
    assert guess_cross_entropy(apart) == 0


def test_the_adversary_is_not_raised_for_what_composition_gives_away(kit):
    adata = kit.ready()
    own_types = np.where(adata.obs["condition"] == "control", "a", "b")
    adata.obs["cell_type"] = pd.Categorical(own_types)
    scdisent.setup_anndata(adata, **kit.setup)
    options = {"plan_kwargs": {"leak_tolerance": 0.0}, "max_epochs": 4}
    model = kit.trained(scdisent.DISCoVeR, adata, train=options)
    weights = model.history["adversary_weight"].to_numpy(dtype=float).ravel()
    assert (np.diff(weights) <= 1e-9).all(), "the types alone say which condition it is"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("DISCoVeR", {"n_latent": 0}, "n_latent=0: expected at least 1"),
        ("DISCoVeR", {"n_specific": 0}, "n_specific=0: expected at least 1"),
        ("DISCoVeR", {"n_hidden": 0}, "n_hidden=0: expected at least 1"),
        ("DISCoVeR", {"preset": "csvae", "invariant_head": "z"}, r"weights=\{'nll_invariant'"),
        ("CGVAE", {"n_latent": 0}, "n_latent=0: expected at least 1"),
        ("CGGAN", {"n_latent": 2, "n_specific": -1}, "n_specific=-1: expected at least 0"),
        ("CGVAE", {"warm_up_share": 1.5}, "warm_up_share=1.5: expected at least 0 and at most 1"),
        ("CGGAN", {"penalty_every": 0}, "penalty_every=0: expected at least 1"),
        ("CGGAN", {"ema": -0.1}, "ema=-0.1: expected at least 0 and at most 1"),
        ("BFVAE", {"capacity_rise": 0}, "capacity_rise=0: expected above 0 and at most 1"),
        ("BFVAE", {"scale": 0.0}, "scale=0.0: expected above 0, or"),
        ("BFVAE", {"capacity": float("nan")}, "capacity=nan: expected at least 0"),
    ],
)
def test_options_that_cannot_be_trained_are_refused(kit, name, options, message):
    with pytest.raises(OptionError, match=message):
        getattr(scdisent, name)(kit.ready(), **options)


def test_a_critic_needs_a_step(kit):
    with pytest.raises(OptionError, match="n_critic_steps=0 must be at least 1"):
        kit.trained(scdisent.DISCoVeR, kit.ready(), train={"plan_kwargs": {"n_critic_steps": 0}})


# ---------------------------------------------------------------------- cells on disk


def test_every_training_cell_on_disk_is_read_once():
    x = np.arange(300, dtype=np.float32)[:, None] + 1
    data = DiskDataModule(x, {}, batch_size=70, train_size=0.8, seed=0)
    read = torch.cat([batch["X"].to_dense().ravel() for batch in training_cells(data)])
    assert read.tolist() == (data.train_idx + 1).tolist()
    assert len(read) % 70


def test_values_on_disk_are_held_against_the_likelihood(kit, tmp_path):
    kit.world("normal").write_h5ad(tmp_path / "cells.h5ad")
    cells = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    scdisent.setup_anndata(cells, **kit.setup)
    with pytest.raises(InputDataError, match="likelihood"):
        scdisent.DISCoVeR(cells)


# ---------------------------------------------------------------------- queries


def test_no_cells_are_named(kit, nb_model):
    query = kit.query(nb_model.adata)
    none = query[np.zeros(query.n_obs, dtype=bool)]
    for ask in (
        lambda: nb_model.get_latent_representation(none),
        lambda: nb_model.predict(none, condition="stimulated"),
    ):
        with pytest.raises(InputDataError, match="there are no cells"):
            ask()


def test_support_of_an_unseen_condition_is_among_some_anchors_of_each(monkeypatch):
    condition = torch.arange(6).repeat_interleave(50)
    anchors = transfer.Anchors(condition[:, None].float(), *[condition] * 3)
    seen = []
    monkeypatch.setattr(transfer, "N_COMPARED", 60)
    monkeypatch.setattr(transfer, "support", lambda z, points: seen.append(points))
    transfer.Transfer("prior", 5, anchors, -1).near(torch.zeros(1, 1))
    assert len(seen[0]) == 60
    assert torch.bincount(seen[0].ravel().long()).tolist() == [10] * 6


def test_masks_of_latents_are_where_the_module_is():
    for options in ({"flow": "none", "gated": True}, {"flow": "affine", "gated": False}):
        latents = MovedLatents(1, 3, n_conditions=2, **options).to("meta")
        assert latents.is_style.device.type == latents.is_content.device.type == "meta"


@pytest.mark.filterwarnings("ignore:Mode collapse")
@pytest.mark.parametrize("setup", [{}, {"batch_key": "donor"}])
def test_a_generator_refines_codes_of_new_counts(kit, setup):
    """It decodes, so it has to be told the batch; what inference mode made is not written to."""
    adata = kit.ready(setup=setup)
    model = kit.trained(scdisent.CGGAN, adata, n_refine=2)
    refined = model.get_latent_representation(kit.query(adata), representation="full")
    model.module.n_refine = 0
    rough = model.get_latent_representation(kit.query(adata), representation="full")
    assert 0 < np.abs(refined - rough).max() < 1


def test_content_is_decoded_under_a_condition_without_cells():
    adata = scdisent.datasets.simulate_domains("s_dose", n_cells=400, seed=0)
    names = adata.obs["condition"].cat.categories
    doses = pd.DataFrame({"dose": [float(name.split("_")[1]) for name in names]}, index=names)
    table = ConditionTable(doses).with_rows(pd.DataFrame({"dose": [9.0]}, index=["dose_9"]))
    setup = {"condition_key": "condition", "condition_table": table}
    scdisent.setup_anndata(adata, control=names[0], **setup)
    model = scdisent.CGVAE(adata, likelihood="normal", n_latent=4, n_specific=2)
    model.train(max_epochs=2, enable_progress_bar=False)

    def decoded(condition):
        return model.get_normalized_expression(
            adata, reconstruction="invariant", transform_condition=condition, return_numpy=True
        )

    told = [decoded(name) for name in (*names, "dose_9")]
    gaps = [np.abs(told[-1] - other).max() for other in told[:-1]]
    assert min(gaps) > 1e-6, "it is not one of the conditions of training"


# ---------------------------------------------------------------------- conditions


def test_numbers_as_levels_take_doses_and_a_control(kit):
    adata = kit.world(doses=(0.5, 1.0))
    adata.obs["drug"] = (adata.obs["condition"] != "control").astype(int)
    scdisent.setup_anndata(adata, condition_key="drug", control=0, dose_key="dose")
    model = scdisent.ShiftModel(adata)
    assert model.conditions == ["0", "1@0.5", "1@1"]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (pd.DataFrame({"v": [1.0, np.nan]}, index=["a", "b"]), r"NaN or inf: \['b'\]"),
        (pd.DataFrame({"v": [1.0, 2.0, 3.0]}, index=["a", "b", "b"]), r"several vectors for"),
    ],
)
def test_vectors_of_conditions_are_whole_and_single(vectors, message):
    with pytest.raises(InputDataError, match=message):
        ConditionTable(pd.DataFrame(index=["a", "b"]), embedding=vectors)


def test_vectors_of_all_genes_serve_old_and_new_rows():
    vectors = pd.DataFrame({"v": [1.0, 2.0, 3.0]}, index=["a", "b", "c"])
    table = ConditionTable(pd.DataFrame(index=["a", "b"]), embedding=vectors)
    more = table.with_rows(pd.DataFrame(index=["c"]), embedding=vectors)
    found = more.encode(["c"], like=["a", "b"])
    assert np.isfinite(found.features).all()
    assert more.embedding.index.tolist() == ["a", "b", "c"]


def test_an_anndata_of_one_cell_is_predicted(kit, nb_model):
    query = kit.query(nb_model.adata)
    one = query[(query.obs["condition"] == "control").to_numpy()][:1]
    assert isinstance(nb_model.predict(one, condition="stimulated", seed=0), AnnData)
