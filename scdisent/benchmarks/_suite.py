"""What a suite says: a grid of data, methods and seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Data:
    """``[data.NAME]``: cells, their columns, and what all networks on them are given."""

    name: str
    make: str
    options: Mapping[str, Any] = field(default_factory=dict)
    setup: Mapping[str, str | None] = field(default_factory=dict)
    """Arguments of :func:`scdisent.setup_anndata`; without ``condition_key``: no conditions."""
    shared: str | None = None
    shared_numbers: tuple[str, ...] = ()
    fit_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Levels of ``obs`` columns to fit on; the other cells are audited."""
    n_cells: int | None = None
    n_genes: int | None = None
    standardise: bool = False
    likelihood: str = "nb"
    model: Mapping[str, Any] = field(default_factory=dict)
    """Options of every method on these cells that knows them; a method's own go first."""
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """``[method.NAME]``: what is fitted, on which data (empty: all)."""

    name: str
    make: str
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One method on one data set with one seed."""

    data: Data
    method: Method
    seed: int
    measures: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.data.name} | {self.method.name} | seed {self.seed}"


@dataclass(frozen=True)
class Suite:
    """A grid of data, methods and seeds, and what is measured on it."""

    name: str
    title: str
    about: str
    seeds: tuple[int, ...]
    measures: tuple[str, ...]
    data: tuple[Data, ...]
    methods: tuple[Method, ...]
    reference: str | None = None
    """Method whose leakage and preservation the page compares with those of all others."""
