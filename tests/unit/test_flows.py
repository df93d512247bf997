import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.func import jacfwd

from scdisent.module import LatentBlock
from scdisent.nn import ConditionFlow, ConditionInputs, CovariateCode, FlowPrior, IndexCode
from scdisent.nn._conditions import DoseResponse

N_CONDITIONS, N_LATENT, N_CODE, N_CELLS = 4, 3, 6, 50


@pytest.fixture(params=["affine", "spline"])
def kind(request):
    return request.param


def make(kind, *, gated=False, seed=0):
    """A flow with strong effects, and the parameters of its maps under each condition."""
    torch.manual_seed(seed)
    flow = ConditionFlow(N_LATENT, N_CODE, kind=kind, gated=gated).double()
    with torch.no_grad():
        flow.maps.hyper[-1].weight.mul_(8)
        if gated:
            flow.gates.copy_(torch.tensor([1.5, 0.0, 0.4]))
    codes = torch.randn(N_CONDITIONS, N_CODE).double()
    return flow, codes, flow.parameters_of(codes, codes).detach()


@pytest.fixture
def z():
    return 1.5 * torch.randn(N_CELLS, N_LATENT, generator=torch.Generator().manual_seed(3)).double()


def transport(flow, parameters, z, here, there):
    noise = flow.to_noise(parameters[here].expand(len(z), -1, -1))(z)
    return flow.to_noise(parameters[there].expand(len(z), -1, -1)).inv(noise)


def test_there_and_back_is_where_we_were_and_ranks_are_kept(kind, z):
    flow, _, parameters = make(kind)
    there = transport(flow, parameters, z, 0, 1)
    assert (there - z).abs().max() > 0.3
    torch.testing.assert_close(transport(flow, parameters, there, 1, 0), z, rtol=0, atol=1e-6)
    torch.testing.assert_close(transport(flow, parameters, z, 2, 2), z, rtol=0, atol=1e-6)
    assert torch.equal(there.argsort(dim=0), z.argsort(dim=0))


def test_each_latent_is_moved_on_its_own_and_the_slope_is_that_of_autograd(kind, z):
    flow, _, parameters = make(kind)
    for row in z[:5]:
        to_noise = flow.to_noise(parameters[0][None])
        jacobian = jacfwd(lambda code, move=to_noise: move(code[None])[0])(row)
        assert torch.equal(
            jacobian - jacobian.diag().diag(), torch.zeros(N_LATENT, N_LATENT).double()
        )
        expected = jacobian.diag().log().sum()
        torch.testing.assert_close(
            to_noise.call_and_ladj(row[None])[1][0], expected, rtol=0, atol=1e-4
        )


def test_the_prior_is_a_density_and_for_affine_maps_a_gaussian(kind):
    flow, _, parameters = make(kind)
    base = Normal(
        torch.tensor([[0.0, 0.5, -0.5]]).double(), torch.tensor([[1.0, 0.7, 1.3]]).double()
    )
    grid = torch.linspace(-80, 80, 160_001).double()
    for condition in range(N_CONDITIONS):
        prior = flow.prior(parameters[[condition]], base)
        noise, _ = prior.to_noise.call_and_ladj(torch.zeros(1, N_LATENT).double())
        assert noise.shape == (1, N_LATENT)
        for latent in range(N_LATENT):
            maps = flow.to_noise(parameters[[condition]][:, [latent]].expand(len(grid), -1, -1))
            own = Normal(base.mean[:, latent], base.stddev[:, latent])
            density = FlowPrior(maps, own, is_affine=False).log_prob(grid[:, None]).exp()
            assert torch.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
        if kind == "affine":
            points = torch.randn(1, N_LATENT).double()
            expected = prior.as_normal().log_prob(points).sum(dim=-1)
            torch.testing.assert_close(prior.log_prob(points), expected)


def test_the_divergence_by_samples_is_the_closed_one_on_average():
    flow, _, parameters = make("affine")
    q = Normal(torch.randn(1, N_LATENT).double(), torch.tensor([[0.3, 1.0, 0.6]]).double())
    base = Normal(torch.zeros(1, N_LATENT).double(), torch.ones(1, N_LATENT).double())
    prior = flow.prior(parameters[[0]], base)
    closed = LatentBlock(q, q.mean, prior.as_normal()).kl()
    many = 200_000
    wide = Normal(q.mean.expand(many, -1), q.stddev.expand(many, -1))
    flow_prior = flow.prior(parameters[[0]].expand(many, -1, -1), base)
    by_samples = LatentBlock(wide, wide.sample(), flow_prior).kl()
    standard_error = by_samples.std() / many**0.5
    assert abs(by_samples.mean() - closed) < 4 * standard_error


def test_the_mean_over_the_conditions_of_training_is_what_they_share(kind):
    flow, codes, parameters = make(kind)
    torch.testing.assert_close(parameters.mean(dim=0), torch.zeros_like(parameters[0]))
    flow.common.data.normal_()
    torch.testing.assert_close(flow.parameters_of(codes, codes).mean(dim=0), flow.common)
    flow.common.data.zero_()
    new = torch.randn(2, N_CODE).double()
    np.testing.assert_allclose(
        (flow.parameters_of(new, codes) - flow.maps.hyper(new).unflatten(-1, (N_LATENT, -1)))
        .detach()
        .std(dim=0),
        0,
        atol=1e-12,
    )  # new conditions are centred by the mean of training, not by their own


