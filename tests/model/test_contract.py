"""What every model promises, for every likelihood."""

import random
import subprocess
import sys

import lightning.pytorch as pl
import numpy as np
import pytest
import scvi
import torch
from scvi.dataloaders import DataSplitter

import scdisent
from scdisent._errors import NotTrainedError, OptionError, TrainingDivergedError
from scdisent.data import CellTable, ResidentDataModule
from scdisent.model._common import default_epochs, resolve_seed
from scdisent.module import CRITIC, MODEL

CONTROL, STIMULATED = "control", "stimulated"


def controls(adata):
    return np.flatnonzero(adata.obs["condition"] == CONTROL)


def results(model):
    """Everything a getter gives, as arrays."""
    adata = model.adata
    predicted = model.predict(condition=STIMULATED, indices=controls(adata), seed=1)
    x = predicted.X
    return {
        "full": model.get_latent_representation(representation="full"),
        "sampled": model.get_latent_representation(give_mean=False, seed=1),
        "expression": model.get_normalized_expression(return_numpy=True),
        "predicted": x.toarray() if hasattr(x, "toarray") else x,
        "support": predicted.obs["scdisent_support"].to_numpy(),
    }


def assert_equal_results(first, second):
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


# ----------------------------------------------------------------------- latents


def test_latents_have_the_shape_asked_for(kit, model_cls, likelihood):
    adata = kit.ready(likelihood)
    model = kit.trained(model_cls, adata, likelihood=likelihood, n_latent=4, n_specific=2)

    def codes(representation, **arguments):
        return model.get_latent_representation(representation=representation, **arguments)

    invariant, specific, full = codes("invariant"), codes("specific"), codes("full")
    assert invariant.shape == (adata.n_obs, 4)
    assert specific.shape == (adata.n_obs, 2)
    np.testing.assert_array_equal(full, np.hstack([invariant, specific]))
    assert np.isfinite(full).all()
    assert invariant.std(axis=0).min() > 0

    mean, variance = codes("full", return_dist=True)
    np.testing.assert_array_equal(mean, full)
    assert variance.min() > 0
    draws = np.stack([codes("full", give_mean=False, seed=seed) for seed in range(60)])
    np.testing.assert_allclose(
        ((draws - mean) / np.sqrt(variance)).std(), 1.0, atol=0.02
    )  # samples of the posterior
    np.testing.assert_array_equal(draws[3], codes("full", give_mean=False, seed=3))


def test_unknown_representations_list_the_known_ones(nb_model):
    with pytest.raises(OptionError, match="'invariant', 'specific', 'full'"):
        nb_model.get_latent_representation(representation="shared")


def test_the_reconstruction_error_is_a_mean_over_cells_and_that_of_its_seed(
    kit, model_cls, likelihood
):
    adata = kit.ready(likelihood)
    model = kit.trained(model_cls, adata, likelihood=likelihood)

    def error(cells=slice(None), seed=0):
        found = model.get_reconstruction_error(indices=np.arange(160)[cells], seed=seed)
        assert found.keys() == {f"nll_{name}" for name in model.module.likelihoods}
        return np.array(list(found.values()))

    np.testing.assert_array_equal(error(), error())
    assert (error() != error(seed=1)).all()
    first, second, whole = (
        np.mean([error(cells, seed) for seed in range(20)], axis=0)
        for cells in (slice(0, 40), slice(40, 160), slice(0, 160))
    )
    np.testing.assert_allclose((40 * first + 120 * second) / 160, whole, rtol=0.01)


# ---------------------------------------------------------------- reproducibility


@pytest.mark.parametrize("batch_key", [None, "donor"])
def test_one_seed_one_result_bit_for_bit_and_another_seed_another(
    kit, model_cls, likelihood, batch_key
):
    def run(seed):
        adata = kit.ready(likelihood, setup={"batch_key": batch_key})
        torch.rand(3)  # the caller's random state is of no consequence
        np.random.rand(3)  # noqa: NPY002
        train = {"seed": seed}
        model = kit.trained(model_cls, adata, likelihood=likelihood, seed=seed, train=train)
        return kit.weights(model), results(model)

    (weights, found), (again_weights, again), (_, other) = run(1), run(1), run(2)
    kit.assert_equal_weights(weights, again_weights)
    assert_equal_results(found, again)
    assert np.abs(found["full"] - other["full"]).max() > 1e-3


