"""What the page says is what is stored; what is not stored is named with its call."""

import base64
import copy
import json
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from scdisent import report
from scdisent._errors import InputDataError
from scdisent.metrics._leakage import Equivalence
from scdisent.report import _source
from scdisent.report._audit import verdict
from scdisent.report._html import number, table
from scdisent.report._response import ahead

EVIL = "<script>alert(1)</script>"
LEAKAGE, WITHIN = "Leakage of each representation, all cells", "Leakage within each cell type"
RESPONSE, SCORES = "Response: predictions, baselines, ceiling", "All scores"
LATENTS, LSDI = (
    "Latents; the 6 top genes of each",
    "Separation of the latents (LSDI-R) and its parts",
)


@pytest.fixture(autouse=True)
def _nothing_global_changes():
    before = dict(mpl.rcParams), np.random.get_state()[1].copy()  # noqa: NPY002
    figures = plt.get_fignums()
    yield
    assert dict(mpl.rcParams) == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert plt.get_fignums() == figures


@pytest.fixture
def written(tmp_path):
    """Text of a new page."""

    def write(adata, **options):
        path = report.write(adata, out=tmp_path / "page.html", **options)
        return path.read_text(encoding="utf-8")

    return write


@pytest.fixture(scope="module")
def page(example, read_page):
    """The example, read."""
    return read_page(example[1].read_text(encoding="utf-8"))


# --- numbers ----------------------------------------------------------------------------------


def test_numbers_of_the_audit_and_scores_are_those_stored(example, page):
    results = example[0].uns["scdisent"]
    audit = results["leakage"]
    pooled = audit[audit["scope"] == "pooled"]
    columns = {"AUROC": "auroc", "95 % from": "lower", "95 % to": "upper", "bits": "bits"}
    columns |= {"shuffled: mean": "null_auroc", "shuffled: 95 %": "null_auroc_95", "p": "p_value"}
    for head, name in columns.items():
        assert page.column(LEAKAGE, head) == pooled[name].tolist()
    assert page.texts(LEAKAGE, "representation") == ["invariant codes", "specific codes"]
    inside = audit[audit["scope"] == "within"].set_index(["group", "representation"])["auroc"]
    assert sorted(page.column(WITHIN, "AUROC")) == sorted(inside.tolist())
    assert len(inside) == 4
    scores = results["scores"]
    assert page.column(SCORES, "value") == scores["value"].tolist()
    assert page.texts(SCORES, "shuffled: 95 %") == ["–", "0.560"]


def test_numbers_of_latents_and_response_are_those_stored(example, page):
    scored_cells, results = example[0], example[0].uns["scdisent"]
    assert page.column(LATENTS, "KL (nat)") == results["latents"]["kl"].tolist()
    for head, name in {"LSDI-R": "value", "explained": "explained", "balance": "balance"}.items():
        assert page.column(LSDI, head) == results["lsdi"][name].tolist()
    top = page.texts(LATENTS, "genes it moves most (FVH-LT)")[0].split(", ")
    shares = scored_cells.varm["scdisent_fvh_lt"].loc[:, results["latents"]["informative"]]
    shares = shares.div(shares.sum(axis=1).clip(lower=1), axis=0)
    assert top == shares["invariant_0"].nlargest(6).index.tolist()
    signed = page.texts(LATENTS, "genes it explains most (DBSR-LS)")[0].split(", ")
    links = scored_cells.varm["scdisent_dbsr_ls"]["invariant_0"]
    assert all((links[gene[:-1]] > 0) == (gene[-1] == "+") for gene in signed)
    stored = results["response"].set_index(["metric", "method"])["value"]
    names = zip(page.texts(RESPONSE, "metric"), page.texts(RESPONSE, "method"), strict=True)
    known = [None if np.isnan(stored[key]) else stored[key] for key in names]
    assert known == page.column(RESPONSE, "value")
    assert len(page.exact[RESPONSE]) == len(stored)


