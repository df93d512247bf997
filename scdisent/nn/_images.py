"""Convolutional encoder and decoder for images stored as flat rows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from scdisent.nn._encoders import MIN_SCALE

WIDTHS = (32, 32, 64, 64)
"""Channels of the layers; each halves the side of the image."""
SMALLEST_SIDE = 4
"""No further halving below twice this side."""
SLOPE = 0.2
"""Of the activations below zero. With none, the large gradients of the first steps silenced up to
all units of a layer for good, and z told nothing of the image."""


def halved_sides(side: int) -> list[int]:
    """Side of the image before each layer and behind the last."""
    sides = [side]
    while len(sides) <= len(WIDTHS) and sides[-1] >= 2 * SMALLEST_SIDE:
        sides.append(sides[-1] // 2)
    return sides


class ImageEncoder(nn.Module):
    r"""Posterior :math:`q(z \mid x)` of images: convolutions of stride two, one dense layer.

    ``n_labels > 0``: a label is read as further channels, each constant over the image.

    Source: the architecture of Burgess et al. 2018 (four layers of 4x4 kernels on 64x64 pixels),
    cut to fewer layers for smaller images. Deviation: their ReLUs are leaky here (:data:`SLOPE`).
    """

    def __init__(
        self, image_shape: Sequence[int], n_latent: int, *, n_hidden: int, n_labels: int = 0
    ) -> None:
        super().__init__()
        self.image_shape, self.n_labels = tuple(image_shape), n_labels
        channels, height, width = self.image_shape
        heights, widths = _sides(height, width)
        sizes = [channels + n_labels, *WIDTHS[: len(heights) - 1]]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Conv2d(n_in, n_out, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        n_flat = sizes[-1] * heights[-1] * widths[-1]
        self.layers = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(n_flat, n_hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(n_hidden, 2 * n_latent),
        )

    def forward(self, x: Tensor, label: Tensor | None = None) -> Normal:
        """Posterior of flat images ``(n_cells, n_pixels)``; ``label`` as in GaussianEncoder."""
        images = x.reshape(-1, *self.image_shape)
        if self.n_labels:
            given: Any = label  # none at all fails here
            values = F.one_hot(given, self.n_labels) if given.dim() == 1 else given
            planes = values.to(x.dtype)[:, :, None, None].expand(-1, -1, *self.image_shape[1:])
            images = torch.cat([images, planes], dim=1)
        mean, scale = self.layers(images).chunk(2, dim=-1)
        return Normal(mean, F.softplus(scale) + MIN_SCALE, validate_args=False)


class ImageDecoder(nn.Module):
    """The encoder run backwards: a dense layer, then transposed convolutions to flat pixels."""

    def __init__(self, n_input: int, image_shape: Sequence[int], *, n_hidden: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        heights, widths = (sides[::-1] for sides in _sides(height, width))
        sizes = [*WIDTHS[: len(heights) - 1][::-1], channels]
        self.start = (sizes[0], heights[0], widths[0])
        self.dense = nn.Sequential(
            nn.Linear(n_input, n_hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(n_hidden, sizes[0] * heights[0] * widths[0]),
        )
        layers: list[nn.Module] = []
        for step, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            odd = (heights[step + 1] % 2, widths[step + 1] % 2)
            up = nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1, output_padding=odd)
            layers += [nn.LeakyReLU(SLOPE), up]
        self.layers = nn.Sequential(*layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Blocks ``(n_cells, n_block)`` are joined: returns ``(n_cells, n_pixels)``."""
        hidden = self.dense(torch.cat(inputs, dim=-1)).reshape(-1, *self.start)
        result: Tensor = self.layers(hidden).flatten(1)
        return result


def _sides(height: int, width: int) -> tuple[list[int], list[int]]:
    """Heights and widths from image to code, equally many."""
    heights, widths = halved_sides(height), halved_sides(width)
    n_sides = min(len(heights), len(widths))
    return heights[:n_sides], widths[:n_sides]
