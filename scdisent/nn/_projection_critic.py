"""A critic of cells or images that knows the condition."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scdisent.nn._conditions import ConditionCode
from scdisent.nn._images import ImageEncoder

TINY = 1e-8
"""Keeps the gradient of the standard deviation finite where a feature is constant."""


class ProjectionCritic(nn.Module):
    r"""Score of cells under their condition, with the condition's code as a direction.

    .. math:: D(x, u) = v \cdot \phi(x) + \frac{1}{\sqrt d} \langle V e_u, \phi(x) \rangle

    Source: Miyato and Koyama 2018 (arXiv 1802.05637). One of the features that :math:`\phi` is
    made of is the standard deviation over the minibatch, averaged over the others (Karras et al.
    2018, arXiv 1710.10196): samples that lack a kind of cell vary less than data. No batch
    normalisation.

    Parameters
    ----------
    n_input
        Features of a cell.
    code
        Codes of the conditions, the critic's own.
    n_hidden
        Width of the last hidden layer; the ones before are two and four times as wide.
    image_shape
        Convolutions instead.
    """

    def __init__(
        self,
        n_input: int,
        code: ConditionCode,
        *,
        n_hidden: int = 256,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.code = code
        stack: list[nn.Module] = []
        if image_shape is None:
            sizes = [n_input, 4 * n_hidden, 2 * n_hidden]
            for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
                stack += [nn.Linear(n_in, n_out), nn.LeakyReLU(0.2)]
            n_body = sizes[-1]
        else:
            layers = list(ImageEncoder(image_shape, 1, n_hidden=n_hidden).layers)
            stack, n_body = [nn.Unflatten(1, tuple(image_shape)), *layers[:-1]], n_hidden
        self.body = nn.Sequential(*stack)
        self.features = nn.Sequential(nn.Linear(n_body + 1, n_hidden), nn.LeakyReLU(0.2))
        self.score = nn.Linear(n_hidden, 1)
        self.direction = nn.Linear(code.n_code, n_hidden, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Scores, ``(n_cells,)``."""
        body = self.body(x)
        spread = (body.var(dim=0, correction=0) + TINY).sqrt().mean().expand(len(x), 1)
        features = self.features(torch.cat([body, spread], dim=-1))  # (n_cells, n_hidden)
        direction = self.direction(self.code())[condition] / features.shape[1] ** 0.5
        scores: Tensor = self.score(features).squeeze(-1) + (direction * features).sum(dim=-1)
        return scores
