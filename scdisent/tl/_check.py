"""Whether a model predicts cell types it has not seen better than arithmetic."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scdisent import metrics as sm
from scdisent._errors import InputDataError, OptionError, SetupError
from scdisent.data import conditions_of
from scdisent.effects import GROUP_RECIPES, group_effect, log_normalise

ALONE = "network alone"
FEWEST_GROUPS = 3


def check_response(
    model: Any,
    *,
    condition: str | None = None,
    n_groups: int = 3,
    max_epochs: int | None = None,
    min_cells: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Fit the model again without the response of some cell types, and compare with closed forms.

    Inner cross-validation over cell types of training. The result is also kept in
    ``model.response_check_``, and ``predict`` warns where a closed form was better than what it
    does by default.

    Parameters
    ----------
    model
        A trained model with its AnnData, set up with ``labels_key``, ``control`` and counts.
    condition
        Whose response is left out. Default: the one that most cell types were seen under.
    n_groups
        Cell types to leave out, one fit each; those with most cells.
    max_epochs
        Of each fit; None: as many as the model was trained for.
    min_cells
        Cells that a left-out cell type must have under either condition.
    seed
        Of fits and draws.

    Returns
    -------
    A row for each method: ``kind`` (model or closed form), ``mse`` of the mean expression
    and ``pearson_delta``, means over the cell types left out; sorted by ``mse``.

    Raises
    ------
    OptionError
        For a model that is a closed form itself.
    SetupError
        If the model has no AnnData, no cell types or no control.
    InputDataError
        If fewer than three cell types were seen under both conditions.
    """
    model._need_training()
    arguments = model.registry_["setup_args"]
    labels_key = arguments.get("labels_key")
    if model.adata is None or labels_key is None or model.control is None:
        msg = "check_response needs model.adata, and a setup with labels_key and control."
        raise SetupError(msg)
    if not hasattr(model, "default_anchor") or model.history_ is None:
        msg = f"check_response fits a network again; {type(model).__name__} is a closed form."
        raise OptionError(msg)
    groups = model.adata.obs[labels_key].astype(str).to_numpy()
    levels = conditions_of(model.adata.obs, model.registry_).astype(str).to_numpy()
    condition = _most_seen(model) if condition is None else str(condition)
    pairs = [_Pair(groups, levels, name, condition, model.control) for name in np.unique(groups)]
    pairs = sorted((p for p in pairs if p.size >= min_cells), key=lambda p: -p.size)
    if len(pairs) < FEWEST_GROUPS:
        msg = (
            f"{len(pairs)} cell types have {min_cells} cells under {condition!r} and "
            f"{model.control!r}: at least {FEWEST_GROUPS} are needed to learn from others."
        )
        raise InputDataError(msg)
    rows = [row for pair in pairs[:n_groups] for row in _scores(model, pair, max_epochs, seed)]
    table = pd.DataFrame(rows).groupby(["method", "kind"]).mean().reset_index("kind")
    table = table.sort_values("mse")
    closed = table.loc[table["kind"] == "closed form", "mse"]
    model.response_check_ = {
        "condition": condition,
        "best": str(closed.idxmin()),
        "ratio": float(table.loc[type(model).__name__, "mse"] / closed.min()),
    }
    return table


class _Pair:
    """Cells of a type under both conditions."""

    def __init__(
        self,
        groups: NDArray[Any],
        levels: NDArray[Any],
        name: str,
        condition: str,
        control: str,
    ) -> None:
        self.name, self.condition = name, condition
        self.target = (groups == name) & (levels == condition)
        self.source = (groups == name) & (levels == control)

    @property
    def size(self) -> int:
        return int(min(self.target.sum(), self.source.sum()))


def _most_seen(model: Any) -> str:
    table = model.effects_
    seen = {c: int((table.n_cells[:, table.conditions.index(c)] > 0).sum()) for c in table.treated}
    return max(seen, key=seen.__getitem__)


def _scores(model: Any, pair: _Pair, max_epochs: int | None, seed: int) -> Iterator[dict[str, Any]]:
    """Errors on one cell type of everything that has not seen its response."""
    again = _refitted(model, model.adata[~pair.target].copy(), max_epochs, seed)
    observed, source = (model.adata[mask].copy() for mask in (pair.target, pair.source))
    layer = model.registry_["setup_args"].get("layer")

    def values(cells: AnnData, own_layer: str | None = None) -> NDArray[np.float64]:
        x = cells.X if own_layer is None else cells.layers[own_layer]
        x = log_normalise(x) if model.module.expects == "counts" else x
        return np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float64)

    truth, start = values(observed, layer), values(source, layer)
    options = {"condition": pair.condition, "seed": seed}
    found = {type(model).__name__: ("model", values(again.predict(source, **options)))}
    alone = again.predict(source, **options, anchor=None)
    found[ALONE] = ("model", values(alone))
    for recipe in GROUP_RECIPES:
        effect = group_effect(again.effects_, pair.condition, group=pair.name, recipe=recipe)
        found[recipe] = ("closed form", start + effect)
    for name, (kind, cells) in found.items():
        yield {
            "method": name,
            "kind": kind,
            "mse": sm.mse_mean(truth, cells),
            "pearson_delta": sm.pearson_delta(truth, cells, start),
        }


def _refitted(model: Any, cells: AnnData, max_epochs: int | None, seed: int) -> Any:
    """The same model on fewer cells."""
    for key in [key for key in cells.uns if key.startswith("_scvi")]:
        del cells.uns[key]  # the copy must not take the place of the user's AnnData in scvi-tools
    type(model).setup_anndata(cells, **model.registry_["setup_args"])
    again = type(model)(cells, **{**model._arguments(), "registry": None, "seed": seed})
    epochs = max_epochs or int(next(iter(model.history_.values())).index.max()) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user has seen them when training the model itself
        again.train(epochs, seed=seed, enable_progress_bar=False)
    return again
