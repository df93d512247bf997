"""What a user gets from the index: cards, suites and types are in the wheel, tests are not."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*command, str(ROOT)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"scdisent"}
    template = [f"report/page.{kind}" for kind in ("html", "css", "js")]
    for needed in ("py.typed", "cli/__init__.py", "_data_registry/single_cell.toml", *template):
        assert f"scdisent/{needed}" in names
    unwanted = [n for n in names if "test" in n.lower() or n.endswith((".ipynb", ".h5ad", ".pyc"))]
    assert not unwanted
    cards = {path.name for path in (ROOT / "data_registry").glob("*.toml")}
    assert {f"scdisent/_data_registry/{name}" for name in cards} <= set(names)
    suites = {path.name for path in (ROOT / "scdisent" / "benchmarks" / "suites").glob("*.toml")}
    assert {"smoke.toml", "single_cell.toml"} <= suites
    assert {f"scdisent/benchmarks/suites/{name}" for name in suites} <= set(names)


def test_installed_wheel_lists_its_data_from_anywhere(wheel, tmp_path):
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True)
    code = (
        "import sys, scdisent, scdisent.cli\n"
        "print(scdisent.__file__)\n"
        "print(*scdisent.datasets.list().index)\n"
        "sys.exit(scdisent.cli.main(['data', 'list']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(target)},
    )
    where, names, *_ = done.stdout.splitlines()
    assert Path(where).is_relative_to(target), "the checkout must not be what was imported"
    assert {"kang2018", "mnist"} <= set(names.split())
    assert (target / "bin" / "scdisent").exists() or os.name == "nt"
