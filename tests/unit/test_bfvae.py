"""The terms of the bfVAE family against closed forms and the definitions of its members."""

import math

import numpy as np
import pytest
import torch
from anndata import AnnData
from torch.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    Normal,
    Poisson,
    kl_divergence,
)

import scdisent
from scdisent import functional as fn
from scdisent._errors import InputDataError, OptionError, SetupError
from scdisent.model._bfvae import MEMBERS
from scdisent.nn import Cells, ImageDecoder, ImageEncoder, TotalCorrelationCritic, make_likelihood

N_CELLS, N_LATENT = 64, 3


def correlated(n_cells, generator, *, rho=0.8):
    covariance = torch.eye(N_LATENT)
    covariance[0, 1] = covariance[1, 0] = rho
    noise = torch.randn(n_cells, N_LATENT, generator=generator)
    return noise @ torch.linalg.cholesky(covariance).T, -0.5 * math.log(1 - rho**2)


# ------------------------------------------------------------- total correlation


def test_permuting_keeps_the_marginals_and_breaks_dependence():
    codes, _ = correlated(4_000, torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        shuffled = fn.permuted(codes)
    torch.testing.assert_close(shuffled.sort(0).values, codes.sort(0).values)
    assert torch.corrcoef(codes.T)[0, 1] > 0.75
    assert torch.corrcoef(shuffled.T).fill_diagonal_(0).abs().max() < 0.06


def test_minibatch_estimate_equals_its_definition_term_by_term():
    generator = torch.Generator().manual_seed(0)
    q = Normal(torch.randn(7, 2, generator=generator), torch.rand(7, 2, generator=generator) + 0.2)
    codes = torch.randn(7, 2, generator=generator)
    expected = 0.0
    for i in range(7):
        density = np.array(
            [
                [
                    Normal(q.mean[j, k], q.stddev[j, k]).log_prob(codes[i, k]).exp().item()
                    for k in range(2)
                ]
                for j in range(7)
            ]
        )
        expected += np.log(density.prod(1).mean()) - np.log(density.mean(0)).sum()
    assert fn.total_correlation(codes, q).item() == pytest.approx(expected / 7, rel=1e-5)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_minibatch_estimate_nears_the_gaussian_closed_form(rho):
    found = []
    for seed in range(3):
        codes, truth = correlated(1_500, torch.Generator().manual_seed(seed), rho=rho)
        # A kernel estimate of the aggregate: narrow posteriors around samples of it.
        q = Normal(codes, torch.full_like(codes, 0.7))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(fn.total_correlation(q.rsample(), q).item())
    # Smoothing widens the law from Cov to Cov + 0.7^2 I, of known total correlation.
    smooth = 1 + 0.7**2
    smoothed = -0.5 * math.log(1 - (rho / smooth) ** 2)
    assert np.mean(found) == pytest.approx(smoothed, abs=0.05)


def test_critic_learns_the_total_correlation_of_a_gaussian():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = TotalCorrelationCritic(N_LATENT, n_hidden=64)
        optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(400):
            codes, truth = correlated(512, generator)
            optimizer.zero_grad()
            critic.critic_loss(codes).backward()
            optimizer.step()
        codes, truth = correlated(20_000, generator)
        independent = torch.randn(20_000, N_LATENT, generator=generator)
        with torch.no_grad():
            assert critic.model_term(codes).item() == pytest.approx(truth, abs=0.1)
            assert critic.critic_loss(independent).item() > math.log(2) - 0.01


def test_critic_step_leaves_the_codes_and_model_term_reaches_them():
    codes = torch.randn(20, N_LATENT, requires_grad=True)
    critic = TotalCorrelationCritic(N_LATENT, n_hidden=8)
    critic.critic_loss(codes).backward()
    assert codes.grad is None
    critic.model_term(codes).backward()
    assert codes.grad.abs().sum() > 0


# -------------------------------------------------------------------- covariance


def test_covariance_terms_equal_their_sums(rng):
    mean, variance = rng.normal(size=(30, 4)), rng.uniform(0.1, 1, (30, 4))
    for given in (None, variance):
        expected = np.cov(mean.T, bias=True)
        if given is not None:
            expected = expected + np.diag(given.mean(0))
        covariance = fn.code_covariance(
            torch.from_numpy(mean), None if given is None else torch.from_numpy(given)
        )
        np.testing.assert_allclose(covariance, expected)
        off = sum(expected[k, m] ** 2 for k in range(4) for m in range(4) if k != m)
        assert fn.off_diagonal(covariance).item() == pytest.approx(off)
        diagonal = sum((expected[k, k] - 1) ** 2 for k in range(4))
        assert fn.unit_diagonal(covariance).item() == pytest.approx(diagonal)


# ----------------------------------------------------- members of the family


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    adata = AnnData(rng.normal(size=(N_CELLS, 6)).astype(np.float32))
    scdisent.setup_anndata(adata, condition_key=None)
    return adata


def loss_of(model, *, seed=0):
    """Training loss of the module on all cells, and what the definitions need."""
    module = model.module.train()
    batch = {"X": torch.from_numpy(model.adata.X), "labels": torch.zeros(N_CELLS, 1)}
    batch["batch"] = torch.zeros(N_CELLS, 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        cells = module.cells(batch)
        encoded = module.inference(cells)
        decoded = module.generative(**encoded)
        total = module.loss(batch, encoded, decoded).loss
    z = encoded["latents"]["latent"]
    return total, z, decoded["raw"]["latent"], torch.from_numpy(model.adata.X)


def elbo_parts(z, raw, x, *, scale=0.5):
    """Reconstruction and KL from torch's own distributions."""
    nll = -Normal(raw, scale).log_prob(x).sum(-1).mean()
    standard = Normal(torch.zeros_like(z.sample), torch.ones_like(z.sample))
    return nll, kl_divergence(z.q, standard).sum(-1).mean()


def batch_covariance(z, *, sample):
    covariance = torch.from_numpy(np.cov(z.q.mean.detach().numpy().T, bias=True)).float()
    return covariance + torch.diag(z.q.variance.mean(0)) if sample else covariance


def log_densities(z):
    return torch.stack(
        [Normal(z.q.mean[j], z.q.stddev[j]).log_prob(z.sample) for j in range(N_CELLS)]
    )


def definition(preset, model, z, raw, x):
    """Each member as its own paper writes it."""
    nll, kl = elbo_parts(z, raw, x)
    if preset == "vae":
        return nll + kl
    if preset == "beta_vae":
        return nll + 4 * kl
    if preset == "annealed":
        return nll + 1000 * (kl - 25).abs()
    if preset == "factor_vae":
        return nll + kl + 10 * model.module.adversaries["tc"](z.sample).mean()
    if preset in ("dip_vae_i", "dip_vae_ii"):
        covariance = batch_covariance(z, sample=preset == "dip_vae_ii")
        squares = covariance.square()
        diagonal = (covariance.diagonal() - 1).square().sum()
        weight = 100 if preset == "dip_vae_i" else 10
        return nll + kl + 10 * (squares.sum() - squares.diagonal().sum()) + weight * diagonal
    log_q = log_densities(z)  # (posterior, sample, latent)
    log_n = math.log(N_CELLS)
    joint = torch.logsumexp(log_q.sum(-1), 0) - log_n
    product = (torch.logsumexp(log_q, 0) - log_n).sum(-1)
    return nll + kl + 5 * (joint - product).mean()


@pytest.mark.parametrize("preset", [name for name in MEMBERS if name != "default"])
def test_each_member_equals_its_own_definition(table, preset):
    model = scdisent.BFVAE(
        table, likelihood="normal", scale=0.5, n_latent=N_LATENT, preset=preset, n_hidden=8
    )
    total, z, raw, x = loss_of(model)
    expected = definition(preset, model, z, raw, x)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_beta_tcvae_has_the_weights_of_its_decomposition(table):
    """ELBO terms with b on the total correlation alone: KL + (b - 1) TC (Chen et al. 2018)."""
    losses = [
        loss_of(
            scdisent.BFVAE(
                table,
                likelihood="normal",
                scale=0.5,
                n_latent=N_LATENT,
                preset="vae",
                weights={"tc": b - 1},
                n_hidden=8,
            )
        )[0].item()
        for b in (1, 2, 6)
    ]
    assert losses[2] - losses[0] == pytest.approx(5 * (losses[1] - losses[0]), rel=1e-4)


def test_the_default_is_the_sum_of_all_penalties(table):
    model = scdisent.BFVAE(table, likelihood="normal", scale=0.5, n_latent=N_LATENT, n_hidden=8)
    total, z, raw, x = loss_of(model)
    nll, kl = elbo_parts(z, raw, x)
    tc = model.module.adversaries["tc"](z.sample).mean()
    covariance = batch_covariance(z, sample=True)
    off = covariance.square().sum() - covariance.diagonal().square().sum()
    diagonal = (covariance.diagonal() - 1).square().sum()
    expected = nll + 10 * (kl - 24).abs() + 5 * tc + 5 * off + 5 * diagonal
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("power", "half_way"), [(1.0, 10.0), (2.0, 5.0)])
def test_capacity_rises_over_its_share_of_training(table, power, half_way):
    rise = {"capacity": 20.0, "capacity_rise": 0.5, "capacity_power": power}
    module = scdisent.BFVAE(table, likelihood="normal", **rise).module
    found = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        module.progress = progress
        found.append(module.capacity_now)
    assert found == [0.0, half_way, 20.0, 20.0]


def test_training_moves_the_information_to_the_capacity():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(400, 2))
    adata = AnnData((factors @ rng.normal(size=(2, 8))).astype(np.float32))
    scdisent.setup_anndata(adata, condition_key=None)
    found = []
    for capacity in (2.0, 6.0):
        model = scdisent.BFVAE(
            adata,
            likelihood="normal",
            scale=0.1,
            n_latent=4,
            preset="annealed",
            capacity=capacity,
            weights={"kl_latent": 100.0},
            n_hidden=32,
        )
        model.train(80, batch_size=64, plan_kwargs={"lr": 5e-3}, enable_progress_bar=False)
        assert model.module.progress == 1.0
        mean, variance = model.get_latent_representation(return_dist=True)
        found.append((0.5 * (mean**2 + variance - 1 - np.log(variance))).sum(1).mean())
    np.testing.assert_allclose(found, [2.0, 6.0], atol=0.6)


