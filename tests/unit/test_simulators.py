"""The simulators draw what their docstrings promise: moments, effects, designs, truth."""

import math
import random

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats
from scipy.stats import chi2_contingency
from sklearn.datasets import load_digits, make_swiss_roll

from scdisent._errors import InputDataError, OptionError
from scdisent.datasets import (
    noisy_colored_digits,
    noisy_swiss_roll,
    recolored_digits,
    simulate_conditions,
    simulate_domains,
    toy_sum,
    true_domain_features,
    true_rates,
    two_color_digits,
)
from scdisent.datasets._simulate import RESPONSE_SD, negative_binomial

RICH = {
    "n_cells": 6000,
    "n_genes": 60,
    "n_types": 3,
    "conditions": ("control", "A", "B"),
    "combinations": True,
    "doses": (0.5, 1.0),
    "shared_effect_genes": 12,
    "type_effect_genes": 5,
}


@pytest.fixture(scope="module")
def world():
    return simulate_conditions(n_cells=20_000, seed=3)


@pytest.fixture(scope="module")
def rich():
    return simulate_conditions(**RICH, interaction=0.5, seed=4)


def observed_rates(adata):
    """Expected counts of each cell under its own condition and dose."""
    rates = np.empty(adata.shape)
    for condition in adata.obs["condition"].cat.categories:
        cells = (adata.obs["condition"] == condition).to_numpy()
        rates[cells] = true_rates(adata[cells], condition)
    return rates


def test_counts_have_the_moments_of_the_negative_binomial(rng):
    rates, theta, n = np.array([0.05, 0.7, 5.0, 80.0]), 3.0, 200_000
    counts = negative_binomial(np.tile(rates, (n, 1)), theta, rng=rng)
    variance = rates + rates**2 / theta
    z = (counts.mean(axis=0) - rates) / np.sqrt(variance / n)
    assert (abs(z) < 4.5).all()
    np.testing.assert_allclose(counts.var(axis=0), variance, rtol=0.05)
    zeros = (theta / (theta + rates)) ** theta
    np.testing.assert_allclose((counts == 0).mean(axis=0), zeros, atol=0.005)


@pytest.mark.parametrize("name", ["world", "rich"])
def test_counts_scatter_around_the_true_rates_as_the_formula_says(name, request):
    adata = request.getfixturevalue(name)
    rates = observed_rates(adata)
    variance = rates + rates**2 / adata.uns["truth"]["parameters"]["dispersion"]
    residual = adata.X.toarray() - rates  # (n_cells, n_genes)
    groups = adata.obs["condition"].astype(str) + "|" + adata.obs["cell_type"].astype(str)
    total = pd.DataFrame(residual).groupby(groups.to_numpy()).sum()
    z = total / np.sqrt(pd.DataFrame(variance).groupby(groups.to_numpy()).sum())
    assert abs(z).max(axis=None) < 5
    assert z.to_numpy().std() == pytest.approx(1, abs=0.1)
    assert (residual**2 / variance).mean() == pytest.approx(1, abs=0.02)


def test_planted_effects_are_seen_in_the_counts_and_others_are_not(world):
    """Plain means of groups, without the rates: E[exp(r e)] is the fold change of a gene."""
    effects = world.uns["truth"]["effects"]
    response = np.exp(RESPONSE_SD * stats.norm.ppf((np.arange(999) + 0.5) / 999))
    response /= np.exp(RESPONSE_SD**2 / 2)
    z = {}
    for cell_type in world.obs["cell_type"].cat.categories:
        groups = [
            world[(world.obs["cell_type"] == cell_type) & (world.obs["condition"] == c)].X.toarray()
            for c in ("control", "stimulated")
        ]
        means = [group.mean(axis=0) for group in groups]
        errors = [group.var(axis=0) / len(group) / group.mean(axis=0) ** 2 for group in groups]
        planted = effects[f"{cell_type}|stimulated"].to_numpy()
        expected = np.log(np.exp(np.outer(response, planted)).mean(axis=0))
        found = np.log(means[1] / means[0])
        z[cell_type] = (found - expected) / np.sqrt(sum(errors))
        assert np.corrcoef(found, expected)[0, 1] > 0.97
        assert np.median(abs(found[planted == 0])) < 0.06
        assert np.median(abs(found[planted != 0])) > 0.6
    z = np.array([*z.values()])
    assert abs(z).max() < 5
    assert z.std() == pytest.approx(1, abs=0.15)


