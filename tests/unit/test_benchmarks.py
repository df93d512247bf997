"""The machinery of the benchmarks: rows go on where they stopped, questions are put to all."""

import importlib

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scdisent
from scdisent import effects as ef
from scdisent import metrics as sm
from scdisent import splits
from scdisent.benchmarks import _peers, _response_page, _response_targets
from scdisent.benchmarks import _response as response
from scdisent.benchmarks._grid import run_grid
from scdisent.benchmarks._peers import NEEDS, PEERS
from scdisent.benchmarks._separation import agreement_with_reference
from scdisent.benchmarks._unseen import WORLDS, World
from scdisent.datasets import simulate_conditions

WORK = """
def square(task):
    return [{"number": task[0], "square": task[0] ** 2}]

def fail_at_three(task):
    assert task[0] != 3, "killed"
    return square(task)
"""


def test_a_killed_grid_goes_on_to_the_same_table(tmp_path, monkeypatch):
    (tmp_path / "grid_work.py").write_text(WORK)  # other processes have to find it
    monkeypatch.syspath_prepend(tmp_path)
    work = importlib.import_module("grid_work")
    tasks = [(i,) for i in range(5)]
    whole = run_grid(tmp_path / "whole.csv", tasks, work.square, n_processes=1)
    with pytest.raises(AssertionError, match="killed"):
        run_grid(tmp_path / "part.csv", tasks, work.fail_at_three, n_processes=1)
    assert pd.read_csv(tmp_path / "part.csv")["number"].tolist() == [0, 1, 2]
    run_grid(tmp_path / "part.csv", tasks, work.square, n_processes=1)
    first, second = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("whole", "part"))
    pd.testing.assert_frame_equal(first, second)
    assert whole["square"].tolist() == [0, 1, 4, 9, 16]


SMALL = {"n_cells": 600, "n_genes": 40, "n_types": 3, "shared_effect_genes": 12}


@pytest.fixture
def small_world(monkeypatch):
    """Two treatments and their pair, of which the pair is hidden."""
    real = WORLDS["simulated pairs"]
    options = {**SMALL, "conditions": ("control", "a", "b"), "combinations": True}
    world = World(
        lambda seed: simulate_conditions(**options, seed=seed),
        real.split,
        real.setup,
        "small",
        table=real.table,
        networks=("DISCoVeR", "CG-VAE"),
    )
    monkeypatch.setitem(WORLDS, "small", world)
    return world


def test_every_method_is_asked_the_same_questions_beside_its_baselines(small_world):
    tasks = response.tasks(("small",), seeds=(0,))
    assert tasks == [("small", "a+b", method, 0) for method in ("shift", "DISCoVeR", "CG-VAE")]
    table = pd.DataFrame(response.run_task(tasks[0])).set_index("method")
    assert {"auto, counts", "additive", "mean", "no change"} < set(table.index)
    assert "dose" not in table.index  # a recipe that has no answer
    assert table.loc["additive", "r2_delta_weighted"] > 0.5
    assert abs(table.loc["no change", "pearson_delta"]) < 1e-9
    page = _response_page.write_page(table.reset_index().assign(world="simulated pairs"), "here")
    assert "1 questions, seeds [0]" in page


def scored(values):
    """Rows of the response benchmark: ``(kind, method)`` to a value for each question."""
    names = ("pearson_delta", "pearson_delta_top", "energy_distance", "r2_variance_top")
    return pd.DataFrame(
        {
            **{"split": f"s{i}", "group": "g", "condition": "c", "seed": 0},
            **{"kind": kind, "method": method, **dict.fromkeys(names, value)},
        }
        for (kind, method), of_questions in values.items()
        for i, value in enumerate(of_questions)
    )


def test_a_latent_without_a_match_counts_as_no_agreement(rng):
    codes = rng.standard_normal((500, 3))
    surplus = np.c_[codes, rng.standard_normal((500, 3))]
    same = sm.gas([codes, -codes])
    more = sm.gas([codes, codes, surplus], informative=[np.ones(3)] * 2 + [np.ones(6)])
    for aligned, expected in ((same, 1.0), (more, 0.5)):
        run = len(aligned.n_latent) - 1 if aligned.reference == 0 else 0
        assert agreement_with_reference(aligned, run) == pytest.approx(expected, abs=0.03)


