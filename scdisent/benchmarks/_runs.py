"""Runs of a suite: known again by content, stored one file each, shared out among processes."""

import ast
import hashlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from scdisent._errors import ScDisentError, missing_extra, one_of
from scdisent.benchmarks._data import content_hash, make_world
from scdisent.benchmarks._measures import MEASURES
from scdisent.benchmarks._methods import MAKERS
from scdisent.benchmarks._suite import Data, Run
from scdisent.benchmarks._world import World

BACKENDS = ("joblib", "ray")
NAMES, KEY = ("data", "method", "seed"), "key"
"""Columns that say which run a row is of."""
TIMES = ("seconds", "cpu_seconds")
"""Columns that are not the same in two runs of the same key."""
NO_PART = ("cli", "datasets", "pl", "report")
"""Folders that a fit and its measures do not depend on; what data sets hold is hashed itself."""
OF_BENCHMARKS = (
    "_hcsvae.py",
    "_measures.py",
    "_methods.py",
    "_separation.py",
    "_swap.py",
    "_world.py",
)
LIBRARIES = (
    "scvi-tools", "torch", "lightning", "anndata", "numpy", "scipy", "scikit-learn", "zuko",
)  # fmt: skip
"""Whose versions are part of the key."""
MAX_ERROR = 300
"""Characters of the message of a run that failed."""
PACKAGE = Path(__file__).parents[1]


class BenchmarkError(ScDisentError, RuntimeError):
    """Runs of a suite have no result."""


@dataclass(frozen=True)
class Task:
    """One run, the key it is stored under, and where."""

    run: Run
    key: str
    folder: Path

    @property
    def path(self) -> Path:
        """File of its row."""
        return self.folder / f"{self.key}.parquet"


@dataclass(frozen=True)
class Outcome:
    """Row of a run, or why there is none."""

    task: Task
    row: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class Performed(NamedTuple):
    """What became of the runs of a suite."""

    rows: pd.DataFrame
    """One row for each run that has a result, in the order asked for."""
    failed: list[Outcome]
    n_jobs: int
    """Runs that went on at a time."""


