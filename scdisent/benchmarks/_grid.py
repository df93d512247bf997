"""Benchmark rows that go on where an earlier call stopped."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

Task = tuple[Any, ...]
Row = dict[str, Any]


def run_grid(
    path: Path, tasks: Sequence[Task], run: Callable[[Task], list[Row]], *, n_processes: int
) -> pd.DataFrame:
    """Run the tasks that have no row in a CSV file yet, each on one core, and add their rows.

    Parameters
    ----------
    path
        The file; written after each task, whole or not at all.
    tasks
        What to run; a task is known again by its text.
    run
        A function of a module, or a ``partial`` of one, so that other processes find it.
    n_processes
        Tasks at a time.

    Returns
    -------
    All rows of the file, also those of tasks that were not asked for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(path, low_memory=False).to_dict("records") if path.exists() else []
    done = {row["task"] for row in rows}
    left = [(run, task) for task in tasks if str(task) not in done]
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
        for task, found in zip(left, pool.map(_on_one_core, left), strict=True):
            rows += [{"task": str(task[1]), **row} for row in found]
            print(str(task[1]), flush=True)
            _write(pd.DataFrame(rows), path)
    return pd.DataFrame(rows)


def _on_one_core(work: tuple[Callable[[Task], list[Row]], Task]) -> list[Row]:
    import torch

    torch.set_num_threads(1)
    run, task = work
    return run(task)


def _write(table: pd.DataFrame, path: Path) -> None:
    part = path.with_suffix(".part")
    table.to_csv(part, index=False, float_format="%.4f")
    part.replace(path)
