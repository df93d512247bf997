import pytest
import torch
from torch import nn
from torch.func import jacfwd, vmap

from scdisent.functional import jacobian_l1, mean_absolute_jacobian

N_CELLS, N_LATENT, N_OUTPUT = 40, 5, 17


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    layers = [nn.Linear(N_LATENT, 24), nn.LayerNorm(24), nn.Tanh(), nn.Linear(24, N_OUTPUT)]
    return nn.Sequential(*layers).double()


@pytest.fixture
def z():
    return torch.randn(N_CELLS, N_LATENT, generator=torch.Generator().manual_seed(1)).double()


def exact(decoder, z, factor):
    """Second implementation: the whole Jacobian at once, ``(n_cells, n_output, n_latent)``."""
    jacobian = vmap(jacfwd(decoder))(z)
    return (jacobian.abs() * factor).sum(dim=(1, 2)).mean()


def test_the_full_sum_is_that_of_the_whole_jacobian(decoder, z):
    scale, weights = torch.rand(2, N_LATENT).double()
    weights[2] = 0
    found = jacobian_l1(decoder, z, scale=scale, weights=weights, method="full")
    torch.testing.assert_close(
        found.value.double(), exact(decoder, z, scale * weights), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(found.output, decoder(z))


@pytest.mark.parametrize("method", ["jvp", "fd"])
def test_drawing_one_latent_a_cell_is_right_on_average(decoder, z, method):
    scale = torch.tensor([0.2, 1.0, 2.0, 0.5, 3.0]).double()
    weights = torch.tensor([1.0, 0.0, 1.0, 2.0, 1.0]).double()
    torch.manual_seed(0)
    draws = torch.stack(
        [
            jacobian_l1(decoder, z, scale=scale, weights=weights, method=method).value
            for _ in range(200)
        ]
    )
    expected = exact(decoder, z, scale * weights)
    assert abs(draws.mean() / expected - 1) < 0.01
    assert draws.std() > 0


def test_the_gradient_of_the_estimate_is_that_of_the_sum_on_average(decoder, z):
    weight = decoder[0].weight

    def gradient(method):
        return torch.autograd.grad(jacobian_l1(decoder, z, method=method).value, weight)[0]

    torch.manual_seed(0)
    mean = torch.stack([gradient("jvp") for _ in range(400)]).mean(dim=0)
    torch.testing.assert_close(
        mean, gradient("full"), rtol=0, atol=0.05 * gradient("full").abs().max()
    )


def test_inflating_the_latents_pays_only_without_their_scale(decoder, z):
    """The trap of the gauge: z -> 10 z with a decoder that divides by 10 is the same model."""

    def inflated(codes):
        return decoder(codes / 10)

    def real(decode, codes):
        return jacobian_l1(decode, codes, scale=codes.std(dim=0), method="full").value

    raw, small = (
        jacobian_l1(decode, codes, method="full").value
        for decode, codes in ((decoder, z), (inflated, 10 * z))
    )
    torch.testing.assert_close(small, raw / 10)
    torch.testing.assert_close(real(inflated, 10 * z), real(decoder, z))
    stretch = torch.ones((), dtype=torch.float64, requires_grad=True)
    value = real(lambda codes: decoder(codes / stretch), z * stretch)
    assert abs(torch.autograd.grad(value, stretch)[0]) < 1e-6


def test_logits_of_sparse_parents_are_sparse_and_their_log_softmax_is_not():
    """A linear decoder with one parent a gene: the trap of the softmax."""
    torch.manual_seed(0)
    weight = torch.zeros(2_000, 10)
    weight[torch.arange(2_000), torch.randint(10, (2_000,))] = torch.randn(2_000)
    z = torch.randn(8, 10)

    def logits(codes):
        return codes @ weight.T

    def share_of_entries(decode):
        return (mean_absolute_jacobian(decode, z) > 1e-6).double().mean()

    assert share_of_entries(logits) == pytest.approx(0.10, abs=0.001)
    assert share_of_entries(lambda codes: torch.log_softmax(logits(codes), dim=-1)) > 0.8


def test_without_penalised_latents_nothing_is_asked(decoder, z):
    found = jacobian_l1(decoder, z, weights=torch.zeros(N_LATENT).double())
    assert found.value == 0
    torch.testing.assert_close(found.output, decoder(z))


def test_the_mean_jacobian_is_that_of_each_cell(decoder, z):
    expected = vmap(jacfwd(decoder))(z).abs().mean(dim=0).T
    torch.testing.assert_close(mean_absolute_jacobian(decoder, z), expected)
