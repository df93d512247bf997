"""Measures of the suites against planted truth."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

from scdisent.benchmarks._measures import MEASURES
from scdisent.benchmarks._methods import MAKERS
from scdisent.benchmarks._swap import partners
from scdisent.benchmarks._world import Fit, World
from scdisent.datasets import simulate_conditions, simulate_factors

N_CELLS = 500


@pytest.fixture
def world(rng):
    """Features 0 to 2 are the shared factor, 3 to 5 the condition; a number beside them."""
    kind, condition = rng.integers(0, 3, N_CELLS), rng.integers(0, 2, N_CELLS)
    x = np.hstack([3 * np.eye(3)[kind], 3 * np.eye(3)[condition]])
    x += 0.5 * rng.standard_normal(x.shape)
    obs = pd.DataFrame({"condition": condition, "kind": kind, "size": x[:, 0]}).astype(
        {"condition": str, "kind": str}
    )
    obs.index = obs.index.astype(str)
    return World(
        "planted",
        AnnData(x.astype(np.float32), obs=obs),
        setup={"condition_key": "condition"},
        shared="kind",
        shared_numbers=("size",),
        likelihood="normal",
    )


def one_hot(world, column):
    return pd.get_dummies(world.adata.obs[column]).to_numpy(float)


def noise(rng, n_latent=3):
    return rng.standard_normal((N_CELLS, n_latent))


def test_a_full_leak_is_read_and_noise_is_at_chance(world, rng):
    leaky = Fit(one_hot(world, "condition") + 0.01 * noise(rng, 2), 0.0, decoded=noise(rng))
    found = MEASURES["leakage"](world, leaky, 0)
    assert found["leak_accuracy"] > 0.99
    assert found["leak_auroc"] > 0.99
    assert found["decoded_accuracy"] < found["decoded_null"] + 0.03
    clean = MEASURES["leakage"](world, Fit(noise(rng), 0.0), 0)
    assert clean["leak_accuracy"] < clean["leak_null"] + 0.03
    assert clean["decoded_accuracy"] is None


def test_information_is_in_the_block_that_holds_the_condition(world, rng):
    y = one_hot(world, "condition") + 0.01 * noise(rng, 2)
    right = MEASURES["information"](world, Fit(noise(rng), 0.0, specific=y), 0)
    assert right["mig_adjusted"] == pytest.approx(1, abs=0.05)
    assert right["mic_adjusted"] == 1
    assert abs(right["information_z_floor"]) < 0.01
    wrong = MEASURES["information"](world, Fit(y, 0.0, specific=noise(rng)), 0)
    assert wrong["mig_adjusted"] == pytest.approx(-1, abs=0.05)
    assert wrong["mic_adjusted"] == 0
    nowhere = Fit(np.zeros((N_CELLS, 2)), 0.0, specific=np.zeros((N_CELLS, 2)))
    found = MEASURES["information"](world, nowhere, 0)
    assert found["mig_adjusted"] == 0
    assert found["mic_adjusted"] is None, "no share of nothing"


def test_what_is_kept_and_where(world, rng):
    fit = Fit(world.values[:, :3], 0.0, specific=one_hot(world, "condition") + 0.1 * noise(rng, 2))
    kept, specific = (MEASURES[name](world, fit, 0) for name in ("kept", "specific"))
    assert kept["kept_accuracy"] > 0.98
    assert kept["kept_r2"] > 0.95
    assert specific["specific_condition"] > 0.99
    assert specific["specific_accuracy"] < 0.45
    assert specific["specific_r2"] < 0.1
    clusters = MEASURES["nmi"](world, fit, 0)
    assert clusters["nmi_shared"] > 0.9
    assert clusters["nmi_condition"] < 0.02


def swapped(world, kind):
    x = world.values
    return {
        "perfect": lambda own, partner: np.hstack([x[own, :3], x[partner, 3:]]),
        "nothing moves": lambda own, partner: x[own],
        "all moves": lambda own, partner: x[partner],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "condition", "shared"),
    [("perfect", 1, 1), ("nothing moves", 0, 1), ("all moves", 1, 1 / 3)],
)
def test_the_judge_of_a_swap_sees_what_moved(world, kind, condition, shared):
    found = MEASURES["swap"](world, Fit(world.values, 0.0, swap=swapped(world, kind)), 0)
    assert found["judge_condition"] > 0.98
    assert found["judge_shared"] > 0.98
    assert found["swap_condition"] == pytest.approx(condition, abs=0.03)
    assert found["swap_shared"] == pytest.approx(shared, abs=0.08)
    assert (found["swap_r2"] > 0.9) == (shared == 1)


def test_partners_are_of_other_conditions(rng):
    condition = rng.choice(list("abc"), 200)
    chosen = partners(condition, seed=0)
    assert (condition[chosen] != condition).all()
    assert {*condition[chosen]} == set("abc")


def test_reconstruction_is_zero_for_the_cells_themselves(world):
    same = Fit(world.values, 0.0, reconstructed=world.features(), errors={"nll_latent": 3.5})
    found = MEASURES["reconstruction"](world, same, 0)
    assert found == {"nll": 3.5, "nll_invariant": None, "mse": 0.0}
    assert MEASURES["reconstruction"](world, Fit(world.values, 0.0), 0)["mse"] is None


def test_measures_do_not_apply_without_conditions_or_blocks(world, rng):
    plain = World("no condition", world.adata, setup={}, shared=None, likelihood="normal")
    fit = Fit(noise(rng), 0.0)
    for name in ("leakage", "kept", "specific", "nmi", "information", "swap", "separation"):
        assert set(MEASURES[name](plain, fit, 0).values()) == {None}
    assert set(MEASURES["swap"](world, fit, 0).values()) == {None}
    assert set(MEASURES["kept"](world, Fit(None, 0.0), 0).values()) == {None}


def test_components_of_planted_factors_are_scored_as_in_the_study():
    adata = simulate_factors("fa15", n_cells=500, seed=0)
    world = World(
        "fa15", adata, setup={}, shared=None, shared_numbers=("truth_factors",), likelihood="normal"
    )
    fit = MAKERS["PCA"].fit(world, 0, options={"n_latent": 5}, train={})
    found = MEASURES["separation"](world, fit, 0)
    assert found["n_informative"] == 3
    assert found["explained"] > 0.9
    assert found["mcc"] > 0.5
    assert MEASURES["kept"](world, fit, 0)["kept_r2"] > 0.9


def test_features_of_counts_are_those_of_scanpy():
    adata = simulate_conditions(n_cells=50, n_genes=60, seed=0)
    found = World("counts", adata.copy()).features()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    np.testing.assert_allclose(found, adata.X.toarray(), rtol=1e-5)


def test_swapped_cells_are_counts_of_the_right_depth_and_the_same_twice():
    adata = simulate_conditions(n_cells=200, n_genes=60, n_types=2, n_donors=2, seed=0)
    world = World("counts", adata)
    state = np.random.get_state()[1].tolist()  # noqa: NPY002 - the caller's
    fit = MAKERS["DISCoVeR"].fit(world, 0, options={}, train={"max_epochs": 30})
    own, partner = np.arange(100), np.arange(100, 200)
    first, again = (fit.swap(own, partner) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first == np.rint(first)).all()
    assert first.sum(axis=1).mean() == pytest.approx(world.values[own].sum(axis=1).mean(), rel=0.1)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
