"""Schedules: a factor on a weight as a function of the epoch."""

from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(factor: float = 1.0) -> Schedule:
    """Return the same factor in every epoch."""
    return lambda epoch: factor


def linear_ramp(n_epochs: int, *, start: float = 0.0) -> Schedule:
    """Return a factor that rises from ``start`` to 1 over the first ``n_epochs``."""
    return lambda epoch: start + (1 - start) * min(1.0, epoch / max(n_epochs, 1))


def cyclic(period: int, *, rise: float = 0.5) -> Schedule:
    """Return a factor that rises to 1 in the first part of each period and stays there.

    ``rise`` is that part of the period. Source: Fu et al. 2019, cyclical annealing.
    """
    return lambda epoch: min(1.0, (epoch % period) / max(rise * period, 1e-12))


def as_schedule(value: "Schedule | float") -> Schedule:
    """Read a number as a linear ramp over that many epochs."""
    return value if callable(value) else linear_ramp(int(value))
