"""The leakage audit: whether the condition can be read from codes that should not know it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from scdisent._errors import InputDataError, OptionError, one_of
from scdisent.metrics._attackers import ATTACKS, HeldOut, attack
from scdisent.metrics._checks import Floats, Integers, as_codes, as_levels, assign_folds, combine
from scdisent.metrics._scores import SCORES, permuted, resampled, score

MIN_CONDITION_CELLS = 10
"""Fewer cells of a condition can neither train nor test an attacker."""

BATCH_ELEMENTS = 2_000_000
"""Draws times cells that are scored at once: bounds memory, changes no number."""

SMALLEST, LARGEST = np.array([0, 0, -np.inf]), np.array([1, 1, np.inf])
"""Largest possible value of each score: widened intervals stop there."""

FRAME_COLUMNS = [
    "scope", "group", "attacker", "balanced_accuracy", "auroc", "bits", "null_auroc",
    "null_auroc_95", "null_balanced_accuracy", "null_balanced_accuracy_95", "lower", "upper",
    "p_value", "n_cells",
]  # fmt: skip
"""Columns of :meth:`Leakage.to_frame`."""


class Equivalence(NamedTuple):
    """Whether a leak beyond a margin can be excluded, and the sentence to report."""

    holds: bool
    text: str

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False, eq=False)
class Leakage:
    """Result of :func:`leakage`; all numbers are of held-out cells."""

    balanced_accuracy: float
    """Mean share of recognised cells over conditions, of the best attacker."""
    auroc: float
    """Area under the ROC curve (more than two conditions: one against the rest, averaged)."""
    bits: float
    """Entropy of the condition minus cross-entropy: bits read, negative if an attacker errs."""
    attacker: str
    """The attacker with the largest AUROC."""
    null: pd.DataFrame
    """For each score: ``mean`` and ``upper_95`` under shuffled labels, and ``p_value``."""
    interval: pd.DataFrame
    """For each score: ``lower`` and ``upper`` end of the 95 % bootstrap interval."""
    by_attacker: pd.DataFrame
    """Scores of each attacker."""
    n_cells: int
    n_conditions: int
    by_group: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=FRAME_COLUMNS))
    """The same audit inside each level of ``within``: rows as in :meth:`to_frame`."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Levels of ``within`` that were not audited, with the reason."""

    @property
    def within_auroc(self) -> float:
        """Mean AUROC inside the audited levels of ``within``; NaN if there are none."""
        return float(self.by_group["auroc"].mean()) if len(self.by_group) else float("nan")

    @property
    def worst_group(self) -> str | None:
        """Level of ``within`` with the largest AUROC, None if none was audited."""
        worst = self.by_group.sort_values("auroc", ascending=False)["group"]
        return str(worst.iloc[0]) if len(worst) else None

    def equivalent(self, *, margin: float = 0.03) -> Equivalence:
        """Say whether balanced accuracy exceeds chance by less than ``margin``.

        The upper end of the 95 % interval must lie below ``1 / n_conditions + margin``. A large
        p-value is no such statement: it also comes from too few cells.
        """
        limit = float(self.interval.loc["balanced_accuracy", "upper"]) - 1 / self.n_conditions
        what = "95 % upper limit of balanced accuracy above chance is"
        if limit < margin:
            text = f"equivalence: {what} {limit:.3f} < {margin:g}: no leak at this margin"
            return Equivalence(True, text)
        text = (
            f"no equivalence: {what} {limit:.3f}, not below {margin:g} "
            f"(balanced accuracy {self.balanced_accuracy:.3f}, AUROC {self.auroc:.3f})"
        )
        return Equivalence(False, text)

    def to_frame(self) -> pd.DataFrame:
        """One row for all cells and one for each audited level; ``lower``/``upper``: AUROC."""
        row = {
            "scope": "pooled",
            "group": "",
            "attacker": self.attacker,
            "balanced_accuracy": self.balanced_accuracy,
            "auroc": self.auroc,
            "bits": self.bits,
            "null_auroc": self.null.loc["auroc", "mean"],
            "null_auroc_95": self.null.loc["auroc", "upper_95"],
            "null_balanced_accuracy": self.null.loc["balanced_accuracy", "mean"],
            "null_balanced_accuracy_95": self.null.loc["balanced_accuracy", "upper_95"],
            "lower": self.interval.loc["auroc", "lower"],
            "upper": self.interval.loc["auroc", "upper"],
            "p_value": self.null.loc["auroc", "p_value"],
            "n_cells": self.n_cells,
        }
        pooled = pd.DataFrame([row], columns=FRAME_COLUMNS)
        if self.by_group.empty:
            return pooled
        return pd.concat([pooled, self.by_group], ignore_index=True)

    def __repr__(self) -> str:
        lower, upper = self.interval.loc["auroc"]
        null, _, p_value = self.null.loc["auroc"]
        worst = f", worst group {self.worst_group!r}" if self.worst_group else ""
        return (
            f"Leakage(auroc={self.auroc:.3f} [{lower:.3f}, {upper:.3f}], null {null:.3f}, "
            f"p={p_value:.3f}, "
            f"attacker={self.attacker!r}, n_cells={self.n_cells}{worst})"
        )


