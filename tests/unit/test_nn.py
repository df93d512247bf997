"""Building blocks: closed forms, second implementations, what gradients reach."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scdisent import functional as fn
from scdisent._errors import OptionError
from scdisent.nn import (
    LIKELIHOODS,
    PRIORS,
    Adversary,
    Cells,
    Decoder,
    GaussianEncoder,
    balanced_weights,
    likelihood_class,
    specific_prior,
)

N_CELLS, N_GENES, N_LATENT = 40, 15, 3
COUNTS = ("nb", "zinb", "poisson")


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def counts(rng):
    counts = rng.poisson(rng.gamma(0.5, 3.0, (N_CELLS, N_GENES))).astype(np.float32)
    counts[:, 0] += 1
    return torch.from_numpy(counts)


def cells_of(x, *, csr=False, **known):
    nothing = torch.empty(0, dtype=torch.int64)
    fields = {"condition": nothing, "cell_type": nothing, "nuisance": torch.zeros(len(x), 0)}
    fields |= known
    return Cells(x=x.to_sparse_csr() if csr else x, **fields)


# ------------------------------------------------------------------------ cells


@pytest.mark.parametrize("csr", [False, True])
def test_a_minibatch_reads_the_same_dense_and_sparse(counts, csr):
    cells = cells_of(counts, csr=csr)
    assert len(cells) == N_CELLS
    torch.testing.assert_close(cells.dense, counts)
    torch.testing.assert_close(cells.library, counts.sum(1))
    expected = torch.log1p(1e4 * counts / counts.sum(1, keepdim=True))
    torch.testing.assert_close(cells.log_normalised.csr.to_dense(), expected)


def test_the_encoder_input_does_not_grow_with_depth(counts):
    shallow, deep = cells_of(counts), cells_of(10 * counts)
    torch.testing.assert_close(
        shallow.log_normalised.csr.to_dense(), deep.log_normalised.csr.to_dense()
    )
    torch.testing.assert_close(10 * shallow.library, deep.library)


def test_a_given_size_factor_is_the_library(counts):
    given = torch.full((N_CELLS,), 7.0)
    assert torch.equal(cells_of(counts, given_library=given).library, given)


def test_what_is_known_of_a_minibatch_is_computed_once(counts):
    cells, calls = cells_of(counts), []
    for _ in range(3):
        cells.once("key", lambda: calls.append(1) or torch.ones(1))
    assert len(calls) == 1


# --------------------------------------------------------------------- encoders


@pytest.mark.parametrize("n_layers", [0, 1, 2])
@pytest.mark.parametrize("n_labels", [0, 4])
def test_encoders_read_sparse_and_dense_input_alike(counts, n_layers, n_labels):
    encoder = GaussianEncoder(N_GENES, N_LATENT, n_hidden=8, n_layers=n_layers, n_labels=n_labels)
    label = torch.arange(N_CELLS) % n_labels if n_labels else None
    found = []
    for x in (counts, fn.SparseCells.from_tensor(counts)):
        q = encoder(x, label)
        (q.mean.sum() + q.stddev.log().sum()).backward()
        gradients = [parameter.grad.clone() for parameter in encoder.parameters()]
        found.append([q.mean.detach(), q.stddev.detach(), *gradients])
        encoder.zero_grad()
    for dense, sparse in zip(*found, strict=True):
        torch.testing.assert_close(dense, sparse, rtol=1e-4, atol=1e-4)
    assert found[0][0].shape == (N_CELLS, N_LATENT)
    assert (found[0][1] > 0).all()


def test_a_label_is_a_one_hot_column_beside_the_genes(counts):
    encoder = GaussianEncoder(N_GENES, N_LATENT, n_hidden=8, n_layers=0, n_labels=3)
    label = torch.arange(N_CELLS) % 3
    joined = torch.cat([counts, F.one_hot(label, 3).float()], dim=1)
    weight = torch.cat([encoder.first.weight, encoder.label.weight])
    mean, raw_scale = (joined @ weight + encoder.first.bias).chunk(2, dim=-1)
    q = encoder(counts, label)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.stddev, F.softplus(raw_scale) + 1e-4)


def test_a_posterior_never_loses_all_its_width():
    encoder = GaussianEncoder(N_GENES, N_LATENT, n_hidden=8, n_layers=0)
    assert (encoder(torch.full((2, N_GENES), -1e6)).stddev >= 1e-4).all()
    assert torch.isfinite(encoder(torch.full((2, N_GENES), 1e6)).stddev).all()


def test_a_decoder_joins_its_blocks_in_order():
    decoder = Decoder(5, 7, n_hidden=8, n_layers=1).eval()
    z, w, known = torch.randn(N_CELLS, 2), torch.randn(N_CELLS, 2), torch.randn(N_CELLS, 1)
    torch.testing.assert_close(decoder(z, w, known), decoder(torch.cat([z, w, known], 1)))
    assert decoder(z, w, known).shape == (N_CELLS, 7)
    assert not torch.allclose(decoder(z, w, known), decoder(w, z, known))


# ------------------------------------------------------------------ likelihoods


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("csr", [False, True])
def test_the_log_likelihood_is_that_of_the_distribution(counts, name, csr):
    head = likelihood_class(name)(N_GENES)
    x = {"binary": (counts > 1).float(), "real": counts.sqrt()}.get(head.expects, counts)
    cells = cells_of(x, csr=csr)
    raw = torch.randn(N_CELLS, N_GENES * head.n_outputs_per_gene)
    expected = head.distribution(raw, cells.library).log_prob(x).sum(-1)
    torch.testing.assert_close(head.log_prob(cells, raw), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", COUNTS)
def test_the_mean_of_counts_is_a_share_of_the_library(name):
    head = likelihood_class(name)(N_GENES)
    raw = torch.randn(N_CELLS, N_GENES * head.n_outputs_per_gene)
    library = torch.linspace(10, 1000, N_CELLS)
    torch.testing.assert_close(head.profile(raw).sum(1), torch.ones(N_CELLS))
    torch.testing.assert_close(head.rate(raw, library).sum(1), library)
    mean = head.distribution(raw, library).mean
    if name == "zinb":
        mean = mean / (1 - torch.sigmoid(raw[:, N_GENES:]))
    torch.testing.assert_close(mean, head.rate(raw, library), rtol=1e-4, atol=1e-4)


def assert_unbiased(draws, expected):
    error = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - expected).abs() < 5 * error + 1e-6).all()


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson", "normal", "bernoulli"])
def test_samples_with_a_gradient_have_the_law_and_the_gradient_of_the_mean(name):
    torch.manual_seed(0)
    head = likelihood_class(name)(4)
    raw = torch.randn(1, 4 * head.n_outputs_per_gene, requires_grad=True)
    library = torch.tensor([20.0])
    law = head.distribution(raw, library)
    wide = raw.expand(40_000, -1)
    draws = head.relaxed_sample(wide, library.expand(40_000))
    assert_unbiased(draws.detach(), law.mean.detach()[0])
    np.testing.assert_allclose(draws.var(dim=0).detach(), law.variance.detach()[0], rtol=0.06)
    if name != "normal":
        assert (draws == draws.round()).all()
    weights = torch.randn(4)
    found = torch.autograd.grad((draws * weights).sum() / 40_000, raw)[0]
    expected = torch.autograd.grad((law.mean * weights).sum(), raw)[0]
    np.testing.assert_allclose(found, expected, atol=0.05 * float(expected.abs().max()))


def test_a_diverged_decoder_gives_samples_that_are_no_numbers_and_no_error():
    for name in ("nb", "zinb", "poisson", "bernoulli"):
        head = likelihood_class(name)(3)
        raw = torch.full((2, 3 * head.n_outputs_per_gene), torch.nan)
        assert head.relaxed_sample(raw, torch.ones(2)).isnan().all()


@pytest.mark.parametrize("extreme", [-100.0, 100.0])
@pytest.mark.parametrize("name", ["nb", "zinb"])
def test_no_dispersion_makes_the_likelihood_infinite(counts, name, extreme):
    head = likelihood_class(name)(N_GENES)
    with torch.no_grad():
        head.log_theta.fill_(extreme)
    raw = torch.randn(N_CELLS, N_GENES * head.n_outputs_per_gene, requires_grad=True)
    value = head.log_prob(cells_of(counts), raw)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(raw.grad).all()


def test_unknown_likelihoods_and_priors_list_the_known_ones():
    with pytest.raises(OptionError, match="'nb', 'zinb', 'poisson', 'normal', 'bernoulli'"):
        likelihood_class("gauss")
    with pytest.raises(OptionError, match="'class_mean', 'embedding', 'standard', 'context'"):
        specific_prior("flat", n_conditions=2, n_latent=2, n_context=2)


# ----------------------------------------------------------------------- priors


@pytest.mark.parametrize("name", [name for name in PRIORS if name != "fixed"])
def test_priors_have_unit_scale_and_the_shape_of_w(name):
    prior = specific_prior(name, n_conditions=4, n_latent=N_LATENT, n_context=N_LATENT)
    z, condition = torch.randn(N_CELLS, N_LATENT), torch.arange(N_CELLS) % 4
    for mode in (True, False):
        p = prior.train(mode)(z, condition)
        assert p.mean.shape == (N_CELLS, N_LATENT)
        assert torch.equal(p.stddev, torch.ones(N_CELLS, N_LATENT))


def test_what_the_mean_of_each_prior_depends_on():
    def mean(name, z, condition):
        return priors[name](z, condition).mean

    priors = {
        name: specific_prior(name, n_conditions=2, n_latent=2, n_context=2).eval()
        for name in PRIORS
    }
    z, other = torch.randn(9, 2), torch.randn(9, 2)
    zeros, ones = torch.zeros(9, dtype=torch.int64), torch.ones(9, dtype=torch.int64)
    assert not mean("standard", z, ones).any()
    assert torch.equal(mean("embedding", z, ones), mean("embedding", other, ones))
    assert not torch.allclose(mean("embedding", z, zeros), mean("embedding", z, ones))
    assert not torch.allclose(mean("context", z, ones), mean("context", other, ones))
    assert not torch.allclose(mean("context", z, zeros), mean("context", z, ones))


def test_the_class_mean_prior_is_the_mean_of_z_in_training_and_its_running_mean_later():
    prior = specific_prior("class_mean", n_conditions=3, n_latent=2, n_context=2)
    z = torch.randn(N_CELLS, 2, requires_grad=True)
    condition = torch.arange(N_CELLS) % 2  # no cell of the third condition
    expected = torch.stack([z[condition == k].mean(0) for k in (0, 1)])
    mean = prior(z, condition).mean
    torch.testing.assert_close(mean, expected[condition])
    mean.square().sum().backward()
    assert z.grad.abs().sum() > 0  # as in the authors' code the gradient is not stopped

    for _ in range(400):
        prior(z, condition)
    prior.eval()
    torch.testing.assert_close(prior(z[:5], condition[:5]).mean, expected[condition[:5]])
    torch.testing.assert_close(prior(z[:5] + 100, condition[:5]).mean, expected[condition[:5]])
    assert not prior.running_mean[2].any()


# -------------------------------------------------------------------- adversary


@pytest.fixture
def critic():
    return Adversary(N_LATENT, class_weights=torch.ones(2), game="zero_sum", n_hidden=8)


@pytest.fixture
def condition():
    return torch.arange(N_CELLS) % 2


def gradient_of(value, *tensors):
    return torch.autograd.grad(value, tensors, allow_unused=True)


def test_the_critic_learns_and_leaves_the_features_alone(critic, condition):
    features = torch.randn(N_CELLS, N_LATENT, requires_grad=True)
    loss = critic.critic_loss(features, condition)
    of_features, *of_critic = gradient_of(loss, features, *critic.parameters())
    assert of_features is None
    assert all(g is not None and g.abs().sum() > 0 for g in of_critic)


@pytest.mark.parametrize("game", ["entropy", "zero_sum", "confusion"])
def test_the_models_term_reaches_the_features(condition, game):
    critic = Adversary(N_LATENT, class_weights=torch.ones(2), game=game, n_hidden=8)
    features = torch.randn(N_CELLS, N_LATENT, requires_grad=True)
    (gradient,) = gradient_of(critic.model_term(features, condition), features)
    assert gradient.abs().sum() > 0


def test_the_zero_sum_term_is_the_negative_loss_of_the_critic(critic, condition):
    features = torch.randn(N_CELLS, N_LATENT)
    torch.testing.assert_close(
        critic.model_term(features, condition), -critic.critic_loss(features, condition)
    )


def test_a_critic_finds_a_planted_condition_and_none_in_noise(condition):
    for signal, bounds in ((2.0, (0.0, 0.2)), (0.0, (0.55, 0.75))):
        critic = Adversary(N_LATENT, class_weights=torch.ones(2), game="zero_sum", n_hidden=8)
        optimizer = torch.optim.Adam(critic.parameters(), lr=0.02)
        for _ in range(100):
            features = torch.randn(N_CELLS, N_LATENT)
            features[:, 0] += signal * (2 * condition - 1)
            loss = critic.critic_loss(features, condition)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert bounds[0] <= loss.item() <= bounds[1], (signal, loss.item())


def test_scaling_the_features_does_not_blind_the_critic(critic, condition):
    features = torch.randn(N_CELLS, N_LATENT)
    torch.testing.assert_close(critic(1e-2 * features), critic(100 * features), rtol=0.1, atol=0.05)


def test_balanced_weights_make_the_ignorant_critic_say_equal_chances():
    sizes = torch.tensor([30.0, 8.0, 2.0])
    weights = balanced_weights(sizes)
    torch.testing.assert_close(weights * sizes, torch.full((3,), 40 / 3))
    condition = torch.repeat_interleave(torch.arange(3), sizes.long())
    bias = torch.zeros(3, requires_grad=True)
    loss = fn.critic_cross_entropy(bias.expand(40, 3), condition, weights)
    assert loss.item() == pytest.approx(math.log(3), abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, bias)
    torch.testing.assert_close(gradient, torch.zeros(3), atol=1e-6, rtol=0)


def test_a_condition_without_cells_has_a_finite_weight():
    assert torch.isfinite(balanced_weights(torch.tensor([10.0, 0.0]))).all()


def test_a_critic_that_knows_the_cell_type_gains_nothing_from_codes_that_only_tell_the_type():
    n_cells = 2000
    cell_type = torch.arange(n_cells) % 2
    chance = torch.where(cell_type == 0, 0.9, 0.1)
    condition = (torch.rand(n_cells) < chance).long()  # a composition that differs
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    losses = {}
    for knows in (0, 2):
        for told in (True, False):
            critic = Adversary(
                1, class_weights=torch.ones(2), game="zero_sum", n_hidden=8, n_context=knows
            )
            optimizer = torch.optim.Adam(critic.parameters(), lr=0.02)
            for _ in range(150):
                features = 0.1 * torch.randn(n_cells, 1) + told * cell_type[:, None]
                loss = critic.critic_loss(features, condition, cell_type if knows else None)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            losses[knows, told] = loss.item()
    assert losses[2, True] == pytest.approx(entropy, abs=0.03)
    assert losses[2, False] == pytest.approx(losses[2, True], abs=0.02)  # the codes add nothing
    assert losses[0, False] - losses[0, True] > 0.3  # without context they would be blamed


def test_unknown_games_list_the_known_ones():
    with pytest.raises(OptionError, match="'entropy', 'zero_sum', 'confusion'"):
        Adversary(2, class_weights=torch.ones(2), game="chess")