def test_cells_are_counted_as_they_are(example, page):
    scored_cells = example[0]
    obs = scored_cells.obs
    counts = obs["condition"].value_counts().sort_index()
    assert page.column("Cells of each condition", "cells") == counts.tolist()
    for key, caption in {"cell_type": "cell type", "donor": "donor"}.items():
        both = pd.crosstab(obs[key], obs["condition"])
        for level in both:
            assert page.column(f"Cells of each {caption}, by condition", level) == list(both[level])
    said = page.sections["data"]
    assert all(f in said for f in ("DISCoVeR", "paper", "layer counts", "3 invariant, 3 specific"))


def test_the_sentence_has_the_stored_interval_and_null(example, page):
    scored_cells = example[0]
    said = page.sections["leakage"]
    row = scored_cells.uns["scdisent"]["leakage"].iloc[0]
    sentence = (
        f"an AUROC of {row['auroc']:.3f} (95 % interval {row['lower']:.3f} to {row['upper']:.3f}), "
        f"where shuffled labels give {row['null_auroc']:.3f} on average and up to "
        f"{row['null_auroc_95']:.3f} in 95 % of draws."
    )
    assert sentence in said
    assert scored_cells.uns["scdisent"]["statement"] in said


@pytest.mark.parametrize(
    ("auroc", "holds", "kind"),
    [(0.9, False, "leak"), (0.6, True, "small"), (0.5, True, "none"), (0.5, False, "undecided"),
     (0.9, None, "above"), (0.5, None, "within")],
)  # fmt: skip
def test_no_leak_is_said_only_where_one_is_excluded(auroc, holds, kind):
    row = pd.Series(
        {"auroc": auroc, "lower": auroc - 0.01, "upper": auroc + 0.01, "null_auroc": 0.5,
         "null_auroc_95": 0.55, "p_value": 0.01, "balanced_accuracy": 0.5, "bits": 0.0,
         "null_balanced_accuracy": 0.5, "null_balanced_accuracy_95": 0.55, "n_cells": 100}
    )  # fmt: skip
    text = "equivalence: x" if holds else "no equivalence: x"
    statement = None if holds is None else str(Equivalence(holds, text))
    said = verdict(row, codes="codes", statement=statement)
    assert said.kind == kind
    assert ("excluded" in said.opening) == (kind in ("none", "undecided"))


def test_where_the_ceiling_is_low_values_decide_and_not_the_normalised_ones():
    rows = [
        ("p", "prediction", "pearson_delta", 0.92, -1.0),
        ("b", "baseline", "pearson_delta", 0.9, 0),
        ("c", "ceiling", "pearson_delta", 0.8, 1.0), ("p", "prediction", "mmd", 0.3, 0.5),
        ("b", "baseline", "mmd", 0.2, 0), ("c", "ceiling", "mmd", 0.1, 1.0),
    ]  # fmt: skip
    notes = ahead(pd.DataFrame(rows, columns=["method", "kind", "metric", "value", "normalised"]))
    assert notes[0] == "p: better than the best baseline in 1 of 2 metrics."
    assert "for pearson_delta: " in notes[1]
    assert "only baseline" in notes[2]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.12345, "0.123"), (0.0, "0"), (1e-5, "1.0e-05"), (123.456, "123.5"), (-1.0, "-1.000")],
)
def test_numbers_are_short(value, shown):
    assert number(value) == shown


def test_tables_keep_all_digits_and_align_numbers():
    frame = pd.DataFrame({"name": ["a"], "value": np.float32([0.1]), "n": [1234.0], "ok": [True]})
    html = table(frame, caption="c", heads={"value": "v"})
    exact = repr(float(np.float32(0.1)))
    assert f'<td class="number" data-value="{exact}" title="{exact}">0.100</td>' in html
    assert '<th scope="row">a</th>' in html
    assert '<th scope="col" class="number">v</th>' in html
    assert ">1,234</td><td>yes</td>" in html


