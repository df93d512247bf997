"""Random counts of which most are zero."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
MANY, HEAVY = 20.0, 10.0
"""Mean and odds above which counts are drawn as a mixture: inversion would take many steps."""


def draw_negative_binomial(
    shape: Floats, odds: Floats, *, rng: np.random.Generator
) -> tuple[NDArray[np.intp], Floats]:
    r"""Draw negative binomial counts and return the entries that are not zero.

    .. math:: x \mid \lambda \sim \mathrm{Poisson}(b \lambda), \qquad
              \lambda \sim \mathrm{Gamma}(a, 1)

    One uniform number tells whether an entry is zero,

    .. math:: P(x = 0) = (1 + b)^{-a}, \qquad
              P(x = k) = P(x = k - 1)\, \frac{a + k - 1}{k}\, \frac{b}{1 + b},

    and only the others are drawn, by inversion, which spares a draw of both laws for every entry
    where most are zero.

    Parameters
    ----------
    shape, odds
        a and b, of equal size; where b is zero, so is the count.
    rng
        Generator.

    Returns
    -------
    Places of the entries in the flat array, and their counts.
    """
    shape, odds = shape.ravel(), odds.ravel()
    none = np.exp(-shape * np.log1p(odds))
    many = (odds > HEAVY) | (shape * odds > MANY)
    places = np.flatnonzero(rng.random(len(none), dtype=np.float32) > np.where(many, 2.0, none))
    counts = _above_zero(shape[places].astype(float), odds[places].astype(float), rng=rng)
    mixed = np.flatnonzero(many)
    drawn = rng.poisson(rng.standard_gamma(shape[mixed]) * odds[mixed])
    return np.concatenate([places, mixed]), np.concatenate([counts, drawn])


def _above_zero(shape: Floats, odds: Floats, *, rng: np.random.Generator) -> Floats:
    """Counts given that they are not zero, by inversion."""
    counts, step = np.ones(len(shape)), odds / (1 + odds)
    term = np.exp(-shape * np.log1p(odds))
    reached = term + (1 - term) * rng.random(len(shape))
    left, below, k = np.arange(len(shape)), term.copy(), 0
    while len(left):
        k += 1
        term = term * (shape + k - 1) / k * step
        below = below + term
        counts[left] = k
        more = (reached > below) & (term > 0)
        left, term, below, reached = left[more], term[more], below[more], reached[more]
        shape, step = shape[more], step[more]
    return counts
