"""Encoders and decoders by the kind of data: dense networks, or convolutions for images."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from scdisent.nn._decoders import Decoder
from scdisent.nn._encoders import GaussianEncoder
from scdisent.nn._images import ImageDecoder, ImageEncoder
from scdisent.nn._likelihoods import Likelihood


def make_encoder(
    n_input: int,
    n_latent: int,
    *,
    n_hidden: int,
    n_layers: int,
    n_labels: int = 0,
    style: str = "batch",
    image_shape: Sequence[int] | None = None,
) -> nn.Module:
    """Posterior of a block; convolutions, of a fixed depth, where there is an image shape."""
    if image_shape is not None:
        return ImageEncoder(image_shape, n_latent, n_hidden=n_hidden, n_labels=n_labels)
    size: dict[str, Any] = {"n_hidden": n_hidden, "n_layers": n_layers, "style": style}
    return GaussianEncoder(n_input, n_latent, n_labels=n_labels, **size)


def make_decoder(
    n_input: int,
    n_output: int,
    *,
    n_hidden: int,
    n_layers: int,
    style: str = "batch",
    image_shape: Sequence[int] | None = None,
) -> nn.Module:
    """Raw outputs from codes; transposed convolutions where there is an image shape."""
    if image_shape is not None:
        return ImageDecoder(n_input, image_shape, n_hidden=n_hidden)
    return Decoder(n_input, n_output, n_hidden=n_hidden, n_layers=n_layers, style=style)


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
    size: dict[str, Any] = {
        "n_hidden": n_hidden,
        "n_layers": n_layers,
        "image_shape": image_shape,
    }
    style = "layer" if head.expects == "counts" else "plain"
    n_output = head.n_genes * head.n_outputs_per_gene
    return (
        make_encoder(head.n_genes, n_latent, style=style, **size),
        make_decoder(n_latent + n_nuisance, n_output, style="plain", **size),
    )
