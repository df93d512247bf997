"""Predicted against observed cells: means, spread, and the whole distribution.

All arrays are ``(n_cells, n_genes)`` of log-normalised expression (or latents, for distances),
dense or sparse, with genes in the same order.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.spatial.distance import cdist

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics._checks import Floats

Genes = ArrayLike | None
CHUNK = 1_000
"""Rows of a distance matrix that are held at once."""
ROUNDING = 1e-12
"""Of means of expression: what lies below it is rounding."""
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the kernels of :func:`mmd`, in units of the median squared distance."""


def pearson_delta(observed: Any, predicted: Any, control: Any, *, genes: Genes = None) -> float:
    r"""Pearson correlation over genes of the predicted with the observed change of the mean.

    .. math:: \operatorname{corr}_g(\bar x^{pred}_g - \bar x^{ctrl}_g,\;
              \bar x^{obs}_g - \bar x^{ctrl}_g)

    Parameters
    ----------
    observed, predicted, control
        Cells of the target condition, their prediction, and the reference cells.
    genes
        Positions or mask of the genes to use, for example of :func:`top_genes`.

    Returns
    -------
    In ``[-1, 1]``; 0 if either change is the same for all genes (predicting no change).

    Raises
    ------
    InputDataError
        If arrays do not share their genes or have no cells.
    """
    cells = _cells(observed, predicted, control, genes=genes)
    seen, said, start = (mean_and_variance(matrix)[0] for matrix in cells)
    return correlation(said - start, seen - start)


def mse_mean(observed: Any, predicted: Any, *, genes: Genes = None) -> float:
    """Squared error of the mean expression, averaged over genes.

    Parameters
    ----------
    observed, predicted
        Cells of the target condition and their prediction.
    genes
        Positions or mask of the genes to use.

    Returns
    -------
    Not negative; 0 if all means agree.

    Raises
    ------
    InputDataError
        If arrays do not share their genes or have no cells.
    """
    seen, said = (mean_and_variance(m)[0] for m in _cells(observed, predicted, genes=genes))
    return float(((seen - said) ** 2).mean())


def r2_variance(observed: Any, predicted: Any, *, genes: Genes = None) -> float:
    r"""Coefficient of determination over genes of the predicted variance.

    .. math:: 1 - \frac{\sum_g (v^{obs}_g - v^{pred}_g)^2}{\sum_g (v^{obs}_g - \bar v^{obs})^2}

    Parameters
    ----------
    observed, predicted
        Cells of the target condition and their prediction, at least two each.
    genes
        Positions or mask of the genes to use.

    Returns
    -------
    At most 1; 0 for predicting the mean variance for all genes; no lower limit. NaN if the
    observed variance is the same for all genes.

    Raises
    ------
    InputDataError
        If arrays do not share their genes or have fewer than two cells.
    """
    matrices = _cells(observed, predicted, genes=genes, at_least=2)
    seen, said = (mean_and_variance(matrix)[1] for matrix in matrices)
    return explained(seen, by=said)


def energy_distance(observed: Any, predicted: Any) -> float:
    r"""Unbiased energy distance between two clouds of cells (Székely and Rizzo 2013).

    .. math:: 2\,E\lVert X - Y\rVert - E\lVert X - X'\rVert - E\lVert Y - Y'\rVert

    with pairs of different cells in the last two means. Distances are Euclidean, not squared:
    squared ones reduce it to the distance of the means and do not see spread.

    Parameters
    ----------
    observed, predicted
        ``(n_cells, n_dimensions)``, at least two cells each; in practice principal components.

    Returns
    -------
    0 on average for two samples of one distribution, so single values may be negative.

    Raises
    ------
    InputDataError
        If arrays do not share their columns or have fewer than two cells.
    """
    seen, said = (_dense(matrix) for matrix in _cells(observed, predicted, at_least=2))
    between = _total_distance(seen, said) / (len(seen) * len(said))
    inside = [_total_distance(x, x) / (len(x) * (len(x) - 1)) for x in (seen, said)]
    return float(2 * between - sum(inside))


