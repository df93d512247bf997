"""The leakage audit in one sentence and in full, and all scores."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from scdisent import pl
from scdisent.pl._leakage import NAMES, leakage_rows
from scdisent.report._html import figure, items, missing, number, read, table, text
from scdisent.report._source import SCORE, Source

WORDS = {
    **NAMES,
    "expression": "principal components of the expression",
    "depth only": "depth alone",
    "shuffled": "invariant codes, labels shuffled",
    "latent": "codes",
}
HEADS = {
    "auroc": "AUROC",
    "lower": "95 % from",
    "upper": "95 % to",
    "null_auroc": "shuffled: mean",
    "null_auroc_95": "shuffled: 95 %",
    "p_value": "p",
    "null_balanced_accuracy": "shuffled: mean accuracy",
    "null_balanced_accuracy_95": "shuffled: 95 % accuracy",
    "n_cells": "cells",
    "group": "cell type",
    "balanced_accuracy": "balanced accuracy",
}
ORDER = (
    "auroc", "lower", "upper", "null_auroc", "null_auroc_95", "p_value", "balanced_accuracy",
    "null_balanced_accuracy", "null_balanced_accuracy_95", "bits", "attacker", "n_cells",
)  # fmt: skip


class Verdict(NamedTuple):
    """What the audit of one representation comes to."""

    kind: str
    """``leak``, ``small``, ``none``, ``undecided`` or, without a stored conclusion, ``above`` or
    ``within`` what shuffled labels reach."""
    opening: str
    sentence: str


OPENINGS = {
    "leak": "The {codes} leak the condition",
    "small": "The {codes} hold a trace of the condition, too small for the margin",
    "none": "No leak was found in the {codes}, and one beyond the margin is excluded",
    "undecided": "No leak was found in the {codes}, but one cannot be excluded",
    "above": "The condition can be read from the {codes}",
    "within": "The condition was read from the {codes} no better than by chance",
}


def verdict(row: pd.Series, *, codes: str, statement: str | None) -> Verdict:
    """One sentence with interval and null, from what is stored.

    A leak lies above what 95 % of shuffles reach. That none is there is said only where the stored
    statement excludes one beyond its margin (``Leakage.equivalent``): the absence of evidence is
    no evidence.

    Parameters
    ----------
    row
        Pooled row of ``metrics.Leakage.to_frame``.
    codes
        What was attacked, in words.
    statement
        Stored conclusion of the audit; None: there is none.
    """
    above = bool(row["auroc"] > row["null_auroc_95"])
    if statement is None:
        kind = "above" if above else "within"
    elif statement.startswith("equivalence"):
        kind = "small" if above else "none"
    else:
        kind = "leak" if above else "undecided"
    numbers = {name: number(float(row[name])) for name in ORDER if name not in ("attacker",)}
    sentence = (
        "on held-out cells the best attacker reaches an AUROC of {auroc} (95 % interval {lower} to "
        "{upper}), where shuffled labels give {null_auroc} on average and up to {null_auroc_95} "
        "in 95 % of draws."
    )
    return Verdict(kind, OPENINGS[kind].format(codes=codes), sentence.format(**numbers))


def leakage_audit(source: Source) -> str:
    """Verdict, what stands beside it, figure, and the tables."""
    frame = source.results.get("leakage")
    if frame is None or not len(frame):
        return missing("The leakage audit was not run.", SCORE)
    statement = source.results.get("statement")
    rows = leakage_rows(frame)
    name, pooled, within = next((r for r in rows if r[0] == "invariant"), rows[0])
    words = WORDS.get(name, name)
    said = verdict(pooled, codes=words, statement=None if name != "invariant" else statement)
    parts = [
        f'<p class="verdict {said.kind}"><b>{text(said.opening)}:</b> {text(said.sentence)}</p>',
        items(_beside(pooled, within, {r[0]: r[1] for r in rows}, statement)),
        read(
            "AUROC: 0.5 is chance, 1 is certainty. Bad signs: an interval above what shuffled "
            "labels reach, one cell type far above the others, and attackers that cannot read the "
            "condition from the expression either (then the audit shows nothing)."
        ),
        figure(
            lambda: pl.leakage(frame, show=False),
            alt="Dots and intervals: " + "; ".join(_spoken(r[0], r[1]) for r in rows) + ".",
            caption="How well the condition can be read from each representation.",
        ),
        table(_pooled(rows), caption="Leakage of each representation, all cells", heads=HEADS),
    ]
    inside = _within(rows)
    if len(inside):
        parts.append(table(inside, caption="Leakage within each cell type", heads=HEADS))
    else:
        what = "No cell type was audited on its own."
        parts.append(missing(what, "scdisent.tl.score(adata, model, min_cells=...)"))
    skipped = source.results.get("leakage_skipped")
    if skipped is not None and len(skipped):
        own = skipped[skipped["representation"] == name].drop(columns="representation")
        parts.append(table(own, caption="Cell types that were not audited on their own"))
    return "\n".join(parts)


def all_scores(source: Source) -> str:
    """The tidy table of ``tl.score``."""
    frame = source.results.get("scores")
    if frame is None or not len(frame):
        return missing("No scores are stored.", SCORE)
    heads = {"lower": "95 % from", "upper": "95 % to", "null_95": "shuffled: 95 %"}
    note = read(
        "What is read from the invariant codes should be low for the condition and high for the "
        "cell type; nmi is no evidence of invariance. nll: negative log-likelihood of a cell, "
        "lower is better, comparable only on the same cells and genes."
    )
    return note + table(frame, caption="All scores", heads=heads)


def _beside(
    pooled: pd.Series, within: pd.DataFrame, by_name: dict[str, pd.Series], statement: str | None
) -> list[str]:
    """What a reader should know next to the verdict."""
    notes = []
    if len(within):
        worst = within.iloc[0]
        n_above = int((within["auroc"] > within["null_auroc_95"]).sum())
        notes.append(
            f"Within cell types: {n_above} of {len(within)} lie above what shuffled labels reach "
            f"in 95 % of draws; the worst is {worst['group']}, AUROC {number(worst['auroc'])} "
            f"(95 % interval {number(worst['lower'])} to {number(worst['upper'])}, shuffled up to "
            f"{number(worst['null_auroc_95'])})."
        )
    if "expression" in by_name:
        light = by_name["expression"]
        works = light["auroc"] > light["null_auroc_95"]
        notes.append(
            f"Do the attackers work? From the expression itself they reach an AUROC of "
            f"{number(light['auroc'])}"
            + (": yes." if works else ": no, so low numbers above mean nothing.")
        )
    if "type only" in by_name:
        alone = number(by_name["type only"]["auroc"])
        notes.append(f"The cell type alone gives the condition away with an AUROC of {alone}.")
    attacker = f"The best attacker was {pooled['attacker']}, on {int(pooled['n_cells']):,} cells."
    return [*notes, attacker, *([f"Stored conclusion: {statement}"] if statement else [])]


def _spoken(name: str, row: pd.Series) -> str:
    return f"{WORDS.get(name, name)} {number(row['auroc'])}"


def _pooled(rows: list[tuple[str, pd.Series, pd.DataFrame]]) -> pd.DataFrame:
    frame = pd.DataFrame([row for _, row, _ in rows])
    words = [WORDS.get(name, name) for name, _, _ in rows]
    frame = frame.assign(representation=words)
    return frame[["representation", *_known(frame)]]


def _within(rows: list[tuple[str, pd.Series, pd.DataFrame]]) -> pd.DataFrame:
    frames = [own.assign(representation=WORDS.get(name, name)) for name, _, own in rows if len(own)]
    if not frames:
        return pd.DataFrame()
    frame = pd.concat(frames)
    return frame[["group", "representation", *_known(frame)]]


def _known(frame: pd.DataFrame) -> list[str]:
    """Columns that are there and say something, in the order of the page."""
    said = [name for name in ORDER if name in frame and frame[name].notna().any()]
    return [name for name in said if not np.all(frame[name].astype(str) == "")]
