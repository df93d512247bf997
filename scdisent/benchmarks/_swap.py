"""The swap test: cells with the specific codes of other cells, before a judge of real cells."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from scdisent.benchmarks._world import Fit, Floats, World

MAX_CELLS = 2_000
"""Cells that a judge learns from, and that are swapped."""
N_COMPONENTS, N_TREES, N_FOLDS = 50, 100, 3

Index = NDArray[np.intp]


@dataclass(frozen=True)
class Judge:
    """The better of a linear and a tree judge by cross-validation, fitted on real cells."""

    model: Any
    score: Callable[[Any, Any], float]

    @classmethod
    def of_labels(cls, features: Floats, labels: Any, *, seed: int) -> "Judge":
        """Judge of levels; its score is balanced accuracy."""
        judges = (
            LogisticRegression(class_weight="balanced", max_iter=500),
            RandomForestClassifier(N_TREES, class_weight="balanced", random_state=seed),
        )
        model = _best(judges, features, labels, scoring="balanced_accuracy", seed=seed)
        return cls(model, balanced_accuracy_score)

    @classmethod
    def of_numbers(cls, features: Floats, numbers: Floats, *, seed: int) -> "Judge":
        """Judge of numbers; its score is the mean share of variance explained."""
        judges = (
            RidgeCV(np.logspace(-2, 4, 13)),
            RandomForestRegressor(N_TREES, random_state=seed),
        )
        return cls(_best(judges, features, numbers, scoring="r2", seed=seed), r2_score)

    def rate(self, features: Floats, truth: Any) -> float:
        """Score of what it says of some cells."""
        return float(self.score(truth, self.model.predict(features)))


def _best(judges: Any, features: Floats, truth: Any, *, scoring: str, seed: int) -> Any:
    n_components = min(N_COMPONENTS, features.shape[1], len(features) // 2)
    steps = StandardScaler(), PCA(n_components, random_state=seed)
    candidates = [make_pipeline(*steps, judge) for judge in judges]
    scores = [
        cross_val_score(each, features, truth, cv=N_FOLDS, scoring=scoring).mean()
        for each in candidates
    ]
    return candidates[int(np.argmax(scores))].fit(features, truth)


def swap(world: World, fit: Fit, seed: int) -> dict[str, float]:
    """Whether cells with the specific codes of others carry their condition and keep the rest.

    One half of the real cells trains the judges. Of the other half each cell gets the specific
    code of a random cell under another condition. ``judge_...`` is the judge's own score on the
    real cells of that half: what a perfect swap can reach.
    """
    if fit.swap is None or world.condition is None:
        return {}
    condition, shared = (_integers(labels) for labels in (world.condition, world.shared_labels))
    numbers = None if world.numbers is None else world.numbers.squeeze()
    cells = np.random.default_rng(seed).permutation(len(condition))[: 2 * MAX_CELLS]
    learned, judged = train_test_split(
        cells, test_size=0.5, stratify=condition[cells], random_state=seed
    )
    partner = partners(condition[judged], seed=seed)
    real = world.features()
    swapped = world.features(fit.swap(judged, judged[partner]))
    found: dict[str, float] = {}
    with threadpool_limits(1):
        judge = Judge.of_labels(real[learned], condition[learned], seed=seed)
        found["judge_condition"] = judge.rate(real[judged], condition[judged])
        found["swap_condition"] = judge.rate(swapped, condition[judged][partner])
        for name, truth, make in (
            ("shared", shared, Judge.of_labels),
            ("r2", numbers, Judge.of_numbers),
        ):
            if truth is not None:
                judge = make(real[learned], truth[learned], seed=seed)
                found[f"judge_{name}"] = judge.rate(real[judged], truth[judged])
                found[f"swap_{name}"] = judge.rate(swapped, truth[judged])
    return found


def _integers(labels: Any) -> Any:
    """Levels by number: forests misread text that looks like numbers."""
    return None if labels is None else np.unique(labels, return_inverse=True)[1]


def partners(condition: Any, *, seed: int) -> Index:
    """Place of a random cell under another condition for each cell, ``(n_cells,)``."""
    rng = np.random.default_rng(seed)
    places = np.empty(len(condition), dtype=np.intp)
    for level in np.unique(condition):
        here = condition == level
        places[here] = rng.choice(np.flatnonzero(~here), here.sum())
    return places
