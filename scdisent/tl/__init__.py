"""Tools: from a model and an AnnData to stored results."""

from scdisent.tl._embed import embed
from scdisent.tl._score import score

__all__ = ["embed", "score"]
