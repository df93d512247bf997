"""Benchmarks that make the published tables; each has one command, and long ones go on.

Studies have a page of their own; suites are grids of data, methods and seeds in TOML files. The
modules behind them are loaded on first use.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scdisent._errors import OptionError, one_of
from scdisent.benchmarks._catalogue import FOLDER, STUDIES, suite_titles

SUITES = suite_titles()
"""Suites by name, for :func:`run`."""

__all__ = ["STUDIES", "SUITES", "run", *STUDIES]


def __getattr__(name: str) -> Any:
    if name in STUDIES:
        return getattr(importlib.import_module(f"scdisent.benchmarks._{name}"), name)
    msg = f"module 'scdisent.benchmarks' has no attribute {name!r}"
    raise AttributeError(msg)


def run(
    name: str | Path,
    *,
    out: str | Path = "docs/benchmarks",
    n_jobs: int | None = None,
    backend: str = "joblib",
    seeds: Sequence[int] | None = None,
) -> Any:
    """Run a suite or a study and write its CSV, markdown page and figures to a folder.

    Parameters
    ----------
    name
        Of a suite or study, or path of a TOML file of a suite of your own.
    out
        The folder. A suite keeps a file for each run in ``runs`` there and goes on where it
        stopped.
    n_jobs
        Runs of a suite at a time, each on one core; None: as many as there are cores.
    backend
        ``"joblib"``: on this machine; ``"ray"``: on the cluster that ``RAY_ADDRESS`` names.
    seeds
        Of the suite; None: its own.

    Returns
    -------
    DataFrame with one row for each run.

    Raises
    ------
    BenchmarkError
        If runs failed; the tables hold the others.
    OptionError
        If the name is not known, the file is no suite, or options are given to a study.
    """
    text = str(name)
    if not text.endswith(".toml"):
        one_of(text, [*SUITES, *STUDIES], "suite")
    if text in STUDIES:
        if n_jobs is not None or seeds is not None or backend != "joblib":
            msg = f"{text!r} is a study: its jobs, backend and seeds are fixed. Leave them out."
            raise OptionError(msg)
        return __getattr__(text)(out)
    from scdisent.benchmarks import _run_suite

    path = Path(name) if text.endswith(".toml") else FOLDER / f"{text}.toml"
    return _run_suite.run_suite(path, Path(out), n_jobs=n_jobs, backend=backend, seeds=seeds)