def test_effects_hit_the_number_and_kind_of_genes_asked_for(world):
    effects = world.uns["truth"]["effects"]
    hit = effects != 0
    assert (hit.sum() == 50).all()
    everywhere = hit.all(axis=1)
    assert everywhere.sum() >= 40
    shared = effects[everywhere].round(12).nunique(axis=1) == 1
    assert shared.sum() == 40
    size = abs(effects.to_numpy()[hit.to_numpy()])
    assert 0.5 <= size.min() < size.max() <= 1.5
    assert 0.3 < (effects.to_numpy()[hit.to_numpy()] > 0).mean() < 0.7


def test_the_design_is_balanced_and_every_donor_has_every_condition(world):
    table = pd.crosstab(world.obs["donor"], world.obs["condition"])
    assert table.shape == (4, 2)
    assert (table.max() - table.min() <= 1).all()
    share = pd.crosstab(world.obs["cell_type"], world.obs["condition"], normalize="index")
    np.testing.assert_allclose(share, 0.5, atol=0.03)


@pytest.mark.parametrize("conditions", [("c", "a"), ("c", "a", "b")])
def test_composition_shift_tilts_conditions_by_type(conditions):
    n, shift = len(conditions), 0.7
    adata = simulate_conditions(
        n_cells=12_000, n_types=4, conditions=conditions, composition_shift=shift, seed=1
    )
    share = pd.crosstab(adata.obs["cell_type"], adata.obs["condition"], normalize="index")
    favoured = np.eye(n)[np.arange(4) % n]
    expected = shift * favoured + (1 - shift) / n
    assert expected.max() == pytest.approx(0.85 if n == 2 else 0.8)
    error = np.sqrt(expected * (1 - expected) / 3000)
    assert (abs(share.to_numpy() - expected) < 4.5 * error).all(axis=None)


def test_log_effects_of_combinations_add_up_without_interaction():
    adata = simulate_conditions(**RICH, seed=4)
    a, b, both, none = (
        np.log(true_rates(adata, name, dose=1)) for name in ("A", "B", "A+B", "control")
    )
    np.testing.assert_allclose(both - none, (a - none) + (b - none), atol=1e-9)
    assert list(adata.obs["condition"].cat.categories) == ["control", "A", "B", "A+B"]


def test_interaction_departs_from_additivity_on_the_genes_asked_for(rich):
    effects = rich.uns["truth"]["effects"]
    extra = effects["type_0|A+B"] - effects["type_0|A"] - effects["type_0|B"]
    assert (abs(extra) > 1e-9).sum() == 12
    assert 0.25 <= abs(extra)[abs(extra) > 1e-9].min() <= abs(extra).max() <= 0.75


def test_the_effect_is_linear_in_dose_and_response(rich):
    none, half, full = (
        np.log(true_rates(rich, name, dose=dose))
        for name, dose in (("control", None), ("A", 0.5), ("A", 1.0))
    )
    np.testing.assert_allclose(full - none, 2 * (half - none), atol=1e-9)
    effects = rich.uns["truth"]["effects"]
    columns = [f"{name}|A" for name in rich.obs["cell_type"]]
    response = rich.obs["truth_response"].to_numpy()[:, None]
    np.testing.assert_allclose(full - none, response * effects[columns].T, atol=1e-9)


