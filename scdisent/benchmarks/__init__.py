"""Benchmarks that make the published tables; each is resumable and has one command."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from scdisent._errors import one_of
from scdisent.benchmarks._identifiability import identifiability
from scdisent.benchmarks._interferon import interferon
from scdisent.benchmarks._invariance import invariance
from scdisent.benchmarks._kang_cg import kang_cg
from scdisent.benchmarks._prediction_speed import prediction_speed
from scdisent.benchmarks._response import response
from scdisent.benchmarks._score_speed import score_speed
from scdisent.benchmarks._separation import separation
from scdisent.benchmarks._speed import speed
from scdisent.benchmarks._toy import toy
from scdisent.benchmarks._two_colors import two_colors

SUITES: dict[str, Callable[..., pd.DataFrame]] = {
    "identifiability": identifiability,
    "interferon": interferon,
    "invariance": invariance,
    "kang_cg": kang_cg,
    "prediction_speed": prediction_speed,
    "response": response,
    "score_speed": score_speed,
    "separation": separation,
    "toy": toy,
    "two_colors": two_colors,
    "speed": speed,
}
"""Suites by name, for :func:`run`."""


def run(suite: str, *, out: str | Path = "docs/benchmarks") -> pd.DataFrame:
    """Run a suite by name and write its CSV and markdown table to a folder."""
    return SUITES[one_of(suite, SUITES, "suite")](out)


__all__ = [
    "SUITES",
    "identifiability",
    "interferon",
    "invariance",
    "kang_cg",
    "prediction_speed",
    "response",
    "run",
    "score_speed",
    "separation",
    "speed",
    "toy",
    "two_colors",
]
