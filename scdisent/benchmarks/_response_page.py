"""The page of the response benchmark: means, and in how many questions networks lead."""

from collections.abc import Iterable
from textwrap import fill

import numpy as np
import pandas as pd

from scdisent.benchmarks._peers import PEERS
from scdisent.benchmarks._response_targets import targets
from scdisent.benchmarks._unseen import WORLDS
from scdisent.tl._response import NO_CHANGE

COUNTS = ", counts"
"""Ending of closed forms that make counts."""
RANK, COVERAGE = "discrimination_rank", "coverage"
OWN = ("DISCoVeR", "CG-VAE")
NETWORKS = (*OWN, *PEERS)
COMPARED = (*OWN, *(f"{name}, network alone" for name in OWN))
"""With each closed form, question by question."""
COLUMNS = {
    "pearson_delta_top": "r, top 100",
    "pearson_delta": "r, all",
    "r2_delta_weighted": "R2, weighted",
    "weighted_mse": "MSE, weighted",
    "energy_distance": "E-distance",
    "mmd": "MMD",
    "r2_variance_top": "R2 of variance",
    "de_overlap": "DE overlap",
    "de_pr_auc": "DE PR-AUC",
    "direction_match": "direction",
    RANK: "rank",
    COVERAGE: "in 90 % interval",
    "seconds": "fit, CPU s",
}


def write_page(table: pd.DataFrame, where: str) -> str:
    # Empty ones are read as NaN, and names of donors as numbers.
    table = table.assign(**{name: table[name].fillna("").astype(str) for name in QUESTION})
    peers = [text for name, text in ABOUT_PEERS.items() if name in set(table["method"])]
    about = fill(" ".join(["", *peers]).strip(), 100, break_on_hyphens=False)
    parts = [HEAD.format(environment=where, peers=f"{about}\n"), targets(table)]
    for name, world in WORLDS.items():
        own = table[table["world"] == name]
        if len(own):
            parts.append(f"## {world.about}\n\n{_table(own)}\n")
    return "\n".join(parts)