def test_a_world_without_doses_can_be_asked_for_one(world):
    few = world[:50]
    none, half, full = (
        np.log(rates)
        for rates in (
            true_rates(few, "control"),
            true_rates(few, "stimulated", dose=0.5),
            true_rates(few, "stimulated"),
        )
    )
    np.testing.assert_allclose(full - none, 2 * (half - none), atol=1e-9)


def test_doses_are_given_to_all_but_the_control(rich):
    dose = rich.obs.groupby("condition", observed=True)["dose"].agg(["min", "max", "nunique"])
    assert dose.loc["control"].tolist() == [0, 0, 1]
    assert (dose.drop("control") == [0.5, 1.0, 2]).all(axis=None)


def test_responses_library_sizes_and_donors_have_the_sizes_asked_for():
    adata = simulate_conditions(n_cells=20_000, n_donors=40, donor_effect=0.2, library_size=500)
    library, response = adata.obs["truth_library"], adata.obs["truth_response"]
    assert library.mean() == pytest.approx(500, rel=0.02)
    assert np.log(library).std() == pytest.approx(0.3, rel=0.05)
    assert response.mean() == pytest.approx(1, rel=0.02)
    offsets = adata.uns["truth"]["donor_offsets"].to_numpy()
    assert offsets.std() == pytest.approx(0.2, rel=0.05)
    np.testing.assert_allclose(np.exp(adata.uns["truth"]["profiles"]).sum(), 1)
    assert abs(np.corrcoef(np.log(library), np.log(response))[0, 1]) < 0.04


def test_true_rates_follow_subsets_of_cells_and_genes(rich):
    full = true_rates(rich, "B", dose=1)
    cells, genes = np.array([17, 3, 500]), np.array([9, 40, 2, 33])
    part = rich[cells][:, rich.var_names[genes]]
    np.testing.assert_allclose(true_rates(part, "B", dose=1), full[np.ix_(cells, genes)])


def test_true_rates_refuse_what_they_cannot_know(rich, world):
    with pytest.raises(OptionError, match="condition='C' is not known.*'A\\+B'"):
        true_rates(rich, "C")
    with pytest.raises(OptionError, match=r"cells are not of condition 'A'.*Pass dose="):
        true_rates(rich, "A")
    with pytest.raises(InputDataError, match="uns\\['truth'\\]"):
        true_rates(ad.AnnData(np.ones((2, 2))), "A")
    assert true_rates(world[:5], "stimulated").shape == (5, 200)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_truth_survives_the_disk(rich, tmp_path, kind):
    small = rich[:300].copy()
    path = tmp_path / f"world.{kind}"
    getattr(small, f"write_{kind}")(path)
    again = getattr(ad, f"read_{kind}")(path)
    np.testing.assert_array_equal(again.X.toarray(), small.X.toarray())
    for condition in ("control", "A+B"):
        found, expected = (true_rates(each, condition, dose=1) for each in (again, small))
        np.testing.assert_allclose(found, expected)
    for key in ("effects", "profiles", "donor_offsets", "loadings"):
        pd.testing.assert_frame_equal(again.uns["truth"][key], small.uns["truth"][key])
    assert again.uns["truth"]["parameters"]["n_cells"] == 6000
    assert list(again.uns["truth"]["parameters"]["all_conditions"]) == ["control", "A", "B", "A+B"]


def test_the_smallest_worlds_can_be_written(tmp_path):
    adata = simulate_conditions(n_cells=50, n_factors=0, n_donors=1, n_types=1, donor_effect=0)
    adata.write_h5ad(tmp_path / "small.h5ad")
    assert ad.read_h5ad(tmp_path / "small.h5ad").obsm["truth_factors"].shape == (50, 0)


def test_x_is_csr_of_float32_counts_and_labels_are_strings(world):
    assert sparse.isspmatrix_csr(world.X)
    assert world.X.dtype == np.float32
    assert (world.X.data == np.round(world.X.data)).all()
    for key in ("condition", "cell_type", "donor"):
        assert all(isinstance(level, str) for level in world.obs[key].cat.categories)
    assert world.var_names[0] == "gene_0"
    assert world.obs_names.is_unique


