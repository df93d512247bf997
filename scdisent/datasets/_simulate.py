"""Counts of a planted world: cell types, shared factors, donors and responses to conditions."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scdisent._errors import InputDataError, OptionError, one_of

TYPE_SD, FACTOR_SD, LIBRARY_SD, RESPONSE_SD = 0.5, 0.3, 0.3, 0.4
"""Standard deviations, in log rate, of type profiles, loadings, library sizes and responses."""


def simulate_conditions(
    *,
    n_cells: int = 4000,
    n_genes: int = 200,
    n_types: int = 5,
    n_factors: int = 2,
    conditions: Sequence[str] = ("control", "stimulated"),
    n_donors: int = 4,
    doses: Sequence[float] | None = None,
    combinations: bool = False,
    interaction: float = 0.0,
    composition_shift: float = 0.0,
    shared_effect_genes: int = 40,
    type_effect_genes: int = 10,
    effect_size: float = 1.0,
    library_size: float = 1000.0,
    dispersion: float = 8.0,
    donor_effect: float = 0.1,
    seed: int = 0,
) -> AnnData:
    r"""Simulate counts of cells under conditions whose effects are known for every cell.

    Cell :math:`i` of type :math:`k`, donor :math:`d`, condition :math:`c` has in gene :math:`g`

    .. math::

        n_{ig} &\sim \mathrm{NB}(\mu_{ig}, \theta), \qquad
            \mathrm{Var}(n_{ig}) = \mu_{ig} + \mu_{ig}^2 / \theta \\
        \log \mu_{ig} &= \log l_i + b_{kg} + o_{dg} + f_i \cdot v_g + r_i\, \delta_i\, e_{kcg}

    with library size :math:`l_i` (lognormal, mean ``library_size``), profile :math:`b_k` of the
    type (:math:`\sum_g \exp b_{kg} = 1`), donor offset :math:`o_d`, shared factors
    :math:`f_i \sim N(0, 1)` with loadings :math:`v_g`, response :math:`r_i` of the cell (lognormal,
    mean 1, the same under every condition), dose :math:`\delta_i` (1 without doses, 0 in control)
    and effect :math:`e_{kc}`. The first condition is the control: its effect is zero. Another one
    has its own ``shared_effect_genes`` genes, which respond alike in all types, and in each type
    ``type_effect_genes`` genes more; a responding gene has :math:`|e| \sim U(0.5, 1.5)` times
    ``effect_size``, with a random sign. The rates are not rescaled to the library, so
    :math:`e` is the log fold change of the rate itself.

    Parameters
    ----------
    n_cells, n_genes, n_types, n_factors, n_donors
        Sizes of the world. Types are equally likely. Each donor has cells of every condition.
    conditions
        Names; the first is the control.
    doses
        Doses that cells out of control get, each equally likely; the effect is linear in them.
    combinations
        Add a condition "A+B" for each pair of conditions other than control. Its effect is
        :math:`e_A + e_B`, plus the interaction.
    interaction
        Size of the interaction relative to ``effect_size``; it hits ``shared_effect_genes`` genes
        drawn for each pair, alike in all types. 0: log effects are additive.
    composition_shift
        s in [0, 1): type number k has condition number k modulo the number K of conditions with
        probability s + (1 - s) / K, the others with (1 - s) / K. For two conditions, 0.7 gives
        0.85 and 0.15 in alternating types.
    shared_effect_genes, type_effect_genes, effect_size
        Number of genes with an effect, and its mean absolute size in natural log units.
    library_size
        Mean number of counts of a cell in control, but for donors and factors.
    dispersion
        The negative binomial's inverse dispersion :math:`\theta`.
    donor_effect
        Standard deviation of the donors' offsets, in natural log units.
    seed
        Of the generator: the same seed gives the same data.

    Returns
    -------
    AnnData ``(n_cells, n_genes)``, X counts in CSR float32. ``obs``: ``condition``, ``cell_type``,
    ``donor`` (categories of strings), ``dose`` (number, only with doses), ``truth_response``,
    ``truth_library``. ``obsm["truth_factors"]``: ``(n_cells, n_factors)``. ``uns["truth"]``:
    ``effects``, ``profiles``, ``donor_offsets``, ``loadings``, DataFrames with genes as rows
    (columns of ``effects`` are "type|condition"), and ``parameters``. Expected counts under any
    condition: :func:`true_rates`. A cell that would have no counts gets one, in a gene drawn by
    its rates.

    Raises
    ------
    OptionError
        If an argument is outside its range, or a condition has fewer cells than there are donors.

    Notes
    -----
    The defaults give a world like the one of our own checks of DISCoVeR; it is not a published one.
    """
    world = World(**{**locals(), "conditions": tuple(conditions), "doses": tuple(doses or ())})
    rng = np.random.default_rng(seed)
    truth = _plant(world, rng)
    obs = _draw_cells(world, rng)
    var = pd.DataFrame(index=truth["effects"].index)
    factors = rng.standard_normal((n_cells, n_factors))
    blank = sparse.csr_matrix((n_cells, n_genes), dtype=np.float32)
    adata = AnnData(blank, obs=obs, var=var, obsm={"truth_factors": factors}, uns={"truth": truth})
    adata.X = _draw_counts(adata, dispersion=dispersion, rng=rng)
    return adata


def true_rates(adata: AnnData, condition: str, *, dose: float | None = None) -> np.ndarray:
    """Compute the expected counts of simulated cells had they been under one condition.

    Library size, donor, factors and response stay those of the cell. Works on subsets of cells and
    genes, in any order.

    Parameters
    ----------
    adata
        From :func:`simulate_conditions`.
    condition
        Condition to put all cells under, seen in the data or any other of the world.
    dose
        Dose to give them, planted or not; the control has none. By default each cell keeps its
        own, or 1 in a world without doses. Needed if the world has doses and some cell is of
        another condition.

    Returns
    -------
    ``(n_cells, n_genes)``, expected counts.

    Raises
    ------
    InputDataError
        If the AnnData does not hold the truth of a simulation.
    OptionError
        If the condition is not of that world, or a dose is needed.
    """
    truth = _truth(adata)
    names = [str(name) for name in truth["parameters"]["all_conditions"]]
    one_of(condition, names, "condition")
    own = (adata.obs["condition"] == condition).to_numpy()
    if condition == names[0]:
        dose = 0.0
    elif dose is None and "dose" not in adata.obs:
        dose = 1.0
    elif dose is None and not own.all():
        msg = (
            f"{(~own).sum()} cells are not of condition {condition!r}, so their dose of it is not "
            f"known. Pass dose=, for example {truth['parameters']['doses'][-1]}."
        )
        raise OptionError(msg)
    given = adata.obs["dose"].to_numpy() if dose is None else np.full(adata.n_obs, float(dose))
    return _rates(adata, np.full(adata.n_obs, condition), dose=given)


@dataclass(frozen=True, kw_only=True)
class World:
    """Checked arguments of :func:`simulate_conditions`."""

    n_cells: int
    n_genes: int
    n_types: int
    n_factors: int
    conditions: tuple[str, ...]
    n_donors: int
    doses: tuple[float, ...]
    combinations: bool
    interaction: float
    composition_shift: float
    shared_effect_genes: int
    type_effect_genes: int
    effect_size: float
    library_size: float
    dispersion: float
    donor_effect: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("n_cells", "n_genes", "n_types", "n_donors"):
            _within(name, getattr(self, name), lowest=1)
        for name in ("n_factors", "shared_effect_genes", "type_effect_genes", "donor_effect"):
            _within(name, getattr(self, name), lowest=0)
        for name in ("library_size", "dispersion"):
            _within(name, getattr(self, name), lowest=np.finfo(float).tiny)
        _within("composition_shift", self.composition_shift, lowest=0, below=1)
        effect_genes = self.shared_effect_genes + self.type_effect_genes
        _within("n_genes", self.n_genes, lowest=effect_genes)
        names = self.conditions
        if len(names) < 2 or len(set(names)) < len(names) or set("+|/") & set("".join(names)):
            msg = (
                f"conditions={names!r} must be two or more different names, the control first, "
                "without '+', '|' and '/'."
            )
            raise OptionError(msg)
        if any(not dose > 0 for dose in self.doses):
            msg = f"doses={self.doses!r} must all be positive: the control has dose 0 anyway."
            raise OptionError(msg)
        if self.combinations and len(names) < 3:
            msg = f"combinations=True needs two conditions besides the control, found {names!r}."
            raise OptionError(msg)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of conditions that are combined."""
        return list(itertools.combinations(self.conditions[1:], 2)) if self.combinations else []

    @property
    def all_conditions(self) -> list[str]:
        """Control, single conditions, combinations."""
        return [*self.conditions, *(f"{a}+{b}" for a, b in self.pairs)]

    @property
    def types(self) -> list[str]:
        """Names of the cell types."""
        return [f"type_{i}" for i in range(self.n_types)]

    @property
    def donors(self) -> list[str]:
        """Names of the donors."""
        return [f"donor_{i}" for i in range(self.n_donors)]


