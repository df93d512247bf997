import math

import pytest
import torch
from torch.nn import functional as F

from scdisent.functional import GENERATIVE_GAMES, r1_penalty, unit_gradient_penalty
from scdisent.nn import IndexCode, ProjectionCritic


def test_a_critic_that_guesses_pays_two_log_two():
    game, zeros = GENERATIVE_GAMES["logistic"], torch.zeros(7)
    assert game.critic(zeros, zeros) == pytest.approx(2 * math.log(2))
    assert game.generator(zeros) == pytest.approx(math.log(2))
    scores = torch.linspace(-3, 3, 7)
    expected = F.binary_cross_entropy_with_logits(scores, torch.ones(7))
    assert game.generator(scores) == pytest.approx(float(expected))


def test_the_best_score_of_wasserstein_is_the_distance_of_the_means():
    game = GENERATIVE_GAMES["wasserstein"]
    real, fake = torch.randn(2, 500) + torch.tensor([[2.0], [0.0]])
    assert game.critic(real, fake) == pytest.approx(float(fake.mean() - real.mean()))
    assert game.generator(fake) == pytest.approx(-float(fake.mean()))


def test_gradient_penalties_of_a_linear_critic_are_known():
    weight = torch.tensor([3.0, 4.0])

    def critic(x):
        return x @ weight

    real, fake = torch.randn(2, 20, 2)
    total = float(real.var(dim=0).sum())
    assert r1_penalty(critic, real, fake) == pytest.approx(12.5 * total)
    # the same critic of the same data in other units
    scaled = r1_penalty(lambda x: critic(x / 7), 7 * real, fake)
    assert scaled == pytest.approx(12.5 * total, rel=1e-5)
    assert unit_gradient_penalty(critic, real, fake) == pytest.approx(16.0)
    assert unit_gradient_penalty(lambda x: critic(x) / 5, real, fake) == pytest.approx(0, abs=1e-6)


def test_gradient_penalties_can_be_minimised():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    real, fake = torch.randn(2, 20, 2)
    r1_penalty(lambda x: x @ weight, real, fake).backward()
    total = real.var(dim=0).sum()
    torch.testing.assert_close(weight.grad, total * torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize("shape", [None, (1, 8, 8)])
def test_a_critic_sees_the_condition_and_how_much_the_minibatch_varies(shape):
    torch.manual_seed(0)
    critic = ProjectionCritic(64, IndexCode(3), n_hidden=16, image_shape=shape)
    x, condition = torch.randn(10, 64), torch.arange(10) % 3
    scores = critic(x, condition)
    order = torch.randperm(10)
    torch.testing.assert_close(critic(x[order], condition[order]), scores[order])
    assert ((critic(x, (condition + 1) % 3) - scores).abs() > 1e-6).all()
    # linear in the code: three codes, so two scores of a cell tell nothing of the third
    body = critic.body(x)
    spread = body.std(dim=0, correction=0).mean().expand(10, 1)
    features = critic.features(torch.cat([body, spread], dim=-1))
    expected = critic.score(features).squeeze(-1)
    expected = expected + (critic.direction(critic.code())[condition] * features).sum(-1) / 4
    torch.testing.assert_close(scores, expected)
    # the same cell among copies of itself: only the spread can tell
    copies = critic(x[:1].expand(10, -1), condition[:1].expand(10))
    assert (copies - scores[0]).abs().min() > 1e-4
    assert (
        torch.autograd.grad(
            critic(x[:1].expand(4, -1).requires_grad_(), condition[:4]).sum(),
            critic.body.parameters(),
        )[0]
        .isfinite()
        .all()
    )
