"""Readers: files of one card in, AnnData out; observations are rows, pixels are variables."""

import gzip
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image, ImageOps
from scipy import sparse

from scdisent._errors import InputDataError
from scdisent.datasets._cards import Card

SPRITE_FACTORS = ("shape", "scale", "orientation", "posX", "posY")
"""dSprites' factors in the order of its file, after the constant colour."""
FACE_SIDE = 32
"""Pixels of a side to which photographs are reduced."""


def read(paths: Sequence[Path], card: Card) -> AnnData:
    """Read the files of a data set as they are; :func:`name_columns` comes next.

    Raises
    ------
    InputDataError
        If a file is cut short or is not of the format of the card.
    """
    try:
        return READERS[card.kind](paths, card)
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        names = ", ".join(str(path) for path in paths)
        msg = (
            f"Data set {card.name!r} could not be read as {card.kind} from {names}: {error}. The "
            "file is cut short, damaged or of another format: replace it."
        )
        raise InputDataError(msg) from error


def _read_h5ad(paths: Sequence[Path], card: Card) -> AnnData:
    """Read counts as CSR; integers stay integers, all else becomes float32."""
    adata = ad.read_h5ad(paths[0])
    counts = sparse.csr_matrix(adata.X)
    if not np.issubdtype(counts.dtype, np.integer):
        counts = counts.astype(np.float32)
    adata.X = counts
    return adata


def _read_idx(paths: Sequence[Path], card: Card) -> AnnData:
    """Read images and labels of MNIST's format, training images first; pixels in [0, 1]."""
    parts = {path.name.partition("-idx")[0]: _idx(path) for path in paths}
    images = np.concatenate([parts["train-images"], parts["t10k-images"]])
    labels = np.concatenate([parts["train-labels"], parts["t10k-labels"]])
    if len(images) != len(labels):
        msg = f"{len(images)} images but {len(labels)} labels"
        raise ValueError(msg)
    split = np.where(np.arange(len(labels)) < len(parts["train-labels"]), "train", "test")
    obs = pd.DataFrame({"label": labels, "split": pd.Categorical(split)})
    return images_to_anndata(images.astype(np.float32) / 255, obs)


