"""Which cells responded to a condition, with errors that are controlled."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse, stats
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scdisent._constants import UNS_KEY
from scdisent._errors import InputDataError, OptionError
from scdisent.data import _stored as stored
from scdisent.data import layer_name
from scdisent.effects import log_normalise

FEWEST_CELLS = 20
"""Of either condition in a group; groups with fewer are left out."""
STOREY = 0.5
"""P-values above it are taken to be of cells that did not respond."""


@dataclass(frozen=True)
class Called:
    """Cells of one group: scores of all, p-values and calls of the treated ones."""

    score: NDArray[np.float64]
    p: NDArray[np.float64]
    responsive: NDArray[np.bool_]


def responsive_cells(
    adata: AnnData,
    *,
    condition: str,
    control: str | None = None,
    condition_key: str | None = None,
    labels_key: str | None = None,
    dose_key: str | None = None,
    layer: str | None = None,
    is_counts: bool | None = None,
    fdr: float = 0.1,
    n_components: int = 30,
    n_folds: int = 5,
    key_added: str = UNS_KEY,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Say of each cell under a condition whether it responded, against the control cells' null.

    Within each cell type a logistic regression on principal components tells treated from control
    cells; each cell is scored by a fit that has not seen it. A treated cell that did not respond is
    a control cell, so its rank among the scores of the control cells is uniform:

    .. math:: p_i = \frac{1 + \#\{j \text{ control}: s_j \ge s_i\}}{1 + n_{control}}

    and cells are called at a false discovery rate (Benjamini and Hochberg). The share of responders
    is Storey's: one minus twice the share of p-values above a half.

    Parameters
    ----------
    adata
        Cells under both conditions.
    condition, control
        Levels of ``condition_key``; where there are doses ``"level@dose"``, as the model names
        them, or the level for all its doses.
    condition_key, labels_key, dose_key
        Columns of the condition, the cell type (without one all cells are one group; cells whose
        type is missing are left out) and the dose. Default: as stored by ``tl.embed``, and so is
        ``control``.
    layer, is_counts
        Values to read, and whether they are counts, which are log-normalised. Default: the layer
        and the likelihood that ``tl.embed`` stored, else counts in ``X``.
    fdr
        Share of false calls among the calls.
    n_components, n_folds
        Principal components of a group, and folds of the scores.
    key_added
        Prefix of the columns.
    seed
        Of the folds.

    Returns
    -------
    A row a group: ``n_control``, ``n_cells``, ``auroc`` (of the scores), ``share`` (of responders,
    called or not) and ``n_responsive``. ``obs`` gets ``<key>_response_score``,
    ``<key>_response_p`` (NaN for cells that were not asked) and ``<key>_responsive``.

    Raises
    ------
    OptionError
        If a level, a column or the layer is not there.
    InputDataError
        If no group has enough cells of both, a cell has no condition, or counts are none.

    Notes
    -----
    What differs between the two conditions for another reason, such as a batch, counts as a
    response. Scores of several folds are ranked together (cross-conformal, Vovk 2015), which is
    valid up to the folds' differences. Ours, after mixscape's idea (Papalexi 2021) that cells of a
    treatment may escape it.
    """
    made = stored.record(adata, "embed", key=key_added)
    condition_key = stored.named(condition_key, made.get("condition_key"))
    control = stored.named(control, made.get("control"))
    if condition_key is None or control is None:
        msg = "responsive_cells needs condition_key and control, or run tl.embed(adata, model)."
        raise OptionError(msg)
    condition, control = str(condition), str(control)
    dose_key = stored.named(dose_key, made.get("dose_key"))
    levels = stored.levels_of(
        adata, condition_key, dose_key=dose_key, control=control, wanted=condition
    )
    for level in (condition, control):
        if level not in levels:
            msg = f"{level!r} is not in obs[{condition_key!r}]: {sorted(set(levels))[:10]}."
            raise OptionError(msg)
    groups = _groups(adata, stored.named(labels_key, made.get("labels_key")))
    is_counts = stored.are_counts(is_counts, [], [adata], key=key_added)
    layer = stored.layer_of(adata, layer, key=key_added)
    x = stored.matrix_of(adata, layer, what="adata")
    if is_counts:
        stored.check_counts(x, where=layer_name(layer))
    score, p = np.full((2, adata.n_obs), np.nan)
    responsive, rows = np.zeros(adata.n_obs, dtype=bool), {}
    for group in np.unique(groups[pd.notna(groups)].astype(str)):
        own = np.flatnonzero((groups == group) & np.isin(levels, (condition, control)))
        treated = levels[own] == condition
        if min(treated.sum(), (~treated).sum()) < FEWEST_CELLS:
            continue
        values = log_normalise(x[own]) if is_counts else x[own]
        found = _call(values, treated, fdr, n_components=n_components, n_folds=n_folds, seed=seed)
        score[own], p[own[treated]] = found.score, found.p
        responsive[own[treated]] = found.responsive
        rows[group] = _summary(found, treated)
    if not rows:
        msg = f"no group has {FEWEST_CELLS} cells of both {condition!r} and {control!r}."
        raise InputDataError(msg)
    adata.obs[f"{key_added}_response_score"] = score
    adata.obs[f"{key_added}_response_p"] = p
    adata.obs[f"{key_added}_responsive"] = responsive
    return pd.DataFrame.from_dict(rows, orient="index")


def _groups(adata: AnnData, labels_key: str | None) -> NDArray[np.object_]:
    """Group of each cell, None where its label is missing."""
    if labels_key is None:
        return np.full(adata.n_obs, "all cells", dtype=object)
    labels = stored.column_of(adata, labels_key)
    groups = labels.astype(str).to_numpy(dtype=object, copy=True)
    groups[labels.isna().to_numpy()] = None
    return groups


def _call(
    values: Any,
    treated: NDArray[np.bool_],
    fdr: float,
    *,
    n_components: int,
    n_folds: int,
    seed: int,
) -> Called:
    values = values.astype(np.float64)
    expressed = np.asarray((values != 0).sum(axis=0)).ravel() > 1
    values = values[:, expressed]
    n_components = min(n_components, *(size - 1 for size in values.shape))
    codes = TruncatedSVD(n_components, random_state=seed).fit_transform(
        sparse.csr_matrix(values) if sparse.issparse(values) else values
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    score = cross_val_predict(classifier, codes, treated, cv=folds, method="decision_function")
    null = np.sort(score[~treated])
    above = len(null) - np.searchsorted(null, score[treated], side="left")
    p = (1 + above) / (1 + len(null))
    return Called(score, p, stats.false_discovery_control(p) <= fdr)


def _summary(found: Called, treated: NDArray[np.bool_]) -> dict[str, float]:
    idle = (found.p > STOREY).mean() / (1 - STOREY)
    return {
        "n_control": int((~treated).sum()),
        "n_cells": int(treated.sum()),
        "auroc": float(roc_auc_score(treated, found.score)),
        "share": float(max(0.0, 1 - idle)),
        "n_responsive": int(found.responsive.sum()),
    }
