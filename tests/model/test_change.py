"""Changes of the mean with intervals: what they hold, and how often."""

import numpy as np
import pandas as pd
import pytest

import scdisent
from scdisent import effects as ef
from scdisent._errors import OptionError
from scdisent.datasets import simulate_conditions

SETUP = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}


def hidden_type(seed):
    """Cells without the treated ones of one type, and that type's control and treated cells."""
    adata = simulate_conditions(n_cells=5_000, n_genes=150, n_types=6, seed=seed)
    own = adata.obs["cell_type"] == adata.obs["cell_type"].cat.categories[0]
    treated = adata.obs["condition"] == "stimulated"
    return adata[~(own & treated)].copy(), adata[own & ~treated].copy(), adata[own & treated].copy()


def shift_of(train, **setup):
    scdisent.setup_anndata(train, **{**SETUP, **setup})
    model = scdisent.ShiftModel(train)
    model.train()
    return model


def mean_of(adata):
    return np.asarray(ef.log_normalise(adata.X).mean(axis=0)).ravel()


def test_nine_in_ten_intervals_hold_the_change_of_a_type_not_seen():
    inside = []
    for seed in range(6):
        train, source, truth = hidden_type(seed)
        table = shift_of(train).predict_change(source, condition="stimulated", seed=0)
        change = mean_of(truth) - mean_of(source)
        inside.append(((table["low"] <= change) & (change <= table["high"])).mean())
    assert 0.85 < np.mean(inside) < 0.95


def test_nine_in_ten_intervals_hold_the_change_at_a_dose_not_seen():
    inside = []
    for seed in range(6):
        doses = (0.1, 0.25, 0.5, 0.75, 1.0)
        adata = simulate_conditions(n_cells=5_000, n_genes=150, n_types=3, doses=doses, seed=seed)
        hidden = (
            (adata.obs["condition"] != "control") & np.isclose(adata.obs["dose"], 0.5)
        ).to_numpy()
        model = shift_of(adata[~hidden].copy(), dose_key="dose")
        source = adata[adata.obs["condition"] == "control"].copy()
        table = model.predict_change(source, condition="stimulated", dose=0.5, seed=0)
        for name, rows in table.groupby("cell_type"):
            one, other = (x[x.obs["cell_type"] == name] for x in (adata[hidden], source))
            change = mean_of(one) - mean_of(other)
            inside.append(((rows["low"] <= change) & (change <= rows["high"])).mean())
    assert 0.85 < np.mean(inside) < 0.95


def test_the_change_is_that_of_the_predicted_cells_by_type():
    train, source, _ = hidden_type(0)
    model = shift_of(train)
    cells = train[train.obs["condition"] == "control"].copy()
    table = model.predict_change(cells, condition="stimulated", seed=1, n_samples=2)
    found = model.predict(cells, condition="stimulated", seed=1, n_samples=2)
    for name, rows in table.groupby("cell_type"):
        own = [x[x.obs["cell_type"] == name] for x in (found, cells)]
        np.testing.assert_allclose(rows["change"], mean_of(own[0]) - mean_of(own[1]), atol=1e-6)
    hidden = source.obs["cell_type"].iloc[0]
    assert table.loc[hidden, "low"].notna().all()
    seen = table.drop(index=hidden, level="cell_type")
    assert seen["low"].isna().all()  # training saw the answer
    some = model.predict_change(cells, condition="stimulated", indices=np.arange(50), seed=1)
    assert set(some.index.levels[0]) <= set(table.index.levels[0])


def test_wider_levels_are_wider_and_scale_with_the_errors(rng):
    gaps = rng.normal(0, [1.0] * 30 + [3.0] * 30, (8, 60))
    widths = [ef.half_width(gaps, level=level) for level in (0.5, 0.9, 0.99)]
    assert (widths[0] < widths[1]).all()
    assert (widths[1] < widths[2]).all()
    np.testing.assert_allclose(ef.half_width(10 * gaps, level=0.9), 10 * widths[1])
    assert widths[1][30:].mean() > 2 * widths[1][:30].mean()
    assert np.isnan(ef.half_width(gaps[:1], level=0.9)).all()


def test_conditions_are_compared_with_their_kind():
    table = scdisent.ConditionTable(pd.DataFrame({"drug": ["a", "b"]}, index=["a", "b"]))
    known = ["a@1", "a@2", "a@4", "b@1"]
    for name, kind in (("a@3", "dose between"), ("a@8", "dose beyond"), ("a@1+b@1", "additive")):
        assert ef._conditions.kind_of(name, known, table=table, control="control") == kind
    means = np.zeros((2, 5, 3))
    effects = ef.EffectTable(("x", "y"), ("control", *known), "control", means, np.ones((2, 5)))
    # Of the seen doses of a, 1 (from zero) and 2 lie between others; so does b@1 not.
    assert len(ef.gaps_of_conditions(effects, "a@3", conditions=table)) == 4
    assert len(ef.gaps_of_conditions(effects, "a@1+b@1", conditions=table)) == 0


def test_an_interval_is_of_the_question_that_was_asked():
    train, _, truth = hidden_type(0)
    model = shift_of(train)
    back = model.predict_change(truth, condition="control", seed=0)
    width = back["high"] - back["low"]
    group = truth.obs["cell_type"].iloc[0]
    gaps = ef.gaps_of_groups(model.effects_, "control", reference="stimulated")
    assert width.isna().all() or np.allclose(width, 2 * ef.half_width(gaps, level=0.9))
    assert not (width == 0).any()
    mixed = model.predict_change(train, condition="control", allow_reconstruction=True, seed=0)
    assert mixed["low"].isna().all()  # from two conditions at once
    assert group in back.index.levels[0]


def test_misuse_is_refused():
    train, source, _ = hidden_type(0)
    with pytest.raises(OptionError, match="level=90 must lie between 0 and 1"):
        shift_of(train).predict_change(source, condition="stimulated", level=90)
