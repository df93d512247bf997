"""Which features each latent moves, read off a decoder: no ground truth, no labels.

"Feature variance heterogeneity via latent traversal" (FVH-LT) is named by Lang and Liu 2026
(arXiv 2603.11242). The grid, the base cells and the normalisation were not available to us; what
is written here is a reconstruction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors

from scdisent._errors import InputDataError, OptionError, one_of
from scdisent.metrics._checks import Floats, as_codes

Decode = Callable[[Floats], ArrayLike]
Grid = Literal["gauss_hermite", "uniform", "quantile", "jacobian"]
Bools = NDArray[np.bool_]

STEP = 0.01
"""Half the distance of the two points of a difference quotient, in latent units."""

OFF_SHARE = 0.05
"""Share by which codes lie beyond the 95 % quantile of their own neighbour distances: a traversal
that leaves them with no more weight than this leaves them no more often than cells do."""

ACTIVE_VARIANCE = 0.01
"""Burda et al. 2016 call a latent active if the variance of its posterior mean is larger."""

ROUNDING = 1e-12
"""Sums below this share of the largest value are zero."""

GAP_WINDOW = (1e-3, 1.0)
"""Mean KL in nats below which a latent is surely empty and above which it surely is not."""


@dataclass(frozen=True, repr=False, eq=False)
class FeatureVariance:
    """Result of :func:`fvh_lt`; rows are latents, columns are features of the decoder."""

    values: Floats
    """``(n_latent, n_features)``: variance along the traversal over ``total_variance``; NaN for
    ``floored`` features."""
    raw: Floats
    """``(n_latent, n_features)``: the same, not divided; squared units of the decoder."""
    signed: Floats
    """``(n_latent, n_features)``: decoded at the high end of the grid minus at its low end, mean
    over base cells; units of the decoder."""
    values_on_manifold: Floats
    """As ``values``, from the base cells whose traversal stays among the codes; NaN rows where
    there are none."""
    off_manifold: Floats
    """``(n_latent,)``: share of traversed points, by grid weight, off the codes; NaN if unknown."""
    n_on_manifold: NDArray[np.intp]
    """``(n_latent,)``: base cells behind ``values_on_manifold``."""
    total_variance: Floats
    """``(n_features,)``: the denominator of ``values``."""
    decoded_variance: Floats
    """``(n_features,)``: variance of the decoded base cells, the other denominator."""
    floored: Bools
    """``(n_features,)``: features whose denominator is below the floor."""
    code_variance: Floats
    """``(n_latent,)``: variance of the codes."""
    norm: Literal["data", "decoded"]

    @property
    def n_floored(self) -> int:
        """How many features could not be normalised."""
        return int(self.floored.sum())

    @property
    def feature_share(self) -> Floats:
        """Share of each latent in a feature: columns sum to 1, or are 0 if no latent moves them."""
        return _share(self.values, axis=0)

    @property
    def latent_share(self) -> Floats:
        """Share of each feature in a latent: rows sum to 1, to read what one latent does.

        Not for choosing latents: it lifts empty rows to full contrast.
        """
        return _share(self.values, axis=1)

    @property
    def scaled(self) -> Floats:
        """Values over their maximum, in ``[0, 1]``, for drawing."""
        return _share(self.values, axis=None)

    @property
    def row_maximum(self) -> Floats:
        """Largest value of each latent, ``(n_latent,)``; NaN features are skipped."""
        return np.where(self.floored, 0, self.values).max(axis=1)

    @property
    def active(self) -> Bools:
        """Active units of Burda et al. 2016: variance of the codes above 0.01, ``(n_latent,)``."""
        return self.code_variance > ACTIVE_VARIANCE

    def __repr__(self) -> str:
        n_latent, n_features = self.values.shape
        return (
            f"FeatureVariance(n_latent={n_latent}, n_features={n_features}, norm={self.norm!r}, "
            f"n_floored={self.n_floored}, off_manifold up to {self.off_manifold.max():.2f})"
        )


class InformativeLatents(NamedTuple):
    """Result of :func:`informative_latents`."""

    mask: Bools
    """``(n_latent,)``: mean KL above the cut."""
    cut: float
    """In nats."""


class _Traversal(NamedTuple):
    """Where one coordinate is put, with which weights."""

    nodes: Floats  # (n_latent, n_grid)
    weights: Floats  # (n_grid,), sum 1
    local: bool
    """Whether nodes are steps away from the cell, and not places."""

    def points(self, codes: Floats, *, latent: int) -> Floats:
        """Each cell ``n_grid`` times, one coordinate replaced: ``(n_cells * n_grid, n_latent)``."""
        start = codes[:, [latent]] if self.local else np.zeros((len(codes), 1))
        moved = np.repeat(codes, len(self.weights), axis=0)
        moved[:, latent] = (start + self.nodes[latent]).ravel()
        return moved


def fvh_lt(
    decode: Decode,
    base: ArrayLike,
    *,
    grid: Grid = "gauss_hermite",
    n_grid: int = 11,
    total_variance: ArrayLike | None = None,
    codes: ArrayLike | None = None,
    min_variance: float = 1e-8,
    n_neighbors: int = 15,
    chunk_size: int = 32,
) -> FeatureVariance:
    r"""Variance that each latent gives to each decoded feature when moved through its range.

    .. math:: V_{kj} = \frac1{n} \sum_i \operatorname{Var}_w\, f_j(z^{(i)} \text{ with }
              z^{(i)}_k = t_g), \qquad
              \operatorname{Var}_w(y) = \sum_g w_g \Bigl(y_g - \sum_h w_h y_h\Bigr)^2, \qquad
              \mathrm{FVH}_{kj} = V_{kj} / \operatorname{Var}_j

    With Gauss-Hermite weights and base cells from the aggregate posterior, ``raw`` is the numerator
    of the Sobol total effect (Jansen 1999) of latent k on feature j under a standard normal
    latent. Additive decoders of independent latents have column sums
    :math:`\operatorname{Var} f_j / \operatorname{Var}_j`; interactions count once for each latent
    that takes part. For affine decoders all grids give the same ratios between latents.

    Parameters
    ----------
    decode
        Maps ``(n, n_latent)`` to ``(n, n_features)``, both finite arrays, row by row. For counts
        the centred log of the expected proportions is the scale that softmax does not couple.
    base
        Codes of the base cells, ``(n_base, n_latent)``: posterior means or samples of some
        hundred cells drawn evenly over batches and labels.
    grid
        Places of the moved latent, the same for each base cell: ``"gauss_hermite"`` (nodes and
        weights of a standard normal), ``"uniform"`` (-3 to 3), ``"quantile"`` (1 to 99 % of
        ``codes``; for latents of another scale). ``"jacobian"`` is the local limit instead, the
        mean squared slope by difference quotients: two points, wrong where the decoder saturates.
    n_grid
        Places in the grid, at least 2.
    total_variance
        Variance of each feature in the data, on the scale of ``decode``: ``(n_features,)``.
        Default: the variance of the decoded base cells, which counting noise does not inflate.
    codes
        All codes, ``(n_cells, n_latent)``: what is "on the manifold". Default: ``base``. Collapsed
        latents leave posterior means at once; pass posterior samples to judge them.
    min_variance
        Features whose denominator is below are NaN and listed in ``floored``, never divided.
    n_neighbors
        A point is off the manifold if its distance to that many-th nearest code exceeds the 95 %
        quantile of this distance among the codes. Unknown (NaN) with no more codes than that.
    chunk_size
        Base cells decoded at once: memory is ``chunk_size * n_grid * n_features`` numbers.

    Returns
    -------
    :class:`FeatureVariance`. A base cell counts as on the manifold of a latent if at most 5 % of
    the grid's weight is off: for equal weights and up to 19 places, no point at all.

    Raises
    ------
    InputDataError
        If arrays do not match, or the decoder returns other shapes or numbers that are not finite.
    OptionError
        If the grid is not known, or a number is too small.

    Notes
    -----
    Name and purpose: Lang and Liu 2026 (arXiv 2603.11242). Formula, grids, denominators, the
    floor and the off-manifold mark are ours.
    """
    points = as_codes(base)
    aggregate = points if codes is None else as_codes(codes)
    _check(points, aggregate, chunk_size=chunk_size, n_neighbors=n_neighbors)
    traversal = _traversal(grid, n_grid=n_grid, codes=aggregate)
    decoded_variance = _decoded_variance(decode, points, n_rows=chunk_size * len(traversal.weights))
    denominator = _denominator(total_variance, default=decoded_variance)
    off = _off_manifold(points, aggregate, traversal=traversal, n_neighbors=n_neighbors)
    kept = off <= OFF_SHARE  # NaN, where not known, is not kept
    sums = np.stack(
        [
            _sums(decode, points, latent=k, kept=kept, traversal=traversal, chunk_size=chunk_size)
            for k in range(points.shape[1])
        ],
        axis=1,
    )  # (3, n_latent, n_features)
    n_kept = kept.sum(axis=0)
    floored = denominator < min_variance
    raw, signed = sums[0] / len(points), sums[2] / len(points)
    raw_on = np.where(n_kept[:, None] > 0, sums[1] / np.maximum(n_kept, 1)[:, None], np.nan)
    safe = np.where(floored, np.nan, denominator)
    return FeatureVariance(
        values=raw / safe,
        raw=raw,
        signed=signed,
        values_on_manifold=raw_on / safe,
        off_manifold=off.mean(axis=0),
        n_on_manifold=n_kept,
        total_variance=denominator,
        decoded_variance=decoded_variance,
        floored=floored,
        code_variance=aggregate.var(axis=0),
        norm="decoded" if total_variance is None else "data",
    )


def informative_latents(
    kl: ArrayLike, *, threshold: float = 0.01, method: Literal["threshold", "gap"] = "threshold"
) -> InformativeLatents:
    r"""Which latents carry information, by their mean divergence from the prior.

    .. math:: \overline{KL}_k = \frac1n \sum_i KL(q(z_k \mid x_i) \,\Vert\, p(z_k)) > \tau

    ``"gap"`` puts the cut in the middle of the widest empty stretch of
    :math:`\log \overline{KL}` between 0.001 and 1 nat; both ends of this window count as taken, so
    that all latents are kept if all lie above it and none if all lie below.

    Parameters
    ----------
    kl
        Mean KL of each latent in nats, ``(n_latent,)``.
    threshold
        The cut of ``method="threshold"``, in nats.
    method
        ``"threshold"`` or ``"gap"``.

    Returns
    -------
    :class:`InformativeLatents`: the mask and the cut in use.

    Raises
    ------
    InputDataError
        If a mean KL is negative or not finite.

    Notes
    -----
    0.01 nat is the filter of UDR (Duan et al. 2020, as coded in disentanglement_lib); Lang and Liu
    2026 show a gap (about 8 against 0.003) but their cut is not known. The gap rule is ours.
    """
    one_of(method, ("threshold", "gap"), "method")
    values = np.asarray(kl, dtype=np.float64)
    if values.ndim != 1 or not (values >= -1e-6).all() or np.isinf(values).any():
        msg = (
            f"kl must hold one finite mean KL >= 0 for each latent, but has shape {values.shape} "
            f"and values {values}. Average KL over cells and train again if it is not finite."
        )
        raise InputDataError(msg)
    cut = threshold
    if method == "gap":
        logs = np.sort(np.log([*np.clip(values, *GAP_WINDOW), *GAP_WINDOW]))
        widest = int(np.diff(logs).argmax())
        cut = float(np.exp(logs[widest : widest + 2].mean()))
    return InformativeLatents(values > cut, cut)


def _traversal(grid: Grid, *, n_grid: int, codes: Floats) -> _Traversal:
    """Nodes and weights of a grid for each latent."""
    one_of(grid, get_args(Grid), "grid")
    if n_grid < 2:
        msg = f"n_grid={n_grid} shows no variance. Use at least 2, usually 11."
        raise OptionError(msg)
    n_latent = codes.shape[1]
    if grid == "quantile":
        nodes = np.quantile(codes, np.linspace(0.01, 0.99, n_grid), axis=0).T
        return _Traversal(nodes, np.full(n_grid, 1 / n_grid), local=False)
    if grid == "gauss_hermite":
        places, weights = hermegauss(n_grid)
    elif grid == "uniform":
        places, weights = np.linspace(-3, 3, n_grid), np.ones(n_grid)
    else:
        places, weights = np.array([-STEP, STEP]), np.ones(2)
    return _Traversal(
        np.tile(places, (n_latent, 1)), weights / weights.sum(), local=grid == "jacobian"
    )


def _sums(
    decode: Decode,
    codes: Floats,
    *,
    latent: int,
    kept: Bools,
    traversal: _Traversal,
    chunk_size: int,
) -> Floats:
    """Sums over base cells, ``(3, n_features)``: variance, variance of kept ones, high - low."""
    weights = traversal.weights
    # slopes per latent unit, so that the local grid stands for a standard normal latent too
    unit = STEP if traversal.local else 1.0
    total = np.zeros(())
    for start in range(0, len(codes), chunk_size):
        part = slice(start, start + chunk_size)
        flat = _decoded(decode, traversal.points(codes[part], latent=latent))
        y = flat.reshape(-1, len(weights), flat.shape[1])  # (chunk, n_grid, n_features)
        # einsum and node by node: tensordot and squares of the whole chunk would copy it
        mean = np.einsum("cgj,g->cj", y, weights)
        variance = sum(w * (y[:, g] - mean) ** 2 for g, w in enumerate(weights)) / unit**2
        change = (y[:, -1] - y[:, 0]).sum(axis=0) / unit
        total = total + np.stack([variance.sum(axis=0), kept[part, latent] @ variance, change])
    return total


def _decoded(decode: Decode, codes: Floats) -> Floats:
    """Decoded codes ``(n, n_features)``, or an error that says what is wrong with them."""
    values = np.asarray(decode(codes), dtype=np.float64)
    if values.ndim != 2 or len(values) != len(codes):
        msg = (
            f"decode must map {codes.shape} to ({len(codes)}, n_features), but returned "
            f"{values.shape}."
        )
        raise InputDataError(msg)
    bad = ~np.isfinite(values)
    if bad.any():
        msg = (
            f"decode returned NaN or infinity for {int(bad.any(axis=0).sum())} features. Decode to "
            "a scale that is finite everywhere, such as log1p of expected counts."
        )
        raise InputDataError(msg)
    return values


def _decoded_variance(decode: Decode, codes: Floats, *, n_rows: int) -> Floats:
    """Variance over base cells of each decoded feature, ``(n_features,)``, ``n_rows`` at a time."""
    n_seen, mean, squares = 0, np.zeros(()), np.zeros(())
    for start in range(0, len(codes), n_rows):
        y = _decoded(decode, codes[start : start + n_rows])
        # moments of two parts joined (Chan et al. 1979): sums of squares would cancel
        shift, n_new = y.mean(axis=0) - mean, n_seen + len(y)
        squares = squares + y.var(axis=0) * len(y) + shift**2 * (n_seen * len(y) / n_new)
        mean = mean + shift * (len(y) / n_new)
        n_seen = n_new
    return squares / n_seen


def _off_manifold(
    base: Floats, codes: Floats, *, traversal: _Traversal, n_neighbors: int
) -> Floats:
    """Weight of the traversed points of each base cell that lie off the codes, as ``base``."""
    if len(codes) <= n_neighbors:
        return np.full(base.shape, np.nan)
    neighbors = NearestNeighbors(n_neighbors=n_neighbors).fit(codes)
    limit = np.quantile(neighbors.kneighbors()[0][:, -1], 0.95)  # no code is its own neighbour
    off = np.empty(base.shape)
    for latent in range(base.shape[1]):
        far = neighbors.kneighbors(traversal.points(base, latent=latent))[0][:, -1] > limit
        off[:, latent] = far.reshape(len(base), -1) @ traversal.weights
    return off


def _denominator(total_variance: ArrayLike | None, *, default: Floats) -> Floats:
    """Variance to divide by, ``(n_features,)``."""
    if total_variance is None:
        return default
    values = np.asarray(total_variance, dtype=np.float64)
    if values.shape != default.shape or not (values >= 0).all():
        msg = (
            f"total_variance must hold one variance >= 0 for each of the {default.size} decoded "
            f"features, but has shape {values.shape} and {int((~(values >= 0)).sum())} that are "
            "negative or NaN."
        )
        raise InputDataError(msg)
    return values


def _check(base: Floats, codes: Floats, *, chunk_size: int, n_neighbors: int) -> None:
    if base.shape[1] != codes.shape[1]:
        msg = f"base has {base.shape[1]} latents, but codes has {codes.shape[1]}. Use one model."
        raise InputDataError(msg)
    for name, value in (("chunk_size", chunk_size), ("n_neighbors", n_neighbors)):
        if value < 1:
            msg = f"{name}={value}, but it must be at least 1."
            raise OptionError(msg)


def _share(values: Floats, *, axis: int | None) -> Floats:
    """Values over their sum along an axis (over the maximum for None); NaN stays NaN."""
    known = np.nan_to_num(values)
    total = known.max(keepdims=True) if axis is None else known.sum(axis=axis, keepdims=True)
    start = np.where(np.isnan(values), np.nan, 0.0)
    # rounding of the decoder is no variance, and dividing by it would make it look like some
    return np.divide(values, total, out=start, where=total > ROUNDING * known.max())
