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

    The decoder has no normalisation at all: layer normalisation divides every hidden unit by a
    function of all latents, so no output could depend on few of them. Counts are normalised on the
    way in; with ``image_shape`` both are convolutions.
    """
    n_code = n_latent + n_nuisance
    if image_shape is not None:
        return (
            ImageEncoder(image_shape, n_latent, n_hidden=n_hidden),
            ImageDecoder(n_code, image_shape, n_hidden=n_hidden),
        )
    size: dict[str, Any] = {"n_hidden": n_hidden, "n_layers": n_layers}
    style = "layer" if head.expects == "counts" else "plain"
    encoder = GaussianEncoder(head.n_genes, n_latent, style=style, **size)
    decoder = Decoder(n_code, head.n_genes * head.n_outputs_per_gene, style="plain", **size)
    return encoder, decoder
