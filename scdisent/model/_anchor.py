"""Closed-form effects of training cells, and predictions whose means are moved towards them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from scdisent._constants import KEYS
from scdisent.data import DiskDataModule, ResidentDataModule
from scdisent.data import _registry as reg
from scdisent.effects import EffectTable
from scdisent.functional import log1p_dense
from scdisent.nn import Cells

ALL_CELLS = "all cells"
"""The only group where setup named no cell types."""
N_CALIBRATION = 1_000
"""Source cells of a group that the offset is found on."""
N_STEPS, N_AVERAGED = 12, 5
GAIN = 0.6
"""Of the first steps: where a gene fills zeros, log means rise faster than its logit."""
LARGEST_OFFSET = 12.0
FLOOR = 2e-3
"""Counts per 10,000 that :data:`N_CALIBRATION` cells cannot tell from none."""


def training_cells(datamodule: Any) -> Iterable[dict[str, Tensor]]:
    """Minibatches of every training cell; a training loader may leave a last small one out."""
    if isinstance(datamodule, ResidentDataModule):
        return datamodule.loader(datamodule.train_idx)
    if isinstance(datamodule, DiskDataModule):
        return datamodule.train_cells()
    found: Iterable[dict[str, Tensor]] = datamodule.train_dataloader()
    return found


def read_effects(
    module: Any, registry: Any, batches: Iterable[dict[str, Tensor]], *, control: str | None
) -> EffectTable:
    """Mean expression of each cell type under each condition, over the minibatches of a loader."""
    conditions = [str(level) for level in reg.levels(registry, KEYS.CONDITION)]
    groups = group_names(registry)
    shape = (len(groups), len(conditions))
    sums: Tensor | None = None
    n_cells = torch.zeros(shape[0] * shape[1], dtype=torch.int64)
    for batch in batches:
        cells = module.moved_cells(batch)
        values = expression(module, cells).double().cpu()
        types = cells.cell_type if len(cells.cell_type) else torch.zeros_like(cells.condition)
        index = (types * shape[1] + cells.condition).cpu()
        if sums is None:
            sums = torch.zeros(len(n_cells), values.shape[1], dtype=torch.float64)
        sums.index_add_(0, index, values)
        n_cells += torch.bincount(index, minlength=len(n_cells))
    means = torch.zeros(0) if sums is None else sums / n_cells[:, None]  # NaN without cells
    return EffectTable(
        tuple(groups),
        tuple(conditions),
        control or conditions[0],
        means.reshape(*shape, -1).numpy(),
        n_cells.reshape(shape).numpy(),
        is_log=module.expects == "counts",
    )


def group_names(registry: Any) -> list[str]:
    """Cell types of training, in the order of their codes."""
    if reg.setup_argument(registry, "labels_key") is None:
        return [ALL_CELLS]
    return [str(level) for level in reg.levels(registry, KEYS.CELL_TYPE)]


def expression(module: Any, cells: Cells) -> Tensor:
    """Values whose mean an effect changes, ``(n_cells, n_genes)``: counts log-normalised."""
    return log1p_dense(cells.dense) if module.expects == "counts" else cells.dense


@dataclass(frozen=True)
class Statement:
    """What a decoder says of some cells, under their own and under the target condition."""

    cells: Cells
    head: Any
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Stratum:
    """Source cells of one type under one condition."""

    group: str
    reference: str
    statements: Sequence[Statement]
    mean: Tensor
    """Of their expression, ``(n_genes,)``."""


def n_copies(module: Any, n_cells: int) -> int:
    """How often each source cell is drawn: few cells say little of the mean of random counts."""
    return -(-N_CALIBRATION // n_cells) if module.expects == "counts" else 1


def predicted_mean(
    module: Any, statements: Sequence[Statement], offset: Tensor, *, seed: int
) -> Tensor:
    """Mean expression of the cells drawn with an offset on the target's logits, ``(n_genes,)``."""
    is_drawn = module.expects == "counts"
    rng = np.random.default_rng(seed) if is_drawn else None
    total = torch.zeros_like(offset)
    for said in statements:
        moved = said.after + F.pad(offset, (0, said.after.shape[1] - len(offset)))
        drawn = said.head.carry_over(said.cells, said.before, moved, rng=rng)
        total += (log1p_dense(drawn) if is_drawn else drawn).sum(dim=0)
    return total / sum(len(said.cells) for said in statements)


def own_mean(module: Any, statements: Sequence[Statement], *, seed: int) -> Tensor:
    """Mean expression that the decoder predicts by itself, over the draws of the last steps."""
    none = torch.zeros_like(statements[0].after[0, : statements[0].cells.x.shape[1]])
    draws = range(seed + N_STEPS - N_AVERAGED, seed + N_STEPS)
    means = [predicted_mean(module, statements, none, seed=draw) for draw in draws]
    return torch.stack(means).mean(dim=0)


def calibrated_offset(
    module: Any, statements: Sequence[Statement], target: Tensor, *, seed: int
) -> Tensor:
    r"""Gene-wise offset on the target's logits that brings the predicted mean to ``target``.

    With counts, damped steps

    .. math:: c_g \leftarrow c_g + a \log\frac{e^{t_g} - 1}{e^{m_g(c)} - 1}

    with the target t and the mean m(c) of log-normalised draws; a is halved where a gene has
    overshot. Averaged over the last :data:`N_AVERAGED` of :data:`N_STEPS` because draws are random.
    What would change all genes by the same factor is lost, because the library stays. For real
    values :math:`c = t - m(0)`. Returns ``(n_genes,)``.
    """
    offset = torch.zeros_like(target)
    if module.expects != "counts":
        return target - predicted_mean(module, statements, offset, seed=seed)
    wanted, total = target.clamp_min(0).expm1() + FLOOR, torch.zeros_like(target)
    gain, before = torch.full_like(target, GAIN), torch.zeros_like(target)
    for step in range(N_STEPS):
        mean = predicted_mean(module, statements, offset, seed=seed + step)
        gap = (wanted / (mean.expm1() + FLOOR)).log()
        gain = torch.where(gap * before < 0, gain / 2, gain)
        offset = (offset + gain * gap).clamp(-LARGEST_OFFSET, LARGEST_OFFSET)
        before = gap
        total += offset if step >= N_STEPS - N_AVERAGED else 0.0
    return total / N_AVERAGED


def groups_of(obs: Any, registry: Any) -> tuple[NDArray[np.int64], list[str]]:
    """Group of each source cell as a code, and the names; new cell types get codes of their own."""
    names = group_names(registry)
    key = reg.setup_argument(registry, "labels_key")
    if key is None or key not in obs:
        return np.zeros(len(obs), dtype=np.int64), [ALL_CELLS]
    values = obs[key].astype(str)
    names += sorted(set(values) - set(names))
    return np.array([names.index(value) for value in values], dtype=np.int64), names