def _table(rows: pd.DataFrame) -> str:
    """Means over questions and seeds, then networks beside the baselines by question."""
    scored = rows[rows["kind"] != "ranks"]
    means = scored.groupby("method", sort=False).mean(numeric_only=True)
    if RANK in rows:
        ranks = rows[rows["kind"] == "ranks"].groupby("method")[RANK].mean()
        means[RANK] = ranks.reindex(means.index)
    columns = {key: title for key, title in COLUMNS.items() if key in means}
    order = scored.groupby("method", sort=False)["kind"].first()
    lines = ["| method | " + " | ".join(columns.values()) + " |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for kind in ("ceiling", "positive control", "prediction", "baseline"):
        lines += _joined(
            (name, ["" if np.isnan(v) else f"{v:.3f}" for v in means.loc[name, list(columns)]])
            for name in order.index[order == kind]
        )
    n_questions = len(scored.groupby(QUESTION, dropna=False))
    lines.append(f"\n{n_questions} questions, {_seeds(scored)}{_n_intervals(scored)}.\n")
    return "\n".join([*lines, *_normalised(scored), "", *_by_difficulty(scored), *_ahead(scored)])


def _joined(rows: Iterable[tuple[str, list[str]]]) -> list[str]:
    """Lines of a table, one for all names with the same cells."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name, cells in rows:
        names.setdefault(tuple(cells), []).append(name)
    return [f"| {', '.join(own)} | {' | '.join(cells)} |" for cells, own in names.items()]


def _seeds(rows: pd.DataFrame) -> str:
    """Seeds of all methods, and of those that have fewer."""
    everyone = sorted(rows["seed"].unique().tolist())
    of_method = {
        name: sorted(own.unique().tolist())
        for name, own in rows.groupby("method", sort=False)["seed"]
    }
    fewer = [f"{name}: {own}" for name, own in of_method.items() if own != everyone]
    return ", ".join([f"seeds {everyone}", *fewer])


def _n_intervals(rows: pd.DataFrame) -> str:
    """Of how many fits the intervals are, where that is not all: they came after the first runs."""
    if COVERAGE not in rows:
        return ""
    has = rows.groupby("method", sort=False)[COVERAGE].agg(["count", "size"])
    some = has[(has["count"] > 0) & (has["count"] < has["size"])]
    return "".join(f"; intervals of {n}: {c} of {a} predictions" for n, c, a in some.itertuples())


QUESTION = ["split", "group", "condition"]
BETTER = {"pearson_delta_top": 1, "pearson_delta": 1, "energy_distance": -1, "r2_variance_top": 1}
"""Metrics of the comparison, and whether larger (1) or smaller (-1) is better."""
N_RESAMPLED = 2_000


SOLVED, NOISY = 0.02, 0.3
"""Distance of the best baseline to the ceiling, and the ceiling, in r over all genes."""


def _by_question(scored: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, a row a question; columns: metric, kind, method."""
    mean = scored.groupby([*QUESTION, "kind", "method"], dropna=False, sort=False).mean(
        numeric_only=True
    )
    return mean.reset_index().pivot(index=QUESTION, columns=["kind", "method"])


def _normalised(scored: pd.DataFrame) -> list[str]:
    """Where the mean of each network lies between the best closed form's and the ceiling's."""
    means = scored.groupby(["kind", "method"], sort=False)[list(BETTER)].mean() * pd.Series(BETTER)
    closed = means.loc[[key in _closed_forms(means.index) for key in means.index]].max()
    room = means.loc["ceiling"].iloc[0] - closed
    lines = ["| normalised | " + " | ".join(COLUMNS[key] for key in BETTER) + " |"]
    lines.append("| --- |" + " ---: |" * len(BETTER))
    for name in (name for name in NETWORKS if ("prediction", name) in means.index):
        share = ((means.loc[("prediction", name)] - closed) / room).where(room > 0)
        cells = ["no room" if np.isnan(value) else f"{value:.2f}" for value in share]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines if len(lines) > 2 else []


def _closed_forms(methods: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of kinds and names: arithmetic, plain or with counts, that says that something changes."""
    return [
        (kind, name)
        for kind, name in methods
        if (kind == "baseline" and name != NO_CHANGE) or name.endswith(COUNTS)
    ]


def _by_difficulty(scored: pd.DataFrame) -> list[str]:
    """Methods where arithmetic is at the ceiling, where all is noise, and on what is left."""
    r = _by_question(scored)["pearson_delta"]
    ceiling, best = r["ceiling"].iloc[:, 0], r["baseline"].max(axis=1)
    noisy = ceiling < NOISY
    solved = ~noisy & (best > ceiling - SOLVED)
    strata = {"solved by arithmetic": solved, "noise": noisy, "open": ~noisy & ~solved}
    own = [name for name in NETWORKS if name in r["prediction"]]
    titles = ["r, all", "questions", "ceiling", "best baseline of each", *own]
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (len(titles) - 1)]
    for title, chosen in strata.items():
        values = [ceiling, best, *(r["prediction", name] for name in own)]
        means = [f"{value[chosen].mean():.3f}" if chosen.any() else "" for value in values]
        lines.append(f"| {title} | {chosen.sum()} | " + " | ".join(means) + " |")
    return lines


def _ahead(scored: pd.DataFrame) -> list[str]:
    """In how many questions our networks are ahead of each baseline, and by how much."""
    wide = _by_question(scored)
    kinds = list(dict.fromkeys(column[1:] for column in wide.columns))
    closed = _closed_forms(kinds)
    lines = []
    for network in (name for kind, name in kinds if kind == "prediction" and name in COMPARED):
        lines.append(
            f"\n| {network}: ahead of | " + " | ".join(COLUMNS[key] for key in BETTER) + " |"
        )
        lines.append("| --- |" + " ---: |" * len(BETTER))
        lines += _joined(
            (
                name,
                [
                    _counted(
                        sign * (wide[metric]["prediction", network] - wide[metric][kind, name])
                    )
                    for metric, sign in BETTER.items()
                ],
            )
            for kind, name in closed
        )
    return lines


def _counted(leads: pd.Series) -> str:
    """Questions ahead, and the mean lead with its 90 % interval over questions."""
    gap = leads.dropna().to_numpy()
    if not len(gap):
        return ""
    rng = np.random.default_rng(0)
    drawn = gap[rng.integers(len(gap), size=(N_RESAMPLED, len(gap)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.05, 0.95])
    return f"{(gap > 0).sum()} of {len(gap)}; {gap.mean():+.3f} ({low:+.3f}, {high:+.3f})"


HEAD = """# Unseen responses

What would a condition do to cells that were not seen under it? Made by
`scdisent bench response --out docs/benchmarks`; printed {environment}

Each row is a mean over questions (a hidden group under a hidden condition) and seeds. All are held
against the same observed control cells; genes are judged by the observed cells alone. r: Pearson
correlation of the predicted with the observed change of the mean log-normalised expression, over
all genes and over the 100 of largest Welch t; R2 and MSE, weighted: explained share of that change
and squared error, genes weighted by squared t; E-distance and MMD in 30 principal components of the
real cells; R2 of variance over the 100 genes; DE: genes that respond; rank: whether the conditions
of a split are told apart (0.5 is chance); in 90 % interval: share of genes whose change of the
mean, by cell type, lies in that of `predict_change`. The ceiling is one half of the observed cells
against the other half; where cells are few it is low, and a prediction made from many cells may
exceed it. The interpolated duplicate is that half with each gene moved to the control's mean by its
p-value.

Recipes of `scdisent.effects` (`stacked`, `ridge`, `weighted`, `nearest`, `mean`, `additive`, ...)
shift the logarithm of each cell by the effect in closed form; "counts" thins or adds counts until
the mean is reached (`ShiftModel`). DISCoVeR as it predicts by default: its decoder (for conditions
without cells: w moved by the difference of mean codes), its mean moved half way to that of the
closed form that inner cross-validation chose, where setup named cell types or the condition has no
cells; "network alone": without the closed form; "w moved alone": w moved, without it; "anchored":
with it where the default leaves it out.
{peers}
Peers that do not answer beside scvi-tools 1.4.2, and their error: scgen 2.1.0 (`No module named
'scvi._compat'`), cpa-tools 0.8.1 (`cannot import name 'SaveBestState'`), celldisect 0.2.0b1
(`cannot import name 'one_hot' from 'scvi.nn'`), scCausalVI 0.0.12 (wants numpy < 2; its training
stops at `Please install jax to use this functionality`), fadvi 0.3.0 (trains, then `Transforming
batches is not implemented for this model`).

Normalised: 0 is the best closed form of the first table, metric by metric, 1 the other half of the
observed cells; not clipped; "no room" where the best closed form is not behind that half. The table
after it cuts questions by difficulty, in r over all genes: "solved by arithmetic" where the
best baseline is within 0.02 of the ceiling, "noise" where the ceiling itself is below 0.3, "open"
what is left. The best baseline of each question is known only after the fact. Further tables
say in how many questions (means over seeds) a network is ahead of a closed form, and by how much on
average, with a 90 % interval over questions (bootstrap). Methods with the same numbers share a row.

DISCoVeR's defaults of `predict` (the decoder, half of the closed form) and the columns of `stacked`
were chosen on the Kang folds themselves, with seed 10, which is not in the tables; that w is moved
to conditions without cells, on Papalexi's genes with that seed; other worlds had no part in it.
Kang: the 5,000 genes that vary most over all cells, and the sum of all others as one more, so that
libraries are those of whole cells.

"""
ABOUT_PEERS = {
    "latent arithmetic": (
        "Latent arithmetic: scGen's recipe with a VAE of this package; counts are drawn."
    ),
    "scVI": (
        "scVI: the condition as its batch, counts drawn under another; 3,000 steps of training, a "
        "sixth of its default."
    ),
    "LEMUR": (
        "LEMUR: pylemur 0.3.1, donors and conditions in the design (no cell types), "
        "aligned by Harmony (harmonypy 0.0.10; with 2.1 that stops at `Harmony.__init__() takes 2 "
        "positional arguments`); log-normalised cells plus the change that it predicts for each."
    ),
    "biolord": (
        "biolord 0.0.3: condition and cell type as known attributes, means of log-normalised "
        "values, which have no noise; 40 of its 400 epochs (half an hour a fit on one core), "
        "without its checkpoints, which fail beside scvi-tools 1.4.2."
    ),
}
"""What peers were asked, for those that have rows."""
