"""Cards: every one is complete, agrees with the data folder, and bad ones are refused."""

import csv
import os
import tomllib
from pathlib import Path

import pytest

from scdisent._errors import InputDataError, OptionError
from scdisent.datasets import _cards
from scdisent.datasets._cards import card, cards, parse_card, read_cards
from scdisent.datasets._read import READERS

AGREED = [
    "celeba",
    "dsprites",
    "fashion_mnist",
    "fifa2018",
    "kang2018",
    "kang2018_4k",
    "kang2018_6k",
    "mcfaline2023",
    "mnist",
    "norman2019",
    "norman2019_500hvg",
    "papalexi2021",
    "papalexi2021_eccite_299genes",
    "sciplex3",
    "wine_quality_white",
]
GOOD = {
    "what": "a set",
    "source": "a study",
    "licence": "CC0",
    "kind": "csv",
    "files": [{"path": "folder/file.csv"}],
}
FILES = [file for each in cards().values() for file in each.files]
PUBLIC = [file for file in FILES if file.urls]
BY_HAND = card("celeba").files
"""Each user has to accept their licence."""


@pytest.fixture(scope="module")
def data_dir():
    folder = os.environ.get("SCDISENT_DATA_DIR")
    if not folder:
        pytest.skip("SCDISENT_DATA_DIR is not set: the data folder is not here")
    return Path(folder)


@pytest.mark.parametrize("name", AGREED)
def test_every_agreed_set_has_a_card_under_its_name(name):
    assert card(name).name == name


@pytest.mark.parametrize("name", cards())
def test_a_card_names_only_what_exists(name):
    each = card(name)
    assert each.kind in READERS
    assert each.instead is None or not any(file.urls for file in card(each.instead).files)
    keys = [value for key, value in each.setup.items() if key.endswith("_key")]
    assert set(keys) <= set(each.columns), "setup names a column that the card does not describe"
    assert ("control" in each.setup) <= ("condition_key" in each.setup)
    assert each.note or any(file.urls for file in each.files), "local-only sets must say what to do"


def test_no_two_files_share_a_place():
    paths = [file.path for file in FILES]
    assert len(set(paths)) == len(paths)


def test_hashes_equal_those_of_the_data_folder(data_dir):
    lines = (data_dir / "SHA256SUMS").read_text().splitlines()
    sums = {path: digest for digest, path in (line.split() for line in lines)}
    here = [file for file in FILES if file.path in sums]
    own = {file.path for file in FILES} - {file.path for file in (*PUBLIC, *BY_HAND)}
    assert own <= set(sums)
    for file in here:
        assert file.sha256 == sums[file.path], file.path
        assert file.bytes == (data_dir / file.path).stat().st_size, file.path


@pytest.mark.parametrize("file", PUBLIC, ids=lambda file: file.path)
def test_addresses_sizes_and_hashes_equal_those_of_the_registry(file, data_dir):
    with (data_dir / "REGISTRY.tsv").open() as table:
        rows = {row["url"]: row for row in csv.DictReader(table, delimiter="\t")}
    for url in file.urls:
        found = tuple(rows[url][key] for key in ("bytes", "sha256", "md5"))
        assert found == (str(file.bytes or ""), file.sha256 or "", file.md5 or "")


def test_an_unknown_name_is_answered_with_all_names():
    with pytest.raises(OptionError, match=r"'kang' is not known.*'kang2018'.*'mnist'"):
        card("kang")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "xlsx"}, "expected a kind of .*'h5ad'.*, found 'xlsx'"),
        ({"shape": [3]}, "two positive integers, found"),
        ({"shape": [3, 0]}, "two positive integers, found"),
        ({"colour": "red"}, "found also .'colour'"),
        ({"licence": 3}, "licence to be of type str, found 3"),
        ({"files": []}, "at least one file"),
        ({"files": [{"urls": []}]}, "found no .'path'"),
        ({"files": [{"path": "../up.csv"}]}, "relative path"),
        ({"files": [{"path": "/etc/passwd"}]}, "relative path"),
        ({"files": [{"path": "a", "urls": ["file:///etc/passwd"]}]}, "start with http"),
        ({"files": [{"path": "a", "sha256": "abc"}]}, "sha256 of 64 hex digits, found 'abc'"),
        ({"files": [{"path": "a", "md5": "g" * 32}]}, "md5 of 32 hex digits"),
        ({"files": [{"path": "a", "bytes": -1}]}, "positive number of bytes, found -1"),
        ({"files": ["a"]}, "expected a table"),
        ({"setup": {"labels": "x"}}, "found also .'labels'"),
        ({"columns": {"a": {"source": "b"}}}, "columns 'a': .*found no .'what'"),
        ({"columns": {"a": {"what": "b", "values": {"0": 1}}}}, "a string for each level"),
    ],
)
def test_a_bad_card_is_refused_with_its_place(change, message):
    with pytest.raises(InputDataError, match=rf"Card here \[set\].*{message}"):
        parse_card("set", GOOD | change, where="here [set]")


def test_a_card_without_a_needed_key_is_refused():
    for key in GOOD:
        with pytest.raises(InputDataError, match=f"found no .'{key}'"):
            parse_card("set", {k: v for k, v in GOOD.items() if k != key}, where="here")


def test_broken_toml_is_refused_with_the_file(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("[set\n")
    with pytest.raises(InputDataError, match="broken.toml is not valid TOML") as caught:
        read_cards(path)
    assert isinstance(caught.value.__cause__, tomllib.TOMLDecodeError)


def test_a_wheel_reads_its_own_copy_before_the_checkout(tmp_path, monkeypatch):
    assert [folder.name for folder in _cards.FOLDERS] == ["_data_registry", "data_registry"]
    (tmp_path / "wheel").mkdir()
    text = '[only]\nwhat = "w"\nsource = "s"\nlicence = "l"\nkind = "csv"\nfiles = [{path = "a"}]\n'
    (tmp_path / "wheel" / "one.toml").write_text(text)
    monkeypatch.setattr(_cards, "FOLDERS", (tmp_path / "wheel", *_cards.FOLDERS))
    assert list(cards.__wrapped__()) == ["only"]
    monkeypatch.setattr(_cards, "FOLDERS", (tmp_path / "nowhere", tmp_path / "neither"))
    with pytest.raises(InputDataError, match="nowhere.*neither.*Install scdisent anew"):
        cards.__wrapped__()