def _within(name: str, value: float, *, lowest: float, below: float = math.inf) -> None:
    if not lowest <= value < below:
        limit = "" if below == math.inf else f" and below {below:g}"
        msg = f"{name} must be at least {lowest:g}{limit}, found {value!r}."
        raise OptionError(msg)


def _plant(world: World, rng: np.random.Generator) -> dict[str, Any]:
    """Draw what is the same for all cells; every DataFrame has genes as rows."""
    genes = pd.Index([f"gene_{i}" for i in range(world.n_genes)])
    level = rng.standard_normal((world.n_genes, 1))
    profiles = level + TYPE_SD * rng.standard_normal((world.n_genes, world.n_types))
    profiles -= np.log(np.exp(profiles).sum(axis=0))
    offsets = world.donor_effect * rng.standard_normal((world.n_genes, world.n_donors))
    loadings = FACTOR_SD * rng.standard_normal((world.n_genes, world.n_factors))
    factors = [f"factor_{i}" for i in range(world.n_factors)]
    parameters: dict[str, Any] = asdict(world) | {"all_conditions": world.all_conditions}
    for key in ("conditions", "doses", "all_conditions"):
        parameters[key] = np.array(parameters[key])
    return {
        "effects": pd.DataFrame(_plant_effects(world, rng), index=genes),
        "profiles": pd.DataFrame(profiles, index=genes, columns=world.types),
        "donor_offsets": pd.DataFrame(offsets, index=genes, columns=world.donors),
        "loadings": pd.DataFrame(loadings, index=genes, columns=factors),
        "parameters": parameters,
    }


