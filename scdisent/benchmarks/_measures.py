"""What suites measure: each function gives the columns that a method has an answer for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from scdisent import metrics as sm
from scdisent.benchmarks._separation import COLUMNS as LATENT_TITLES
from scdisent.benchmarks._separation import Run as LatentRun
from scdisent.benchmarks._separation import scores as latent_scores
from scdisent.benchmarks._swap import swap
from scdisent.benchmarks._world import Fit, World

MIN_CELLS = 100
Found = dict[str, float]


@dataclass(frozen=True)
class Measure:
    """A measure by name: its function, and its columns with their titles.

    Columns without a title are in the CSV only. What the function leaves out or finds to be NaN
    does not apply.
    """

    ask: Callable[[World, Fit, int], Found]
    columns: Mapping[str, str]

    def __call__(self, world: World, fit: Fit, seed: int) -> dict[str, float | None]:
        """Every column, None where it does not apply."""
        found = self.ask(world, fit, seed)
        return {name: float(found[name]) if name in found else None for name in self.columns}


def leakage(world: World, fit: Fit, seed: int) -> Found:
    """Condition from the invariant codes, and from what they decode to, on held-out donors."""
    condition, shared = world.condition, world.shared_labels
    if condition is None or fit.invariant is None:
        return {}
    plan = {"groups": world.samples, "seed": seed}
    leak = sm.leakage(fit.invariant, condition, within=shared, min_cells=MIN_CELLS, **plan)
    found = {
        "leak_accuracy": leak.balanced_accuracy,
        "leak_null": leak.null.loc["balanced_accuracy", "upper_95"],
        "leak_auroc": leak.auroc,
        "leak_auroc_null": leak.null.loc["auroc", "upper_95"],
        "leak_within_auroc": leak.within_auroc,
    }
    if shared is not None:
        baseline = sm.composition_baseline(condition, shared, **plan)
        found["composition_accuracy"] = baseline.balanced_accuracy
    if fit.decoded is not None:
        decoded = sm.leakage(fit.decoded, condition, **plan)
        found["decoded_accuracy"] = decoded.balanced_accuracy
        found["decoded_null"] = decoded.null.loc["balanced_accuracy", "upper_95"]
        found["decoded_auroc"] = decoded.auroc
    return found


def kept(world: World, fit: Fit, seed: int) -> Found:
    """Shared factor from the invariant codes."""
    return {f"kept_{name}": value for name, value in _shared(world, fit.invariant, seed).items()}


def specific(world: World, fit: Fit, seed: int) -> Found:
    """Condition and shared factor from the specific codes."""
    found = {f"specific_{name}": v for name, v in _shared(world, fit.specific, seed).items()}
    condition = world.condition
    if fit.specific is not None and condition is not None:
        found["specific_condition"] = sm.label_recovery(
            fit.specific, condition, groups=world.samples, seed=seed
        )
    return found


def _shared(world: World, codes: np.ndarray | None, seed: int) -> Found:
    found: Found = {}
    if codes is None:
        return found
    labels, numbers = world.shared_labels, world.numbers
    if labels is not None:
        found["accuracy"] = sm.label_recovery(codes, labels, groups=world.samples, seed=seed)
    if numbers is not None:
        found["r2"] = sm.block_r2(codes, numbers, seed=seed)
    return found


def nmi(world: World, fit: Fit, seed: int) -> Found:
    """k-means clusters of the invariant codes; no evidence of invariance."""
    targets = {"nmi_shared": world.shared_labels, "nmi_condition": world.condition}
    return {
        name: sm.nmi(fit.invariant, labels, seed=seed)
        for name, labels in targets.items()
        if labels is not None and fit.invariant is not None
    }


def information(world: World, fit: Fit, seed: int) -> Found:
    r"""How much of what the codes know of the condition is in the specific block.

    .. math:: \mathrm{MIG} = (I(y; w) - I(y; z)) / H(y), \qquad
              \mathrm{MIC} = I(y; w) / (I(y; w) + I(y; z))

    ``adjusted``: informations less their floor, 0 unless above 95 % of shuffled labels.
    """
    condition = world.condition
    if condition is None or fit.invariant is None:
        return {}
    z = sm.label_information(fit.invariant, condition, seed=seed)
    found = {"information_z": z.nats, "information_z_floor": z.floor}
    if fit.specific is None:
        return found
    w = sm.label_information(fit.specific, condition, seed=seed)
    above = [each.adjusted if each.nats > each.upper_95 else 0.0 for each in (w, z)]
    raw = [max(0.0, each.nats) for each in (w, z)]
    found |= {"information_w": w.nats, "information_w_floor": w.floor}
    for ending, (of_w, of_z) in {"": raw, "_adjusted": above}.items():
        found[f"mig{ending}"] = (of_w - of_z) / w.entropy
        if of_w + of_z > 0:
            found[f"mic{ending}"] = of_w / (of_w + of_z)
    return found


def reconstruction(world: World, fit: Fit, seed: int) -> Found:
    """Negative log-likelihood in nats a cell, and squared error of each feature."""
    found = {}
    for name in ("nll_joint", "nll_latent"):
        if name in fit.errors:
            found["nll"] = fit.errors[name]
    if "nll_invariant" in fit.errors:
        found["nll_invariant"] = fit.errors["nll_invariant"]
    if fit.reconstructed is not None:
        found["mse"] = float(np.mean((fit.reconstructed - world.features()) ** 2))
    return found


def separation(world: World, fit: Fit, seed: int) -> Found:
    """What each latent of a model of one block drives, as in the study of that name."""
    if fit.latents is None or world.is_counts:
        return {}
    codes = np.asarray(fit.latents.codes, dtype=np.float64)
    unknown = np.full(codes.shape[1], np.nan)
    run = LatentRun(codes, unknown, np.asarray(fit.latents.informative), fit.latents.decode, {})
    found = latent_scores(world.adata, run, seed=seed)
    return {name: found[name] for name in MEASURES["separation"].columns if name in found}


MEASURES: dict[str, Measure] = {
    "leakage": Measure(
        leakage,
        {
            "leak_accuracy": "condition from z",
            "leak_null": "null 95 %",
            "leak_auroc": "",
            "leak_auroc_null": "",
            "leak_within_auroc": "AUROC within",
            "composition_accuracy": "from composition",
            "decoded_accuracy": "condition from decoded z",
            "decoded_null": "",
            "decoded_auroc": "",
        },
    ),
    "kept": Measure(kept, {"kept_accuracy": "shared from z", "kept_r2": "shared from z, R2"}),
    "specific": Measure(
        specific,
        {
            "specific_condition": "condition from w",
            "specific_accuracy": "shared from w",
            "specific_r2": "shared from w, R2",
        },
    ),
    "nmi": Measure(nmi, {"nmi_shared": "NMI shared", "nmi_condition": "NMI condition"}),
    "information": Measure(
        information,
        {
            "information_z": "",
            "information_z_floor": "",
            "information_w": "",
            "information_w_floor": "",
            "mig": "",
            "mig_adjusted": "MIG",
            "mic": "",
            "mic_adjusted": "MIC",
        },
    ),
    "reconstruction": Measure(
        reconstruction, {"nll": "NLL", "nll_invariant": "NLL without w", "mse": "MSE"}
    ),
    "swap": Measure(
        swap,
        {
            "swap_condition": "swap: condition of w",
            "judge_condition": "judge",
            "swap_shared": "swap: shared of z",
            "judge_shared": "judge of it",
            "swap_r2": "swap: shared of z, R2",
            "judge_r2": "judge of it, R2",
        },
    ),
    "separation": Measure(
        separation,
        {
            name: LATENT_TITLES[name]
            for name in (
                *("n_informative", "lsdi_fvh", "explained", "balance", "concentration"),
                *("lsdi_dbsr", "adjusted", "fdr", "recall", "mcc"),
            )
        },
    ),
}
"""What ``measures`` of a suite may name; a further one is a function and one entry here."""
