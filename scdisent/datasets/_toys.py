"""Small continuous worlds with known truth: the sum of two Gaussians, the swiss roll."""

import math

import numpy as np
import pandas as pd
from anndata import AnnData

from scdisent._errors import OptionError


def toy_sum(*, n_cells: int = 30_000, seed: int = 0) -> AnnData:
    r"""Sum of a shared and a condition-bearing Gaussian: the parametric toy of DISCoVeR.

    .. math:: x = z + w, \qquad z, w \sim N(0, 1), \qquad y = 1[w > 0]

    so that :math:`p(z \mid x) = N(x/2, 1/2)`, and :math:`p(w \mid x, y)` is the same density cut
    to the sign that :math:`y` says. The entropy of :math:`x`, :math:`\frac{1}{2}\ln(4 \pi e)`, is
    in nats.

    Parameters
    ----------
    n_cells
        Number of rows.
    seed
        Of the generator: the same seed gives the same data.

    Returns
    -------
    AnnData ``(n_cells, 1)``, X in float32; ``obs``: ``condition`` ("w<=0", "w>0"), ``split``
    (train or test, half each); ``obsm["truth_invariant"]`` z, ``obsm["truth_specific"]`` w, both
    ``(n_cells, 1)``; ``uns["truth"]``: ``entropy``, ``posterior_slope``, ``posterior_variance``.

    Raises
    ------
    OptionError
        If there are fewer than two rows.

    Notes
    -----
    Recipe: arXiv 2506.17182, appendix H.1.1.
    """
    _at_least(n_cells, 2, name="n_cells")
    rng = np.random.default_rng(seed)
    z, w = rng.standard_normal((2, n_cells))
    split = rng.permutation(np.arange(n_cells) % 2)
    adata = AnnData(
        (z + w).astype(np.float32)[:, None],
        obs=pd.DataFrame(
            {
                "condition": pd.Categorical(np.where(w > 0, "w>0", "w<=0")),
                "split": pd.Categorical(np.where(split == 0, "train", "test")),
            },
            index=_names("cell", n_cells),
        ),
        var=pd.DataFrame(index=pd.Index(["x"])),
        obsm={"truth_invariant": z[:, None], "truth_specific": w[:, None]},
    )
    adata.uns["truth"] = {
        "entropy": 0.5 * math.log(4 * math.pi * math.e),
        "posterior_slope": 0.5,
        "posterior_variance": 0.5,
        "seed": seed,
    }
    return adata


def noisy_swiss_roll(*, n_cells: int = 10_000, noise: float = 0.5, seed: int = 0) -> AnnData:
    r"""Swiss roll whose condition is the half of its width, with Gaussian noise.

    .. math::

        x = (t \cos t,\; h,\; t \sin t) + \varepsilon, \qquad
        t = \tfrac{3\pi}{2}(1 + 2u), \qquad y = 1[x_2 < 10]

    with :math:`u` uniform in [0, 1], the width :math:`h` uniform in [0, 21] and
    :math:`\varepsilon` of standard deviation ``noise``. Then each coordinate is shifted to begin
    at zero.

    Parameters
    ----------
    n_cells
        Number of points.
    noise
        Standard deviation of the noise, in units of the coordinates.
    seed
        Of the generator: the same seed gives the same data.

    Returns
    -------
    AnnData ``(n_cells, 3)``, X in float32; ``obs["condition"]`` ("narrow" where :math:`x_2 < 10`
    before the shift, else "wide"); ``obsm["truth_factors"]``: t and h without noise;
    ``uns["truth"]``: ``noise``, ``threshold``, ``shift`` (the three values that were added).

    Raises
    ------
    OptionError
        If there are fewer than two points or the noise is negative.

    Notes
    -----
    The roll is scikit-learn's; threshold and shift follow the CSVAE tutorial of the authors of
    DISCoVeR. Their noise level is not published: 0.5 is our choice.
    """
    _at_least(n_cells, 2, name="n_cells")
    _at_least(noise, 0, name="noise")
    rng = np.random.default_rng(seed)
    angle = 1.5 * np.pi * (1 + 2 * rng.random(n_cells))
    width = 21 * rng.random(n_cells)
    roll = np.column_stack([angle * np.cos(angle), width, angle * np.sin(angle)])
    points = roll + noise * rng.standard_normal(roll.shape)  # (n_cells, 3)
    shift = -points.min(axis=0)
    condition = np.where(points[:, 1] < 10, "narrow", "wide")
    adata = AnnData(
        (points + shift).astype(np.float32),
        obs=pd.DataFrame({"condition": pd.Categorical(condition)}, index=_names("cell", n_cells)),
        var=pd.DataFrame(index=pd.Index(["x_1", "x_2", "x_3"])),
        obsm={"truth_factors": np.column_stack([angle, width])},
    )
    adata.uns["truth"] = {"noise": noise, "threshold": 10.0, "shift": shift, "seed": seed}
    return adata


def _names(prefix: str, n: int) -> pd.Index:
    return pd.Index([f"{prefix}_{i}" for i in range(n)])


def _at_least(value: float, lowest: float, *, name: str) -> None:
    if not value >= lowest:
        msg = f"{name} must be at least {lowest}, found {value!r}."
        raise OptionError(msg)
