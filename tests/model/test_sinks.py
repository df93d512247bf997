"""Predictions written batch by batch hold what they would hold in memory."""

import anndata
import numpy as np
import pytest

import scdisent
from scdisent import tl
from scdisent._errors import OptionError


@pytest.fixture(scope="module")
def shifted(kit):
    adata = kit.ready()
    model = scdisent.ShiftModel(adata)
    model.train()
    return model, adata[adata.obs["condition"] == "control"].copy()


def dense(x):
    return x.toarray() if hasattr(x, "toarray") else np.asarray(x)


@pytest.mark.parametrize("kind", ["counts", "mean"])
def test_the_folder_holds_what_memory_would(shifted, kind, tmp_path):
    model, source = shifted
    options = {"condition": "stimulated", "kind": kind, "batch_size": 7, "seed": 3}
    options["n_samples"] = 2 if kind == "counts" else 1
    expected = model.predict(source, **options)
    found = model.predict(source, **options, out=tmp_path / "cells.zarr")
    read = anndata.io.read_zarr(tmp_path / "cells.zarr")
    for other in (found.to_memory(), read):
        np.testing.assert_array_equal(dense(other.X), dense(expected.X))
        assert list(other.obs_names) == list(expected.obs_names)
        assert (other.obs["scdisent_support"] == expected.obs["scdisent_support"]).all()
        made = other.uns["scdisent"]["prediction"]
        assert made["condition"] == expected.uns["scdisent"]["prediction"]["condition"]
    assert not isinstance(found.X, np.ndarray | type(expected.X))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.zarr"]


def test_a_prediction_on_disk_is_evaluated_like_one_in_memory(shifted, tmp_path):
    model, source = shifted
    options = {"condition": "stimulated", "seed": 0}
    both = {
        "memory": model.predict(source, **options),
        "disk": model.predict(source, **options, out=tmp_path / "cells.zarr"),
    }
    observed = model.adata[model.adata.obs["condition"] == "stimulated"].copy()
    table = tl.evaluate_response(observed, both, source)
    values = table.pivot(index="metric", columns="method", values="value")
    np.testing.assert_array_equal(values["disk"], values["memory"])


def test_a_prediction_cut_short_leaves_no_folder_of_its_name(shifted, tmp_path, monkeypatch):
    model, source = shifted
    calls = []

    def cut(cells, plan, **options):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return original(cells, plan, **options)

    original = model._predicted
    monkeypatch.setattr(model, "_predicted", cut)
    with pytest.raises(KeyboardInterrupt):
        model.predict(source, condition="stimulated", batch_size=7, out=tmp_path / "cells.zarr")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    model.predict(source, condition="stimulated", out=tmp_path / "cells.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.zarr"]


def test_other_paths_are_refused(shifted, tmp_path):
    model, source = shifted
    with pytest.raises(OptionError, match=r"is no zarr folder.*ends in \.zarr"):
        model.predict(source, condition="stimulated", out=tmp_path / "cells.h5ad")
    (tmp_path / "old.zarr").mkdir()
    with pytest.raises(OptionError, match="exists"):
        model.predict(source, condition="stimulated", out=str(tmp_path / "old.zarr"))
