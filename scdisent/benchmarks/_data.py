"""Data of the suites: made by name, cut down to what a run reads, known again by content."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse
from sklearn.preprocessing import StandardScaler

from scdisent import datasets
from scdisent._errors import OptionError, SetupError
from scdisent.benchmarks._suite import Data
from scdisent.benchmarks._world import World


def kang_2000_genes(*, n_genes: int = 2_000, keep: Sequence[str] = ()) -> ad.AnnData:
    """Kang 2018, 6k subset: types with at least 30 cells in both conditions, 2,000 genes.

    Genes to ``keep`` stay even if they are not among the most variable ones.
    """
    adata = datasets.load("kang2018_6k")
    adata = adata[adata.obs["cell_type"] != "Megakaryocytes"].copy()
    return most_variable(adata, n_genes, keep=keep)


def most_variable(adata: ad.AnnData, n_genes: int, *, keep: Sequence[str] = ()) -> ad.AnnData:
    """Most variable genes among those in ten cells, by log-normalised counts."""
    adata = adata.copy()
    sc.pp.filter_genes(adata, min_cells=10)
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=n_genes, flavor="seurat")
    return adata[:, logged.var["highly_variable"] | adata.var_names.isin(keep)].copy()


def swiss_roll(**options: Any) -> ad.AnnData:
    """Swiss roll with the true angle and width in ``obs``: the angle is what halves share."""
    adata = datasets.noisy_swiss_roll(**options)
    adata.obs["angle"], adata.obs["width"] = np.asarray(adata.obsm["truth_factors"]).T
    return adata


def colored_mnist(**options: Any) -> ad.AnnData:
    """Noisy coloured digits from MNIST."""
    return datasets.noisy_colored_digits(datasets.load("mnist"), **options)


LOADERS: dict[str, Callable[..., ad.AnnData]] = {
    "load": datasets.load,
    "kang_2000_genes": kang_2000_genes,
    "noisy_colored_digits": datasets.noisy_colored_digits,
    "noisy_colored_mnist": colored_mnist,
    "noisy_swiss_roll": swiss_roll,
    "simulate_conditions": datasets.simulate_conditions,
    "simulate_domains": datasets.simulate_domains,
    "simulate_factors": datasets.simulate_factors,
    "toy_sum": datasets.toy_sum,
    "two_color_digits": datasets.two_color_digits,
}
"""What ``make`` of a data set may name; ``load`` takes the name of a data card."""
PASSED_ON: dict[str, Callable[..., Any]] = {
    "noisy_colored_mnist": partial(datasets.noisy_colored_digits, None),
    "noisy_swiss_roll": datasets.noisy_swiss_roll,
}
"""What takes the options of those that only pass them on."""


def check_options(make: str, options: Mapping[str, Any], where: str) -> None:
    """Refuse options that the maker of a data set does not take, or lacks.

    Raises
    ------
    OptionError
        If one is not known, or one that is needed is missing.
    """
    found = inspect.signature(PASSED_ON.get(make, LOADERS[make]))
    try:
        found.bind(**options)
    except TypeError as error:
        msg = f"{where}: {make!r}: {error}. Known: {', '.join(sorted(found.parameters))}."
        raise OptionError(msg) from error


def make_world(data: Data) -> World:
    """Make a data set of a suite; nothing stays in it that the description does not name."""
    adata = LOADERS[data.make](**data.options)
    if data.n_cells is not None and data.n_cells < adata.n_obs:
        chosen = np.random.default_rng(0).choice(adata.n_obs, data.n_cells, replace=False)
        adata = adata[np.sort(chosen)].copy()
    if data.n_genes is not None:
        adata = most_variable(adata, data.n_genes)
    if data.standardise:
        adata = _standardised(adata)
    fitted = _chosen(adata, data)
    adata = _only_used(adata, data)
    held_out = fitted is not None
    return World(
        data.name,
        adata[~fitted].copy() if held_out else adata,
        train_on=adata[fitted].copy() if held_out else None,
        setup={key: value for key, value in data.setup.items() if key != "layer"},
        shared=data.shared,
        shared_numbers=data.shared_numbers,
        likelihood=data.likelihood,
    )


def _standardised(adata: ad.AnnData) -> ad.AnnData:
    """Features without missing values, with mean 0 and variance 1."""
    adata = adata[:, np.isfinite(np.asarray(adata.X)).all(axis=0)].copy()
    adata.X = StandardScaler().fit_transform(adata.X).astype(np.float32)
    return adata


def _chosen(adata: ad.AnnData, data: Data) -> Any:
    """Mask of the cells to fit on; None: all, which are audited too."""
    if not data.fit_on:
        return None
    mask = np.ones(adata.n_obs, dtype=bool)
    for column, levels in data.fit_on.items():
        _need(adata, [column], data)
        mask &= adata.obs[column].astype(str).isin(levels).to_numpy()
    if mask.all() or not mask.any():
        msg = f"fit_on of data {data.name!r} chooses {mask.sum()} of {len(mask)} cells: keep some."
        raise OptionError(msg)
    return mask


def _only_used(adata: ad.AnnData, data: Data) -> ad.AnnData:
    """Values, and the columns and matrices that are named."""
    keys = {name: value for name, value in data.setup.items() if name.endswith("_key") and value}
    columns = [*keys.values(), *([data.shared] if data.shared else [])]
    matrices = [name for name in data.shared_numbers if name in adata.obsm]
    columns += [name for name in data.shared_numbers if name not in matrices]
    _need(adata, columns, data)
    layer = data.setup.get("layer")
    used = ad.AnnData(
        adata.X if layer is None else adata.layers[layer],  # the run finds it in X
        obs=adata.obs[list(dict.fromkeys(columns))].copy(),
        var=pd.DataFrame(index=adata.var_names),
        obsm={name: np.asarray(adata.obsm[name]) for name in matrices},
    )
    if "image_shape" in adata.uns:
        used.uns["image_shape"] = np.asarray(adata.uns["image_shape"])
    return used


def _need(adata: ad.AnnData, columns: Sequence[str], data: Data) -> None:
    missing = sorted(set(columns) - set(adata.obs))
    if missing:
        msg = (
            f"data {data.name!r} of the suite names {missing}, which obs of {data.make!r} does not "
            f"have. Found: {sorted(adata.obs.columns)}; obsm: {sorted(adata.obsm)}."
        )
        raise SetupError(msg)


def content_hash(world: World) -> str:
    """Hash of all values and labels of a world; the order of columns counts, names do not."""
    digest = hashlib.sha256()
    for adata in (world.adata, world.train_on):
        if adata is None:
            continue
        for array in _arrays(adata):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        for column in adata.obs:
            hashed = pd.util.hash_pandas_object(_plain(adata.obs[column]), index=False)
            digest.update(hashed.to_numpy().tobytes())
    return digest.hexdigest()


def _arrays(adata: ad.AnnData) -> list[np.ndarray]:
    x = adata.X
    if sparse.issparse(x):
        rows = sparse.csr_matrix(x, copy=True)
        rows.sum_duplicates()
        arrays = [np.array(rows.shape), rows.data, rows.indices.astype(np.int64)]
        arrays.append(rows.indptr.astype(np.int64))
    else:
        arrays = [np.asarray(x)]
    others = [np.asarray(adata.obsm[name]) for name in sorted(adata.obsm)]
    return [*arrays, *others, *(np.asarray(adata.uns[name]) for name in sorted(adata.uns))]


def _plain(column: pd.Series) -> pd.Series:
    """Numbers as they are, all else as text."""
    return column if pd.api.types.is_numeric_dtype(column) else column.astype(str)
