"""Callbacks: stop on divergence, keep the best epoch among those that do not leak."""

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

Weights = dict[str, torch.Tensor]


def snapshot(module: torch.nn.Module) -> Weights:
    """Copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


class DivergenceGuard(Callback):
    """Stop when a loss of the epoch is not a number and restore the last good weights.

    Checked once an epoch, so that nothing waits for the GPU inside it.
    """

    def __init__(self) -> None:
        self.diverged_at: int | None = None
        self.good_epoch: int | None = None
        self._good: Weights = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Weights before training are the first good ones."""
        self._good = snapshot(pl_module.module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Keep the weights, or stop."""
        finite = all(bool(p.isfinite().all()) for p in pl_module.module.parameters())
        finite = finite and bool(np.isfinite(pl_module.epoch_mean("loss_train")))
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            self._good, self.good_epoch = snapshot(pl_module.module), trainer.current_epoch
            return
        self.diverged_at = trainer.current_epoch
        trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Restore the last good weights after a divergence; stands behind ``BestEpoch``."""
        if self.diverged_at is not None:
            pl_module.module.load_state_dict(self._good)


class BestEpoch(Callback):
    """Keep the epoch with the best bound among those whose codes do not give the condition away.

    After each validation a quadratic ridge classifier is fitted on codes of training cells and
    scored on validation cells. Epochs whose area under the ROC curve is above ``ceiling`` are
    passed over; if all are, the one that leaks least is kept. The total loss is not used: it holds
    the critic's current strength, so the best total is the epoch of the weakest critic.

    Parameters
    ----------
    first_epoch
        Epochs before this one (ramps of weights) are not candidates.
    ceiling
        Largest area under the curve of the probe.
    probe
        Called with the module; returns codes and conditions of training cells, then of validation
        cells. None: nothing may leak, only the bound counts.
    """

    def __init__(self, probe: Any, *, first_epoch: int = 0, ceiling: float = 0.55) -> None:
        self.probe, self.first_epoch, self.ceiling = probe, first_epoch, ceiling
        self.best_epoch: int | None = None
        self._best: tuple[bool, float] = (False, -np.inf)
        self._weights: Weights = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Score the epoch."""
        if trainer.sanity_checking or trainer.current_epoch < self.first_epoch:
            return
        # Processes see different noise, and all must keep the same epoch.
        score = trainer.strategy.broadcast(self._score(trainer, pl_module))
        if score is not None and score > self._best:
            self._best, self.best_epoch = score, trainer.current_epoch
            self._weights = snapshot(pl_module.module)

    def _score(self, trainer: pl.Trainer, pl_module: Any) -> tuple[bool, float] | None:
        """What epochs are compared by; None for one that is no candidate."""
        bound = -float(trainer.callback_metrics["elbo_validation"])
        if self.probe is None:
            return (True, bound) if np.isfinite(bound) else None
        probed = self.probe(pl_module.module)
        if not np.isfinite(bound) or not all(np.isfinite(part).all() for part in probed):
            return None
        leak = probe_auroc(*probed)
        clean = leak <= self.ceiling
        return clean, bound if clean else -leak

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Load the kept weights."""
        if self._weights:
            pl_module.module.load_state_dict(self._weights)


def probe_auroc(
    train_codes: NDArray[np.floating],
    train_condition: NDArray[np.integer],
    test_codes: NDArray[np.floating],
    test_condition: NDArray[np.integer],
) -> float:
    """Area under the ROC curve of a quadratic ridge classifier, one-vs-rest mean; 0.5 is chance.

    A quick look during training, not evidence: the audit is :func:`scdisent.metrics.leakage`.
    """
    probe = make_pipeline(
        StandardScaler(), PolynomialFeatures(2, include_bias=False), RidgeClassifier(alpha=10.0)
    )
    probe.fit(train_codes, train_condition)
    scores = probe.decision_function(test_codes)
    scores = scores[:, None] if scores.ndim == 1 else scores
    levels = probe.classes_[-scores.shape[1] :]
    aucs = [
        roc_auc_score(test_condition == level, scores[:, column])
        for column, level in enumerate(levels)
        if 0 < (test_condition == level).sum() < len(test_condition)
    ]
    return float(np.mean(aucs)) if aucs else 0.5
