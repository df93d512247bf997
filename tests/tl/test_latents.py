"""What each latent drives, on models whose codes and decoder are planted."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import ImplicitModificationWarning
from scipy import integrate, sparse
from torch.distributions import Normal, kl_divergence

import scdisent
from scdisent import metrics as sm
from scdisent import pl, tl
from scdisent._errors import InputDataError, OptionError, ScDisentWarning, SetupError
from scdisent.datasets import simulate_conditions, simulate_factors
from scdisent.tl._foreign import readable
from scdisent.tl._latents import signal_share
from scdisent.tl._space import LatentSpace, spread_cells

NO_KEYS = dict.fromkeys(
    ("condition_key", "labels_key", "sample_key", "batch_key", "control", "layer")
)


class LinearModel:
    """Codes made by hand, decoded by ``loadings``; for counts through a softmax."""

    def __init__(self, codes, loadings, *, blocks=None, counts=False, variance=0.01, **keys):
        self.codes, self.loadings = codes, loadings  # by cell name, by gene name
        self.variance = variance
        sizes = blocks or {"latent": codes.shape[1]}
        self.representations = tuple(sizes)
        self.module = SimpleNamespace(n_latents=sizes, expects="counts" if counts else "real")
        self.registry_ = {"setup_args": {**NO_KEYS, **keys}}

    def get_var_names(self):
        return list(self.loadings.columns)

    def get_latent_representation(self, adata, *, representation=None, return_dist=False):
        mean = self.codes.loc[adata.obs_names].to_numpy()
        stops = np.cumsum(list(self.module.n_latents.values()))
        blocks = np.split(mean, stops[:-1], axis=1)
        if representation != "full":
            mean = blocks[self.representations.index(representation) if representation else 0]
        return (mean, np.full_like(mean, self.variance)) if return_dist else mean

    def decode(self, codes):
        values = codes @ self.loadings.to_numpy()
        if self.module.expects != "counts":
            return values
        shares = np.exp(values - values.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)


def white(n_cells, n_latent, *, seed=0):
    """Codes whose sample moments are those of N(0, I)."""
    noise = np.random.default_rng(seed).standard_normal((n_cells, n_latent))
    left, _, right = np.linalg.svd(noise - noise.mean(axis=0), full_matrices=False)
    return left @ right * np.sqrt(n_cells)


def world(codes, loadings, *, noise=0.0, seed=0, **options):
    """Cells that a linear model decodes to, and the model."""
    x = codes @ loadings
    x = x + noise * np.random.default_rng(seed).standard_normal(x.shape)
    adata = ad.AnnData(x)
    adata.obs_names = [f"cell_{i}" for i in range(len(x))]
    adata.var_names = [f"gene_{j}" for j in range(x.shape[1])]
    model = LinearModel(
        pd.DataFrame(codes, index=adata.obs_names),
        pd.DataFrame(loadings, columns=adata.var_names),
        **options,
    )
    return adata, model


def counts_world(*, n_cells=400, n_genes=30, seed=0):
    """Poisson counts of a softmax of three latents, each raising four genes."""
    rng = np.random.default_rng(seed)
    loadings = np.zeros((3, n_genes))
    for latent in range(3):
        loadings[latent, 4 * latent : 4 * latent + 4] = rng.uniform(0.8, 1.2, 4)
    adata, model = world(white(n_cells, 3, seed=seed), loadings, counts=True)
    rates = 600 * model.decode(model.codes.to_numpy())
    adata.X = sparse.csr_matrix(rng.poisson(rates).astype(np.float32))
    return adata, model


def two_blocks():
    """Invariant latents with three genes each; specific ones that share four genes."""
    loadings = np.zeros((4, 10))
    loadings[0, :3] = loadings[1, 3:6] = 1
    loadings[2, 6:] = loadings[3, 6:] = np.sqrt(0.5)
    return world(white(300, 4), loadings, blocks={"invariant": 2, "specific": 2})


def scored(adata, model, **options):
    tl.fvh_lt(adata, model)
    tl.dbsr_ls(adata, model, **options)
    return tl.lsdi(adata)


def of(frame, tool, block="latent"):
    return frame[(frame["tool"] == tool) & (frame["block"] == block)].iloc[0]


# ------------------------------------------------------------------------ FVH-LT


def test_a_linear_decoder_has_squared_loadings_and_their_signs(rng):
    loadings = rng.normal(size=(3, 8))
    adata, model = world(rng.normal(size=(500, 3)), loadings, noise=0.5)
    tl.fvh_lt(adata, model)
    stored = adata.varm["scdisent_fvh_lt"]
    assert list(stored.columns) == ["latent_0", "latent_1", "latent_2"]
    np.testing.assert_allclose(stored.T, loadings**2 / adata.X.var(axis=0), rtol=1e-6)
    ratio = adata.varm["scdisent_fvh_lt_signed"].T / loadings
    np.testing.assert_allclose(ratio, ratio.iloc[0, 0], rtol=1e-6)
    assert ratio.iloc[0, 0] > 0
    latents = adata.uns["scdisent"]["latents"]
    np.testing.assert_allclose(latents["fvh_max"], stored.max(), rtol=1e-6)
    assert adata.uns["scdisent"]["fvh_lt"]["grid"] == "gauss_hermite"


def test_shares_are_read_on_a_scale_that_the_total_does_not_move():
    adata, model = counts_world()
    expected = tl.fvh_lt(adata, model).raw
    share, rng = model.decode, np.random.default_rng(0)
    model.decode = lambda codes: share(codes) * rng.uniform(0.5, 50, (len(codes), 1))
    np.testing.assert_allclose(tl.fvh_lt(adata, model).raw, expected, rtol=1e-4, atol=1e-6)


def test_a_rising_gene_does_not_make_the_others_fall():
    loadings = np.zeros((1, 30))
    loadings[0, 0] = 2  # a quarter of all counts at two SD
    adata, model = world(white(200, 1), loadings, counts=True)
    adata.X = np.ones(adata.shape)
    found = tl.fvh_lt(adata, model)
    logged = np.log(model.decode(model.codes.to_numpy()))
    assert logged[:, 1:].var(axis=0).min() > 0.01
    assert found.raw[0, 0] > 1
    assert found.raw[0, 1:].max() < 1e-12


def test_genes_are_found_by_name_and_unknown_ones_are_not_scored():
    adata, model = counts_world()
    extra = ad.AnnData(np.full((adata.n_obs, 2), 5.0), obs=adata.obs)
    extra.var_names = ["other_0", "other_1"]
    wide = ad.concat([extra, adata], axis=1, merge="same")
    wide = wide[:, np.random.default_rng(0).permutation(wide.n_vars)].copy()
    frames = [scored(cells, model).drop(columns=["null", "adjusted"]) for cells in (wide, adata)]
    pd.testing.assert_frame_equal(*frames)
    for name in ("fvh_lt", "fvh_lt_signed", "dbsr_ls", "dbsr_ls_coef"):
        found = wide.varm[f"scdisent_{name}"]
        assert found.loc[["other_0", "other_1"]].isna().all(axis=None)
        np.testing.assert_allclose(
            found.loc[adata.var_names], adata.varm[f"scdisent_{name}"], rtol=1e-6
        )


def test_rare_and_constant_genes_do_not_count():
    adata, model = counts_world()
    expected = scored(adata, model)
    thin = adata.copy()
    thin.X = thin.X.toarray()
    thin.X[:, -2:] = 0
    thin.X[:3, -2] = 1  # in fewer than 2 % of the cells
    found = scored(thin, model)
    stored = thin.varm["scdisent_fvh_lt"]
    assert stored.iloc[-2:].isna().all(axis=None)
    assert stored.iloc[:12].notna().all(axis=None)
    assert thin.varm["scdisent_dbsr_ls_coef"].iloc[-1].isna().all()
    scored_genes = [frame["explained"].min() for frame in (expected, found)]
    np.testing.assert_allclose(scored_genes, 1, atol=1e-6)


@pytest.mark.parametrize("mean", [100, 1000])
@pytest.mark.parametrize("spread", [0.1, 0.4])
def test_signal_is_the_share_of_the_variance_of_logged_counts_that_is_not_counting(
    rng, mean, spread
):
    change = spread * rng.standard_normal(200_000)
    counts = rng.poisson(mean * np.exp(change - spread**2 / 2))
    expected = change.var() / np.log(counts[counts > 0]).var()
    found = signal_share(np.array([change.var()]), np.array([counts.mean()]))
    assert found[0] == pytest.approx(expected, rel=0.05)


def test_signal_is_none_without_counts_and_all_without_counting_noise():
    decoded, mean = np.array([1.0, 0.0, 1.0, 0.5]), np.array([0.0, 3.0, np.inf, 2.0])
    np.testing.assert_allclose(signal_share(decoded, mean), [0, 0, 1, 0.5])


def test_signal_of_each_gene_is_stored_and_values_that_are_no_counts_are_all_signal(rng):
    adata, model = counts_world()
    found = tl.fvh_lt(adata, model)
    mean = np.asarray(adata.X.mean(axis=0)).ravel()
    stored = adata.uns["scdisent"]["fvh_lt"]["signal"]["signal"]
    assert list(stored.index) == list(adata.var_names)
    shown = found.decoded_variance * mean
    np.testing.assert_allclose(stored, shown / (1 + shown), rtol=1e-6)
    real, model = world(rng.normal(size=(200, 2)), rng.normal(size=(2, 5)))
    tl.fvh_lt(real, model)
    assert (real.uns["scdisent"]["fvh_lt"]["signal"]["signal"] == 1).all()


def test_unknown_grid_is_named_before_anything_is_stored():
    adata, model = counts_world()
    with pytest.raises(OptionError, match="'gauss_hermite', 'uniform', 'quantile'"):
        tl.fvh_lt(adata, model, grid="normal")
    assert not adata.uns


# ------------------------------------------------------- information, base cells


def test_information_of_a_block_with_a_standard_prior_is_its_divergence(rng):
    adata, model = world(rng.normal(size=(200, 2)), np.ones((2, 5)))
    variance = rng.uniform(0.01, 1, (200, 2))
    space = LatentSpace(adata, model, model.codes.to_numpy(), variance)
    q = Normal(torch.from_numpy(space.mean), torch.from_numpy(variance).sqrt())
    expected = kl_divergence(q, Normal(torch.tensor(0.0), torch.tensor(1.0))).mean(0)
    np.testing.assert_allclose(space.information, expected.numpy(), rtol=1e-6)


def mutual_information(centre, *, spread=1.0, noise=0.3):
    """Of cell and code by quadrature: cells at N(±centre, spread²), code N(cell, noise²)."""
    law = Normal(torch.tensor([-centre, centre]), (spread**2 + noise**2) ** 0.5)

    def surprise(z):
        density = law.log_prob(torch.tensor(z)).exp().mean().item()
        return -density * np.log(density) if density > 0 else 0.0

    entropy, _ = integrate.quad(surprise, -20, 20, points=[-centre, centre], limit=200)
    return entropy - 0.5 * np.log(2 * np.pi * np.e * noise**2)


@pytest.mark.parametrize("centre", [0.0, 1.0, 4.0])
def test_information_of_the_specific_block_bounds_the_mutual_information(centre):
    half = white(20_000, 1)
    codes = np.vstack([half - centre, half + centre])
    blocks = {"invariant": 0, "specific": 1}
    adata, model = world(codes, np.ones((1, 3)), blocks=blocks)
    space = LatentSpace(adata, model, codes, np.full_like(codes, 0.3**2))
    (found,), exact = space.information, mutual_information(centre)
    if centre == 0:
        assert found == pytest.approx(exact, abs=1e-3)
    else:
        assert found > exact
    assert found == pytest.approx(0.5 * np.log(1 + (1 + centre**2) / 0.3**2), rel=1e-6)


def test_a_prior_that_moves_with_the_condition_does_not_hide_information():
    """A specific block that sits at the same place for all cells tells nothing, wherever it is."""
    codes = np.column_stack([white(300, 1), np.full(300, 5.0)])
    blocks = {"invariant": 1, "specific": 1}
    adata, model = world(codes, np.ones((2, 3)), blocks=blocks, variance=1.0)
    tl.fvh_lt(adata, model)
    latents = adata.uns["scdisent"]["latents"]
    assert latents["informative"].tolist() == [True, False]
    assert latents.loc["specific_0", "kl"] == pytest.approx(0, abs=1e-9)


def test_base_cells_are_spread_evenly_over_what_is_known():
    sizes = {("a", "x"): 200, ("a", "y"): 60, ("b", "x"): 12, ("b", "y"): 2}
    rows = [stratum for stratum, size in sizes.items() for _ in range(size)]
    adata, model = world(
        white(len(rows), 1), np.ones((1, 2)), condition_key="condition", labels_key="type"
    )
    adata.obs[["condition", "type"]] = rows
    space = LatentSpace(adata, model, *model.get_latent_representation(adata, return_dist=True))
    for seed in range(3):
        drawn = spread_cells(space, 34, seed=seed)
        assert len(set(drawn)) == 34
        counts = adata.obs.iloc[drawn].value_counts().to_dict()
        assert sorted(counts.values()) == [2, 10, 11, 11]
        assert counts["b", "y"] == 2
    assert sorted(spread_cells(space, 1000, seed=0)) == list(range(len(rows)))
    assert not np.array_equal(spread_cells(space, 34, seed=0), drawn)


# ---------------------------------------------------------------- DBSR-LS, LSDI-R


@pytest.mark.parametrize("seed", range(3))
def test_links_of_planted_factors_are_found_and_empty_latents_are_not(seed):
    table = simulate_factors("fa15", n_cells=500, noise=0.3, seed=seed)
    truth = table.uns["truth"]
    rng = np.random.default_rng(seed)
    codes = np.hstack([truth["factors"], 0.05 * rng.standard_normal((500, 3))])
    loadings = np.vstack([truth["loadings"], np.zeros((3, 15))])
    adata, model = world(codes, loadings)
    adata.X = table.X
    found = tl.dbsr_ls(adata, model)
    effects = adata.varm["scdisent_dbsr_ls"].to_numpy().T
    np.testing.assert_array_equal(effects != 0, loadings != 0)
    expected = loadings / table.X.std(axis=0)
    np.testing.assert_allclose(effects, expected, atol=0.1)
    latents = adata.uns["scdisent"]["latents"]
    assert latents["selected"].tolist() == [True] * 3 + [False] * 3
    assert latents["n_links"].tolist() == [6, 5, 4, 0, 0, 0]
    assert found.r2.mean() > 0.85


def test_the_index_does_not_depend_on_how_finely_penalties_are_tuned():
    """Penalised coefficients shrink with the chosen penalty; refitted effects do not."""
    for seed in range(3):
        table = simulate_factors("fa15", n_cells=400, noise=0.3, seed=seed)
        truth = table.uns["truth"]
        adata, model = world(truth["factors"], truth["loadings"])
        adata.X = table.X
        grids = {}, {"n_lambdas": 30, "shares": (0.05, 0.1, 0.2, 0.4)}
        found = [of(scored(adata, model, **grid), "dbsr_ls") for grid in grids]
        assert found[0]["value"] == pytest.approx(found[1]["value"], abs=0.005)
        assert found[0]["explained"] == pytest.approx(found[1]["explained"], abs=0.005)
        share = adata.uns["scdisent"]["dbsr_ls"]["r2"]["r2"].mean()
        assert found[0]["explained"] == pytest.approx(share, abs=0.02)


def test_batches_and_donors_of_the_setup_reach_the_regression():
    """A batch that shifts codes and genes alike makes no link."""
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 2, 600)
    codes = white(600, 2)
    codes[:, 1] += 3 * batch
    adata, model = world(codes, np.array([[1.0, 1, 0, 0], [0, 0, 0, 0]]), noise=0.5)
    adata.X[:, 2:] += 4 * batch[:, None]
    adata.obs["lane"] = batch.astype(str)
    blind = tl.dbsr_ls(adata.copy(), model)
    model.registry_["setup_args"]["batch_key"] = "lane"
    aware = tl.dbsr_ls(adata, model)
    assert blind.link_selected[1, 2:].all()
    assert aware.link_selected.tolist() == [[True, True, False, False], [False] * 4]


def test_indices_of_two_blocks_have_their_closed_forms():
    adata, model = two_blocks()
    frame = scored(adata, model)
    mass = np.array([0.3, 0.3, 0.2, 0.2])
    balance = -(mass * np.log(mass)).sum() / np.log(4)
    concentration = 1 - 0.4 * np.log(2) / np.log(4)
    expected = {  # explained, balance, concentration
        "invariant": (0.6, 1, 1),
        "specific": (0.4, 1, 0),
        "all": (1, balance, concentration),
    }
    for tool in ("fvh_lt", "dbsr_ls", "mean"):
        for block, (explained, bal, con) in expected.items():
            row = of(frame, tool, block)
            parts = row[["explained", "balance", "concentration"]].to_numpy(float)
            np.testing.assert_allclose(parts, [explained, bal, con], atol=2e-3)
            assert row["value"] == pytest.approx(explained * (bal + con - 1), abs=3e-3)
            assert row["n_informative"] == (4 if block == "all" else 2)
    assert frame.equals(adata.uns["scdisent"]["lsdi"])


def test_cuts_and_the_mask_leave_out_latents_without_information():
    rng = np.random.default_rng(0)
    codes = np.hstack([white(300, 2), np.full((300, 1), 0.2), np.zeros((300, 1))])
    loadings = np.vstack([np.kron(np.eye(2), np.ones(4)), rng.normal(size=(2, 8))])
    adata, model = world(codes, loadings, variance=1.0)
    tl.fvh_lt(adata, model)
    frame = tl.lsdi(adata)
    assert of(frame, "fvh_lt")["n_informative"] == 3  # KL 0.5, 0.5, 0.02, 0
    cuts = adata.uns["scdisent"]["lsdi_by_cut"].set_index("cut")
    assert cuts["n_informative"].tolist() == [3, 3, 2, 2]
    assert cuts.loc[0.03, "value"] == pytest.approx(1, abs=1e-6)
    assert cuts.loc[0.01, "value"] < 0.8


def test_noise_of_counts_is_not_held_against_the_latents():
    frame = scored(*counts_world(n_cells=2000))
    assert of(frame, "dbsr_ls")["explained"] == pytest.approx(1)
    assert of(frame, "fvh_lt")["value"] == pytest.approx(1, abs=0.01)


def test_a_decoder_that_says_the_same_of_all_cells_has_no_index(tmp_path):
    adata, model = counts_world()
    model.loadings *= 1e-4
    with pytest.warns(ScDisentWarning, match="No gene varies enough"):
        frame = scored(adata, model)
    assert frame[["value", "explained", "null", "adjusted"]].isna().all(axis=None)
    assert adata.uns["scdisent"]["lsdi_by_cut"]["value"].isna().all()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(InputDataError, match="No gene could be scored"):
        pl.lsdi(adata)


def test_missing_and_mixed_results_are_named():
    adata, model = two_blocks()
    with pytest.raises(SetupError, match=r"scdisent\.tl\.fvh_lt\(adata, model\)"):
        tl.lsdi(adata)
    with pytest.raises(SetupError, match="holds no 'latents'"):
        tl.score(adata, model, metrics=["lsdi"])
    tl.fvh_lt(adata, model)
    _, other = world(model.codes.to_numpy()[:, :2], model.loadings.to_numpy()[:2])
    tl.dbsr_ls(adata, other)
    with pytest.raises(SetupError, match=r"has 4 latents, from 'invariant_0' on.*same model"):
        tl.lsdi(adata)
    for name in list(adata.varm):
        del adata.varm[name]
    with pytest.raises(SetupError, match="no scores of latents"):
        tl.lsdi(adata)


# -------------------------------------------------------------------------- runs


def turned(model, *, order, signs, genes=None):
    """The same model with latents reordered and flipped, its genes in another order."""
    codes = pd.DataFrame(model.codes.to_numpy()[:, order] * signs, index=model.codes.index)
    loadings = pd.DataFrame(
        model.loadings.to_numpy()[order] * np.array(signs)[:, None], columns=model.loadings.columns
    )
    return LinearModel(
        codes,
        loadings if genes is None else loadings[genes],
        counts=model.module.expects == "counts",
    )


@pytest.mark.parametrize("seed", range(3))
def test_runs_are_brought_into_one_order_and_keep_their_scores(seed):
    adata, model = counts_world(seed=seed)
    rng = np.random.default_rng(seed)
    wide = ad.concat(
        [adata, ad.AnnData(np.full((adata.n_obs, 1), 5.0), obs=adata.obs)], axis=1, merge="same"
    )
    wide.var_names = [*adata.var_names, "other"]
    wide = wide[:, rng.permutation(wide.n_vars)].copy()
    scored(wide, model)
    before = {name: frame.copy() for name, frame in wide.varm.items()}
    kept = dict(wide.uns["scdisent"])
    orders, signs = [[0, 1, 2]], [[1, 1, 1]]
    for _ in range(2):
        orders.append(list(rng.permutation(3)))
        signs.append(list(rng.choice([-1, 1], 3)))
    shuffled = list(rng.permutation(adata.var_names))
    runs = [
        turned(model, order=o, signs=s, genes=g)
        for o, s, g in zip(orders, signs, (None, shuffled, None), strict=True)
    ]
    found = tl.align(runs, wide)
    reference = found.reference
    for run, (order, sign) in enumerate(zip(orders, signs, strict=True)):
        origin = np.array(order)[found.permutations[run]]
        np.testing.assert_array_equal(origin, orders[reference])
        product = np.array(sign)[found.permutations[run]] * signs[reference]
        np.testing.assert_array_equal(found.signs[run], product)
    for name in ("fvh_lt", "dbsr_ls"):
        flips = np.array(signs[reference]) if name == "dbsr_ls" else 1
        expected = wide.varm[f"scdisent_{name}"].to_numpy()[:, orders[reference]] * flips
        aligned = wide.varm[f"scdisent_aligned_{name}"]
        assert aligned.loc["other"].isna().all()
        np.testing.assert_allclose(aligned, expected, rtol=1e-3, atol=1e-4)
        spread = wide.varm[f"scdisent_aligned_{name}_sd"].drop(index="other")
        assert spread.max(axis=None) < 1e-4
    frequency = wide.varm["scdisent_aligned_frequency"].drop(index="other")
    links = wide.varm["scdisent_dbsr_ls"].drop(index="other").to_numpy() != 0
    np.testing.assert_array_equal(frequency, links[:, orders[reference]])
    values = wide.uns["scdisent"]["lsdi_runs"]["value"]
    np.testing.assert_allclose(values, sm.lsdi(before["scdisent_fvh_lt"].T, n_null=0).value, 1e-3)
    for name, frame in before.items():
        pd.testing.assert_frame_equal(wide.varm[name], frame)
    assert all(wide.uns["scdisent"][name] is value for name, value in kept.items())
    assert set(wide.uns["scdisent"]) == {*kept, "gas", "lsdi_runs"}


def test_one_run_other_genes_and_collapsed_runs_are_refused():
    adata, model = counts_world()
    with pytest.raises(OptionError, match="found 1 model"):
        tl.align([model], adata)
    other = turned(model, order=[0, 1, 2], signs=[1, 1, 1], genes=list(adata.var_names[:-1]))
    with pytest.raises(OptionError, match="models 0 and 1 differ in 1, such as 'gene_29'"):
        tl.align([model, other], adata)
    collapsed = LinearModel(1e-3 * model.codes, 1e3 * model.loadings, counts=True, variance=1.0)
    with pytest.raises(OptionError, match=r"more than kl_cut=0\.01 nats"):
        tl.align([collapsed, collapsed], adata)
    assert not adata.uns


# --------------------------------------------------------------------- traversal


def test_a_stored_traversal_is_what_the_decoder_says():
    adata, model = two_blocks()
    tl.traverse(adata, model, cell="cell_7", n_grid=5)
    stored = adata.uns["scdisent"]["traversal"]
    codes = model.codes.to_numpy()
    np.testing.assert_allclose(stored["base"], model.decode(codes[[7]])[0], rtol=1e-5)
    np.testing.assert_allclose(stored["grid"][:, 2], np.median(codes, axis=0))
    np.testing.assert_allclose(stored["grid"][:, -1], np.quantile(codes, 0.99, axis=0))
    for latent in range(4):
        for place in range(5):
            moved = codes[7].copy()
            moved[latent] = stored["grid"][latent, place]
            expected = model.decode(moved[None])[0]
            np.testing.assert_allclose(stored["values"][latent, place], expected, atol=1e-5)
    assert stored["latents"].tolist() == ["invariant_0", "invariant_1", "specific_0", "specific_1"]
    assert stored["genes"].tolist() == list(adata.var_names)


def test_traversals_start_at_the_cell_nearest_to_the_mean():
    adata, model = two_blocks()
    codes = model.codes
    codes.iloc[11] = codes.mean() + 1e-3
    tl.traverse(adata, model)
    expected = model.decode(codes.to_numpy()[[11]])[0]
    np.testing.assert_allclose(adata.uns["scdisent"]["traversal"]["base"], expected, atol=1e-5)
    with pytest.raises(OptionError, match="cell='cell_x' is not in adata.obs_names"):
        tl.traverse(adata, model, cell="cell_x")


def test_a_swap_decodes_what_one_cell_is_under_the_condition_of_another():
    adata, model = two_blocks()
    model.registry_["setup_args"]["condition_key"] = "condition"
    adata.obs["condition"] = np.where(model.codes[2] > 0.5, "b", "a")
    tl.swap(adata, model, n_cells=4)
    found, codes = adata.uns["scdisent"]["swap"], model.codes
    assert found["conditions"].tolist() == ["a", "b"]
    assert found["values"].shape == (4, 2, 10)
    w = codes.to_numpy()[:, 2:]
    for column, name in enumerate(found["conditions"]):
        own = np.flatnonzero(adata.obs["condition"] == name)
        giver = own[((w[own] - w[own].mean(axis=0)) ** 2).sum(axis=1).argmin()]
        expected = model.decode(codes.to_numpy()[[giver]])[0]
        np.testing.assert_allclose(found["columns"][column], expected, atol=1e-5)
        for row, cell in enumerate(found["cells"]):
            mixed = np.concatenate([codes.loc[cell].to_numpy()[:2], w[giver]])
            np.testing.assert_allclose(found["values"][row, column], model.decode(mixed), atol=1e-5)
            np.testing.assert_allclose(
                found["rows"][row], model.decode(codes.loc[[cell]].to_numpy())[0], atol=1e-5
            )
    with pytest.raises(OptionError, match=r"has the blocks \['latent'\]; a swap needs"):
        tl.swap(*world(white(50, 2), np.eye(2, 5)))


# ------------------------------------------------------------------- files, score


def assert_same(found, expected):
    """Nested results are equal up to the types that files keep."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert_same(found[name], value)
    elif isinstance(expected, pd.DataFrame):
        assert [str(name) for name in found.columns] == [str(name) for name in expected.columns]
        assert [str(name) for name in found.index] == [str(name) for name in expected.index]
        for left, right in zip(found.items(), expected.items(), strict=True):
            np.testing.assert_array_equal(np.asarray(left[1]), np.asarray(right[1]))
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_come_back_from_files_and_can_be_worked_on(tmp_path, suffix):
    adata, model = two_blocks()
    scored(adata, model)
    runs = [turned(model, order=o, signs=[1] * 4) for o in ([0, 1, 2, 3], [3, 1, 0, 2])]
    tl.align(runs, adata)
    tl.traverse(adata, model)
    path = tmp_path / f"cells.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    found = getattr(ad, f"read_{suffix}")(path)
    assert_same(found.uns["scdisent"], adata.uns["scdisent"])
    assert_same(dict(found.varm), dict(adata.varm))
    expected = adata.uns["scdisent"]["lsdi"]
    pd.testing.assert_frame_equal(tl.lsdi(found), expected, check_dtype=False)