def test_each_seed_has_its_own_part(kit, model_cls):
    adata = kit.ready()
    first = kit.trained(model_cls, adata, seed=0, train={"seed": 0})
    other_start = kit.trained(model_cls, adata, seed=1, train={"seed": 0})
    other_order = kit.trained(model_cls, adata, seed=0, train={"seed": 1})
    np.testing.assert_array_equal(first.train_indices, other_start.train_indices)
    assert list(first.train_indices) != list(other_order.train_indices)
    untrained = [kit.build(model_cls, adata, seed=seed) for seed in (0, 0)]
    kit.assert_equal_weights(*(kit.weights(model) for model in untrained))


def test_without_a_seed_scvi_tools_setting_counts():
    before = torch.random.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    was = scvi.settings.seed
    try:
        scvi.settings.seed = 7
        assert resolve_seed(None) == 7
        assert resolve_seed(3) == 3
        scvi.settings.seed = None
        assert resolve_seed(None) == 0
    finally:
        scvi.settings.seed = was
        torch.random.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])


def test_the_callers_random_state_stays_as_it_was(kit, model_cls, likelihood):
    adata = kit.ready(likelihood)

    def state():
        numpy_state = np.random.get_state()  # noqa: NPY002
        return (
            torch.random.get_rng_state().tolist(),
            (numpy_state[1].tolist(), numpy_state[2]),
            random.getstate(),
        )

    before = state()
    model = kit.build(model_cls, adata, likelihood=likelihood)
    assert state() == before, "constructing"
    model.train(**kit.fast)
    assert state() == before, "training"
    model.get_latent_representation(give_mean=False)
    model.get_normalized_expression(n_samples=2)
    model.get_reconstruction_error()
    for noise in ("keep", "fresh"):
        model.predict(condition=STIMULATED, indices=controls(adata), noise=noise)
    assert state() == before, "reading"


def test_two_models_in_one_process_do_not_disturb_each_other(kit, model_cls):
    adata, other_data = kit.ready(), kit.ready("normal", seed=9)
    alone = results(kit.trained(model_cls, adata))
    first = kit.build(model_cls, adata)
    second = kit.build(model_cls, other_data, likelihood="normal", n_latent=2)
    second.train(**kit.fast)
    first.train(**kit.fast)
    before = results(second)
    third = kit.build(model_cls, adata)
    assert_equal_results(alone, results(first))
    third.train(**kit.fast)
    assert_equal_results(alone, results(third))
    assert_equal_results(before, results(second))


# ------------------------------------------------------------------------ players


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_every_parameter_has_one_player_and_gets_a_gradient(kit, model_cls, likelihood, preset):
    adata = kit.ready(likelihood, setup={"batch_key": "donor"})
    steps = kit.steps()
    model = kit.trained(
        model_cls, adata, likelihood=likelihood, preset=preset, train={"callbacks": [steps]}
    )
    every = {name for name, _ in model.module.named_parameters()}
    belongs = [name for player in steps.per_player for name in player]
    assert sorted(belongs) == sorted(every)
    assert steps.moved == every
    assert set(model.module.players()) == {MODEL, *([CRITIC] if model.module.adversaries else [])}


# ------------------------------------------------------------------------ history


def test_history_has_one_curve_for_each_term_in_training_and_validation(kit, model_cls, likelihood):
    weights, only_in_training, bound = {
        scdisent.DISCoVeR: ({"hsic": 1.0}, {"critic_loss_train"}, ["elbo"]),
        # no gates where n_specific is given
        scdisent.CGVAE: ({"gate": 0.0}, {"sparsity_train"}, ["elbo"]),
        scdisent.CGGAN: ({"gate": 0.0}, {"sparsity_train", "critic_loss_train"}, []),
    }[model_cls]
    every = {"max_epochs": 3, "check_val_every_n_epoch": 1}
    adata = kit.ready(likelihood)
    model = kit.trained(model_cls, adata, likelihood=likelihood, weights=weights, train=every)
    terms = [name for name, weight in model.weights.items() if weight and name != "sparsity"]
    expected = {
        f"{name}_{mode}" for name in [*terms, *bound, "loss"] for mode in ("train", "validation")
    }
    assert set(model.history) == expected | only_in_training
    for name, curve in model.history.items():
        assert list(curve.index) == [0, 1, 2], name
        assert np.isfinite(curve.to_numpy(dtype=float)).all(), name


