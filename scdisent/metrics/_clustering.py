"""Whether labels can be found again in codes: by clusters, by neighbours, by a line."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scdisent._errors import InputDataError, OptionError, ScDisentWarning
from scdisent.metrics._checks import (
    Integers,
    as_codes,
    as_levels,
    assign_folds,
    combine,
    groups_per_label,
    one_thread,
)

MIN_LABEL_CELLS = 10
"""Labels with fewer cells are left out of cross-validated scores."""


def nmi(
    codes: ArrayLike, labels: ArrayLike, *, n_clusters: int | None = None, seed: int = 0
) -> float:
    r"""Normalised mutual information of k-means clusters and labels.

    .. math:: \frac{2\, I(c; y)}{H(c) + H(y)}

    Says whether labels are what separates cells most. It is **never evidence of invariance**:
    k-means follows the largest differences (cell types), so a condition that can be read from
    the codes with certainty still gives 0. Ask :func:`leakage` instead.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``, clustered as they are: their scale counts.
    labels
        ``(n_cells,)``.
    n_clusters
        Default: the number of labels.
    seed
        Of k-means (best of ten starts).

    Returns
    -------
    In ``[0, 1]``; 1 if clusters are the labels.

    Raises
    ------
    InputDataError
        If arrays do not match or hold missing values.
    """
    codes = as_codes(codes)
    integers, names = as_levels(labels, name="labels", n_cells=len(codes))
    n_clusters = len(names) if n_clusters is None else n_clusters
    if not 1 <= n_clusters <= len(codes):
        msg = f"n_clusters={n_clusters}, but it must lie between 1 and {len(codes)} cells."
        raise OptionError(msg)
    with one_thread():
        clusters = KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(codes)
    return float(normalized_mutual_info_score(integers, clusters))


def knn_accuracy(
    codes: ArrayLike,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_neighbors: int = 15,
    seed: int = 0,
) -> float:
    """Balanced accuracy with which a cell's nearest neighbours vote for its label.

    Cross-validated over four folds, or over donors where ``groups`` are given, so that no cell
    votes for itself and, with donors, no cell of the same donor votes.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``, used as they are: their scale counts, as in a neighbour graph.
    labels
        ``(n_cells,)``, for example cell types. Labels with fewer than 10 cells, or in a single
        group, are left out with a warning.
    groups
        Donors, ``(n_cells,)``.
    n_neighbors
        Cells that vote.
    seed
        Of the folds.

    Returns
    -------
    In ``[0, 1]``; chance is ``1 / n_labels``.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, or fewer than two labels are left.
    """
    return _cross_validated(
        lambda n_cells: KNeighborsClassifier(min(n_neighbors, n_cells)),
        codes,
        labels=labels,
        groups=groups,
        seed=seed,
    )


def label_recovery(
    codes: ArrayLike, labels: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0
) -> float:
    """Balanced accuracy of logistic regression from codes to labels.

    The utility beside a leakage audit: cell type from the invariant block and condition from the
    specific block should be high, cell type from the specific block low. Codes are standardised;
    labels weigh the same whatever their frequency. Cross-validated as :func:`knn_accuracy`.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``.
    labels
        ``(n_cells,)``. Labels with fewer than 10 cells, or in a single group, are left out with a
        warning.
    groups
        Donors, ``(n_cells,)``.
    seed
        Of the folds.

    Returns
    -------
    In ``[0, 1]``; chance is ``1 / n_labels``.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, or fewer than two labels are left.
    """
    line = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=500)
    )
    return _cross_validated(lambda _: line, codes, labels=labels, groups=groups, seed=seed)


def _cross_validated(
    classifier_for: Callable[[int], Any],
    codes: ArrayLike,
    *,
    labels: ArrayLike,
    groups: ArrayLike | None,
    seed: int,
) -> float:
    """Balanced accuracy of held-out predictions, by a classifier for so many training cells."""
    points = as_codes(codes)
    integers, names = as_levels(labels, name="labels", n_cells=len(points))
    donors = None if groups is None else as_levels(groups, name="groups", n_cells=len(points))[0]
    keep = _scorable(integers, names, groups=donors)
    names = [names[label] for label in np.unique(integers[keep])]
    points, integers = points[keep], combine(integers[keep])
    donors = None if donors is None else combine(donors[keep])
    folds = assign_folds(
        integers,
        names,
        groups=donors,
        strata=integers,
        n_folds=None,
        rng=np.random.default_rng(seed),
    )
    predicted = np.empty_like(integers)
    with one_thread():
        for fold in np.unique(folds):
            train, test = folds != fold, folds == fold
            classifier = classifier_for(int(train.sum())).fit(points[train], integers[train])
            predicted[test] = classifier.predict(points[test])
    return float(balanced_accuracy_score(integers, predicted))


def _scorable(labels: Integers, names: list[Any], *, groups: Integers | None) -> NDArray[np.bool_]:
    """Mask ``(n_cells,)`` of the cells whose label can be trained on and held out."""
    enough = np.bincount(labels) >= MIN_LABEL_CELLS
    if groups is not None:
        enough &= groups_per_label(labels, groups) >= 2
    left_out = [name for name, good in zip(names, enough, strict=True) if not good]
    if enough.sum() < 2:
        msg = (
            f"Fewer than two labels have {MIN_LABEL_CELLS} cells (and two groups, where groups are "
            f"given); too rare: {left_out}. Merge labels, or pass groups=None."
        )
        raise InputDataError(msg)
    if left_out:
        msg = f"Labels with fewer than {MIN_LABEL_CELLS} cells or in one group left out: {left_out}"
        warnings.warn(msg, ScDisentWarning, stacklevel=4)
    return enough[labels]
