"""Information that a whole block of codes has on a label, from distances between cells."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from scipy.special import digamma

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics._checks import Floats, Integers, as_codes, as_levels, combine


class LabelInformation(NamedTuple):
    """Result of :func:`label_information`, in nats."""

    nats: float
    """The estimate; around 0, also below, for codes that know nothing."""
    floor: float
    """Mean estimate for shuffled labels; 0 without permutations."""
    upper_95: float
    """95 % quantile of the estimates for shuffled labels; 0 without permutations."""
    entropy: float
    """The largest possible estimate: that of codes in which labels never mix."""

    @property
    def adjusted(self) -> float:
        """What is above the floor, at least 0."""
        return max(0.0, self.nats - self.floor)


def label_information(
    codes: ArrayLike,
    labels: ArrayLike,
    *,
    n_neighbors: int = 3,
    n_permutations: int = 20,
    max_cells: int = 2_000,
    seed: int = 0,
) -> LabelInformation:
    r"""Mutual information of a label and a whole block of codes, by nearest neighbours.

    .. math:: I = \psi(N) + \psi(k) - \langle \psi(N_{y_i}) \rangle - \langle \psi(m_i) \rangle

    with :math:`N_{y}` the number of cells of label y and :math:`m_i` the rank, among all other
    cells, of the k-th nearest cell with the label of cell i (Ross 2014, equation 6, with Euclidean
    distances in all dimensions at once). Unlike sums over single latents it sees what only several
    latents say together. With many dimensions and few cells it is too small.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``, used as they are: their scale counts.
    labels
        ``(n_cells,)``. A label of one cell alone has no neighbour and is left out.
    n_neighbors
        k; a label with fewer other cells uses what it has.
    n_permutations
        Shuffles of the labels for ``floor`` and ``upper_95``.
    max_cells
        Random subset of more cells: all distances are held in memory.
    seed
        Of subset and shuffles.

    Returns
    -------
    Information, its floor and its largest possible value.

    Raises
    ------
    InputDataError
        If arrays do not match, hold missing values, or fewer than two labels have two cells.
    OptionError
        If a number is below 1 (permutations: below 0).
    """
    if min(n_neighbors, max_cells, n_permutations + 1) < 1:
        msg = (
            f"n_neighbors={n_neighbors} and max_cells={max_cells} must be at least 1, "
            f"n_permutations={n_permutations} at least 0."
        )
        raise OptionError(msg)
    points = as_codes(codes)
    known, _ = as_levels(labels, name="labels", n_cells=len(points))
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(points))[:max_cells])
    chosen = chosen[np.bincount(known[chosen])[known[chosen]] > 1]
    if len(np.unique(known[chosen])) < 2:
        msg = "label_information needs two labels with at least two cells each. Pass more cells."
        raise InputDataError(msg)
    y, order = combine(known[chosen]), _neighbours(points[chosen], rng)
    n_same = np.bincount(y)[y]
    k = np.minimum(n_neighbors, n_same - 1)
    entropy = float(digamma(len(y)) - digamma(n_same).mean())

    def estimate(y: Integers, k: Integers) -> float:
        return entropy + float((digamma(k) - digamma(_ranks(order, y, k))).mean())

    shuffles = [rng.permutation(len(y)) for _ in range(n_permutations)]
    draws = [estimate(y[shuffle], k[shuffle]) for shuffle in shuffles] or [0.0]
    floor, upper = float(np.mean(draws)), float(np.quantile(draws, 0.95))
    return LabelInformation(estimate(y, k), floor, upper, entropy)


def _neighbours(points: Floats, rng: np.random.Generator) -> Integers:
    """Other cells by distance from each, ``(n_cells, n_cells - 1)``; equal ones in any order."""
    centred = points - points.mean(axis=0)
    jitter = 1e-10 * (centred.std() or 1.0) * rng.standard_normal(points.shape)
    distances = cdist(centred + jitter, centred + jitter)
    np.fill_diagonal(distances, -1)  # each cell is its own first
    return np.argsort(distances, axis=1)[:, 1:]


def _ranks(order: Integers, y: Integers, k: Integers) -> Integers:
    """Rank of the k-th neighbour with the same label, from 1, ``(n_cells,)``."""
    found = np.cumsum(y[order] == y[:, None], axis=1, dtype=np.int32)
    ranks: Integers = (found < k[:, None]).sum(axis=1) + 1
    return ranks
