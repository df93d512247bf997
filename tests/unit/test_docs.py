"""Statements of the docs that can be read off the code."""

from dataclasses import asdict
from pathlib import Path

import pytest

from scdisent.model._discover import PRESETS
from scdisent.module import TERMS

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