@cache
def code_version() -> dict[str, str]:
    """Hash of the source files that results depend on, and versions of the libraries below."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        of_results = parts[-1] in OF_BENCHMARKS if parts[0] == "benchmarks" else True
        if of_results and parts[0] not in NO_PART:
            digest.update(f"{'/'.join(parts)}\0{_statements(path)}".encode())
    return {"source": digest.hexdigest(), **{p: version(p) for p in LIBRARIES}}


def _statements(path: Path) -> str:
    """Source without comments and docstrings: words change no result."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [each for each in node.body if not _is_text(each)]
    return ast.unparse(tree)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def key_of(run: Run, cells: str) -> str:
    """Hash of the content of the data, the code and all settings; names do not count.

    Parameters
    ----------
    run
        The run.
    cells
        :func:`content_hash` of its data.
    """
    data = run.data
    content = {
        "cells": cells,
        "columns": [dict(data.setup), data.shared, data.shared_numbers, data.likelihood],
        "method": [run.method.make, run.method.options, run.method.train],
        "measures": sorted(run.measures),
        "seed": run.seed,
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def world_of(data: Data) -> tuple[World, str]:
    """Cells of a data set and their hash; the last ones stay in memory for further runs."""
    return _made(json.dumps(asdict(data), sort_keys=True))


@lru_cache(maxsize=1)
def _made(described: str) -> tuple[World, str]:
    with _quiet():
        world = make_world(Data(**json.loads(described)))
    return world, content_hash(world)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep remarks of single fits off the progress bar: tables say how fits went."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _one_core() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(n_threads)


def perform(task: Task) -> Outcome:
    """Fit and measure on one core, and store the row; an error is returned, not raised."""
    run = task.run
    try:
        with _one_core(), _quiet():
            world, cells = world_of(run.data)
            if key_of(run, cells) != task.key:
                msg = "data or code are not the same here as where the suite was started."
                raise BenchmarkError(msg)
            method = run.method
            given = {"options": method.options, "train": method.train}
            fit = MAKERS[method.make].fit(world, run.seed, **given)
            row: dict[str, Any] = {time: getattr(fit, time) for time in TIMES}
            for name in run.measures:
                row |= MEASURES[name](world, fit, run.seed)
        _store(row, task.path)
    except Exception as error:  # noqa: BLE001 - the other runs go on; all errors are told at the end
        text = " ".join(str(error).split())[:MAX_ERROR]
        return Outcome(task, error=f"{type(error).__name__}: {text}")
    return Outcome(task, row)


def _store(row: dict[str, Any], path: Path) -> None:
    """Write a row whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}-{os.getpid()}.part")
    try:
        pd.DataFrame([row], dtype="float64").to_parquet(part, index=False)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def perform_all(
    runs: Sequence[Run], folder: Path, *, n_jobs: int | None, backend: str
) -> Performed:
    """Perform the runs that have no row yet.

    Parameters
    ----------
    runs
        What the table is about, in its order.
    folder
        Where rows are stored. On a cluster best on a disk that all machines see: else rows are
        written when all runs are done.
    n_jobs
        Runs at a time, each on one core; 1: in this process; None: as many as there are cores.
    backend
        ``"joblib"``: on this machine; ``"ray"``: on the cluster that ``RAY_ADDRESS`` names.
    """
    tasks = [Task(run, key_of(run, world_of(run.data)[1]), folder) for run in runs]
    left = [task for task in tasks if not task.path.exists()]
    # One seed of everything first: a suite cut short is of use.
    left.sort(key=lambda task: [run.seed for run in runs].index(task.run.seed))
    n_done = len(tasks) - len(left)
    with _machines(backend) as n_cores, tqdm(total=len(tasks), initial=n_done) as bar:
        try:
            outcomes = _Watched(n_jobs or n_cores, bar=bar)(delayed(perform)(task) for task in left)
        except BrokenProcessPool as error:
            msg = (
                "a process was ended from outside, perhaps for memory. Finished runs are kept: "
                "start the same command again, with fewer --jobs."
            )
            raise BenchmarkError(msg) from error
    for outcome in outcomes:
        if outcome.row and not outcome.task.path.exists():
            _store(outcome.row, outcome.task.path)
    _made.cache_clear()
    rows = [_read(task) for task in tasks if task.path.exists()]
    failed = [outcome for outcome in outcomes if outcome.error]
    return Performed(pd.DataFrame(rows), failed, n_jobs or n_cores)


def _read(task: Task) -> dict[str, Any]:
    run = task.run
    names = dict(zip(NAMES, (run.data.name, run.method.name, run.seed), strict=True))
    return names | {KEY: task.key} | pd.read_parquet(task.path).iloc[0].to_dict()


def unpack(table: Path, folder: Path) -> None:
    """Store the rows of a table made before, so that a suite goes on from its table alone."""
    if not table.exists():
        return
    rows = pd.read_csv(table, float_precision="round_trip")
    if KEY not in rows:
        return
    for key, row in rows.set_index(KEY).drop(columns=list(NAMES)).iterrows():
        path = folder / f"{key}.parquet"
        if not path.exists():
            _store(row.to_dict(), path)


class _Watched(Parallel):
    """Joblib's engine with a progress bar; each run is given out alone."""

    def __init__(self, n_jobs: int, *, bar: tqdm) -> None:
        super().__init__(n_jobs, batch_size=1, max_nbytes=None)
        self.bar, self.start = bar, bar.n

    def print_progress(self) -> None:
        """Move the bar; joblib calls this whenever a run is done."""
        self.bar.update(self.start + self.n_completed_tasks - self.bar.n)


@contextmanager
def _machines(backend: str) -> Iterator[int]:
    """Choose where joblib sends runs to; yields the number of cores there."""
    if one_of(backend, BACKENDS, "backend") == "joblib":
        with parallel_config("loky"):
            yield cpu_count()
        return
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        msg = str(missing_extra("scdisent[cluster]", purpose="backend='ray'"))
        raise BenchmarkError(msg) from error
    was_there = ray.is_initialized()
    if not was_there:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    register_ray()
    try:
        with parallel_config("ray"):
            yield int(ray.cluster_resources()["CPU"])
    finally:
        if not was_there:
            ray.shutdown()


def tell(failed: Sequence[Outcome]) -> None:
    """Print each error in one line, and raise one for all."""
    for outcome in failed:
        print(f"failed: {outcome.task.run}: {outcome.error}", file=sys.stderr)
    if failed:
        msg = f"{len(failed)} of the runs failed; the tables hold the others. See the lines above."
        raise BenchmarkError(msg)
