"""Small things that all models need: cells, seeds, epochs, devices."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scvi import settings

from scdisent._errors import InputDataError, OptionError

T = TypeVar("T")


def need_cells(adata: AnnData) -> AnnData:
    """The cells, of which there must be at least one."""
    if not adata.n_obs:
        msg = "there are no cells: the AnnData given has 0 rows. Check the mask that chose them."
        raise InputDataError(msg)
    return adata


def subset(adata: AnnData, indices: Sequence[int] | NDArray[np.generic] | None) -> AnnData:
    """Chosen cells, by position, mask or name; of a backed AnnData they are read into memory."""
    if indices is None:
        return adata
    if adata.isbacked and adata.is_view:  # anndata cannot choose again among cells on disk
        adata = adata.to_memory()
    chosen = adata[rows_of(adata, indices)]
    return chosen.to_memory() if adata.isbacked else chosen


def rows_of(adata: AnnData, indices: Any) -> NDArray[np.intp]:
    """Positions of cells that are given by position, mask or name."""
    chosen = np.asarray(indices)
    if chosen.size == 0:
        return np.empty(0, dtype=np.intp)
    if chosen.dtype == bool and len(chosen) == adata.n_obs:
        return np.flatnonzero(chosen)
    everyone = np.arange(adata.n_obs)
    if chosen.dtype.kind in "iu" and np.isin(chosen, np.r_[everyone, ~everyone]).all():
        return everyone[chosen]
    if chosen.dtype.kind in "OU" and pd.Index(chosen).isin(adata.obs_names).all():
        return pd.Series(everyone, index=adata.obs_names).loc[chosen].to_numpy()
    msg = (
        f"indices must be positions below {adata.n_obs:,}, a mask of that length, or names in "
        f"adata.obs_names; found {chosen.dtype} of shape {chosen.shape}."
    )
    raise OptionError(msg)


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


def heirs(cls: type[T]) -> Iterator[type[T]]:
    """Every class made from this one, those of users too."""
    for child in cls.__subclasses__():
        yield child
        yield from heirs(child)
