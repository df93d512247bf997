"""A task in a process of its own, so that its peak of memory is its own."""

import json
import resource
import subprocess
import sys
import time
from importlib import import_module

from scdisent._errors import one_of

Measured = dict[str, float | str]


def measure(module: str, name: str) -> Measured:
    """Run ``TASKS[name]()`` of a module here; the task returns what it did."""
    start = time.perf_counter()
    tasks = import_module(module).TASKS
    size = tasks[one_of(name, tasks, "name")]()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"task": name, "size": size, "seconds": seconds, "peak_mib": peak}


def run_alone(module: str, name: str) -> Measured:
    """The same in a new process; an error takes the place of what it did."""
    own = "import json; from scdisent.benchmarks._alone import measure"
    code = f"{own}; print(json.dumps(measure({module!r}, {name!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"task": name, "size": f"fails: {done.stderr.strip().splitlines()[-1]}"}
    found: Measured = json.loads(done.stdout.strip().splitlines()[-1])
    return found
