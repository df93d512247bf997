"""Torch modules, one file a family."""

from scdisent.module._base import CRITIC, MODEL, DisentModule, LatentBlock, State, Term
from scdisent.module._bfvae import BFVAE_TERMS, LATENT, BfvaeModule
from scdisent.module._cggan import CGGAN_TERMS, CgganModule
from scdisent.module._cgvae import CGVAE_TERMS, CgvaeModule
from scdisent.module._discover import INVARIANT, JOINT, SPECIFIC, TERMS, DiscoverModule
from scdisent.module._shift import ShiftModule

__all__ = [
    "BFVAE_TERMS",
    "CGGAN_TERMS",
    "CGVAE_TERMS",
    "CRITIC",
    "INVARIANT",
    "JOINT",
    "LATENT",
    "MODEL",
    "SPECIFIC",
    "TERMS",
    "BfvaeModule",
    "CgganModule",
    "CgvaeModule",
    "DisentModule",
    "DiscoverModule",
    "LatentBlock",
    "ShiftModule",
    "State",
    "Term",
]
