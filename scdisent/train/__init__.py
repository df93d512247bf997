"""How models are fitted: the plan, schedules of weights, callbacks."""

from scdisent.train._callbacks import BestEpoch, DivergenceGuard
from scdisent.train._plans import PlayersPlan
from scdisent.train._schedules import Schedule, constant, cyclic, linear_ramp

__all__ = [
    "BestEpoch",
    "DivergenceGuard",
    "PlayersPlan",
    "Schedule",
    "constant",
    "cyclic",
    "linear_ramp",
]
