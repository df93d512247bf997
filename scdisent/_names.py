"""Names of conditions: parts of combinations, and doses."""

from collections.abc import Iterable
from functools import partial

import numpy as np

AT = "@"
"""Between a condition and its dose: ``"drug@0.5"``."""
NO_DOSE = float("nan")
"""One object, so that sets hold it once."""


def at_dose(condition: str, dose: float, *, separator: str = "+") -> str:
    """Name of a condition at a dose; every part of a combination gets it."""
    return separator.join(f"{part}{AT}{dose_text(dose)}" for part in condition.split(separator))


def dose_text(dose: float) -> str:
    """A dose as it stands in names: shortest digits of its own precision, no exponent."""
    exact = float(str(dose)) if isinstance(dose, np.floating) else float(dose)
    return np.format_float_positional(float(f"{exact:.12g}"), trim="-")  # 1e+06 has a separator


def without_dose(condition: str, *, separator: str = "+") -> tuple[str, float]:
    """Name and dose of a condition; NaN where no part or not every part has the same."""
    parts = [_cut(part) for part in condition.split(separator)]
    doses = {dose for _, dose in parts}
    name = separator.join(name for name, _ in parts)
    return name, doses.pop() if len(doses) == 1 else NO_DOSE


def _cut(part: str) -> tuple[str, float]:
    """Name of a part and the dose behind the last sign; NaN where no number stands there."""
    name, _, dose = part.rpartition(AT)
    try:
        return (name, float(dose)) if name else (part, NO_DOSE)
    except ValueError:
        return part, NO_DOSE


def parts_of(condition: str, *, control: str | None = None, separator: str = "+") -> list[str]:
    """Parts of a condition as they are named; the control is one only by itself."""
    return [part for part in condition.split(separator) if part != control] or [str(control)]


def same_set(
    condition: str, known: Iterable[str], *, control: str | None = None, separator: str = "+"
) -> str:
    """Known name of a condition of the same parts in any order, else its parts joined.

    ``"B+A"`` is known as ``"A+B"``, ``"A+control"`` as ``"A"``, and ``"A@3.0"`` as ``"A@3"``.
    """
    known = list(known)
    if condition in known:
        return condition
    key = partial(set_key, control=control, separator=separator)
    alike = (name for name in known if key(name) == key(condition))
    parts = parts_of(condition, control=control, separator=separator)
    return next(alike, separator.join(map(_plain, parts)))


def set_key(condition: str, *, control: str | None = None, separator: str = "+") -> tuple[str, ...]:
    """What names of one condition share: its parts in alphabetic order, doses written alike."""
    return tuple(sorted(map(_plain, parts_of(condition, control=control, separator=separator))))


def _plain(part: str) -> str:
    name, dose = _cut(part)
    return part if not np.isfinite(dose) else f"{name}{AT}{dose_text(dose)}"
