"""Changing a preset: options and weights by name."""

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from scdisent._errors import OptionError, one_of

Options = TypeVar("Options", bound=Any)


def replace_checked(options: Options, changes: Mapping[str, Any]) -> Options:
    """Options with some values changed; unknown names list the known ones."""
    for name in changes:
        one_of(name, [field.name for field in fields(options)], "option")
    changed: Options = replace(options, **changes)
    return changed


def merge_weights(
    preset: Mapping[str, float],
    changes: Mapping[str, float] | None,
    *,
    known: Collection[str],
) -> dict[str, float]:
    """Weights with some values changed; unknown terms list the known ones."""
    weights = dict(preset)
    for name, value in (changes or {}).items():
        one_of(name, known, "weight")
        if not np.isfinite(value) or value < 0:
            msg = f"weights[{name!r}]={value!r} must be a finite number of at least 0."
            raise OptionError(msg)
        weights[name] = float(value)
    return weights
