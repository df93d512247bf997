"""The figure of the README, drawn from the benchmark's table: ``python docs/kang_unseen.py``."""

from pathlib import Path

import pandas as pd

import scdisent

DOCS = Path(__file__).parent
SHOWN = (
    "DISCoVeR",
    "DISCoVeR, network alone",
    "stacked, counts",
    "weighted, counts",
    "mean",
    "ridge",
    "stacked",
    "other half of the observed cells",
)
METRICS = ("pearson_delta", "energy_distance", "r2_variance_top")

rows = pd.read_csv(DOCS / "benchmarks" / "response.csv")
rows = rows[(rows["world"] == "kang types") & rows["method"].isin(SHOWN)]
table = rows.melt(["kind", "method", "group", "seed"], METRICS, "metric")
order = {name: place for place, name in enumerate(SHOWN)}
table = table.sort_values("method", key=lambda names: names.map(order), kind="stable")
scdisent.pl.benchmark(table, metrics=METRICS, show=False, save=DOCS / "kang_unseen.png")
