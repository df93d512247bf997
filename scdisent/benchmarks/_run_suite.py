"""One call from a TOML file to tables."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from joblib import effective_n_jobs

from scdisent.benchmarks import _suite_page as page
from scdisent.benchmarks._read_suite import expand, read_suite
from scdisent.benchmarks._runs import perform_all, tell


def run_suite(
    path: Path, out: Path, *, n_jobs: int | None, backend: str, seeds: Sequence[int] | None
) -> pd.DataFrame:
    """Run what has no row yet, write the tables, then tell of runs that failed."""
    suite = read_suite(path, seeds=seeds)
    folder = out / "runs" / suite.name
    n_jobs = -1 if n_jobs is None else n_jobs
    rows, failed = perform_all(expand(suite), folder, n_jobs=n_jobs, backend=backend)
    command = ["scdisent", "bench", suite.name, "--out", out.name]
    command += [] if backend == "joblib" else ["--backend", backend]
    command += [] if seeds is None else ["--seeds", *map(str, seeds)]
    how = {"command": shlex.join(command), "n_jobs": effective_n_jobs(n_jobs)}
    page.write(suite, rows, out, **how, failed=failed)
    tell(failed)
    return rows