# --- what is missing --------------------------------------------------------------------------


def test_missing_parts_name_the_call_and_show_no_numbers(embedded_cells, written, read_page):
    page = read_page(written(embedded_cells))
    calls = {
        "leakage": ["scdisent.tl.score(adata, model)"],
        "latents": [f"scdisent.tl.{name}(adata" for name in ("fvh_lt", "dbsr_ls", "lsdi")],
        "response": ["scdisent.tl.evaluate_response(", "scdisent.tl.check_response(model)"],
        "scores": ["scdisent.tl.score(adata, model)"],
    }
    for section, names in calls.items():
        assert all(name in page.sections[section] for name in names), section
    assert len(page.images) == 1, "the training curves"
    assert {LEAKAGE, LATENTS, RESPONSE, SCORES}.isdisjoint(page.tables)


def test_what_earlier_versions_did_not_store_is_not_guessed(embedded_cells, written, read_page):
    for name in ("layer", "preset", "likelihood"):
        del embedded_cells.uns["scdisent"]["embed"][name]
    page = read_page(written(embedded_cells))
    assert page.sections["data"].count("not stored; pass the model") == 3


def test_without_codes_and_history_embed_is_named(embedded_cells, written, read_page):
    del embedded_cells.uns["scdisent"]["history"], embedded_cells.obsm["X_scdisent_specific"]
    page = read_page(written(embedded_cells))
    call = "scdisent.tl.embed(adata, model)"
    assert call in page.sections["training"]
    assert f"'specific' are not stored. To make it: {call}" in page.sections["embeddings"]
    assert "Invariant codes" in page.sections["embeddings"]


def test_a_column_that_is_gone_is_said(embedded_cells, written, read_page):
    del embedded_cells.obs["condition"]
    page = read_page(written(embedded_cells))
    assert "adata.obs has no column 'condition'" in page.sections["data"]
    assert "By cell type" in page.sections["embeddings"]
    assert "By condition" not in page.sections["embeddings"]


def test_without_any_result_nothing_is_written(embedded_cells, tmp_path):
    del embedded_cells.uns["scdisent"]
    old = tmp_path / "page.html"
    old.write_text("old")
    with pytest.raises(InputDataError, match="scdisent.tl.embed"):
        report.write(embedded_cells, out=old)
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


class Model:
    """A model of which the page reads only what is said of it."""

    representations = ("invariant", "specific")
    preset, likelihood = "default", "zinb"
    response_check_ = {"condition": "stimulated", "best": "ridge", "ratio": 1.25}

    def __init__(self, frame):
        keys = ("condition_key", "labels_key", "sample_key", "batch_key", "control", "layer")
        args = dict.fromkeys(keys) | {"condition_key": "condition", "labels_key": "cell_type"}
        self.registry_ = {"setup_args": args}
        self.history = {name: frame[[name]] for name in frame}


def test_of_a_closed_form_no_codes_are_asked(embedded_cells, written, read_page):
    model = Model(embedded_cells.uns.pop("scdisent")["history"])
    model.representations, model.history = (), None
    page = read_page(written(embedded_cells, model=model))
    for section in ("embeddings", "leakage", "latents", "scores"):
        assert "This model has no latent codes." in page.sections[section]
    assert "This model has no training curves." in page.sections["training"]
    assert "scdisent.tl.evaluate_response(" in page.sections["response"]


def test_the_model_adds_what_it_knows(scored_cells, written, read_page):
    model = Model(scored_cells.uns["scdisent"]["history"])
    page = read_page(written(scored_cells, model=model))
    assert "zinb" in page.sections["data"]
    assert (
        "1.250 times that of the best closed form, 'ridge'; the model is worse"
        in (page.sections["response"])
    )


def test_results_of_another_model_are_refused(scored_cells, written, tmp_path):
    model = Model(scored_cells.uns["scdisent"]["history"] + 1)
    with pytest.raises(InputDataError, match="of another one"):
        written(scored_cells, model=model)
    assert not list(tmp_path.iterdir())


