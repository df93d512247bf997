"""The documentation builds without a warning and has a page for each public name."""

import functools
import importlib
import inspect
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import scdisent

ROOT = Path(__file__).parents[1]
ROOMS = ("tl", "pl", "metrics", "datasets", "benchmarks", "splits", "effects")
NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinxcontrib.bibtex")


def is_here(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package it lies in
        return False


MISSING = [module for module in NEEDED if not is_here(module)]
pytestmark = [
    pytest.mark.docs,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}; see group docs"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Log and folder of a build from copies, so that nothing is written beside the sources."""
    root = tmp_path_factory.mktemp("docs")
    made = shutil.ignore_patterns("_build", "generated", "tutorials")
    shutil.copytree(ROOT / "docs", root / "docs", ignore=made)
    shutil.copytree(ROOT / "tutorials", root / "tutorials")
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, root)
    html = root / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [*command, str(root / "docs"), str(html)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    return run, html


@functools.cache
def text(page):
    return page.read_text(encoding="utf-8")


def test_the_build_has_no_warning(built):
    run, _ = built
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_every_public_name_has_a_page_and_is_linked_from_the_list(built, room):
    _, html = built
    owner = f"scdisent.{room}".rstrip(".")
    module = importlib.import_module(owner)
    names = [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    pages = {path.stem.removesuffix("-class") for path in (html / "generated").iterdir()}
    assert {f"{owner}.{name}" for name in names} <= pages
    if room not in ("splits", "effects"):  # the list sums these up
        listed = text(html / "api.html")
        assert not [name for name in names if f'title="{owner}.{name}"' not in listed]


@pytest.mark.parametrize("name", ["DISCoVeR", "CGVAE", "CGGAN", "BFVAE", "ShiftModel"])
def test_pages_of_models_have_their_methods_and_none_of_scvi_tools(built, name):
    _, html = built
    page = text(html / "generated" / f"scdisent.{name}.html")
    for method in ("train", "save", "load", "setup_anndata"):
        assert f'id="scdisent.{name}.{method}"' in page
    assert f'id="scdisent.{name}.view_anndata_setup"' not in page


def test_constants_have_their_own_words(built):
    _, html = built
    page = text(html / "generated" / "scdisent.effects.TARGET_SUM.html")
    assert "Counts that a cell is scaled to" in page


def test_the_table_of_metrics_is_shown(built):
    _, html = built
    page = text(html / "generated" / "scdisent.metrics.METRICS.html")
    for name in scdisent.metrics.METRICS:
        assert f"scdisent.metrics.{name}" in page


def test_links_between_pages_and_to_tutorials_are_pages(built):
    _, html = built
    assert 'href="tutorials/01_quickstart.html"' in text(html / "tutorials.html")
    assert 'href="../prediction.html"' in text(html / "models" / "discover.html")
    assert 'href="benchmarks/index.html"' in text(html / "index.html")