def test_a_lead_is_counted_and_has_an_interval_over_questions():
    ours = [0.5 + 0.1 * (i > 1) for i in range(8)]
    rows = scored({("prediction", "DISCoVeR"): ours, ("baseline", "mean"): [0.55] * 8})
    found = _response_page._ahead(rows)[-1]
    assert "| mean | 6 of 8; +0.025" in found
    assert "2 of 8; -0.025" in found  # of a distance, where smaller is better


def test_a_donor_whose_name_is_a_number_is_one_donor():
    kinds = {("ceiling", "half"): [0.9], ("baseline", "mean"): [0.5]}
    rows = scored({("prediction", "DISCoVeR"): [0.6], **kinds})
    rows = rows.assign(world="kang donors", coverage=np.nan)
    read = pd.concat([rows.assign(split="101"), rows.assign(split=101, seed=1)])
    assert "1 questions, seeds [0, 1]" in _response_page.write_page(read, "here")


def test_a_network_is_held_against_closed_forms_that_make_counts_too():
    ours = {("prediction", "DISCoVeR"): [0.6] * 4, ("prediction", "auto, counts"): [0.5] * 4}
    title, _, found = _response_page._ahead(scored(ours))
    assert title.startswith("\n| DISCoVeR: ahead of |")
    assert found.startswith("| auto, counts | 4 of 4; +0.100")
    assert _response_page._ahead(scored({("baseline", "mean"): [0.5] * 4})) == []


def test_a_network_is_placed_between_the_best_arithmetic_and_the_ceiling():
    values = {("ceiling", "half"): [0.9] * 4, ("prediction", "scVI"): [0.2, 0.4] * 2}
    values |= {("baseline", "mean"): [0.5] * 4, ("prediction", "auto, counts"): [0.4, 0.8] * 2}
    values |= {("prediction", "DISCoVeR"): [0.5, 1.0] * 2, ("baseline", "no change"): [0.7] * 4}
    assert _response_page._normalised(scored(values))[2:] == [
        "| DISCoVeR | 0.50 | 0.50 | no room | 0.50 |",
        "| scVI | -1.00 | -1.00 | no room | -1.00 |",
    ]


def test_methods_with_the_same_numbers_share_a_row():
    values = {"ridge": 0.5, "weighted": 0.4, "mean": 0.5}
    closed = {("baseline", name): [value] * 4 for name, value in values.items()}
    rows = scored({("ceiling", "half"): [0.9] * 4, ("prediction", "DISCoVeR"): [0.6] * 4, **closed})
    page = _response_page.write_page(rows.assign(world="kang types", coverage=np.nan), "here")
    assert "| ridge, mean | 0.500 |" in page
    assert "| weighted | 0.400 |" in page
    assert "| ridge, mean | 4 of 4; +0.100" in page


def test_targets_say_what_was_found_and_whether_it_is_enough():
    values = {("prediction", "DISCoVeR"): [0.9, 0.4], ("prediction", "auto, counts"): [0.6, 0.8]}
    values |= {("baseline", "mean"): [0.5, 0.5], ("baseline", "no change"): [0.99, 0.99]}
    rows = scored(values).assign(coverage=0.9)
    found = _response_targets.targets(rows.assign(world="simulated pairs")).splitlines()[-3:]
    text = "not worse than the best closed form"
    assert found == [
        f"| simulated pairs | r, all: {text} | 0.650 (auto, counts: 0.700) | **no** |",
        f"| simulated pairs | E-distance: {text} | 0.650 (mean: 0.500) | **no** |",
        "| simulated pairs | in 90 % interval >= 0.85 and <= 0.95 | 0.900 | yes |",
    ]
    values |= {("baseline", "ridge"): [0.95, 0.3], ("baseline", "weighted"): [0.1, 0.3]}
    rows = scored(values).assign(world="kang types", coverage=0.9)
    rows["group"] = rows["split"]
    found = _response_targets.targets(rows).splitlines()
    assert "| kang types | r, all >= 0.92 | 0.650 | **no** |" in found
    assert "| kang types | E-distance <= 0.5 | 0.650 | **no** |" in found
    line = "| kang types | {}: ahead of ridge and weighted in 5 of 7 | {} of 2 | **no** |"
    assert line.format("r, all", "ridge: 1, weighted: 2") in found
    assert line.format("E-distance", "ridge: 1, weighted: 0") in found
    assert _response_targets.targets(rows[rows["method"] != "DISCoVeR"]) == ""


