"""Torch modules, one file a family."""

from scdisent.module._base import CRITIC, MODEL, DisentModule, LatentBlock, State, Term
from scdisent.module._discover import INVARIANT, JOINT, SPECIFIC, TERMS, DiscoverModule

__all__ = [
    "CRITIC",
    "INVARIANT",
    "JOINT",
    "MODEL",
    "SPECIFIC",
    "TERMS",
    "DisentModule",
    "DiscoverModule",
    "LatentBlock",
    "State",
    "Term",
]
