"""DISCoVeR recovers planted truth over three seeds (slow; `make science`)."""

import numpy as np
import pytest

import scdisent
from scdisent import metrics as sm
from scdisent.benchmarks import _toy as toy
from scdisent.datasets import simulate_conditions, true_rates

pytestmark = pytest.mark.science
SEEDS = (0, 1, 2)


def fitted(adata, *, seed, **options):
    scdisent.setup_anndata(
        adata,
        condition_key="condition",
        control="control",
        labels_key="cell_type",
        sample_key="donor",
    )
    model = scdisent.DISCoVeR(adata, seed=seed, **options)
    model.train(seed=seed, enable_progress_bar=False)
    return model


@pytest.fixture(scope="module", params=SEEDS)
def balanced(request):
    adata = simulate_conditions(seed=10 + request.param)
    return adata, fitted(adata, seed=request.param)


def labels(adata):
    columns = ("condition", "cell_type", "donor")
    return tuple(adata.obs[column].astype(str).to_numpy() for column in columns)


def test_the_condition_can_not_be_read_from_z_and_types_can(balanced):
    adata, model = balanced
    condition, cell_type, donor = labels(adata)
    z = model.get_latent_representation()
    leak = sm.leakage(z, condition, groups=donor, within=cell_type)
    assert leak.balanced_accuracy <= 0.55
    assert leak.by_group["auroc"].max() <= 0.60
    assert sm.label_recovery(z, cell_type, groups=donor) >= 0.98


def test_shared_factors_stay_in_z_and_the_condition_is_in_w(balanced):
    adata, model = balanced
    condition, cell_type, donor = labels(adata)
    w = model.get_latent_representation(representation="specific")
    assert sm.label_recovery(w, condition, groups=donor) >= 0.95
    z = model.get_latent_representation()
    design = np.column_stack([z, np.ones(len(z))])
    truth = adata.obsm["truth_factors"]
    residual = truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]
    assert 1 - residual.var(0).sum() / truth.var(0).sum() >= 0.5


def test_counterfactual_means_follow_the_true_rates(balanced):
    adata, model = balanced
    control = adata[adata.obs["condition"] == "control"]
    predicted = model.predict(control, condition="stimulated", kind="mean")
    before, after = (true_rates(control, name).mean(0) for name in ("control", "stimulated"))
    source = np.asarray(control.X.mean(0)).ravel()
    expected, found = (
        np.log1p(after) - np.log1p(before),
        np.log1p(predicted.X.mean(0)) - np.log1p(source),
    )
    assert np.corrcoef(expected, found)[0, 1] >= 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_composition_shift_is_no_reason_to_give_up_types(seed):
    adata = simulate_conditions(composition_shift=0.7, seed=20 + seed)
    z = fitted(adata, seed=seed).get_latent_representation()
    condition, cell_type, donor = labels(adata)
    leak = sm.leakage(z, condition, groups=donor, within=cell_type)
    alone = sm.composition_baseline(condition, cell_type, groups=donor)
    assert leak.balanced_accuracy <= alone.balanced_accuracy + 0.02
    assert leak.by_group["auroc"].max() <= 0.60
    assert sm.label_recovery(z, cell_type, groups=donor) >= 0.98


def test_without_adversary_and_penalty_the_condition_is_plain_to_see():
    adata = simulate_conditions(seed=30)
    z = fitted(adata, seed=0, weights={"adversary": 0, "mmd": 0}).get_latent_representation()
    condition, _, donor = labels(adata)
    assert sm.leakage(z, condition, groups=donor).balanced_accuracy > 0.7


@pytest.mark.parametrize("seed", SEEDS)
def test_the_toy_reaches_the_published_likelihood(seed):
    found = toy.run_toy(seed)
    assert found["nll_matched"] <= 1.769
    assert found["nll_marginal"] + 0.02 >= toy.FLOOR
