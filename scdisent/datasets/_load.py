"""Load, list, fetch and verify the data sets of the cards."""

import os
import warnings
from pathlib import Path

import pandas as pd
from anndata import AnnData

from scdisent._errors import ScDisentWarning
from scdisent.datasets._cards import Card, card, cards
from scdisent.datasets._fetch import TIMEOUT, Check, check, fetch, find
from scdisent.datasets._read import name_columns, read


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> AnnData:
    """Load a data set, from the local folder if it is there, else by download.

    Single cells: raw counts in ``X`` (CSR; integers stay integers, else float32) and the columns
    of the card in ``obs``. Images: pixels in [0, 1] in a dense ``X``, and ``uns["image_shape"]``,
    ``[channels, height, width]``: ``X.reshape(-1, *shape)`` gives them back. Tables: numeric
    columns in ``X``, float32 in the units of the file (standardise them before training), labels
    and all that says which row it is in ``obs``. ``uns["dataset"]`` says where the data come from.

    Parameters
    ----------
    name
        One of :func:`scdisent.datasets.list`.
    data_dir
        Folder that is looked at before any download, laid out as the paths of the cards; by
        default the environment variable ``SCDISENT_DATA_DIR``.

    Returns
    -------
    AnnData, ready for :func:`scdisent.setup_anndata` with ``**scdisent.datasets.card(name).setup``.

    Raises
    ------
    OptionError
        If there is no such data set or folder.
    DownloadError
        If a file is not the one of the card or could not be downloaded.
    InputDataError
        If a file could not be read.
    """
    chosen = card(name)
    adata = read(get(name, data_dir=data_dir), chosen)
    missing = name_columns(adata, chosen)
    if missing:
        msg = (
            f"Data set {name!r} should have the obs columns {missing}, but has "
            f"{[*adata.obs.columns]}. Pass other keys to the setup."
        )
        warnings.warn(msg, ScDisentWarning, stacklevel=2)
    adata.uns["dataset"] = _origin(chosen)
    return adata


def _origin(chosen: Card) -> dict[str, str]:
    hashes = ", ".join(file.known_hash or "unknown" for file in chosen.files)
    about = {"name": chosen.name, "source": chosen.source, "licence": chosen.licence}
    return about | {"note": chosen.note or "", "files": hashes}


def list_datasets(*, data_dir: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Table of all data sets, one row each.

    Parameters
    ----------
    data_dir
        Local folder; by default the environment variable ``SCDISENT_DATA_DIR``.

    Returns
    -------
    DataFrame by name: ``what``, ``shape`` (empty where not checked), ``licence``, ``available``
    (whether all files are in the local folder or in the cache; their bytes are not verified).
    """
    rows = {
        each.name: {
            "what": each.what,
            "shape": " x ".join(str(n) for n in each.shape or ()),
            "licence": each.licence,
            "available": all(find(file, data_dir=data_dir) for file in each.files),
        }
        for each in cards().values()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name").sort_index()


def get(
    name: str, *, data_dir: str | os.PathLike[str] | None = None, timeout: float = TIMEOUT
) -> list[Path]:
    """Paths of the verified files of a data set, downloaded now where they are missing.

    Parameters
    ----------
    name
        One of :func:`scdisent.datasets.list`.
    data_dir
        Local folder; by default the environment variable ``SCDISENT_DATA_DIR``.
    timeout
        Seconds without a byte after which an address counts as failed.

    Raises
    ------
    OptionError
        If there is no such data set or folder.
    DownloadError
        If a file is not the one of the card or could not be downloaded.
    """
    chosen = card(name)
    return [fetch(chosen, file, data_dir=data_dir, timeout=timeout) for file in chosen.files]


def verify(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Compare the files that are here with the card; nothing is downloaded or changed.

    Parameters
    ----------
    name
        One of :func:`scdisent.datasets.list`.
    data_dir
        Local folder; by default the environment variable ``SCDISENT_DATA_DIR``.

    Returns
    -------
    DataFrame by file: ``path``, ``status`` (``ok``, ``missing``, ``size differs``,
    ``hash differs`` or ``hash unknown``), ``expected``, ``found``.
    """
    rows = {}
    for file in card(name).files:
        path = find(file, data_dir=data_dir)
        outcome = check(path, file) if path else Check("missing")
        rows[file.name] = {"path": str(path or ""), **outcome._asdict()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("file")