# ------------------------------------------------------------------- likelihoods


def cells_of(x):
    empty = torch.zeros(len(x), dtype=torch.int64)
    return Cells(x, condition=empty, cell_type=empty, nuisance=torch.zeros(len(x), 0))


def test_mixed_is_the_sum_of_its_columns(rng):
    families = ["normal", "bernoulli", "poisson", "normal"]
    x = np.column_stack(
        [rng.normal(size=20), rng.integers(0, 2, 20), rng.poisson(3, 20), rng.normal(size=20)]
    )
    x, raw = torch.from_numpy(x).float(), torch.from_numpy(rng.normal(size=(20, 4))).float()
    head = make_likelihood("mixed", 4, families=families, scale=0.3)
    expected = (
        Normal(raw[:, [0, 3]], 0.3).log_prob(x[:, [0, 3]]).sum(-1)
        + Bernoulli(logits=raw[:, 1]).log_prob(x[:, 1])
        + Poisson(raw[:, 2].exp()).log_prob(x[:, 2])
    )
    torch.testing.assert_close(head.log_prob(cells_of(x), raw), expected)
    means = torch.column_stack([raw[:, 0], raw[:, 1].sigmoid(), raw[:, 2].exp(), raw[:, 3]])
    torch.testing.assert_close(head.profile(raw), means)
    same = head.carry_over(cells_of(x), raw, raw, rng=None)
    torch.testing.assert_close(same, x)


