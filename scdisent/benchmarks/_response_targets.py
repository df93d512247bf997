"""Targets of the response benchmark, set before its runs, beside what was found."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pandas as pd

from scdisent.tl._response import NO_CHANGE

MODEL = "DISCoVeR"
RANKS, BASELINE = "ranks", "baseline"
INF = float("inf")
TITLES = {
    "pearson_delta_top": "r, top 100",
    "pearson_delta": "r, all",
    "energy_distance": "E-distance",
    "r2_variance_top": "R2 of variance",
    "coverage": "in 90 % interval",
}
Found = tuple[str, bool]


class Target(NamedTuple):
    """What is asked on one world, and a function of its rows that says what was found."""

    world: str
    text: str
    found: Callable[[pd.DataFrame], Found]


def _sign(metric: str) -> int:
    return -1 if metric == "energy_distance" else 1


def _within(rows: pd.DataFrame, metric: str, low: float, high: float) -> Found:
    value = float(rows.loc[rows["method"] == MODEL, metric].mean())
    return f"{value:.3f}", low <= value <= high


def _ahead_of(rows: pd.DataFrame, metric: str, n_needed: int) -> Found:
    """In how many groups the model is ahead of the harder one of ridge and weighted shift."""
    sign = _sign(metric)
    mean = rows.groupby(["group", "method"])[metric].mean().unstack()
    gaps = {name: sign * (mean[MODEL] - mean[name]) for name in ("ridge", "weighted")}
    wins = {name: int((gap > 0).sum()) for name, gap in gaps.items()}
    shown = ", ".join(f"{name}: {n}" for name, n in wins.items())
    return f"{shown} of {len(mean)}", min(wins.values()) >= n_needed


def _not_worse_than_best(rows: pd.DataFrame, metric: str) -> Found:
    """Against the closed form with the best mean, also one that makes counts."""
    means = rows.groupby("method")[metric].mean()
    is_closed = rows.groupby("method")["kind"].first() == BASELINE
    closed = means[is_closed | means.index.str.endswith(", counts")].drop(NO_CHANGE)
    sign = _sign(metric)
    best = (sign * closed).idxmax()
    found = f"{means[MODEL]:.3f} ({best}: {closed[best]:.3f})"
    return found, sign * means[MODEL] >= sign * closed[best]


def _limits(world: str, metric: str, *, low: float = -INF, high: float = INF) -> Target:
    sides = [f">= {low:g}"] * (low > -INF) + [f"<= {high:g}"] * (high < INF)
    text = f"{TITLES[metric]} {' and '.join(sides)}"
    return Target(world, text, partial(_within, metric=metric, low=low, high=high))


def _wins(metric: str) -> Target:
    text = f"{TITLES[metric]}: ahead of ridge and weighted in 5 of 7"
    return Target("kang types", text, partial(_ahead_of, metric=metric, n_needed=5))


def _best(world: str) -> list[Target]:
    text = "{}: not worse than the best closed form"
    return [
        Target(world, text.format(TITLES[name]), partial(_not_worse_than_best, metric=name))
        for name in ("pearson_delta", "energy_distance")
    ]


TARGETS = (
    _limits("kang types", "pearson_delta_top", low=0.96),
    _limits("kang types", "pearson_delta", low=0.92),
    _limits("kang types", "energy_distance", high=0.5),
    _limits("kang types", "r2_variance_top", low=0.5),
    *(_wins(name) for name in TITLES if name != "coverage"),
    _limits("kang donors", "pearson_delta", low=0.875),
    *_best("norman pairs"),
    *_best("papalexi genes"),
    *_best("papalexi replicates"),
    *_best("mcfaline lines"),
    *_best("simulated doses"),
    *_best("simulated pairs"),
    *(
        _limits(name, "coverage", low=0.85, high=0.95)
        for name in ("simulated doses", "simulated pairs")
    ),
)


def targets(table: pd.DataFrame) -> str:
    """Section with the targets of the worlds in which the model has rows; empty without any."""
    rows = table[table["kind"] != RANKS]
    lines = []
    for target in TARGETS:
        own = rows[rows["world"] == target.world]
        if MODEL in set(own["method"]):
            found, is_met = target.found(own)
            met = "yes" if is_met else "**no**"
            lines.append(f"| {target.world} | {target.text} | {found} | {met} |")
    if not lines:
        return ""
    head = "| world | target for DISCoVeR | found | met |\n| --- | --- | --- | --- |"
    return "\n".join(["## Targets\n", head, *lines]) + "\n"