# --- the file ---------------------------------------------------------------------------------


def test_text_from_the_data_cannot_become_markup(evil_cells, written, read_page):
    html = written(evil_cells, title=EVIL)
    page = read_page(html)
    assert EVIL not in html
    assert len(page.scripts) == 2
    assert page.titles == [EVIL]
    assert EVIL in page.texts("Cells of each cell type, by condition", "cell_type")
    assert 'd"4&' in page.texts("Cells of each donor, by condition", "donor")
    columns = {column["name"]: column for column in json.loads(page.scripts[0])["columns"]}
    assert EVIL in columns["cell type"]["levels"]
    assert not [attrs for _, attrs in page.attributes if any(key.startswith("on") for key in attrs)]


def test_nothing_is_loaded_from_elsewhere(example, page):
    html = example[1].read_text(encoding="utf-8")
    assert page.addresses
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?://|@import|url\(|//cdn", html)
    for image in page.images:
        svg = base64.b64decode(image["src"].partition("base64,")[2]).decode()
        links = re.findall(r'href="([^"]*)"', svg)
        assert all(link.startswith(("#", "data:")) for link in links)
    assert len(page.images) == 8


def test_figures_tables_and_page_can_be_read_without_seeing(page):
    assert all(len(image["alt"]) > 20 for image in page.images)
    assert all(caption.strip() for caption in page.tables)
    assert ("html", {"lang": "en"}) in page.attributes
    drawn = [attrs for tag, attrs in page.attributes if tag == "svg"]
    assert len(drawn) == 4
    assert all("coloured by" in attrs["aria-label"] for attrs in drawn)


def test_the_same_input_gives_the_same_bytes_apart_from_the_date(scored_cells, written):
    dated = re.compile(r"<time>[^<]*</time>")
    once, again = (written(scored_cells) for _ in range(2))
    assert len(dated.findall(once)) == 1
    assert dated.sub("", once) == dated.sub("", again)


def test_the_cells_are_not_changed(scored_cells, written):
    kept = scored_cells.copy()
    kept.uns = copy.deepcopy(scored_cells.uns)
    written(scored_cells)
    pd.testing.assert_frame_equal(scored_cells.obs, kept.obs)
    np.testing.assert_array_equal(scored_cells.X, kept.X)
    assert set(scored_cells.obsm) == set(kept.obsm)
    assert set(scored_cells.uns) == set(kept.uns)
    assert set(scored_cells.uns["scdisent"]) == set(kept.uns["scdisent"])
    for name, value in kept.uns["scdisent"].items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(scored_cells.uns["scdisent"][name], value)


def test_few_points_are_drawn_at_random_and_the_caption_says_so(
    scored_cells, written, monkeypatch, read_page
):
    monkeypatch.setattr(_source, "MOST_POINTS", 50)
    html = written(scored_cells, seed=3)
    page = read_page(html)
    said = f"50 of {scored_cells.n_obs} cells, drawn at random (seed 3)"
    assert page.sections["embeddings"].count(said) == 2
    data = json.loads(page.scripts[0])
    cells = np.random.default_rng(3).permutation(scored_cells.n_obs)[:50]
    shown = {column["name"]: column for column in data["columns"]}
    for name, key in {"condition": "condition", "cell type": "cell_type", "donor": "donor"}.items():
        levels = np.array(shown[name]["levels"])[shown[name]["codes"]]
        assert levels.tolist() == scored_cells.obs[key].iloc[cells].astype(str).tolist()
    xy = scored_cells.obsm["X_umap_scdisent_invariant"][cells]
    block = data["blocks"]["invariant"]
    assert np.corrcoef(xy[:, 0], block["x"])[0, 1] > 0.999
    assert np.corrcoef(xy[:, 1], block["y"])[0, 1] < -0.999
    assert html.count("h0") >= 4 * 50
