"""Does one method leak least at equal or better preservation? Pairs of methods, data by data."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

SHARE = 0.9
"""Of the intervals."""
LEAK, KEPT = ("leak_within_auroc", "leak_accuracy"), ("kept_accuracy", "kept_r2")
"""Columns to compare by, the first that is known: a composition of types that differs between
conditions is no leak, so the condition is read within a type where there are types."""
AHEAD, BEHIND, TRADE, OPEN = "ahead", "behind", "a trade", "not told apart"
UNKNOWN = "one seed"
VERDICTS = {
    BEHIND: "Behind",
    TRADE: "A trade with",
    OPEN: "Not told apart from",
    AHEAD: "Ahead of",
    UNKNOWN: "One seed only of",
}
"""Verdicts and how a sentence with them starts, the worst first."""


class Pair(NamedTuple):
    """The reference less another method, over the seeds that both have."""

    method: str
    leak: tuple[float, float, float]
    """Mean and ends of the interval; positive: the reference leaks more."""
    kept: tuple[float, float, float]
    """Positive: the reference keeps more of the shared factor."""

    @property
    def verdict(self) -> str:
        """How the reference stands, where intervals that hold 0 count as equal."""
        if np.isnan([self.leak[1], self.kept[1]]).any():
            return UNKNOWN
        less_leak, more_kept = -_sign(self.leak), _sign(self.kept)
        if less_leak * more_kept < 0:
            return TRADE
        return {1: AHEAD, -1: BEHIND, 0: OPEN}[int(np.sign(less_leak + more_kept))]


def _sign(bounds: tuple[float, float, float]) -> int:
    """Of a difference; 0 where its interval holds 0."""
    _, low, high = bounds
    return int(low > 0) - int(high < 0)


def interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean, and the ends of its interval by Student's t; a single value has none (NaN)."""
    known = values.dropna().to_numpy(dtype=float)
    if len(known) < 2:
        return (float(known.mean()) if len(known) else np.nan), np.nan, np.nan
    mean, error = known.mean(), stats.sem(known)
    half = stats.t.ppf((1 + SHARE) / 2, len(known) - 1) * error
    return float(mean), float(mean - half), float(mean + half)


def cell(bounds: tuple[float, float, float]) -> str:
    """Mean and interval as text; "n/a" where no seed has an answer."""
    mean, low, high = bounds
    if np.isnan(mean):
        return "n/a"
    digits = 1 if abs(mean) >= 10 else 3
    shown = f"{mean:.{digits}f}"
    return shown if np.isnan(low) else f"{shown} [{low:.{digits}f}, {high:.{digits}f}]"


def first_known(rows: pd.DataFrame, names: Sequence[str]) -> str:
    """First column of which a method has a value; empty if none."""
    return next((name for name in names if name in rows and rows[name].notna().any()), "")


def pairs(rows: pd.DataFrame, reference: str) -> list[Pair]:
    """The reference against every other method that has both numbers, on one data set."""
    names = [first_known(rows, known) for known in (LEAK, KEPT)]
    if not all(names):
        return []
    leaks, keeps = (rows.pivot(index="seed", columns="method", values=name) for name in names)
    if "auroc" in names[0]:
        leaks = leaks.clip(lower=0.5)  # below chance is chance, not less of a leak
    if reference not in leaks:
        return []
    found = [
        Pair(name, *(interval(wide[reference] - wide[name]) for wide in (leaks, keeps)))
        for name in rows["method"].unique()
        if name != reference
    ]
    return [pair for pair in found if not np.isnan([pair.leak[0], pair.kept[0]]).any()]


def section(rows: pd.DataFrame, reference: str) -> str:
    """Part of a page: a sentence and a table for each data set; empty where none has pairs."""
    found = {str(name): pairs(own, reference) for name, own in rows.groupby("data", sort=False)}
    parts = [f"**{name}.** {_sentence(own)}\n\n{_table(own)}" for name, own in found.items() if own]
    if not parts:
        return ""
    legend = LEGEND.format(reference=reference)
    return "\n\n".join([f"## Where {reference} stands\n\n{legend}", *parts]) + "\n"


def _sentence(found: list[Pair]) -> str:
    by = {name: [p.method for p in found if p.verdict == name] for name in VERDICTS}
    if len(by[UNKNOWN]) == len(found):
        return "No verdict from one seed."
    n_met = len(by[AHEAD]) + len(by[OPEN])
    share = "" if n_met == len(found) else f" against {n_met} of {len(found)}"
    start = f"Target met{share}." if n_met else "Target missed."
    parts = [f"{title} {_and(by[name])}." for name, title in VERDICTS.items() if by[name]]
    return " ".join([start, *parts])


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _table(found: list[Pair]) -> str:
    lines = ["| against | leaks more by | keeps more by | verdict |", "| --- | ---: | ---: | --- |"]
    lines += [f"| {p.method} | {cell(p.leak)} | {cell(p.kept)} | {p.verdict} |" for p in found]
    return "\n".join(lines)


LEGEND = """Target: the lowest leakage at equal or better preservation of the shared factor; it is
met against a method that {reference} is ahead of or not told apart from. Leakage is the AUROC of
the condition within levels of the shared factor, where it has levels, as their shares may differ
between conditions, and no less than 0.5; else the accuracy. Differences are paired by seed, with
90 % intervals (Student's t). One that holds 0 counts as equal, so few seeds tell only clear
differences apart, and one seed none. Ahead: leaks less and keeps no less, or leaks no more and
keeps more. A trade: leaks less and keeps less, or more of both."""
