"""Classifiers that try to read a label from codes; each tunes itself on its training part only."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from scdisent._errors import one_of
from scdisent.metrics._checks import Floats, Integers, one_thread

Attack = Callable[..., Floats]
"""``(codes, labels, *, test, seed)`` to probabilities ``(n_test, n_labels)``."""


def _logistic(codes: Floats, labels: Integers, *, test: Floats, seed: int) -> Floats:
    model = LogisticRegression(max_iter=300, random_state=seed)
    return model.fit(codes, labels).predict_proba(test)


def _knn(codes: Floats, labels: Integers, *, test: Floats, seed: int) -> Floats:
    """Nearest neighbours; their number is the one with the best leave-one-out likelihood."""
    neighbours = NearestNeighbors(n_neighbors=min(50, len(labels) - 1)).fit(codes)
    own = labels[neighbours.kneighbors(return_distance=False)]
    prior = np.bincount(labels) / len(labels)
    sizes = [size for size in (5, 15, 50) if size <= own.shape[1]] or [own.shape[1]]
    truth = np.arange(len(labels)), labels
    likelihood = [np.log(_vote(own[:, :size], prior)[truth]).mean() for size in sizes]
    size = sizes[int(np.argmax(likelihood))]
    return _vote(labels[neighbours.kneighbors(test, size, return_distance=False)], prior)


def _vote(neighbours: Integers, prior: Floats) -> Floats:
    """Shares of labels among neighbours, with the prior counted as one neighbour more."""
    votes = np.stack([(neighbours == label).sum(axis=1) for label in range(len(prior))], axis=1)
    return (votes + prior) / (neighbours.shape[1] + 1)


def _boosting(codes: Floats, labels: Integers, *, test: Floats, seed: int) -> Floats:
    model = HistGradientBoostingClassifier(
        max_iter=100,
        max_leaf_nodes=15,
        early_stopping=True,
        validation_fraction=_validation_fraction(labels),
        random_state=seed,
    )
    return model.fit(codes, labels).predict_proba(test)


def _mlp(codes: Floats, labels: Integers, *, test: Floats, seed: int) -> Floats:
    """Two layers of 256; about 500 steps at most, so that large data does not take for ever."""
    batch = int(np.clip(len(labels) // 20, 32, 256))
    model = MLPClassifier(
        (256, 256),
        alpha=1.0,  # weak leaks in some thousand cells: the default overfits and finds less
        batch_size=min(batch, len(labels) // 2),
        max_iter=int(np.clip(500 * batch / len(labels), 5, 100)),
        early_stopping=True,
        validation_fraction=_validation_fraction(labels),
        random_state=seed,
    )
    model.fit(codes.astype(np.float32), labels)
    return model.predict_proba(test.astype(np.float32))


def _validation_fraction(labels: Integers) -> float:
    """15 %, or what it takes to hold one cell of each label."""
    return max(0.15, (labels.max() + 1) / len(labels))


ATTACKS: dict[str, Attack] = {
    "logistic": _logistic,
    "knn": _knn,
    "boosting": _boosting,
    "mlp": _mlp,
}


@dataclass(frozen=True)
class HeldOut:
    """What attackers said about cells that they were not fitted on."""

    probabilities: Floats  # (n_attackers, n_cells, n_labels), under the labels' own frequencies
    decisions: Integers  # (n_attackers, n_cells), as if all labels were equally frequent
    folds: Integers  # (n_cells,)


def attack(
    codes: Floats, labels: Integers, *, folds: Integers, attackers: Sequence[str], seed: int
) -> HeldOut:
    """Fit each attacker on all folds but one and apply it to that one, for each fold.

    Codes are standardised with the mean and standard deviation of the training part. Attackers
    are fitted without class weights, so that their probabilities are comparable with the
    labels' entropy; decisions divide them by the training frequencies, so that a rare label
    counts as much as a frequent one.
    """
    chosen = [ATTACKS[one_of(name, ATTACKS, "attacker")] for name in attackers]
    n_labels = int(labels.max()) + 1
    probabilities = np.empty((len(chosen), len(labels), n_labels))
    decisions = np.empty((len(chosen), len(labels)), dtype=np.intp)
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore", ConvergenceWarning)  # steps are limited on purpose
        for fold in np.unique(folds):
            train, test = folds != fold, folds == fold
            scaler = StandardScaler().fit(codes[train])
            known, unknown = scaler.transform(codes[train]), scaler.transform(codes[test])
            prior = np.bincount(labels[train]) / train.sum()
            for i, method in enumerate(chosen):
                p = method(known, labels[train], test=unknown, seed=seed)
                probabilities[i, test] = p
                decisions[i, test] = (p / prior).argmax(axis=1)
    return HeldOut(probabilities, decisions, folds)