class Modes(pl.Callback):
    """Note in which mode the modules are when they are trained."""

    def __init__(self):
        self.training = set()

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.training |= {module.training for module in pl_module.module.modules()}


def test_training_again_goes_on_where_it_stopped_and_in_training_mode(kit, model_cls):
    model, modes = kit.trained(model_cls, kit.ready()), Modes()
    assert not model.module.training
    before = kit.weights(model)
    model.train(**{**kit.fast, "max_epochs": 3, "callbacks": [modes]})
    assert modes.training == {True}
    assert not any(module.training for module in model.module.modules())
    assert list(model.history["loss_train"].index) == [0, 1, 2, 3, 4]
    if "nll_joint_train" in model.history:
        start = model.history["nll_joint_train"].to_numpy(dtype=float).ravel()
        assert start[2] < start[0]
    assert any(not torch.equal(before[k], v) for k, v in kit.weights(model).items())


def test_training_lowers_the_bound_and_the_split_is_as_asked(kit, bounded_cls, likelihood):
    adata = kit.ready(likelihood)
    train = {"max_epochs": 12, "train_size": 0.7, "validation_size": 0.2}
    model = kit.trained(bounded_cls, adata, likelihood=likelihood, train=train)
    curve = model.history["elbo_validation"].to_numpy(dtype=float).ravel()
    assert curve[-1] < curve[0]
    parts = [model.train_indices, model.validation_indices, model.test_indices]
    assert [len(part) for part in parts] == [112, 32, 16]
    assert sorted(np.concatenate(parts)) == list(range(160))


def test_early_stopping_stops_when_nothing_improves(kit, bounded_cls):
    still = {"lr": 0.0, "critic_lr": 0.0}
    train = {
        "max_epochs": 40,
        "early_stopping": True,
        "early_stopping_patience": 2,
        "early_stopping_min_delta": 50.0,
        "plan_kwargs": still,
    }
    model = kit.trained(bounded_cls, kit.ready(), train=train)
    assert len(model.history["elbo_validation"]) == 3


def test_a_gan_cannot_stop_early(kit):
    model = kit.build(scdisent.CGGAN, kit.ready())
    with pytest.raises(OptionError, match="no bound"):
        model.train(early_stopping=True, **kit.fast)


@pytest.mark.parametrize("max_epochs", [0, -1])
def test_no_epochs_are_no_training(kit, model_cls, max_epochs):
    model = kit.build(model_cls, kit.ready())
    with pytest.raises(OptionError, match=f"max_epochs={max_epochs}: expected at least 1"):
        model.train(**{**kit.fast, "max_epochs": max_epochs})
    assert not model.is_trained_


def test_all_cells_may_train(kit, model_cls):
    model = kit.trained(model_cls, kit.ready(), train={"train_size": 1.0})
    assert len(model.train_indices) == 160
    assert not any(name.endswith("_validation") for name in model.history)


def test_a_batch_of_one_cell_is_refused(kit, model_cls):
    with pytest.raises(OptionError, match="batch_size=1: expected at least 2"):
        kit.trained(model_cls, kit.ready(), train={"batch_size": 1})


def test_the_default_number_of_epochs_gives_enough_steps(kit):
    def epochs(n_cells):
        module = pl.LightningDataModule()
        module.n_train = n_cells
        return default_epochs(module, 512)

    assert [epochs(n) for n in (300, 10**7)] == [400, 20]
    assert 4 * epochs(4 * 5_120) == pytest.approx(epochs(5_120), rel=0.02)  # as many steps
    with pytest.raises(OptionError, match="pass max_epochs"):
        default_epochs(pl.LightningDataModule(), 512)


