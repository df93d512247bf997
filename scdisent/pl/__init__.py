"""Plots: drawn from AnnData or DataFrames in the manner of scanpy; none needs the model."""

from scdisent.pl._benchmark import benchmark
from scdisent.pl._conditions import condition_map, dose_response
from scdisent.pl._history import history
from scdisent.pl._latent import latent
from scdisent.pl._leakage import leakage
from scdisent.pl._response import response
from scdisent.pl._scores import dbsr_ls, fvh_lt, programmes
from scdisent.pl._separation import lsdi
from scdisent.pl._swap import swap
from scdisent.pl._traversal import traversal

__all__ = [
    "benchmark",
    "condition_map",
    "dbsr_ls",
    "dose_response",
    "fvh_lt",
    "history",
    "latent",
    "leakage",
    "lsdi",
    "programmes",
    "response",
    "swap",
    "traversal",
]
