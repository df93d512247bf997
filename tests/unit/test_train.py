"""The two-player plan, schedules, the divergence guard and the choice of the epoch."""

import math
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy import sparse

from scdisent._constants import KEYS
from scdisent._errors import OptionError
from scdisent.data import CellTable, ResidentDataModule
from scdisent.module import CRITIC, MODEL, DiscoverModule
from scdisent.train import (
    BestEpoch,
    DivergenceGuard,
    PlayersPlan,
    constant,
    cyclic,
    linear_ramp,
)
from scdisent.train._callbacks import probe_auroc

WEIGHTS = {
    "nll_joint": 0.8,
    "nll_invariant": 0.2,
    "kl_invariant": 0.05,
    "kl_specific": 0.5,
    "adversary": 5.0,
    "mmd": 20.0,
}


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def table(rng):
    """90 cells of 12 genes; the first three genes respond to the condition."""
    condition = np.arange(90) % 2
    rate = np.full((90, 12), 3.0)
    rate[condition == 1, :3] *= 4
    counts = rng.poisson(rate).astype(np.float32)
    return CellTable(sparse.csr_matrix(counts), {KEYS.CONDITION: condition[:, None]})


def small_module(**changes):
    options = {"weights": WEIGHTS, "n_latent": 2, "n_specific": 2, "n_hidden": 8, **changes}
    return DiscoverModule(12, 2, **options)


def fit(plan, table, *, max_epochs=1, callbacks=(), validate=True):
    trainer = pl.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if validate else 0,
    )
    trainer.fit(plan, ResidentDataModule(table, batch_size=32, train_size=0.8))
    return trainer


