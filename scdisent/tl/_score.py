"""The audit of a model on cells: what leaks where, what is kept, how well it reconstructs."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from scdisent import metrics as sm
from scdisent._constants import UNS_KEY
from scdisent._errors import InputDataError, ScDisentWarning, SetupError, one_of
from scdisent.tl._embed import setup_keys, store_results
from scdisent.tl._latents import dbsr_ls, fvh_lt, lsdi
from scdisent.tl._space import random_cells

PARTS = (
    "leakage",
    "controls",
    "cell_type",
    "nmi",
    "likelihood",
    "fvh_lt",
    "dbsr_ls",
    "lsdi",
)
N_DECODED = 30
"""Principal components of the decoded profile that attackers read."""

Codes = NDArray[np.floating]


@dataclass(frozen=True)
class _Labels:
    """Arrays ``(n_cells,)`` of what is known of each audited cell; None: not set up."""

    condition: Any
    cell_type: Any
    sample: Any


def score(
    adata: AnnData,
    model: Any,
    *,
    metrics: Sequence[str] | None = None,
    max_cells: int = 10_000,
    min_cells: int = 100,
    key_added: str = UNS_KEY,
    seed: int = 0,
) -> pd.DataFrame:
    """Audit a trained model on cells and store the tables.

    Parameters
    ----------
    adata
        Cells with the columns named at setup. Cells that the model was trained on make every
        leak look at least as large, so they are allowed; attackers never score the cells, and with
        ``sample_key`` never the donors, that they were fitted on. Cells whose cell type is missing
        are left out of the audit.
    model
        A trained model.
    metrics
        Parts to compute, default all: ``"leakage"`` (condition from the invariant codes and from
        what they decode to, pooled and within cell types), ``"controls"`` (positive: specific
        codes, principal components of the data; negative: invariant codes with shuffled labels;
        and what cell type or depth alone give away), ``"cell_type"`` (what is kept), ``"nmi"``
        (k-means, only for comparison with published tables), ``"likelihood"``; and, without
        labels, ``"fvh_lt"``, ``"dbsr_ls"``, ``"lsdi"``: what each latent drives and how well they
        are separated (the functions of these names). Parts that need a condition or cell types
        are left out where setup named none, and with a warning where the cells do not allow them.
    max_cells
        Audit a random subset of larger data, with enough cells of rare conditions.
    min_cells
        Cell types with fewer cells are not audited on their own.
    key_added
        Name under which results are stored.
    seed
        Of subset, attackers and permutations.

    Returns
    -------
    Tidy table with the columns ``metric, representation, target, value, lower, upper, null_95``,
    also in ``uns[<key>]["scores"]``. ``uns[<key>]["leakage"]`` holds the audit in full,
    ``uns[<key>]["leakage_skipped"]`` why cell types were not audited on their own,
    ``uns[<key>]["statement"]`` its conclusion in words.

    Raises
    ------
    SetupError
        If a column named at setup is missing, or the model has no codes.
    InputDataError
        If the condition or the sample of a cell is missing, or the cell type of all of them.
    """
    parts = [one_of(part, PARTS, "metrics") for part in (metrics or PARTS)]
    if not model.representations:
        msg = f"a {type(model).__name__} has no latent codes to audit. See tl.evaluate_response."
        raise SetupError(msg)
    keys = setup_keys(model)
    cells = _with_labels(adata, keys)
    cells = random_cells(cells, max_cells, seed=seed, spread_over=keys["condition_key"])
    labels = _read_labels(cells, keys)
    codes = {
        name: model.get_latent_representation(cells, representation=name)
        for name in model.representations
    }
    audits: dict[str, sm.Leakage] = {}
    if "leakage" in parts and labels.condition is not None:
        with _left_out("leakage"):
            audits |= _leaks(cells, model, codes, labels, min_cells=min_cells, seed=seed)
    if "controls" in parts and labels.condition is not None:
        with _left_out("controls"):
            audits |= _controls(cells, model, codes, labels, seed=seed)
    rows = [_leak_row(name, audit) for name, audit in audits.items()]
    if labels.cell_type is not None:
        if "cell_type" in parts:
            with _left_out("cell_type"):
                rows += _cell_type_rows(codes, labels, seed=seed)
        if "nmi" in parts:
            rows += _nmi_rows(codes, labels, seed=seed)
    if "likelihood" in parts:
        rows += [
            _row(name, "", "expression", value)
            for name, value in model.get_reconstruction_error(cells, seed=seed).items()
        ]
    rows += _latent_rows(adata, model, parts, key=key_added, seed=seed)
    table = pd.DataFrame(rows, columns=_COLUMNS)
    _store(adata, table, audits, key_added)
    return table


@contextmanager
def _left_out(part: str) -> Iterator[None]:
    """Go on without a part that these cells cannot answer, and say so."""
    try:
        yield
    except InputDataError as error:
        msg = f"tl.score leaves out {part!r}: {error}"
        warnings.warn(msg, ScDisentWarning, stacklevel=4)


_COLUMNS = ["metric", "representation", "target", "value", "lower", "upper", "null_95"]


def _row(metric: str, representation: str, target: str, value: float, **more: float) -> dict:
    empty = dict.fromkeys(("lower", "upper", "null_95"), np.nan)
    return {
        "metric": metric,
        "representation": representation,
        "target": target,
        "value": float(value),
        **empty,
        **more,
    }


def _latent_rows(
    adata: AnnData, model: Any, parts: Sequence[str], *, key: str, seed: int
) -> list[dict]:
    """What needs no labels: the functions store their tables, the index goes into the scores."""
    if "fvh_lt" in parts:
        fvh_lt(adata, model, key_added=key, seed=seed)
    if "dbsr_ls" in parts:
        dbsr_ls(adata, model, key_added=key, seed=seed)
    if "lsdi" not in parts:
        return []
    found = lsdi(adata, key_added=key, seed=seed)
    return [
        _row(f"lsdi ({row.tool})", row.block, "expression", row.value) for row in found.itertuples()
    ]


def _with_labels(adata: AnnData, keys: Mapping[str, str]) -> AnnData:
    """Cells whose cell type is known; without its condition or sample no cell can be audited."""
    named = {name: keys[name] for name in ("condition_key", "sample_key", "labels_key")}
    for name, key in named.items():
        if key and key not in adata.obs:
            msg = f"adata.obs has no column {key!r} ({name} at setup), which the audit needs."
            raise SetupError(msg)
    missing = {name: adata.obs[key].isna() for name, key in named.items() if key}
    unlabelled = missing.pop("labels_key", pd.Series(False, index=adata.obs_names))
    for name, absent in missing.items():
        if absent.any():
            msg = (
                f"adata.obs[{named[name]!r}] ({name} at setup) is missing in "
                f"{int(absent.sum()):,} of {adata.n_obs:,} cells. Fill it, or drop them: "
                f"adata = adata[adata.obs[{named[name]!r}].notna()].copy()."
            )
            raise InputDataError(msg)
    if unlabelled.all():
        msg = (
            f"adata.obs[{named['labels_key']!r}] (labels_key at setup) is missing in all "
            f"{adata.n_obs:,} cells. Fill it: at least some cells need a cell type."
        )
        raise InputDataError(msg)
    return adata[~unlabelled.to_numpy()] if unlabelled.any() else adata


def _read_labels(adata: AnnData, keys: Mapping[str, str]) -> _Labels:
    names = ("condition_key", "labels_key", "sample_key")
    found = (adata.obs[keys[name]].astype(str).to_numpy() if keys[name] else None for name in names)
    return _Labels(*found)


def _leaks(
    cells: AnnData,
    model: Any,
    codes: Mapping[str, Codes],
    labels: _Labels,
    *,
    min_cells: int,
    seed: int,
) -> dict[str, sm.Leakage]:
    """Condition from the invariant codes and from what they decode to."""
    read = dict([next(iter(codes.items()))])  # the block that must not know the condition
    if "invariant" in codes:
        read["decoded"] = decoded_features(cells, model, seed=seed)
    return {
        name: sm.leakage(
            values,
            labels.condition,
            groups=labels.sample,
            within=labels.cell_type,
            min_cells=min_cells,
            seed=seed,
        )
        for name, values in read.items()
    }


def decoded_features(cells: AnnData, model: Any, *, seed: int) -> Codes:
    """Principal components of the log profile that the invariant codes alone decode to.

    A function of the invariant codes: it can hold no more than they do, but a probe may find it
    more easily. Heads that see the condition decode every cell under the same one.

    Parameters
    ----------
    cells
        Cells with the columns named at setup.
    model
        A trained model.
    seed
        Of the decomposition.

    Returns
    -------
    ``(n_cells, n_components)``.
    """
    profile = model.get_normalized_expression(
        cells,
        reconstruction="invariant",
        transform_condition=model.conditions[0],
        return_numpy=True,
    )
    if model.module.expects == "counts":
        profile = np.log1p(profile)
    n_components = min(N_DECODED, *profile.shape)
    return PCA(n_components, random_state=seed).fit_transform(profile)


def _controls(
    cells: AnnData, model: Any, codes: Mapping[str, Codes], labels: _Labels, *, seed: int
) -> dict[str, sm.Leakage]:
    """Audits whose outcome is known: they show that the attackers work."""
    shuffled = np.random.default_rng(seed).permutation(labels.condition)
    expression, depth = model.expression_summary(cells, n_components=N_DECODED, seed=seed)
    first, *others = codes
    audits = {name: (codes[name], labels.condition) for name in others}
    audits |= {
        "expression": (expression, labels.condition),
        "depth only": (depth, labels.condition),
        "shuffled": (codes[first], shuffled),
    }
    found = {
        name: sm.leakage(values, condition, groups=labels.sample, seed=seed)
        for name, (values, condition) in audits.items()
    }
    if labels.cell_type is not None:
        found["type only"] = sm.composition_baseline(
            labels.condition, labels.cell_type, groups=labels.sample, seed=seed
        )
    return found


def _leak_row(name: str, audit: sm.Leakage) -> dict:
    lower, upper = audit.interval.loc["auroc", ["lower", "upper"]]
    null = audit.null.loc["auroc", "upper_95"]
    return _row("leakage", name, "condition", audit.auroc, lower=lower, upper=upper, null_95=null)


def _cell_type_rows(codes: Mapping[str, Codes], labels: _Labels, *, seed: int) -> list[dict]:
    return [
        _row(
            name,
            block,
            "cell_type",
            function(values, labels.cell_type, groups=labels.sample, seed=seed),
        )
        for block, values in codes.items()
        for name, function in (
            ("knn_accuracy", sm.knn_accuracy),
            ("label_recovery", sm.label_recovery),
        )
    ]


def _nmi_rows(codes: Mapping[str, Codes], labels: _Labels, *, seed: int) -> list[dict]:
    targets = {"cell_type": labels.cell_type, "condition": labels.condition}
    block, values = next(iter(codes.items()))
    return [
        _row("nmi", block, target, sm.nmi(values, truth, seed=seed))
        for target, truth in targets.items()
        if truth is not None
    ]


def _store(adata: AnnData, table: pd.DataFrame, audits: Mapping[str, sm.Leakage], key: str) -> None:
    store_results(adata, key, scores=table)
    if audits:
        frames = [
            audit.to_frame().assign(representation=name, target="condition")
            for name, audit in audits.items()
        ]
        skipped = pd.DataFrame(
            [
                {"representation": name, "group": group, "reason": reason}
                for name, audit in audits.items()
                for group, reason in audit.skipped.items()
            ],
            columns=["representation", "group", "reason"],
            dtype=str,
        )
        tables = {"leakage": pd.concat(frames, ignore_index=True), "leakage_skipped": skipped}
        store_results(adata, key, **tables)
    if "invariant" in audits:
        store_results(adata, key, statement=str(audits["invariant"].equivalent()))
    elif audits:
        adata.uns[key].pop("statement", None)  # of another model
