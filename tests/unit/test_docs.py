"""Statements of the docs that can be read off the code."""

import inspect
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import scdisent
from scdisent import metrics
from scdisent.model._bfvae import MEMBERS
from scdisent.model._cggan import CGGAN_PRESETS
from scdisent.model._cgvae import CG_PRESETS, OF_COUNTS
from scdisent.model._discover import PRESETS
from scdisent.module import BFVAE_TERMS, CGGAN_TERMS, CGVAE_TERMS, TERMS

DOCS = Path(__file__).parents[2] / "docs"


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(("column", "preset"), [(1, "default"), (2, "paper")])
def test_the_table_of_presets_equals_the_code(column, preset):
    page = (DOCS / "models" / "discover.md").read_text()
    table = page.split("<!-- presets")[1].split("**Why")[0]
    chosen = PRESETS[preset]
    known = {**chosen.weights, **asdict(chosen.options), **chosen.plan}
    shown = {row[0].strip("`"): row[column] for row in rows(table)}
    assert {name: str(known.get(name, "")) for name in shown} == shown
    assert set(chosen.weights) <= set(shown)


def test_every_term_is_explained():
    page = (DOCS / "models" / "discover.md").read_text()
    glossary = (DOCS / "glossary.md").read_text()
    for term in TERMS:
        assert f"| `{term}` |" in page
        assert f"`{term}`" in glossary


def table(page, name):
    """Cells of the rows between the marks of a table, by the name in their first cell."""
    text = (DOCS / page).read_text().split(f"<!-- {name}")[1].split(f"<!-- end of {name}")[0]
    header = next(line for line in text.splitlines() if line.startswith("| "))
    names = [cell.strip(" `") for cell in header.strip("|").split("|")][1:]
    return {row[0].strip("`"): dict(zip(names, row[1:], strict=True)) for row in rows(text)}


def in_force(options, weights):
    """Settings of a member that have an effect."""
    idle = {name for name, weight in weights.items() if not weight}
    if not weights["tc"]:
        idle.add("tc_estimator")
    if not (weights["dip_off"] or weights["dip_diagonal"]):
        idle.add("dip_covariance")
    if not options.capacity:
        idle |= {"capacity", "capacity_rise", "capacity_power"}
    known = {**weights, **asdict(options)}
    return {name: "" if name in idle else str(value) for name, value in known.items()}


def test_the_table_of_members_equals_the_code():
    shown = table("models/bfvae.md", "members")
    members = {name: in_force(*setting) for name, setting in MEMBERS.items()}
    for name, row in shown.items():
        assert row == {member: found[name] for member, found in members.items()}, name
    differ = {
        name for name in members["vae"] if len({found[name] for found in members.values()}) > 1
    }
    assert differ | set(BFVAE_TERMS) == set(shown)


def settings(*parts):
    """Weights, options and arguments of the plan as a table shows them; a weight of 0: empty."""
    known = {name: value for part in parts for name, value in part.items()}
    return {name: str(value) if value != 0 else "" for name, value in known.items()}


def test_the_tables_of_presets_of_cg_models_equal_the_code():
    options, weights = CG_PRESETS["default"]
    columns = {name: settings(asdict(o), w) for name, (o, w) in CG_PRESETS.items()}
    columns["default`, counts"] = settings(asdict(options), weights, OF_COUNTS)
    gan = {name: settings(asdict(o), w, plan) for name, (o, w, plan) in CGGAN_PRESETS.items()}
    for model, known, terms in (("CGVAE", columns, CGVAE_TERMS), ("CGGAN", gan, CGGAN_TERMS)):
        shown = table("models/cgvae.md", f"presets of {model}")
        assert set(terms) <= set(shown)
        for name, row in shown.items():
            assert row == {preset: known[preset][name] for preset in row}, name


def test_every_term_of_cg_models_is_explained():
    page, glossary = (DOCS / "models/cgvae.md").read_text(), (DOCS / "glossary.md").read_text()
    for term in {*CGVAE_TERMS, *CGGAN_TERMS}:
        assert re.search(rf"^\| (`\w+`, )*`{term}`", page, re.M), term
        assert f"`{term}`" in glossary or term.startswith(("nll_", "kl_")) or term == "gate", term


def test_every_term_of_bfvae_is_explained():
    page = (DOCS / "models" / "bfvae.md").read_text()
    glossary = (DOCS / "glossary.md").read_text()
    for term in (*BFVAE_TERMS, "kl_capacity"):
        assert f"| `{term}` |" in page
        assert f"`{term}`" in glossary


def test_every_method_of_bfvae_is_listed():
    section = (DOCS / "api.md").read_text().split("## `scdisent.BFVAE`")[1].split("\n## ")[0]
    listed = {name for row in rows(section) for name in re.findall(r"`(\w+)`", row[0])}
    ours = {
        name
        for name, method in inspect.getmembers(scdisent.BFVAE, inspect.isroutine)
        if not name.startswith("_")
        and (getattr(method, "__module__", None) or "").startswith("scdisent.")
    }
    assert listed == ours


def codes_and_factors(kind):
    rng = np.random.default_rng(0)
    factors = rng.uniform(-1, 1, (1000, 3))
    if kind == "independent codes":
        return rng.standard_normal((1000, 6)), factors
    turn = np.eye(3)
    turn[:2, :2] = np.sqrt(0.5) * np.array([[1, 1], [-1, 1]])
    return factors @ turn, factors


@pytest.mark.parametrize("name", table("scores.md", "floors"))
def test_floors_of_supervised_metrics_are_as_printed(name):
    row = table("scores.md", "floors")[name]
    for kind in list(row)[:2]:
        found = getattr(metrics, name)(*codes_and_factors(kind))
        if name == "dci":
            found = (found.disentanglement + found.completeness) / 2
        assert found == pytest.approx(float(row[kind]), abs=0.05)