def test_continuous_bernoulli_is_a_density(rng):
    head = make_likelihood("continuous_bernoulli", 1)
    x = torch.linspace(0, 1, 2_001)[:, None]
    for logit in (-3.0, 0.0, 0.7):
        raw = torch.full_like(x, logit)
        density = head.log_prob(cells_of(x), raw)
        torch.testing.assert_close(density, ContinuousBernoulli(logits=raw).log_prob(x).sum(-1))
        assert torch.trapezoid(density.exp(), x[:, 0]).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"likelihood": "mixed"}, "needs families="),
        ({"likelihood": "mixed", "families": ["normal"] * 5}, "names 5 columns; the data have 6"),
        ({"likelihood": "mixed", "families": ["gamma"] * 6}, "'normal', 'bernoulli', 'poisson'"),
        ({"likelihood": "mixed", "families": "kind"}, "not a column of adata.var"),
        ({"likelihood": "normal", "families": ["normal"] * 6}, "is for likelihood='mixed'"),
        ({"likelihood": "bernoulli", "scale": 0.1}, "scale= is for"),
        ({"likelihood": "normal", "image_shape": [1, 2, 2]}, "does not fit 6 features"),
        ({"likelihood": "normal", "preset": "beta"}, "'beta_vae'"),
        ({"likelihood": "normal", "tc_estimator": "mws"}, "'critic', 'minibatch'"),
        ({"likelihood": "normal", "weights": {"adversary": 1.0}}, "'dip_off'"),
    ],
)
def test_wrong_options_say_what_is_expected(table, arguments, message):
    with pytest.raises(OptionError, match=message):
        scdisent.BFVAE(table, **arguments)


