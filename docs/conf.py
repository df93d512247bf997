"""Sphinx: the pages of this folder, the tutorials as they are stored, the docstrings.

``make docs`` needs no network: links into the pages of other projects (intersphinx) are left out.
"""

import importlib
import inspect
import pkgutil
import re
import shutil
from functools import reduce
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.typing import stringify_annotation

import scdisent

DOCS = Path(__file__).parent
ARRAY_LIKE = stringify_annotation(ArrayLike, "smart")
NDARRAY = r"~?numpy\.ndarray\[tuple\[.*?\], ~?numpy\.dtype\[[^][]*\]\]"
ROOMS = [name for name in scdisent.__all__ if inspect.ismodule(getattr(scdisent, name))]


def public(room: str) -> list[str]:
    """Names that a module lists."""
    return getattr(scdisent, room).__all__


project, author, copyright = "scdisent", "The scdisent developers", "The scdisent developers"
release = version = scdisent.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "sphinx_book_theme"
html_title = "scdisent"
html_copy_source = html_show_sourcelink = False
html_theme_options = {"max_navbar_depth": 2, "navbar_persistent": []}

nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]

autosummary_ignore_module_all = False  # public is what __all__ lists
autosummary_imported_members = True
autosummary_context = {"submodules": ROOMS}
autosummary_filename_map = {  # names that differ in case only are one file on some disks
    f"scdisent.{room}.{name}": f"scdisent.{room}.{name}-class"
    for room in ROOMS
    for name in public(room)
    if name != name.lower() and name.lower() in public(room)
}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_custom_sections = ["Returns"]  # what comes back is told in a sentence, without a type


def short_types(app: Sphinx, thing: Any, bound_method: bool) -> None:
    """Arrays by a word; what numpy calls them is a line long."""
    notes = getattr(thing, "__annotations__", {})
    for name, kind in notes.items():
        text = stringify_annotation(kind, "smart").replace(ARRAY_LIKE, "array_like")
        notes[name] = re.sub(NDARRAY, "ndarray", text)


def tutorials_as_pages() -> None:
    """Copy the notebooks here: Sphinx reads pages of its own folder only."""
    shutil.rmtree(DOCS / "tutorials", ignore_errors=True)
    shutil.copytree(DOCS.parent / "tutorials", DOCS / "tutorials")


def links(app: Sphinx, page: str, source: list[str]) -> None:
    """Links that work on a forge, made to work here: notebooks, names of the API page."""
    text = re.sub(r"\]\((?:\.\./)+tutorials/", "](/tutorials/", source[0])
    if page == "api":
        sections = re.split(r"(?m)^(?=## `)", text)
        text = "".join(map(linked_names, sections))
    source[0] = text


def linked_names(section: str) -> str:
    """Names that the section's module or class has, linked to their pages."""
    title = re.match(r"## `(scdisent[\w.]*)`", section)
    if title is None:
        return section
    owner = reduce(getattr, title[1].split(".")[1:], scdisent)

    def link(found: re.Match[str]) -> str:
        name = found[1]
        return f"{{py:obj}}`{name} <{title[1]}.{name}>`" if hasattr(owner, name) else found[0]

    head, *rows = section.split("\n")
    return "\n".join([head, *(re.sub(r"`(\w+)`", link, row) for row in rows)])


def only_ours(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool:
    """Skip what classes inherit from scvi-tools and others."""
    owner = getattr(member, "__module__", None) or getattr(
        getattr(member, "fget", None), "__module__", "scdisent"
    )
    return skip or not owner.startswith("scdisent")


def constants(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """The string below a constant, where the package only hands it on."""
    if what != "data":
        return
    room, _, attribute = name.rpartition(".")
    path = getattr(importlib.import_module(room), "__path__", ())
    for file in [room, *(found.name for found in pkgutil.iter_modules(path, f"{room}."))]:
        told = ModuleAnalyzer.for_module(file).find_attr_docs()
        lines[:] = told.get(("", attribute), lines)
    if thing is scdisent.metrics.METRICS:
        lines += table_of_metrics()


def table_of_metrics() -> list[str]:
    """Every row of METRICS, in the table's own words."""
    rows = [("metric", "range", "better", "source", "what differs from the source")]
    for name, row in scdisent.metrics.METRICS.items():
        low, high = (f"{end:g}" for end in row.range)
        link = f":func:`~scdisent.metrics.{name}`"
        rows.append((link, f"{low} to {high}", row.direction, row.source, row.deviation))
    cells = [
        f"   {'* -' if i == 0 else '  -'} {cell}" for row in rows for i, cell in enumerate(row)
    ]
    return ["", ".. list-table::", "   :header-rows: 1", "", *cells, ""]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    tutorials_as_pages()
    app.connect("source-read", links)
    app.connect("autodoc-before-process-signature", short_types)
    app.connect("autodoc-skip-member", only_ours)
    app.connect("autodoc-process-docstring", constants)
