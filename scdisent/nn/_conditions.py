"""Codes of conditions: a vector that says what was done to a cell."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ConditionInputs:
    """What covariate codes read of some conditions; a condition is a set of parts.

    Parts are padded: a control has none, "A+B" has two.
    """

    features: Tensor  # (n_conditions, n_parts, n_features)
    present: Tensor  # (n_conditions, n_parts), 1 or 0
    dose: Tensor  # (n_conditions, n_parts)


class ConditionCode(nn.Module, ABC):
    """Code of each condition of training; subclasses say where it comes from."""

    n_code: int
    knows_new: bool
    """Whether conditions that were not in training have a code."""

    @abstractmethod
    def forward(self, inputs: ConditionInputs | None = None) -> Tensor:
        """Codes ``(n_conditions, n_code)`` of the conditions of training, or of others."""


class IndexCode(ConditionCode):
    """A free vector for each condition of training; others have none."""

    knows_new = False

    def __init__(self, n_conditions: int, *, n_code: int = 16) -> None:
        super().__init__()
        self.n_code = n_code
        self.embedding = nn.Embedding(n_conditions, n_code)

    def forward(self, inputs: ConditionInputs | None = None) -> Tensor:
        if inputs is not None:
            msg = "an index code has no entry for conditions that were not in training"
            raise ValueError(msg)  # models refuse it with the names before
        codes: Tensor = self.embedding.weight
        return codes


class CovariateCode(ConditionCode):
    r"""Code computed from what is known of a condition, so that unseen ones have one too.

    .. math:: e = \sum_p s(d_p)\, \big(A c_p + f(c_p)\big)
              + 1[\text{parts} > 1]\; g\Big(\sum_p s(d_p)\, \big(A c_p + f(c_p)\big)\Big)

    over the parts p of a combination, with features :math:`c_p` (one-hot categories, standardised
    numbers, an embedding), dose :math:`d_p`, a matrix A and networks f, g. f and g start at zero:
    what columns and parts do adds up unless the data say otherwise, which is the better guess for
    combinations without cells. s rises from :math:`s(0) = 0`, each entry of the code in its own
    way: dose zero, like a control without parts, has the code zero.

    Parameters
    ----------
    features, present, dose
        Of the conditions of training, as in :class:`ConditionInputs`.
    dropout
        Share of the code's entries that training drops: with few conditions a network would learn
        them by heart.
    """

    knows_new = True
    features: Tensor
    present: Tensor
    dose: Tensor

    def __init__(
        self, inputs: ConditionInputs, *, n_code: int = 32, n_hidden: int = 64, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.n_code = n_code
        for name, value in vars(inputs).items():
            self.register_buffer(name, value)
        n_features = inputs.features.shape[-1]
        self.additive = nn.Linear(n_features, n_code, bias=False)
        self.part = _correction(n_features, n_hidden, n_code)
        self.interaction = _correction(n_code, n_hidden, n_code)
        self.response = DoseResponse(n_code)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: ConditionInputs | None = None) -> Tensor:
        inputs = (
            ConditionInputs(self.features, self.present, self.dose) if inputs is None else inputs
        )
        strength = inputs.present[..., None] * self.response(inputs.dose)
        effect = self.additive(inputs.features) + self.part(inputs.features)
        code = (strength * effect).sum(dim=1)  # (n_conditions, n_code)
        several = (inputs.present.sum(dim=1, keepdim=True) > 1).to(code.dtype)
        dropped: Tensor = self.dropout(code + several * self.interaction(code))
        return dropped


def condition_code(
    n_conditions: int, inputs: ConditionInputs | None, *, dropout: float
) -> ConditionCode:
    """Codes computed from what is known of the conditions, or learned ones without that."""
    return IndexCode(n_conditions) if inputs is None else CovariateCode(inputs, dropout=dropout)


class DoseResponse(nn.Module):
    r"""Learned rises from zero with the dose, whose shapes are shared by all parts.

    .. math:: s_j(d) = \sum_k a_{jk} \left(1 - e^{-d / \tau_k}\right) + a_{j0} d, \qquad a > 0

    with :math:`\tau` from 1/8 to 8 in units of the largest dose. Ours.
    """

    scales: Tensor

    def __init__(self, n_shapes: int) -> None:
        super().__init__()
        self.register_buffer("scales", 2.0 ** torch.arange(-3, 4, 2))
        self.raw = nn.Parameter(torch.randn(len(self.scales) + 1, n_shapes))

    def forward(self, dose: Tensor) -> Tensor:
        """Strength, one more axis than ``dose``, which is in units of the largest of training."""
        saturating = -torch.expm1(-dose[..., None] / self.scales)
        basis = torch.cat([saturating, dose[..., None]], dim=-1)
        strength: Tensor = basis @ F.softplus(self.raw)
        return strength


def _correction(n_input: int, n_hidden: int, n_output: int) -> nn.Sequential:
    """A network that starts at zero."""
    last = nn.Linear(n_hidden, n_output)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(n_input, n_hidden), nn.SiLU(), last)
