"""User classes and the registration they share."""

from scdisent.model._bfvae import BFVAE
from scdisent.model._cggan import CGGAN
from scdisent.model._cgvae import CGVAE
from scdisent.model._discover import DISCoVeR
from scdisent.model._setup import load, setup_anndata
from scdisent.model._shift import ShiftModel

__all__ = ["BFVAE", "CGGAN", "CGVAE", "DISCoVeR", "ShiftModel", "load", "setup_anndata"]
