"""Scores of held-out predictions for many draws of labels or weights at once."""

import numpy as np
from numpy.typing import NDArray

from scdisent.metrics._attackers import HeldOut
from scdisent.metrics._checks import Floats, Integers

SCORES = ("balanced_accuracy", "auroc", "bits")


def score(held_out: HeldOut, labels: Integers, *, weights: Floats) -> Floats:
    """All scores of all attackers for several draws.

    Parameters
    ----------
    held_out
        Predictions.
    labels, weights
        ``(n_draws, n_cells)`` each, or one row for all draws.

    Returns
    -------
    ``(n_draws, n_attackers, 3)`` in the order of ``SCORES``; NaN where a draw misses a label.
    """
    n_labels = held_out.probabilities.shape[2]
    shares = [weights * (labels == label) for label in range(n_labels)]  # (n_draws, n_cells) each
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [
            _balanced_accuracy(held_out.decisions, shares),
            _auroc(held_out, shares),
            _bits(held_out.probabilities, shares),
        ]
    return np.stack(columns, axis=-1)


def _balanced_accuracy(decisions: Integers, shares: list[Floats]) -> Floats:
    """Mean over labels of the share of its cells that are recognised, (n_draws, n_attackers)."""
    recalls = [
        share @ (decisions == label).T / share.sum(axis=1, keepdims=True)
        for label, share in enumerate(shares)
    ]
    return np.mean(recalls, axis=0)


def _bits(probabilities: Floats, shares: list[Floats]) -> Floats:
    """Entropy of the labels minus cross-entropy of the predictions, (n_draws, n_attackers)."""
    log_p = np.log2(np.clip(probabilities, 1e-9, 1))  # 1e-9: one sure mistake costs 30 bits
    total = sum(share.sum(axis=1) for share in shares)
    frequencies = [share.sum(axis=1) / total for share in shares]
    entropy = -sum(f * np.log2(f, where=f > 0, out=np.zeros_like(f)) for f in frequencies)
    gain = sum(share @ log_p[:, :, label].T for label, share in enumerate(shares))
    return entropy[:, None] + gain / total[:, None]


def _auroc(held_out: HeldOut, shares: list[Floats]) -> Floats:
    """Area under the ROC curve, (n_draws, n_attackers): one label against the rest, averaged.

    Taken inside each fold, because probabilities of attackers fitted on different cells are not
    on one scale, and averaged over the folds that hold the label, by their weight.
    """
    total = np.sum(shares, axis=0)
    asked = shares[1:] if len(shares) == 2 else shares  # two labels: the other one is the mirror
    first = len(shares) - len(asked)
    members = [held_out.folds == fold for fold in np.unique(held_out.folds)]
    result = np.zeros((len(total), len(held_out.decisions)))
    for label, share in enumerate(asked, start=first):
        for attacker, p in enumerate(held_out.probabilities[:, :, label]):
            parts = [area_under_roc(p[m], share[:, m], total[:, m] - share[:, m]) for m in members]
            sizes = [total[:, m].sum(axis=1) for m in members]
            result[:, attacker] += _average(np.array(parts), np.array(sizes)) / len(asked)
    return result


def _average(parts: Floats, sizes: Floats) -> Floats:
    """Mean over the first axis by size, without the parts that are NaN."""
    known = np.isfinite(parts)
    return np.where(known, parts * sizes, 0).sum(axis=0) / (known * sizes).sum(axis=0)


def area_under_roc(values: Floats, positive: Floats, negative: Floats) -> Floats:
    """Chance that a positive cell has a larger value than a negative one; ties count one half.

    Parameters
    ----------
    values
        ``(n_cells,)``.
    positive, negative
        Weights of the cells in either role, ``(n_draws, n_cells)``.

    Returns
    -------
    ``(n_draws,)``, NaN where one of the roles has no weight.
    """
    order = np.argsort(values)
    ranked = values[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # cells of one value: one step
    up = np.add.reduceat(positive[:, order], starts, axis=1)
    across = np.add.reduceat(negative[:, order], starts, axis=1)
    below = np.cumsum(across, axis=1) - across / 2
    return (up * below).sum(axis=1) / (up.sum(axis=1) * across.sum(axis=1))


def permuted(
    labels: Integers, *, strata: Integers, n_draws: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Labels shuffled inside strata, ``(n_draws, n_cells)``."""
    places = np.argsort(strata, kind="stable")
    order = np.argsort(strata + rng.random((n_draws, len(labels))), axis=1)
    result = np.empty_like(order)
    result[:, places] = labels[order]
    return result


def resampled(strata: Integers, *, n_draws: int, rng: np.random.Generator) -> Floats:
    """How often each cell is drawn when each stratum is drawn with replacement, as weights.

    Returns
    -------
    ``(n_draws, n_cells)``; each stratum keeps its size.
    """
    weights = np.empty((n_draws, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        equal = np.full(len(members), 1 / len(members))
        weights[:, members] = rng.multinomial(len(members), equal, size=n_draws)
    return weights