# --------------------------------------------------------------------- datamodules


class DenseBatches(pl.LightningDataModule):
    """A datamodule in scvi-tools' form: dense tensors, the order of another datamodule."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.n_train, self.n_val = inner, inner.n_train, inner.n_val

    def setup(self, stage=None):
        self.inner.setup(stage)

    def train_dataloader(self):
        return Dense(self.inner.loader(self.inner.train_idx, self.inner.seed))

    def val_dataloader(self):
        return Dense(self.inner.loader(self.inner.val_idx))


class Dense:
    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            x = batch["X"]
            yield {**batch, "X": x.to_dense() if x.layout == torch.sparse_csr else x}


def test_dense_batches_of_a_datamodule_give_the_loss_of_the_sparse_path(kit, model_cls, likelihood):
    adata = kit.ready(likelihood, setup={"batch_key": "donor"})
    every = {"keep_best": False, "check_val_every_n_epoch": 1}
    own = kit.trained(model_cls, adata, likelihood=likelihood, train=every)
    inner = ResidentDataModule(CellTable.from_manager(own.adata_manager), batch_size=64, seed=0)
    other = kit.trained(
        model_cls, adata, likelihood=likelihood, train={**every, "datamodule": DenseBatches(inner)}
    )
    assert set(own.history) == set(other.history)
    for name, curve in own.history.items():
        found = other.history[name].to_numpy(dtype=float)
        np.testing.assert_allclose(
            found, curve.to_numpy(dtype=float), rtol=2e-3, atol=2e-3, err_msg=name
        )
    np.testing.assert_allclose(
        other.get_latent_representation(), own.get_latent_representation(), atol=2e-2
    )


def test_a_model_without_an_anndata_trains_on_scvi_tools_own_datamodule(kit, model_cls):
    adata = kit.ready(setup={"batch_key": "donor"})
    manager = kit.build(model_cls, adata).adata_manager
    model = model_cls(registry=manager.registry, **kit.sizes(model_cls))
    datamodule = DataSplitter(manager, batch_size=64)
    model.train(datamodule=datamodule, **{**kit.fast, "check_val_every_n_epoch": 1})
    judged = "loss" if model_cls is scdisent.CGGAN else "elbo"
    assert {f"{judged}_train", f"{judged}_validation"} <= set(model.history)
    assert model.get_latent_representation(adata).shape == (160, 3)
    predicted = model.predict(adata, condition=STIMULATED, indices=controls(adata))
    assert predicted.n_obs == len(controls(adata))
    with pytest.raises(scdisent.ScDisentError, match="pass adata="):
        model.get_latent_representation()


def test_a_model_without_data_says_what_to_pass_for_training(kit, model_cls):
    manager = kit.build(model_cls, kit.ready()).adata_manager
    model = model_cls(registry=manager.registry, **kit.sizes(model_cls))
    with pytest.raises(scdisent.ScDisentError, match="datamodule="):
        model.train(**kit.fast)


# --------------------------------------------------------------------- predictions


def test_an_unseen_target_is_refused_with_what_is_known_and_what_to_do(kit, model_cls, likelihood):
    adata = kit.ready(likelihood)
    model = kit.trained(model_cls, adata, likelihood=likelihood)
    for call in (
        lambda: model.predict(condition="new_drug", indices=controls(adata)),
        lambda: model.get_normalized_expression(transform_condition="new_drug"),
    ):
        with pytest.raises(OptionError) as caught:
            call()
        for word in ("'new_drug' was not in training", "['control', 'stimulated']", "Train with"):
            assert word in str(caught.value)


def test_cells_already_in_the_target_are_refused_unless_asked_for(kit, model_cls, likelihood):
    adata = kit.ready(likelihood)
    model = kit.trained(model_cls, adata, likelihood=likelihood)
    n_there = adata.n_obs - len(controls(adata))
    with pytest.raises(OptionError) as caught:
        model.predict(condition=STIMULATED)
    assert f"{n_there} of 160 source cells already carry" in str(caught.value)
    assert "allow_reconstruction=True" in str(caught.value)
    found = model.predict(condition=STIMULATED, allow_reconstruction=True)
    assert found.shape == adata.shape
    x = found.X.toarray() if hasattr(found.X, "toarray") else found.X
    assert np.isfinite(x).all()
    if model.module.expects != "real":
        np.testing.assert_array_equal(x, np.rint(x))
        assert x.min() >= 0


# ---------------------------------------------------------------------- divergence


class Poison(pl.Callback):
    """NaN into one weight in the middle of an epoch; note the weights after each one."""

    def __init__(self, epoch):
        self.epoch, self.kept = epoch, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == self.epoch:
            with torch.no_grad():
                pl_module.module.players()[MODEL][0].fill_(float("nan"))

    def on_train_epoch_end(self, trainer, pl_module):
        self.kept.append({k: v.clone() for k, v in pl_module.module.state_dict().items()})


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_loss_that_is_no_number_stops_and_the_error_names_the_epoch_restored(
    kit, model_cls, likelihood, keep_best
):
    adata = kit.ready(likelihood)
    model, poison = kit.build(model_cls, adata, likelihood=likelihood), Poison(4)
    keep_best = keep_best and model_cls is not scdisent.CGGAN  # which has no bound to judge by
    train = {"max_epochs": 6, "callbacks": [poison], "keep_best": keep_best}
    with pytest.raises(TrainingDivergedError) as caught:
        model.train(**{**kit.fast, **train}, plan_kwargs={"lr": 0.005})
    for word in ("in epoch 4", "those of epoch 3", "'lr'", "(now 0.005)", "gradient_clip"):
        assert word in str(caught.value)
    assert len(poison.kept) == 5
    kit.assert_equal_weights(kit.weights(model), poison.kept[3])
    for name, value in results(model).items():
        assert np.isfinite(value).all(), name


def test_a_first_epoch_that_diverges_leaves_an_untrained_model_that_can_train(kit, model_cls):
    model = kit.build(model_cls, kit.ready())
    before = kit.weights(model)
    with pytest.raises(TrainingDivergedError, match="those before training"):
        model.train(**kit.fast, callbacks=[Poison(0)])
    kit.assert_equal_weights(before, kit.weights(model))
    with pytest.raises(NotTrainedError):
        model.get_latent_representation()
    model.train(**kit.fast)
    assert np.isfinite(model.get_latent_representation()).all()


def test_a_trained_model_that_diverges_later_stays_trained(kit, model_cls):
    model = kit.trained(model_cls, kit.ready())
    before = results(model)
    with pytest.raises(TrainingDivergedError, match="those before training"):
        model.train(**kit.fast, callbacks=[Poison(0)])
    assert_equal_results(before, results(model))


# --------------------------------------------------------------------- new process

CHILD = """
import sys
import anndata, numpy as np, scdisent
folder, data, out = sys.argv[1:]
model = scdisent.{model}.load(folder)
adata = anndata.read_h5ad(data)
source = np.flatnonzero(adata.obs["condition"] == "control")
codes = model.get_latent_representation(adata, representation="full")
predicted = model.predict(adata, condition="stimulated", indices=source, seed=1)
np.savez(out, full=codes, predicted=predicted.X.toarray(),
         support=predicted.obs["scdisent_support"].to_numpy())
"""


def test_a_saved_model_gives_the_same_numbers_in_a_new_process(kit, nb_model, tmp_path):
    folder, data, out = (str(tmp_path / name) for name in ("model", "cells.h5ad", "out.npz"))
    nb_model.save(folder)
    kit.query(nb_model.adata).write_h5ad(data)
    code = CHILD.format(model=type(nb_model).__name__)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, folder, data, out], check=True)
    expected = results(nb_model)
    with np.load(out) as found:
        for name in found:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
def test_half_precision_reaches_nearly_the_bound_of_full_precision(kit, bounded_cls, name):
    bounds = []
    for precision in ("32-true", "bf16-mixed"):
        model = kit.trained(
            bounded_cls,
            kit.ready(name),
            likelihood=name,
            train={"max_epochs": 10, "precision": precision},
        )
        bounds.append(model.history["elbo_train"].iloc[-1, 0])
    assert bounds[1] == pytest.approx(bounds[0], rel=0.01)
