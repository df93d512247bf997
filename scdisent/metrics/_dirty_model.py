r"""The dirty model: coefficients that are a block-sparse plus an element-sparse matrix.

With :math:`G = Z^\top Z / n` (``gram``) and :math:`R = Z^\top Y / n` (``cross``) the problem is

.. math:: \min_{B, S}\; \tfrac12 \langle \Theta, G\,\Theta \rangle - \langle \Theta, R \rangle
          + \lambda_b \sum_k \lVert B_{k\cdot} \rVert_q + \lambda_s \sum_{kj} |S_{kj}|,
          \qquad \Theta = B + S

The cheapest split of a given Theta is priced by the infimal convolution of the two norms. Its dual
ball is the intersection of both dual balls, so by Moreau its proximal map is what projection onto
that intersection leaves of a row: one number to find a row, exactly. This form is this package's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdisent.metrics._checks import Floats

TOLERANCE = 1e-6
"""Sweeps stop when no coefficient moves by more than this share of the largest one."""

MAX_SWEEPS = 1_000

COLLAPSED = 1e-12
"""Latents of smaller mean square are left out: their coefficients would be rounding errors."""

SLACK = 1e-12
"""Relative rounding error that still counts as inside a ball: a row there is exactly zero."""


@dataclass(frozen=True)
class DirtyPenalty(ABC):
    """Price of a row of coefficients, split as cheaply as possible into block and element part."""

    block: float
    element: float

    @staticmethod
    @abstractmethod
    def norm(rows: Floats) -> Floats:
        """Norm of each block, ``(n_rows, n_features) -> (n_rows,)``."""

    @staticmethod
    @abstractmethod
    def dual_norm(rows: Floats) -> Floats:
        """Norm that is dual to :meth:`norm`, ``(n_rows, n_features) -> (n_rows,)``."""

    @staticmethod
    @abstractmethod
    def ratio(share: float, n_features: int) -> float:
        """Block over element penalty from which on a block is cheaper for a share of features."""

    @abstractmethod
    def project(self, row: Floats) -> tuple[Floats, float]:
        """Nearest point of the dual ball, and the size of a block entry where it is at the bound.

        The size is zero where the bound alone holds: then the block is zero.
        """

    def switches_off(self, rows: Floats) -> NDArray[np.bool_]:
        """Whether each row lies in the dual ball, so that its coefficients are zero."""
        inside = np.abs(rows).max(axis=1) <= self.element
        return inside & (self.dual_norm(rows) <= self.block * (1 + SLACK))

    def price(self, block: Floats, element: Floats) -> float:
        """Penalty of a given split."""
        return float(self.block * self.norm(block).sum() + self.element * np.abs(element).sum())

    @classmethod
    def largest_element(cls, cross: Floats, *, ratio: float) -> float:
        """Smallest element penalty at which nothing is selected, the block penalty in ``ratio``."""
        return float(max(np.abs(cross).max(), cls.dual_norm(cross).max() / ratio))


class L2Penalty(DirtyPenalty):
    r"""Blocks by their Euclidean norm; dual ball :math:`\lVert y\rVert_2 \le b, |y_j| \le s`."""

    @staticmethod
    def norm(rows: Floats) -> Floats:
        """Euclidean norm of each row."""
        return np.sqrt(np.einsum("kj,kj->k", rows, rows))

    @staticmethod
    def dual_norm(rows: Floats) -> Floats:
        """Euclidean norm, which is its own dual."""
        return L2Penalty.norm(rows)

    @staticmethod
    def ratio(share: float, n_features: int) -> float:
        r"""Square root of ``share * n_features``: :math:`b \sqrt m < s m` from there on."""
        return float(np.sqrt(share * n_features))

    def project(self, row: Floats) -> tuple[Floats, float]:
        r"""Clip a shrunken row: :math:`y = \mathrm{clip}(v / (1 + m), -s, s)`.

        The squared norm of y is concave, increasing and piecewise linear in the square of the
        shrinkage :math:`1 / (1 + m)`. Newton's method from the left, where nothing is clipped,
        therefore rises to the root and stops there after finitely many steps, without sorting.
        """
        clipped = np.clip(row, -self.element, self.element)
        if clipped @ clipped <= (self.block * (1 + SLACK)) ** 2:
            return clipped, 0.0
        size = np.abs(row)
        shrinkage, n_clipped = self.block / float(np.sqrt(row @ row)), 0
        while True:
            beyond = size * shrinkage >= self.element
            n_beyond = int(np.count_nonzero(beyond))
            if n_beyond <= n_clipped:  # the set only grows, up to rounding at the bound
                break
            free, n_clipped = np.where(beyond, 0.0, size), n_beyond
            left = self.block**2 - n_clipped * self.element**2
            shrinkage = float(np.sqrt(left / (free @ free)))
        projected = np.clip(row * shrinkage, -self.element, self.element)
        return projected, (1 / shrinkage - 1) * self.element  # the block is m y


class LinfPenalty(DirtyPenalty):
    r"""Blocks by their largest entry; dual ball :math:`\lVert y\rVert_1 \le b, |y_j| \le s`."""

    @staticmethod
    def norm(rows: Floats) -> Floats:
        """Largest absolute value of each row."""
        return np.abs(rows).max(axis=1)

    @staticmethod
    def dual_norm(rows: Floats) -> Floats:
        """Sum of absolute values, the dual of the largest."""
        return np.abs(rows).sum(axis=1)

    @staticmethod
    def ratio(share: float, n_features: int) -> float:
        """Return ``share * n_features``: a block of equal entries costs no more than one entry."""
        return share * n_features

    def project(self, row: Floats) -> tuple[Floats, float]:
        r"""Soft-threshold, then clip: :math:`y = \mathrm{sign}(v) \min((|v| - t)_+, s)`.

        The l1 norm of y falls piecewise linearly in t, with kinks where an entry leaves its bound
        or vanishes; between two kinks the root is a linear interpolation.
        """
        size = np.abs(row)
        if np.minimum(size, self.element).sum() <= self.block * (1 + SLACK):
            return np.clip(row, -self.element, self.element), 0.0
        size = np.sort(size)
        kinks = np.sort(np.r_[0.0, size, size[size > self.element] - self.element])
        length = _total_excess(size, over=kinks) - _total_excess(size, over=kinks + self.element)
        threshold = float(np.interp(self.block, length[::-1], kinks[::-1]))
        projected = np.clip(np.abs(row) - threshold, 0, self.element)
        return np.copysign(projected, row), threshold  # the block is the row cut at t


PENALTIES: Mapping[str, type[DirtyPenalty]] = MappingProxyType(
    {"l2": L2Penalty, "linf": LinfPenalty}
)
"""Penalties by the norm of their blocks."""


def selected(coef: NDArray[Any]) -> NDArray[np.bool_]:
    """Latents with any coefficient, ``(n_latent,)``."""
    return np.asarray(coef.any(axis=1))


def solve(
    gram: Floats, cross: Floats, *, penalty: DirtyPenalty, start: Floats | None = None
) -> tuple[Floats, bool]:
    """Coefficients ``(n_latent, n_features)`` by block coordinate descent, and if it converged.

    Each sweep visits the latents that are selected or that the screening test does not switch
    off, and moves a whole row of coefficients to its exact optimum given all others.

    Parameters
    ----------
    gram, cross
        ``(n_latent, n_latent)`` and ``(n_latent, n_features)``, means over cells.
    penalty
        Prices of block and element part.
    start
        Coefficients to start from, for example those of a neighbouring penalty; default zero.
    """
    coef = np.zeros_like(cross) if start is None else start.copy()

    def shrink(_: int, target: Floats) -> Floats:
        return target - penalty.project(target)[0]

    for _ in range(MAX_SWEEPS):
        visited = selected(coef)
        pull = _pull(coef, gram, cross=cross)
        visited[~visited] = ~penalty.switches_off(pull[~visited])
        if _sweep(coef, gram, cross=cross, visited=visited, update=shrink):
            return coef, True
    return coef, False


def refit(coef: Floats, *, gram: Floats, cross: Floats, start: Floats | None = None) -> Floats:
    """Least squares on the support of ``coef`` by the same descent, from ``start`` or ``coef``.

    Along a path of penalties a few sweeps bring all features from one solution to the next,
    whatever their supports; solving for each feature anew would take longer than the path.
    """
    support = coef != 0
    effect = np.where(support, coef if start is None else start, 0.0)

    def keep(k: int, target: Floats) -> Floats:
        return np.where(support[k], target, 0.0)

    for _ in range(MAX_SWEEPS):
        if _sweep(effect, gram, cross=cross, visited=selected(support), update=keep):
            break
    return effect


def split(
    coef: Floats, *, gram: Floats, cross: Floats, penalty: DirtyPenalty
) -> tuple[Floats, Floats]:
    """Block and element part of a solution, each ``(n_latent, n_features)``; their sum is coef.

    A row belongs to its block except where its projection is at the bound of the elements.
    """
    pull = _pull(coef, gram, cross=cross)
    block = np.zeros_like(coef)
    for k in np.flatnonzero(selected(coef)):
        projected, size = penalty.project(pull[k] + gram[k, k] * coef[k])
        if size > 0:
            at_bound = np.abs(projected) == penalty.element
            block[k] = np.where(at_bound, np.copysign(size / gram[k, k], projected), coef[k])
    return block, coef - block


def _sweep(
    coef: Floats,
    gram: Floats,
    *,
    cross: Floats,
    visited: NDArray[np.bool_],
    update: Callable[[int, Floats], Floats],
) -> bool:
    """Update the visited rows in turn, in place, all others being zero; whether hardly any moved.

    ``update`` maps the covariance of latent k with what all others leave to its row of
    coefficients, in units of its variance.
    """
    rows = np.flatnonzero(visited & (gram.diagonal() >= COLLAPSED))
    small, active, change = gram[np.ix_(rows, rows)], coef[rows], 0.0
    for i, k in enumerate(rows.tolist()):
        target = cross[k] - small[i] @ active + small[i, i] * active[i]
        row = update(k, target) / small[i, i]
        change = max(change, float(np.abs(row - active[i]).max()))
        active[i] = row
    coef[rows] = active
    return change <= TOLERANCE * float(np.abs(active).max(initial=0.0))


def _pull(coef: Floats, gram: Floats, *, cross: Floats) -> Floats:
    """Covariance of codes and residuals, ``cross - gram @ coef`` without the rows of zeros."""
    on = selected(coef)
    return cross - gram[:, on] @ coef[on]


def _total_excess(ascending: Floats, *, over: Floats) -> Floats:
    """Sum of the positive parts of ``ascending - t`` for each t in ``over``."""
    tail = np.r_[np.cumsum(ascending[::-1])[::-1], 0.0]
    first = np.searchsorted(ascending, over, side="right")
    return tail[first] - (len(ascending) - first) * over