def test_no_cell_is_left_without_counts():
    adata = simulate_conditions(n_cells=3000, library_size=0.3)
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    assert totals.min() == 1
    assert (totals == 1).mean() > 0.5


SIMULATORS = [
    (simulate_conditions, {"n_cells": 300}),
    (toy_sum, {"n_cells": 300}),
    (noisy_swiss_roll, {"n_cells": 300}),
]


@pytest.mark.parametrize(("simulate", "size"), SIMULATORS)
def test_the_seed_decides_all_and_global_random_states_stay(simulate, size):
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first, same, other = simulate(**size, seed=5), simulate(**size, seed=5), simulate(**size)
    np.testing.assert_array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert random.getstate() == before[1]
    arrays = [a.X.toarray() if sparse.issparse(a.X) else a.X for a in (first, same, other)]
    np.testing.assert_array_equal(arrays[0], arrays[1])
    pd.testing.assert_frame_equal(first.obs, same.obs)
    assert (arrays[0] != arrays[2]).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_cells": 0}, "n_cells must be at least 1, found 0"),
        ({"composition_shift": 1.0}, "at least 0 and below 1, found 1.0"),
        ({"composition_shift": math.nan}, "composition_shift"),
        ({"dispersion": 0}, "dispersion"),
        ({"n_genes": 49}, "n_genes must be at least 50, found 49"),
        ({"conditions": ("control",)}, "two or more different names"),
        ({"conditions": ("a", "a")}, "two or more different names"),
        ({"conditions": ("a", "b+c")}, "without '\\+'"),
        ({"combinations": True}, "needs two conditions besides the control"),
        ({"doses": (0.0, 1.0)}, "must all be positive"),
        ({"n_cells": 9, "n_donors": 6}, "too few for 6 donors"),
    ],
)
def test_impossible_worlds_are_refused(wrong, message):
    with pytest.raises(OptionError, match=message):
        simulate_conditions(**wrong)


def test_toys_refuse_impossible_sizes():
    for wrong in ({"n_cells": 1}, {"n_cells": 5, "noise": -1}):
        with pytest.raises(OptionError, match="must be at least"):
            noisy_swiss_roll(**wrong)


def test_toy_sum_has_its_known_entropy_and_posterior():
    adata = toy_sum()
    x = adata.X.ravel().astype(float)
    z, w = (adata.obsm[f"truth_{name}"].ravel() for name in ("invariant", "specific"))
    np.testing.assert_allclose(x, z + w, atol=1e-6)
    truth = adata.uns["truth"]
    assert truth["entropy"] == pytest.approx(1.7655, abs=1e-4)
    assert truth["entropy"] == pytest.approx(stats.norm(scale=math.sqrt(2)).entropy())
    assert stats.differential_entropy(x) == pytest.approx(truth["entropy"], abs=0.02)
    slope, intercept = np.polyfit(x, z, 1)
    assert (slope, intercept) == pytest.approx((truth["posterior_slope"], 0), abs=0.02)
    left = (z - truth["posterior_slope"] * x).var()
    assert left == pytest.approx(truth["posterior_variance"], abs=0.02)
    near = (abs(x) < 0.3) & (adata.obs["condition"] == "w>0").to_numpy()
    cut = stats.halfnorm(scale=math.sqrt(truth["posterior_variance"]))
    assert w[near].mean() == pytest.approx(cut.mean(), abs=0.04)


def test_toy_sum_tells_the_sign_of_w_and_splits_in_halves():
    adata = toy_sum(n_cells=1001)
    positive = adata.obsm["truth_specific"].ravel() > 0
    assert ((adata.obs["condition"] == "w>0") == positive).all()
    assert adata.obs["split"].value_counts().tolist() == [501, 500]
    assert adata.X.shape == (1001, 1)
    assert adata.X.dtype == np.float32


