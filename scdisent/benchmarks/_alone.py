"""A task in a process of its own, so that its peak of memory is its own."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pandas as pd

from scdisent._errors import one_of
from scdisent.benchmarks._report import environment

Measured = dict[str, float | str]


def measure(module: str, name: str) -> Measured:
    """Run ``TASKS[name]()`` of a module here; the task returns what it did."""
    start = time.perf_counter()
    tasks = import_module(module).TASKS
    size = tasks[one_of(name, tasks, "name")]()
    seconds = time.perf_counter() - start
    return {"task": name, "size": size, "seconds": seconds, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where ru_maxrss begins with that of the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run_alone(module: str, name: str) -> Measured:
    """The same in a new process; an error takes the place of what it did."""
    own = "import json; from scdisent.benchmarks._alone import measure"
    code = f"{own}; print(json.dumps(measure({module!r}, {name!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"task": name, "size": f"fails: {done.stderr.strip().splitlines()[-1]}"}
    found: Measured = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure_all(module: str, names: Sequence[str], out: str | Path, *, head: str) -> pd.DataFrame:
    """Run some tasks one after the other; write the folder's CSV and page, named as the module."""
    rows = []
    for name in names:
        rows.append(run_alone(module, name))
        print(rows[-1], flush=True)
    table, out = pd.DataFrame(rows), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    stem = module.rpartition("._")[2]
    table.to_csv(out / f"{stem}.csv", index=False, float_format="%.3f")
    lines = [
        f"| {r.task} | {r.size} | {r.seconds:.1f} | {r.peak_mib:.0f} |".replace("nan", "")
        for r in table.itertuples()
    ]
    top = head.format(environment=environment(1).rpartition(";")[0])
    (out / f"{stem}.md").write_text(top + "\n".join(lines) + "\n")
    return table
