"""A trained model on new cells: what is known stays, what is new is learned."""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from scdisent.effects import EffectTable
from scdisent.model._transfer import Anchors
from scdisent.module import DiscoverModule


def adopt(new: DiscoverModule, old: DiscoverModule) -> None:
    """Give a module with more levels the weights of another, and leave only new levels to train.

    A weight of a new level starts at the mean of those of the known levels of its kind, or at zero
    where there are none. Known ones keep their values: their gradients are zero.
    """
    states = old.state_dict()
    parameters = dict(new.named_parameters())
    for name, value in new.state_dict().items():
        known = states[name].to(value)
        if value.shape == known.shape:
            value.copy_(known)
            if name in parameters:
                parameters[name].requires_grad_(False)
            continue
        axis = int(np.flatnonzero(np.not_equal(value.shape, known.shape))[0])
        columns, kinds = _places(name, new, old, value.shape[axis], known.shape[axis])
        value.copy_(_started(known, columns, kinds, axis))
        if name in parameters:
            is_new = torch.ones(value.shape[axis])
            is_new[columns] = 0.0
            shape = [-1 if i == axis else 1 for i in range(value.dim())]
            parameters[name].register_hook(_masked(is_new.reshape(shape)))
    new.is_adapting = True


def _masked(mask: Tensor):
    return lambda gradient: gradient * mask.to(gradient)


def _places(
    name: str, new: DiscoverModule, old: DiscoverModule, n_new: int, n_old: int
) -> tuple[list[int], list[Hashable]]:
    """Where the known levels stand, and the kind of each level: of rows, levels come in order."""
    if name not in new.input_columns:
        return list(range(n_old)), ["level"] * n_new
    names = new.input_columns[name]
    return [names.index(column) for column in old.input_columns[name]], [c[0] for c in names]


def _started(known: Tensor, columns: Sequence[int], kinds: Sequence[Hashable], axis: int) -> Tensor:
    """Known levels in their places, new ones at the mean of their kind."""
    shape = list(known.shape)
    shape[axis] = len(kinds)
    out = torch.zeros(shape, dtype=known.dtype, device=known.device).transpose(0, axis)
    out[list(columns)] = known.transpose(0, axis)
    for kind in set(kinds):
        own = [i for i, other in enumerate(kinds) if other == kind]
        fresh, there = sorted(set(own) - set(columns)), sorted(set(own) & set(columns))
        if fresh and there:
            out[fresh] = out[there].mean(dim=0)
    return out.transpose(0, axis)


def joined_anchors(old: Anchors, new: Anchors) -> Anchors:
    """Codes of the old cells, and those of new cells under conditions that had none."""
    fresh = ~torch.isin(new.condition, old.condition.unique())
    pairs = zip(vars(old).values(), vars(new).values(), strict=True)
    return Anchors(*(torch.cat([before, after[fresh]]) for before, after in pairs))


def joined_effects(old: EffectTable, new: EffectTable) -> EffectTable:
    """Means of the old cells, and what new cells add to groups and conditions without any.

    What a condition does is measured against the control cells beside it: where the new cells hold
    their own, the difference is added to the old control's mean.
    """
    shape = (len(new.groups), len(new.conditions))
    means, n_cells = np.full((*shape, old.means.shape[-1]), np.nan), np.zeros(shape, dtype=np.int64)
    known = np.ix_(range(len(old.groups)), range(len(old.conditions)))
    means[known], n_cells[known] = old.means, old.n_cells
    start = new.conditions.index(new.control)
    change = new.means - new.means[:, [start]]
    for group, condition in np.argwhere((n_cells == 0) & (new.n_cells > 0)):
        own = change[group, condition]
        is_beside = np.isfinite(own).all() and n_cells[group, start] > 0
        means[group, condition] = (
            means[group, start] + own if is_beside else new.means[group, condition]
        )
        n_cells[group, condition] = new.n_cells[group, condition]
    return EffectTable(new.groups, new.conditions, new.control, means, n_cells, new.is_log)