def test_swiss_roll_is_the_one_of_scikit_learn_plus_noise():
    ours = noisy_swiss_roll(noise=0.5, seed=2)
    points = ours.X - ours.uns["truth"]["shift"]
    theirs, _ = make_swiss_roll(10_000, noise=0.5, random_state=0)
    for axis in range(3):
        assert stats.ks_2samp(points[:, axis], theirs[:, axis]).pvalue > 1e-3
    np.testing.assert_allclose(ours.X.min(axis=0), 0, atol=1e-5)
    narrow = (ours.obs["condition"] == "narrow").to_numpy()
    np.testing.assert_array_equal(narrow, points[:, 1] < ours.uns["truth"]["threshold"])
    assert narrow.mean() == pytest.approx(10 / 21, abs=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_swiss_roll_scatters_around_its_factors(noise):
    adata = noisy_swiss_roll(noise=noise)
    angle, width = adata.obsm["truth_factors"].T
    roll = np.column_stack([angle * np.cos(angle), width, angle * np.sin(angle)])
    residual = adata.X - adata.uns["truth"]["shift"] - roll
    assert residual.std() == pytest.approx(noise, abs=0.01)
    radius = np.hypot(*(adata.X - adata.uns["truth"]["shift"])[:, [0, 2]].T)
    assert abs(radius - angle).mean() < noise + 1e-3


# ------------------------------------------------------------------------ domains


@pytest.mark.parametrize("kind", ["s_a", "s_b", "s_dense", "s_count", "s_dose"])
def test_domains_follow_their_recipe(kind):
    adata = simulate_domains(kind, n_cells=6_000, n_domains=3, seed=1)
    truth, z = adata.uns["truth"], adata.obsm["truth_factors"]
    for number, name in enumerate(truth["conditions"]):
        own = z[(adata.obs["condition"] == name).to_numpy()]
        error = 4 * truth["sds"][number] / np.sqrt(len(own))
        assert (np.abs(own.mean(axis=0) - truth["means"][number]) < error).all()
        np.testing.assert_allclose(own.std(axis=0), truth["sds"][number], rtol=0.15)
    assert adata.varm["truth_parents"].shape == (adata.n_vars, z.shape[1])
    again = simulate_domains(kind, n_cells=6_000, n_domains=3, seed=1)
    assert (adata.X != again.X).sum() == 0


def test_domains_mix_only_the_parents_and_keep_the_cell_under_another_condition():
    adata = simulate_domains("s_b", n_cells=500, n_domains=3, seed=0)
    parents = adata.varm["truth_parents"]
    np.testing.assert_array_equal(parents[:, 0], parents[:, 1])  # always together
    np.testing.assert_array_equal(parents[:, 2], parents[:, 3])
    clean = true_domain_features(adata)
    residual = adata.X - clean
    assert residual.std() == pytest.approx(0.1, rel=0.02)
    np.testing.assert_allclose(clean.std(axis=0), 1, rtol=1e-6)
    other = true_domain_features(adata, "u1")
    own = (adata.obs["condition"] == "u1").to_numpy()
    np.testing.assert_allclose(other[own], clean[own])
    subset = adata[::7]
    np.testing.assert_allclose(true_domain_features(subset, "u1"), other[::7])
    moved = adata.copy()
    moved.obsm["truth_noise"][:, 4] += 1.0  # a latent of its own
    changed = np.abs(true_domain_features(moved, "u1") - other).max(axis=0) > 1e-9
    np.testing.assert_array_equal(changed, parents[:, 4])


def test_domains_change_only_the_latents_that_they_say():
    adata = simulate_domains("s_a", n_cells=100, n_domains=4, n_changing=1, seed=0)
    truth = adata.uns["truth"]
    np.testing.assert_array_equal(truth["changing"], [False, False, False, True])
    assert (truth["means"][:, :3] == 0).all()
    assert (truth["sds"][:, :3] == 1).all()
    assert np.ptp(truth["means"][:, 3]) > 0


def test_counts_of_domains_are_overdispersed_around_their_rates():
    adata = simulate_domains("s_count", n_cells=3_000, n_domains=2, seed=0)
    x = adata.X.toarray()
    assert (x == np.round(x)).all()
    assert x.sum(axis=1).mean() == pytest.approx(1_500, rel=0.03)
    assert adata.varm["truth_parents"][:, 4].mean() == pytest.approx(0.1, abs=0.05)
    mean, variance = x.mean(axis=0), x.var(axis=0)
    assert (variance[mean > 2] > 1.2 * mean[mean > 2]).all()


def test_domains_refuse_what_has_no_meaning():
    with pytest.raises(OptionError, match="kind"):
        simulate_domains("s_z")
    with pytest.raises(OptionError, match="n_changing"):
        simulate_domains("s_a", n_changing=5)
    with pytest.raises(OptionError, match="n_cells"):
        simulate_domains("s_a", n_cells=1)


@pytest.fixture(scope="module")
def digits():
    return two_color_digits(n_cells=3_000, seed=5)


def test_pixels_are_ink_where_there_is_a_stroke_and_paper_elsewhere(digits):
    images = digits.X.reshape(-1, 3, 1024)
    stroke = digits.obsm["truth_stroke"]
    centred = stroke - stroke.mean(axis=1, keepdims=True)
    slope = np.einsum("ip,icp->ic", centred, images) / (centred**2).sum(axis=1)[:, None]
    paper = images.mean(axis=2) - slope * stroke.mean(axis=1)[:, None]
    ink = paper + slope
    colors = digits.obs.assign(**dict(zip(["ir", "ig", "ib"], ink.T, strict=True)))
    colors = colors.assign(**dict(zip(["pr", "pg", "pb"], paper.T, strict=True)))
    by_ink = colors.groupby("ink", observed=True)[["ir", "ig", "ib"]].mean()
    by_paper = colors.groupby("paper", observed=True)[["pr", "pg", "pb"]].mean()
    np.testing.assert_allclose(by_ink.loc["green"], [0.2, 0.8, 0.3], atol=0.02)
    np.testing.assert_allclose(by_paper.loc["violet"], [0.65, 0.15, 0.65], atol=0.02)
    # the jitter is clipped at two standard deviations, which leaves 0.88 of its size and more
    jitter = colors.groupby("ink", observed=True)["ig"].std()["green"]
    assert 0.065 < jitter < 0.08
    assert digits.X.min() >= 0
    assert digits.X.max() <= 1


def test_recoloured_digits_are_the_same_writing_in_other_colours(digits):
    for condition in ("red on blue", "yellow on black"):
        moved = recolored_digits(digits, condition)
        own = (digits.obs["condition"] == condition).to_numpy()
        np.testing.assert_allclose(moved[own], digits.X[own], atol=1e-6)
    # a matter of the pair alone: ink and paper add up
    one, other, left, right = (
        recolored_digits(digits[:50], name)
        for name in ("red on blue", "green on violet", "red on violet", "green on blue")
    )
    assert np.abs(one + other - left - right).max() < 0.2  # up to colours that were clipped
    with pytest.raises(OptionError, match="blue on red"):
        recolored_digits(digits, "blue on red")


def test_smaller_images_are_the_same_digits(digits):
    small = two_color_digits(n_cells=3_000, side=16, seed=5)
    pd.testing.assert_frame_equal(small.obs, digits.obs)
    assert small.uns["image_shape"].tolist() == [3, 16, 16]
    thinned = digits.obsm["truth_stroke"].reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4))
    close = np.corrcoef(thinned.ravel(), small.obsm["truth_stroke"].ravel())[0, 1]
    assert close > 0.95


