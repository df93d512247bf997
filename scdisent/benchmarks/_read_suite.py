"""Suites: what a TOML file says, checked, and expanded to runs."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scdisent._errors import OptionError
from scdisent.benchmarks._data import LOADERS, check_options
from scdisent.benchmarks._measures import MEASURES
from scdisent.benchmarks._methods import MAKERS
from scdisent.benchmarks._suite import Data, Method, Run, Suite

SETUP_KEYS = ("condition_key", "control", "layer", "labels_key", "batch_key", "sample_key")
_TOP = {"title": str, "about": str, "seeds": list, "measures": list, "data": dict, "method": dict}
_OPTIONAL: dict[str, type] = {"reference": str}
_DATA = {
    "make": str,
    "options": dict,
    "setup": dict,
    "shared": str,
    "shared_numbers": list,
    "fit_on": dict,
    "n_cells": int,
    "n_genes": int,
    "standardise": bool,
    "likelihood": str,
    "model": dict,
    "train": dict,
}
_METHOD = {"make": str, "options": dict, "train": dict, "data": list}


def expand(suite: Suite) -> list[Run]:
    """All runs of a suite, in the order of its tables."""
    return [
        Run(data, _given(method, data), seed, suite.measures)
        for data in suite.data
        for method in suite.methods
        if not method.data or data.name in method.data
        for seed in suite.seeds
    ]


def _given(method: Method, data: Data) -> Method:
    """Return the method with what the data set says for all of them."""
    maker = MAKERS[method.make]
    known = maker.options
    shared = {k: v for k, v in data.model.items() if known is None or k in known}
    train = {**data.train, **method.train} if maker.trains else {}
    return replace(method, options={**shared, **method.options}, train=train)


def read_suite(path: Path, *, seeds: Sequence[int] | None = None) -> Suite:
    """Read a suite; ``seeds`` replace its own.

    Raises
    ------
    OptionError
        If the file is no TOML, or a key, a name or a value in it is not known.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is not a TOML file: {error}."
        raise OptionError(msg) from error
    where = f"suite {path.name}"
    _check(found, {**_TOP, **_OPTIONAL}, where, needed=_TOP)
    _check_names(found["measures"], MEASURES, f"{where}, measures")
    data = [_data(name, found["data"][name], where) for name in found["data"]]
    methods = [_method(name, found["method"][name], where) for name in found["method"]]
    for method in methods:
        _check_names(method.data, found["data"], f"{where}, [method.{method.name!r}] data")
    if "reference" in found:
        _check_names([found["reference"]], found["method"], f"{where}, reference")
    return Suite(
        path.stem,
        found["title"],
        found["about"].strip(),
        _seeds(found["seeds"] if seeds is None else seeds, where),
        tuple(found["measures"]),
        tuple(data),
        tuple(methods),
        found.get("reference"),
    )


def _data(name: str, found: Any, where: str) -> Data:
    where = f"{where}, [data.{name!r}]"
    _check(found, _DATA, where, needed=("make",))
    _check_names([found["make"]], LOADERS, f"{where} make")
    check_options(found["make"], found.get("options", {}), f"{where} options")
    _check(found.get("setup", {}), dict.fromkeys(SETUP_KEYS, str), f"{where} setup")
    fit_on = {
        key: tuple(str(v) for v in (levels if isinstance(levels, list) else [levels]))
        for key, levels in found.get("fit_on", {}).items()
    }
    numbers = tuple(found.get("shared_numbers", ()))
    return Data(name, **{**found, "fit_on": fit_on, "shared_numbers": numbers})


def _method(name: str, found: Any, where: str) -> Method:
    where = f"{where}, [method.{name!r}]"
    _check(found, _METHOD, where, needed=("make",))
    _check_names([found["make"]], MAKERS, f"{where} make")
    maker = MAKERS[found["make"]]
    if maker.options is not None:
        _check_names(found.get("options", {}), maker.options, f"{where} options")
    if found.get("train") and not maker.trains:
        msg = f"{where}: {found['make']!r} has no training. Leave out train."
        raise OptionError(msg)
    return Method(name, **{**found, "data": tuple(found.get("data", ()))})


def _check(
    found: Any, known: Mapping[str, type], where: str, *, needed: Iterable[str] = ()
) -> None:
    """Refuse keys that are not known, values of another type, and keys that are missing."""
    if not isinstance(found, dict):
        msg = f"{where} must be a table of keys, found {found!r}."
        raise OptionError(msg)
    _check_names(found, known, where)
    for key, value in found.items():
        if type(value) is not known[key]:
            msg = f"{where}: {key} must be of type {known[key].__name__}, found {value!r}."
            raise OptionError(msg)
    missing = [key for key in needed if key not in found]
    if missing:
        msg = f"{where} lacks {', '.join(missing)}."
        raise OptionError(msg)


def _check_names(found: Iterable[Any], known: Iterable[str], where: str) -> None:
    known = list(known)
    strange = [name for name in found if name not in known]
    if strange:
        msg = f"{where}: {strange[0]!r} is not known. Known: {', '.join(sorted(known))}."
        raise OptionError(msg)


def _seeds(seeds: Sequence[Any], where: str) -> tuple[int, ...]:
    whole = [seed for seed in seeds if type(seed) is int and seed >= 0]
    if not seeds or len(whole) != len(seeds) or len(set(seeds)) != len(seeds):
        msg = f"{where}: seeds must be different whole numbers from 0, found {list(seeds)}."
        raise OptionError(msg)
    return tuple(whole)
