"""CG-VAE: what the condition moves, where it goes, and what each latent touches."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import read_h5ad

import scdisent
from scdisent import metrics, pl, tl
from scdisent._errors import InputDataError, OptionError, ScDisentWarning, SetupError
from scdisent.datasets import simulate_domains, true_domain_features

TRAIN = {"batch_size": 256, "train_size": 1.0, "keep_best": False, "enable_progress_bar": False}
DOSES = [0, 0.2, 0.4, 0.6, 0.8, 1]
TABLE = pd.DataFrame({"dose": DOSES}, index=[f"dose_{dose:g}" for dose in DOSES])


def fit(adata, *, epochs, seed=0, setup=None, **options):
    scdisent.setup_anndata(adata, condition_key="condition", **(setup or {}))
    model = scdisent.CGVAE(adata, likelihood="normal", n_hidden=64, seed=seed, **options)
    model.train(epochs, seed=seed, **TRAIN)
    return model


@pytest.fixture(scope="module")
def gated():
    """Four latents of which the last two change, and a model that does not know which."""
    adata = simulate_domains("s_a", n_cells=6_000, n_domains=6, n_changing=2, seed=11)
    return adata, fit(adata, epochs=30, n_latent=4)


@pytest.fixture(scope="module")
def dosed():
    """Cells at five doses; the sixth was left out."""
    adata = simulate_domains("s_dose", n_cells=4_000, seed=11)
    seen = adata[adata.obs["condition"] != "dose_0.6"].copy()
    seen.obs["condition"] = seen.obs["condition"].cat.remove_unused_categories()
    table = {"control": "dose_0", "condition_table": TABLE}
    model = fit(seen, epochs=40, n_latent=2, n_specific=2, setup=table, weights={"sparsity": 0.03})
    return seen, model


def test_gates_find_how_many_latents_the_condition_moves_and_which(gated):
    adata, model = gated
    assert model.module.n_latents == {"invariant": 2, "specific": 2}
    content, style = (
        model.get_latent_representation(representation=name) for name in ("invariant", "specific")
    )
    factors = adata.obsm["truth_factors"]
    assert metrics.block_r2(style, factors[:, 2:]) > 0.9
    assert metrics.block_r2(content, factors[:, :2]) > 0.9
    assert metrics.block_r2(content, factors[:, 2:]) < 0.1  # the leak


def test_without_a_penalty_no_gate_closes_and_with_a_large_one_all_do():
    adata = simulate_domains("s_a", n_cells=2_000, n_domains=4, n_changing=2, seed=1)
    with pytest.warns(ScDisentWarning, match="All gates are open"):
        open_model = fit(adata, epochs=15, n_latent=4, weights={"gate": 0.0})
    assert open_model.representations == ("specific",)
    assert open_model.get_latent_representation().shape == (2_000, 4)
    with pytest.raises(OptionError, match="invariant block is empty: training left 4 of 4 gates"):
        open_model.get_latent_representation(representation="invariant")
    with pytest.warns(ScDisentWarning, match="All gates are closed"):
        closed = fit(adata, epochs=15, n_latent=4, weights={"gate": 1e4})
    assert closed.representations == ("invariant",)
    source = adata[adata.obs["condition"] == "u0"]
    same = closed.predict(source, condition="u1", kind="mean").X
    np.testing.assert_allclose(same, source.X, atol=1e-5)  # nothing is known to change
    assert closed.get_latent_representation(representation="full").shape == (2_000, 4)


def test_an_unseen_dose_is_predicted_cell_by_cell_better_than_by_a_shift(dosed):
    seen, model = dosed
    source = seen[seen.obs["condition"] == "dose_0"]
    predicted = model.predict(source, condition="dose_0.6", kind="mean")
    truth = true_domain_features(source, "dose_0.6")
    means = seen.to_df().groupby(seen.obs["condition"].to_numpy()).mean()
    shift = means.loc[["dose_0.4", "dose_0.8"]].mean() - means.loc["dose_0"]

    def r2(values):
        return 1 - ((values - truth) ** 2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum()

    assert r2(predicted.X) > 0.9
    assert r2(predicted.X) > r2(source.X + shift.to_numpy()) + 0.02
    assert not predicted.obs["scdisent_seen"].any()
    assert (predicted.obs["condition"] == "dose_0.6").all()
    assert predicted.uns["scdisent"]["prediction"]["code_distance"] > 0
    assert predicted.obs["scdisent_support"].between(0, 1).all()
    again = model.predict(source, condition="dose_0.4", kind="mean")
    assert again.obs["scdisent_seen"].all()
    assert again.uns["scdisent"]["prediction"]["code_distance"] == 0


def test_dose_zero_of_an_unseen_name_is_the_control(dosed):
    seen, model = dosed
    table = model.condition_table.with_rows(pd.DataFrame({"dose": [0.0]}, index=["nothing"]))
    source = seen[seen.obs["condition"] == "dose_1"].copy()
    setup = {"condition_key": "condition", "control": "dose_0", "condition_table": table}
    cells = seen.copy()
    scdisent.setup_anndata(cells, **setup)
    other = scdisent.CGVAE(cells, likelihood="normal", n_latent=2, n_specific=2, n_hidden=64)
    other.train(1, **TRAIN)
    values = [
        other.predict(source, condition=name, kind="mean").X for name in ("nothing", "dose_0")
    ]
    np.testing.assert_allclose(*values, atol=1e-5)


def test_there_and_back_is_the_same_cell(dosed):
    _, model = dosed
    w = torch.from_numpy(model.get_latent_representation(representation="specific")).double()
    flow = model.module.latents.flow

    def move(values, here, there):
        noise = flow.to_noise(here.expand(len(values), -1, -1))(values)
        return flow.to_noise(there.expand(len(values), -1, -1)).inv(noise)

    with torch.inference_mode():
        here, there = (model._transfer_to(name, None).there for name in ("dose_0.2", "dose_1"))
        moved = move(w, here, there)
        back = move(moved, there, here)
    assert (moved - w).abs().max() > 0.5
    assert torch.equal(moved.argsort(dim=0), w.argsort(dim=0))
    torch.testing.assert_close(back, w, rtol=0, atol=1e-10)


def test_a_saved_model_predicts_the_same_unseen_dose(dosed, tmp_path):
    seen, model = dosed
    source = seen[seen.obs["condition"] == "dose_0"]
    before = model.predict(source, condition="dose_0.6", seed=1)
    model.save(tmp_path / "model")
    loaded = scdisent.CGVAE.load(tmp_path / "model")
    after = loaded.predict(source, condition="dose_0.6", seed=1)
    np.testing.assert_array_equal(before.X, after.X)
    np.testing.assert_array_equal(
        model.get_latent_representation(), loaded.get_latent_representation(seen)
    )
    assert repr(loaded.condition_table) == repr(model.condition_table)


def test_an_index_code_refuses_unseen_conditions_and_names_the_alternative(gated):
    _, model = gated
    with pytest.raises(OptionError, match=r"'u9' was not in training.*condition_code='covariates'"):
        model.predict(condition="u9")


def test_a_condition_without_a_row_is_refused_at_setup_and_at_prediction(dosed):
    seen, model = dosed
    with pytest.raises(OptionError, match="no row for 'dose_7'"):
        model.predict(seen[:5], condition="dose_7")
    cells = seen.copy()
    short = TABLE.drop(index="dose_0.2")
    with pytest.raises(OptionError, match=r"no row for 'dose_0\.2'"):
        scdisent.setup_anndata(cells, condition_key="condition", condition_table=short)
    negative = {"condition_key": "condition", "condition_table": -TABLE}
    with pytest.raises(InputDataError, match="negative"):
        scdisent.setup_anndata(cells, **negative)


def test_options_that_cannot_work_say_what_is_missing(gated):
    adata, model = gated
    with pytest.raises(SetupError, match="condition_table="):
        scdisent.CGVAE(adata, likelihood="normal", condition_code="covariates")
    with pytest.raises(OptionError, match="labels_key="):
        scdisent.CGVAE(adata, likelihood="normal", content_prior="label")
    with pytest.raises(OptionError, match="Choose one of: 'standard', 'affine', 'spline'"):
        scdisent.CGVAE(adata, likelihood="normal", prior="autoregressive")
    with pytest.raises(OptionError, match="'transport'"):
        model.predict(condition="u1", transfer="swap")
    plain = scdisent.CGVAE(adata, likelihood="normal", prior="standard", n_hidden=8)
    plain.train(1, **TRAIN)
    with pytest.raises(OptionError, match="knows no conditions"):
        plain.predict(condition="u1")


def test_a_sparser_decoder_touches_fewer_features():
    adata = simulate_domains("s_a", n_cells=3_000, n_domains=5, seed=3)
    found = {}
    for weight in (0.0, 0.1):
        model = fit(adata, epochs=25, n_latent=0, n_specific=4, weights={"sparsity": weight})
        codes = model.get_latent_representation(representation="full")
        found[weight] = metrics.support_f1(
            model.get_programmes().T,
            adata.varm["truth_parents"].T,
            codes=codes,
            factors=adata.obsm["truth_factors"],
        )
        assert 0.3 < codes.std(axis=0).mean() < 3  # the penalty is not met by inflation
    assert found[0.1] > found[0.0] + 0.03


def test_programmes_are_the_change_of_the_decoder_for_one_sd(gated, tmp_path):
    adata, model = gated
    table = tl.programmes(adata, model, n_top=3)
    loadings = adata.varm["scdisent_programmes"]
    codes = model.get_latent_representation(representation="full")
    step = 1e-2
    for latent, name in enumerate(loadings.columns):
        moved = codes.copy()
        moved[:, latent] += step
        change = np.abs(model.decode(moved) - model.decode(codes)).mean(axis=0) / step
        expected = change * codes[:, latent].std()
        np.testing.assert_allclose(loadings[name], expected, rtol=0.1, atol=0.02)
        assert table.loc[name, "top_genes"].split(", ")[0] == loadings[name].idxmax()
    ax = pl.programmes(adata, show=False)
    assert [text.get_text() for text in ax.get_yticklabels()] == list(
        table.sort_values(["block", "kl"], ascending=[True, False]).index
    )
    plt.close(ax.figure)
    adata.write_h5ad(tmp_path / "out.h5ad")
    back = read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(back.varm["scdisent_programmes"], loadings)
    with pytest.raises(OptionError, match="no programmes"):
        tl.programmes(adata, object())


@pytest.mark.parametrize("prior", ["affine", "spline"])
def test_transport_needs_no_cell_types_even_if_the_prior_does(kit, prior):
    adata = kit.ready("normal")
    options = {"likelihood": "normal", "content_prior": "label", "prior": prior}
    model = kit.trained(scdisent.CGVAE, adata, **options)
    assert len(model.module.labels.weight) == adata.obs["cell_type"].nunique()
    assert np.isfinite(model.get_reconstruction_error()["nll_joint"])
    source = adata[adata.obs["condition"] == "control"]
    bare = source.copy()
    del bare.obs["cell_type"]
    values = [model.predict(cells, condition="stimulated", seed=0).X for cells in (source, bare)]
    np.testing.assert_array_equal(*values)


def test_new_cells_have_the_law_of_real_ones_and_share_their_noise(dosed):
    seen, model = dosed
    drawn = {name: model.sample(3_000, condition=name, seed=5) for name in ("dose_0", "dose_1")}
    for name, cells in drawn.items():
        real = seen[seen.obs["condition"] == name].X
        np.testing.assert_allclose(cells.X.mean(axis=0), real.mean(axis=0), atol=0.25)
        assert np.corrcoef(cells.X.std(axis=0), real.std(axis=0))[0, 1] > 0.8
    np.testing.assert_array_equal(
        drawn["dose_1"].X, model.sample(3_000, condition="dose_1", seed=5).X
    )
    means = [model.sample(500, condition=n, kind="mean", seed=5).X for n in ("dose_0", "dose_1")]
    moved = model.sample(500, condition="dose_0.6", kind="mean", seed=5)
    assert not moved.obs["scdisent_seen"].any()
    between = np.abs(moved.X - means[0]).mean() + np.abs(moved.X - means[1]).mean()
    assert between < 1.6 * np.abs(means[1] - means[0]).mean()  # one noise: the same cells between
    with pytest.raises(OptionError, match="n_cells=0"):
        model.sample(0, condition="dose_0")


@pytest.fixture(scope="module")
def idle():
    """Two factors of which the condition moves one; five latents with gates."""
    adata = simulate_domains("s_a", n_cells=3_000, n_domains=4, n_changing=1, seed=12)
    adata = adata[
        :, [0, 3]
    ].copy()  # the features of one factor that changes, and one that does not
    options = {"epochs": 30, "n_latent": 5, "weights": {"sparsity": 0.0}}
    return adata, fit(adata, min_information=0.0, **options), fit(adata, **options)


def test_content_that_says_nothing_is_switched_off(idle):
    """Idle latents are near 0, but not exactly."""
    adata, kept, pruned = idle
    every, content = (model.get_latent_representation() for model in (kept, pruned))
    used = pruned.module.latents.in_use[kept.module.latents.is_content].numpy()
    assert 1 <= used.sum() < len(used)
    np.testing.assert_allclose(content, every[:, used])
    assert every[:, ~used].std(axis=0).max() < 0.3
    assert metrics.block_r2(content, adata.obsm["truth_factors"][:, :1]) > 0.9
    x, y = (model.get_normalized_expression(return_numpy=True) for model in (kept, pruned))
    np.testing.assert_allclose(x, y, atol=0.3)
    names = [f"invariant_{i}" for i in range(content.shape[1])]
    assert [name for name in pruned.get_programmes() if name.startswith("inv")] == names


def test_blocks_of_a_given_size_stay_as_they_are():
    adata = simulate_domains("s_a", n_cells=300, n_domains=2, seed=12)
    model = fit(adata, epochs=1, n_latent=5, n_specific=1)
    assert model.get_latent_representation().shape == (300, 5)


def test_idle_content_of_a_given_size_is_switched_off_on_request(idle):
    adata = idle[0]
    model = fit(
        adata, epochs=20, n_latent=4, n_specific=1, weights={"sparsity": 0.0}, min_information=0.03
    )
    assert 1 <= model.get_latent_representation().shape[1] < 4


@pytest.mark.parametrize("representation", ["specific", "full"])
def test_no_code_needs_the_condition_of_a_cell(gated, representation):
    adata, model = gated
    bare = adata[:20].copy()
    del bare.obs["condition"]
    np.testing.assert_array_equal(
        model.get_latent_representation(bare, representation=representation),
        model.get_latent_representation(adata[:20], representation=representation),
    )


def test_the_largest_latent_is_never_switched_off():
    from scdisent.nn import MovedLatents

    latents = MovedLatents(3, 2, n_conditions=2, flow="affine", gated=False)
    latents.switch_off(torch.tensor([1e-4, 3e-4, 2e-4, 0.0, 1e-5]), below=0.03)
    assert latents.in_use.tolist() == [False, True, False, True, True]
    codes = torch.tensor([[1.0, 2.0, 3.0]])
    assert latents.arranged(codes).tolist() == [[0.0, 1.0, 0.0, 2.0, 3.0]]
    latents.switch_off(torch.ones(5), below=0.03)
    assert latents.in_use.all()


def test_the_discrepancy_of_content_falls_with_its_weight():
    """A factor that the condition moves, and only content to hold it."""
    adata = simulate_domains("s_a", n_cells=3_000, n_domains=2, n_changing=1, seed=13)
    leaks = []
    for weight in (0.0, 100.0):
        model = fit(adata, epochs=15, n_latent=4, n_specific=1, weights={"mmd": weight})
        content = model.get_latent_representation(representation="invariant")
        leaks.append(metrics.leakage(content, adata.obs["condition"], seed=0).auroc)
    assert leaks[1] < leaks[0] - 0.1


def test_where_the_law_of_content_lies_does_not_count_as_information(idle):
    adata, kept, _ = idle
    tl.embed(adata, kept)
    mean, variance = kept.get_latent_representation(representation="full", return_dist=True)
    expected = np.log(mean.var(axis=0) + variance.mean(axis=0)) - np.log(variance).mean(axis=0)
    np.testing.assert_allclose(
        tl.programmes(adata, kept, max_cells=3_000)["kl"], expected / 2, rtol=1e-3, atol=1e-5
    )
