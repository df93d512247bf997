"""Worlds in which something is hidden: cell types, donors, combinations, genes, lines, doses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scdisent import splits
from scdisent.benchmarks._data import kang_2000_genes
from scdisent.benchmarks._peers import PEERS
from scdisent.conditions import ConditionTable
from scdisent.datasets import load, simulate_conditions
from scdisent.effects import log_normalise

N_EMBEDDED = 10
"""Principal components of a gene's expression in control cells that describe its knock-out."""


def nothing_known(adata: AnnData) -> None:
    """Conditions are plain levels."""


@dataclass(frozen=True)
class World:
    """Cells, what is hidden of them, and how they are set up."""

    load: Callable[[int], AnnData]
    """From a seed, which only simulated worlds read."""
    split: Callable[[AnnData], list[splits.Split]]
    setup: Mapping[str, Any]
    about: str
    table: Callable[[AnnData], ConditionTable | None] = nothing_known
    networks: tuple[str, ...] = ("DISCoVeR",)
    """Models and peers that are asked beside the closed forms."""

    def keys(self) -> dict[str, Any]:
        """Arguments that splits share with setup."""
        names = ("condition_key", "control", "labels_key")
        return {name: self.setup[name] for name in names if name in self.setup}


OTHERS = "other genes"


def with_other_genes(adata: AnnData, whole: AnnData) -> AnnData:
    """Chosen genes, and all others together as one more: libraries stay those of whole cells."""
    chosen = whole.var_names.isin(adata.var_names)
    rest = sparse.csr_matrix(whole.X[:, ~chosen].sum(axis=1))
    x = sparse.hstack([whole[:, adata.var_names].X, rest], format="csr", dtype=np.float32)
    var = pd.DataFrame(index=[*adata.var_names, OTHERS])
    return AnnData(x, obs=adata.obs.copy(), var=var)


def _kang(seed: int) -> AnnData:
    chosen = kang_2000_genes(n_genes=5_000)
    return with_other_genes(chosen, load("kang2018_6k")[chosen.obs_names])


def _kang_types(adata: AnnData) -> list[splits.Split]:
    return splits.leave_out(adata.obs, "cell_type", min_cells=30, **_of(KANG))


def _kang_donors(adata: AnnData) -> list[splits.Split]:
    return splits.leave_out(adata.obs, "donor", labels_key="cell_type", **_of(KANG))


def _norman(seed: int) -> AnnData:
    return load("norman2019_500hvg")


def _norman_pairs(adata: AnnData) -> list[splits.Split]:
    folds = splits.combination_folds(adata.obs["perturbation"].unique())
    return splits.leave_conditions_out(adata.obs, folds, **_of(NORMAN))


def _norman_genes(adata: AnnData) -> list[splits.Split]:
    """Single genes; pairs that hold one are hidden with it."""
    names = sorted(adata.obs["perturbation"].astype(str).unique())
    singles = [name for name in names if "+" not in name and name != "control"]
    folds = splits.condition_folds(singles, control="control", n_folds=4)
    whole = {
        fold: [name for name in names if set(name.split("+")) & set(hidden)]
        for fold, hidden in folds.items()
    }
    return splits.leave_conditions_out(adata.obs, whole, **_of(NORMAN))


def _papalexi(seed: int) -> AnnData:
    """Targets whose own gene is measured, so that it can be described."""
    adata = load("papalexi2021_eccite_299genes")
    kept = [t for t in adata.obs["target"].unique() if t in adata.var_names]
    return adata[adata.obs["target"].isin([*kept, "non-targeting"])].copy()


def _papalexi_genes(adata: AnnData) -> list[splits.Split]:
    hidden = sorted(set(adata.obs["target"].astype(str)) - {"non-targeting"})
    return splits.leave_conditions_out(adata.obs, hidden, **_of(PAPALEXI))


def _papalexi_replicates(adata: AnnData) -> list[splits.Split]:
    return splits.leave_out(adata.obs, "replicate", **_of(PAPALEXI))


def named_parts(adata: AnnData, column: str, control: str) -> ConditionTable:
    """A row for each part of a combination, told apart by name only."""
    parts = {part for name in adata.obs[column].unique() for part in str(name).split("+")}
    names = sorted(parts - {control})
    return ConditionTable(pd.DataFrame({"part": names}, index=names))


def _norman_table(adata: AnnData) -> ConditionTable:
    return named_parts(adata, "perturbation", "control")


def _pair_table(adata: AnnData) -> ConditionTable:
    return named_parts(adata, "condition", "control")


