"""Encoder and decoder of the models whose decoder is differentiated forwards."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from scdisent.nn._decoders import Decoder
from scdisent.nn._encoders import GaussianEncoder
from scdisent.nn._images import ImageDecoder, ImageEncoder
from scdisent.nn._likelihoods import Likelihood


def sparse_coders(
    head: Likelihood,
    n_latent: int,
    *,
    n_nuisance: int,
    n_hidden: int,
    n_layers: int,
    image_shape: Sequence[int] | None,
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder without batch normalisation, which forward derivatives forbid.

    Layer normalisation for counts, none for other data; convolutions with ``image_shape``.
    """
    n_code = n_latent + n_nuisance
    if image_shape is not None:
        return (
            ImageEncoder(image_shape, n_latent, n_hidden=n_hidden),
            ImageDecoder(n_code, image_shape, n_hidden=n_hidden),
        )
    style = "layer" if head.expects == "counts" else "plain"
    size: dict[str, Any] = {"n_hidden": n_hidden, "n_layers": n_layers, "style": style}
    encoder = GaussianEncoder(head.n_genes, n_latent, **size)
    return encoder, Decoder(n_code, head.n_genes * head.n_outputs_per_gene, **size)
