"""Tools: from a model and an AnnData to stored results."""

from scdisent.tl._align import align
from scdisent.tl._check import check_response
from scdisent.tl._embed import embed
from scdisent.tl._latents import dbsr_ls, fvh_lt, lsdi
from scdisent.tl._programmes import programmes
from scdisent.tl._response import evaluate_response, response_pair
from scdisent.tl._responsive import responsive_cells
from scdisent.tl._score import decoded_features, score
from scdisent.tl._swap import swap
from scdisent.tl._traverse import traverse

__all__ = [
    "align",
    "check_response",
    "dbsr_ls",
    "decoded_features",
    "embed",
    "evaluate_response",
    "fvh_lt",
    "lsdi",
    "programmes",
    "response_pair",
    "responsive_cells",
    "score",
    "swap",
    "traverse",
]
