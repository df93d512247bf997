"""Tables of benchmark results as markdown."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pandas as pd

COLUMNS = {
    "auroc": "AUROC",
    "balanced_accuracy": "bal. acc.",
    "null_auroc_95": "AUROC: null 95 %",
    "within_auroc": "AUROC within type",
    "worst_auroc": "AUROC, worst type",
    "worst_null_auroc_95": "its null 95 %",
    "decoded_balanced_accuracy": "decoded bal. acc.",
    "type_knn": "type kNN",
    "type_logistic": "type logistic",
    "condition_from_specific": "condition from w",
    "type_from_specific_logistic": "type from w (logistic)",
    "type_from_specific_knn": "type from w (kNN)",
    "nmi_type": "NMI type",
    "nmi_condition": "NMI condition",
    "nll_joint": "NLL joint",
    "nll_invariant": "NLL invariant",
    "seconds": "fit, s",
}
TARGET_HEAD = """## Targets

| world | target | found | met |
| --- | --- | --- | --- |
"""


def environment(n_processes: int) -> str:
    """Where and when the numbers were made."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("scdisent", "scvi-tools", "torch"))
    return (
        f"{date.today().isoformat()}, {platform.machine()}, Python {platform.python_version()}, "
        f"{packages}; {n_processes} processes of one core each."
    )


def write_report(results: pd.DataFrame, path: Path, *, environment: str) -> None:
    """Write mean and standard deviation over seeds, and targets beside what was found."""
    parts = [HEAD.format(environment=environment)]
    for world, rows in results.groupby("world", sort=False):
        parts.append(f"## {world}\n\n{markdown_table(rows)}\n")
    parts.append(TARGET_HEAD + "\n".join(target_rows(results)) + "\n")
    path.write_text("\n".join(parts))


def markdown_table(rows: pd.DataFrame, titles: Mapping[str, str] = COLUMNS) -> str:
    """One row a method: mean and, over several seeds, standard deviation."""
    columns = {
        key: title for key, title in titles.items() if key in rows and rows[key].notna().any()
    }
    lines = [
        "| method | seeds | " + " | ".join(columns.values()) + " |",
        "| --- |" + " ---: |" * (len(columns) + 1),
    ]
    for method, group in rows.groupby("method", sort=False):
        cells = [_mean_and_sd(group[key]) for key in columns]
        lines.append(f"| {method} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean_and_sd(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return ""
    digits = 1 if abs(values.mean()) >= 10 else 3
    mean = f"{values.mean():.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {values.std():.{digits}f}"


@dataclass(frozen=True)
class Target:
    """A number that the default has to reach, as a mean over seeds.

    ``limit`` is a number, or a method whose value times ``share`` minus ``slack`` is the limit.
    """

    world: str
    text: str
    column: str
    sign: str
    limit: float | str
    share: float = 1.0
    slack: float = 0.0

    def row(self, means: pd.DataFrame) -> str:
        """Line of the table of targets; ``means`` is indexed by method."""
        value = means.loc[DEFAULT, self.column]
        limit, shown = self.limit, f"{value:.3f}"
        if isinstance(limit, str):
            shown += f" ({limit}: {means.loc[limit, self.column]:.3f})"
            limit = self.share * means.loc[limit, self.column] - self.slack
        holds = value <= limit if self.sign == "<=" else value >= limit
        return f"| {self.world} | {self.text} | {shown} | {'yes' if holds else '**no**'} |"


DEFAULT, BARE = "DISCoVeR default", "DISCoVeR, no adversary"
KANG, PLAIN, SHIFT = "kang2018_6k", "simulated", "simulated, composition shift"
TARGETS = (
    Target(PLAIN, "best attacker on z, bal. acc. <= 0.55", "balanced_accuracy", "<=", 0.55),
    Target(PLAIN, "decoded features <= 0.55", "decoded_balanced_accuracy", "<=", 0.55),
    Target(PLAIN, "type >= 0.98 of no adversary", "type_logistic", ">=", BARE, share=0.98),
    Target(SHIFT, "z beyond the type-only attacker <= 0.01", "excess", "<=", 0.01),
    Target(SHIFT, "decoded features beyond it <= 0.01", "decoded_excess", "<=", 0.01),
    Target(SHIFT, "type >= 0.98 of no adversary", "type_logistic", ">=", BARE, share=0.98),
    Target(KANG, "within-type AUROC <= 0.54", "within_auroc", "<=", 0.54),
    Target(KANG, "worst type AUROC <= 0.60", "worst_auroc", "<=", 0.60),
    Target(KANG, "type kNN >= scVI - 0.01", "type_knn", ">=", "scVI", slack=0.01),
    Target(KANG, "type logistic >= scVI", "type_logistic", ">=", "scVI"),
    Target(KANG, "condition from w >= 0.98", "condition_from_specific", ">=", 0.98),
    Target(KANG, "type from w (logistic) <= 0.25", "type_from_specific_logistic", "<=", 0.25),
    Target(KANG, "type from w (kNN) <= 0.25", "type_from_specific_knn", "<=", 0.25),
    Target(KANG, "NMI of z and type >= 0.70", "nmi_type", ">=", 0.70),
)


def target_rows(results: pd.DataFrame) -> list[str]:
    """Each target with what was found, for the worlds that were run."""
    base = results["type_only_balanced_accuracy"]
    results = results.assign(
        excess=results["balanced_accuracy"] - base,
        decoded_excess=results["decoded_balanced_accuracy"] - base,
    )
    means = results.groupby(["world", "method"]).mean(numeric_only=True)
    known = set(means.index)
    return [
        target.row(means.loc[target.world])
        for target in TARGETS
        if (target.world, DEFAULT) in known
        and (not isinstance(target.limit, str) or (target.world, target.limit) in known)
    ]


HEAD = """# Invariance

Can the condition be read from the invariant block, and what is kept beside it? Made by
`make benchmarks` (`scdisent bench invariance --out docs/benchmarks`), {environment}

Best of four attackers (logistic regression, nearest neighbours, boosting, perceptron), fitted and
scored on different donors, each cell scored once; 0.5 is chance. "Within type": mean over cell
types of at least 100 cells, attackers fitted inside the type; "worst type" is the largest of them.
"Null 95 %" is the upper end of the same best attacker under shuffled labels. "Decoded" features are
30 principal components of the log profile that z alone decodes to. kNN and logistic accuracies are
balanced and cross-validated over donors. NLL in nats a cell. NMI (k-means) is shown only for
comparison with published tables: it can be near zero for embeddings from which the condition can be
read perfectly. Mean ± standard deviation over seeds; a row of one seed has no deviation. Scores
below 0.5 are no sign of more than invariance: the model saw all donors and made conditions alike
over all of them, so what an attacker learns from some donors errs on the rest. The world with
donors that were not trained on (fitted on half of the donors, audited on the others) is free of
that. DISCoVeR is told the cell types, within which it compares conditions; "no adversary" is
without the MMD too. scVI and contrastiveVI: their defaults but for about 3,000 steps of training.
Every fit ran on one core of a machine that was shared with other work: times are upper bounds (see
speed.md).
"""