def leakage(
    codes: ArrayLike,
    condition: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    within: ArrayLike | None = None,
    attackers: Sequence[str] = tuple(ATTACKS),
    n_folds: int | None = None,
    n_permutations: int = 200,
    n_bootstrap: int = 200,
    min_cells: int = 200,
    seed: int = 0,
) -> Leakage:
    r"""How well the condition can be read from codes by the best of several attackers.

    Attackers are fitted and scored on disjoint cells, and on disjoint donors where ``groups`` are
    given; each cell is scored once. Each score is the largest over attackers of

    .. math::

        \frac1K \sum_k \frac{1}{n_k} \sum_{i:\,y_i=k} 1[\hat y_i = k], \qquad
        P(s_i > s_j \mid y_i = k,\, y_j \ne k), \qquad
        \hat H(y) + \frac1n \sum_i \log_2 \hat p(y_i \mid z_i),

    balanced accuracy with :math:`\hat y = \arg\max_k \hat p_k / \pi_k`, AUROC inside folds, and
    bits, which up to sampling error are a lower bound on the mutual information of condition
    and codes (V-information, Xu et al. 2020).

    The null shuffles held-out labels inside strata (fold x group x ``within``) and takes the
    largest score again, so that the choice of the attacker is part of it; what composition alone
    reveals stays in the null mean. Attackers are not refitted, unlike in the usual permutation
    test, which costs a fit for each draw. For one fold this is exact: given its attackers, which
    never saw the fold, its labels are exchangeable inside strata if the codes know nothing of
    the condition. The average over folds varies more, because a fold's labels also train the
    attackers of the other folds: to first order each pair of cells counts once in either
    direction, which doubles the variance. The null is therefore widened by the square root of
    2 around its mean, as refitting would do. Where each group has one condition only, whole
    groups swap labels inside folds, so few groups allow no small p. Labels of a stratum with one
    condition can not move and count in the null as they are.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``.
    condition
        What the codes should not know, ``(n_cells,)``, at least two levels.
    groups
        Donors or replicates, ``(n_cells,)``. Each condition must occur in two of them.
    within
        Cell types, ``(n_cells,)``. The audit is repeated inside each level, because opposite
        shifts of two types can hide in the pool.
    attackers
        Any of ``"logistic"``, ``"knn"``, ``"boosting"``, ``"mlp"``.
    n_folds
        Default: 4, or the smallest number of groups that a condition occurs in.
    n_permutations, n_bootstrap
        Draws for the null and for the interval. The bootstrap draws groups, widened as Student's t
        if they are few, or without groups cells; it keeps the fitted attackers.
    min_cells
        Levels of ``within`` with fewer cells are skipped.
    seed
        Seeds attackers, folds and draws; numpy's global state is not used.

    Returns
    -------
    :class:`Leakage`.

    Raises
    ------
    InputDataError
        If the arrays do not match, hold missing values, or can not be split as asked.
    """
    codes = as_codes(codes)
    cells = _Cells.read(codes, condition=condition, groups=groups, within=within)
    plan = _Plan(tuple(attackers), n_folds, n_permutations, n_bootstrap, seed)
    result = _audit(cells, plan=plan)
    if cells.within is None:
        return result
    rows, skipped = [], {}
    for level, name in enumerate(cells.within_names):
        try:
            inside = _audit(cells.level(level, min_cells=min_cells), plan=plan)
        except (InputDataError, OptionError) as error:
            skipped[str(name)] = str(error)
        else:
            rows.append(inside.to_frame().assign(scope="within", group=str(name)))
    if not rows:
        return replace(result, skipped=skipped)
    return replace(result, by_group=pd.concat(rows, ignore_index=True), skipped=skipped)


