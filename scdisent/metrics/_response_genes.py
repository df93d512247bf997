"""Predicted against observed response, gene by gene: which genes move, where to, how surely.

All arrays are ``(n_cells, n_genes)`` of log-normalised expression with genes in the same order. The
truth about genes comes from observed cells alone, and everyone is held against the same observed
control cells.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics._checks import Floats
from scdisent.metrics._response import _cells, mean_and_variance, top_genes, welch_t

LARGEST_T = 1e6
"""Stands for the infinite t of a gene that differs without any spread."""


def de_weights(observed: Any, control: Any) -> Floats:
    r"""Weights of genes by how surely they respond, ``(n_genes,)``, summing to one.

    .. math:: w_g \propto \left( \frac{|t_g| - \min_h |t_h|}{\max_h |t_h| - \min_h |t_h|}
              \right)^2

    with Welch's t of the observed change.

    Parameters
    ----------
    observed, control
        Cells of the target condition and the reference cells, at least two each.

    Returns
    -------
    Equal weights if all genes are equally sure.

    Raises
    ------
    InputDataError
        If arrays do not share their genes or have fewer than two cells.
    """
    t = np.abs(_t(observed, control))
    spread = t.max() - t.min()
    weights = ((t - t.min()) / spread) ** 2 if spread > 0 else np.ones_like(t)
    return weights / weights.sum()


def weighted_mse(observed: Any, predicted: Any, control: Any) -> float:
    r"""Squared error of the mean with the weights of :func:`de_weights`.

    .. math:: \sum_g w_g (\bar x^{pred}_g - \bar x^{obs}_g)^2

    Parameters
    ----------
    observed, predicted, control
        Cells of the target condition, their prediction, and the reference cells.

    Returns
    -------
    Not negative; 0 if the means agree in every gene of positive weight.

    Raises
    ------
    InputDataError
        If arrays do not share their genes or have fewer than two cells.
    """
    seen, said, _ = (_mean(x) for x in _cells(observed, predicted, control, at_least=2))
    return float(de_weights(observed, control) @ (said - seen) ** 2)


def r2_delta(observed: Any, predicted: Any, control: Any, *, weighted: bool = False) -> float:
    r"""Share of the observed change of the mean that is predicted.

    .. math:: 1 - \frac{\sum_g w_g (\Delta^{obs}_g - \Delta^{pred}_g)^2}
                       {\sum_g w_g (\Delta^{obs}_g - \bar\Delta)^2}, \qquad
              \bar\Delta = \sum_g w_g \Delta^{obs}_g

    Parameters
    ----------
    observed, predicted, control
        Cells of the target condition, their prediction, and the reference cells.
    weighted
        Weights of :func:`de_weights` instead of equal ones.

    Returns
    -------
    At most 1; no lower limit; NaN if the observed change is the same for all genes.

    Raises
    ------
    InputDataError
        If arrays do not share their genes or have fewer than two cells.
    """
    seen, said, start = (_mean(x) for x in _cells(observed, predicted, control, at_least=2))
    change, error = seen - start, said - seen
    weights = np.full(len(change), 1 / len(change))
    if weighted:
        weights = de_weights(observed, control)
    total = weights @ (change - weights @ change) ** 2
    return float(1 - (weights @ error**2) / total) if total > 0 else float("nan")


def de_overlap(observed: Any, predicted: Any, control: Any, *, n: int = 100) -> float:
    """Share of the ``n`` surest genes of the observation that are among those of the prediction.

    Parameters
    ----------
    observed, predicted, control
        Cells of the target condition, their prediction, and the reference cells.
    n
        How many genes, by the size of Welch's t against the control.

    Returns
    -------
    In ``[0, 1]``; by chance about ``n / n_genes``. Genes predicted not to move are never found.

    Raises
    ------
    InputDataError
        If arrays do not share their genes or have fewer than two cells.
    """
    _cells(observed, predicted, control, at_least=2)
    moves = np.abs(_t(predicted, control)) > 0
    found, truth = (top_genes(cells, control, n=n) for cells in (predicted, observed))
    return float(np.isin(truth, found[moves[found]]).mean())


def direction_match(observed: Any, predicted: Any, control: Any, *, n: int = 100) -> float:
    """Share of the ``n`` surest observed genes whose mean is predicted to move the same way.

    Parameters
    ----------
    observed, predicted, control
        Cells of the target condition, their prediction, and the reference cells.
    n
        How many genes, by the size of Welch's t of the observation.

    Returns
    -------
    In ``[0, 1]``; no change counts as wrong.

    Raises
    ------
    InputDataError
        If arrays do not share their genes or have fewer than two cells.
    """
    seen, said, start = (_mean(x) for x in _cells(observed, predicted, control, at_least=2))
    top = top_genes(observed, control, n=n)
    return float((np.sign(said - start)[top] == np.sign(seen - start)[top]).mean())


def de_pr_auc(observed: Any, predicted: Any, control: Any, *, fdr: float = 0.05) -> float:
    r"""Average precision with which the prediction's t ranks the observed responding genes.

    The truth: genes whose observed change is significant by Welch's t test at a false discovery
    rate (Benjamini and Hochberg). Ranked by the size of the t of the predicted cells.

    Parameters
    ----------
    observed, predicted, control
        Cells of the target condition, their prediction, and the reference cells.
    fdr
        Between 0 and 1.

    Returns
    -------
    In ``[0, 1]``, by chance the share of responding genes; NaN if no or every gene responds.

    Raises
    ------
    InputDataError
        If arrays do not share their genes or have fewer than two cells.
    OptionError
        If ``fdr`` is outside (0, 1).
    """
    _cells(observed, predicted, control, at_least=2)
    if not 0 < fdr < 1:
        msg = f"fdr={fdr} must lie between 0 and 1."
        raise OptionError(msg)
    responds = significant(observed, control, fdr=fdr)
    if responds.all() or not responds.any():
        return float("nan")
    return float(average_precision_score(responds, np.abs(_t(predicted, control))))


def significant(observed: Any, control: Any, *, fdr: float) -> NDArray[np.bool_]:
    """Genes that differ by Welch's t test at a false discovery rate, ``(n_genes,)``."""
    moments = [(*mean_and_variance(x), x.shape[0]) for x in (observed, control)]
    (mean, variance, n), (mean_0, variance_0, n_0) = moments
    own, other = variance / n, variance_0 / n_0
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = (own + other) ** 2 / (own**2 / (n - 1) + other**2 / (n_0 - 1))
    t = welch_t(mean - mean_0, error=own + other)
    p = 2 * stats.t.sf(np.abs(t), np.nan_to_num(freedom, nan=1.0))
    return stats.false_discovery_control(p) <= fdr


