"""Digits in two colours: what is written is content, its ink and paper are the condition."""

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits

from scdisent._errors import OptionError, one_of
from scdisent.datasets._read import color_pixels

Floats = NDArray[np.float64]
INKS = {"red": (0.85, 0.2, 0.2), "green": (0.2, 0.8, 0.3), "yellow": (0.85, 0.85, 0.2)}
PAPERS = {"black": (0.15, 0.15, 0.15), "blue": (0.15, 0.25, 0.8), "violet": (0.65, 0.15, 0.65)}
"""Red, green and blue in [0, 1]."""
SLANT, THICKNESS = 0.3, (0.3, 0.6)
EDGE = 0.08
"""Width of a stroke's edge, in units of the grey value."""
MARGIN = 0.1
"""Free space on each side of a digit, as a share of the side of the image."""
TEST_SHARE = 0.2


def two_color_digits(
    *, n_cells: int = 9_000, side: int = 32, jitter: float = 0.08, seed: int = 0
) -> AnnData:
    r"""Draw handwritten digits in one of three inks on one of three papers.

    .. math:: x_{cp} = k_c(u) + m_p \, (i_c(u) - k_c(u)), \qquad
              i(u) = \bar\imath(u) + \epsilon, \quad k(u) = \bar k(u) + \epsilon'

    for pixel p and colour channel c, with the stroke m in [0, 1], ink i and paper k under the
    condition u, both with a normal jitter of their own. What is written, its slant and its
    thickness do not depend on u.

    Parameters
    ----------
    n_cells
        Number of images, at least 9; conditions are equally likely.
    side
        Height and width in pixels, at least 12.
    jitter
        Standard deviation of the colours of an image around those of its condition.
    seed
        Of the generator: the same seed gives the same data.

    Returns
    -------
    AnnData ``(n_cells, 3 * side * side)`` in float32, values in [0, 1], pixels channel by channel.
    ``obs``: ``condition`` ("red on black", ...), ``ink``, ``paper``, ``digit``, ``slant``,
    ``thickness``, ``original`` (row of scikit-learn's data), ``split`` ("train", "test": the images
    of a fifth of the originals); ``uns["image_shape"]``; ``obsm["truth_stroke"]`` m,
    ``(n_cells, side * side)``; ``obsm["truth_jitter"]``, ``(n_cells, 6)``. The same images in other
    colours: :func:`recolored_digits`.

    Raises
    ------
    OptionError
        If an argument is outside its range.

    Notes
    -----
    Shapes are the 1,797 digits of 8 x 8 pixels that scikit-learn ships (test set of the UCI ML
    hand-written digits), slanted, thickened and enlarged. After the two-colour MNIST of Li et al.
    2025, whose recipe is not published.
    """
    if n_cells < 9 or side < 12 or not 0 <= jitter <= 0.1:
        msg = (
            f"n_cells={n_cells} must be at least 9, side={side} at least 12, jitter={jitter} "
            "between 0 and 0.1."
        )
        raise OptionError(msg)
    rng = np.random.default_rng(seed)
    digits = load_digits()
    source = rng.integers(0, len(digits.images), n_cells)
    is_test = rng.random(len(digits.images)) < TEST_SHARE
    obs = pd.DataFrame(
        {
            "ink": pd.Categorical(rng.choice(list(INKS), n_cells), categories=list(INKS)),
            "paper": pd.Categorical(rng.choice(list(PAPERS), n_cells), categories=list(PAPERS)),
            "digit": pd.Categorical(digits.target[source].astype(str)),
            "slant": rng.uniform(-SLANT, SLANT, n_cells),
            "thickness": rng.uniform(*THICKNESS, n_cells),
            "original": source,
            "split": pd.Categorical(np.where(is_test[source], "test", "train")),
        },
        index=pd.Index([f"image_{i}" for i in range(n_cells)]),
    )
    names = obs["ink"].astype(str) + " on " + obs["paper"].astype(str)
    obs.insert(0, "condition", pd.Categorical(names))
    shapes = {"slant": obs["slant"], "thickness": obs["thickness"]}
    stroke = _strokes(digits.images[source] / 16, side=side, **shapes)
    noise = jitter * rng.standard_normal((n_cells, 6)).clip(-2, 2)
    return AnnData(
        _painted(stroke, _colors(names.to_numpy()) + noise),
        obs=obs,
        var=color_pixels(side),
        obsm={"truth_stroke": stroke.astype(np.float32), "truth_jitter": noise},
        uns={"image_shape": np.array([3, side, side]), "truth": {"jitter": jitter, "seed": seed}},
    )


def recolored_digits(adata: AnnData, condition: str) -> NDArray[np.float32]:
    """Images of :func:`two_color_digits` in the colours of another condition, with their jitter.

    Parameters
    ----------
    adata
        From :func:`two_color_digits`; any subset.
    condition
        Such as "red on blue".

    Returns
    -------
    ``(n_cells, 3 * side * side)``: the exact counterfactual.
    """
    known = [f"{ink} on {paper}" for ink in INKS for paper in PAPERS]
    names = np.full(adata.n_obs, one_of(condition, known, "condition"))
    return _painted(adata.obsm["truth_stroke"], _colors(names) + adata.obsm["truth_jitter"])


def _colors(names: NDArray) -> Floats:
    """Ink and paper of each condition, ``(n_cells, 6)``."""
    pairs = [str(name).split(" on ") for name in names]
    return np.array([INKS[ink] + PAPERS[paper] for ink, paper in pairs])


def _painted(stroke: Floats, colors: Floats) -> NDArray[np.float32]:
    """Flat images, channel by channel, in [0, 1]."""
    colors = colors.clip(0, 1)
    ink, paper = colors[:, :3, None], colors[:, 3:, None]
    images = paper + stroke[:, None, :] * (ink - paper)  # (n_cells, 3, n_pixels)
    return images.reshape(len(images), -1).astype(np.float32)


def _strokes(grey: Floats, *, side: int, slant: pd.Series, thickness: pd.Series) -> Floats:
    """Small grey digits as large strokes, ``(n_cells, n_pixels)``."""
    small = grey.shape[1]
    step = small / (side * (1 - 2 * MARGIN))
    strokes = np.empty((len(grey), side * side))
    for image, shear, width, out in zip(grey, slant, thickness, strokes, strict=True):
        # rows and columns of the small image at each pixel of the large one, about the centres
        matrix = np.array([[step, 0.0], [step * shear, step]])
        offset = (small - 1) / 2 - matrix @ np.full(2, (side - 1) / 2)
        large = affine_transform(image, matrix, offset, output_shape=(side, side), order=3)
        out[:] = 1 / (1 + np.exp(-(large.ravel() - (1 - width)) / EDGE))
    return strokes
