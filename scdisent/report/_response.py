"""Predicted responses beside baselines and the ceiling."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from scdisent import pl
from scdisent._constants import UNS_KEY
from scdisent.metrics._spec import spec_of
from scdisent.pl._benchmark import SHOWN
from scdisent.report._html import figure, items, missing, number, read, table
from scdisent.report._source import Source

EVALUATE = (
    f"adata.uns[{UNS_KEY!r}]['response'] = scdisent.tl.evaluate_response("
    "observed, predicted, control, baselines=shift)"
)
CHECK = (
    f"adata.uns[{UNS_KEY!r}]['response_check'] = scdisent.tl.check_response(model).reset_index()"
)
NEEDED = ("method", "kind", "metric", "value")
HEADS = {"low": "90 % from", "high": "90 % to", "better": "better is", "mse": "error (mse)"}


def response(source: Source) -> str:
    """The table of ``tl.evaluate_response`` and the inner check of ``tl.check_response``."""
    return "\n".join([_evaluation(source.results.get("response")), _check(source)])


def better(metric: str) -> str:
    """Whether a metric is better when higher or lower; empty for an unknown one."""
    spec = spec_of(metric)
    return "" if spec is None else spec.direction


def ahead(frame: pd.DataFrame) -> list[str]:
    """In how many metrics each prediction, and the ceiling, is better than the best baseline.

    Values are compared, not ``normalised``, which is missing where the ceiling is no better than
    the best baseline.
    """
    metrics = frame["metric"].astype(str).map(better)
    frame = frame.assign(better=metrics, score=frame["value"].where(metrics == "higher"))
    frame["score"] = frame["score"].fillna(-frame["value"])
    known = frame[frame["better"] != ""]
    best = known[known["kind"] == "baseline"].groupby("metric")["score"].max()
    lead = known.assign(lead=known["score"] - known["metric"].map(best)).dropna(subset="lead")
    notes = []
    for method, own in lead[lead["kind"] == "prediction"].groupby("method", sort=False):
        n_metrics = own["metric"].nunique()
        wins = int((own.groupby("metric")["lead"].mean() > 0).sum())
        notes.append(f"{method}: better than the best baseline in {wins} of {n_metrics} metrics.")
    ceiling = lead[lead["kind"] == "ceiling"].groupby("metric")["lead"].mean()
    passed = list(ceiling.index[ceiling <= 0])
    if passed:
        notes.append(
            f"The ceiling is no better than the best baseline for {', '.join(passed)}: there these "
            "cells cannot tell methods apart, and normalised is left empty."
        )
    baselines = list(frame.loc[frame["kind"] == "baseline", "method"].unique())
    if len(baselines) == 1:
        notes.append(
            f"The only baseline is {baselines[0]!r}, which is easily beaten: pass a trained "
            "scdisent.ShiftModel as baselines= before you believe a prediction."
        )
    return notes


def _evaluation(frame: pd.DataFrame | None) -> str:
    if frame is None or not len(frame):
        return missing("Predictions were not held against observed cells.", EVALUATE)
    absent = [name for name in NEEDED if name not in frame]
    if absent:
        return missing(f"uns[{UNS_KEY!r}]['response'] has no column {absent[0]!r}.", EVALUATE)
    shown = [name for name in SHOWN if name in set(frame["metric"])]
    shown = shown or list(dict.fromkeys(frame["metric"]))[: len(SHOWN)]
    first = ["metric", "method", "kind", "value"]
    full = frame.assign(better=[better(str(name)) for name in frame["metric"]])
    full = full[[*first, *full.columns.difference(first, sort=False)]].dropna(axis=1, how="all")
    rank = {name: place for place, name in enumerate(dict.fromkeys(full["metric"]))}
    full = full.sort_values("metric", key=lambda names: names.map(rank), kind="stable")
    methods = ", ".join(dict.fromkeys(frame["method"].astype(str)))
    return "\n".join(
        [
            items(ahead(frame)),
            read(
                "The ceiling is one half of the observed cells against the other, the positive "
                "control the same with less noise. normalised: 0 is the best baseline, 1 is the "
                "ceiling. Bad signs: a prediction that arithmetic beats, and a ceiling no better "
                "than the baselines."
            ),
            figure(
                lambda: pl.benchmark(frame, metrics=shown, show=False),
                alt=f"Dots of {methods} for {', '.join(shown)}; the dashed line is the ceiling.",
                caption="Blue: predictions; orange: positive control; grey: baselines.",
            ),
            table(full, caption="Response: predictions, baselines, ceiling", heads=HEADS),
        ]
    )


def _check(source: Source) -> str:
    """What fits without the response of some cell types said."""
    found: Mapping[str, Any] | None = getattr(source.model, "response_check_", None)
    stored = source.results.get("response_check")
    parts = []
    if found is not None:
        ratio = float(found["ratio"])
        word = "better" if ratio < 1 else "worse" if ratio > 1 else "as good"
        sentence = (
            f"Cell types left out under {found['condition']!r}: the error of the model is "
            f"{number(ratio)} times that of the best closed form, {found['best']!r}; the model is "
            f"{word}{' as' if word == 'as good' else ' than'} arithmetic there."
        )
        parts.append(items([sentence]))
    if stored is not None and len(stored):
        named = stored if "method" in stored else stored.reset_index(names="method")
        parts.append(table(named, caption="Cell types left out (tl.check_response)", heads=HEADS))
    if not parts:
        what = "It was not checked whether the model beats closed forms on cell types left out."
        parts.append(missing(what, CHECK))
    return "<h3>Cell types left out</h3>" + "\n".join(parts)
