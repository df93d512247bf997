"""Reading and writing: inputs are never changed, outputs appear whole or not at all."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
from anndata import AnnData

from scdisent import ScDisentError
from scdisent._constants import UNS_KEY
from scdisent._whole import whole_file


class FileError(ScDisentError, OSError):
    """A file cannot be read or written as asked."""


def read_cells(path: Path) -> AnnData:
    """Read an h5ad file, or say why it is none."""
    if not path.is_file():
        msg = f"{path} is not a file. Expected an h5ad file."
        raise FileError(msg)
    try:
        return ad.read_h5ad(path)
    except Exception as error:  # a foreign HDF5 file fails in any way
        msg = f"{path} could not be read as h5ad: cut short, damaged or another format ({error})"
        raise FileError(msg) from error


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file whose first column names the rows."""
    if not path.is_file():
        msg = f"{path} is not a file. Expected a CSV file, a row a condition."
        raise FileError(msg)
    try:
        table = pd.read_csv(path, index_col=0, keep_default_na=False, na_values=[""])
        # "NA" or "None" may name a condition or a category; among numbers it is a missing one
        usual = pd.read_csv(path, index_col=0)
        for name, column in usual.items():
            if pd.api.types.is_numeric_dtype(column) and not column.isna().all():
                table[name] = column.to_numpy()
        return table
    except ValueError as error:  # also what pandas says of bytes and of ragged lines
        msg = f"{path} could not be read as CSV: {error}"
        raise FileError(msg) from error


def refuse_results(adata: AnnData, path: Path) -> None:
    """Stop where ``uns`` holds something else under the name of our results."""
    found = adata.uns.get(UNS_KEY, {})
    if not isinstance(found, Mapping):
        msg = (
            f"{path}: uns[{UNS_KEY!r}] is of type {type(found).__name__}; expected a dictionary of "
            "results. Rename or delete it."
        )
        raise FileError(msg)


def refuse_outputs(
    *paths: Path | None, sources: Iterable[Path | None] = (), overwrite: bool
) -> None:
    """Stop before any work where an output would replace an input, another or an older output."""
    taken = {path.resolve() for path in filter(None, sources)}
    written: set[Path] = set()
    for path in filter(None, paths):
        if path.resolve() in taken:
            msg = f"{path} is the input. Choose another name for the output."
            raise FileError(msg)
        if path.resolve() in written:
            msg = f"{path} is named for two outputs. Choose another name for one of them."
            raise FileError(msg)
        written.add(path.resolve())
        if path.exists() and not overwrite:
            msg = f"{path} exists. Choose another name, or pass --overwrite."
            raise FileError(msg)


def write_cells(adata: AnnData, path: Path) -> None:
    """Write an h5ad file whole or not at all."""
    with whole_file(path) as part:
        adata.write_h5ad(part, compression="gzip")


def write_table(table: Any, path: Path) -> None:
    """Write a DataFrame as CSV whole or not at all."""
    with whole_file(path) as part:
        table.to_csv(part, index=False)
