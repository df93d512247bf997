"""Plots: drawn from AnnData or DataFrames in the manner of scanpy; none needs the model."""

from scdisent.pl._history import history
from scdisent.pl._latent import latent
from scdisent.pl._leakage import leakage
from scdisent.pl._response import response

__all__ = ["history", "latent", "leakage", "response"]