def _plant_effects(world: World, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Effect of each "type|condition" but control on the log rate of all genes."""
    n_shared, n_own = world.shared_effect_genes, world.type_effect_genes
    effects: dict[str, np.ndarray] = {}
    for condition in world.conditions[1:]:
        order = rng.permutation(world.n_genes)
        shared = _effects_on(order[:n_shared], world, rng)
        for cell_type in world.types:
            own = rng.permutation(order[n_shared:])[:n_own]
            effects[f"{cell_type}|{condition}"] = shared + _effects_on(own, world, rng)
    for a, b in world.pairs:
        extra = _effects_on(rng.permutation(world.n_genes)[:n_shared], world, rng)
        for cell_type in world.types:
            additive = effects[f"{cell_type}|{a}"] + effects[f"{cell_type}|{b}"]
            effects[f"{cell_type}|{a}+{b}"] = additive + world.interaction * extra
    return effects


def _effects_on(genes: np.ndarray, world: World, rng: np.random.Generator) -> np.ndarray:
    effects = np.zeros(world.n_genes)
    signs = rng.choice([-1.0, 1.0], size=len(genes))
    effects[genes] = signs * world.effect_size * rng.uniform(0.5, 1.5, size=len(genes))
    return effects


def _draw_cells(world: World, rng: np.random.Generator) -> pd.DataFrame:
    """Draw type, condition, donor, dose, library size and response of each cell."""
    n, n_conditions = world.n_cells, len(world.all_conditions)
    types = rng.integers(world.n_types, size=n)
    tilted = rng.random(n) < world.composition_shift
    conditions = np.where(tilted, types % n_conditions, rng.integers(n_conditions, size=n))
    fewest = np.bincount(conditions, minlength=n_conditions).min()
    if fewest < world.n_donors:
        msg = (
            f"n_cells={n} leaves a condition with {fewest} cells, too few for {world.n_donors} "
            "donors. Simulate more cells, or fewer donors or conditions."
        )
        raise OptionError(msg)
    donors = np.empty(n, dtype=int)
    for condition in range(n_conditions):
        cells = rng.permutation(np.flatnonzero(conditions == condition))
        donors[cells] = np.arange(len(cells)) % world.n_donors
    obs = {
        "condition": pd.Categorical.from_codes(conditions, world.all_conditions),
        "cell_type": pd.Categorical.from_codes(types, world.types),
        "donor": pd.Categorical.from_codes(donors, world.donors),
        "truth_library": world.library_size * _lognormal(LIBRARY_SD, size=n, rng=rng),
        "truth_response": _lognormal(RESPONSE_SD, size=n, rng=rng),
    }
    if world.doses:
        obs["dose"] = np.where(conditions == 0, 0.0, rng.choice(world.doses, size=n))
    return pd.DataFrame(obs, index=pd.Index([f"cell_{i}" for i in range(n)]))


def _lognormal(sd: float, *, size: int, rng: np.random.Generator) -> np.ndarray:
    """Lognormal draws with mean 1 and standard deviation ``sd`` of the log."""
    return np.exp(sd * rng.standard_normal(size) - sd**2 / 2)


def _draw_counts(
    adata: AnnData, *, dispersion: float, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Draw counts of each cell under its own condition, in blocks that fit into memory."""
    blocks = []
    for start in range(0, adata.n_obs, 4096):
        cells = adata[start : start + 4096]
        conditions = cells.obs["condition"].astype(str).to_numpy()
        dose = cells.obs["dose"].to_numpy() if "dose" in cells.obs else np.ones(cells.n_obs)
        counts = negative_binomial(_rates(cells, conditions, dose=dose), dispersion, rng=rng)
        blocks.append(sparse.csr_matrix(counts, dtype=np.float32))
    return sparse.vstack(blocks, format="csr")


def negative_binomial(
    rates: np.ndarray, dispersion: float, *, rng: np.random.Generator
) -> np.ndarray:
    r"""Draw counts as a Gamma mixture of Poissons; no row is left without a count.

    .. math:: n \sim \mathrm{Poisson}(\lambda), \qquad
        \lambda \sim \mathrm{Gamma}(\theta, \mathrm{mean} = \mu)

    ``rates`` is ``(n_cells, n_genes)``. A row of zeros gets one count, in a gene drawn with
    probability proportional to its rate.
    """
    counts = rng.poisson(rng.gamma(dispersion, rates / dispersion))
    for cell in np.flatnonzero(counts.sum(axis=1) == 0):
        gene = rng.choice(rates.shape[1], p=rates[cell] / rates[cell].sum())
        counts[cell, gene] = 1
    return counts


def _rates(adata: AnnData, conditions: np.ndarray, *, dose: np.ndarray) -> np.ndarray:
    """Compute expected counts ``(n_cells, n_genes)`` under the condition and dose given."""
    truth, obs = _truth(adata), adata.obs
    genes = adata.var_names
    types = obs["cell_type"].astype(str).to_numpy()
    profiles = truth["profiles"].loc[genes, types]
    offsets = truth["donor_offsets"].loc[genes, obs["donor"].astype(str)]
    shared = adata.obsm["truth_factors"] @ truth["loadings"].loc[genes].to_numpy().T
    log_rates = profiles.to_numpy().T + offsets.to_numpy().T + shared  # (n_cells, n_genes)
    log_rates += np.log(obs["truth_library"].to_numpy())[:, None]
    control = str(truth["parameters"]["all_conditions"][0])
    treated = conditions != control
    pairs = [f"{t}|{c}" for t, c in zip(types[treated], conditions[treated], strict=True)]
    effects = truth["effects"].loc[genes, pairs].to_numpy().T
    strength = (obs["truth_response"].to_numpy() * dose)[treated, None]
    log_rates[treated] += strength * effects
    return np.exp(log_rates)


def _truth(adata: AnnData) -> dict[str, Any]:
    truth = adata.uns.get("truth", {})
    if "effects" not in truth or "truth_factors" not in adata.obsm:
        msg = (
            "true_rates needs the AnnData of simulate_conditions, but its uns['truth'] or "
            "obsm['truth_factors'] is not there. Pass the simulated AnnData or a subset of it."
        )
        raise InputDataError(msg)
    return truth
