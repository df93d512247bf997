"""Tables and a figure of a suite."""

import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scdisent.benchmarks._measures import MEASURES
from scdisent.benchmarks._report import environment
from scdisent.benchmarks._runs import Performed
from scdisent.benchmarks._suite import Suite
from scdisent.benchmarks._verdict import cell, first_known, interval, section
from scdisent.pl._figure import COLORS, GREY, figure_of, panels, tidy

MAX_COLUMNS = 8
"""Of one table, unless a measure alone has more."""
TITLES = {
    "leak_within_auroc": "condition read from z within\nlevels of the shared factor, AUROC",
    "leak_accuracy": "condition read from z",
    "mse": "mean squared error",
    "kept_accuracy": "shared factor read from z",
    "kept_r2": "shared factor from z, R2",
    "lsdi_fvh": "LSDI (FVH-LT)",
}
SHOWN = (
    ("mse", "lsdi_fvh"),
    ("leak_within_auroc", "kept_accuracy"),
    ("leak_accuracy", "kept_accuracy"),
    ("leak_accuracy", "kept_r2"),
    ("mse", "kept_accuracy"),
    ("mse", "kept_r2"),
)
"""What a panel shows, across and up: the first pair that the data set has."""
CHANCE = ("leak_accuracy", "leak_within_auroc")
"""Numbers whose chance level is drawn."""
MARKERS = ("o", "s", "^")
"""Of methods beyond the number of colours."""


def tables_of(rows: pd.DataFrame, measures: Sequence[str]) -> str:
    """One row a method, a column for each number that some method has; wide tables are cut."""
    tables: list[dict[str, str]] = [{}]
    for measure in measures:
        titles = {
            name: title
            for name, title in MEASURES[measure].columns.items()
            if title and rows[name].notna().any()
        }
        if tables[-1] and len(tables[-1]) + len(titles) > MAX_COLUMNS:
            tables.append({})
        tables[-1] |= titles
    tables[-1]["seconds"] = "fit, s"
    return "\n\n".join(_table(rows, titles) for titles in tables)


def _table(rows: pd.DataFrame, titles: Mapping[str, str]) -> str:
    lines = [
        "| method | seeds | " + " | ".join(titles.values()) + " |",
        "| --- |" + " ---: |" * (len(titles) + 1),
    ]
    for method, own in rows.groupby("method", sort=False):
        cells = [cell(interval(own[name])) for name in titles]
        lines.append(f"| {method} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(suite: Suite, done: Performed, out: Path, *, command: str) -> None:
    """Write ``<suite>.csv``, ``.md`` and ``.png``."""
    out.mkdir(parents=True, exist_ok=True)
    done.rows.to_csv(out / f"{suite.name}.csv", index=False)
    parts = [
        f"# {suite.title}\n",
        f"{suite.about}\n",
        f"Made by `{command}`, {environment(done.n_jobs)} {hardware()}\n",
        LEGEND,
    ]
    if shown := shown_of(done.rows):
        draw(done.rows, shown, out / f"{suite.name}.png")
        parts.append(f"![Methods on each data set]({suite.name}.png)\n")
    if len(done.rows):
        for name, own in done.rows.groupby("data", sort=False):
            parts.append(f"## {name}\n\n{tables_of(own, suite.measures)}\n")
        if suite.reference is not None:
            parts.append(section(done.rows, suite.reference))
    if done.failed:
        lines = [f"- {outcome.task.run}: {outcome.error}" for outcome in done.failed]
        parts.append("## Without a result\n\n" + "\n".join(lines) + "\n")
    (out / f"{suite.name}.md").write_text("\n".join(parts), encoding="utf-8")


def hardware() -> str:
    """Processor of the machine that started the suite."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or "unknown"
    return f"Started on {os.cpu_count()} cores: {name}."


def shown_of(rows: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """What the panel of each data set shows, of those that have something to show."""
    if not len(rows):
        return {}
    pairs = {
        str(name): [pair for pair in SHOWN if all(first_known(own, [each]) for each in pair)]
        for name, own in rows.groupby("data", sort=False)
    }
    return {name: own[0] for name, own in pairs.items() if own}


def draw(rows: pd.DataFrame, shown: Mapping[str, tuple[str, str]], path: Path) -> None:
    """Methods by two of their numbers, a panel for each data set."""
    styles = itertools.product(MARKERS, COLORS)
    style = {str(name): next(styles) for name in rows["method"].unique()}
    axes = panels(1, len(shown), axes=None, size=(3.2, 3.4))
    for ax, (name, (across, up)) in zip(axes, shown.items(), strict=True):
        ax.set_title(name, fontsize=9.5)
        tidy(ax)
        _draw(ax, rows[rows["data"] == name], across, up, style)
    handles = [
        plt.Line2D([], [], color=color, marker=marker, ls="", label=name)
        for name, (marker, color) in style.items()
    ]
    figure = figure_of(axes[0])
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw(
    ax: Axes, rows: pd.DataFrame, across: str, up: str, style: Mapping[str, tuple[str, str]]
) -> None:
    if across in CHANCE:
        chance = rows["leak_null"].mean() if across == "leak_accuracy" else 0.5
        ax.axvline(chance, color=GREY, lw=1, ls=(0, (4, 3)), zorder=0)
    for method, own in rows.groupby("method", sort=False):
        marker, color = style[str(method)]
        x, y = interval(own[across]), interval(own[up])
        ax.plot(x[0], y[0], marker, ms=5, color=color)
        ax.plot(x[1:], [y[0]] * 2, color=color, lw=1)
        ax.plot([x[0]] * 2, y[1:], color=color, lw=1)
    means = rows.groupby("method")[[across, up]].mean()  # intervals of few seeds may leave the axes
    if across in CHANCE:
        ax.set_xlim(min(chance, means[across].min()) - 0.05, 1.02)
    ax.set_ylim(min(0, means[up].min() - 0.05), 1.05)
    ax.set_xlabel(TITLES[across], fontsize=9)
    ax.set_ylabel(TITLES[up], fontsize=9)


LEGEND = """Mean over seeds and its 90 % interval (Student's t; none for a single seed); "n/a": the
method has no answer, as principal components have no specific block. z: invariant codes, w:
specific codes, shared: the factor that conditions have in common. Accuracies are balanced and of
held-out cells, of held-out donors where there are donors. Condition from z: the best of four
attackers; "null 95 %" is its upper end under shuffled labels; "AUROC within": of cells with the
same level of the shared factor. The dashed line of the figure is chance. Swap: a judge of real
cells reads cells with the w of a cell under another condition; its own score on real cells, beside
it, is what a perfect swap reaches. MIG and MIC: information on the condition in w against z, less
what shuffled labels reach. NMI is no evidence of invariance. NLL in nats a cell, MSE of
log-normalised counts or of values as they are, over all audited cells. More columns and single runs
are in the CSV file.
"""