TINY = {"n_latent": 3, "n_hidden": 16}
FAST = {"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False, "batch_size": 64}


def test_results_of_a_view_stay_its_own():
    adata, model = two_blocks()
    tl.fvh_lt(adata, model)
    before = adata.uns["scdisent"]["fvh_lt"]
    view = adata[: adata.n_obs // 2]
    with pytest.warns(ImplicitModificationWarning):  # as in scanpy
        tl.traverse(view, model)
    tl.fvh_lt(view, model, n_base=16)
    assert view.uns["scdisent"]["fvh_lt"]["n_base"] == 16
    assert "traversal" in view.uns["scdisent"]
    assert adata.uns["scdisent"]["fvh_lt"] is before
    assert "traversal" not in adata.uns["scdisent"]


@pytest.fixture(scope="module")
def cells():
    return simulate_conditions(n_cells=240, n_genes=60, n_types=2, n_donors=3, seed=0)


def test_a_model_without_conditions_is_scored_by_what_needs_none(cells):
    adata = cells.copy()
    scdisent.setup_anndata(adata, condition_key=None)
    models = [scdisent.BFVAE(adata, preset="vae", seed=seed, **TINY) for seed in range(2)]
    for model in models:
        model.train(**FAST)
    table = tl.score(adata, models[0])
    expected = {"nll_latent", "lsdi (fvh_lt)", "lsdi (dbsr_ls)", "lsdi (mean)"}
    assert set(table["metric"]) == expected
    assert len(table) == 4
    results = adata.uns["scdisent"]
    lsdi = table[table["metric"] == "lsdi (mean)"]
    assert lsdi["representation"].tolist() == ["latent"]
    assert lsdi["value"].tolist() == results["lsdi"]["value"].tolist()[-1:]
    assert "leakage" not in results
    tl.traverse(adata, models[0])
    shares = np.log(models[0].decode(models[0].get_latent_representation()))
    scale = np.abs(shares - np.median(shares, axis=1, keepdims=True)).max()
    assert np.abs(results["traversal"]["base"]).max() <= scale
    assert tl.align(models, adata).n_latent == (3, 3)


def test_both_blocks_and_their_union_are_scored(cells):
    adata = cells.copy()
    keys = {"condition_key": "condition", "labels_key": "cell_type", "sample_key": "donor"}
    scdisent.setup_anndata(adata, **keys)
    model = scdisent.DISCoVeR(adata, n_specific=2, **TINY)
    model.train(**FAST)
    table = tl.score(adata, model, metrics=["likelihood", "fvh_lt", "dbsr_ls", "lsdi"])
    blocks = table.groupby("metric")["representation"].apply(set)
    for tool in ("fvh_lt", "dbsr_ls", "mean"):
        assert blocks[f"lsdi ({tool})"] == {"invariant", "specific", "all"}
    assert set(blocks.index) - {f"lsdi ({t})" for t in ("fvh_lt", "dbsr_ls", "mean")} == {
        "nll_joint",
        "nll_invariant",
    }
    names = ["invariant_0", "invariant_1", "invariant_2", "specific_0", "specific_1"]
    assert list(adata.varm["scdisent_fvh_lt"].columns) == names
    assert table["value"].between(0, 1)[table["target"] == "expression"][2:].all()


@pytest.mark.filterwarnings("ignore:Greedy alignment")  # of models of three epochs
def test_a_model_of_scvi_tools_is_read_like_ours(tmp_path):
    adata = simulate_conditions(n_cells=200, n_genes=60, n_types=2, type_effect_genes=2, seed=0)
    scvi.model.SCVI.setup_anndata(adata, batch_key="donor")
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = scvi.model.SCVI(adata, n_latent=3, n_hidden=16)
        model.train(3, accelerator="cpu", enable_progress_bar=False)
        models.append(model)
    found = tl.fvh_lt(adata, model, n_base=20, n_grid=5)
    assert found.values.shape == (3, 60)
    tl.dbsr_ls(adata, model, n_lambdas=3)
    tl.lsdi(adata)
    tl.traverse(adata, model, n_grid=3)
    codes = model.get_latent_representation(adata)
    first = torch.zeros(200, 1)
    with torch.no_grad():
        px = model.module.generative(torch.from_numpy(codes), first, first.long())["px"]
        own = px.get_normalized("scale").numpy()
    np.testing.assert_allclose(readable(model).decode(codes), own, rtol=1e-5)
    aligned = tl.align(models, adata)
    assert aligned.permutations.shape[0] == 2
    adata.write_h5ad(tmp_path / "scores.h5ad")


def test_a_model_that_cannot_be_read_is_refused():
    adata = simulate_factors(n_cells=10)
    with pytest.raises(OptionError, match=r"Pass its codes and its decoder"):
        tl.fvh_lt(adata, object())
