"""From files to AnnData: small files made here, and the real ones where they are."""

import gzip
import io
import json
import os
import zipfile

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import requests
from anndata import AnnData
from PIL import Image
from scipy import sparse

from scdisent import datasets
from scdisent._errors import DownloadError, InputDataError, OptionError, ScDisentWarning
from scdisent.datasets import _cards


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Register one card of local files; returns the folder to put them into."""

    def register(**keys):
        text = {"what": "w", "source": "s", "licence": "l"} | keys
        lines = [f"{key} = {as_toml(value)}" for key, value in text.items()]
        (tmp_path / "cards").mkdir(exist_ok=True)
        (tmp_path / "cards" / "test.toml").write_text("[made]\n" + "\n".join(lines))
        monkeypatch.setattr(_cards, "FOLDERS", (tmp_path / "cards",))
        _cards.cards.cache_clear()
        (tmp_path / "local").mkdir(exist_ok=True)
        return tmp_path / "local"

    monkeypatch.setenv("SCDISENT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SCDISENT_DATA_DIR", "")
    yield register
    _cards.cards.cache_clear()


def as_toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value)


def load_unverified(folder):
    with pytest.warns(ScDisentWarning, match="no known hash"):
        return datasets.load("made", data_dir=folder)


KANG = {
    "kind": "h5ad",
    "files": [{"path": "kang.h5ad"}],
    "setup": {"condition_key": "condition", "control": "control", "sample_key": "donor"},
    "columns": {
        "condition": {
            "what": "w",
            "source": "label",
            "values": {"ctrl": "control", "stim": "stimulated"},
        },
        "donor": {"what": "w", "source": "replicate", "values": {"patient_101": "101"}},
    },
}


def kang_like():
    obs = pd.DataFrame(
        {"label": ["ctrl", "stim", "stim"], "replicate": ["patient_101", "102", "patient_101"]},
        index=["a", "b", "c"],
    )
    counts = sparse.csc_matrix(np.array([[0.0, 2.0], [1.0, 0.0], [3.0, 4.0]]))
    return AnnData(counts, obs=obs)


def test_columns_and_levels_are_renamed_and_counts_become_csr_of_float32(registry):
    folder = registry(**KANG)
    kang_like().write_h5ad(folder / "kang.h5ad")
    adata = load_unverified(folder)
    assert list(adata.obs) == ["condition", "donor"]
    assert list(adata.obs["condition"]) == ["control", "stimulated", "stimulated"]
    assert list(adata.obs["donor"]) == ["101", "102", "101"]
    assert sparse.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.toarray(), kang_like().X.toarray())
    assert adata.uns["dataset"]["licence"] == "l"
    adata.write_h5ad(folder / "again.h5ad")


@pytest.mark.parametrize("make", [sparse.csr_matrix, np.asarray])
def test_integer_counts_stay_integers(registry, make):
    folder = registry(**KANG)
    adata = kang_like()
    adata.X = make(adata.X.toarray().astype(np.int32))
    adata.write_h5ad(folder / "kang.h5ad")
    found = load_unverified(folder)
    assert sparse.isspmatrix_csr(found.X)
    assert found.X.dtype == np.int32


def test_a_missing_column_is_named_with_those_found(registry):
    folder = registry(**KANG)
    adata = kang_like()
    del adata.obs["replicate"]
    adata.write_h5ad(folder / "kang.h5ad")
    with pytest.warns(ScDisentWarning) as caught:
        datasets.load("made", data_dir=folder)
    assert any("['donor'], but has ['condition']" in str(w.message) for w in caught)


def test_missing_labels_stay_missing(registry):
    folder = registry(**KANG)
    adata = kang_like()
    adata.obs["label"] = pd.Categorical(["ctrl", None, "stim"])
    adata.write_h5ad(folder / "kang.h5ad")
    condition = load_unverified(folder).obs["condition"]
    assert list(condition.cat.categories) == ["control", "stimulated"]
    assert list(condition.isna()) == [False, True, False]


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
@pytest.mark.parametrize("content", ["cut", "text", "other hdf5"])
def test_an_h5ad_cut_short_is_refused_clearly(registry, content):
    folder = registry(**KANG)
    path = folder / "kang.h5ad"
    if content == "cut":
        kang_like().write_h5ad(path)
        path.write_bytes(path.read_bytes()[:5000])
    elif content == "text":
        path.write_text("no h5ad")
    else:
        with h5py.File(path, "w") as file:
            file["something"] = 1
    with (
        pytest.warns(ScDisentWarning),
        pytest.raises(InputDataError, match=r"kang.h5ad.*cut short, damaged"),
    ):
        datasets.load("made", data_dir=folder)


def idx(array):
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes())


DIGITS = {
    "kind": "idx",
    "files": [
        {"path": f"{part}-{what}-ubyte.gz"}
        for what in ("labels-idx1", "images-idx3")
        for part in ("t10k", "train")
    ],
    "setup": {"labels_key": "digit"},
    "columns": {"digit": {"what": "w", "source": "label"}, "split": {"what": "w"}},
}


def test_idx_images_become_rows_of_pixels(registry, rng):
    folder = registry(**DIGITS)
    images = rng.integers(0, 256, size=(5, 3, 4))
    labels = np.array([7, 0, 9, 7, 1])
    for part, rows in (("train", slice(0, 3)), ("t10k", slice(3, 5))):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images[rows]))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels[rows]))
    adata = load_unverified(folder)
    assert list(adata.obs["digit"]) == ["7", "0", "9", "7", "1"]
    assert list(adata.obs["split"]) == ["train"] * 3 + ["test"] * 2
    assert adata.X.dtype == np.float32
    assert list(adata.uns["image_shape"]) == [1, 3, 4]
    found = adata.X.reshape(-1, *adata.uns["image_shape"])
    np.testing.assert_allclose(found * 255, images[:, None], rtol=1e-6)
    assert adata.var.loc["pixel_2_3"].tolist() == [2, 3]
    assert adata[:, "pixel_2_3"].X[0, 0] == pytest.approx(images[0, 2, 3] / 255)


@pytest.mark.parametrize("damage", ["gzip", "short", "type"])
def test_damaged_idx_files_are_refused(registry, damage):
    folder = registry(**DIGITS)
    good = idx(np.zeros((2, 3, 4)))
    bad = {
        "gzip": good[:-9],
        "short": gzip.compress(gzip.decompress(good)[:-1]),
        "type": gzip.compress(b"\0\0\x0d" + gzip.decompress(good)[3:]),
    }[damage]
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(bad)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(2)))
    with pytest.warns(ScDisentWarning), pytest.raises(InputDataError, match="could not be read"):
        datasets.load("made", data_dir=folder)


class Bomb:
    """Unpickling it would show that a file of data can run code."""

    def __reduce__(self):
        return pytest.fail, ("a pickled member was loaded",)


def sprites(folder, suffix):
    images = np.arange(2 * 4 * 4).reshape(2, 4, 4).astype(np.uint8) % 2
    values = np.array([[1.0, 2.0, 0.5, 0.1, 0.2, 0.3], [1.0, 3.0, 1.0, 0.4, 0.5, 0.6]])
    if suffix == "npz":  # colour left out, as in the subsets
        bomb = np.array(Bomb(), dtype=object)
        np.savez(folder / "s.npz", imgs=images, latents_values=values[:, 1:], metadata=bomb)
    else:
        with h5py.File(folder / "s.hdf5", "w") as file:
            file["imgs"], file["latents/values"] = images, values
    return images


@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
def test_sprites_are_read_without_unpickling(registry, suffix):
    shapes = {"1": "square", "2": "ellipse", "3": "heart"}
    folder = registry(
        kind="sprites",
        files=[{"path": f"s.{suffix}"}],
        setup={"condition_key": "shape"},
        columns={"shape": {"what": "w", "values": shapes}},
    )
    images = sprites(folder, suffix)
    adata = load_unverified(folder)
    np.testing.assert_array_equal(adata.X.reshape(images.shape), images)
    assert adata.X.dtype == np.uint8
    assert list(adata.obs["shape"]) == ["ellipse", "heart"]
    assert list(adata.obs["posY"]) == [0.3, 0.6]


FACES = ["000001.jpg", "000002.jpg", "000003.jpg", "000004.jpg", "000005.jpg"]
GLASSES = [-1, 1, -1, -1, 1]


def faces(folder):
    """Plain faces, brighter from one to the next, in the layout of CelebA."""
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for i, name in enumerate(FACES):
            picture = np.zeros((218, 178, 3), np.uint8) + np.array([40 * i, 10, 200], np.uint8)
            image = io.BytesIO()
            Image.fromarray(picture).save(image, "png")
            archive.writestr(f"img_align_celeba/{name}", image.getvalue())
    rows = [f"{name}  {g}  {-g}" for name, g in zip(FACES, GLASSES, strict=True)]
    text = "\n".join([str(len(FACES)), "Eyeglasses Male", *rows])
    (folder / "list_attr_celeba.txt").write_text(text + "\n")


def test_as_many_faces_with_an_attribute_as_without_are_read(registry):
    real = datasets.card("celeba")
    columns = {name: vars(column) for name, column in real.columns.items()}
    folder = registry(
        kind="faces",
        files=[{"path": "img_align_celeba.zip"}, {"path": "list_attr_celeba.txt"}],
        setup=dict(real.setup),
        columns=columns,
    )
    faces(folder)
    adata = load_unverified(folder)
    assert adata.obs["glasses"].tolist() == ["without", "with", "without", "with"]
    assert adata.obs["male"].tolist() == ["yes", "no", "yes", "no"]
    assert adata.obs["file"].tolist() == [FACES[i] for i in (0, 1, 2, 4)]
    images = adata.X.reshape(-1, *adata.uns["image_shape"])
    np.testing.assert_allclose(images[:, 0, 5, 5] * 255, [0, 40, 80, 160], atol=1)
    np.testing.assert_allclose(images[:, 2].mean() * 255, 200, atol=1)
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w"):
        pass  # an empty archive
    with pytest.raises(InputDataError, match="could not be read as faces"):
        load_unverified(folder)


TABLE = {
    "kind": "csv",
    "separator": ";",
    "files": [{"path": "t.csv"}],
    "setup": {"labels_key": "grade"},
    "columns": {"grade": {"what": "w"}},
}


def test_a_table_puts_numbers_into_x_and_listed_columns_into_obs(registry):
    folder = registry(**TABLE)
    (folder / "t.csv").write_text('"pH";"grade";"salt"\n3;6;.5\n3.5;7;1\n')
    adata = load_unverified(folder)
    np.testing.assert_array_equal(adata.X, np.array([[3, 0.5], [3.5, 1]], np.float32))
    assert adata.X.dtype == np.float32
    assert list(adata.var_names) == ["pH", "salt"]
    assert list(adata.obs["grade"]) == ["6", "7"]


@pytest.mark.parametrize("text", ["pH;grade\n3;6\n;7\n", "pH;grade\nacid;6\n", "pH;salt\n3;6\n"])
def test_a_table_with_gaps_text_or_a_missing_column_is_refused(registry, text):
    folder = registry(**TABLE)
    (folder / "t.csv").write_text(text)
    with pytest.warns(ScDisentWarning), pytest.raises(InputDataError, match="could not be read"):
        datasets.load("made", data_dir=folder)


def test_verify_and_list_tell_what_is_here_without_changing_it(registry):
    folder = registry(kind="csv", files=[{"path": "a", "bytes": 2}, {"path": "b"}])
    assert not datasets.list(data_dir=folder).loc["made", "available"]
    assert list(datasets.verify("made", data_dir=folder)["status"]) == ["missing", "missing"]
    (folder / "a").write_text("abc")
    (folder / "b").write_text("")
    assert datasets.list(data_dir=folder).loc["made", "available"]
    report = datasets.verify("made", data_dir=folder)
    assert list(report["status"]) == ["size differs", "hash unknown"]
    assert report.loc["a", "found"] == "3 bytes"
    assert (folder / "a").read_text() == "abc"


def test_celeba_is_refused_with_licence_and_address():
    with pytest.raises(DownloadError, match=r"licence.*mmlab.ie.cuhk.edu.hk"):
        datasets.load("celeba")


def test_local_only_sets_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("SCDISENT_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("SCDISENT_DATA_DIR", raising=False)
    with pytest.raises(DownloadError, match=r"no public address.*load\('kang2018'\).*data_dir=FOL"):
        datasets.load("kang2018_6k")


def no_network(*args, **kwargs):
    raise requests.ConnectionError


def test_a_failed_full_set_names_the_small_one_and_never_becomes_it(monkeypatch, tmp_path):
    kang = tmp_path / "local" / "kang2018"
    kang.mkdir(parents=True)
    (kang / "kang2018_pbmc_6k.h5ad").write_bytes(b"")
    monkeypatch.setenv("SCDISENT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("scdisent.datasets._fetch.PAUSE", 0)
    monkeypatch.setattr(requests, "get", no_network)
    with pytest.raises(DownloadError, match=r"load\('kang2018_6k'\)") as caught:
        datasets.load("kang2018", data_dir=tmp_path / "local")
    for url in datasets.card("kang2018").files[0].urls:
        assert url in str(caught.value)


# --- real files ------------------------------------------------------------------------------

real = pytest.mark.skipif(
    not os.environ.get("SCDISENT_DATA_DIR"),
    reason="SCDISENT_DATA_DIR is not set: the data folder is not here",
)
LOCAL = [
    name
    for name, each in _cards.cards().items()
    if name == "mnist" or not any(file.urls for file in each.files)
    if each.kind != "faces"  # under a licence that each user has to accept
]


@real
@pytest.mark.parametrize("name", LOCAL)
def test_a_real_set_is_as_its_card_says(name):
    adata, card = datasets.load(name), datasets.card(name)
    assert adata.shape == card.shape
    assert set(card.columns) <= set(adata.obs)
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    if "control" in card.setup:
        assert card.setup["control"] in adata.obs[card.setup["condition_key"]].cat.categories
    for key in ("condition_key", "labels_key", "sample_key"):
        if key in card.setup:
            assert not adata.obs[card.setup[key]].isna().any()
    if card.likelihood == "nb":
        assert np.issubdtype(adata.X.dtype, np.integer)
        assert adata.X.min() >= 0
        assert adata.X.sum(axis=1).min() > 0
    assert (datasets.verify(name)["status"] == "ok").all()


@real
@pytest.mark.parametrize("name", ["kang2018_6k", "kang2018_4k"])
def test_kang_is_paired_over_donors_and_isg15_responds(name):
    adata = datasets.load(name)
    assert (pd.crosstab(adata.obs["donor"], adata.obs["condition"]) > 50).all(axis=None)
    isg15 = adata[:, "ISG15"].X.toarray().ravel()
    means = pd.Series(isg15).groupby(adata.obs["condition"].to_numpy()).mean()
    assert means["control"] < 2
    assert means["stimulated"] > 30


@real
def test_papalexi_knock_outs_of_the_interferon_pathway_lower_stat1():
    adata = datasets.load("papalexi2021_eccite_299genes")
    stat1 = pd.Series(adata[:, "STAT1"].X.toarray().ravel())
    means = stat1.groupby(adata.obs["target"].to_numpy()).mean()
    assert (means[["IFNGR1", "IFNGR2", "JAK2", "STAT1"]] < 0.6 * means["non-targeting"]).all()
    assert (means[["CAV1", "ETV7", "ATF2"]] > 0.9 * means["non-targeting"]).all()


@real
@pytest.mark.parametrize("name", ["wine_quality_white", "fifa2018"])
def test_a_real_table_is_ready_for_a_model_of_real_values(name):
    adata, card = datasets.load(name), datasets.card(name)
    assert card.likelihood == "normal"
    assert adata.X.dtype == np.float32
    assert np.isfinite(adata.X).all()
    assert (adata.X.std(axis=0) > 0).all(), "a constant column can not be standardised"
    assert not set(adata.var_names) & set(adata.obs), "labels must not be features"
    assert isinstance(adata.obs[card.setup["labels_key"]].dtype, pd.CategoricalDtype)


@real
def test_fifa_keeps_performance_in_x_and_what_identifies_a_row_in_obs():
    adata = datasets.load("fifa2018")
    assert {"Goal Scored", "Passes", "Distance Covered (Kms)", "Red"} <= set(adata.var_names)
    assert {"Date", "Team", "Opponent", "Round", "Man of the Match"} <= set(adata.obs)
    assert adata.obs["Team"].nunique() == 32
    best = adata.obs["Man of the Match"].cat.categories
    assert set(best) == {"Yes", "No"}


@real
def test_mnist_has_its_published_moments_and_label_counts():
    adata = datasets.load("mnist")
    assert list(adata.uns["image_shape"]) == [1, 28, 28]
    assert adata.X.dtype == np.float32
    assert (adata.X.min(), adata.X.max()) == (0, 1)
    train = adata.obs["split"] == "train"
    pixels = adata.X[train.to_numpy()]
    assert pixels.mean(dtype=np.float64) == pytest.approx(0.1307, abs=1e-4)
    assert pixels.std(dtype=np.float64) == pytest.approx(0.3081, abs=1e-4)
    counts = adata.obs.loc[train, "digit"].value_counts().sort_index()
    assert list(counts) == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@real
def test_the_sprites_grid_is_a_full_factorial_and_scale_grows_the_sprite():
    adata = datasets.load("dsprites_grid")
    factors = adata.obs[["shape", "scale", "orientation", "posX", "posY"]]
    assert len(factors.drop_duplicates()) == factors.nunique().prod() == len(factors)
    area = pd.Series(adata.X.sum(axis=1)).groupby(adata.obs["scale"].to_numpy()).mean()
    assert area.is_monotonic_increasing
    assert list(adata.uns["image_shape"]) == [1, 64, 64]
    images = adata.X.reshape(-1, 64, 64)[::97]
    centre = (images.sum(axis=1) @ np.arange(64)) / images.sum(axis=(1, 2))
    assert np.corrcoef(centre, adata.obs["posX"].to_numpy()[::97])[0, 1] > 0.99


@real
def test_wine_has_its_known_correlation_of_alcohol_and_quality():
    adata = datasets.load("wine_quality_white")
    alcohol = adata[:, "alcohol"].X.ravel()
    assert "quality" not in adata.var_names
    quality = adata.obs["quality"].astype(int)
    assert np.corrcoef(alcohol, quality)[0, 1] == pytest.approx(0.4356, abs=1e-3)


@real
def test_fifa_has_two_rows_for_each_of_64_matches():
    adata = datasets.load("fifa2018")
    pairs = zip(adata.obs["Date"], adata.obs["Team"], adata.obs["Opponent"], strict=True)
    matches = pd.Series([(date, *sorted(teams)) for date, *teams in pairs]).value_counts()
    assert len(matches) == 64
    assert (matches == 2).all()
    possession = adata[:, "Ball Possession %"].X.reshape(64, 2).sum(axis=1)
    assert (abs(possession - 100) <= 1).all()  # rounded, one match to 99


@real
def test_a_file_of_the_folder_is_never_written():
    path = datasets.get("norman2019_500hvg")[0]
    before = path.stat()
    adata = datasets.load("norman2019_500hvg")
    adata.obs["new"] = 1
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert "new" not in ad.read_h5ad(path).obs


def test_an_unknown_set_is_answered_with_the_names():
    for call in (datasets.load, datasets.get, datasets.verify):
        with pytest.raises(OptionError, match="'kang2018'"):
            call("pbmc")
