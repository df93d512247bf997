"""Tables whose columns are of different kinds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from scdisent._errors import OptionError, one_of
from scdisent.nn._cells import Cells
from scdisent.nn._likelihoods import (
    Bernoulli,
    Expects,
    Likelihood,
    Normal,
    likelihood_class,
    straight_through,
)

MAX_LOG_RATE = 15.0


class PoissonRate(Likelihood):
    """Whole numbers with a rate of their own: unlike genes they are no shares of a library."""

    expects: ClassVar[Expects] = "real"

    def log_prob(self, cells: Cells, raw: Tensor) -> Tensor:
        return self.distribution(raw, cells.library).log_prob(cells.dense).sum(-1)

    def profile(self, raw: Tensor) -> Tensor:
        return raw.clamp_max(MAX_LOG_RATE).exp()

    def distribution(self, raw: Tensor, library: Tensor) -> Distribution:
        return torch.distributions.Poisson(self.profile(raw), validate_args=False)

    def relaxed_sample(self, raw: Tensor, library: Tensor) -> Tensor:
        rate = self.profile(raw)
        return straight_through(torch.poisson(rate.nan_to_num()), rate)

    def carry_over(
        self, cells: Cells, source: Tensor, target: Tensor, *, rng: np.random.Generator | None
    ) -> Tensor:
        """Scale the count by the ratio of the rates."""
        return cells.dense * (target - source).exp()


FAMILIES: dict[str, type[Likelihood]] = {
    "normal": Normal,
    "bernoulli": Bernoulli,
    "poisson": PoissonRate,
}


class Mixed(Likelihood):
    """Each column under the likelihood of its family; columns are independent given the codes."""

    expects: ClassVar[Expects] = "mixed"
    shared: ClassVar[bool] = False
    parts: Any  # torch's containers do not know what they hold

    def __init__(
        self, n_genes: int, *, families: Sequence[str], scale: float | None = None
    ) -> None:
        super().__init__(n_genes)
        if len(families) != n_genes:
            msg = f"families names {len(families)} columns; the data have {n_genes}."
            raise OptionError(msg)
        found = np.array([one_of(family, FAMILIES, "families") for family in families])
        self.parts = nn.ModuleDict()
        for family in dict.fromkeys(families):
            columns = torch.from_numpy(np.flatnonzero(found == family))
            self.register_buffer(f"columns_{family}", columns, persistent=False)
            options = {"scale": scale} if family == "normal" else {}
            self.parts[family] = FAMILIES[family](len(columns), **options)

    def columns(self, family: str) -> Tensor:
        """Positions of the columns of a family."""
        found: Tensor = getattr(self, f"columns_{family}")
        return found

    def log_prob(self, cells: Cells, raw: Tensor) -> Tensor:
        total = raw.new_zeros(len(raw))
        for family, part in self.parts.items():
            columns = self.columns(family)
            total = total + part.log_prob(_columns_of(cells, columns), raw[:, columns])
        return total

    def profile(self, raw: Tensor) -> Tensor:
        out = torch.empty_like(raw)
        for family, part in self.parts.items():
            out[:, self.columns(family)] = part.profile(raw[:, self.columns(family)])
        return out

    def distribution(self, raw: Tensor, library: Tensor) -> Distribution:
        msg = "a mixed likelihood is no single distribution; use log_prob and profile."
        raise OptionError(msg)

    def relaxed_sample(self, raw: Tensor, library: Tensor) -> Tensor:
        out = torch.empty_like(raw)
        for family, part in self.parts.items():
            at = self.columns(family)
            out[:, at] = part.relaxed_sample(raw[:, at], library)
        return out

    def carry_over(
        self, cells: Cells, source: Tensor, target: Tensor, *, rng: np.random.Generator | None
    ) -> Tensor:
        out = torch.empty_like(source)
        for family, part in self.parts.items():
            at = self.columns(family)
            own = _columns_of(cells, at)
            out[:, at] = part.carry_over(own, source[:, at], target[:, at], rng=rng)
        return out


def _columns_of(cells: Cells, columns: Tensor) -> Cells:
    return replace(cells, x=cells.dense[:, columns], _known={})


def make_likelihood(
    name: str,
    n_genes: int,
    *,
    families: Sequence[str] | None = None,
    scale: float | None = None,
) -> Likelihood:
    """Build an observation model by name, with what only some of them take."""
    if families is not None and name != "mixed":
        msg = f"families= is for likelihood='mixed'; found likelihood={name!r}."
        raise OptionError(msg)
    if scale is not None and name not in ("normal", "mixed"):
        msg = f"scale= is for likelihood='normal' or 'mixed'; found likelihood={name!r}."
        raise OptionError(msg)
    if name == "mixed":
        if families is None:
            msg = (
                "likelihood='mixed' needs families=: the name of a column of adata.var (or a list) "
                f"that says for each column one of {list(FAMILIES)}."
            )
            raise OptionError(msg)
        return Mixed(n_genes, families=families, scale=scale)
    return likelihood_class(name)(n_genes, **({} if scale is None else {"scale": scale}))
