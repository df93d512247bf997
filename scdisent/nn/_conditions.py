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

    .. math:: e = \sum_p s(d_p)\, f(c_p) + 1[\text{parts} > 1]\; g\Big(\sum_p s(d_p)\, f(c_p)\Big)

    over the parts p of a combination, with features :math:`c_p` (one-hot categories, standardised
    numbers, an embedding), dose :math:`d_p` and networks f, g. s rises from :math:`s(0) = 0`: dose
    zero, like a control without parts, has the code zero.

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
        self.part = _network(n_features, n_hidden, n_code)
        self.interaction = _network(n_code, n_hidden, n_code)
        self.response = DoseResponse()
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: ConditionInputs | None = None) -> Tensor:
        inputs = (
            ConditionInputs(self.features, self.present, self.dose) if inputs is None else inputs
        )
        strength = inputs.present * self.response(inputs.dose)  # (n_conditions, n_parts)
        code = (strength[..., None] * self.part(inputs.features)).sum(dim=1)
        several = (inputs.present.sum(dim=1, keepdim=True) > 1).to(code.dtype)
        dropped: Tensor = self.dropout(code + several * self.interaction(code))
        return dropped


def condition_code(
    n_conditions: int, inputs: ConditionInputs | None, *, dropout: float
) -> ConditionCode:
    """Codes computed from what is known of the conditions, or learned ones without that."""
    return IndexCode(n_conditions) if inputs is None else CovariateCode(inputs, dropout=dropout)


class DoseResponse(nn.Module):
    r"""A learned rise from zero with the dose, whose shape is shared by all parts.

    .. math:: s(d) = \sum_k a_k \left(1 - e^{-d / \tau_k}\right) + a_0 d, \qquad a_k > 0

    with :math:`\tau` from 1/8 to 8 in units of the largest dose. Ours.
    """

    scales: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scales", 2.0 ** torch.arange(-3, 4, 2))
        self.raw = nn.Parameter(torch.zeros(len(self.scales) + 1))

    def forward(self, dose: Tensor) -> Tensor:
        """Strength, of the shape of ``dose``, which is in units of the largest one of training."""
        saturating = -torch.expm1(-dose[..., None] / self.scales)
        basis = torch.cat([saturating, dose[..., None]], dim=-1)
        strength: Tensor = basis @ F.softplus(self.raw)
        return strength


def _network(n_input: int, n_hidden: int, n_output: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_input, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_output))