def centroid_accuracy(observed: Any, predicted: Any) -> float:
    r"""Share of conditions whose predicted mean lies nearest to its own observed mean.

    Parameters
    ----------
    observed, predicted
        Means of conditions, ``(n_conditions, n_genes)`` each, in the same order.

    Returns
    -------
    In ``[0, 1]``; by chance one over the number of conditions.

    Raises
    ------
    InputDataError
        If shapes differ.
    """
    distance = _between(observed, predicted)
    return float((distance.argmin(axis=1) == np.arange(len(distance))).mean())


def discrimination_rank(observed: Any, predicted: Any) -> float:
    r"""Mean rank of a condition's own truth among all truths, by distance from its prediction.

    .. math:: 1 - \frac{1}{n} \sum_c \frac{\#\{c' : d(\hat x_c, x_{c'}) < d(\hat x_c, x_c)\}}{n-1}

    Parameters
    ----------
    observed, predicted
        Means of conditions, ``(n_conditions, n_genes)`` each, in the same order.

    Returns
    -------
    In ``[0, 1]``: 1 if every prediction is nearest to its own truth, 0.5 by chance. The same
    prediction for all conditions gets 0.5, however good it is on average.

    Raises
    ------
    InputDataError
        If shapes differ.
    """
    distance = _between(observed, predicted)
    own = np.diagonal(distance)[:, None]
    nearer = (distance < own).sum(axis=1)
    return float(1 - (nearer / max(len(distance) - 1, 1)).mean())


def _between(observed: Any, predicted: Any) -> Floats:
    """Manhattan distance of each prediction (row) from each truth (column)."""
    seen, said = (np.asarray(x, dtype=np.float64) for x in _cells(observed, predicted))
    if seen.shape != said.shape:
        msg = f"means must have the same shape, but have {seen.shape} and {said.shape}."
        raise InputDataError(msg)
    return cdist(said, seen, metric="cityblock")


def _mean(matrix: Any) -> Floats:
    return mean_and_variance(matrix)[0]


def _t(cells: Any, control: Any) -> Floats:
    """Welch's t of each gene."""
    cells, control = _cells(cells, control, at_least=2)
    (mean, variance), (mean_0, variance_0) = mean_and_variance(cells), mean_and_variance(control)
    error = variance / cells.shape[0] + variance_0 / control.shape[0]
    return welch_t(mean - mean_0, error=error).clip(-LARGEST_T, LARGEST_T)
