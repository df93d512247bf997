"""README and docs: their code runs, their links lead somewhere, their lists are complete."""

import functools
import importlib
import inspect
import re
from pathlib import Path

import pytest

import scdisent
from scdisent.cli._parser import EXAMPLES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = ("tl", "pl", "metrics", "datasets", "model", "benchmarks", "report")


def read(page):
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(page)):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_local_path(page):
    local = re.search(r"(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt)/", read(page))
    assert local is None, local


def test_the_story_of_the_readme_runs(monkeypatch, tmp_path):
    (story,) = re.findall(r"```python\n(.*?)```", read(ROOT / "README.md"), re.S)
    small = functools.partial(scdisent.datasets.simulate_conditions, n_cells=300, n_genes=60)
    train = scdisent.DISCoVeR.train
    quiet = {"max_epochs": 2, "enable_progress_bar": False}
    monkeypatch.setattr(scdisent.datasets, "simulate_conditions", small)
    monkeypatch.setattr(scdisent.DISCoVeR, "train", lambda model: train(model, **quiet))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(story, "README.md", "exec"), names)  # the project's own text
    keys = re.findall(r'^\| `(obsm|uns)(\["\S+"\])` \|', read(ROOT / "README.md"), re.M)
    assert len(keys) == 6
    for slot, key in keys:
        found = getattr(names["adata"], slot)
        for part in re.findall(r'\["(\w+)"\]', key):
            found = found[part]
        assert found is not None


def test_api_page_lists_every_public_name_and_no_other():
    page = read(ROOT / "docs" / "api.md")
    for room in ROOMS:
        public = set(importlib.import_module(f"scdisent.{room}").__all__)
        if room == "model":
            section = page.split("## `scdisent`")[1]
        else:
            section = page.split(f"## `scdisent.{room}`")[1].split("\n## ")[0]
            first = re.findall(r"^\| ([^|]+) \|", section, re.M)
            listed = set(re.findall(r"`(\w+)`", " ".join(first)))
            assert listed <= public, listed - public
        named = set(re.findall(r"`(\w+)`", section))
        assert public <= named, public - named


def test_api_page_lists_every_method_of_the_model():
    section = read(ROOT / "docs" / "api.md").split("## `scdisent.DISCoVeR`")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \|", section, re.M)
    listed = set(re.findall(r"`(\w+)`", " ".join(rows)))
    ours = {
        name
        for name, method in inspect.getmembers(scdisent.DISCoVeR, callable)
        if not name.startswith("_")
        and (getattr(method, "__module__", None) or "").startswith("scdisent.")
        and inspect.isroutine(method)
    }
    assert listed == ours


def test_verbs_of_the_command_line_are_listed():
    page = read(ROOT / "docs" / "api.md")
    for name in {example.split()[0] for example in EXAMPLES} - {"scdisent"}:
        assert f"`scdisent {name}`" in page


def test_references_are_whole_and_named_once():
    bib = read(ROOT / "docs" / "references.bib")
    keys = re.findall(r"^@\w+\{(\w+),", bib, re.M)
    assert len(keys) == len(set(keys)) == bib.count("author =") == bib.count("year =")
    assert bib.count("{") == bib.count("}")


@pytest.mark.parametrize("name", ["bfvae", "cgvae", "discover"])
def test_the_page_of_a_model_says_when_to_use_it_and_when_not_to_believe_it(name):
    page = read(ROOT / "docs" / "models" / f"{name}.md")
    for part in ("**Use it when**", "**Do not use it when**", "Assumptions", "Signs of failure"):
        assert part in page, part


def test_every_benchmark_is_made_by_make_and_listed():
    made = re.findall(r"for name in (.*?);", read(ROOT / "Makefile").replace("\\\n", ""), re.S)
    assert len(made) == 2
    names = {*made[0].split(), *made[1].split()}
    assert names == {*scdisent.benchmarks.STUDIES, *scdisent.benchmarks.SUITES} - {"smoke"}
    tables = {path.stem for path in (ROOT / "docs" / "benchmarks").glob("*.csv")}
    index = read(ROOT / "docs" / "benchmarks" / "index.md")
    assert tables <= names
    assert all(f"]({name}.md)" in index for name in tables)