def weights_of(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def players_of(module):
    return {
        name: torch.cat([p.detach().flatten() for p in parameters])
        for name, parameters in module.players().items()
    }


class Every(pl.Callback):
    """Call something at one hook of training."""

    def __init__(self, hook, call):
        setattr(self, hook, lambda trainer, plan, *args, **kwargs: call(trainer, plan, *args))


# -------------------------------------------------------------------- schedules


def test_schedules_take_their_values():
    assert [constant(0.3)(epoch) for epoch in (0, 9)] == [0.3, 0.3]
    assert [linear_ramp(4)(epoch) for epoch in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [linear_ramp(2, start=0.5)(epoch) for epoch in range(4)] == [0.5, 0.75, 1, 1]
    assert linear_ramp(0)(0) == 0.0
    assert linear_ramp(0)(1) == 1.0
    assert [cyclic(4)(epoch) for epoch in range(8)] == [0, 0.5, 1, 1, 0, 0.5, 1, 1]
    assert [cyclic(4, rise=1.0)(epoch) for epoch in range(4)] == [0, 0.25, 0.5, 0.75]


def test_a_number_is_the_length_of_a_ramp_and_scales_follow_the_epoch(table):
    plan = PlayersPlan(small_module(), schedules={"mmd": 2, "kl_specific": constant(0.5)})
    seen = []
    fit(plan, table, max_epochs=4, callbacks=[Every("on_train_epoch_start", note(seen))])
    assert [scales["mmd"] for scales in seen] == [0, 0.5, 1, 1]
    assert [scales["kl_specific"] for scales in seen] == [0.5] * 4
    assert [scales["adversary"] for scales in seen] == [1.0] * 4


def note(seen):
    return lambda trainer, plan, *args: seen.append(plan.term_scales())


def test_a_schedule_of_an_unknown_term_lists_the_terms():
    with pytest.raises(OptionError) as caught:
        PlayersPlan(small_module(), schedules={"kl": 3})
    assert "['kl']" in str(caught.value)
    assert "kl_invariant" in str(caught.value)


# ------------------------------------------------------------------------- loss


def batch_of(table):
    return next(iter(loaded(table).train_dataloader()))


def loaded(table, batch_size=32):
    data = ResidentDataModule(table, batch_size=batch_size, train_size=1.0)
    data.setup()
    return data


def outputs(module, batch):
    encoded = module.inference(module.cells(batch))
    return encoded, module.generative(**encoded)


def test_the_loss_is_the_weighted_sum_of_its_named_terms(table):
    module = small_module()
    encoded, decoded = outputs(module, batch_of(table))
    scale = {"mmd": 0.0, "kl_specific": 3.0}
    found = module.loss({}, encoded, decoded, scale=scale)
    terms = {**found.reconstruction_loss, **found.kl_local, **found.extra_metrics}
    assert set(terms) == set(WEIGHTS)
    expected = sum(WEIGHTS[k] * scale.get(k, 1.0) * v.mean() for k, v in terms.items())
    torch.testing.assert_close(found.loss, expected)
    assert set(found.reconstruction_loss) == {"nll_joint", "nll_invariant"}
    assert set(found.kl_local) == {"kl_invariant", "kl_specific"}


def test_a_term_of_weight_zero_is_left_out(table):
    module = small_module(weights={**WEIGHTS, "adversary": 0.0, "mmd": 0.0})
    found = module.loss({}, *outputs(module, batch_of(table)))
    assert found.extra_metrics == {}
    assert list(module.players()) == [MODEL]
    assert module.critic_loss(None) is None
    fit(PlayersPlan(module), table)


def test_epoch_means_weigh_minibatches_by_their_cells():
    plan = PlayersPlan(small_module())
    plan._add("nll_train", torch.tensor([1.0, 3.0]), n_cells=2)
    plan._add("nll_train", torch.tensor(8.0), n_cells=6)
    assert plan.epoch_mean("nll_train") == pytest.approx((1 + 3 + 6 * 8) / 8)


# ---------------------------------------------------------------------- players


def test_the_critics_step_leaves_the_model_and_the_models_step_the_critic(table):
    for frozen, moving, rates in (
        (MODEL, CRITIC, {"lr": 0.0, "critic_lr": 0.01}),
        (CRITIC, MODEL, {"lr": 0.01, "critic_lr": 0.0}),
    ):
        module = small_module()
        before = players_of(module)
        fit(PlayersPlan(module, weight_decay=0.0, **rates), table)
        after = players_of(module)
        assert torch.equal(before[frozen], after[frozen])
        assert not torch.allclose(before[moving], after[moving])


def test_the_critic_gets_its_steps_and_no_gradient_of_the_model(table):
    module = small_module()
    own = {name: {id(p) for p in parameters} for name, parameters in module.players().items()}
    steps, gradients = [], []

    def before_step(trainer, plan, optimizer):
        parameters = optimizer.param_groups[0]["params"]
        player = MODEL if {id(p) for p in parameters} == own[MODEL] else CRITIC
        assert {id(p) for p in parameters} == own[player]
        steps.append(player)
        gradients.append([p.grad.clone() for p in module.players()[CRITIC]])
        assert all(p.grad is not None for p in parameters)

    plan = PlayersPlan(module, n_critic_steps=3)
    fit(plan, table, callbacks=[Every("on_before_optimizer_step", before_step)])
    assert steps == [CRITIC, CRITIC, CRITIC, MODEL] * (len(steps) // 4)
    for last_of_critic, at_model in zip(gradients[2::4], gradients[3::4], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(last_of_critic, at_model, strict=True))


def test_the_gradient_of_the_model_is_clipped(table):
    module, norms = small_module(), []

    def before_step(trainer, plan, optimizer):
        if optimizer.param_groups[0]["params"][0] is next(iter(module.players()[MODEL])):
            grads = [p.grad.flatten() for p in module.players()[MODEL]]
            norms.append(torch.cat(grads).norm().item())

    plan = PlayersPlan(module, gradient_clip=0.5)
    fit(plan, table, callbacks=[Every("on_before_optimizer_step", before_step)])
    assert norms
    assert max(norms) <= 0.5 + 1e-4


def test_validation_books_terms_at_full_weight_and_learns_nothing(table):
    module = small_module()
    plan = PlayersPlan(module, lr=0.0, critic_lr=0.0, schedules={"kl_specific": constant(0.0)})
    seen = {}
    call = Every("on_validation_end", lambda trainer, plan: seen.update(trainer.callback_metrics))
    before = players_of(module)
    fit(plan, table, callbacks=[call])
    assert all(torch.equal(before[k], v) for k, v in players_of(module).items())
    bound = [name for name in WEIGHTS if name.startswith(("nll", "kl"))]
    expected = sum(WEIGHTS[name] * seen[f"{name}_validation"] for name in bound)
    torch.testing.assert_close(seen["elbo_validation"], expected)
    assert seen["kl_specific_validation"] > 0


# ------------------------------------------------------------------ dual ascent


def with_critic_loss(value, **options):
    plan = PlayersPlan(small_module(), leak_tolerance=0.02, dual_rate=2.0, **options)
    plan._add("critic_loss_train", torch.tensor(value), n_cells=10)
    plan._counts = torch.tensor([50, 50])
    plan._ascend()
    return plan


def test_the_adversary_grows_while_the_critic_reads_the_condition_and_shrinks_otherwise():
    guess = math.log(2)
    reads = with_critic_loss(guess - 0.3)
    assert reads.dual_factor == pytest.approx(1 + 2 * (0.3 - 0.02))
    assert reads.term_scales()["adversary"] == pytest.approx(reads.dual_factor)
    assert with_critic_loss(guess).dual_factor == pytest.approx(1 - 2 * 0.02)
    assert with_critic_loss(guess + 5.0).dual_factor == 0.0


def test_dual_ascent_in_training_is_in_the_history(table):
    weights = {**WEIGHTS, "adversary": 0.01, "kl_invariant": 0.001, "mmd": 0.0}
    module = small_module(weights=weights)
    plan = PlayersPlan(module, lr=0.01, leak_tolerance=0.01, critic_lr=0.03, n_critic_steps=5)
    trainer = fit(plan, table, max_epochs=12)
    assert plan.dual_factor > 1  # three genes tell the condition and hardly anything resists
    found = float(trainer.callback_metrics["adversary_weight"])
    assert found == pytest.approx(0.01 * plan.dual_factor)


def test_dual_ascent_needs_an_adversary():
    module = small_module(weights={**WEIGHTS, "adversary": 0.0})
    with pytest.raises(OptionError, match=r"leak_tolerance.*weights=\{'adversary'"):
        PlayersPlan(module, leak_tolerance=0.01)


# ---------------------------------------------------------------------- the guard


def poison(epoch):
    """Make the weights NaN in the middle of an epoch."""

    def act(trainer, plan, *args):
        if trainer.current_epoch == epoch:
            with torch.no_grad():
                next(iter(plan.module.players()[MODEL])).fill_(float("nan"))

    return Every("on_train_batch_start", act)


def recorder(kept):
    def act(trainer, plan):
        kept.append(weights_of(plan.module))

    return Every("on_train_epoch_end", act)


def test_the_guard_stops_at_once_and_restores_the_last_good_weights(table):
    guard, kept = DivergenceGuard(), []
    plan = PlayersPlan(small_module())
    trainer = fit(plan, table, max_epochs=6, callbacks=[guard, poison(2), recorder(kept)])
    assert (guard.diverged_at, guard.good_epoch) == (2, 1)
    assert trainer.current_epoch == 3  # epochs begun: no fourth one
    for name, value in weights_of(plan.module).items():
        assert torch.equal(value, kept[1][name]), name


def test_a_first_epoch_that_diverges_gives_the_initial_weights_back(table):
    guard, plan = DivergenceGuard(), PlayersPlan(small_module())
    before = weights_of(plan.module)
    fit(plan, table, max_epochs=3, callbacks=[guard, poison(0)])
    assert (guard.diverged_at, guard.good_epoch) == (0, None)
    assert all(torch.equal(before[k], v) for k, v in weights_of(plan.module).items())


def test_a_run_that_does_not_diverge_is_left_alone(table):
    guard, plan = DivergenceGuard(), PlayersPlan(small_module())
    fit(plan, table, max_epochs=2, callbacks=[guard])
    assert (guard.diverged_at, guard.good_epoch) == (None, 1)


# ------------------------------------------------------------------- best epoch


def leaky_codes(rng, leak):
    """Codes of training and validation cells that give the condition away by ``leak``."""
    condition = np.arange(300) % 2
    codes = rng.standard_normal((300, 2))
    codes[:, 0] += leak * condition
    return codes[:200], condition[:200], codes[200:], condition[200:]


def run_epochs(bounds, leaks, rng, **options):
    """Let :class:`BestEpoch` see epochs with these bounds (lower is better) and leaks."""
    plan = SimpleNamespace(module=torch.nn.Linear(1, 1, bias=False))
    epoch = 0
    callback = BestEpoch(lambda module: leaky_codes(rng, leaks[epoch]), **options)
    for epoch, bound in enumerate(bounds):  # `epoch` is read by the probe
        torch.nn.init.constant_(plan.module.weight, float(epoch))
        metrics = {"elbo_validation": torch.tensor(bound)}
        state = SimpleNamespace(
            sanity_checking=False,
            current_epoch=epoch,
            callback_metrics=metrics,
            strategy=SimpleNamespace(broadcast=lambda value: value),
        )
        callback.on_validation_end(state, plan)
    callback.on_train_end(state, plan)
    return callback.best_epoch, plan.module.weight.item()


def test_the_best_bound_among_the_epochs_that_do_not_leak_is_kept(rng):
    bounds, leaks = [90.0, 80.0, 60.0, 70.0, 75.0], [0, 0, 4, 0, 0]
    assert run_epochs(bounds, leaks, rng, ceiling=0.7) == (3, 3.0)


def test_if_every_epoch_leaks_the_one_that_leaks_least_is_kept(rng):
    assert run_epochs([90.0, 80.0, 60.0], [5, 2, 4], rng, ceiling=0.6) == (1, 1.0)


def test_epochs_of_the_ramps_are_no_candidates(rng):
    assert run_epochs([10.0, 20.0, 30.0], [0, 0, 0], rng, first_epoch=1, ceiling=0.9) == (1, 1.0)
    assert run_epochs([10.0], [0], rng, first_epoch=1) == (None, 0.0)


def test_an_epoch_without_a_finite_bound_is_no_candidate(rng):
    bounds = [float("nan"), 50.0, float("inf")]
    assert run_epochs(bounds, [0, 0, 0], rng, ceiling=0.9) == (1, 1.0)


def test_an_epoch_whose_codes_are_not_finite_is_passed_over(table):
    plan, guard = PlayersPlan(small_module()), DivergenceGuard()
    nothing = np.full((9, 2), np.nan)
    best = BestEpoch(lambda module: (nothing, np.arange(9) % 2, nothing, np.arange(9) % 2))
    fit(plan, table, max_epochs=4, callbacks=[guard, best, poison(1)])
    assert guard.diverged_at == 1
    assert best.best_epoch is None


def test_the_probe_finds_what_a_quadratic_can_find_and_nothing_in_noise(rng):
    assert probe_auroc(*leaky_codes(rng, 8.0)) > 0.99
    assert abs(probe_auroc(*leaky_codes(rng, 0.0)) - 0.5) < 0.15
    codes = rng.standard_normal((600, 2))
    crossed = (codes[:, 0] * codes[:, 1] > 0).astype(int)  # no line finds it
    assert probe_auroc(codes[:400], crossed[:400], codes[400:], crossed[400:]) > 0.95
    three = rng.integers(3, size=600)
    codes = np.eye(3)[three] * 6 + rng.standard_normal((600, 3))
    assert probe_auroc(codes[:400], three[:400], codes[400:], three[400:]) > 0.99


def test_the_probe_says_chance_where_nothing_can_be_told():
    codes = np.zeros((10, 2))
    condition = np.arange(10) % 2
    assert probe_auroc(codes, condition, codes, np.zeros(10, int)) == 0.5