def test_what_is_written_does_not_depend_on_the_colours(digits):
    obs = digits.obs
    assert stats.chi2_contingency(pd.crosstab(obs["condition"], obs["digit"])).pvalue > 1e-3
    for name in ("slant", "thickness"):
        groups = [rows[name] for _, rows in obs.groupby("condition", observed=True)]
        assert stats.kruskal(*groups).pvalue > 1e-3
    train, test = (set(obs.loc[obs["split"] == name, "original"]) for name in ("train", "test"))
    assert not train & test
    assert (obs["split"] == "test").mean() == pytest.approx(0.2, abs=0.05)


def test_thicker_and_slanted_digits_are_that(digits):
    stroke = digits.obsm["truth_stroke"].reshape(-1, 32, 32)
    ink = stroke.sum(axis=(1, 2))
    assert stats.spearmanr(ink, digits.obs["thickness"]).statistic > 0.5
    rows, columns = np.mgrid[:32, :32] - 15.5
    weight = stroke / ink[:, None, None]
    centre = (weight * columns).sum(axis=(1, 2))[:, None, None]
    middle = (weight * rows).sum(axis=(1, 2))[:, None, None]
    lean = (weight * (rows - middle) * (columns - centre)).sum(axis=(1, 2))
    lean /= (weight * (rows - middle) ** 2).sum(axis=(1, 2))
    assert abs(stats.spearmanr(lean, digits.obs["slant"]).statistic) > 0.6


