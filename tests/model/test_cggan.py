"""CG-GAN: what the sparsity term pulls, what the average keeps, what the critic sees."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

import scdisent
from scdisent import metrics
from scdisent._errors import ScDisentWarning
from scdisent.datasets import simulate_domains
from scdisent.functional import GenerativeGame
from scdisent.module import State

TRAIN = {"batch_size": 128, "train_size": 1.0, "enable_progress_bar": False}


@pytest.fixture
def young(kit):
    """An untrained model of counts, and its cells as one minibatch."""
    adata = kit.ready()
    model = kit.build(scdisent.CGGAN, adata)
    split = {"train_size": 1.0, "validation_size": None, "seed": 0}
    loader = model._make_datamodule(batch_size=160, **split).train_dataloader()
    return model, model.module.cells(next(iter(loader)))


def test_the_sparsity_term_pulls_the_generator(young):
    """The authors' image code compares a code with itself here, so nothing is pulled."""
    model, cells = young
    module = model.module.train()
    torch.manual_seed(0)
    raw = module.decode(cells, module.inference(cells)["latents"])
    weight = module.decoder.first.weight
    gradient = torch.autograd.grad(raw["sparsity"], weight, retain_graph=True)[0]
    assert (gradient.abs() > 0).float().mean() > 0.9
    with torch.no_grad():
        weight.sub_(1e-2 * gradient / gradient.norm())
    torch.manual_seed(0)
    less = module.decode(cells, module.inference(cells)["latents"])["sparsity"]
    assert less < raw["sparsity"]


def test_the_inverter_learns_and_leaves_the_generator_alone(young):
    model, cells = young
    module = model.module.train()
    encoded = module.inference(cells)
    output = module.loss({}, encoded, module.generative(**encoded))
    inverse = output.extra_metrics["inverse"].mean()
    gradients = torch.autograd.grad(
        inverse, [module.encoder.first.weight, module.decoder.first.weight], allow_unused=True
    )
    assert gradients[0].abs().sum() > 0
    assert gradients[1] is None


def test_generated_and_real_cells_are_seen_on_one_scale(young):
    model, cells = young
    module = model.module.eval()
    raw = module.decoder(torch.randn(160, module.n_codes), cells.nuisance)
    shown, again = module.shown(raw, cells), module.shown(raw, cells)
    for values in (shown, module.seen(cells)):
        totals = torch.expm1(values).sum(dim=1)
        torch.testing.assert_close(totals, torch.full_like(totals, 1e4), rtol=1e-3, atol=0)
    assert (shown != again).float().mean() > 0.5  # drawn, not expected


def test_training_leaves_the_running_average_of_the_weights(kit):
    class Keep(pl.Callback):
        def __init__(self):
            self.live, self.average = [], None

        def on_train_batch_end(self, trainer, pl_module, *args):
            module = pl_module.module
            self.live.append(module.decoder.first.weight.detach().clone())
            self.average = module._average["decoder.first.weight"].clone()

    keep = Keep()
    with pytest.warns(ScDisentWarning, match="Mode collapse"):
        model = kit.trained(scdisent.CGGAN, kit.ready(), ema=0.9, train={"callbacks": [keep]})
    expected = keep.live[0]
    for step, live in enumerate(keep.live[1:], start=2):
        share = min(0.9, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * live
    torch.testing.assert_close(keep.average, expected)
    torch.testing.assert_close(model.module.decoder.first.weight.detach(), expected)


@pytest.fixture(scope="module")
def generator():
    adata = simulate_domains("s_a", n_cells=4_000, n_domains=3, n_changing=2, seed=10)
    scdisent.setup_anndata(adata, condition_key="condition")
    model = scdisent.CGGAN(
        adata,
        likelihood="normal",
        n_latent=2,
        n_specific=2,
        n_hidden=64,
        weights={"sparsity": 0.0},
        seed=0,
    )
    model.train(60, seed=0, **TRAIN)
    return adata, model


def test_a_generator_learns_the_law_of_each_condition(generator):
    adata, model = generator
    real_gap, found_gap = [], []
    for name in model.conditions:
        real = adata[adata.obs["condition"] == name].X
        drawn = model.sample(2_000, condition=name, seed=1).X
        real_gap.append(real.mean(axis=0))
        found_gap.append(drawn.mean(axis=0))
        assert np.corrcoef(drawn.mean(axis=0), real.mean(axis=0))[0, 1] > 0.8
    real_gap, found_gap = (np.diff(g, axis=0).ravel() for g in (real_gap, found_gap))
    assert np.corrcoef(real_gap, found_gap)[0, 1] > 0.9


def test_real_cells_are_inverted_and_moved_towards_their_target(generator):
    adata, model = generator
    x = model.get_normalized_expression(return_numpy=True)
    assert 1 - ((x - adata.X) ** 2).sum() / ((adata.X - adata.X.mean(axis=0)) ** 2).sum() > 0.5
    source = adata[adata.obs["condition"] == "u0"]
    target = adata[adata.obs["condition"] == "u1"].X
    moved = model.predict(source, condition="u1", kind="mean").X
    before, after = (metrics.energy_distance(cells, target) for cells in (source.X, moved))
    assert after < 0.5 * before


def test_one_noise_gives_one_content_under_all_conditions(generator):
    _, model = generator
    first, second = (
        model.sample(300, condition=name, kind="mean", seed=3) for name in ("u0", "u1")
    )
    other = model.sample(300, condition="u1", kind="mean", seed=4)
    gap = np.abs(first.X - second.X).mean()
    assert gap < np.abs(first.X - other.X).mean()


def test_refined_codes_reproduce_real_cells_better(generator, monkeypatch):
    adata, model = generator
    cells = adata[:300]

    def errors():
        found = model.get_normalized_expression(cells, return_numpy=True)
        return ((found - cells.X) ** 2).mean(axis=1)

    rough = errors()
    monkeypatch.setattr(model.module, "n_refine", 100)
    fine = errors()
    assert (fine < rough).mean() > 0.95
    assert fine.mean() < 0.9 * rough.mean()
    codes = model.get_latent_representation(cells, representation="full")
    np.testing.assert_array_equal(
        codes, model.get_latent_representation(cells, representation="full")
    )


def test_the_generator_reads_the_depth_it_is_given(young):
    """Types of cells differ in depth, so what a cell expresses may depend on it."""
    model, cells = young
    module = model.module
    assert cells.nuisance.shape[1] == module.n_nuisance
    module.eval()
    levels = module.levels_at(torch.tensor([100.0, 1000.0]))
    assert levels[0, -1] < levels[1, -1]
    torch.testing.assert_close(levels[:, :-1], module.first_levels(2)[:, :-1])


def test_the_penalty_comes_every_few_steps_with_as_many_times_its_weight(kit):
    model = kit.build(scdisent.CGGAN, kit.ready(), penalty_every=3, penalty_weight=0.5)
    module = model.module
    flat = {"critic": lambda real, fake: 0 * real.sum(), "generator": None}
    module.game = GenerativeGame(**flat, penalty=lambda critic, real, fake: torch.ones(()))
    batch = next(iter(model._make_datamodule(batch_size=32).train_dataloader()))
    state = State(module.cells(batch), {}, {})
    losses = [float(module.critic_loss(state)) for _ in range(7)]
    assert losses == [0, 0, 1.5, 0, 0, 1.5, 0]
