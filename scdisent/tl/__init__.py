"""Tools: from a model and an AnnData to stored results."""

from scdisent.tl._embed import embed
from scdisent.tl._score import decoded_features, score

__all__ = ["decoded_features", "embed", "score"]
