"""One call from a TOML file to tables."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from scdisent.benchmarks._catalogue import FOLDER
from scdisent.benchmarks._read_suite import expand, read_suite
from scdisent.benchmarks._runs import perform_all, tell, unpack
from scdisent.benchmarks._suite_page import write


def run_suite(
    path: Path, out: Path, *, n_jobs: int | None, backend: str, seeds: Sequence[int] | None
) -> pd.DataFrame:
    """Run what has no row yet, write the tables, then tell of runs that failed."""
    suite = read_suite(path, seeds=seeds)
    folder = out / "runs" / suite.name
    unpack(out / f"{suite.name}.csv", folder)
    done = perform_all(expand(suite), folder, n_jobs=n_jobs, backend=backend)
    named = suite.name if path.parent == FOLDER else path.name
    command = ["scdisent", "bench", named, "--out", out.name if out.is_absolute() else str(out)]
    command += [] if backend == "joblib" else ["--backend", backend]
    command += [] if seeds is None else ["--seeds", *map(str, seeds)]
    write(suite, done, out, command=shlex.join(command))
    tell(done.failed)
    return done.rows
