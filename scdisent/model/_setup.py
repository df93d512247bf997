"""One registration for all models, and one way to read any of them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from anndata import AnnData

from scdisent.conditions import ConditionTable
from scdisent.model._base import DisentModel
from scdisent.model._bfvae import BFVAE
from scdisent.model._cggan import CGGAN
from scdisent.model._cgvae import CGVAE
from scdisent.model._discover import DISCoVeR
from scdisent.model._files import load_folder
from scdisent.model._shift import ShiftModel

MODELS: tuple[type[DisentModel], ...] = (DISCoVeR, CGVAE, CGGAN, BFVAE)
REGISTERED: tuple[type[DisentModel], ...] = (*MODELS, ShiftModel)


def setup_anndata(
    adata: AnnData,
    *,
    condition_key: str | None,
    control: str | None = None,
    layer: str | None = None,
    labels_key: str | None = None,
    batch_key: str | None = None,
    sample_key: str | None = None,
    dose_key: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    condition_table: ConditionTable | pd.DataFrame | None = None,
) -> None:
    """Register an AnnData once for every model of the package.

    ``adata.X``, the user's columns, warning filters and loggers stay as they are; only
    scvi-tools' own ``_scvi_*`` keys are added.

    Parameters
    ----------
    adata
        Cells by genes.
    condition_key
        Column of what the invariant block must not know: treatment, disease, species. None: cells
        without conditions, for :class:`scdisent.BFVAE`.
    control
        Level of ``condition_key`` that serves as reference.
    layer
        Layer with the values the likelihood is for; None: ``X``.
    labels_key
        Cell type. Never needed to train; used to compare conditions within a type and to score.
    batch_key
        Technical batch. Enters decoders only.
    sample_key
        Donor or replicate; splits and intervals are made over it.
    dose_key
        Dose of the condition, a number for each cell: conditions then are ``"level@dose"``, and
        models whose codes are computed predict other doses (``predict(dose=)``).
    size_factor_key
        Positive expected total count of each cell, used as library; factors around 1, as of
        scran, have to be multiplied by a typical total. None: the observed total count.
    categorical_covariate_keys, continuous_covariate_keys
        Further technical covariates, treated as ``batch_key``.
    condition_table
        What is known of each condition, for models that predict unseen ones: a
        :class:`scdisent.ConditionTable`, or a DataFrame indexed by condition, whose column
        ``"dose"`` is the dose. It may have rows of conditions without cells.

    Raises
    ------
    SetupError, InputDataError
        With what was expected, what was found and what to do; nothing is written then.
    """
    MODELS[0].setup_anndata(**locals())


def load(dir_path: str | Path, adata: AnnData | None = None, *, device: str = "cpu") -> DisentModel:
    """Read a model folder, whichever class of the package wrote it.

    ``Model.load`` is the same for one class. Nothing in the folder is executed or unpickled.

    Parameters
    ----------
    dir_path
        Folder written by ``model.save``.
    adata
        Cells to attach; None: every getter then needs ``adata=``.
    device
        Where the weights go.

    Raises
    ------
    ModelFileError
        If a file is missing, cut, altered, of another package or of a newer format.
    """
    return load_folder(REGISTERED, Path(dir_path), adata=adata, device=device)
