"""Responses that were not seen: models beside arithmetic and the ceiling, by question."""

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scdisent import metrics as sm
from scdisent import tl
from scdisent._errors import OptionError
from scdisent.benchmarks._grid import Row, Task, run_grid
from scdisent.benchmarks._peers import NEEDS, PEERS
from scdisent.benchmarks._report import environment
from scdisent.benchmarks._response_page import COVERAGE, RANK, write_page
from scdisent.benchmarks._unseen import WORLDS, World
from scdisent.conditions import ConditionTable
from scdisent.effects import GROUP_RECIPES, UNSEEN, log_normalise, predicted_effect
from scdisent.model import CGVAE, DISCoVeR, ShiftModel, setup_anndata
from scdisent.model._anchor import ALL_CELLS
from scdisent.splits import Question, Split

SEEDS = (0, 1, 2)
COUNTED = ("stacked", "weighted")
"""Recipes whose counts are shown beside the plain shift."""
ALONE = {"anchor": None}
VARIANTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "DISCoVeR": [
        ("", {}),
        (", network alone", ALONE),
        (", w moved alone", {**ALONE, "transfer": "mean_difference"}),
    ],
    "CG-VAE": [("", {}), (", anchored", {"anchor": "auto"})],
    **{name: [("", {})] for name in PEERS},
}
"""Predictions of each network, by what is added to its name."""
ANCHORED = (", anchored", {"anchor": "auto"})
"""DISCoVeR where it does not move means by itself: seen conditions without cell types."""
N_SMALLEST = 3
"""Conditions of a split from which on it is asked whether they are told apart."""
AUTO_COUNTS = "auto, counts"
FEWEST_CELLS = 30
"""Of a cell type whose change is held against its interval."""
Predictions = dict[str, AnnData | NDArray[np.floating]]


class Fitted:
    """A method on the training cells of one split: predictions by name for each question."""

    def __init__(
        self, name: str, train: AnnData, world: World, table: ConditionTable | None, *, seed: int
    ) -> None:
        self.name, self.seed = name, seed
        self.labels_key = world.setup.get("labels_key")
        setup_anndata(train, condition_table=table, **world.setup)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = MODELS[name](train, seed)
        self.seconds = time.process_time() - start

    def predictions(self, source: AnnData, question: Question) -> Predictions:
        """What the method says, in all its variants."""
        predict = partial(self.model.predict, source, condition=question.condition, seed=self.seed)
        if self.name == SHIFT:
            return self._baselines(source, question, predict)
        variants = list(VARIANTS[self.name])
        is_own = self.name == "DISCoVeR"  # peers have no registry of ours
        if is_own and self.labels_key is None and self._knows(question.condition):
            variants.append(ANCHORED)
        return {f"{self.name}{title}": predict(**options) for title, options in variants}

    def _knows(self, condition: str) -> bool:
        return condition in self.model.conditions

    @property
    def own_name(self) -> str:
        """Name of the prediction that a method makes by default."""
        return AUTO_COUNTS if self.name == SHIFT else self.name

    def coverage(self, source: AnnData, observed: AnnData, question: Question) -> float:
        """Share of genes whose observed change lies in its 90 % interval; NaN without intervals."""
        if not hasattr(self.model, "predict_change"):
            return float("nan")
        table = self.model.predict_change(source, condition=question.condition, seed=self.seed)
        key, found = self.labels_key, []
        for name, rows in table.dropna().groupby("cell_type"):
            both = [
                x if key is None else x[x.obs[key].astype(str) == name] for x in (observed, source)
            ]
            if min(x.n_obs for x in both) < FEWEST_CELLS:
                continue
            change = _mean(both[0]) - _mean(both[1])
            found.append(float(((rows["low"] <= change) & (change <= rows["high"])).mean()))
        return float(np.mean(found)) if found else float("nan")

    def _baselines(
        self, source: AnnData, question: Question, predict: Callable[..., AnnData]
    ) -> Predictions:
        """Recipes over cell types for a seen condition, over conditions for an unseen one."""
        found: Predictions = {}
        if self._knows(question.condition):
            one_group = len(self.model.effects_.groups) == 1
            for recipe in ("mean",) if one_group else GROUP_RECIPES:
                found[recipe] = self._shifted(source, question, recipe=recipe)
            counted = ("mean",) if one_group else COUNTED
            found |= {f"{r}, counts": predict(transfer=r) for r in counted}
            return {**found, AUTO_COUNTS: predict()}
        for recipe in UNSEEN:
            try:
                found[recipe] = self._shifted(source, question, unseen=recipe)
            except OptionError:  # not a question this recipe can answer
                continue
        return {**found, AUTO_COUNTS: predict()}

    def _shifted(self, source: AnnData, question: Question, **recipes: Any) -> NDArray[np.floating]:
        """The textbook baseline: logarithms plus the effect, not below zero."""
        cells = np.asarray(log_normalise(source.X).todense())
        key, moved = self.labels_key, np.empty_like(cells)
        types = np.full(len(cells), ALL_CELLS)
        if key is not None:
            types = source.obs[key].astype(str).to_numpy()
        for name in np.unique(types):
            own = types == name
            effect = predicted_effect(
                self.model.effects_,
                question.condition,
                group=name,
                conditions=self.model.condition_table,
                profile=cells[own].mean(axis=0),
                **recipes,
            )
            moved[own] = cells[own] + effect
        return moved.clip(0)


