import hashlib
import re
import shlex
import subprocess
import sys
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scdisent
from scdisent.cli import build_parser, main
from scdisent.cli._files import whole_file
from scdisent.cli._main import plain_messages
from scdisent.cli._parser import EXAMPLES, MODELS

TINY = {
    "n_cells": 200,
    "n_genes": 40,
    "n_types": 2,
    "n_donors": 2,
    "shared_effect_genes": 8,
    "type_effect_genes": 2,
}


EVALUATE = ["evaluate", "x", "--model-dir", "x", "--condition", "x"]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an input, a trained model and the file with its codes."""
    folder = tmp_path_factory.mktemp("cli")
    cells = folder / "cells.h5ad"
    scdisent.datasets.simulate_conditions(**TINY).write_h5ad(cells)
    before = digest(cells)
    options = ("--control", "control", "--labels-key", "cell_type", "--sample-key", "donor")
    outputs = ("--out", folder / "trained.h5ad", "--model-dir", folder / "model")
    code = run(
        "train", cells, "--condition-key", "condition", *options, "--max-epochs", 2, *outputs
    )
    assert code == 0
    assert digest(cells) == before
    return folder


# --- the round trip ---------------------------------------------------------------------------


def test_train_stores_the_codes_of_the_saved_model(folder):
    trained = ad.read_h5ad(folder / "trained.h5ad")
    model = scdisent.DISCoVeR.load(folder / "model")
    for block in ("invariant", "specific"):
        codes = model.get_latent_representation(trained, representation=block)
        np.testing.assert_array_equal(trained.obsm[f"X_scdisent_{block}"], codes)
    assert len(trained.uns["scdisent"]["history"]) == 2
    assert trained.uns["scdisent"]["embed"]["control"] == "control"


def test_score_writes_the_same_table_twice(folder, capsys):
    before = digest(folder / "trained.h5ad")
    table, out = folder / "scores.csv", folder / "scored.h5ad"
    source = folder / "trained.h5ad"
    assert (
        run("score", source, "--model-dir", folder / "model", "--out", out, "--table", table) == 0
    )
    assert digest(source) == before
    stored = ad.read_h5ad(out).uns["scdisent"]
    written = pd.read_csv(table, keep_default_na=False, na_values=[""])
    np.testing.assert_allclose(written["value"], stored["scores"]["value"])
    leak = written[(written["metric"] == "leakage") & (written["representation"] == "invariant")]
    (leak,) = leak.to_dict("records")
    assert leak["lower"] <= leak["value"] <= leak["upper"]
    assert stored["statement"] in capsys.readouterr().out


def test_predict_gives_one_cell_of_whole_counts_for_each_chosen_cell(folder):
    before = digest(folder / "cells.h5ad")
    common = ("--model-dir", folder / "model", "--condition", "stimulated", "--seed", 3)
    chosen = ("--cells", "condition=control")
    for name in ("once.h5ad", "again.h5ad"):
        assert run("predict", folder / "cells.h5ad", *common, *chosen, "--out", folder / name) == 0
    assert digest(folder / "cells.h5ad") == before
    source = ad.read_h5ad(folder / "cells.h5ad")
    once, again = (ad.read_h5ad(folder / name) for name in ("once.h5ad", "again.h5ad"))
    control = source.obs_names[source.obs["condition"] == "control"]
    assert list(once.obs["source_cell"]) == list(control)
    assert (once.obs["condition"] == "stimulated").all()
    assert (once.X.data == np.rint(once.X.data)).all()
    np.testing.assert_array_equal(once.X.toarray(), again.X.toarray())
    assert once.uns["scdisent"]["prediction"]["seed"] == 3


def test_evaluate_writes_the_table_of_the_library(folder, tmp_path, capsys):
    out, csv, page = (tmp_path / name for name in ("out.h5ad", "response.csv", "page.html"))
    asked = ("--model-dir", folder / "model", "--condition", "stimulated", "--seed", 2)
    more = ("--cells", "donor=donor_1", "--training", folder / "trained.h5ad")
    assert run("evaluate", folder / "cells.h5ad", *asked, *more, "--out", out, "--table", csv) == 0
    assert "interpolated duplicate" in capsys.readouterr().out
    model, training = scdisent.load(folder / "model"), ad.read_h5ad(folder / "trained.h5ad")
    cells = ad.read_h5ad(folder / "cells.h5ad")
    cells = cells[cells.obs["donor"] == "donor_1"]
    control, observed = (
        cells[cells.obs["condition"] == name].copy() for name in ("control", "stimulated")
    )
    scdisent.setup_anndata(
        training,
        condition_key="condition",
        control="control",
        labels_key="cell_type",
        sample_key="donor",
    )
    shift = scdisent.ShiftModel(training)
    shift.train()
    predicted = model.predict(control, condition="stimulated", seed=2)
    expected = scdisent.tl.evaluate_response(observed, predicted, control, baselines=shift, seed=2)
    stored = ad.read_h5ad(out).uns["scdisent"]["response"]
    for found in (stored, pd.read_csv(csv)):
        assert list(found["method"]) == list(expected["method"])
        np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-6)
    alone = ("--anchor", "none", "--out", out, "--table", csv, "--overwrite")
    assert run("evaluate", folder / "cells.h5ad", *asked, "--cells", "donor=donor_1", *alone) == 0
    predicted = model.predict(control, condition="stimulated", anchor=None, seed=2)
    expected = scdisent.tl.evaluate_response(observed, predicted, control, seed=2)
    np.testing.assert_allclose(pd.read_csv(csv)["value"], expected["value"], rtol=1e-6)
    assert run("report", folder / "model", "--data", out, "-o", page) == 0
    assert "Response: predictions, baselines, ceiling" in page.read_text(encoding="utf-8")


def test_what_is_known_of_conditions_comes_from_a_csv_and_reaches_unseen_ones(folder, tmp_path):
    table = pd.DataFrame({"strength": [0.0, 1.0, 2.0]}, index=["control", "stimulated", "strong"])
    table.to_csv(tmp_path / "table.csv", index_label="condition")
    outputs = ("--model-dir", tmp_path / "model", "--out", tmp_path / "out.h5ad")
    setup = ("--condition-key", "condition", "--control", "control", "--max-epochs", 1)
    known = ("--condition-table", tmp_path / "table.csv")
    assert run("train", folder / "cells.h5ad", *setup, *known, *outputs) == 0
    asked = ("--condition", "strong", "--cells", "condition=control", "--n-samples", 2)
    cells = ("predict", folder / "cells.h5ad", "--model-dir", tmp_path / "model")
    assert run(*cells, *asked, "--anchor", "none", "--out", tmp_path / "made.h5ad") == 0
    made = ad.read_h5ad(tmp_path / "made.h5ad")
    assert (made.obs["condition"] == "strong").all()
    assert made.uns["scdisent"]["prediction"]["anchor"] == ""
    assert made.obs["source_cell"].value_counts().eq(2).all()


def test_doses_can_be_trained_on_and_predicted(tmp_path):
    cells, out, model = (tmp_path / name for name in ("cells.h5ad", "trained.h5ad", "model"))
    adata = scdisent.datasets.simulate_conditions(n_cells=300, n_genes=60, doses=(0.5, 1.0))
    adata.write_h5ad(cells)
    setup = ("--condition-key", "condition", "--control", "control", "--dose-key", "dose")
    fit = ("--max-epochs", 1, "--model-dir", model, "--out", out)
    assert run("train", cells, *setup, *fit) == 0
    asked = ("--condition", "stimulated", "--dose", 0.7, "--cells", "condition=control")
    made = tmp_path / "made.h5ad"
    assert run("predict", cells, "--model-dir", model, *asked, "--out", made) == 0
    found = ad.read_h5ad(made)
    assert (found.obs["dose"] == 0.7).all()
    assert not found.obs["scdisent_seen"].any()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_trained_scored_and_reported(name, tmp_path, folder):
    out, model, page = (tmp_path / n for n in ("out.h5ad", "model", "page.html"))
    keys = () if name == "bfvae" else ("--condition-key", "condition", "--control", "control")
    fit = ("--max-epochs", 1, "--n-latent", 4, "--model-dir", model, "--out", out)
    assert run("train", folder / "cells.h5ad", *keys, "--model", name, *fit) == 0
    fitted = scdisent.load(model)
    assert type(fitted).__name__ == MODELS[name]
    trained = ad.read_h5ad(out)
    for block in fitted.representations:
        codes = fitted.get_latent_representation(trained, representation=block)
        np.testing.assert_array_equal(trained.obsm[f"X_scdisent_{block}"], codes)
        assert codes.shape[1] <= 4
    scored = tmp_path / "scored.h5ad"
    assert run("score", out, "--model-dir", model, "--out", scored, "--max-cells", 100) == 0
    stored = ad.read_h5ad(scored).uns["scdisent"]["scores"]
    assert ("leakage" in set(stored["metric"])) == (name != "bfvae")
    assert run("report", model, "--data", scored, "-o", page) == 0
    assert f"<title>{MODELS[name]} on 200 cells</title>" in page.read_text(encoding="utf-8")


def test_report_is_made_of_scored_cells_and_of_a_model_folder(folder, capsys):
    before = digest(folder / "trained.h5ad"), digest(folder / "cells.h5ad")
    first, second = folder / "first.html", folder / "second.html"
    assert run("report", folder / "trained.h5ad", "-o", first, "--title", "Mine & yours") == 0
    assert capsys.readouterr().out == f"wrote {first}\n"
    cells = ("--data", folder / "cells.h5ad")
    assert run("report", folder / "model", *cells, "--out", second) == 0
    assert before == (digest(folder / "trained.h5ad"), digest(folder / "cells.h5ad"))
    assert "<title>Mine &amp; yours</title>" in first.read_text(encoding="utf-8")
    assert "<title>DISCoVeR on 200 cells</title>" in second.read_text(encoding="utf-8")
    points = [p.read_text(encoding="utf-8").split('id="cells">')[1] for p in (first, second)]
    assert points[0] == points[1], "codes of the file are those of the model"


def test_the_command_works_from_a_shell(folder):
    command = [sys.executable, "-m", "scdisent", "predict", str(folder / "cells.h5ad")]
    command += ["--model-dir", str(folder / "model"), "--condition", "stimulated"]
    command += ["--reference", "control", "--kind", "mean"]
    done = subprocess.run(
        [*command, "--out", str(folder / "mean.h5ad")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == f"wrote {folder / 'mean.h5ad'}\n"
    again = subprocess.run(
        [*command, "--out", str(folder / "mean.h5ad")], check=False, capture_output=True, text=True
    )
    assert again.returncode == 2
    assert again.stderr.startswith("scdisent predict: error: ")
    assert again.stderr.count("\n") == 1


# --- bad input --------------------------------------------------------------------------------


def other_models(folder):
    """Folders of a model that predicts nothing and of one without codes."""
    paths = folder / "single", folder / "closed"
    cells = ad.read_h5ad(folder / "cells.h5ad")
    scdisent.setup_anndata(cells, condition_key="condition", control="control")
    scdisent.BFVAE(cells, n_latent=2).save(paths[0])
    shift = scdisent.ShiftModel(cells)
    shift.train()
    shift.save(paths[1])
    return paths


def bad_input(folder):
    """Name of a case, arguments, what the message says; nothing may be written."""
    cells, model = folder / "cells.h5ad", folder / "model"
    negative, text, cut, foreign = (folder / f"{n}.h5ad" for n in ("neg", "text", "cut", "foreign"))
    adata = ad.read_h5ad(cells)
    adata.X[0, 0] = -1
    adata.write_h5ad(negative)
    others = folder / "others.h5ad"
    adata.uns["scdisent"] = "notes"
    adata.write_h5ad(others)
    text.write_text("not HDF5")
    cut.write_bytes(cells.read_bytes()[:5000])
    pd.DataFrame({"x": [1.0]}).to_csv(foreign)
    broken = folder / "broken"
    broken.mkdir()
    for path in model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = broken / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    single, closed = other_models(folder)
    out, new = ("--out", folder / "new.h5ad"), ("--model-dir", folder / "new")
    use = ("--model-dir", model)
    train = ("train", cells, "--condition-key", "condition")
    predict = ("predict", cells, *use, "--condition", "stimulated")
    other = ("--condition-key", "condition", *out, *new)
    return {
        "missing file": (("train", folder / "none.h5ad", *other), "is not a file"),
        "folder as file": (("train", folder, *other), "is not a file"),
        "no HDF5": (("train", text, *other), "could not be read as h5ad"),
        "cut file": (("train", cut, *other), "could not be read as h5ad"),
        "another format": (("train", foreign, *other), "could not be read as h5ad"),
        "negative values": (("train", negative, *other), "negative"),
        "no such column": (("train", cells, "--condition-key", "drug", *out, *new), "'drug'"),
        "no such control": ((*train, "--control", "dmso", *out, *new), "'dmso'"),
        "no such layer": ((*train, "--layer", "raw", *out, *new), "'raw'"),
        "no such preset": ((*train, "--preset", "best", *out, *new), "'default', 'paper'"),
        "no such likelihood": ((*train, "--likelihood", "gauss", *out, *new), "'nb'"),
        "output exists": ((*train, "--out", folder / "trained.h5ad", *new), "--overwrite"),
        "model exists": ((*train, *out, *use), "--overwrite"),
        "output is input": ((*train, "--out", cells, *new, "--overwrite"), "is the input"),
        "two outputs in one": (
            ("score", cells, *use, *out, "--table", folder / "." / "new.h5ad"),
            "named for two outputs",
        ),
        "model and cells in one": (
            (*train, *out, "--model-dir", folder / "new.h5ad"),
            "named for two outputs",
        ),
        "output is the training": (
            (
                "evaluate",
                folder / "trained.h5ad",
                *use,
                "--condition",
                "stimulated",
                "--training",
                cells,
                "--out",
                cells,
                "--overwrite",
            ),
            "is the input",
        ),
        "results of others": (("score", others, *use, *out), "expected a dictionary"),
        "results of others, evaluated": (
            ("evaluate", others, *use, "--condition", "stimulated", *out),
            "expected a dictionary",
        ),
        "no model": (("predict", cells, "--condition", "a", *new, *out), "not a whole scdisent"),
        "broken model": (("score", cells, "--model-dir", broken, *out), "hashes differ"),
        "unknown condition": (("predict", cells, *use, "--condition", "b", *out), "'stimulated'"),
        "already there": ((*predict, *out), "already carry"),
        "model without prediction": (
            ("predict", cells, "--model-dir", single, "--condition", "stimulated", *out),
            "holds a BFVAE, which has no predict",
        ),
        "model without codes": (
            ("score", cells, "--model-dir", closed, *out),
            "holds a ShiftModel, which has no get_latent_representation",
        ),
        "no condition": (("train", cells, *out, *new), "condition_key"),
        "no such table": (
            (*train, "--condition-table", folder / "none.csv", *out, *new),
            "is not a file",
        ),
        "no table": ((*train, "--condition-table", cells, *out, *new), "could not be read as CSV"),
        "nothing observed": (
            ("evaluate", cells, *use, "--condition", "b", *out),
            "no cell has the condition 'b'",
        ),
        "no such kind": ((*predict, "--cells", "condition=control", "--kind", "x", *out), "'mean'"),
        "no such column of cells": ((*predict, "--cells", "drug=a", *out), "no column 'drug'"),
        "no such level of cells": ((*predict, "--cells", "donor=a", *out), "'donor_0'"),
        "report without results": (
            ("report", cells, "-o", folder / "new.html"),
            "scdisent.tl.embed(adata, model)",
        ),
        "report of a folder alone": (("report", model, "-o", folder / "new.html"), "--data"),
        "report of two files": (
            ("report", folder / "trained.h5ad", "--data", cells, "-o", folder / "new.html"),
            "is none",
        ),
        "report exists": (("report", folder / "trained.h5ad", "-o", text), "--overwrite"),
        "report over its cells": (
            ("report", model, "--data", cells, "-o", cells, "--overwrite"),
            "is the input",
        ),
        "no such suite": (("bench", "none", "--out", folder / "bench"), "'invariance'"),
        "suite is no file": (
            ("bench", folder / "none.toml", "--out", folder / "bench"),
            "none.toml",
        ),
        "study with seeds": (("bench", "toy", "--seeds", "1"), "is a study"),
        "no such data": (("data", "get", "nonsense"), "'kang2018'"),
        "no such folder": (("data", "list", "--data-dir", folder / "none"), "none"),
        "no such demo": (("demo", "--data", "nonsense", "--out", folder / "demo"), "'kang2018'"),
        "demo without condition": (
            ("demo", "--data", "mnist", "--out", folder / "demo"),
            "control",
        ),
    }


@pytest.fixture(scope="module")
def cases(folder):
    return bad_input(folder)


NAMES = [
    "missing file", "folder as file", "no HDF5", "cut file", "another format", "negative values",
    "no such column", "no such control", "no such layer", "no such preset", "no such likelihood",
    "output exists", "model exists", "output is input", "two outputs in one",
    "model and cells in one", "output is the training", "results of others",
    "results of others, evaluated", "no model", "broken model",
    "unknown condition", "already there", "model without prediction", "model without codes",
    "no condition", "no such table", "no table", "nothing observed", "no such kind",
    "no such column of cells", "no such level of cells", "report without results",
    "report of a folder alone", "report of two files", "report exists", "report over its cells",
    "no such suite", "suite is no file", "study with seeds",
    "no such data", "no such folder", "no such demo", "demo without condition",
]  # fmt: skip


def test_all_cases_of_bad_input_are_run(cases):
    assert set(NAMES) == set(cases)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_ends_with_code_2_and_one_line(name, cases, folder, capsys):
    arguments, fragment = cases[name]
    before = {path: digest(path) for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"scdisent {arguments[0]}: error: ")
    assert error.count("\n") == 1
    assert fragment in error
    assert {path: digest(path) for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["train"],
        ["data"],
        ["demo", "--epochs", "0"],
        ["demo", "--epochs", "many"],
        ["demo", "--seed", "-1"],
        ["demo", "--seed", str(2**32)],
        ["bench", "smoke", "--seeds", "0", "-1"],
        [*EVALUATE, "--out", "x.h5ad", "--n-bootstrap", "-3"],
        [*EVALUATE, "--out", "x.zarr"],
    ],
)
def test_bad_options_end_with_code_2_and_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--help" in error


def test_data_that_fail_verification_are_an_error(tmp_path, capsys):
    file = tmp_path / "kang2018" / "kang_2018.h5ad"
    file.parent.mkdir()
    file.write_bytes(b"not the file")
    assert run("data", "verify", "kang2018", "--data-dir", tmp_path) == 2
    shown = capsys.readouterr()
    assert "size differs" in shown.out
    assert "1 of 1 files" in shown.err


def test_a_fault_of_the_package_is_not_hidden(monkeypatch):
    monkeypatch.setattr(scdisent.benchmarks, "run", lambda suite, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["bench", "invariance"])


# --- files, messages, help --------------------------------------------------------------------


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "out.h5ad"
    path.write_text("old")

    def fail():
        with whole_file(path) as part:
            part.write_text("half of the new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_warnings_are_one_line_and_only_ours(capsys):
    with plain_messages():
        warnings.warn("look here", scdisent.ScDisentWarning, stacklevel=1)
        warnings.warn("not your business", FutureWarning, stacklevel=1)
    assert capsys.readouterr().err == "scdisent: warning: look here\n"


def test_bench_and_data_call_the_library(monkeypatch, tmp_path, capsys):
    calls = []

    def note(suite, **options):
        calls.append((suite, options))

    monkeypatch.setattr(scdisent.benchmarks, "run", note)
    options = ("--jobs", 2, "--backend", "ray", "--seeds", 3, 4)
    assert run("bench", "invariance", "--out", tmp_path) == 0
    assert run("bench", "smoke", "--out", tmp_path, *options) == 0
    plain = {"out": tmp_path, "n_jobs": None, "backend": "joblib", "seeds": None}
    given = {"out": tmp_path, "n_jobs": 2, "backend": "ray", "seeds": [3, 4]}
    assert calls == [("invariance", plain), ("smoke", given)]
    assert run("data", "list") == 0
    assert "kang2018" in capsys.readouterr().out


def test_help_of_bench_lists_suites_and_studies(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    shown = capsys.readouterr().out
    for name, text in {**scdisent.benchmarks.SUITES, **scdisent.benchmarks.STUDIES}.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", shown, re.M), name


@pytest.mark.parametrize("page", EXAMPLES)
def test_help_shows_an_example_that_parses(page, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*page.removeprefix("scdisent").split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert EXAMPLES[page] in shown
    program, *arguments = shlex.split(EXAMPLES[page])
    assert program == "scdisent"
    parsed = build_parser().parse_args(arguments)
    assert parsed.run.startswith("scdisent.cli.")


def test_help_loads_neither_torch_nor_data_libraries():
    code = (
        "import sys, scdisent.cli\n"
        "scdisent.cli.build_parser().format_help()\n"
        "heavy = {'torch', 'scvi', 'anndata', 'scanpy', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_demo_writes_what_it_announces(monkeypatch, tmp_path, capsys):
    from scdisent.cli import _demo

    monkeypatch.setattr(_demo, "SIMULATION", {**TINY, "n_cells": 400})
    assert run("demo", "--epochs", 2, "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    for name in ("latent.png", "history.png", "leakage.png", "response.png", "predicted.h5ad"):
        assert (tmp_path / "out" / name).stat().st_size > 5_000
        assert str(tmp_path / "out" / name) in shown
    assert run("demo", "--epochs", 2, "--out", tmp_path / "out") == 2
    assert "--overwrite" in capsys.readouterr().err
    demo = ad.read_h5ad(tmp_path / "out" / "demo.h5ad")
    assert {"X_scdisent_invariant", "X_scdisent_specific"} <= set(demo.obsm)
    assert {"no change", "ridge"} <= set(demo.uns["scdisent"]["response"]["method"])
    assert demo.uns["scdisent"]["statement"] in shown
    predicted = ad.read_h5ad(tmp_path / "out" / "predicted.h5ad")
    assert set(predicted.obs["donor"]) == {"donor_1"}, "the donor that training did not see"
    model = scdisent.DISCoVeR.load(tmp_path / "out" / "model")
    assert model.is_trained_
