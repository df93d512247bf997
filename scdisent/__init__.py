"""scdisent: what is shared between conditions, what a condition changed, what it would change.

The public names are loaded on first use, so that ``import scdisent`` costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_SUBMODULES = (
    "benchmarks", "datasets", "effects", "metrics", "model", "pl", "report", "splits", "tl",
)  # fmt: skip
_EXPORTS = {
    "BFVAE": "scdisent.model",
    "CGGAN": "scdisent.model",
    "CGVAE": "scdisent.model",
    "ConditionTable": "scdisent.conditions",
    "DISCoVeR": "scdisent.model",
    "ShiftModel": "scdisent.model",
    "load": "scdisent.model",
    "setup_anndata": "scdisent.model",
    "ScDisentError": "scdisent._errors",
    "ScDisentWarning": "scdisent._errors",
}

__all__ = [*_EXPORTS, *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"scdisent.{name}")
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    msg = f"module 'scdisent' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