@pytest.mark.parametrize(
    ("family", "message"), [("bernoulli", "zeros and ones"), ("poisson", "whole")]
)
def test_columns_are_held_against_their_family(table, family, message):
    with pytest.raises(InputDataError, match=message):
        scdisent.BFVAE(table, likelihood="mixed", families=[family] + ["normal"] * 5)


def test_pixels_above_one_are_refused(table):
    with pytest.raises(InputDataError, match="between 0 and 1"):
        scdisent.BFVAE(table, likelihood="continuous_bernoulli")


def test_two_blocks_need_a_condition(table):
    with pytest.raises(SetupError, match=r"condition_key=None.*scdisent\.BFVAE"):
        scdisent.DISCoVeR(table, likelihood="normal")
    with pytest.raises(SetupError, match="is a level of condition_key, which is None"):
        scdisent.setup_anndata(table.copy(), condition_key=None, control="a")


# ------------------------------------------------------------------------ images


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 15, 21), (3, 64, 64)])
def test_image_networks_return_the_shape_they_were_given(shape):
    x = torch.rand(3, math.prod(shape))
    q = ImageEncoder(shape, 4, n_hidden=8)(x)
    assert q.mean.shape == q.stddev.shape == (3, 4)
    raw = ImageDecoder(6, shape, n_hidden=8)(q.mean, torch.zeros(3, 2))
    assert raw.shape == x.shape


def test_image_encoder_sees_neighbourhoods():
    """A shift by the total stride moves the code less than shuffling the pixels does."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = ImageEncoder((1, 32, 32), 4, n_hidden=32).layers[:-4]  # convolutions
        image = torch.zeros(1, 1, 32, 32)
        image[..., 8:16, 8:16] = torch.rand(8, 8)
        shifted = image.roll((8, 8), dims=(2, 3))
        torch.testing.assert_close(encoder(image)[..., 1:2, 1:2], encoder(shifted)[..., 2:3, 2:3])


def test_images_are_recognised_by_their_shape_and_learned():
    """Two blobs of any brightness in two places: two factors."""
    rng = np.random.default_rng(0)
    left, right = rng.uniform(size=(2, 300, 1, 1))
    images = np.zeros((300, 8, 8), dtype=np.float32)
    images[:, 2:5, 0:3], images[:, 2:5, 5:8] = left, right
    adata = AnnData(images.reshape(300, 64))
    adata.uns["image_shape"] = [1, 8, 8]
    scdisent.setup_anndata(adata, condition_key=None)
    model = scdisent.BFVAE(adata, likelihood="normal", scale=0.1, n_latent=3, preset="vae")
    assert isinstance(model.module.encoder, ImageEncoder)
    model.train(60, batch_size=64, plan_kwargs={"lr": 3e-3}, enable_progress_bar=False)
    decoded = model.get_normalized_expression(return_numpy=True).reshape(300, 8, 8)
    for place, truth in ((decoded[:, 3, 1], left), (decoded[:, 3, 6], right)):
        assert np.corrcoef(place, truth.ravel())[0, 1] > 0.95