def test_questions_are_cut_by_what_arithmetic_and_noise_leave_open():
    rows = scored(
        {
            ("ceiling", "half"): [0.9, 0.9, 0.9, 0.2],
            ("baseline", "mean"): [0.89, 0.3, 0.3, 0.19],
            ("baseline", "ridge"): [0.1, 0.5, 0.7, 0.0],
            ("prediction", "DISCoVeR"): [0.8, 0.6, 0.8, 0.1],
        }
    )
    assert _response_page._by_difficulty(rows)[2:] == [
        "| solved by arithmetic | 1 | 0.900 | 0.890 | 0.800 |",
        "| noise | 1 | 0.200 | 0.190 | 0.100 |",
        "| open | 2 | 0.900 | 0.600 | 0.700 |",
    ]


@pytest.mark.parametrize("name", PEERS)
def test_peers_say_what_the_condition_changed(name, monkeypatch):
    monkeypatch.setattr(_peers, "N_EPOCHS", 400)
    pytest.importorskip(NEEDS.get(name, "scvi"))
    adata = simulate_conditions(n_cells=400, n_genes=60, seed=0)
    keys = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}
    scdisent.setup_anndata(adata, **keys)
    treated = (adata.obs["condition"] == "stimulated").to_numpy()
    source, observed = adata[~treated].copy(), adata[treated]
    found = PEERS[name](adata, 0).predict(source, condition="stimulated", seed=0)
    assert found.shape == source.shape
    there, here, seen = (response._mean(cells) for cells in (found, source, observed))
    assert np.corrcoef(there - here, seen - here)[0, 1] > 0.8
    if isinstance(found, AnnData):  # expectations would lose against counts by their spread
        x, like = (np.asarray(cells.X.todense()) for cells in (found, observed))
        np.testing.assert_array_equal(x, x.round())
        assert 0.5 < np.median(x.var(axis=0) / like.var(axis=0)) < 2


@pytest.mark.parametrize("as_array", [False, True])
def test_of_a_peer_nothing_but_predict_is_asked(monkeypatch, as_array):
    keys = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}
    world = World(
        lambda seed: simulate_conditions(**SMALL, seed=seed),
        lambda adata: splits.leave_out(
            adata.obs, "cell_type", condition_key="condition", control="control", min_cells=10
        ),
        keys,
        "small",
        networks=("scVI",),
    )
    monkeypatch.setitem(WORLDS, "small", world)

    class Peer:
        def predict(self, source, *, condition, seed):
            values = ef.log_normalise(source.X).toarray()
            return values if as_array else AnnData(source.X, var=source.var)

    monkeypatch.setitem(response.MODELS, "scVI", lambda train, seed: Peer())
    task = next(t for t in response.tasks(("small",), seeds=(0,)) if t[2] == "scVI")
    (row,) = response.run_task(task)
    assert (row["method"], row["kind"]) == ("scVI", "prediction")
    assert abs(row["pearson_delta"]) < 1e-9
    assert np.isnan(row["coverage"])


def test_splits_of_the_simulated_worlds_hide_what_they_say():
    for name in ("simulated doses", "simulated pairs"):
        adata = WORLDS[name].load(0)
        key = WORLDS[name].setup["condition_key"]
        for split in WORLDS[name].split(adata):
            hidden = {question.condition for question in split.questions}
            assert not hidden & set(adata.obs[key][split.train])
            train = response._training_cells(adata, split, WORLDS[name])
            assert not hidden & set(train.obs[key].cat.categories)
