"""What all module families share: a loss is a sum of named, weighted terms."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from scdisent._constants import KEYS
from scdisent.functional import SparseCells, gaussian_kl
from scdisent.nn import Cells, FlowPrior

CRITIC = "critic"
MODEL = "model"


class Term(NamedTuple):
    """One summand of the loss: ``value`` is ``(n_cells,)`` or a scalar.

    The prefix of ``name`` says where it is booked: ``nll_`` reconstruction, ``kl_`` divergence,
    anything else a penalty.
    """

    name: str
    value: Tensor


@dataclass(frozen=True)
class LatentBlock:
    """One latent block of a minibatch: posterior, a sample of it, prior."""

    q: Normal
    sample: Tensor
    prior: Normal | FlowPrior

    def kl(self) -> Tensor:
        """Divergence from the prior, ``(n_cells,)``; by the sample without a closed form."""
        if isinstance(self.prior, FlowPrior):
            return self.q.log_prob(self.sample).sum(dim=-1) - self.prior.log_prob(self.sample)
        return gaussian_kl(self.q, self.prior)


@dataclass(frozen=True)
class State:
    """What the terms read: the cells, their latent blocks, the decoders' raw outputs."""

    cells: Cells
    latents: Mapping[str, LatentBlock]
    raw: Mapping[str, Tensor]


@contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are while a module in training reads made-up cells."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class DisentModule(BaseModuleClass):
    """Base of the families: they say how cells are encoded and decoded and yield the terms.

    Parameters
    ----------
    n_batch, n_cats_per_cov, n_continuous_cov
        Sizes of the technical covariates. They enter decoders only.
    weights
        Weight of each named term; a term without a weight is not computed into the loss.

    Attributes
    ----------
    progress
        Share of the training that is done, kept by the plan; terms with a moving target read it.
    is_adapting
        Whether only what is new is trained; running statistics then stay as they are.
    """

    adversaries: Any  # torch's containers do not know what they hold
    likelihoods: Any

    def __init__(
        self,
        *,
        n_batch: int,
        n_cats_per_cov: Sequence[int] | None,
        n_continuous_cov: int,
        weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.n_batch = n_batch
        self.n_cats_per_cov = list(n_cats_per_cov or [])
        self.n_continuous_cov = n_continuous_cov
        self.weights = dict(weights)
        self.adversaries = nn.ModuleDict()
        self.progress = 1.0
        self.is_adapting = False

    @property
    def expects(self) -> str:
        """Kind of data the likelihood is for."""
        return str(next(iter(self.likelihoods.values())).expects)

    @property
    def n_nuisance(self) -> int:
        """Width of the technical covariates as decoders read them."""
        one_batch = self.n_batch if self.n_batch > 1 else 0
        return one_batch + sum(self.n_cats_per_cov) + self.n_continuous_cov

    @property
    def nuisance_columns(self) -> list[tuple[object, ...]]:
        """Names of the technical covariates as decoders read them."""
        batches = range(self.n_batch if self.n_batch > 1 else 0)
        found: list[tuple[object, ...]] = [("batch", level) for level in batches]
        for i, n_levels in enumerate(self.n_cats_per_cov):
            found += [(f"covariate {i}", level) for level in range(n_levels)]
        return found + [("number", i) for i in range(self.n_continuous_cov)]

    def train(self, mode: bool = True) -> "DisentModule":
        """As in torch; while adapting, normalisation uses what it has learned."""
        super().train(mode)
        for part in self.modules() if self.is_adapting else ():
            if hasattr(part, "running_mean"):  # of batches, or of a class
                part.eval()
        return self

    def told(self, condition: Tensor) -> Tensor:
        """What priors and heads read of conditions of training: their index, or a code."""
        return condition

    def cells(self, tensors: Mapping[str, Tensor]) -> Cells:
        """Read a loader's minibatch."""
        flat = {key: value.flatten() for key, value in tensors.items() if key in _PER_CELL}
        codes = {key: flat[key].long() for key in (KEYS.CONDITION, KEYS.CELL_TYPE) if key in flat}
        return Cells(
            x=tensors[KEYS.X],
            condition=codes.get(KEYS.CONDITION, _UNKNOWN),
            cell_type=codes.get(KEYS.CELL_TYPE, _UNKNOWN),
            nuisance=self._nuisance(tensors),
            given_library=flat.get(KEYS.SIZE_FACTOR),
        )

    def moved_cells(self, tensors: Mapping[str, Tensor]) -> Cells:
        """Read a loader's minibatch where the module is."""
        return self.cells({key: value.to(self.device) for key, value in tensors.items()})

    def read(self, cells: Cells) -> SparseCells | Tensor:
        """What encoders read: log-normalised counts, or values as they are."""
        return cells.log_normalised if self.expects == "counts" else cells.dense

    def _nuisance(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One-hot batch and categorical covariates beside the continuous ones.

        Empty where one of them was not read: only decoders need them.
        """
        sizes = {
            KEYS.BATCH: self.n_batch > 1,
            KEYS.CATEGORICAL_COVARIATES: len(self.n_cats_per_cov),
            KEYS.CONTINUOUS_COVARIATES: self.n_continuous_cov,
        }
        if any(size and key not in tensors for key, size in sizes.items()):
            return torch.empty(0)
        x = tensors[KEYS.X]
        blocks = [torch.zeros(x.shape[0], 0, device=x.device)]
        if self.n_batch > 1:
            blocks.append(F.one_hot(tensors[KEYS.BATCH].flatten().long(), self.n_batch))
        for column, n_levels in enumerate(self.n_cats_per_cov):
            codes = tensors[KEYS.CATEGORICAL_COVARIATES][:, column].long()
            blocks.append(F.one_hot(codes, n_levels))
        if self.n_continuous_cov:
            blocks.append(tensors[KEYS.CONTINUOUS_COVARIATES])
        return torch.cat([block.to(blocks[0].dtype) for block in blocks], dim=-1)

    def first_levels(self, n_cells: int) -> Tensor:
        """Technical covariates at their first level and at zero, ``(n_cells, n_nuisance)``."""
        out = torch.zeros(n_cells, self.n_nuisance)
        sizes = [self.n_batch] if self.n_batch > 1 else []
        start = 0
        for size in [*sizes, *self.n_cats_per_cov]:
            out[:, start] = 1.0
            start += size
        return out

    def levels_at(self, library: Tensor) -> Tensor:
        """What decoders read beside the codes for new cells of a depth, ``(n_cells, n_nuisance)``.

        Only generators read the depth.
        """
        return self.first_levels(len(library)).to(library.device)

    @abstractmethod
    def encode(self, cells: Cells) -> dict[str, LatentBlock]:
        """Posterior, sample and prior of every latent block."""

    @abstractmethod
    def decode(self, cells: Cells, latents: Mapping[str, LatentBlock]) -> dict[str, Tensor]:
        """Raw output of every reconstruction."""

    @abstractmethod
    def terms(self, state: State) -> Iterator[Term]:
        """Every named term of the loss that has a weight."""

    def warm_up(self) -> dict[str, float]:
        """Factor on the weight of terms at the present point of training; others have 1."""
        return {}

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """What the module does to its parameters after each step of the model's optimizer."""

    def finish(self) -> None:
        """What the module does to its parameters when training ends."""

    def critic_loss(self, state: State) -> Tensor | None:
        """Loss of the adversaries on a detached state; None without adversaries."""
        return None

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of each player; every parameter belongs to exactly one."""
        critic = {id(parameter) for parameter in self.adversaries.parameters()}
        players: dict[str, list[nn.Parameter]] = {MODEL: [], CRITIC: []}
        for parameter in self.parameters():
            players[CRITIC if id(parameter) in critic else MODEL].append(parameter)
        return {name: parameters for name, parameters in players.items() if parameters}

    # scvi-tools' protocol: inference, generative, loss.

    def _get_inference_input(self, tensors: Mapping[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        return {"cells": self.cells(tensors)}

    def _get_generative_input(
        self, tensors: Mapping[str, Tensor], inference_outputs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        return inference_outputs

    @auto_move_data
    def inference(self, cells: Cells) -> dict[str, Any]:
        """Encode a minibatch."""
        return {"cells": cells, "latents": self.encode(cells)}

    @auto_move_data
    def generative(self, cells: Cells, latents: Mapping[str, LatentBlock]) -> dict[str, Any]:
        """Decode it."""
        return {"raw": self.decode(cells, latents)}

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        scale: Mapping[str, float] | None = None,
    ) -> LossOutput:
        """Weighted sum of the terms.

        ``scale`` multiplies weights by name (schedules, dual ascent). The output books ``nll_``
        terms as reconstruction loss, ``kl_`` terms as local divergence, the rest as extra metrics;
        its ``state`` is attached for the critic's step.
        """
        state = State(**inference_outputs, **generative_outputs)
        scale = scale or {}
        warm = self.warm_up() if self.training else {}
        total = torch.zeros((), device=state.cells.x.device)
        booked: dict[str, dict[str, Tensor]] = {"nll": {}, "kl": {}, "penalty": {}}
        for name, value in self.terms(state):
            factor = scale.get(name, 1.0) * warm.get(name, 1.0)
            total = total + self.weights[name] * factor * value.mean()
            prefix = name.split("_")[0]
            booked[prefix if prefix in booked else "penalty"][name] = value
        return LossOutput(
            loss=total,
            reconstruction_loss=booked["nll"] or None,
            kl_local=booked["kl"] or None,
            extra_metrics=booked["penalty"],
            n_obs_minibatch=len(state.cells),
        )

    @torch.inference_mode()
    def sample(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Posterior samples of every latent block."""
        return {name: block.sample for name, block in self.encode(self.cells(tensors)).items()}


_UNKNOWN = torch.empty(0, dtype=torch.int64)
_PER_CELL = (KEYS.CONDITION, KEYS.CELL_TYPE, KEYS.SIZE_FACTOR)
