"""Cards of data sets: what they are, where they come from, which bytes are right."""

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from scdisent._errors import InputDataError, one_of

KINDS = ("h5ad", "idx", "sprites", "csv", "faces")
SETUP_KEYS = (
    "condition_key",
    "control",
    "labels_key",
    "sample_key",
    "batch_key",
    "dose_key",
    "layer",
)
PACKAGE = Path(__file__).parents[1]
FOLDERS = (PACKAGE / "_data_registry", PACKAGE.parent / "data_registry")
"""Cards in an installed wheel, cards in a checkout."""


@dataclass(frozen=True, kw_only=True)
class CardFile:
    """One file of a data set; what is not known is None."""

    path: str
    urls: tuple[str, ...] = ()
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def known_hash(self) -> str | None:
        """``"sha256:..."``, else ``"md5:..."``, else None."""
        if self.sha256:
            return f"sha256:{self.sha256}"
        return f"md5:{self.md5}" if self.md5 else None


@dataclass(frozen=True, kw_only=True)
class CardColumn:
    """One ``obs`` column: its meaning, its name in the file, its levels in the file."""

    what: str
    source: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One data set. ``setup`` holds arguments of :func:`scdisent.setup_anndata`."""

    name: str
    what: str
    source: str
    licence: str
    kind: str
    files: tuple[CardFile, ...]
    shape: tuple[int, int] | None = None
    likelihood: str | None = None
    setup: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, CardColumn] = field(default_factory=dict)
    separator: str = ","
    homepage: str | None = None
    note: str | None = None
    instead: str | None = None


TEXT_KEYS = (
    "what",
    "source",
    "licence",
    "kind",
    "likelihood",
    "separator",
    "homepage",
    "note",
    "instead",
)
CARD_KEYS = {
    **dict.fromkeys(TEXT_KEYS, str),
    **dict.fromkeys(("files", "shape"), list),
    **dict.fromkeys(("setup", "columns"), dict),
}
NEEDED_KEYS = ("what", "source", "licence", "kind", "files")
FILE_KEYS = {"path": str, "urls": list, "bytes": int, "sha256": str, "md5": str}
COLUMN_KEYS = {"what": str, "source": str, "values": dict}


def card(name: str) -> Card:
    """Card of one data set.

    Parameters
    ----------
    name
        One of :func:`scdisent.datasets.list`.

    Raises
    ------
    OptionError
        If there is no data set of that name; the message lists all.
    """
    return cards()[one_of(name, sorted(cards()), "name")]


@functools.cache
def cards() -> Mapping[str, Card]:
    """All cards by name, read once per process."""
    folder = next((path for path in FOLDERS if path.is_dir()), None)
    if folder is None:
        msg = (
            f"The cards of the data sets were expected in {FOLDERS[0]} or {FOLDERS[1]}, but "
            "neither folder exists. Install scdisent anew."
        )
        raise InputDataError(msg)
    found: dict[str, Card] = {}
    for path in sorted(folder.glob("*.toml")):
        found |= read_cards(path)
    return MappingProxyType(found)


def read_cards(path: Path) -> dict[str, Card]:
    """Read and check the cards of one TOML file.

    Raises
    ------
    InputDataError
        If the file is no TOML, or a card lacks a key, has an unknown one or an impossible value.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        msg = f"{path} is not valid TOML: {error}. Correct the card."
        raise InputDataError(msg) from error
    return {
        name: parse_card(name, table, where=f"{path.name} [{name}]")
        for name, table in tables.items()
    }


def parse_card(name: str, table: Any, *, where: str) -> Card:
    """Check one table of a TOML file and turn it into a card; ``where`` is its place in errors.

    Raises
    ------
    InputDataError
        If the table lacks a key, has an unknown one or an impossible value.
    """
    _check_keys(table, CARD_KEYS, needed=NEEDED_KEYS, where=where)
    if table["kind"] not in KINDS:
        raise _bad(where, expected=f"a kind of {KINDS}", found=repr(table["kind"]))
    shape = tuple(table.get("shape", (1, 1)))
    if len(shape) != 2 or not all(_is_size(n) for n in shape):
        raise _bad(where, expected="a shape of two positive integers", found=repr(shape))
    setup = table.get("setup", {})
    _check_keys(setup, dict.fromkeys(SETUP_KEYS, str), where=f"{where} setup")
    if not table["files"]:
        raise _bad(where, expected="at least one file", found="none")
    files = tuple(_parse_file(each, where=f"{where} files") for each in table["files"])
    columns = {
        key: _parse_column(column, where=f"{where} columns {key!r}")
        for key, column in table.get("columns", {}).items()
    }
    return Card(
        name=name,
        files=files,
        shape=shape if "shape" in table else None,
        setup=setup,
        columns=columns,
        **{key: table[key] for key in TEXT_KEYS if key in table},
    )


def _parse_file(table: Any, *, where: str) -> CardFile:
    _check_keys(table, FILE_KEYS, needed=("path",), where=where)
    path = table["path"]
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
        raise _bad(where, expected="a relative path without '..'", found=repr(path))
    for url in table.get("urls", ()):
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise _bad(where, expected="urls that start with http", found=repr(url))
    for key, digits in (("sha256", 64), ("md5", 32)):
        if key in table and not re.fullmatch(f"[0-9a-f]{{{digits}}}", table[key]):
            raise _bad(where, expected=f"{key} of {digits} hex digits", found=repr(table[key]))
    if not _is_size(table.get("bytes", 1)):
        raise _bad(where, expected="a positive number of bytes", found=repr(table["bytes"]))
    return CardFile(**{**table, "urls": tuple(table.get("urls", ()))})


def _parse_column(table: Any, *, where: str) -> CardColumn:
    _check_keys(table, COLUMN_KEYS, needed=("what",), where=where)
    for level in table.get("values", {}).values():
        if not isinstance(level, str):
            raise _bad(where, expected="a string for each level in values", found=repr(level))
    return CardColumn(**table)


def _check_keys(
    table: Any, known: Mapping[str, type], *, where: str, needed: tuple[str, ...] = ()
) -> None:
    """Refuse what is no table, unknown keys, missing keys and values of a wrong type."""
    if not isinstance(table, dict):
        raise _bad(where, expected="a table", found=repr(table))
    unknown = [key for key in table if key not in known]
    if unknown:
        raise _bad(where, expected=f"keys of {tuple(known)}", found=f"also {unknown}")
    missing = [key for key in needed if key not in table]
    if missing:
        raise _bad(where, expected=f"the keys {needed}", found=f"no {missing}")
    for key, value in table.items():
        if not isinstance(value, known[key]):
            expected = f"{key} to be of type {known[key].__name__}"
            raise _bad(where, expected=expected, found=repr(value))


def _is_size(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def _bad(where: str, *, expected: str, found: str) -> InputDataError:
    return InputDataError(f"Card {where}: expected {expected}, found {found}. Correct the card.")
