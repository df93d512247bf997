"""Reading and writing: inputs are never changed, outputs appear whole or not at all."""

from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
from anndata import AnnData

from scdisent import ScDisentError
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
        return pd.read_csv(path, index_col=0)
    except ValueError as error:  # also what pandas says of bytes and of ragged lines
        msg = f"{path} could not be read as CSV: {error}"
        raise FileError(msg) from error


def refuse_outputs(*paths: Path | None, source: Path | None = None, overwrite: bool) -> None:
    """Stop before any work where an output would replace the input, or an older output."""
    for path in filter(None, paths):
        if source is not None and path.resolve() == source.resolve():
            msg = f"{path} is the input. Choose another name for the output."
            raise FileError(msg)
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
