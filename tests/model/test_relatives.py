"""Relatives of DISCoVeR as argument settings, and the image networks of its blocks."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import scdisent
from scdisent import metrics as sm
from scdisent._errors import OptionError
from scdisent.benchmarks._hcsvae import HCSVAE
from scdisent.model._latent_mixin import ALL_FIELDS
from scdisent.module import INVARIANT, JOINT, SPECIFIC, State
from scdisent.nn import make_encoder, specific_prior

RELATIVES = ("csvae", "csvae_na", "diva", "ccvae")


def minibatch(model):
    loader = model._loader(None, fields=ALL_FIELDS)
    return model.module.cells(next(iter(loader)))


def test_the_fixed_prior_sets_a_condition_apart_in_its_own_columns():
    prior = specific_prior("fixed", n_conditions=3, n_latent=6, n_context=2)
    found = prior(torch.zeros(3, 2), torch.arange(3))
    own = np.kron(np.eye(3), np.ones((1, 2)))
    np.testing.assert_allclose(found.mean, 3 * own)
    np.testing.assert_allclose(found.stddev, np.where(own > 0, 1.0, 0.1), rtol=1e-6)
    with pytest.raises(OptionError, match="multiple of 3"):
        specific_prior("fixed", n_conditions=3, n_latent=5, n_context=2)


@pytest.mark.parametrize("preset", RELATIVES)
def test_relatives_train_every_weight_and_are_restored(kit, preset, tmp_path):
    adata, steps = kit.ready(), kit.steps()
    train = {"callbacks": [steps], "max_epochs": 3}
    model = kit.trained(scdisent.DISCoVeR, adata, preset=preset, n_specific=4, train=train)
    assert steps.moved == {name for name, _ in model.module.named_parameters()}
    assert list(model.module.likelihoods) == [JOINT]
    terms = {name.removesuffix("_train") for name in model.history}
    assert ("classifier" in terms) == (preset in ("diva", "ccvae"))
    assert "nll_invariant" not in terms
    model.save(tmp_path / "model")
    again = scdisent.DISCoVeR.load(tmp_path / "model", adata)
    for block in (INVARIANT, SPECIFIC):
        codes = (m.get_latent_representation(representation=block) for m in (model, again))
        np.testing.assert_array_equal(*codes)


def test_what_each_encoder_reads(kit):
    adata = kit.ready()
    query = kit.query(adata)
    del query.obs["condition"]
    diva = kit.trained(scdisent.DISCoVeR, adata, preset="diva")
    codes = diva.get_latent_representation(query, representation="specific")  # of x alone
    np.testing.assert_array_equal(codes, diva.get_latent_representation(representation="specific"))
    csvae = kit.trained(scdisent.DISCoVeR, adata, preset="csvae")
    with pytest.raises(scdisent.ScDisentError, match="condition"):
        csvae.get_latent_representation(query, representation="specific")


def test_the_classifier_term_is_the_cross_entropy_of_the_condition(kit):
    adata = kit.ready()
    model = kit.trained(scdisent.DISCoVeR, adata, preset="ccvae")
    module, cells = model.module, minibatch(model)
    latents = module.encode(cells)
    state = State(cells, latents, module.decode(cells, latents))
    found = {term.name: term.value for term in module.terms(state)}["classifier"]
    logits = module.classifier(latents[SPECIFIC].sample)
    torch.testing.assert_close(found, F.cross_entropy(logits, cells.condition, reduction="none"))
    prior = latents[INVARIANT].prior  # p(z | y): one mean for each condition
    for code in (0, 1):
        own = prior.mean[cells.condition == code]
        torch.testing.assert_close(own, own[:1].expand_as(own))
    assert not torch.allclose(*(prior.mean[cells.condition == code][0] for code in (0, 1)))


def test_without_a_head_of_its_own_z_decodes_at_the_prior_of_w(kit):
    adata = kit.ready()
    model = kit.trained(scdisent.DISCoVeR, adata, preset="csvae")
    module, cells = model.module, minibatch(model)
    z = module.posterior(cells, INVARIANT).mean
    w = module.prior(z, cells.condition).mean
    expected = module.decode_joint(z, w, cells.nuisance)
    found = module.decode_invariant(z, cells.condition, cells.nuisance)
    torch.testing.assert_close(found, expected)
    with pytest.raises(OptionError, match="Choose adversary_reads='z'"):
        kit.build(scdisent.DISCoVeR, adata, preset="csvae", adversary_reads="both")


def test_the_hierarchical_relative_predicts_and_trains_every_weight(kit):
    adata, steps = kit.world(), kit.steps()
    HCSVAE.setup_anndata(adata, **kit.setup)
    train = {"callbacks": [steps], "max_epochs": 3}
    model = kit.trained(HCSVAE, adata, preset="csvae", n_specific=4, train=train)
    assert steps.moved == {name for name, _ in model.module.named_parameters()}
    assert {"kl_hidden_train", "nll_joint_train"} <= set(model.history)
    cells = adata[adata.obs["condition"] == "control"]
    found = model.predict(cells, condition="stimulated", seed=0)
    assert found.shape == cells.shape
    assert np.isfinite(found.X.toarray()).all()


def test_a_conditional_vae_reads_its_covariates_in_both_networks(kit):
    setup = {"condition_key": None, "control": None}
    setup["categorical_covariate_keys"] = ["condition"]
    adata = kit.ready(setup=setup)
    options = {"preset": "vae", "encode_covariates": True, "n_hidden": 16, "n_latent": 3}
    model = scdisent.BFVAE(adata, **options)
    model.train(**kit.fast)
    other = kit.query(adata)
    names = other.obs["condition"].astype(str)
    other.obs["condition"] = np.where(names == "control", "stimulated", "control")
    here, there = (model.get_latent_representation(cells) for cells in (adata, other))
    assert np.abs(here - there).max() > 1e-3
    plain = scdisent.BFVAE(adata, **{**options, "encode_covariates": False})
    plain.train(**kit.fast)
    here, there = (plain.get_latent_representation(cells) for cells in (adata, other))
    np.testing.assert_array_equal(here, there)


# ------------------------------------------------------------------------ images


def test_image_encoders_read_labels_as_codes_or_values():
    torch.manual_seed(0)
    size = {"n_hidden": 8, "n_layers": 1, "n_labels": 3}
    for shape in (None, (1, 8, 8)):
        encoder = make_encoder(64, 2, image_shape=shape, **size).eval()
        x, codes = torch.rand(5, 64), torch.tensor([0, 1, 2, 0, 1])
        by_code, by_value = encoder(x, codes), encoder(x, F.one_hot(codes, 3).float())
        torch.testing.assert_close(by_code.mean, by_value.mean)
        other = encoder(x, (codes + 1) % 3)
        assert (by_code.mean - other.mean).abs().min() > 0
        with pytest.raises((AttributeError, TypeError)):
            encoder(x)


INKS = ("red", "green")


def channels(cells):
    """Mean of each colour."""
    return np.asarray(cells.X).reshape(cells.n_obs, 3, -1).mean(axis=(0, 2))


def test_digits_are_split_by_convolutions(kit):
    adata = scdisent.datasets.two_color_digits(n_cells=1_500, side=12, seed=0)
    adata = adata[adata.obs["condition"].isin([f"{ink} on black" for ink in INKS])].copy()
    adata.obs["condition"] = adata.obs["condition"].cat.remove_unused_categories()
    scdisent.setup_anndata(adata, condition_key="condition", control="red on black")
    options = {"likelihood": "continuous_bernoulli", "n_latent": 4, "n_hidden": 16}
    model = scdisent.DISCoVeR(adata, seed=0, **options)
    assert type(model.module.encoders[SPECIFIC]).__name__ == "ImageEncoder"
    model.train(**{**kit.fast, "max_epochs": 80}, seed=0)
    source, observed = (adata[adata.obs["condition"] == f"{ink} on black"] for ink in INKS)
    found = model.predict(source, condition="green on black", kind="mean", noise="fresh", seed=0)
    before, after, said = (channels(cells) for cells in (source, observed, found))
    assert np.abs(said - after)[:2].max() < 0.4 * np.abs(after - before)[:2].min()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_invariant_block_of_images_outlives_the_first_epochs(kit, seed):
    """With ReLUs most units died of the first steps, and z lost the digit with the colour."""
    adata = scdisent.datasets.noisy_colored_digits(n_cells=3_000, side=16, seed=1)
    scdisent.setup_anndata(adata, condition_key="condition")
    model = scdisent.DISCoVeR(adata, likelihood="normal", scale=0.2, seed=seed)
    model.train(max_epochs=20, batch_size=128, seed=seed, enable_progress_bar=False)
    z, w = (
        model.get_latent_representation(representation=name) for name in ("invariant", "specific")
    )
    digit, colour = (adata.obs[name].astype(str).to_numpy() for name in ("digit", "condition"))
    assert sm.label_recovery(z, digit, seed=0) > 0.7  # 0.21 before
    assert sm.label_recovery(w, digit, seed=0) < 0.3
    assert sm.label_recovery(z, colour, seed=0) < 0.4