def test_a_gate_is_the_size_of_the_effect_and_zero_is_no_effect(kind, z):
    flow, _, parameters = make(kind, gated=True)
    size = (parameters**2).mean(dim=0).sum(dim=-1).sqrt()
    torch.testing.assert_close(size, flow.gates.detach())
    moved = transport(flow, parameters, z, 0, 1)
    torch.testing.assert_close(moved[:, 1], z[:, 1], rtol=0, atol=1e-12)
    assert (moved - z).abs()[:, [0, 2]].max() > 0.1
    doubled = flow.maps.hyper[-1].weight.data.mul_(2)
    assert doubled.shape[1] == 64
    codes = torch.randn(N_CONDITIONS, N_CODE).double()
    size = (flow.parameters_of(codes, codes) ** 2).mean(dim=0).sum(dim=-1).sqrt()
    torch.testing.assert_close(size, flow.gates)  # no gauge between gate and network


def test_a_closed_gate_still_has_a_gradient_by_which_it_can_open(kind, z):
    flow, codes, _ = make(kind, gated=True)
    base = Normal(torch.zeros_like(z), torch.ones_like(z))
    parameters = flow.parameters_of(codes, codes)[torch.arange(N_CELLS) % N_CONDITIONS]
    flow.prior(parameters, base).log_prob(z).sum().backward()
    assert (flow.gates.grad.abs() > 1e-6).all()


def test_without_trust_the_spline_is_left_out(z):
    flow, _, parameters = make("spline")
    one = parameters[[0]].expand(N_CELLS, -1, -1)
    affine, _ = make("affine")[:2]
    expected = affine.to_noise(one[..., :2])(z)
    torch.testing.assert_close(flow.to_noise(one, spline=0.0)(z), expected, rtol=0, atol=1e-9)
    assert (flow.to_noise(one)(z) - expected).abs().max() > 0.05


def inputs(features, present, dose):
    return ConditionInputs(
        torch.tensor(features, dtype=torch.float32),
        torch.tensor(present, dtype=torch.float32),
        torch.tensor(dose, dtype=torch.float32),
    )


@pytest.fixture
def code():
    torch.manual_seed(0)
    known = inputs([[[0.0, 0.0]], [[1.0, 2.0]], [[1.0, -1.0]]], [[0], [1], [1]], [[0], [1], [0.5]])
    return CovariateCode(known).eval()


def test_control_and_dose_zero_have_the_code_zero(code):
    found = code(inputs([[[1.0, 2.0]], [[0.0, 0.0]]], [[1], [0]], [[0], [0]]))
    assert torch.equal(found, torch.zeros_like(found))
    assert torch.equal(code()[0], torch.zeros(code.n_code))
    assert code()[1:].abs().amin(dim=1).max() > 0


def test_a_combination_is_a_sum_at_first_and_never_depends_on_the_order(code):
    a, b = [1.0, 2.0], [1.0, -1.0]
    alone = code(inputs([[a], [b]], [[1], [1]], [[1], [1]])).sum(dim=0)
    torch.testing.assert_close(code(inputs([[a, b]], [[1, 1]], [[1, 1]]))[0], alone)
    with torch.no_grad():
        code.interaction[-1].weight.normal_()
    ab, ba = (code(inputs([[p, q]], [[1, 1]], [[1, 1]])) for p, q in ((a, b), (b, a)))
    torch.testing.assert_close(ab, ba)
    alone = code(inputs([[a], [b]], [[1], [1]], [[1], [1]])).sum(dim=0)
    assert (ab[0] - alone).abs().max() > 1e-3
    padded = code(inputs([[a, [9.0, 9.0]]], [[1, 0]], [[1, 1]]))
    torch.testing.assert_close(padded, code(inputs([[a]], [[1]], [[1]])))


def test_every_entry_of_a_code_grows_with_the_dose_in_its_own_way(code):
    doses = [[d] for d in np.linspace(0, 2, 9)]
    found = code(inputs([[[1.0, 2.0]]] * 9, [[1]] * 9, doses)).detach()
    assert (found.abs().diff(dim=0) > 0).all()
    shapes = found / found[-1]
    assert shapes[4].std() > 0.01
    values = DoseResponse(3)(torch.linspace(0, 5, 50))
    assert (values[0] == 0).all()
    assert (values.diff(dim=0) > 0).all()


def test_columns_add_up_until_the_data_say_otherwise(code):
    """Doses of one: (1, 2) and (0, 0) stand to (1, 0) and (0, 2) as a sum."""
    rows = [[[1.0, 2.0]], [[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 2.0]]]
    both, neither, first, second = code(inputs(rows, [[1]] * 4, [[1]] * 4)).detach()
    torch.testing.assert_close(both + neither, first + second)
    with torch.no_grad():
        code.part[-1].weight.normal_()
    both, neither, first, second = code(inputs(rows, [[1]] * 4, [[1]] * 4)).detach()
    assert (both + neither - first - second).abs().max() > 0.01


def test_dropout_thins_codes_in_training_only(code):
    code.train()
    torch.manual_seed(0)
    thinned = torch.stack([code()[1] for _ in range(300)])
    assert (thinned == 0).float().mean() == pytest.approx(0.1, abs=0.01)
    torch.testing.assert_close(thinned.mean(dim=0), code.eval()()[1], rtol=0.15, atol=0.02)


def test_an_index_code_has_nothing_for_others():
    code = IndexCode(3)
    assert code().shape == (3, 16)
    assert not code.knows_new
    with pytest.raises(ValueError, match="not in training"):
        code(inputs([[[1.0]]], [[1]], [[1]]))