@pytest.mark.parametrize(
    "options", [{"n_cells": 8}, {"side": 11}, {"jitter": -0.1}, {"jitter": 0.2}]
)
def test_digits_outside_of_their_range_are_refused(options):
    with pytest.raises(OptionError, match="must be at least 9"):
        two_color_digits(**options)


def test_a_colored_digit_is_its_stroke_times_a_color_of_its_own_drawing():
    adata = noisy_colored_digits(n_cells=4_000, n_colors=4, noise=0.0, side=8, seed=3)
    images = adata.X.reshape(-1, *adata.uns["image_shape"])
    strokes = load_digits().images[adata.obs["original"]] / 16
    np.testing.assert_allclose(adata.obsm["truth_stroke"].reshape(-1, 8, 8), strokes, atol=1e-6)
    red = (adata.obs["condition"] == "red").to_numpy()
    np.testing.assert_allclose(images[red][:, 0], strokes[red], atol=1e-6)
    np.testing.assert_allclose(images[red][:, 1], 0.2 * strokes[red], atol=1e-6)
    table = pd.crosstab(adata.obs["digit"], adata.obs["condition"])
    assert chi2_contingency(table).pvalue > 1e-3  # colour and digit are drawn independently


def test_noise_of_colored_digits_is_as_asked_where_nothing_clips_it():
    clean, noisy = (noisy_colored_digits(n_cells=500, noise=n, seed=1) for n in (0.0, 0.05))
    inside = (clean.X > 0.2) & (clean.X < 0.8)
    np.testing.assert_allclose((noisy.X - clean.X)[inside].std(), 0.05, rtol=0.02)
    assert noisy.X.min() >= 0
    assert noisy.X.max() <= 1


def test_other_grey_digits_can_be_colored():
    grey = AnnData(np.eye(2, 9, dtype=np.float32), obs={"digit": ["7", "9"]})
    with pytest.raises(InputDataError, match="image_shape"):
        noisy_colored_digits(grey)
    grey.uns["image_shape"] = [1, 3, 3]
    adata = noisy_colored_digits(grey, n_cells=50, noise=0.0, side=6)
    assert set(adata.obs["digit"]) == {"7", "9"}
    assert adata.X.max() == 1
    for wrong in ({"n_colors": 1}, {"n_colors": 6}, {"noise": -0.1}, {"side": 2}, {"n_cells": 0}):
        with pytest.raises(OptionError, match="must be at least"):
            noisy_colored_digits(**wrong)