def _idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes: two zeros, type 8, number of axes, their lengths, values."""
    with gzip.open(path) as file:
        content = file.read()
    n_axes = content[3] if content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content, ">u4", count=n_axes, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes)
    if not n_axes or values.size != shape.prod():
        msg = f"{path.name} holds no whole IDX array of bytes"
        raise ValueError(msg)
    return values.reshape(shape)


def _read_sprites(paths: Sequence[Path], card: Card) -> AnnData:
    """Read dSprites from npz (nothing is unpickled) or HDF5; pixels stay bytes of 0 and 1."""
    path = paths[0]
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            images, values = file["imgs"], file["latents_values"]
    else:
        with h5py.File(path) as file:
            images, values = file["imgs"][:], file["latents/values"][:]
    factors = values[:, -len(SPRITE_FACTORS) :]  # the full file begins with the constant colour
    obs = pd.DataFrame(factors, columns=list(SPRITE_FACTORS))
    obs["shape"] = obs["shape"].astype(int)
    return images_to_anndata(images, obs)


def images_to_anndata(images: np.ndarray, obs: pd.DataFrame) -> AnnData:
    """Put grey images ``(n, height, width)`` into an AnnData with one variable for each pixel."""
    _, height, width = images.shape
    row, column = (axis.ravel() for axis in np.indices((height, width)))
    var = pd.DataFrame({"row": row, "column": column})
    var.index = pd.Index([f"pixel_{r}_{c}" for r, c in zip(row, column, strict=True)])
    adata = AnnData(images.reshape(len(images), -1), obs=_named(obs, "image"), var=var)
    adata.uns["image_shape"] = np.array([1, height, width])  # channels first, as torch reads it
    return adata


def _read_csv(paths: Sequence[Path], card: Card) -> AnnData:
    """Put the columns of the card into ``obs``, all others, numbers without gaps, into X."""
    table = pd.read_csv(paths[0], sep=card.separator)
    obs = table[list(card.columns)]
    values = table.drop(columns=obs.columns).astype(np.float32)
    if not np.isfinite(values.to_numpy()).all():
        gaps = list(values.columns[values.isna().any()])
        msg = f"columns {gaps} have gaps and are not listed in the card"
        raise ValueError(msg)
    var = pd.DataFrame(index=values.columns.astype(str))
    return AnnData(values.to_numpy(), obs=_named(obs, "row"), var=var)


def color_pixels(side: int) -> pd.DataFrame:
    """Names of the pixels of square colour images, channel by channel."""
    names = [f"{c}_{row}_{column}" for c in "rgb" for row in range(side) for column in range(side)]
    return pd.DataFrame(index=pd.Index(names))


def _read_faces(paths: Sequence[Path], card: Card) -> AnnData:
    """Read as many faces with the attribute of the card's condition as without, from CelebA's zip.

    The first ones of the list, cut to the square in the middle and reduced to
    :data:`FACE_SIDE` pixels a side; RGB in [0, 1], channel by channel.
    """
    parts = {path.suffix: path for path in paths}
    table = pd.read_csv(parts[".txt"], sep=r"\s+", skiprows=1)  # the first line counts the images
    attribute = card.columns[card.setup["condition_key"]].source
    n_each = int(table[attribute].value_counts().min())
    chosen = table.groupby(attribute).head(n_each)
    images = np.empty((len(chosen), 3, FACE_SIDE, FACE_SIDE), dtype=np.float32)
    with zipfile.ZipFile(parts[".zip"]) as archive:
        folders = {Path(name).name: name for name in archive.namelist()}
        for image, name in zip(images, chosen.index, strict=True):
            with archive.open(folders[name]) as file, Image.open(file) as face:
                square = ImageOps.fit(face.convert("RGB"), (FACE_SIDE, FACE_SIDE))
            image[:] = np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / 255
    obs = chosen.astype(str).rename_axis("file").reset_index()
    var, uns = color_pixels(FACE_SIDE), {"image_shape": np.array([3, FACE_SIDE, FACE_SIDE])}
    return AnnData(images.reshape(len(images), -1), obs=_named(obs, "image"), var=var, uns=uns)


def _named(obs: pd.DataFrame, prefix: str) -> pd.DataFrame:
    return obs.set_axis([f"{prefix}_{i}" for i in range(len(obs))], axis=0)


READERS: Mapping[str, Callable[[Sequence[Path], Card], AnnData]] = {
    "h5ad": _read_h5ad,
    "idx": _read_idx,
    "sprites": _read_sprites,
    "csv": _read_csv,
    "faces": _read_faces,
}


def name_columns(adata: AnnData, card: Card) -> list[str]:
    """Rename ``obs`` columns and levels as the card says; returns the columns that are missing.

    Columns of the setup, except the dose, and the card's columns of text become categories.
    """
    renamed = {c.source: name for name, c in card.columns.items() if name not in adata.obs}
    adata.obs = adata.obs.rename(columns=renamed)
    keys = {value for key, value in card.setup.items() if key.endswith("_key")}
    keys -= {card.setup.get("dose_key")}
    present = [name for name in (*card.columns, *sorted(keys)) if name in adata.obs]
    for name in dict.fromkeys(present):
        column = adata.obs[name]
        if name in keys or not pd.api.types.is_numeric_dtype(column):
            levels = card.columns[name].values if name in card.columns else {}
            adata.obs[name] = _as_levels(column, levels)
    return [name for name in card.columns if name not in adata.obs]


def _as_levels(column: pd.Series, levels: Mapping[str, str]) -> pd.Series:
    def rename(value: Any) -> str:
        return levels.get(str(value), str(value))

    return column.astype(object).map(rename, na_action="ignore").astype("category")
