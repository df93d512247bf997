"""What a benchmark compares methods on, and what a method gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anndata as ad
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scdisent.effects import log_normalise
from scdisent.nn import likelihood_class

Floats = NDArray[np.floating]
SETUP: Mapping[str, str | None] = {
    "condition_key": "condition",
    "control": "control",
    "labels_key": "cell_type",
    "sample_key": "donor",
}


@dataclass(frozen=True)
class World:
    """Cells of a benchmark with the names of their columns.

    ``train_on`` are the cells to fit on where they are not the audited ones. ``shared`` is the
    column of the factor that conditions share, ``shared_numbers`` are columns of ``obs`` or
    matrices of ``obsm`` where it is made of numbers.
    """

    name: str
    adata: ad.AnnData
    train_on: ad.AnnData | None = None
    setup: Mapping[str, str | None] = field(default_factory=lambda: SETUP)
    shared: str | None = "cell_type"
    shared_numbers: tuple[str, ...] = ()
    likelihood: str = "nb"

    def training_cells(self) -> ad.AnnData:
        """Copy of the cells to fit on."""
        return (self.adata if self.train_on is None else self.train_on).copy()

    def labels(self, key: str | None) -> Any:
        """Column of ``obs`` as text, ``(n_cells,)``; None where none was named."""
        return None if key is None else self.adata.obs[key].astype(str).to_numpy()

    @property
    def condition(self) -> Any:
        """Condition of each cell; None: there are none."""
        return self.labels(self.setup.get("condition_key"))

    @property
    def shared_labels(self) -> Any:
        """Shared factor of each cell, where it has levels, else None."""
        return self.labels(self.shared)

    @property
    def samples(self) -> Any:
        """Donor of each cell; None: not known."""
        return self.labels(self.setup.get("sample_key"))

    @property
    def numbers(self) -> Any:
        """Shared factor of each cell, ``(n_cells, n_numbers)``, where it is of numbers."""
        if not self.shared_numbers:
            return None
        parts = [
            np.asarray(self.adata.obsm[name] if name in self.adata.obsm else self.adata.obs[name])
            for name in self.shared_numbers
        ]
        return np.column_stack(parts).astype(np.float64)

    @property
    def is_counts(self) -> bool:
        """Whether values are counts."""
        return bool(likelihood_class(self.likelihood).expects == "counts")

    @property
    def values(self) -> Floats:
        """Expression as it was given, ``(n_cells, n_genes)``."""
        return dense(self.adata.X)

    def features(self, values: Any = None) -> Floats:
        """Log-normalised counts, or other values as they are; None: of the audited cells."""
        x = self.values if values is None else dense(values)
        return log_normalise(x).astype(np.float32) if self.is_counts else x


def dense(values: Any) -> Floats:
    """Dense floats."""
    found = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return found.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Latents:
    """The one block of a method without a specific one, for scores of single latents."""

    codes: Any
    """``(n_cells, n_latent)``, of about unit variance where they carry information."""
    decode: Callable[[Any], Any]
    """Codes to values without noise."""
    informative: Any
    """``(n_latent,)``, true or false."""


@dataclass(frozen=True)
class Fit:
    """What a method gives; None where it has no answer."""

    invariant: Any
    """Codes that should not know the condition, ``(n_cells, n_latent)``."""
    seconds: float
    cpu_seconds: float = float("nan")
    specific: Any = None
    """Codes of what the condition does, ``(n_cells, n_specific)``."""
    decoded: Any = None
    """Features that the invariant codes alone decode to."""
    reconstructed: Any = None
    """Each cell as the method gives it back, in :meth:`World.features`."""
    errors: dict[str, float] = field(default_factory=dict)
    """Negative log-likelihood of each head, nats a cell."""
    swap: Callable[[NDArray[np.intp], NDArray[np.intp]], Any] | None = None
    """Values of cells with the invariant codes of the first and the specific codes of the second
    list of audited cells."""
    latents: Latents | None = None


Method = Callable[[World, int], Fit]
