"""Nonlinear mixtures whose latents change between conditions, with all of their truth."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from scdisent._errors import OptionError, one_of

Floats = NDArray[np.float64]
WIDTH = 10
"""Hidden units of the network that mixes the parents of a feature."""
DOSES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
THETA, LIBRARY, LIBRARY_SD = 5.0, 1500.0, 0.3
DENSE_SHARE = 0.1
CHUNK = 2_000


@dataclass(frozen=True)
class _World:
    """Groups of latents that always appear together, number of features, what is measured."""

    groups: tuple[tuple[int, ...], ...]
    n_features: int
    counts: bool = False
    all_parents: bool = False

    @property
    def n_latent(self) -> int:
        return sum(map(len, self.groups))


SINGLES = ((0,), (1,), (2,), (3,))
WORLDS = {
    "s_a": _World(SINGLES, 12),
    "s_b": _World(((0, 1), (2, 3), (4,), (5,)), 18),
    "s_dense": _World(SINGLES, 12, all_parents=True),
    "s_count": _World(SINGLES, 400, counts=True),
    "s_dose": _World(SINGLES, 12),
}


def simulate_domains(
    kind: Literal["s_a", "s_b", "s_dense", "s_count", "s_dose"] = "s_a",
    *,
    n_cells: int = 12_000,
    n_domains: int = 5,
    n_changing: int | None = None,
    noise: float = 0.1,
    seed: int = 0,
) -> AnnData:
    r"""Simulate features that mix a few latents whose law changes between conditions.

    .. math::

        z_i \mid u &\sim N(\mu_{ui}, \sigma_{ui}^2), \quad \mu \sim U(-2, 2), \sigma \sim U(.3, 1.7)
        \\
        x_k &= a_k \cdot z_{P_k} + v_k \cdot \mathrm{LeakyReLU}(W_k z_{P_k}) + \text{noise}

    with parents :math:`P_k`, a network of width 10 for each feature, and features standardised
    before noise is added.

    =========== ==================================================================================
    ``s_a``     4 latents, 12 features: 4 with a parent each, 8 with two: clean sparse mixing
    ``s_b``     6 latents, 18 features; 0 and 1, as 2 and 3, always appear together
    ``s_dense`` as ``s_a``, every latent is a parent of every feature
    ``s_count`` as ``s_a`` for the log rates of 400 genes with one or two parents; counts are
                negative binomial with inverse dispersion 5 and a lognormal library; a fifth latent
                that no condition changes moves a tenth of the genes
    ``s_dose``  as ``s_a``; conditions are doses 0 to 1; latents 0 and 1 are N(0, 1), of the others
                the mean is a :math:`\tanh(3(d - c))` and the log SD linear in the dose d
    =========== ==================================================================================

    Parameters
    ----------
    kind
        World.
    n_cells
        Number of rows, at least 2; conditions are equally likely.
    n_domains
        Number of conditions (``s_dose`` has six).
    n_changing
        The first so many latents are N(0, 1) under every condition except the last
        ``n_changing``; None: all change (``s_dose``: two).
    noise
        Standard deviation of the noise of standardised features; counts have their own.
    seed
        Of the generator: the same seed gives the same data.

    Returns
    -------
    AnnData ``(n_cells, n_features)``. ``obs["condition"]``, and ``dose`` for ``s_dose``;
    ``obsm["truth_factors"]``: latents; ``obsm["truth_noise"]``: the same before the condition acts,
    standard normal; ``varm["truth_parents"]``; ``uns["truth"]``: ``means``, ``sds`` (conditions by
    latents), ``conditions``, ``changing`` and the weights of the mixing. Noise-free features under
    any condition: :func:`true_domain_features`.

    Raises
    ------
    OptionError
        If an argument is outside its range.

    Notes
    -----
    Worlds of this package's own checks, after the recipes of nonlinear ICA; those of Li et al. 2025
    are not published.
    """
    world = WORLDS[one_of(kind, WORLDS, "kind")]
    n_changing = (2 if kind == "s_dose" else world.n_latent) if n_changing is None else n_changing
    _check(world, n_cells=n_cells, n_domains=n_domains, n_changing=n_changing, noise=noise)
    rng = np.random.default_rng(seed)
    truth = _laws(kind, world, n_domains=n_domains, n_changing=n_changing, rng=rng)
    truth |= _mixing(world, rng)
    names = truth["conditions"]
    code = rng.integers(0, len(names), n_cells)
    eps = rng.standard_normal((n_cells, truth["means"].shape[1]))
    z = truth["means"][code] + truth["sds"][code] * eps
    adata = AnnData(
        sparse.csr_matrix((n_cells, world.n_features), dtype=np.float32),
        obs=pd.DataFrame(
            {"condition": pd.Categorical.from_codes(code, categories=names)},
            index=pd.Index([f"cell_{i}" for i in range(n_cells)]),
        ),
        var=pd.DataFrame(index=pd.Index([f"x_{k}" for k in range(world.n_features)])),
        obsm={"truth_factors": z, "truth_noise": eps},
        varm={"truth_parents": truth["parents"].T},
    )
    if kind == "s_dose":
        adata.obs["dose"] = np.array(DOSES)[code]
    mixed = _mix(z, truth)
    truth |= {"shift": mixed.mean(axis=0), "scale": mixed.std(axis=0)}
    clean = (mixed - truth["shift"]) / truth["scale"]
    if world.counts:
        adata.X = _counts(clean, rng)
    else:
        adata.X = (clean + noise * rng.standard_normal(clean.shape)).astype(np.float32)
    adata.uns["truth"] = {**truth, "kind": kind, "noise": noise, "seed": seed}
    return adata


def true_domain_features(adata: AnnData, condition: str | None = None) -> Floats:
    """Noise-free features of simulated cells under a condition, or under their own.

    What a cell is (its standard normal latents before the condition acts) is kept: the exact
    counterfactual.

    Parameters
    ----------
    adata
        From :func:`simulate_domains`; any subset of its cells.
    condition
        Name of a condition; None: each cell's own.

    Returns
    -------
    ``(n_cells, n_features)``; for counts the standardised log rates.
    """
    truth = adata.uns["truth"]
    names = list(truth["conditions"])
    if condition is None:
        code = np.array([names.index(name) for name in adata.obs["condition"]])
    else:
        code = np.full(adata.n_obs, names.index(one_of(condition, names, "condition")))
    z = truth["means"][code] + truth["sds"][code] * adata.obsm["truth_noise"]
    clean: Floats = (_mix(z, truth) - truth["shift"]) / truth["scale"]
    return clean


def _check(world: _World, *, n_cells: int, n_domains: int, n_changing: int, noise: float) -> None:
    if n_cells < 2 or n_domains < 1 or not 0 <= noise < np.inf:
        msg = (
            f"n_cells={n_cells} must be at least 2, n_domains={n_domains} at least 1, "
            f"noise={noise} at least 0."
        )
        raise OptionError(msg)
    if not 0 <= n_changing <= world.n_latent:
        msg = f"n_changing={n_changing} must lie between 0 and {world.n_latent}."
        raise OptionError(msg)


def _laws(
    kind: str, world: _World, *, n_domains: int, n_changing: int, rng: np.random.Generator
) -> dict:
    """Mean and SD of each latent under each condition."""
    names = [f"u{u}" for u in range(n_domains)]
    if kind == "s_dose":
        names = [f"dose_{dose:g}" for dose in DOSES]
    shape = (len(names), world.n_latent)
    means, sds = rng.uniform(-2, 2, shape), rng.uniform(0.3, 1.7, shape)
    changing = np.arange(world.n_latent) >= world.n_latent - n_changing
    if kind == "s_dose":
        dose = np.array(DOSES)[:, None]
        size = rng.choice([-1, 1], world.n_latent) * rng.uniform(1.5, 2.5, world.n_latent)
        means = size * np.tanh(3 * (dose - rng.uniform(0.3, 0.7, world.n_latent)))
        sds = np.exp(rng.uniform(-0.7, 0.7, world.n_latent) * dose)
    means, sds = np.where(changing, means, 0.0), np.where(changing, sds, 1.0)
    if world.counts:  # the latent of many genes
        means = np.hstack([means, np.zeros((len(names), 1))])
        sds = np.hstack([sds, np.ones((len(names), 1))])
        changing = np.append(changing, False)
    return {"conditions": np.array(names), "means": means, "sds": sds, "changing": changing}


def _mixing(world: _World, rng: np.random.Generator) -> dict:
    """Parents of each feature, and the weights of its linear part and of its network."""
    parents = _parents(world, rng)
    n_latent, n_features = parents.shape
    # The linear part is the larger one, so that features of one parent are monotone in it: with
    # folds the mixing could not be inverted, which theory assumes.
    linear = rng.choice([-1, 1], parents.shape) * rng.uniform(1, 2, parents.shape) * parents
    inner = rng.standard_normal((n_features, n_latent, WIDTH)) * parents.T[:, :, None]
    outer = 0.5 * rng.standard_normal((n_features, WIDTH)) / np.sqrt(WIDTH)
    return {"parents": parents, "linear": linear, "inner": inner, "outer": outer}


def _parents(world: _World, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which latents a feature mixes, ``(n_latent, n_features)``."""
    groups, n_features = world.groups, world.n_features
    parents = np.zeros((world.n_latent, n_features), dtype=bool)
    for feature in range(n_features):
        alone = feature < len(groups) if not world.counts else rng.random() < 0.5
        if world.all_parents:
            chosen = list(range(len(groups)))
        elif alone:
            chosen = [feature % len(groups)]
        else:
            chosen = rng.choice(len(groups), 2, replace=False).tolist()
        for group in chosen:
            parents[list(groups[group]), feature] = True
    if world.counts:
        parents = np.vstack([parents, rng.random(n_features) < DENSE_SHARE])
    return parents


def _mix(z: Floats, truth: dict) -> Floats:
    """Features of latents, before they are standardised."""
    mixed = z @ truth["linear"]
    for start in range(0, len(z), CHUNK):
        part = z[start : start + CHUNK]
        for feature, (inner, outer) in enumerate(zip(truth["inner"], truth["outer"], strict=True)):
            hidden = part @ inner
            mixed[start : start + CHUNK, feature] += (
                np.where(hidden > 0, hidden, 0.2 * hidden) @ outer
            )
    return mixed


def _counts(log_rate: Floats, rng: np.random.Generator) -> sparse.csr_matrix:
    """Negative binomial counts; a gene's log rate has the SD 0.7."""
    level = rng.normal(0, 1, log_rate.shape[1])
    rate = np.exp(level + 0.7 * log_rate)
    library = LIBRARY * rng.lognormal(-(LIBRARY_SD**2) / 2, LIBRARY_SD, (len(rate), 1))
    rate *= library / rate.sum(axis=1, keepdims=True)
    counts = rng.poisson(rate * rng.gamma(THETA, 1 / THETA, rate.shape)).astype(np.float32)
    return sparse.csr_matrix(counts)