def mmd(observed: Any, predicted: Any) -> float:
    r"""Unbiased squared maximum mean discrepancy of two clouds of cells (Gretton et al. 2012).

    .. math:: E[k(X, X')] + E[k(Y, Y')] - 2\,E[k(X, Y)], \qquad
              k(x, y) = \tfrac15 \sum_{s} e^{-\lVert x - y\rVert^2 / (2 s m)}

    over :math:`s \in \{1/4, 1/2, 1, 2, 4\}`, with m the median squared distance between observed
    and between observed and predicted cells.

    Parameters
    ----------
    observed, predicted
        ``(n_cells, n_dimensions)``, at least two cells each; in practice principal components.

    Returns
    -------
    0 on average for two samples of one distribution, so single values may be negative.

    Raises
    ------
    InputDataError
        If arrays do not share their columns or have fewer than two cells.
    """
    seen, said = (_dense(matrix) for matrix in _cells(observed, predicted, at_least=2))
    pairs = [(seen, seen), (said, said), (seen, said)]
    squared = [cdist(x, y, metric="sqeuclidean") for x, y in pairs]
    upper = squared[0][np.triu_indices(len(seen), 1)]
    median = max(float(np.median(np.concatenate([upper, squared[2].ravel()]))), 1e-12)

    def similarity(distances: Floats, *, same: bool) -> float:
        kernel = np.mean([np.exp(-distances / (2 * s * median)) for s in WIDTHS], axis=0)
        n, m = kernel.shape
        return float((kernel.sum() - n) / (n * (n - 1)) if same else kernel.sum() / (n * m))

    own = similarity(squared[0], same=True) + similarity(squared[1], same=True)
    return own - 2 * similarity(squared[2], same=False)


def top_genes(observed: Any, control: Any, *, n: int = 100) -> NDArray[np.intp]:
    """Positions of the genes that differ most between two groups of cells, by abs(Welch t).

    Parameters
    ----------
    observed, control
        Cells of the target condition and the reference cells, at least two each.
    n
        How many genes; all if there are fewer.

    Returns
    -------
    ``(n,)``, largest first.

    Raises
    ------
    InputDataError
        If arrays do not share their genes or have fewer than two cells.
    """
    if n < 1:
        msg = f"n={n} asks for no gene. Use at least 1."
        raise OptionError(msg)
    matrices = _cells(observed, control, at_least=2)
    (mean, variance), (mean_0, variance_0) = map(mean_and_variance, matrices)
    error = variance / matrices[0].shape[0] + variance_0 / matrices[1].shape[0]
    return np.argsort(-np.abs(welch_t(mean - mean_0, error=error)), kind="stable")[:n]


def welch_t(difference: Floats, *, error: Floats) -> Floats:
    """Difference over its standard error; genes that never vary and do not differ get 0.

    Means of a constant differ by rounding alone, and so does its variance from 0.
    """
    is_rounding = (np.abs(difference) < ROUNDING) & (error < ROUNDING**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(is_rounding, 0.0, difference / np.sqrt(error))


def correlation(x: Floats, y: Floats) -> float:
    """Pearson correlation, 0 where one side is constant."""
    x, y = x - x.mean(), y - y.mean()
    size = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / size) if size > 0 else 0.0


def explained(values: Floats, *, by: Floats) -> float:
    """Coefficient of determination, NaN where all values are equal."""
    total = ((values - values.mean()) ** 2).sum()
    return float(1 - ((values - by) ** 2).sum() / total) if total > 0 else float("nan")


def mean_and_variance(matrix: Any) -> tuple[Floats, Floats]:
    """Mean and unbiased variance of each column, ``(n_genes,)`` each, dense or sparse."""
    n_cells = matrix.shape[0]
    if not sparse.issparse(matrix):
        values = np.asarray(matrix, dtype=np.float64)
        return values.mean(axis=0), values.var(axis=0) * n_cells / max(n_cells - 1, 1)
    values = matrix.astype(np.float64)
    mean = np.asarray(values.mean(axis=0)).ravel()
    square = np.asarray(values.multiply(values).mean(axis=0)).ravel()
    return mean, np.maximum(square - mean**2, 0) * n_cells / max(n_cells - 1, 1)


def _cells(*matrices: Any, genes: Genes = None, at_least: int = 1) -> list[Any]:
    """Return the matrices, checked and restricted to the genes asked for."""
    checked = [m.tocsr() if sparse.issparse(m) else np.asarray(m) for m in matrices]
    shapes = [matrix.shape for matrix in checked]
    if any(len(shape) != 2 for shape in shapes) or len({shape[1] for shape in shapes}) > 1:
        msg = f"Arrays must be (n_cells, n_genes) with the same genes, but have shapes {shapes}."
        raise InputDataError(msg)
    if min(shape[0] for shape in shapes) < at_least:
        msg = f"Each array needs at least {at_least} cells, but the shapes are {shapes}."
        raise InputDataError(msg)
    return checked if genes is None else [matrix[:, np.asarray(genes)] for matrix in checked]


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix, dtype=np.float64)


def _total_distance(x: Floats, y: Floats) -> float:
    """Sum of all Euclidean distances, a block of rows at a time."""
    return sum(float(cdist(x[i : i + CHUNK], y).sum()) for i in range(0, len(x), CHUNK))
