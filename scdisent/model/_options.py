"""Changing a preset: options and weights by name."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from math import prod
from typing import Any, TypeVar

import numpy as np
from anndata import AnnData

from scdisent._errors import OptionError, one_of
from scdisent.nn import likelihood_class

Options = TypeVar("Options", bound=Any)

ABOVE_ZERO = float(np.finfo(np.float32).tiny)
RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("n_hidden", "penalty_every"), (1, np.inf)),
    **dict.fromkeys(
        ("n_layers", "n_dense", "n_refine", "capacity", "capacity_power", "penalty_weight"),
        (0, np.inf),
    ),
    **dict.fromkeys(("code_dropout", "ema", "warm_up_share"), (0, 1)),
    "capacity_rise": (ABOVE_ZERO, 1),
    "scale": (ABOVE_ZERO, np.inf),
}
"""Least and greatest value of options that are numbers, of whichever model."""


def replace_checked(options: Options, changes: Mapping[str, Any]) -> Options:
    """Options with some values changed; what is not known or out of range is refused."""
    for name, value in changes.items():
        one_of(name, [field.name for field in fields(options)], "option")
        low, high = RANGES.get(name, (-np.inf, np.inf))
        if isinstance(value, int | float) and not low <= value <= high:
            least = "above 0" if low == ABOVE_ZERO else f"at least {low}"
            most = "" if high == np.inf else f" and at most {high}"
            msg = f"{name}={value}: expected {least}{most}, or leave it out for the default."
            raise OptionError(msg)
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


def read_image_shape(
    shape: str | Sequence[int] | None,
    adata: AnnData | None,
    *,
    n_features: int,
    likelihood: str,
) -> list[int] | None:
    """Channels, height and width as given or, with ``"auto"``, as the AnnData says."""
    if isinstance(shape, str):
        one_of(shape, ("auto",), "image_shape")
        shape = None if adata is None else adata.uns.get("image_shape")
    if shape is None:
        return None
    shape = [int(size) for size in shape]
    if len(shape) != 3 or prod(shape) != n_features:
        msg = (
            f"image_shape={shape} does not fit {n_features} features; expected channels, height "
            "and width whose product is their number."
        )
        raise OptionError(msg)
    if likelihood_class(likelihood).expects == "counts":
        msg = (
            f"convolutions are not for counts, but likelihood={likelihood!r}. Choose 'normal', "
            "'bernoulli' or 'continuous_bernoulli' (values in [0, 1]), or pass image_shape=None."
        )
        raise OptionError(msg)
    return shape
