"""The latent space of a model on some cells, as the scores without ground truth read it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from scdisent._errors import SetupError
from scdisent.effects import log_normalise
from scdisent.tl._embed import setup_keys
from scdisent.tl._foreign import readable

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class LatentSpace:
    """Codes of cells with all blocks side by side, and what decodes them."""

    cells: AnnData
    model: Any
    mean: Floats  # (n_cells, n_latent)
    variance: Floats  # (n_cells, n_latent)

    @property
    def blocks(self) -> list[str]:
        """Block of each latent."""
        sizes = self.model.module.n_latents
        return [name for name, size in sizes.items() for _ in range(size)]

    @property
    def names(self) -> list[str]:
        """``<block>_<number>`` of each latent."""
        sizes = self.model.module.n_latents
        return [f"{name}_{number}" for name, size in sizes.items() for number in range(size)]

    @property
    def genes(self) -> pd.Index:
        """Features of the decoder."""
        return pd.Index(self.model.get_var_names())

    @property
    def is_counts(self) -> bool:
        """Whether the decoder gives shares of a total."""
        return bool(self.model.module.expects == "counts")

    @property
    def information(self) -> Floats:
        r"""What each latent tells of a cell, in nats, ``(n_latent,)``.

        The mean divergence from N(0, 1). For the specific block, whose prior moves with the
        condition, and for models that learn the law of the content too, from a normal law with the
        mean and variance of the codes of all cells:
        :math:`\frac12 (\log \mathrm{Var}[z_k] - \mathbb{E} \log \sigma_k^2(x))`, no less than the
        mutual information of cell and code, whether about the condition or not.
        """
        total = self.mean.var(axis=0) + self.variance.mean(axis=0)
        log_noise = np.log(self.variance).mean(axis=0)
        from_normal = ((self.mean**2 + self.variance).mean(axis=0) - 1 - log_noise) / 2
        from_aggregate = (np.log(total) - log_noise) / 2
        moved = np.array(self.blocks) == "specific"
        if not getattr(self.model, "content_is_standard", True):
            moved[:] = True
        return np.where(moved, from_aggregate, from_normal)

    @property
    def decode(self) -> Callable[[Floats], Floats]:
        """Decoder on the scale of the scores.

        For counts the centred log share, ``log px - median``: a softmax couples genes, so that one
        gene that rises lowers the share of all others; their centred logs stay.
        """
        if not self.is_counts:
            return lambda codes: self.model.decode(codes)

        def centred_log(codes: Floats) -> Floats:
            logged = np.log(self.model.decode(codes) + 1e-12)
            centred: Floats = logged - np.median(logged, axis=1, keepdims=True)
            return centred

        return centred_log

    @property
    def expression(self) -> Any:
        """Data that a regression explains: log-normalised counts (sparse stays so) or values."""
        layer = self.model.registry_["setup_args"].get("layer")
        cells = self.cells[:, self.genes]
        x = cells.X if layer is None else cells.layers[layer]
        if not self.is_counts:
            return x.toarray() if sparse.issparse(x) else np.asarray(x)
        return log_normalise(sparse.csr_matrix(x))

    def column(self, name: str) -> Any:
        """Column of ``obs`` that was named at setup under ``name``; None without one."""
        key = setup_keys(self.model)[name]
        return self.cells.obs[key].astype(str).to_numpy() if key in self.cells.obs else None


def read_space(adata: AnnData, model: Any, *, max_cells: int, seed: int) -> LatentSpace:
    """Encode at most ``max_cells`` cells, drawn at random."""
    model = readable(model)
    cells = random_cells(adata, max_cells, seed=seed)
    representation = "full" if len(model.representations) > 1 else None
    mean, variance = model.get_latent_representation(
        cells, representation=representation, return_dist=True
    )
    return LatentSpace(cells, model, mean.astype(np.float64), variance.astype(np.float64))


def random_cells(adata: AnnData, max_cells: int, *, seed: int, spread_over: str = "") -> AnnData:
    """All cells, or ``max_cells`` of them in their order.

    ``spread_over``: column of which each level gets at least half of an even share.
    """
    if adata.n_obs <= max_cells:
        return adata
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    if spread_over in adata.obs:
        levels = adata.obs[spread_over].astype(str).iloc[order]
        turn = levels.groupby(levels, sort=False).cumcount().to_numpy()
        is_late = turn >= max_cells // (2 * levels.nunique())
        order = order[np.argsort(is_late, kind="stable")]
    return adata[np.sort(order[:max_cells])]


def spread_cells(space: LatentSpace, n_cells: int, *, seed: int) -> NDArray[np.intp]:
    """Positions of cells drawn evenly over condition, cell type and batch."""
    rng = np.random.default_rng(seed)
    columns = [space.column(name) for name in ("condition_key", "labels_key", "batch_key")]
    known = [column for column in columns if column is not None]
    order = rng.permutation(len(space.mean))
    if known:
        frame = pd.DataFrame(dict(enumerate(known))).iloc[order]
        # The first cell of every stratum, then the second of every stratum, and so on.
        turn = frame.groupby(list(frame.columns), observed=True).cumcount().to_numpy()
        order = order[np.argsort(turn, kind="stable")]
    return order[:n_cells]


def need_results(adata: AnnData, key: str, name: str, *, call: str) -> Any:
    """Stored result, or an error that says which function makes it."""
    found = adata.uns.get(key, {}).get(name)
    if found is None:
        msg = f"adata.uns[{key!r}] holds no {name!r}. Run {call} first."
        raise SetupError(msg)
    return found
