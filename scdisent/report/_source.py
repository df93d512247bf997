"""What a page is made from: cells with stored results and, if given, their model."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scdisent._constants import UNS_KEY, obsm_key
from scdisent._errors import InputDataError
from scdisent.pl._latent import drawn_cells, latent_coordinates
from scdisent.tl._embed import described, history_frame, same_curves

EMBED, SCORE = "scdisent.tl.embed(adata, model)", "scdisent.tl.score(adata, model)"
MOST_POINTS = 5_000
"""Cells drawn: more of them make the page slow and hide one another."""
SIDE, MARGIN = 1_000, 20
"""Size of a drawing of points and its rim, in its own units."""
N_NEIGHBORS = 15
"""Of the UMAP, as in ``pl.latent``."""
FACTS = (
    "model", "version", "preset", "likelihood", "layer", "control", "condition_key", "labels_key",
    "sample_key", "batch_key",
)  # fmt: skip
"""Names of :attr:`Source.facts`."""
ROLES = {"condition_key": "condition", "labels_key": "cell type", "sample_key": "donor"}
"""What columns of ``obs`` are for, in the words of the page."""

Points = NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """Cells, model and seed; nothing of them is changed."""

    adata: AnnData
    model: Any
    seed: int

    def __post_init__(self) -> None:
        if self.model is None and "embed" not in self.results:
            msg = (
                f"adata.uns[{UNS_KEY!r}] holds no results of a model. Call {EMBED} first, or pass "
                "the model."
            )
            raise InputDataError(msg)
        self._check_same_model()

    @cached_property
    def results(self) -> dict[str, Any]:
        """What the tools stored."""
        return dict(self.adata.uns.get(UNS_KEY, {}))

    @cached_property
    def facts(self) -> dict[str, str]:
        """What is known of the model and its setup; an empty string where nothing is."""
        stored = {name: str(value) for name, value in self.results.get("embed", {}).items()}
        own = {} if self.model is None else described(self.model)
        return {**dict.fromkeys(FACTS, ""), **stored, **own}

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """Training curves, stored or of the model."""
        stored = self.results.get("history")
        return stored if stored is not None else history_of(self.model)

    @property
    def representations(self) -> list[str]:
        """Blocks of latents."""
        if self.model is not None:
            return list(getattr(self.model, "representations", ()))
        return [str(name) for name in self.results["embed"].get("representations", ())]

    @property
    def blocks(self) -> list[str]:
        """Those whose codes are stored."""
        return [name for name in self.representations if obsm_key(name) in self.adata.obsm]

    @cached_property
    def cells(self) -> NDArray[np.intp]:
        """Positions of the cells that are drawn, in random order."""
        return drawn_cells(self.adata.n_obs, seed=self.seed)[:MOST_POINTS]

    @cached_property
    def points(self) -> dict[str, Points]:
        """Places of the drawn cells for each block, ``(n_drawn, 2)``; y points down."""
        how: dict[str, Any] = {"cells": self.cells, "n_neighbors": N_NEIGHBORS, "seed": self.seed}
        return {name: _placed(latent_coordinates(self.adata, name, **how)) for name in self.blocks}

    def column(self, role: str) -> str:
        """Column of ``obs`` with a role at setup; empty if none was named or it is not there."""
        key = self.facts[role]
        return key if key in self.adata.obs else ""

    def _check_same_model(self) -> None:
        """Refuse stored results that were made by another model than the one that was given."""
        stored, own = self.results.get("history"), history_of(self.model)
        if stored is None or own is None:
            return
        if not same_curves(stored, own):
            msg = (
                "the training curves stored with the cells are not those of the model: the "
                f"results are of another one. Call {EMBED} and {SCORE} with this model."
            )
            raise InputDataError(msg)


def _placed(coordinates: NDArray[np.floating]) -> Points:
    """Coordinates in units of a square drawing, both axes on one scale."""
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    scale = (SIDE - 2 * MARGIN) / (float((high - low).max()) or 1.0)
    centred = (coordinates - (low + high) / 2) * scale
    return np.rint(SIDE / 2 + centred * [1, -1]).astype(np.int64)


def history_of(model: Any) -> pd.DataFrame | None:
    """Curves of a model side by side; None where there are none."""
    history = getattr(model, "history", None)
    return history_frame(history) if history else None