SHIFT = "shift"


def _shift(train: AnnData, seed: int) -> ShiftModel:
    model = ShiftModel(train)
    model.train()
    return model


def _discover(train: AnnData, seed: int) -> DISCoVeR:
    model = DISCoVeR(train, seed=seed)
    model.train(seed=seed, enable_progress_bar=False)
    return model


def _cgvae(train: AnnData, seed: int) -> CGVAE:
    model = CGVAE(train, n_latent=20, seed=seed)
    model.train(seed=seed, enable_progress_bar=False)
    return model


MODELS: dict[str, Callable[[AnnData, int], Any]] = {
    SHIFT: _shift,
    "DISCoVeR": _discover,
    "CG-VAE": _cgvae,
    **PEERS,
}


def run_task(task: Task) -> list[Row]:
    """Fit one method to one split and put all its questions."""
    world_name, split_name, method, seed = task
    world = WORLDS[world_name]
    adata = world.load(seed)
    (split,) = (s for s in world.split(adata) if s.name == split_name)
    table = world.table(adata)  # it reads names and control cells, which are never hidden
    fitted = Fitted(method, _training_cells(adata, split, world), world, table, seed=seed)
    rows: list[Row] = []
    means: dict[str, list[NDArray[np.floating]]] = {}
    for question in split.questions:
        observed, source = (adata[m].copy() for m in (question.target, question.source))
        found = fitted.predictions(source, question)
        counts = _counts(found) or {"": source}  # arrays alone can not be asked about
        table = tl.evaluate_response(observed, counts, source, baselines=_arrays(found))
        if method != SHIFT:  # baselines and ceiling are in the rows of the shift
            table = table[table["method"].isin(found)].assign(kind="prediction")
        values = table.pivot(index=["kind", "method"], columns="metric", values="value")
        inside = fitted.coverage(source, observed, question)
        values.loc[values.index == ("prediction", fitted.own_name), COVERAGE] = inside
        shared = {"world": world_name, "split": split_name, "group": question.group}
        shared |= {"condition": question.condition, "seed": seed, "seconds": fitted.seconds}
        rows += [
            {**shared, "kind": kind, "method": name, **row}
            for (kind, name), row in values.to_dict("index").items()
        ]
        for name, cells in {**found, TRUTH: observed}.items():
            means.setdefault(name, []).append(_mean(cells))
    return rows + _ranks(means, rows[0])


TRUTH = "truth"


def _training_cells(adata: AnnData, split: Split, world: World) -> AnnData:
    train = adata[split.train].copy()
    key = world.setup["condition_key"]
    train.obs[key] = train.obs[key].astype("category").cat.remove_unused_categories()
    return train


def _counts(found: Predictions) -> dict[str, AnnData]:
    return {name: cells for name, cells in found.items() if isinstance(cells, AnnData)}


def _arrays(found: Predictions) -> dict[str, NDArray[np.floating]]:
    return {name: cells for name, cells in found.items() if not isinstance(cells, AnnData)}


def _mean(cells: AnnData | NDArray[np.floating]) -> NDArray[np.floating]:
    values = log_normalise(cells.X) if isinstance(cells, AnnData) else cells
    return np.asarray(values.mean(axis=0)).ravel()


def _ranks(means: dict[str, list[NDArray[np.floating]]], like: Row) -> list[Row]:
    """Whether the conditions of a split are told apart; a row a method."""
    truth = np.array(means.pop(TRUTH))
    if len(truth) < N_SMALLEST:
        return []
    shared = {name: like[name] for name in ("world", "split", "seed")}
    return [
        {
            **shared,
            "method": name,
            "kind": "ranks",
            RANK: sm.discrimination_rank(truth, np.array(found)),
            "centroid_accuracy": sm.centroid_accuracy(truth, np.array(found)),
        }
        for name, found in means.items()
    ]


def methods_of(world: World) -> list[str]:
    """Closed forms and the networks of a world, but peers that are not installed."""
    return [SHIFT, *(n for n in world.networks if n not in NEEDS or find_spec(NEEDS[n]))]


def tasks(worlds: Sequence[str] = tuple(WORLDS), seeds: Sequence[int] = SEEDS) -> list[Task]:
    """Every split of every world with every method that can answer; the shift first."""
    found: list[Task] = []
    for name in worlds:
        world = WORLDS[name]
        names = [split.name for split in world.split(world.load(seeds[0]))]
        found += [
            (name, split, method, seed)
            for method in methods_of(world)
            for seed in seeds
            for split in names
        ]
    return found


def response(
    out: str | Path,
    *,
    worlds: Sequence[str] = tuple(WORLDS),
    seeds: Sequence[int] = SEEDS,
    n_processes: int = 2,
) -> pd.DataFrame:
    """Run what is not in ``out/response.csv`` yet, then write ``response.md``."""
    out = Path(out)
    table = run_grid(out / "response.csv", tasks(worlds, seeds), run_task, n_processes=n_processes)
    (out / "response.md").write_text(write_page(table, environment(n_processes)))
    return table
