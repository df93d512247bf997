"""Tables of planted linear factors: blocks of features, one factor a block."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scdisent._errors import OptionError, one_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Recipe:
    """Sizes of the blocks and strength of the factor behind each, both ``(n_factors,)``."""

    blocks: tuple[int, ...]
    strengths: tuple[float, ...]


RECIPES = {
    "fa15": _Recipe((6, 5, 4), (0.95, 0.85, 0.70)),
    "fa24": _Recipe((8, 7, 5, 4), (0.95, 0.85, 0.75, 0.65)),
    "fa100": _Recipe(
        (16, 15, 13, 12, 11, 9, 8, 7, 5, 4),
        (0.95, 0.90, 0.85, 0.80, 0.75, 0.70, 0.65, 0.60, 0.55, 0.50),
    ),
}
"""Ours. Strengths differ, because factors of equal strength can be rotated into one another."""


def simulate_factors(
    kind: Literal["fa15", "fa24", "fa100"] = "fa15",
    *,
    n_cells: int = 4000,
    noise: float = 0.02,
    distribution: Literal["normal", "uniform"] = "normal",
    cross_loading: float = 0.0,
    seed: int = 0,
) -> AnnData:
    r"""Simulate a table of features, each driven by one of a few hidden factors.

    .. math::

        x = f \Lambda + \sigma \varepsilon, \qquad
        \Lambda_{kj} = \pm s_k u_j \ \text{for features } j \text{ of block } k,
        \quad u_j \sim U(0.9, 1)

    with independent factors :math:`f_k` of mean 0 and variance 1, their strengths :math:`s_k`,
    random signs, and standard normal :math:`\varepsilon`. Blocks are 6/5/4 features (``fa15``),
    8/7/5/4 (``fa24``) or ten blocks of 16 down to 4 (``fa100``).

    Parameters
    ----------
    kind
        Number of features and blocks.
    n_cells
        Number of rows, at least 2.
    noise
        Standard deviation :math:`\sigma` of the noise, in units of a factor's standard deviation.
        0.02 is nearly noise-free; 0.3 makes it hard.
    distribution
        Of the factors. With ``"normal"`` factors only their different strengths tell the axes
        from a rotation of them; ``"uniform"`` ones, on :math:`[-\sqrt 3, \sqrt 3]`, are
        identified by their shape as well.
    cross_loading
        c in [0, 1): each feature also loads on one other factor, drawn at random, with c times
        the size of its main loading and a random sign. The main loading keeps its value.
    seed
        Of the generator: the same seed gives the same data.

    Returns
    -------
    AnnData ``(n_cells, n_features)``, X real-valued in float32; ``var["block"]``, the factor that
    a feature loads on most, from 0; ``obsm["truth_factors"]``, which follows subsets of cells;
    ``uns["truth"]``: ``factors`` ``(n_cells, n_factors)``, ``loadings``
    ``(n_factors, n_features)``, ``blocks`` ``(n_features,)``, ``strengths`` ``(n_factors,)``,
    ``noise``, ``cross_loading``, ``distribution``, ``seed``.

    Raises
    ------
    OptionError
        If the kind or distribution is not known, or a number is outside its range.

    Notes
    -----
    Stands in for the tables FA15, FA24 and FA100 of arXiv 2603.11242. Their recipes are not known
    to us: blocks, strengths, noise and cross-loadings here are **ours**, so results on them can
    not be compared with the numbers of the paper.
    """
    recipe = RECIPES[one_of(kind, RECIPES, "kind")]
    one_of(distribution, ("normal", "uniform"), "distribution")
    _check_numbers(n_cells, noise=noise, cross_loading=cross_loading)
    rng = np.random.default_rng(seed)
    blocks = np.repeat(np.arange(len(recipe.blocks)), recipe.blocks)  # (n_features,)
    loadings = _loadings(recipe, blocks=blocks, cross_loading=cross_loading, rng=rng)
    factors = _draw(distribution, size=(n_cells, len(recipe.blocks)), rng=rng)
    values = factors @ loadings + noise * rng.standard_normal((n_cells, len(blocks)))
    adata = AnnData(
        values.astype(np.float32),
        obs=pd.DataFrame(index=pd.Index([f"cell_{i}" for i in range(n_cells)])),
        var=pd.DataFrame(
            {"block": pd.Categorical(blocks)},
            index=pd.Index([f"x_{j + 1}" for j in range(len(blocks))]),
        ),
        obsm={"truth_factors": factors},
    )
    adata.uns["truth"] = {
        "factors": factors,
        "loadings": loadings,
        "blocks": blocks,
        "strengths": np.array(recipe.strengths),
        "noise": noise,
        "cross_loading": cross_loading,
        "distribution": distribution,
        "seed": seed,
    }
    return adata


def _loadings(
    recipe: _Recipe, *, blocks: NDArray[np.intp], cross_loading: float, rng: np.random.Generator
) -> Floats:
    """One main loading for each feature and, if asked, a smaller one on another factor."""
    n_features, n_factors = len(blocks), len(recipe.blocks)
    size = np.array(recipe.strengths)[blocks] * rng.uniform(0.9, 1, n_features)
    signs = rng.choice([-1.0, 1.0], size=(2, n_features))
    other = (blocks + rng.integers(1, n_factors, n_features)) % n_factors
    loadings = np.zeros((n_factors, n_features))
    loadings[blocks, np.arange(n_features)] = signs[0] * size
    loadings[other, np.arange(n_features)] = cross_loading * signs[1] * size
    return loadings


def _draw(distribution: str, *, size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Independent factors of mean 0 and variance 1."""
    if distribution == "normal":
        return rng.standard_normal(size)
    return rng.uniform(-np.sqrt(3), np.sqrt(3), size)


def _check_numbers(n_cells: int, *, noise: float, cross_loading: float) -> None:
    if n_cells < 2:
        msg = f"n_cells must be at least 2, found {n_cells!r}."
        raise OptionError(msg)
    if not 0 <= noise < float("inf"):
        msg = f"noise is a standard deviation, at least 0 and finite, found {noise!r}."
        raise OptionError(msg)
    if not 0 <= cross_loading < 1:
        msg = (
            f"cross_loading must lie in [0, 1), found {cross_loading!r}: from 1 on, a feature "
            "would belong to another block."
        )
        raise OptionError(msg)
