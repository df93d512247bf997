"""User classes."""

from scdisent.model._discover import DISCoVeR

__all__ = ["DISCoVeR"]
