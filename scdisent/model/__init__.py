"""User classes and the registration they share."""

from scdisent.model._bfvae import BFVAE
from scdisent.model._discover import DISCoVeR
from scdisent.model._setup import setup_anndata

__all__ = ["BFVAE", "DISCoVeR", "setup_anndata"]
