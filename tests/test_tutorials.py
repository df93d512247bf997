"""Tutorials run as they are, quickly; what is stored in them is whole and tells nothing private."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))
MAX_BYTES = 1_000_000
LOCAL = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt|opt|usr|var)/|site-packages|[A-Z]:\\\\"
)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_there_are_tutorials():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07", "08"]


def test_every_tutorial_is_listed(path):
    assert f"](../tutorials/{path.name})" in (path.parents[1] / "docs/tutorials.md").read_text()


def test_stored_outputs_are_whole_and_in_order(path):
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) >= 3


def test_nothing_local_and_nothing_large_is_stored(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < MAX_BYTES
    images = re.compile(r'"image/png": "[^"]*"')
    found = LOCAL.search(images.sub("", text))
    assert found is None, found
    metadata = read(path).metadata
    assert set(metadata) <= {"kernelspec", "language_info"}
    assert metadata["kernelspec"]["name"] == "python3"


def to_run(path):
    """The longest ones go with the slow tests, so that the default run stays short."""
    is_long = path.stem[:2] in ("03", "07")
    return pytest.param(path, id=path.stem, marks=[pytest.mark.science] * is_long)


@pytest.mark.tutorial
@pytest.mark.parametrize("path", map(to_run, NOTEBOOKS))
def test_tutorial_runs(path, monkeypatch, tmp_path):
    monkeypatch.setenv("SCDISENT_TUTORIAL_EPOCHS", "3")
    monkeypatch.setenv("MPLBACKEND", "Agg")  # figures are drawn, not encoded
    notebook = read(path)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    assert not list(tmp_path.iterdir()), "a tutorial leaves no files behind"
