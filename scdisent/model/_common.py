"""Small things that all models need: cells, seeds, epochs, devices."""

from collections.abc import Sequence

import lightning.pytorch as pl
import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scvi import settings

from scdisent._errors import InputDataError, OptionError


def need_cells(adata: AnnData) -> AnnData:
    """The cells, of which there must be at least one."""
    if not adata.n_obs:
        msg = "there are no cells: the AnnData given has 0 rows. Check the mask that chose them."
        raise InputDataError(msg)
    return adata


def subset(adata: AnnData, indices: Sequence[int] | NDArray[np.generic] | None) -> AnnData:
    """Chosen cells; of a backed AnnData they are read into memory."""
    if indices is None:
        return adata
    chosen = adata[np.asarray(indices)]
    return chosen.to_memory() if adata.isbacked else chosen


def resolve_seed(seed: int | None) -> int:
    """The seed given, else scvi-tools', else 0."""
    if seed is None:
        seed = settings.seed
    return 0 if seed is None else int(seed)


def default_epochs(datamodule: pl.LightningDataModule, batch_size: int) -> int:
    """Epochs that give about 1,000 steps, between 20 and 400."""
    n_cells = getattr(datamodule, "n_train", None) or getattr(datamodule, "n_obs", None)
    if n_cells is None:
        msg = "the datamodule has no n_obs: pass max_epochs."
        raise OptionError(msg)
    steps = max(1, n_cells // batch_size)
    return int(np.clip(round(1_000 / steps), 20, 400))


def cuda_devices() -> list[int]:
    """GPUs whose random state a fork must keep."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []


def at_least(lowest: int, **given: int | None) -> None:
    """Refuse an argument that is too small, by its name; None is no value."""
    for name, value in given.items():
        if value is not None and value < lowest:
            msg = f"{name}={value}: expected at least {lowest}, or leave it out for the default."
            raise OptionError(msg)
