"""Suites: TOML to grid to rows that survive a kill, whoever performs them."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from scdisent import ScDisentError, benchmarks
from scdisent.benchmarks import _runs as engine
from scdisent.benchmarks import _verdict as verdict
from scdisent.benchmarks._catalogue import FOLDER
from scdisent.benchmarks._data import LOADERS, content_hash, make_world
from scdisent.benchmarks._methods import MAKERS
from scdisent.benchmarks._read_suite import expand, read_suite
from scdisent.benchmarks._suite_page import shown_of
from scdisent.cli import main

TINY = """
title = "Tiny"
about = "For tests."
seeds = [0, 1]
measures = ["kept", "swap", "reconstruction"]

[data.cells]
make = "simulate_conditions"
options = { n_cells = 200, n_genes = 60, n_types = 2, n_donors = 2 }
setup = { condition_key = "condition", control = "control", sample_key = "donor" }
shared = "cell_type"
model = { n_latent = 4, n_hidden = 16 }
train = { max_epochs = 2 }

[method.ours]
make = "DISCoVeR"
train = { max_epochs = 3 }

[method.components]
make = "PCA"
options = { n_latent = 3 }
"""
LINEAR = TINY.replace('make = "DISCoVeR"\ntrain = { max_epochs = 3 }', 'make = "PCA"')


@pytest.fixture
def suite(tmp_path):
    """A function from text to the path of a suite."""

    def write(text=TINY):
        path = tmp_path / "tiny.toml"
        path.write_text(text)
        return path

    return write


def without_times(path):
    return pd.read_csv(path).drop(columns=list(engine.TIMES))


def assert_same_table(first, second):
    pd.testing.assert_frame_equal(without_times(first), without_times(second), check_exact=True)


# --- what a file says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0, 1]", "seeds = [0, 0]", "different whole numbers"),
        ("seeds = [0, 1]", "seeds = []", "different whole numbers"),
        ("seeds = [0, 1]", "seeds = 3", "seeds must be of type list"),
        ('about = "For tests."', "", "lacks about"),
        ('about = "For tests."', 'abuot = ""', "'abuot' is not known. Known: about, data"),
        ('"kept"', '"kpet"', "'kpet' is not known. Known: information, kept"),
        ('"simulate_conditions"', '"simulate"', "'simulate' is not known. Known: kang_2000"),
        ("shared =", "sharde =", r"\[data.'cells'\]: 'sharde' is not known"),
        ("control =", "contrl =", "'contrl' is not known. Known: batch_key"),
        ("n_cells =", "n_cellz =", "'n_cellz'. Known: .*n_cells"),
        ('"simulate_conditions"', '"noisy_colored_mnist"', "options: 'noisy_colored_mnist': got"),
        ('"simulate_conditions"', '"load"', "'load'.*Known: data_dir, name"),
        ('"DISCoVeR"', '"DISCOVER"', "'DISCOVER' is not known. Known: BFVAE"),
        ("n_latent = 3", "n_latents = 3", "'n_latents' is not known. Known: n_latent"),
        ('make = "PCA"', 'make = "PCA"\ndata = ["x"]', "'x' is not known. Known: cells"),
        ('make = "PCA"', 'make = "PCA"\ntrain = { a = 1 }', "'PCA' has no training"),
        ('make = "PCA"', "", r"\[method.'components'\] lacks make"),
        ("seeds =", 'reference = "x"\nseeds =', "'x' is not known. Known: components, ours"),
        ("[method.ours]", "[method.ours", "is not a TOML file"),
    ],
)
def test_a_slip_in_the_file_is_refused_by_name(suite, old, new, message):
    assert old in TINY
    with pytest.raises(ScDisentError, match=message):
        read_suite(suite(TINY.replace(old, new)))


def test_the_grid_is_data_by_method_by_seed_and_inner_settings_go_first(suite):
    text = TINY + '\n[data.roll]\nmake = "noisy_swiss_roll"\nlikelihood = "normal"\n'
    text = text.replace('make = "PCA"', 'make = "PCA"\ndata = ["cells"]')
    runs = expand(read_suite(suite(text)))
    assert [str(run) for run in runs] == [
        *(f"cells | {name} | seed {seed}" for name in ("ours", "components") for seed in (0, 1)),
        *(f"roll | ours | seed {seed}" for seed in (0, 1)),
    ]
    ours, components, roll = runs[0].method, runs[2].method, runs[4].method
    assert ours.options == {"n_latent": 4, "n_hidden": 16}
    assert ours.train == {"max_epochs": 3}, "over that of the data"
    assert components.options == {"n_latent": 3}, "its own, and none that it does not know"
    assert components.train == {}
    assert roll.options == {}
    assert len(expand(read_suite(suite(text), seeds=[7]))) == 3


@pytest.mark.parametrize("name", benchmarks.SUITES)
def test_suites_of_the_package_are_whole(name):
    found = read_suite(FOLDER / f"{name}.toml")
    assert found.title == benchmarks.SUITES[name]
    used = {run.method.name for run in expand(found)}
    assert used == {method.name for method in found.methods}
    for data in found.data:
        if data.make not in ("load", "kang_2000_genes", "noisy_colored_mnist"):  # data of others
            world = make_world(replace(data, n_cells=300))
            assert world.shared_labels is not None or world.numbers is not None
            assert (world.condition is None) == ("condition_key" not in data.setup)


def test_every_study_is_listed_and_found():
    for name in benchmarks.STUDIES:
        assert callable(getattr(benchmarks, name))
    with pytest.raises(ScDisentError, match="is a study"):
        benchmarks.run("toy", seeds=[0])


def test_a_column_that_is_not_there_is_named(suite):
    data = read_suite(suite(TINY.replace('"cell_type"', '"kind"'))).data[0]
    with pytest.raises(ScDisentError, match=r"\['kind'\].*cell_type"):
        make_world(data)


def test_cells_not_fitted_on_are_audited_and_nothing_unnamed_is_left(suite):
    more = 'shared = "cell_type"\nfit_on = { donor = "donor_0" }'
    data = read_suite(suite(TINY.replace('shared = "cell_type"', more))).data[0]
    world = make_world(data)
    assert set(world.train_on.obs["donor"]) == {"donor_0"}
    assert set(world.adata.obs["donor"]) == {"donor_1"}
    assert list(world.adata.obs) == ["condition", "donor", "cell_type"]
    assert not world.adata.obsm
    with pytest.raises(ScDisentError, match="chooses 0 of 200"):
        make_world(replace(data, fit_on={"donor": ("nobody",)}))


# --- keys -------------------------------------------------------------------------------------


def key(run):
    return engine.key_of(run, content_hash(make_world(run.data)))


def test_a_key_follows_content_settings_and_code_but_no_names(suite, monkeypatch):
    run = expand(read_suite(suite()))[0]
    first = key(run)
    assert key(run) == first
    same = replace(run, data=replace(run.data, name="other"), measures=run.measures[::-1])
    assert key(replace(same, method=replace(run.method, name="another"))) == first
    others = [
        replace(run, seed=1),
        replace(run, measures=run.measures[:2]),
        replace(run, method=replace(run.method, options={"n_latent": 5})),
        replace(run, method=replace(run.method, train={"max_epochs": 4})),
        replace(run, method=replace(run.method, make="CGVAE")),
        replace(run, data=replace(run.data, options={**run.data.options, "seed": 1})),
        replace(run, data=replace(run.data, shared=None)),
    ]
    keys = {key(other) for other in others}
    monkeypatch.setattr(engine, "code_version", lambda: {"source": "later"})
    keys.add(key(run))
    assert len(keys | {first}) == len(others) + 2


@pytest.mark.parametrize("as_sparse", [True, False])
def test_content_is_each_value_and_each_label_that_is_used(suite, monkeypatch, as_sparse):
    data = read_suite(suite()).data[0]
    adata = LOADERS[data.make](**data.options)
    if not as_sparse:
        adata.X = adata.X.toarray()

    def of(change):
        changed: AnnData = adata.copy()
        change(changed)
        monkeypatch.setitem(LOADERS, data.make, lambda **options: changed)
        return content_hash(make_world(data))

    def one_count_more(changed):
        changed.X[3, 5] = changed.X[3, 5] + 1

    def one_type_other(changed):
        types = changed.obs["cell_type"].astype(str).to_numpy()
        types[0] = next(name for name in types if name != types[0])
        changed.obs["cell_type"] = types

    def unused(changed):
        changed.obs["other"], changed.uns["remark"] = 1.0, "none"
        changed.obs_names = [f"x{i}" for i in range(changed.n_obs)]

    first = of(lambda changed: None)
    assert of(unused) == first
    assert len({first, of(one_count_more), of(one_type_other)}) == 3


def test_words_and_code_of_plots_and_tables_are_no_part_of_the_key(tmp_path, monkeypatch):
    copy = tmp_path / "scdisent"
    shutil.copytree(engine.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(engine, "PACKAGE", copy)

    def after(change=None, text="changed = True\n"):
        if change is not None:
            with (copy / change).open("a") as file:
                file.write(text)
        return engine.code_version.__wrapped__()

    first = after()
    for harmless in (
        "pl/_latent.py",
        "cli/_main.py",
        "report/_html.py",
        "benchmarks/_suite_page.py",
    ):
        assert after(harmless) == first
    assert after("model/_discover.py", "# A remark.\n\n'''Words on the line above.'''\n") == first
    for telling in ("model/_discover.py", "metrics/_leakage.py", "benchmarks/_swap.py"):
        assert after(telling) != first
        first = after()


# --- killed and started again -------------------------------------------------------------------


def test_an_interrupted_suite_goes_on_to_the_same_table(suite, tmp_path, monkeypatch):
    path = suite()
    whole, part = tmp_path / "whole", tmp_path / "part"
    threads, disabled = torch.get_num_threads(), logging.root.manager.disable
    benchmarks.run(path, out=whole, n_jobs=1)
    assert (torch.get_num_threads(), logging.root.manager.disable) == (threads, disabled)
    whole_maker = MAKERS["DISCoVeR"]

    def interrupted(world, seed, **given):
        if seed == 1:
            raise KeyboardInterrupt
        return whole_maker.fit(world, seed, **given)

    with monkeypatch.context() as patch:
        patch.setitem(MAKERS, "DISCoVeR", replace(whole_maker, fit=interrupted))
        with pytest.raises(KeyboardInterrupt):
            benchmarks.run(path, out=part, n_jobs=1)
    assert len(list((part / "runs" / "tiny").iterdir())) == 2, "the first seed of both methods"
    (part / "runs" / "tiny" / "of_another_key.parquet").write_bytes(b"ignored")
    benchmarks.run(path, out=part, n_jobs=1)
    assert_same_table(whole / "tiny.csv", part / "tiny.csv")
    tables = [(out / "tiny.md").read_text().count("n/a") for out in (whole, part)]
    assert tables[0] == tables[1] > 0


def test_a_killed_process_leaves_whole_rows_only(suite, tmp_path):
    path = suite(TINY.replace("seeds = [0, 1]", "seeds = [0, 1, 2]"))
    whole, part = tmp_path / "whole", tmp_path / "part"
    rows = part / "runs" / "tiny"
    command = [sys.executable, "-m", "scdisent", "bench", str(path), "--out", str(part)]
    process = subprocess.Popen([*command, "--jobs", "1"], stderr=subprocess.DEVNULL)
    while not list(rows.glob("*.parquet")):
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    n_done = len(list(rows.glob("*.parquet")))
    assert 1 <= n_done < 6
    assert not (part / "tiny.csv").exists()
    benchmarks.run(path, out=part, n_jobs=1)
    assert len(list(rows.glob("*.parquet"))) == 6
    benchmarks.run(path, out=whole, n_jobs=1)
    assert_same_table(whole / "tiny.csv", part / "tiny.csv")


def test_the_second_call_fits_nothing_even_if_only_the_table_was_kept(suite, tmp_path, monkeypatch):
    path = suite(LINEAR)
    first = benchmarks.run(path, out=tmp_path, n_jobs=1)
    shutil.rmtree(tmp_path / "runs")
    never = {name: replace(maker, fit=None) for name, maker in MAKERS.items()}
    monkeypatch.setattr(engine, "MAKERS", never)
    pd.testing.assert_frame_equal(first, benchmarks.run(path, out=tmp_path, n_jobs=1))


# --- whoever performs it ------------------------------------------------------------------------


def test_two_processes_give_the_rows_of_one(suite, tmp_path):
    path = suite()
    for n_jobs in (1, 2):
        benchmarks.run(path, out=tmp_path / str(n_jobs), n_jobs=n_jobs)
    assert_same_table(tmp_path / "1" / "tiny.csv", tmp_path / "2" / "tiny.csv")


def test_a_cluster_gives_the_rows_of_one_process(suite, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the optional package ray is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else a busy machine lets it wait
    path = suite()
    benchmarks.run(path, out=tmp_path / "here", n_jobs=1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        benchmarks.run(path, out=tmp_path / "there", n_jobs=2, backend="ray")
        assert ray.is_initialized(), "a cluster that was there stays"
    finally:
        ray.shutdown()
    assert_same_table(tmp_path / "here" / "tiny.csv", tmp_path / "there" / "tiny.csv")


def test_a_cluster_without_ray_says_what_to_install(suite, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ScDisentError, match=r"pip install scdisent\[cluster\]"):
        benchmarks.run(suite(LINEAR), out=tmp_path, backend="ray")


def test_other_data_elsewhere_are_not_taken_for_the_same(suite, tmp_path):
    run = expand(read_suite(suite(LINEAR)))[0]
    outcome = engine.perform(engine.Task(run, "another key", tmp_path))
    assert "not the same here" in outcome.error
    assert not list(tmp_path.glob("*.parquet"))


# --- what is told -------------------------------------------------------------------------------


def test_a_failing_run_is_told_and_the_others_are_finished(suite, tmp_path, monkeypatch, capsys):
    def fails_once(world, seed, **given):
        if seed == 1:
            msg = "no\nluck"
            raise ValueError(msg)
        return MAKERS["PCA"].fit(world, seed, options={}, train={})

    monkeypatch.setitem(MAKERS, "DISCoVeR", replace(MAKERS["DISCoVeR"], fit=fails_once))
    code = main(["bench", str(suite()), "--out", str(tmp_path), "--jobs", "1"])
    assert code == 2
    told = capsys.readouterr().err
    assert "failed: cells | ours | seed 1: ValueError: no luck\n" in told
    assert "1 of the runs failed" in told
    assert len(pd.read_csv(tmp_path / "tiny.csv")) == 3
    assert len(list((tmp_path / "runs" / "tiny").iterdir())) == 3
    assert "- cells | ours | seed 1: ValueError: no luck" in (tmp_path / "tiny.md").read_text()


def test_the_page_says_what_does_not_apply_and_how_sure_it_is(suite, tmp_path):
    out = tmp_path / "out"
    rows = benchmarks.run(suite(), out=out, n_jobs=1)
    components = rows[rows["method"] == "components"]
    assert components["swap_condition"].isna().all()
    text = (out / "tiny.md").read_text()
    (line,) = [each for each in text.splitlines() if each.startswith("| components")]
    cells = [each.strip() for each in line.strip("|").split("|")]
    header = next(each for each in text.splitlines() if each.startswith("| method"))
    titles = [each.strip() for each in header.strip("|").split("|")]
    assert cells[titles.index("swap: condition of w")] == "n/a"
    assert cells[titles.index("NLL")] == "n/a"
    assert cells[titles.index("MSE")] == verdict.cell(verdict.interval(components["mse"]))
    assert "`scdisent bench tiny.toml --out out`" in text
    assert (out / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_a_panel_shows_the_first_pair_of_numbers_that_a_data_set_has():
    known = {
        "both": {"leak_accuracy": 0.5, "kept_r2": 0.9, "mse": 1.0},
        "no condition": {"kept_accuracy": 0.7, "mse": 1.0},
        "no shared factor": {"leak_accuracy": 0.5, "mse": 1.0, "lsdi_fvh": 0.3},
        "nothing": {"mse": 1.0},
    }
    rows = pd.DataFrame([{"data": name, "method": "m", **values} for name, values in known.items()])
    assert shown_of(rows) == {
        "both": ("leak_accuracy", "kept_r2"),
        "no condition": ("mse", "kept_accuracy"),
        "no shared factor": ("mse", "lsdi_fvh"),
    }
    assert shown_of(pd.DataFrame()) == {}


def test_intervals_hold_the_mean_as_often_as_they_say(rng):
    found = [verdict.interval(pd.Series(rng.standard_normal(3)))[1:] for _ in range(2_000)]
    low, high = np.array(found).T
    assert np.mean((low < 0) & (high > 0)) == pytest.approx(0.9, abs=0.02)
    assert verdict.cell(verdict.interval(pd.Series([np.nan]))) == "n/a"
    assert verdict.cell(verdict.interval(pd.Series([0.5]))) == "0.500"


def compared(rng, leak, kept, *, noise=0.01, n_seeds=3):
    """Rows of "ours" and "theirs", which leaks and keeps so much more."""
    seeds = range(n_seeds)
    shared = rng.normal(0.7, 0.1, size=n_seeds)  # a hard seed is hard for both
    rows = [
        {
            "data": "cells",
            "method": method,
            "seed": seed,
            "leak_accuracy": shared[seed] + more[0] + rng.normal(0, noise),
            "kept_r2": shared[seed] + more[1] + rng.normal(0, noise),
            "kept_accuracy": np.nan,
        }
        for method, more in (("ours", (0, 0)), ("theirs", (leak, kept)))
        for seed in seeds
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("leak", "kept", "expected"),
    [
        (0.2, -0.2, verdict.AHEAD),
        (0.2, 0, verdict.AHEAD),
        (0, -0.2, verdict.AHEAD),
        (-0.2, 0.2, verdict.BEHIND),
        (-0.2, 0, verdict.BEHIND),
        (0, 0.2, verdict.BEHIND),
        (0.2, 0.2, verdict.TRADE),
        (-0.2, -0.2, verdict.TRADE),
        (0, 0, verdict.OPEN),
    ],
)
def test_a_verdict_is_what_was_planted(rng, leak, kept, expected):
    found = [
        pair.verdict for _ in range(60) for pair in verdict.pairs(compared(rng, leak, kept), "ours")
    ]
    assert len(found) == 60
    assert np.mean([each == expected for each in found]) > 0.75  # each interval errs one in ten
    text = verdict.section(compared(rng, leak, kept, noise=0), "ours")
    is_met = expected in (verdict.AHEAD, verdict.OPEN)
    assert ("Target met." in text, "Target missed." in text) == (is_met, not is_met)


def test_a_target_is_met_only_against_those_it_is_met_against(rng):
    more = compared(rng, 0.2, 0.2, noise=0)
    rows = pd.concat(
        [compared(rng, 0.2, -0.2, noise=0), more[more["method"] == "theirs"].replace("theirs", "b")]
    )
    rows.loc[rows["method"] == "b", ["leak_accuracy", "kept_r2"]] += 1  # whatever the hard seed
    text = verdict.section(rows, "ours")
    assert "Target met against 1 of 2. A trade with b. Ahead of theirs." in text


def test_a_composition_that_differs_between_conditions_is_no_leak(rng):
    rows = compared(rng, -0.3, 0).assign(leak_within_auroc=0.5)  # ours keeps what tells types apart
    assert [pair.verdict for pair in verdict.pairs(rows, "ours")] == [verdict.OPEN]
    rows["leak_within_auroc"] += 0.3 * (rows["method"] == "theirs")
    assert [pair.verdict for pair in verdict.pairs(rows, "ours")] == [verdict.AHEAD]
    rows["leak_within_auroc"] = np.where(rows["method"] == "theirs", 0.5, [0.3, 0.32, 0.34] * 2)
    assert [pair.verdict for pair in verdict.pairs(rows, "ours")] == [verdict.OPEN]  # chance is 0.5


def test_a_method_without_an_answer_and_a_single_seed_get_no_verdict(rng):
    rows = compared(rng, -0.5, 0.5, n_seeds=1)
    assert [pair.verdict for pair in verdict.pairs(rows, "ours")] == [verdict.UNKNOWN]
    text = verdict.section(rows, "ours")
    assert "No verdict from one seed." in text
    assert "Target met" not in text
    rows.loc[rows["method"] == "theirs", "leak_accuracy"] = np.nan
    assert verdict.pairs(rows, "ours") == []
    assert verdict.section(rows, "ours") == ""
    assert verdict.section(rows.drop(columns="leak_accuracy"), "ours") == ""
