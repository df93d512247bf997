import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scdisent import pl
from scdisent._errors import InputDataError, OptionError
from scdisent.effects import log_normalise
from scdisent.pl._conditions import dose_table, map_table

DOSES = (0.1, 1.0, 10.0)
KEYS = {"condition_key": "drug", "control": "none"}


@pytest.fixture(autouse=True)
def _nothing_global_changes():
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before
    plt.close("all")


@pytest.fixture
def dosed(rng):
    """One drug at three doses, which fills the first gene."""
    dose = np.repeat([0.0, *DOSES], 30)
    rates = np.tile(rng.gamma(2, 2, 12), (len(dose), 1))
    rates[:, 0] *= 1 + np.log1p(dose)
    obs = pd.DataFrame({"drug": np.where(dose == 0, "none", "drug"), "dose": dose})
    obs.loc[dose == 0, "dose"] = np.nan  # a control cell needs no dose
    obs.index = [f"cell{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[f"gene{i}" for i in range(12)])
    return AnnData(sparse.csr_matrix(rng.poisson(rates).astype(np.float32)), obs=obs, var=var)


def predicted_of(adata, name, *, dose=1.0, seen=True):
    cells = adata.copy()
    cells.obs["dose"], cells.obs["scdisent_seen"] = dose, seen
    cells.uns["scdisent"] = {"prediction": {"condition": name}}
    return cells


def test_means_and_errors_along_the_dose_are_those_of_pandas(dosed):
    said = predicted_of(dosed[dosed.obs["dose"] == 1.0], "drug", dose=3.0, seen=False)
    table = dose_table(dosed, ["gene3", "gene0"], dose_key="dose", predicted=said, **KEYS)
    values = pd.Series(np.asarray(log_normalise(dosed.X).todense())[:, 3])
    expected = values.groupby(dosed.obs["dose"].fillna(0).to_numpy()).agg(["mean", "sem"])
    own = table[(table["gene"] == "gene3") & (table["kind"] == "observed")]
    np.testing.assert_allclose(own[["mean", "error"]], expected)
    np.testing.assert_array_equal(own["dose"], [0, *DOSES])
    moved = table[(table["gene"] == "gene3") & (table["kind"] == "predicted")]
    assert moved["dose"].tolist() == [3.0]
    assert moved["mean"].iloc[0] == pytest.approx(expected["mean"][1.0])
    assert not moved["seen"].any()


def test_a_panel_a_gene_with_hollow_unseen_doses(dosed, tmp_path):
    said = [predicted_of(dosed, "drug", dose=d, seen=d != 3) for d in (1.0, 3.0)]
    drawn = pl.dose_response(
        dosed, ["gene0", "gene1"], dose_key="dose", predicted=said, **KEYS, save=tmp_path / "a.png"
    )
    assert [ax.get_title() for ax in drawn] == ["gene0", "gene1"]
    assert drawn[0].get_xscale() == "symlog"
    dots = [c for c in drawn[0].collections if len(c.get_offsets()) and len(c.get_facecolor())]
    assert (1, 1, 1, 1) in [tuple(c.get_facecolor()[0]) for c in dots]
    assert (tmp_path / "a.png").stat().st_size > 5_000
    single = pl.dose_response(dosed, "gene0", dose_key="dose", **KEYS)
    assert single.get_title() == "gene0"
    with pytest.raises(InputDataError, match="no gene 'ghost'"):
        pl.dose_response(dosed, "ghost", dose_key="dose", **KEYS)


@pytest.fixture
def three(rng):
    """Two drugs on genes of their own, and both together; all genes stand for the same share."""
    names, rows = ["none", "a", "b", "a+b"], []
    for name in names:
        rates = np.full((400, 40), 20.0)
        if "a" in name:
            rates[:, :4], rates[:, 20:24] = 60.0, 2.0
        if "b" in name:
            rates[:, 4:8], rates[:, 24:28] = 40.0, 6.0
        rows.append(rng.poisson(rates))
    obs = pd.DataFrame({"drug": np.repeat(names, 400)}, index=[f"c{i}" for i in range(1600)])
    return AnnData(np.concatenate(rows).astype(np.float32), obs=obs)


def test_a_map_has_the_control_as_origin_and_adds_up(three):
    table = map_table(three, **KEYS).set_index("condition")[["x", "y"]]
    np.testing.assert_allclose(table.loc["a+b"], table.loc["a"] + table.loc["b"], atol=1.0)
    assert np.linalg.norm(table.loc["a"]) > np.linalg.norm(table.loc["b"])
    whole = map_table(three, **KEYS).attrs["shares"]
    assert sum(whole) > 0.95  # two directions are all there are


def test_a_prediction_lies_where_its_cells_would_lie(three):
    observed = three[three.obs["drug"] == "a+b"]
    said = predicted_of(observed, "a+b")
    table = map_table(three, predicted=[said], **KEYS)
    own = table[table["condition"] == "a+b"].set_index("kind")[["x", "y"]]
    np.testing.assert_allclose(own.loc["observed"], own.loc["predicted"], rtol=1e-6)
    ax = pl.condition_map(three, predicted=said, **KEYS)
    assert {text.get_text() for text in ax.texts} == {"a", "b", "a+b"}
    with pytest.raises(InputDataError, match="at least two other conditions"):
        pl.condition_map(three[three.obs["drug"].isin(["none", "a"])], **KEYS)


def scores(**columns):
    rows = [
        {"method": method, "kind": kind, "metric": metric, "value": value}
        for method, kind, value in (("net", "prediction", 0.9), ("mean", "baseline", 0.5),
                                    ("half", "ceiling", 0.97))
        for metric in ("pearson_delta", "energy_distance")
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def test_scores_stand_at_their_values_and_the_ceiling_is_a_line():
    two = pd.concat([scores(fold=0), scores(fold=1).assign(value=lambda t: t["value"] - 0.2)])
    drawn = pl.benchmark(two, metrics=["pearson_delta", "energy_distance"])
    first = drawn[0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["net", "mean"]
    offsets = np.concatenate([c.get_offsets() for c in first.collections])
    assert any(np.allclose(point, (0.8, 0)) for point in offsets)  # the mean of both folds
    assert first.texts[0].xy[0] == pytest.approx(0.87)
    assert "→" in first.get_xlabel()
    assert "←" in drawn[1].get_xlabel()
    with pytest.raises(InputDataError, match="no metric 'mmd'"):
        pl.benchmark(scores(), metrics=["mmd"])
    with pytest.raises(InputDataError, match="no column 'kind'"):
        pl.benchmark(scores().drop(columns="kind"))


def test_predictions_of_some_genes_are_compared_on_these_genes(three):
    some = three[:, :30].copy()
    said = predicted_of(some[some.obs["drug"] == "none"], "nothing")
    table = map_table(three, predicted=said, **KEYS)
    nothing = table[table["condition"] == "nothing"]
    np.testing.assert_allclose(nothing[["x", "y"]], 0, atol=1e-9)


def test_doses_are_drawn_on_the_genes_that_were_predicted(dosed):
    some = dosed[:, 2:].copy()
    still = predicted_of(some[some.obs["drug"] == "none"], "nothing", dose=0.5)
    table = dose_table(dosed, ["gene3"], dose_key="dose", predicted=still, **KEYS)
    at = table.set_index(["kind", "dose"])["mean"]
    assert at["predicted", 0.5] == pytest.approx(at["observed", 0.0])
    with pytest.raises(InputDataError, match="predicted cells have no gene 'gene0'"):
        dose_table(dosed, ["gene0"], dose_key="dose", predicted=still, **KEYS)


def test_doses_of_several_drugs_are_not_pooled(dosed):
    two = dosed.copy()
    two.obs["drug"] = np.where(np.arange(two.n_obs) % 2, two.obs["drug"], "other")
    with pytest.raises(InputDataError, match="doses of several conditions"):
        pl.dose_response(two, "gene0", dose_key="dose", **KEYS)


def test_values_and_levels_of_maps_and_doses_are_those_that_embed_stored(dosed, three):
    for adata, table in (
        (dosed, lambda x, **more: dose_table(x, ["gene0"], dose_key="dose", **KEYS, **more)),
        (three, lambda x, **more: map_table(x, **KEYS, **more)),
    ):
        expected = table(adata)
        logs = adata.copy()
        logs.layers["counts"], logs.X = adata.X.copy(), log_normalise(adata.X)
        with pytest.raises(InputDataError, match="is read as counts"):
            table(logs)
        pd.testing.assert_frame_equal(table(logs, is_counts=False), expected)
        logs.uns["scdisent"] = {"embed": {"layer": "counts", "likelihood": "nb"}}
        pd.testing.assert_frame_equal(table(logs), expected)
        logs.uns["scdisent"] = {"embed": {"layer": "", "likelihood": "normal"}}
        pd.testing.assert_frame_equal(table(logs), expected)


def test_a_map_takes_a_control_called_0_and_each_dose_for_a_condition(three, dosed):
    expected = map_table(three, **KEYS)
    codes = {"none": 0, "a": 1, "b": 2, "a+b": 3}
    three.obs["code"] = three.obs["drug"].astype(str).map(codes)
    three.uns["scdisent"] = {"embed": {"control": "1", "condition_key": "code"}}
    ax = pl.condition_map(three, control=0)
    assert {text.get_text() for text in ax.texts} == {"1", "2", "3"}
    found = map_table(three, condition_key="code", control="0")
    np.testing.assert_allclose(found[["x", "y"]], expected[["x", "y"]])
    names = set(map_table(dosed, **KEYS, dose_key="dose")["condition"])
    assert names == {"drug@0.1", "drug@1", "drug@10"}


def test_what_cannot_be_drawn_is_refused_in_plain_words(three, dosed):
    dose = {"dose_key": "dose", **KEYS}
    with pytest.raises(OptionError, match="genes names no gene"):
        pl.dose_response(dosed, [], **dose)
    with pytest.raises(OptionError, match="predicted holds no predictions"):
        pl.dose_response(dosed, "gene0", predicted=[], **dose)
    with pytest.raises(OptionError, match="predicted holds no predictions"):
        pl.condition_map(three, predicted=[], **KEYS)
    with pytest.raises(OptionError, match="no column 'dosis'"):
        pl.dose_response(dosed, "gene0", **{**dose, "dose_key": "dosis"})
    with pytest.raises(InputDataError, match="at least two genes"):
        pl.condition_map(three[:, :1].copy(), **KEYS)
    dosed.obs["dose"] = np.nan
    with pytest.raises(InputDataError, match="is missing in 90 cells"):
        pl.dose_response(dosed, "gene0", **dose)
    three.obs["drug"] = three.obs["drug"].where(three.obs["drug"] != "a")
    with pytest.raises(InputDataError, match=r"obs\['drug'\] is missing in 400 of 1,600"):
        pl.condition_map(three, **KEYS)
