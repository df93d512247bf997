"""A critic of cells or images that knows the condition."""

from collections.abc import Sequence

from torch import Tensor, nn

from scdisent.nn._conditions import ConditionCode
from scdisent.nn._images import ImageEncoder


class ProjectionCritic(nn.Module):
    r"""Score of cells under their condition, with the condition's code as a direction.

    .. math:: D(x, u) = v \cdot \phi(x) + \frac{1}{\sqrt d} \langle V e_u, \phi(x) \rangle

    Source: Miyato and Koyama 2018 (arXiv 1802.05637). No batch normalisation, which would join the
    cells that the gradient penalty takes one by one.

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
        if image_shape is None:
            sizes = [n_input, 4 * n_hidden, 2 * n_hidden, n_hidden]
            stack: list[nn.Module] = []
            for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
                stack += [nn.Linear(n_in, n_out), nn.LeakyReLU(0.2)]
            self.features = nn.Sequential(*stack)
        else:
            # Its mean and scale are two halves of one vector of features.
            layers = ImageEncoder(image_shape, n_hidden // 2, n_hidden=n_hidden).layers
            self.features = nn.Sequential(nn.Unflatten(1, tuple(image_shape)), *layers)
        self.score = nn.Linear(n_hidden, 1)
        self.direction = nn.Linear(code.n_code, n_hidden, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Scores, ``(n_cells,)``."""
        features = self.features(x)  # (n_cells, n_hidden)
        direction = self.direction(self.code())[condition] / features.shape[1] ** 0.5
        scores: Tensor = self.score(features).squeeze(-1) + (direction * features).sum(dim=-1)
        return scores
