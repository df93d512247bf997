"""Rules of style that a reviewer would otherwise repeat, checked on every public name."""

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import scdisent

PACKAGE = Path(scdisent.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_data_registry" not in path.parts)
ROOMS = ("model", "tl", "pl", "metrics", "datasets", "report")
MAX_POSITIONAL, MAX_BODY, MAX_MODULE = 2, 60, 450
RESPONSE = "pearson_delta weighted_mse r2_delta de_overlap direction_match de_pr_auc"
THREE_ARRAYS = {
    "tl.evaluate_response",
    "tl.response_pair",
    *(f"metrics.{name}" for name in RESPONSE.split()),
}
"""The agreed form of a response metric takes (observed, predicted, control)."""


def public_functions():
    """Name and function of everything a user calls; the constructor stands for its class."""
    found = {"setup_anndata": scdisent.setup_anndata}
    for room in ROOMS:
        module = importlib.import_module(f"scdisent.{room}")
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                found[f"{room}.{name}"] = thing
            elif inspect.isclass(thing) and room == "model":
                found[f"{room}.{name}"] = thing
                found |= {f"{room}.{name}.{key}": value for key, value in methods(thing)}
    return found


def methods(cls):
    """Public methods that the package itself defines, those of scvi-tools left out."""
    for name, method in inspect.getmembers(cls):
        function = getattr(method, "__func__", method)
        ours = (getattr(function, "__module__", None) or "").startswith("scdisent.")
        if not name.startswith("_") and inspect.isfunction(function) and ours:
            yield name, function


FUNCTIONS = public_functions()


def parameters(function):
    """Parameters of a signature without ``self`` and ``cls``."""
    function = function.__init__ if inspect.isclass(function) else function
    found = inspect.signature(function).parameters.values()
    return [each for each in found if each.name not in ("self", "cls")]


def documented(function):
    """Names in the numpydoc section ``Parameters``, in their order."""
    doc = inspect.getdoc(function) or ""
    section = re.search(r"^Parameters\n-{10}\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", doc, re.S | re.M)
    if section is None:
        return []
    entries = [line for line in section[1].splitlines() if line and not line[0].isspace()]
    names = [name for line in entries for name in line.split(" : ")[0].split(",")]
    return [name.strip().lstrip("*") for name in names]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_lists_exactly_the_parameters_of_the_signature(name):
    function = FUNCTIONS[name]
    assert sorted(documented(function)) == sorted(each.name for each in parameters(function))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_two_positional_parameters_at_most(name):
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    positional = [each.name for each in parameters(FUNCTIONS[name]) if each.kind in kinds]
    assert len(positional) <= MAX_POSITIONAL + (name in THREE_ARRAYS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_boolean_is_positional(name):
    for each in parameters(FUNCTIONS[name]):
        if isinstance(each.default, bool):
            assert each.kind is inspect.Parameter.KEYWORD_ONLY, each.name


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_every_public_name_resolves_and_says_what_it_is(room):
    module = importlib.import_module(f"scdisent.{room}".rstrip("."))
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        thing = getattr(module, name)
        assert inspect.getdoc(thing) or not callable(thing), name


def test_the_package_lists_its_names():
    assert {*scdisent.__all__, "__version__"} <= set(dir(scdisent))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        scdisent.nonsense  # noqa: B018


def test_metrics_table_lists_every_metric_and_its_source():
    metrics = scdisent.metrics
    functions = {n for n in metrics.__all__ if inspect.isfunction(getattr(metrics, n))}
    assert functions - set(metrics.METRICS) <= {"top_genes", "de_weights"}, "of genes, no metric"
    for name, row in metrics.METRICS.items():
        assert row.name == name == row.function.__name__
        assert row.function is getattr(metrics, name)
        assert row.source.strip(), name
        assert row.range[0] < row.range[1], name
        assert row.direction in ("higher", "lower"), name


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def body_lines(function):
    """Lines of a function's body after the docstring."""
    body = function.body
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(getattr(first, "value", None), ast.Constant):
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree(path)):
        if isinstance(node, kinds):
            assert body_lines(node) <= MAX_BODY, f"{node.name} in line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_warning_is_built_and_dropped(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func).rpartition(".")[2]
            dropped = re.search(r"(Warning|Error|Exception)$", called)
            assert not dropped, f"line {node.lineno}: {called} is neither raised nor warned"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_loose_ends_and_no_asserts(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    asserts = [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)]
    assert not asserts, "raise an error of scdisent._errors: asserts vanish under python -O"


def test_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == scdisent.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {scdisent.__version__}" in changelog