def composition_baseline(
    condition: ArrayLike,
    within: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_folds: int | None = None,
    n_permutations: int = 200,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> Leakage:
    """How well the condition can be read from the cell type alone, by :func:`leakage`.

    Codes that keep cell types must leak this much where conditions differ in composition; only
    what :func:`leakage` finds beyond it is a fault of the codes. The attacker is logistic
    regression on one-hot types, which can learn every table of frequencies. Result and errors are
    those of :func:`leakage`.

    Parameters
    ----------
    condition, within
        Condition and cell type of each cell, ``(n_cells,)``.
    groups
        Donors or replicates, ``(n_cells,)``.
    n_folds, n_permutations, n_bootstrap, seed
        As in :func:`leakage`.
    """
    condition = np.asarray(condition, dtype=object)
    types, names = as_levels(within, name="within", n_cells=len(condition))
    return leakage(
        np.eye(len(names))[types],
        condition,
        groups=groups,
        attackers=("logistic",),
        n_folds=n_folds,
        n_permutations=n_permutations,
        n_bootstrap=n_bootstrap,
        seed=seed,
    )


@dataclass(frozen=True)
class _Plan:
    """How an audit is done."""

    attackers: tuple[str, ...]
    n_folds: int | None
    n_permutations: int
    n_bootstrap: int
    seed: int

    def __post_init__(self) -> None:
        for name in self.attackers:
            one_of(name, ATTACKS, "attacker")
        if not self.attackers or min(self.n_permutations, self.n_bootstrap) < 1:
            msg = "leakage needs at least one attacker, one permutation and one bootstrap draw."
            raise OptionError(msg)


@dataclass(frozen=True)
class _Cells:
    """The cells of one audit; labels as integers ``(n_cells,)``."""

    codes: Floats
    condition: Integers
    condition_names: list[Any]
    groups: Integers | None
    within: Integers | None
    within_names: list[Any]

    @classmethod
    def read(
        cls,
        codes: Floats,
        *,
        condition: ArrayLike,
        groups: ArrayLike | None,
        within: ArrayLike | None,
    ) -> "_Cells":
        n = len(codes)
        labels, names = as_levels(condition, name="condition", n_cells=n)
        donors = None if groups is None else as_levels(groups, name="groups", n_cells=n)[0]
        types, type_names = (
            (None, []) if within is None else as_levels(within, name="within", n_cells=n)
        )
        return cls(codes, labels, names, donors, types, type_names)

    def level(self, level: int, *, min_cells: int) -> "_Cells":
        """Return the cells of one level of ``within``."""
        inside = np.flatnonzero(self.within == level)
        if len(inside) < min_cells:
            msg = f"{len(inside)} cells, fewer than min_cells={min_cells}"
            raise InputDataError(msg)
        groups = None if self.groups is None else combine(self.groups[inside])
        return _Cells(
            self.codes[inside], self.condition[inside], self.condition_names, groups, None, []
        )


def _audit(cells: _Cells, *, plan: _Plan) -> Leakage:
    """Audit the given cells as one pool."""
    _check_conditions(cells)
    rng = np.random.default_rng(plan.seed)
    labels, names = cells.condition, cells.condition_names
    strata = combine(labels, cells.within)
    folds = assign_folds(
        labels, names, groups=cells.groups, strata=strata, n_folds=plan.n_folds, rng=rng
    )
    held_out = attack(cells.codes, labels, folds=folds, attackers=plan.attackers, seed=plan.seed)
    scores = score(held_out, labels[None], weights=np.ones((1, len(labels))))[0]
    found, best = scores.max(axis=0), scores.argmax(axis=0)  # over attackers, for each score
    null = _null_scores(cells, held_out, n_draws=plan.n_permutations, rng=rng)
    draws = _bootstrap_scores(cells, held_out, n_draws=plan.n_bootstrap, rng=rng)
    values = dict(zip(SCORES, found.tolist(), strict=True))
    return Leakage(
        **values,
        attacker=plan.attackers[best[SCORES.index("auroc")]],
        null=_null_table(found, null),
        interval=_interval_table(found, draws[:, best, range(len(SCORES))], groups=cells.groups),
        by_attacker=pd.DataFrame(scores, index=list(plan.attackers), columns=list(SCORES)),
        n_cells=len(labels),
        n_conditions=len(names),
    )


def _check_conditions(cells: _Cells) -> None:
    counts = np.bincount(cells.condition, minlength=len(cells.condition_names))
    if len(counts) < 2:
        msg = f"condition has one level only, {cells.condition_names}: nothing can be told apart."
        raise InputDataError(msg)
    rare = [
        f"{count} of {name}"
        for name, count in zip(cells.condition_names, counts, strict=True)
        if count < MIN_CONDITION_CELLS
    ]
    if rare:
        msg = (
            f"{MIN_CONDITION_CELLS} cells of each condition are needed, but there are "
            f"{', '.join(rare)}. Leave these conditions out."
        )
        raise InputDataError(msg)


def _null_table(found: Floats, null: Floats) -> pd.DataFrame:
    """Summary of null scores ``(n_draws, n_scores)``, and the share of draws that reach found."""
    as_large = (null >= found - 1e-12).sum(axis=0)
    columns = {
        "mean": null.mean(axis=0),
        "upper_95": np.quantile(null, 0.95, axis=0),
        "p_value": (as_large + 1) / (len(null) + 1),
    }
    return pd.DataFrame(columns, index=SCORES)


def _interval_table(found: Floats, draws: Floats, *, groups: Integers | None) -> pd.DataFrame:
    """Middle 95 % of bootstrap scores ``(n_draws, n_scores)``, widened if there are few groups."""
    ends = np.nanquantile(draws, [0.025, 0.975], axis=0)
    if groups is not None:  # as Student's t does for a mean of n_groups values
        n_groups = groups.max() + 1
        student = stats.t.ppf(0.975, n_groups - 1) / stats.norm.ppf(0.975)
        ends = found + student * np.sqrt(n_groups / (n_groups - 1)) * (ends - found)
        ends = np.clip(ends, SMALLEST, LARGEST)
    return pd.DataFrame(ends.T, index=SCORES, columns=["lower", "upper"])


def _null_scores(
    cells: _Cells, held_out: HeldOut, *, n_draws: int, rng: np.random.Generator
) -> Floats:
    """Largest score over attackers for shuffled labels, ``(n_draws, n_scores)``."""
    labels, groups, folds = cells.condition, cells.groups, held_out.folds
    of_group = _label_of_groups(cells)
    parts = []
    for size in _batches(n_draws, n_cells=len(labels)):
        if groups is not None and of_group is not None:
            first = np.unique(groups, return_index=True)[1]
            shuffled = permuted(of_group, strata=folds[first], n_draws=size, rng=rng)[:, groups]
        else:
            strata = combine(folds, groups, cells.within)
            shuffled = permuted(labels, strata=strata, n_draws=size, rng=rng)
        weights = np.ones((1, len(labels)))
        parts.append(score(held_out, shuffled, weights=weights))
    scores = np.concatenate(parts)  # (n_draws, n_attackers, n_scores)
    centre = scores.mean(axis=0)
    return np.minimum(centre + np.sqrt(2) * (scores - centre), LARGEST).max(axis=1)


def _bootstrap_scores(
    cells: _Cells, held_out: HeldOut, *, n_draws: int, rng: np.random.Generator
) -> Floats:
    """Scores of resampled groups, or cells, ``(n_draws, n_attackers, n_scores)``."""
    labels, groups = cells.condition, cells.groups
    of_group = _label_of_groups(cells)
    parts = []
    for size in _batches(n_draws, n_cells=len(labels)):
        if groups is None:
            strata = combine(labels, cells.within)
            weights = resampled(strata, n_draws=size, rng=rng)
        else:
            strata = np.zeros(groups.max() + 1, dtype=np.intp) if of_group is None else of_group
            weights = resampled(strata, n_draws=size, rng=rng)[:, groups]
        parts.append(score(held_out, labels[None], weights=weights))
    return np.concatenate(parts)


def _label_of_groups(cells: _Cells) -> Integers | None:
    """Condition of each group, or None unless all groups have one condition only."""
    if cells.groups is None:
        return None
    pairs = np.unique(np.stack([cells.groups, cells.condition], axis=1), axis=0)
    return pairs[:, 1] if len(pairs) == cells.groups.max() + 1 else None


def _batches(n_draws: int, *, n_cells: int) -> list[int]:
    size = max(1, BATCH_ELEMENTS // n_cells)
    return [min(size, n_draws - start) for start in range(0, n_draws, size)]
