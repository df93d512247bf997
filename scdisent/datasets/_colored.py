"""Digits in noisy colours: what is written is shared, the colour is the condition."""

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from scdisent._errors import InputDataError, OptionError
from scdisent.datasets._read import color_pixels

COLORS = {
    "red": (1.0, 0.2, 0.2),
    "green": (0.2, 1.0, 0.2),
    "blue": (0.3, 0.3, 1.0),
    "yellow": (1.0, 1.0, 0.2),
    "violet": (1.0, 0.2, 1.0),
}
"""Red, green and blue of a stroke, in the order in which conditions are added."""


def noisy_colored_digits(
    images: AnnData | None = None,
    *,
    n_cells: int = 5_000,
    n_colors: int = 3,
    noise: float = 0.2,
    side: int = 16,
    seed: int = 0,
) -> AnnData:
    r"""Draw handwritten digits in one colour each, on black, under pixel noise.

    .. math:: x_{cp} = \mathrm{clip}\big(m_p\, k_c(y) + \varepsilon_{cp},\, 0,\, 1\big)

    for pixel p and colour channel c, with the stroke m in [0, 1], the colour k of the condition y,
    drawn independently of the digit, and :math:`\varepsilon` of standard deviation ``noise``.

    Parameters
    ----------
    images
        Grey digits with ``uns["image_shape"]`` and ``obs["digit"]``, such as
        ``scdisent.datasets.load("mnist")``; None: the 1,797 of scikit-learn.
    n_cells
        Images to draw, with replacement.
    n_colors
        Conditions, 2 to 5; equally likely.
    noise
        Standard deviation of the pixel noise, in units of the full range.
    side
        Height and width in pixels; digits are enlarged or reduced.
    seed
        Of the generator: the same seed gives the same data.

    Returns
    -------
    AnnData ``(n_cells, 3 * side * side)`` in float32, values in [0, 1], pixels channel by channel.
    ``obs``: ``condition`` (the colour), ``digit``, ``original`` (row of the source);
    ``uns["image_shape"]``; ``obsm["truth_stroke"]``: m, ``(n_cells, side * side)``.

    Raises
    ------
    OptionError
        If an argument is outside its range.
    InputDataError
        If ``images`` are no grey digits.

    Notes
    -----
    After the noisy coloured MNIST of the DISCoVeR paper, whose recipe is not published: number of
    colours and noise are our choice.
    """
    if n_cells < 1 or not 2 <= n_colors <= len(COLORS) or noise < 0 or side < 4:
        msg = (
            f"n_cells={n_cells} must be at least 1, n_colors={n_colors} between 2 and "
            f"{len(COLORS)}, noise={noise} at least 0, side={side} at least 4."
        )
        raise OptionError(msg)
    grey, digit = _grey_digits(images)
    rng = np.random.default_rng(seed)
    original = rng.integers(0, len(grey), n_cells)
    names = list(COLORS)[:n_colors]
    color = rng.integers(0, n_colors, n_cells)
    stroke = _resized(grey[original], side=side)
    painted = stroke[:, None, :] * np.array([COLORS[name] for name in names])[color][:, :, None]
    values = painted + noise * rng.standard_normal(painted.shape)
    obs = pd.DataFrame(
        {
            "condition": pd.Categorical.from_codes(color, names),
            "digit": pd.Categorical(digit[original]),
            "original": original,
        },
        index=pd.Index([f"image_{i}" for i in range(n_cells)]),
    )
    return AnnData(
        values.clip(0, 1).reshape(n_cells, -1).astype(np.float32),
        obs=obs,
        var=color_pixels(side),
        obsm={"truth_stroke": stroke.astype(np.float32)},
        uns={"image_shape": np.array([3, side, side]), "truth": {"noise": noise, "seed": seed}},
    )


def _grey_digits(images: AnnData | None) -> tuple[NDArray[np.floating], NDArray[np.str_]]:
    """Images ``(n, height, width)`` in [0, 1], and what is written."""
    if images is None:
        digits = load_digits()
        return digits.images / 16, digits.target.astype(str)
    shape = [int(side) for side in images.uns.get("image_shape", ())]
    if len(shape) != 3 or shape[0] != 1 or "digit" not in images.obs:
        msg = (
            f"images have uns['image_shape']={shape} and the obs columns {[*images.obs.columns]}; "
            "expected grey images, [1, height, width], with a column 'digit'."
        )
        raise InputDataError(msg)
    return np.asarray(images.X).reshape(-1, *shape[1:]), images.obs["digit"].astype(str).to_numpy()


def _resized(grey: NDArray[np.floating], *, side: int) -> NDArray[np.floating]:
    """Strokes ``(n, side * side)``, interpolated between pixels."""
    factors = (1.0, side / grey.shape[1], side / grey.shape[2])
    return zoom(grey, factors, order=1).clip(0, 1).reshape(len(grey), -1)
