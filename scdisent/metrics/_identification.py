"""Was the planted mixture found: blocks, and which features each latent touches."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics._checks import Floats, as_codes, one_thread
from scdisent.metrics._supervised import cross_correlation

MAX_CELLS = 2_000
"""Kernel matrices grow with the square of the cells."""
GRID = {"alpha": [1e-3, 1e-2, 1e-1, 1.0], "gamma": [0.01, 0.1, 1.0]}


def block_r2(codes: ArrayLike, factors: ArrayLike, *, seed: int = 0) -> float:
    r"""Share of the variance of some factors that a block of codes explains, by any smooth map.

    .. math:: R^2 = 1 - \frac{\sum_i \lVert y_i - \hat f(z_i) \rVert^2}
              {\sum_i \lVert y_i - \bar y \rVert^2}

    of standardised factors, with a kernel ridge regression (RBF; alpha and gamma by three folds)
    fitted on one half of the cells and scored on the other. Of the changing latents from the
    specific block it says whether the subspace was found; from the invariant block it is the leak,
    which should be near 0.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``: a whole block.
    factors
        ``(n_cells, n_factors)``: the true latents of a block.
    seed
        Of the halves, and of the 2,000 cells that are drawn from more.

    Returns
    -------
    At most 1; about 0, or slightly below, if the block knows nothing.

    Raises
    ------
    InputDataError
        If arrays do not match or hold fewer than 20 cells.
    """
    z, y = as_codes(codes), as_codes(factors)
    if len(z) != len(y) or len(z) < 20:
        msg = f"codes and factors need the same cells, 20 at least; found {len(z)} and {len(y)}."
        raise InputDataError(msg)
    order = np.random.default_rng(seed).permutation(len(z))[:MAX_CELLS]
    first, second = np.array_split(order, 2)
    scale_z, scale_y = StandardScaler().fit(z[first]), StandardScaler().fit(y[first])
    grid = {"alpha": GRID["alpha"], "gamma": [gamma / z.shape[1] for gamma in GRID["gamma"]]}
    with one_thread():
        model = GridSearchCV(KernelRidge(kernel="rbf"), grid, cv=3)
        model.fit(scale_z.transform(z[first]), scale_y.transform(y[first]))
        predicted = model.predict(scale_z.transform(z[second]))
    truth = scale_y.transform(y[second])
    left = ((truth - predicted) ** 2).sum()
    return float(1 - left / ((truth - truth.mean(axis=0)) ** 2).sum())


def support_f1(
    association: ArrayLike,
    parents: ArrayLike,
    *,
    codes: ArrayLike,
    factors: ArrayLike,
    threshold: float = 0.1,
) -> float:
    """F1 of the features that each latent touches against the planted parents.

    An entry counts if it is at least ``threshold`` times the largest of its feature. Latents are
    matched to factors by the largest total absolute correlation; latents without a factor and
    factors without a latent count with all of their entries.

    Parameters
    ----------
    association
        ``(n_latent, n_features)``, not negative: mean absolute Jacobian times the SD of the latent,
        as of ``CGVAE.get_programmes`` transposed.
    parents
        ``(n_factors, n_features)``, true or false.
    codes, factors
        ``(n_cells, n_latent)`` and ``(n_cells, n_factors)``, for the matching.
    threshold
        Share of a feature's largest entry.

    Returns
    -------
    In ``[0, 1]``.

    Raises
    ------
    InputDataError
        If arrays do not match or the association is negative.
    OptionError
        If the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        msg = f"threshold={threshold} must lie in (0, 1]."
        raise OptionError(msg)
    found, truth = np.asarray(association, dtype=np.float64), np.asarray(parents, dtype=bool)
    z, y = as_codes(codes), as_codes(factors)
    fits = found.shape == (z.shape[1], truth.shape[1]) and truth.shape[0] == y.shape[1]
    if found.ndim != 2 or not fits or not (found >= 0).all():
        msg = (
            f"association must be ({z.shape[1]}, n_features) and not negative, parents "
            f"({y.shape[1]}, n_features); found {found.shape} and {truth.shape}."
        )
        raise InputDataError(msg)
    touched = found >= threshold * np.maximum(found.max(axis=0), 1e-300)
    latent, factor = linear_sum_assignment(
        np.abs(cross_correlation(z, y, method="pearson")), maximize=True
    )
    hits = float((touched[latent] & truth[factor]).sum())
    n_links = int(touched.sum() + truth.sum())
    return 2 * hits / n_links if n_links else 0.0


def fid_small(real: ArrayLike, generated: ArrayLike) -> float:
    r"""Fréchet distance of two sets of feature vectors, as Gaussians.

    .. math:: \lVert \mu - \mu' \rVert^2
              + \operatorname{tr}\big(C + C' - 2 (C C')^{1/2}\big)

    "Small": the features are those of whatever network the caller trained, not Inception's, so
    values compare only within one set of features.

    Parameters
    ----------
    real, generated
        ``(n, n_features)`` and ``(m, n_features)``; more rows than features.

    Returns
    -------
    At least 0; 0 for equal means and covariances. Falls with n for the same law.

    Notes
    -----
    Heusel et al. 2017 (arXiv 1706.08500), with other features.
    """
    one, other = as_codes(real), as_codes(generated)
    if one.shape[1] != other.shape[1] or min(len(one), len(other)) < 2:
        msg = f"features must match and have two rows each: {one.shape} and {other.shape}."
        raise InputDataError(msg)
    with one_thread():
        first, second = (np.atleast_2d(np.cov(part, rowvar=False)) for part in (one, other))
        root = _square_root(first)
        # tr (C C')^(1/2) is that of the symmetric C^(1/2) C' C^(1/2)
        shared = np.linalg.eigvalsh(root @ second @ root).clip(min=0)
    gap = ((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum()
    value = gap + np.trace(first) + np.trace(second) - 2 * np.sqrt(shared).sum()
    return float(max(value, 0.0))


def dipd_small(features: ArrayLike, translated: ArrayLike) -> float:
    r"""Domain-invariant perceptual distance: how far translation moved the content of images.

    .. math:: \frac1n \sum_i \frac{1}{\sqrt{C}} \lVert \mathrm{IN}(h_i) - \mathrm{IN}(h'_i) \rVert

    over maps of features h with C channels, each standardised over its places (instance norm),
    which takes out what a whole image has in common, such as its colours. "Small": the features are
    those of whatever network the caller trained, not VGG's.

    Parameters
    ----------
    features, translated
        ``(n, n_channels, n_places)``, row by row the image and its translation.

    Returns
    -------
    At least 0, lower is better; 0 if maps agree up to scale and shift of each channel.

    Notes
    -----
    Liu et al. 2019 (FUNIT, arXiv 1905.01723) on VGG features, after Huang et al. 2018.
    """
    one, other = (np.asarray(part, dtype=np.float64) for part in (features, translated))
    if one.shape != other.shape or one.ndim != 3:
        msg = f"features must have one shape (n, n_channels, n_places): {one.shape}, {other.shape}."
        raise InputDataError(msg)
    gap = _instance_normed(one) - _instance_normed(other)
    return float(np.sqrt((gap**2).mean(axis=2).sum(axis=1) / one.shape[1]).mean())


def _instance_normed(maps: Floats) -> Floats:
    centred = maps - maps.mean(axis=2, keepdims=True)
    spread = centred.std(axis=2, keepdims=True)
    normed: Floats = centred / np.where(spread > 1e-8, spread, 1.0)
    return normed


def _square_root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root
