"""Closed forms, second implementations and invariances of the pure functions."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from scvi import distributions
from torch.distributions import Normal

from scdisent import functional as fn


@pytest.fixture
def counts(rng):
    rate = rng.gamma(0.3, 2.0, (150, 23))
    return torch.from_numpy(rng.poisson(rate).astype(np.float64))


@pytest.fixture
def decoded(counts, rng):
    logits = torch.from_numpy(rng.normal(size=counts.shape)).requires_grad_()
    theta = torch.from_numpy(rng.uniform(0.3, 9.0, counts.shape[1])).requires_grad_()
    return logits, theta, counts.sum(1) + 1.0


def both_gradients(value, *parameters):
    weights = torch.linspace(0.2, 1.7, len(value), dtype=value.dtype)
    return torch.autograd.grad((weights * value).sum(), parameters)


def test_negative_binomial_and_its_gradients_equal_the_dense_distribution(counts, decoded):
    logits, theta, library = decoded
    mean = torch.softmax(logits, -1) * library[:, None]
    dense = distributions.NegativeBinomial(mu=mean, theta=theta).log_prob(counts).sum(-1)
    sparse = fn.negative_binomial(
        fn.SparseCells.from_tensor(counts), logits, theta=theta, library=library
    )
    torch.testing.assert_close(sparse, dense, rtol=1e-6, atol=1e-4)
    for found, expected in zip(
        both_gradients(sparse, logits, theta), both_gradients(dense, logits, theta), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_negative_binomial_gradients_equal_finite_differences(counts, decoded):
    logits, theta, library = decoded
    cells = fn.SparseCells.from_tensor(counts[:3])
    assert torch.autograd.gradcheck(
        lambda a, t: fn.negative_binomial(cells, a, theta=t, library=library[:3]),
        (logits[:3].detach().requires_grad_(), theta),
    )


def test_zero_inflated_negative_binomial_equals_the_dense_distribution(counts, decoded, rng):
    logits, theta, library = decoded
    gate = torch.from_numpy(rng.normal(size=counts.shape)).requires_grad_()
    mean = torch.softmax(logits, -1) * library[:, None]
    dense = distributions.ZeroInflatedNegativeBinomial(mu=mean, theta=theta, zi_logits=gate)
    expected = dense.log_prob(counts).sum(-1)
    cells = fn.SparseCells.from_tensor(counts)
    found = fn.zero_inflated_negative_binomial(
        cells, logits, gate=gate, theta=theta, library=library
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-4)
    for left, right in zip(
        both_gradients(found, logits, theta, gate),
        both_gradients(expected, logits, theta, gate),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_zeros_that_are_stored_change_no_likelihood(counts, decoded, rng):
    logits, theta, library = (value.detach() for value in decoded)
    gate = torch.from_numpy(rng.normal(size=counts.shape))
    stored = counts.clone()
    stored[:, ::3] = 1.0
    with_zeros = stored.to_sparse_csr()
    rows = torch.repeat_interleave(torch.arange(len(counts)), with_zeros.crow_indices().diff())
    with_zeros.values().copy_(counts[rows, with_zeros.col_indices()])
    assert (with_zeros.values() == 0).any()
    cells = [fn.SparseCells.from_tensor(x) for x in (counts, with_zeros)]
    zinb = partial(
        fn.zero_inflated_negative_binomial, logits=logits, gate=gate, theta=theta, library=library
    )
    torch.testing.assert_close(*map(zinb, cells))
    nb = partial(fn.negative_binomial, logits=logits, theta=theta, library=library)
    torch.testing.assert_close(*map(nb, cells))


def test_poisson_equals_the_dense_distribution(counts, decoded):
    logits, _, library = decoded
    mean = torch.softmax(logits, -1) * library[:, None]
    expected = torch.distributions.Poisson(mean).log_prob(counts).sum(-1)
    found = fn.poisson(fn.SparseCells.from_tensor(counts), logits, library=library)
    torch.testing.assert_close(found, expected)


def test_sparse_linear_and_its_gradient_equal_the_dense_product(counts, rng):
    weight = torch.from_numpy(rng.normal(size=(counts.shape[1], 7))).requires_grad_()
    found = fn.sparse_linear(fn.SparseCells.from_tensor(counts), weight)
    expected = counts @ weight
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        both_gradients(found.square().sum(1), weight),
        both_gradients(expected.square().sum(1), weight),
    )


def test_sparse_linear_keeps_full_precision_under_autocast(counts):
    cells = fn.SparseCells.from_tensor(counts.float())
    weight = torch.randn(counts.shape[1], 7, requires_grad=True)
    (expected,) = torch.autograd.grad(fn.sparse_linear(cells, weight).square().sum(), weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product = fn.sparse_linear(cells, weight)
        (found,) = torch.autograd.grad(product.square().sum(), weight)
    assert product.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_normalised_input_does_not_depend_on_depth(counts):
    once = fn.log1p_normalised(fn.SparseCells.from_tensor(counts)).csr.to_dense()
    deeper = fn.log1p_normalised(fn.SparseCells.from_tensor(7 * counts)).csr.to_dense()
    torch.testing.assert_close(once, deeper)
    expected = torch.log1p(1e4 * counts / counts.sum(1, keepdim=True).clamp_min(1e-8))
    torch.testing.assert_close(once, expected)


def test_gaussian_kl_equals_monte_carlo():
    q = Normal(torch.tensor([[0.3, -1.0]]), torch.tensor([[0.5, 2.0]]))
    p = Normal(torch.tensor([[0.0, 0.5]]), torch.tensor([[1.0, 1.5]]))
    torch.manual_seed(0)
    draws = q.sample((200_000,))
    expected = (q.log_prob(draws) - p.log_prob(draws)).sum(-1).mean(0)
    torch.testing.assert_close(fn.gaussian_kl(q, p), expected, atol=0.01, rtol=0.01)


def loop_mmd(codes, left, right, kernel):
    a, b = np.flatnonzero(left), np.flatnonzero(right)
    own = [np.mean([kernel[i, j] for i in g for j in g if i != j]) for g in (a, b)]
    return sum(own) - 2 * kernel[np.ix_(a, b)].mean()


def direct_kernel(codes):
    distances = np.square(codes[:, None] - codes[None]).sum(-1)
    mean = distances.sum() / (len(codes) * (len(codes) - 1))
    return sum(np.exp(-distances / (2 * s * mean)) for s in (4, 1, 1 / 4, 1 / 16))


def test_kernel_gradient_is_that_of_its_formula(rng):
    codes = torch.from_numpy(rng.normal(size=(30, 3))).requires_grad_()
    pull = torch.from_numpy(rng.normal(size=(30, 30)))  # not symmetric
    (found,) = torch.autograd.grad((fn.rbf_kernel(codes) * pull).sum(), codes)
    distances = (codes[:, None] - codes[None]).square().sum(-1)
    mean = distances.detach().sum() / (30 * 29)
    kernel = sum(torch.exp(-distances / (2 * s * mean)) for s in (4, 1, 1 / 4, 1 / 16))
    (expected,) = torch.autograd.grad((kernel * pull).sum(), codes)
    torch.testing.assert_close(found, expected)


def test_sums_over_cells_and_genes_ignore_autocast(counts, rng):
    codes = torch.from_numpy(rng.normal(size=(600, 3))).float()
    condition = torch.from_numpy(rng.integers(0, 2, 600))
    cells = fn.SparseCells.from_tensor(counts.float())
    logits = torch.randn(counts.shape)
    theta, library = torch.full((counts.shape[1],), 3.0), cells.totals

    def values():
        kernel = fn.rbf_kernel(codes)
        return (
            fn.mmd(kernel, condition, n_conditions=2),
            fn.hsic(kernel, fn.label_kernel(condition), within=torch.arange(600) % 2),
            fn.negative_binomial(cells, logits, theta=theta, library=library),
        )

    expected = values()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = values()
    torch.testing.assert_close(found, expected)


def test_gradients_ignore_autocast(counts, rng):
    codes = torch.from_numpy(rng.normal(size=(60, 3))).float().requires_grad_()
    pull = torch.from_numpy(rng.normal(size=(60, 60))).float()
    cells = fn.SparseCells.from_tensor(counts.float())
    logits, theta = torch.randn(counts.shape), torch.full((counts.shape[1],), 3.0).requires_grad_()

    def gradients():
        kernel = (fn.rbf_kernel(codes) * pull).sum()
        value = fn.negative_binomial(cells, logits, theta=theta, library=cells.totals)
        return torch.autograd.grad(kernel, codes) + torch.autograd.grad(value.sum(), theta)

    expected = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients()
    torch.testing.assert_close(found, expected)


def test_mmd_equals_its_definition(rng):
    codes, condition = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    expected = loop_mmd(codes, condition == 0, condition == 1, direct_kernel(codes))
    kernel = fn.rbf_kernel(torch.from_numpy(codes))
    found = fn.mmd(kernel, torch.from_numpy(condition), n_conditions=2)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_mmd_within_strata_is_the_mean_of_theirs(rng):
    codes, condition = rng.normal(size=(60, 3)), rng.integers(0, 2, 60)
    stratum = np.repeat([3, 8], 30)
    kernel = direct_kernel(codes)
    parts, weights = [], []
    for level in (3, 8):
        left, right = (stratum == level) & (condition == 0), (stratum == level) & (condition == 1)
        parts.append(loop_mmd(codes, left, right, kernel))
        weights.append(left.sum() * right.sum() / (stratum == level).sum())
    found = fn.mmd(
        fn.rbf_kernel(torch.from_numpy(codes)),
        torch.from_numpy(condition),
        n_conditions=2,
        within=torch.from_numpy(stratum),
    )
    assert found.item() == pytest.approx(np.average(parts, weights=weights), rel=1e-6)


def test_mmd_of_more_groups_than_cells_is_that_of_the_groups_there_are(rng):
    kernel = fn.rbf_kernel(torch.from_numpy(rng.normal(size=(60, 3))))
    condition, types = (torch.from_numpy(rng.integers(0, n, 60)) for n in (3, 2))
    expected = fn.mmd(kernel, condition, n_conditions=3, within=types)
    found = fn.mmd(kernel, 7 * condition, n_conditions=2_000, within=types)
    torch.testing.assert_close(found, expected)


def test_mmd_is_unbiased_and_ignores_scale_and_composition():
    generator = torch.Generator().manual_seed(0)
    values = [
        fn.mmd(
            fn.rbf_kernel(torch.randn(24, 2, generator=generator)),
            torch.arange(24) % 2,
            n_conditions=2,
        ).item()
        for _ in range(400)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20
    codes, condition = torch.randn(50, 3, generator=generator), torch.arange(50) % 2
    torch.testing.assert_close(
        fn.mmd(fn.rbf_kernel(codes), condition, n_conditions=2),
        fn.mmd(fn.rbf_kernel(9 * codes), condition, n_conditions=2),
    )
    types = (torch.rand(600, generator=generator) < 0.5).long()
    skewed = (torch.rand(600, generator=generator) < 0.15 + 0.7 * types).long()
    codes = torch.randn(600, 3, generator=generator) + 4 * types[:, None]
    kernel = fn.rbf_kernel(codes)
    assert fn.mmd(kernel, skewed, n_conditions=2) > 0.5
    assert abs(fn.mmd(kernel, skewed, n_conditions=2, within=types)) < 0.05


def test_mmd_of_a_batch_with_one_condition_is_zero():
    codes = torch.randn(20, 3, requires_grad=True)
    value = fn.mmd(fn.rbf_kernel(codes), torch.zeros(20, dtype=torch.int64), n_conditions=3)
    value.backward()
    assert value.item() == 0
    assert torch.isfinite(codes.grad).all()


def direct_hsic(left, right):
    """Average over all ordered quadruples of different cells (Song et al. 2012, lemma 1)."""
    cells = range(len(left))
    return np.mean(
        [
            left[i, j] * (right[i, j] + right[q, r] - 2 * right[i, q])
            for i, j, q, r in itertools.permutations(cells, 4)
        ]
    )


def test_hsic_equals_its_definition_over_quadruples(rng):
    codes, other = rng.normal(size=(9, 2)), rng.normal(size=(9, 3))
    left, right = direct_kernel(codes), direct_kernel(other)
    found = fn.hsic(torch.from_numpy(left), torch.from_numpy(right))
    assert found.item() == pytest.approx(direct_hsic(left, right), rel=1e-9)


def test_hsic_within_strata_is_their_mean_by_cells(rng):
    left, right = (direct_kernel(rng.normal(size=(14, 2))) for _ in range(2))
    strata = np.repeat([2, 5], [6, 8])
    parts = [
        direct_hsic(left[np.ix_(m, m)], right[np.ix_(m, m)]) for m in (strata == 2, strata == 5)
    ]
    found = fn.hsic(
        torch.from_numpy(left), torch.from_numpy(right), within=torch.from_numpy(strata)
    )
    assert found.item() == pytest.approx(np.average(parts, weights=[6, 8]), rel=1e-9)


def test_hsic_is_unbiased_and_sees_nonlinear_dependence():
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(300):
        pair = torch.randn(2, 30, 2, generator=generator)
        values.append(fn.hsic(fn.rbf_kernel(pair[0]), fn.rbf_kernel(pair[1])).item())
    assert abs(np.mean(values)) < 3 * np.std(values) / 300**0.5
    x = torch.randn(200, 1, generator=generator)
    dependent = fn.hsic(fn.rbf_kernel(x), fn.rbf_kernel(x.square())).item()
    assert dependent > 5 * np.std(values)


def test_standardised_codes_have_unit_moments_in_each_group(rng):
    groups = torch.from_numpy(rng.integers(0, 3, 300))
    codes = torch.from_numpy(rng.normal(size=(300, 2)) * [1e-3, 5]) + groups[:, None]
    found = fn.standardised(codes, groups, n_groups=3)
    for group in range(3):
        own = found[groups == group]
        torch.testing.assert_close(own.mean(0), torch.zeros(2).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            own.std(0, correction=0), torch.ones(2).double(), rtol=2e-3, atol=0
        )


@pytest.mark.parametrize("name", list(fn.GAMES))
def test_every_game_is_won_by_an_undecided_critic(name):
    target, weights = torch.tensor([0, 1, 2, 0]), torch.ones(3)
    undecided = fn.GAMES[name](torch.zeros(4, 3), target, weights)
    sure = fn.GAMES[name](6.0 * torch.eye(3)[target], target, weights)
    assert undecided < sure


def test_games_at_the_undecided_critic_have_their_closed_forms():
    target, weights, logits = torch.tensor([0, 1]), torch.ones(2), torch.zeros(2, 2)
    assert fn.entropy_game(logits, target, weights).item() == pytest.approx(-np.log(2))
    assert fn.zero_sum_game(logits, target, weights).item() == pytest.approx(-np.log(2))
    assert fn.confusion_game(logits, target, weights).item() == pytest.approx(0, abs=1e-7)


def test_confusion_keeps_its_gradient_where_the_others_lose_it():
    logits = torch.tensor([[7.0, 0.0]], requires_grad=True)  # p(true) = 0.999
    target, weights = torch.tensor([0]), torch.ones(2)
    size = {
        name: torch.autograd.grad(game(logits, target, weights), logits)[0].norm().item()
        for name, game in fn.GAMES.items()
    }
    assert size["confusion"] > 0.6
    assert size["entropy"] < 0.02
    assert size["zero_sum"] < 0.02


# ------------------------------------------------------------------------- draws


@pytest.mark.parametrize(
    ("shape", "odds"),
    [(0.05, 0.3), (2.0, 0.01), (5.0, 0.5), (0.3, 8.0), (0.2, 60.0), (40.0, 2.0), (3.0, 0.0)],
)
def test_drawn_counts_follow_the_negative_binomial(shape, odds):
    n = 200_000
    rng = np.random.default_rng(0)
    places, drawn = fn.draw_negative_binomial(np.full(n, shape), np.full(n, odds), rng=rng)
    counts = np.zeros(n)
    counts[places] = drawn
    law = stats.nbinom(shape, 1 / (1 + odds))
    top = int(law.ppf(1 - 20 / n)) + 1  # twenty expected beyond
    expected = n * np.append(law.pmf(np.arange(top)), law.sf(top - 1))
    observed = np.bincount(np.minimum(counts, top).astype(int), minlength=top + 1)
    if odds == 0:
        assert observed.tolist() == [n, 0]
        return
    kept = expected >= 5
    parts = [np.append(x[kept], x[~kept].sum()) for x in (observed, expected)]
    if parts[1][-1] < 5:
        parts = [x[:-1] for x in parts]
        parts[1] *= parts[0].sum() / parts[1].sum()
    assert stats.chisquare(*parts).pvalue > 1e-4


def test_draws_differ_by_entry_and_return_with_their_seed():
    shape, odds = np.array([[1.0, 50.0], [1e-3, 3.0]]), np.array([[1e-6, 20.0], [1e-6, 0.5]])
    found = []
    for seed in (0, 0, 1):
        out = np.zeros(4)
        places, drawn = fn.draw_negative_binomial(shape, odds, rng=np.random.default_rng(seed))
        out[places] = drawn
        found.append(out)
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0][1] != found[2][1]
    assert found[0][[0, 2]].tolist() == [0, 0]
    assert 300 < found[0][1] < 2_500
