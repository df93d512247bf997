"""What watches training: whether the condition can be read from the codes."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from scdisent._constants import KEYS
from scdisent.data import ResidentDataModule
from scdisent.module import INVARIANT, DisentModule


def make_probe(model: Any, datamodule: ResidentDataModule, *, n_cells: int = 2_000) -> Any:
    """Codes and conditions of some training and of some validation cells, on request.

    None for a model without a block that must not know the condition.

    Where penalties compare conditions within cell types, the mean of each type is taken out:
    what composition alone gives away is no reason to pass over an epoch.
    """
    if INVARIANT not in model.representations:
        return None
    rng = np.random.default_rng(datamodule.seed)
    some = [rng.permutation(i)[:n_cells] for i in (datamodule.train_idx, datamodule.val_idx)]
    table = datamodule.table
    truth = table.columns[KEYS.CONDITION][:, 0]
    strata: NDArray[np.generic] = np.zeros(len(table), dtype=np.int64)
    if getattr(model.module, "n_cell_types", 0):
        strata = table.columns[KEYS.CELL_TYPE][:, 0]

    def probe(module: DisentModule) -> list[NDArray[np.generic]]:
        was_training = module.training
        module.eval()
        parts = []
        for index in some:
            codes = pd.DataFrame(_codes(module, datamodule.loader(index)))
            codes = codes - codes.groupby(strata[index]).transform("mean")
            parts += [codes.to_numpy(), truth[index]]
        module.train(was_training)
        return parts

    return probe


def _codes(module: Any, loader: Any) -> NDArray[np.float32]:
    """Means of the block that must not know the condition."""
    with torch.inference_mode():
        codes = [module.posterior(module.cells(batch), INVARIANT).mean for batch in loader]
    return torch.cat(codes).cpu().numpy()
