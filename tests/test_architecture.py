"""The layer rule of docs/architecture.md, read off the syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scdisent

PACKAGE = Path(scdisent.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_data_registry" not in path.parts)
LAYERS = {
    "_constants": 0,
    "_errors": 0,
    "_names": 0,
    "_whole": 0,
    "conditions": 1,
    "splits": 2,
    "functional": 1,
    "metrics": 1,
    "effects": 2,
    "nn": 2,
    "datasets": 2,
    "module": 3,
    "train": 4,
    "data": 4,
    "model": 5,
    "tl": 6,
    "pl": 6,
    "benchmarks": 7,
    "report": 7,
    "cli": 8,
    "__main__": 9,
}


PUBLIC_DOOR = 6


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Full names of all modules that a file imports, nested imports included."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_lower_layers(path):
    if path.parent == PACKAGE and path.name == "__init__.py":
        pytest.skip("the package's door loads everything lazily")
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "scdisent" or len(parts) < 2 or parts[1] in ("__version__", room(path)):
            continue
        layer = LAYERS.get(parts[1], PUBLIC_DOOR)  # `from scdisent import DISCoVeR`
        assert layer < LAYERS[room(path)], f"{room(path)} imports {name}"


@pytest.mark.parametrize("folder", ["pl", "metrics", "datasets", "report"])
def test_plots_metrics_and_data_need_no_torch(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        heavy = [n for n in imports(path) if n.split(".")[0] in ("torch", "scvi", "lightning")]
        assert not heavy, f"{path.name} imports {heavy}"


def test_only_public_names_of_other_packages_are_imported():
    for path in FILES:
        for name in imports(path):
            parts = name.split(".")
            if parts[0] not in ("scdisent", "__future__"):
                private = [part for part in parts if part.startswith("_")]
                assert not private, f"{path.name} imports {name}"


def test_importing_the_package_loads_no_torch_and_changes_nothing():
    code = (
        "import sys, warnings, logging\n"
        "before = list(warnings.filters), logging.getLogger().level, logging.root.handlers[:]\n"
        "import scdisent\n"
        "assert 'torch' not in sys.modules and 'scvi' not in sys.modules\n"
        "after = list(warnings.filters), logging.getLogger().level, logging.root.handlers[:]\n"
        "assert before == after\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