def gene_vectors(adata: AnnData) -> ConditionTable:
    """Targets described by how their gene varies with others among control cells."""
    control = adata[(adata.obs["target"] == "non-targeting").to_numpy()]
    values = np.asarray(log_normalise(control.X).todense())
    _, singular, right = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    vectors = (right[:N_EMBEDDED] * singular[:N_EMBEDDED, None] / len(values) ** 0.5).T
    names = sorted(set(adata.obs["target"].astype(str)) - {"non-targeting"})
    found = pd.DataFrame(vectors, index=adata.var_names).loc[names]
    return ConditionTable(pd.DataFrame(index=names), embedding=found)


def _mcfaline(seed: int) -> AnnData:
    return load("mcfaline2023")


def _mcfaline_lines(adata: AnnData) -> list[splits.Split]:
    return splits.leave_out(adata.obs, "cell_type", **_of(MCFALINE))


DOSES = (0.1, 0.25, 0.5, 0.75, 1.0)


def _doses(seed: int) -> AnnData:
    adata = simulate_conditions(n_cells=6_000, doses=DOSES, seed=seed)
    dose = np.where(adata.obs["condition"] == "control", 0.0, adata.obs["dose"])
    adata.obs["treatment"] = pd.Categorical([f"dose {x:g}" for x in dose])
    return adata


def _dose_table(adata: AnnData) -> ConditionTable:
    names = [f"dose {x:g}" for x in DOSES]
    return ConditionTable(pd.DataFrame({"dose": DOSES}, index=names), dose="dose")


def _unseen_doses(adata: AnnData) -> list[splits.Split]:
    doses = {f"dose {x:g}": x for x in (0.0, *DOSES)}
    folds = {**splits.dose_folds(doses), **splits.dose_folds(doses, extrapolate=True)}
    return splits.leave_conditions_out(adata.obs, folds, **_of(SIMULATED_DOSES))


def _pairs(seed: int) -> AnnData:
    names = ("control", "a", "b", "c")
    shared: dict[str, Any] = {"combinations": True, "interaction": 0.3, "composition_shift": 0.3}
    return simulate_conditions(n_cells=8_000, conditions=names, seed=seed, **shared)


def _unseen_pairs(adata: AnnData) -> list[splits.Split]:
    folds = splits.combination_folds(adata.obs["condition"].unique())
    return splits.leave_conditions_out(adata.obs, folds, **_of(SIMULATED_PAIRS))


def _of(setup: Mapping[str, Any]) -> dict[str, Any]:
    return {name: setup[name] for name in ("condition_key", "control")}


KANG = {
    "condition_key": "condition",
    "control": "control",
    "labels_key": "cell_type",
    "sample_key": "donor",
}
NORMAN = {"condition_key": "perturbation", "control": "control"}
PAPALEXI = {"condition_key": "target", "control": "non-targeting", "batch_key": "replicate"}
MCFALINE = {"condition_key": "perturbation", "control": "control", "labels_key": "cell_type"}
SIMULATED_DOSES = {"condition_key": "treatment", "control": "dose 0", "labels_key": "cell_type"}
SIMULATED_PAIRS = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}

WORLDS: dict[str, World] = {
    "kang types": World(
        _kang,
        _kang_types,
        KANG,
        "Kang, stimulated cells of one cell type hidden (7 folds)",
        networks=("DISCoVeR", "CG-VAE", *PEERS),
    ),
    "kang donors": World(
        _kang, _kang_donors, KANG, "Kang, stimulated cells of one donor hidden (8 folds)"
    ),
    "norman pairs": World(
        _norman,
        _norman_pairs,
        NORMAN,
        "Norman, one pair of genes hidden",
        table=_norman_table,
    ),
    "norman genes": World(
        _norman,
        _norman_genes,
        NORMAN,
        "Norman, single genes hidden, with every pair that holds them",
        networks=(),  # nothing is known of a gene but its name
    ),
    "papalexi genes": World(
        _papalexi,
        _papalexi_genes,
        PAPALEXI,
        "Papalexi, one knock-out hidden, described by its gene's expression in control cells",
        table=gene_vectors,
    ),
    "papalexi replicates": World(
        _papalexi, _papalexi_replicates, PAPALEXI, "Papalexi, knock-outs of one replicate hidden"
    ),
    "mcfaline lines": World(
        _mcfaline, _mcfaline_lines, MCFALINE, "McFaline, knock-downs of one cell line hidden"
    ),
    "simulated doses": World(
        _doses,
        _unseen_doses,
        SIMULATED_DOSES,
        "Simulated, one dose hidden (inside, and the largest)",
        table=_dose_table,
    ),
    "simulated pairs": World(
        _pairs,
        _unseen_pairs,
        SIMULATED_PAIRS,
        "Simulated, one pair of treatments hidden; interaction and composition shift",
        table=_pair_table,
    ),
}
