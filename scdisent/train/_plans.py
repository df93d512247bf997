"""Training plan for one or two players."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import lightning.pytorch as pl
import torch
from scvi.module.base import LossOutput
from torch import Tensor

from scdisent._errors import OptionError
from scdisent.module import CRITIC, MODEL, DisentModule, State
from scdisent.nn import Cells
from scdisent.train._schedules import Schedule, as_schedule


class PlayersPlan(pl.LightningModule):
    """Critic steps on detached codes, then one step of the model, on each minibatch.

    Every player has its own AdamW and its own parameters. One forward pass serves both players:
    the critic sees fresh samples of the same posterior.

    Parameters
    ----------
    lr, critic_lr, weight_decay
        Of AdamW; ``critic_lr=None`` is ``lr``.
    n_critic_steps
        Critic steps per minibatch. The entropy game gets worse with more than one, the zero-sum
        game needs several.
    schedules
        Factor on the weight of a term by epoch, ``{term: schedule}``; a number is the length of a
        linear ramp.
    leak_tolerance
        With a number, dual ascent of the adversary's weight: each epoch the weight's factor grows
        while the critic's cross-entropy is below that of a guess by more than the tolerance
        (nats), and shrinks otherwise.
    dual_rate
        Step of that ascent.
    gradient_clip
        Largest norm of the model's gradient.
    betas
        Of AdamW: how slowly means of gradients and of their squares move.
    anneal
        Lower the learning rates by epoch along a half cosine, to a hundredth at the end.
    """

    def __init__(
        self,
        module: DisentModule,
        *,
        lr: float = 1e-3,
        critic_lr: float | None = None,
        weight_decay: float = 1e-6,
        n_critic_steps: int = 1,
        schedules: Mapping[str, Schedule | float] | None = None,
        leak_tolerance: float | None = None,
        dual_rate: float = 1.0,
        gradient_clip: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        anneal: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.module = module
        self.lr, self.critic_lr, self.weight_decay = lr, critic_lr, weight_decay
        self.n_critic_steps, self.gradient_clip = n_critic_steps, gradient_clip
        self.anneal, self.betas = anneal, (betas[0], betas[1])
        self.schedules = {name: as_schedule(value) for name, value in (schedules or {}).items()}
        self.leak_tolerance, self.dual_rate, self.dual_factor = leak_tolerance, dual_rate, 1.0
        self._check_options()
        self._sums: dict[str, Any] = defaultdict(float)
        self._counts: Any = 0

    def _check_options(self) -> None:
        if self.n_critic_steps < 1:
            msg = f"n_critic_steps={self.n_critic_steps} must be at least 1."
            raise OptionError(msg)
        unknown = set(self.schedules) - set(self.module.weights)
        if unknown:
            known = ", ".join(sorted(self.module.weights))
            msg = f"schedules name unknown terms {sorted(unknown)}. Terms of this model: {known}."
            raise OptionError(msg)
        if self.leak_tolerance is not None and not self.module.weights.get("adversary"):
            msg = (
                "leak_tolerance moves the adversary's weight, but this model has no adversary. "
                "Build it with weights={'adversary': ...} above 0."
            )
            raise OptionError(msg)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One AdamW a player."""
        rates = self._rates()
        return [
            torch.optim.AdamW(
                parameters,
                lr=rates[name],
                betas=self.betas,
                weight_decay=self.weight_decay,
                fused=True,
            )
            for name, parameters in self.module.players().items()
        ]

    def _rates(self) -> dict[str, float]:
        """Learning rate of each player before annealing."""
        return {MODEL: self.lr, CRITIC: self.lr if self.critic_lr is None else self.critic_lr}

    def term_scales(self) -> dict[str, float]:
        """Factor on the weight of each term in the current epoch."""
        scales = {name: plan(self.current_epoch) for name, plan in self.schedules.items()}
        scales["adversary"] = scales.get("adversary", 1.0) * self.dual_factor
        return scales

    def on_fit_start(self) -> None:
        """Prepare the process."""
        _keep_freed_memory()

    def on_train_epoch_start(self) -> None:
        """Tell the module how far training has come, and anneal."""
        last = max((self.trainer.max_epochs or 1) - 1, 1)
        self.module.progress = min(1.0, self.current_epoch / last)
        if self.anneal:
            factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.module.progress))
            rates = self._rates().values()
            for optimizer, rate in zip(_as_list(self.optimizers()), rates, strict=False):
                optimizer.param_groups[0]["lr"] = factor * rate

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Critic first, model second."""
        model_optimizer, *critic_optimizer = _as_list(self.optimizers())
        encoded = self.module.inference(self.module.cells(batch))
        decoded = self.module.generative(**encoded)
        if critic_optimizer:
            self._train_critic(critic_optimizer[0], State(**encoded, **decoded))
        with _frozen(self.module.adversaries.parameters()):
            output = self.module.loss(batch, encoded, decoded, scale=self.term_scales())
            model_optimizer.zero_grad()
            self.manual_backward(output.loss)
        if self.gradient_clip:
            self.clip_gradients(model_optimizer, gradient_clip_val=self.gradient_clip)
        model_optimizer.step()
        self.module.after_step(model_optimizer)
        self._book("train", output)

    def _train_critic(self, optimizer: torch.optim.Optimizer, state: State) -> None:
        for _ in range(self.n_critic_steps):
            loss = cast("Tensor", self.module.critic_loss(state))
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self._add("critic_loss_train", loss, n_cells=len(state.cells))
        if self.leak_tolerance is not None:
            self._count(state.cells)

    def _count(self, cells: Cells) -> None:
        """Cells of each type under each condition, of which the best guess is made."""
        n_conditions, n_types = self.module.n_conditions, self.module.n_cell_types
        types = cells.cell_type if n_types else torch.zeros_like(cells.condition)
        counts = torch.bincount(
            types * n_conditions + cells.condition, minlength=max(n_types, 1) * n_conditions
        )
        self._counts = self._counts + counts

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The terms at their full weights, so that epochs can be compared."""
        encoded = self.module.inference(self.module.cells(batch))
        decoded = self.module.generative(**encoded)
        self._book("validation", self.module.loss(batch, encoded, decoded))

    def _book(self, mode: str, output: LossOutput) -> None:
        """Add one minibatch to the epoch's sums; nothing is synchronised with the device."""
        n_cells = output.n_obs_minibatch
        weights = self.module.weights
        bound = {**output.reconstruction_loss, **(output.kl_local or {})}
        bound = {name: value for name, value in bound.items() if name in weights}
        for name, value in {**bound, **output.extra_metrics}.items():
            self._add(f"{name}_{mode}", value, n_cells=n_cells)
        if bound:
            elbo = sum(weights[name] * value.detach().mean() for name, value in bound.items())
            self._add(f"elbo_{mode}", cast("Tensor", elbo), n_cells=n_cells)
        self._add(f"loss_{mode}", output.loss, n_cells=n_cells)

    def _add(self, name: str, value: Tensor, *, n_cells: int) -> None:
        self._sums[name] = self._sums[name] + value.detach().mean() * n_cells
        self._sums[f"{name}/n"] += n_cells

    def epoch_mean(self, name: str) -> float:
        """Mean of a term over the cells of the running epoch so far."""
        return float(self._sums[name] / self._sums[f"{name}/n"])

    def _flush(self, mode: str) -> None:
        names = [name for name in self._sums if name.endswith(f"_{mode}")]
        for name in names:
            mean = self._sums.pop(name) / self._sums.pop(f"{name}/n")
            # Without `sync_dist`: synchronised metrics crash two-process CPU training.
            self.log(name, mean, on_step=False, on_epoch=True, batch_size=1)

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch and move the adversary's weight."""
        if self.leak_tolerance is not None:
            self._ascend()
        self._flush("train")
        if self.leak_tolerance is not None:
            self.log("adversary_weight", self.module.weights["adversary"] * self.dual_factor)

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation cells."""
        self._flush("validation")

    def on_train_end(self) -> None:
        """Give all processes the running statistics of the first; weights they share anyway."""
        self.module.progress = 1.0
        self.module.finish()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for buffer in self.module.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def _ascend(self) -> None:
        counts = torch.as_tensor(self._counts).reshape(-1, self.module.n_conditions)
        weights = self.module.adversaries["condition"].class_weights
        guess = guess_cross_entropy(counts.to(weights) * weights)
        self._counts = 0
        found = self.epoch_mean("critic_loss_train")
        step = self.dual_rate * (guess - found - (self.leak_tolerance or 0.0))
        self.dual_factor = max(0.0, self.dual_factor + step)


def guess_cross_entropy(counts: Tensor) -> float:
    """Cross-entropy in nats of the best guess that knows the cell type only.

    ``counts`` are the weighted cells of each type under each condition, ``(n_types,
    n_conditions)``. With balanced weights and the same composition under every condition it is
    log n_conditions.
    """
    share = counts / counts.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return float(-torch.xlogy(counts, share).sum() / counts.sum())


def _keep_freed_memory() -> None:
    """Let the allocator keep what a training step frees, for the next step.

    glibc hands freed memory back to the system above twice the largest block it has seen freed, at
    most 64 MiB. Until a large block was freed, every step pays for thousands of page faults again:
    a fifth of its time. The block is never written to, so it costs nothing.
    """
    largest_counted = 32 * 2**20 - 2**16
    torch.empty(largest_counted, dtype=torch.uint8)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


@contextmanager
def _frozen(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Keep gradients out of some parameters for a while."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
