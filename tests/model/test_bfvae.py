"""What the models of one block promise, and decoding of codes by all models."""

import numpy as np
import pytest
from anndata import AnnData

import scdisent
from scdisent._errors import NotTrainedError, OptionError
from scdisent.model._bfvae import MEMBERS
from scdisent.train import BestEpoch

FAST = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}
SMALL = {"n_latent": 3, "n_hidden": 16}


def counts(**setup):
    adata = scdisent.datasets.simulate_conditions(
        n_cells=160,
        n_genes=30,
        n_types=2,
        n_donors=2,
        shared_effect_genes=6,
        type_effect_genes=2,
    )
    scdisent.setup_anndata(adata, **{"condition_key": None, **setup})
    return adata


def table(n_cells=120):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=n_cells)
    x = [factor, factor > 0.3, rng.poisson(np.exp(factor)), rng.normal(size=n_cells)]
    adata = AnnData(np.column_stack(x).astype(np.float32))
    adata.var["family"] = ["normal", "bernoulli", "poisson", "normal"]
    scdisent.setup_anndata(adata, condition_key=None)
    return adata


def fitted(adata, **changes):
    model = scdisent.BFVAE(adata, **{**SMALL, **changes})
    model.train(**FAST)
    return model


@pytest.fixture(scope="module")
def model():
    return fitted(counts(batch_key="donor"))


def test_there_is_one_block_and_it_needs_no_condition(model):
    codes = model.get_latent_representation()
    assert codes.shape == (160, 3)
    assert model.representations == ("latent",)
    np.testing.assert_array_equal(codes, model.get_latent_representation(representation="latent"))
    for name in ("invariant", "full"):
        with pytest.raises(OptionError, match="Choose one of: 'latent'"):
            model.get_latent_representation(representation=name)
    bare = AnnData(model.adata.X.copy(), var=model.adata.var.copy())
    np.testing.assert_array_equal(codes, model.get_latent_representation(bare))


def test_codes_decode_to_the_expression_of_their_cells():
    model = fitted(counts())
    codes = model.get_latent_representation()
    expected = model.get_normalized_expression(library_size=100, return_numpy=True)
    np.testing.assert_allclose(model.decode(codes, library_size=100), expected, rtol=1e-5)
    np.testing.assert_allclose(model.decode(codes).sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.decode(codes, batch_size=7), model.decode(codes), rtol=1e-5)
    frame = model.get_normalized_expression(indices=[4, 2])
    assert list(frame.index) == list(model.adata.obs_names[[4, 2]])
    assert list(frame.columns) == list(model.adata.var_names)


def test_codes_are_decoded_in_the_first_batch(model):
    in_first = np.flatnonzero(model.adata.obs["donor"] == sorted(model.adata.obs["donor"])[0])
    codes = model.get_latent_representation(indices=in_first)
    own = model.get_normalized_expression(indices=in_first, library_size=1, return_numpy=True)
    np.testing.assert_allclose(model.decode(codes), own, rtol=1e-5)


def test_two_blocks_decode_side_by_side():
    adata = counts(condition_key="condition")
    model = scdisent.DISCoVeR(adata, n_specific=2, **SMALL)
    with pytest.raises(NotTrainedError):
        model.decode(np.zeros((1, 5)))
    model.train(**FAST)
    codes = model.get_latent_representation(representation="full")
    expected = model.get_normalized_expression(library_size=1, return_numpy=True)
    np.testing.assert_allclose(model.decode(codes), expected, rtol=1e-5)
    with pytest.raises(OptionError, match=r"shape \(160, 4\); expected \(n, 5\)"):
        model.decode(codes[:, :4])


@pytest.mark.parametrize("preset", MEMBERS)
def test_every_parameter_is_moved_and_every_term_has_a_curve(kit, preset):
    steps = kit.steps()
    model = scdisent.BFVAE(counts(), preset=preset, **SMALL)
    model.train(**FAST, callbacks=[steps])
    assert steps.moved == {name for name, _ in model.module.named_parameters()}
    terms = {name for name, weight in model.weights.items() if weight}
    terms |= {"kl_latent", "elbo", "loss"} | ({"kl_capacity"} if model.module.capacity else set())
    expected = {f"{name}_{mode}" for name in terms for mode in ("train", "validation")}
    critic = {"critic_loss_train"} if "tc" in model.module.adversaries else set()
    assert set(model.history) == expected | critic
    assert all(np.isfinite(curve.to_numpy(float)).all() for curve in model.history.values())


def test_the_kept_epoch_has_the_whole_capacity():
    """While the capacity rises, early epochs have the better bound and too little information."""
    adata = scdisent.datasets.simulate_factors("fa15", n_cells=400)
    scdisent.setup_anndata(adata, condition_key=None)
    model = scdisent.BFVAE(
        adata, likelihood="normal", scale=0.1, n_latent=4, n_hidden=32, capacity=24.0
    )
    model.train(100, batch_size=64, enable_progress_bar=False)
    mean, variance = model.get_latent_representation(return_dist=True)
    kl = (mean**2 + variance - 1 - np.log(variance)).sum(1).mean() / 2
    assert kl == pytest.approx(24.0, abs=2.0)
    (keeper,) = (each for each in model.trainer.callbacks if isinstance(each, BestEpoch))
    assert keeper.first_epoch == 80


def test_one_seed_one_result_and_another_seed_another():
    adata = counts()

    def codes(seed):
        model = scdisent.BFVAE(adata, seed=seed, **SMALL)
        model.train(**FAST, seed=seed)
        return model.get_latent_representation()

    np.testing.assert_array_equal(codes(1), codes(1))
    assert np.abs(codes(1) - codes(2)).max() > 1e-3


@pytest.mark.parametrize("kind", ["counts", "mixed", "image"])
def test_a_saved_model_comes_back_with_what_it_was_built_with(tmp_path, kind):
    if kind == "counts":
        model = fitted(counts(batch_key="donor"))
    elif kind == "mixed":
        model = fitted(table(), likelihood="mixed", families="family", scale=0.2)
    else:
        adata = AnnData(np.random.default_rng(0).uniform(size=(60, 64)).astype(np.float32))
        adata.uns["image_shape"] = [1, 8, 8]
        scdisent.setup_anndata(adata, condition_key=None)
        model = fitted(adata, likelihood="continuous_bernoulli")
    model.save(tmp_path / "model")
    for attached in (model.adata.copy(), None):
        loaded = scdisent.BFVAE.load(tmp_path / "model", attached)
        codes = model.get_latent_representation()
        np.testing.assert_array_equal(codes, loaded.get_latent_representation(model.adata))
        np.testing.assert_array_equal(model.decode(codes), loaded.decode(codes))


def test_a_mixed_table_is_reconstructed_column_by_column():
    adata = table(400)
    model = scdisent.BFVAE(
        adata, likelihood="mixed", families="family", scale=0.2, n_latent=2, preset="vae"
    )
    model.train(80, batch_size=64, plan_kwargs={"lr": 5e-3}, enable_progress_bar=False)
    x, decoded = adata.X, model.get_normalized_expression(return_numpy=True)
    assert np.corrcoef(x[:, 0], decoded[:, 0])[0, 1] > 0.95
    assert decoded[x[:, 1] == 1, 1].mean() > 0.9 > 0.1 > decoded[x[:, 1] == 0, 1].mean()
    assert np.corrcoef(np.exp(x[:, 0]), decoded[:, 2])[0, 1] > 0.9
