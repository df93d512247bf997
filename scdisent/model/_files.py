"""Model folders: safetensors for numbers, JSON for the rest, a manifest that guards both."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from scdisent import __version__
from scdisent._errors import ModelFileError

if TYPE_CHECKING:
    from scdisent.model._base import DisentModel

FORMAT = 1
WEIGHTS, DESCRIPTION, MANIFEST = "weights.safetensors", "model.json", "MANIFEST.sha256"
_EXTRA = "extra."
_ATTRIBUTES = ("is_trained_", "train_indices_", "validation_indices_", "test_indices_")
_OPTIONAL = ("response_check_", "is_adapted_")


def save_folder(model: "DisentModel", folder: Path, *, overwrite: bool) -> None:
    """Write all files beside the target first, so that a failure leaves an old folder whole."""
    if folder.exists() and not overwrite:
        msg = f"{folder} exists. Choose another folder, or pass overwrite=True."
        raise FileExistsError(msg)
    tensors = {f"module.{name}": value for name, value in model.module.state_dict().items()}
    tensors |= {_EXTRA + name: value for name, value in model._extra_tensors().items()}
    files = {
        WEIGHTS: save_tensors({name: _portable(value) for name, value in tensors.items()}),
        DESCRIPTION: json.dumps(_describe(model), default=_encode, indent=1).encode(),
    }
    files[MANIFEST] = _manifest(files).encode()
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / f".{name}.part" for name in files}
    try:
        for name, part in parts.items():
            part.write_bytes(files[name])
        for name, part in parts.items():
            part.replace(folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def load_folder(
    classes: Sequence[type["DisentModel"]], folder: Path, *, adata: AnnData | None, device: str
) -> "DisentModel":
    """Verify every byte, rebuild a model of one of the classes, load its weights."""
    files = _read_verified(folder)
    described = _described(files[DESCRIPTION], folder)
    cls = _class_of(described, classes, folder)
    registry = described["registry"]
    if adata is not None:
        cls.setup_anndata(adata, source_registry=registry, **registry["setup_args"])
        model = cls(adata, **described["init"])
    else:
        model = cls(registry=registry, **described["init"])
    tensors = load_tensors(files[WEIGHTS])
    module = {n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")}
    extra = {n.removeprefix(_EXTRA): t for n, t in tensors.items() if n.startswith(_EXTRA)}
    try:
        model.module.load_state_dict(module)
    except RuntimeError as error:
        msg = f"{WEIGHTS} and {DESCRIPTION} in {folder} do not fit each other: {error}"
        raise ModelFileError(msg) from error
    model._set_extra_tensors(extra)
    for name in _ATTRIBUTES:
        setattr(model, name, described["attributes"][name])
    for name in _OPTIONAL:
        setattr(model, name, described["attributes"].get(name))
    model.history_ = {name: _frame(curve) for name, curve in described["history"].items()}
    model.to_device(device)
    model.module.eval()
    return model


def _describe(model: "DisentModel") -> dict[str, Any]:
    return {
        "format": FORMAT,
        "class": type(model).__name__,
        "versions": {
            "scdisent": __version__,
            "scvi-tools": scvi.__version__,
            "torch": torch.__version__,
        },
        "init": model._arguments(),
        "registry": model.registry_,
        "attributes": {
            **{name: getattr(model, name) for name in _ATTRIBUTES},
            **{name: getattr(model, name, None) for name in _OPTIONAL},
        },
        "history": {
            name: {"epoch": list(curve.index), "value": curve.iloc[:, 0].tolist()}
            for name, curve in (model.history_ or {}).items()
        },
    }


def _frame(curve: Mapping[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        {"value": curve["value"]}, index=pd.Index(curve["epoch"], name="epoch"), dtype=float
    )


def _manifest(files: Mapping[str, bytes]) -> str:
    """Lines as of ``sha256sum``, in the order of names."""
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}" for name in sorted(files)]
    return "\n".join(lines) + "\n"


def _read_verified(folder: Path) -> dict[str, bytes]:
    missing = [n for n in (WEIGHTS, DESCRIPTION, MANIFEST) if not (folder / n).is_file()]
    if missing:
        msg = f"{folder} is not a whole scdisent model folder: it lacks {', '.join(missing)}."
        raise ModelFileError(msg)
    files = {name: (folder / name).read_bytes() for name in (WEIGHTS, DESCRIPTION)}
    if (folder / MANIFEST).read_bytes() != _manifest(files).encode():
        msg = (
            f"the files in {folder} are not those that were saved: their hashes differ from "
            f"{MANIFEST}. The folder was cut, altered or mixed; take it from its source again."
        )
        raise ModelFileError(msg)
    return files


def _described(content: bytes, folder: Path) -> dict[str, Any]:
    """Description of a model, in a format that this version reads."""
    try:
        described: dict[str, Any] = json.loads(content, object_hook=_decode)
        number, version = described["format"], described["versions"]["scdisent"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{folder / DESCRIPTION} does not describe a scdisent model: {error!r}."
        raise ModelFileError(msg) from error
    if number > FORMAT:
        msg = (
            f"{folder} has format {number}, written by scdisent {version}; this scdisent "
            f"({__version__}) reads up to {FORMAT}. Update scdisent."
        )
        raise ModelFileError(msg)
    return described


def _class_of(
    described: Mapping[str, Any], classes: Sequence[type["DisentModel"]], folder: Path
) -> type["DisentModel"]:
    name, known = described.get("class"), {cls.__name__: cls for cls in classes}
    if name not in known:
        msg = (
            f"{folder} holds a {name}, not a {' or '.join(known)}. scdisent.load reads a model of "
            "any class."
        )
        raise ModelFileError(msg)
    return known[name]


def _portable(value: torch.Tensor) -> torch.Tensor:
    # A copy: safetensors refuses tensors that share memory, as a likelihood of two heads does.
    return value.detach().to("cpu", copy=True).contiguous()


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"__array__": value.tolist(), "dtype": _dtype_name(value)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, pd.Index):
        return _encode(value.to_numpy())
    if isinstance(value, Mapping):
        return dict(value)
    msg = f"{type(value).__name__} cannot be stored in a model folder: {value!r}"
    raise TypeError(msg)


def _dtype_name(value: np.ndarray) -> str:
    return "object" if value.dtype.kind in "OUS" else str(value.dtype)


def _decode(value: dict[str, Any]) -> Any:
    if "__array__" in value:
        return np.asarray(value["__array__"], dtype=value["dtype"])
    return value
