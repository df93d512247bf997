"""Where predicted values go, batch by batch: memory, or a zarr folder."""

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import anndata.io as aio
import numpy as np
import zarr
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from scdisent._errors import OptionError

Values: TypeAlias = sparse.csr_matrix | NDArray[np.float32]


class MemorySink(AbstractContextManager["MemorySink"]):
    """All batches in memory."""

    def __init__(self) -> None:
        self.parts: list[Values] = []

    def __exit__(self, *error: object) -> None:
        """Nothing is left behind."""

    def add(self, values: Values) -> None:
        """Take the next cells, ``(n_cells, n_genes)``, dense or sparse."""
        self.parts.append(values)

    def finish(self, rest: AnnData) -> AnnData:
        """The cells with the values that were added; ``rest`` has everything but ``X``."""
        is_sparse = sparse.issparse(self.parts[0])
        x = sparse.vstack(self.parts, format="csr") if is_sparse else np.vstack(self.parts)
        return AnnData(x, obs=rest.obs, var=rest.var, uns=rest.uns)


class ZarrSink(AbstractContextManager["ZarrSink"]):
    """Batches appended to a zarr folder, which :func:`anndata.io.read_zarr` reads.

    It has its name when it is whole; a prediction cut short leaves nothing.

    Raises
    ------
    OptionError
        If the path does not end in ``.zarr`` or exists.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix != ".zarr" or path.exists():
            found = "exists" if path.exists() else "is no zarr folder"
            msg = f"out={str(path)!r} {found}. Give a new path that ends in .zarr."
            raise OptionError(msg)
        self.path = self.unfinished = path
        self.group: Any = None
        self.cleanup = ExitStack()

    def __enter__(self) -> "ZarrSink":
        """Write beside the path, under a name of its own."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = TemporaryDirectory(dir=self.path.parent, prefix=f".{self.path.name}.")
        self.unfinished = Path(self.cleanup.enter_context(beside), self.path.name)
        return self

    def __exit__(self, *error: object) -> None:
        """Remove what did not get its name."""
        self.cleanup.close()

    def add(self, values: Values) -> None:
        """Take the next cells, ``(n_cells, n_genes)``, dense or sparse."""
        if self.group is None:
            self.group = zarr.open_group(str(self.unfinished), mode="w")
            if isinstance(values, sparse.csr_matrix):  # more than 2^31 values may follow
                values.indptr = values.indptr.astype(np.int64)
            aio.write_elem(self.group, "X", values)
        elif sparse.issparse(values):
            aio.sparse_dataset(self.group["X"]).append(values)
        else:
            self.group["X"].append(values)

    def finish(self, rest: AnnData) -> AnnData:
        """Write the rest beside the values; ``X`` of what is returned stays on disk."""
        parts: dict[str, Any] = {"obs": rest.obs, "var": rest.var, "uns": dict(rest.uns)}
        parts |= {name: {} for name in ("obsm", "varm", "obsp", "varp", "layers")}
        for name, value in parts.items():
            aio.write_elem(self.group, name, value)
        self.group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        self.unfinished.rename(self.path)
        x = zarr.open_group(str(self.path), mode="r")["X"]
        on_disk = x if isinstance(x, zarr.Array) else aio.sparse_dataset(x)
        return AnnData(on_disk, obs=rest.obs, var=rest.var, uns=rest.uns)


def sink_at(out: str | Path | None) -> MemorySink | ZarrSink:
    """Memory, or the folder named."""
    return MemorySink() if out is None else ZarrSink(Path(out))
