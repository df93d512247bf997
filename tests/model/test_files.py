"""Model folders: what was saved is what is loaded, anything else is refused."""

import hashlib
import json
import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import scdisent
from scdisent._errors import InputDataError, ModelFileError, SetupError, UnseenLevelError
from scdisent.model import _files as files

NAMES = (files.WEIGHTS, files.DESCRIPTION, files.MANIFEST)


@pytest.fixture
def folder(nb_model, tmp_path):
    nb_model.save(tmp_path / "model")
    return tmp_path / "model"


def codes(model, adata=None):
    return model.get_latent_representation(adata, representation="full")


def predicted(model, adata):
    source = np.flatnonzero(adata.obs["condition"] == "control")
    return model.predict(adata, condition="stimulated", indices=source, seed=2).X.toarray()


def resealed(folder, **changes):
    """Change the description and write a manifest that fits, as an attacker or a newer version."""
    described = json.loads((folder / files.DESCRIPTION).read_bytes())
    described.update(changes)
    (folder / files.DESCRIPTION).write_text(json.dumps(described))
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted((files.DESCRIPTION, files.WEIGHTS))
    ]
    (folder / files.MANIFEST).write_text("".join(lines))


# ----------------------------------------------------------------------- round trip


def test_everything_a_fitted_model_knows_survives(nb_model, folder):
    loaded = scdisent.DISCoVeR.load(folder)
    for name, value in nb_model.module.state_dict().items():
        assert torch.equal(value, loaded.module.state_dict()[name]), name
    assert loaded.history.keys() == nb_model.history.keys()
    for name, curve in nb_model.history.items():
        found = loaded.history[name]
        assert list(found.index) == list(curve.index)
        assert found.index.name == curve.index.name
        np.testing.assert_array_equal(found.iloc[:, 0], curve.iloc[:, 0].astype(float))
    for name in ("train_indices", "validation_indices", "test_indices"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(nb_model, name))
    for name, value in vars(nb_model.anchors_).items():
        assert torch.equal(value, getattr(loaded.anchors_, name)), name
    assert loaded.conditions == nb_model.conditions
    assert loaded.control == nb_model.control
    assert loaded.weights == nb_model.weights
    assert loaded.options == nb_model.options
    assert loaded.likelihood == nb_model.likelihood
    assert loaded.is_trained_
    assert not any(module.training for module in loaded.module.modules())


def test_without_cells_every_getter_needs_them_and_takes_any(kit, nb_model, folder):
    loaded = scdisent.DISCoVeR.load(folder)
    query = kit.query(nb_model.adata)
    for getter in (
        loaded.get_latent_representation,
        loaded.get_normalized_expression,
        loaded.get_reconstruction_error,
        lambda: loaded.predict(condition="stimulated"),
    ):
        with pytest.raises(SetupError, match="pass adata="):
            getter()
    np.testing.assert_array_equal(codes(loaded, query), codes(nb_model))
    np.testing.assert_array_equal(predicted(loaded, query), predicted(nb_model, query))


def test_with_cells_attached_it_works_and_trains_as_before(kit, nb_model, folder):
    query = kit.query(nb_model.adata)
    loaded = scdisent.DISCoVeR.load(folder, query)
    np.testing.assert_array_equal(codes(loaded), codes(nb_model))
    table = loaded.differential_expression(n_samples_overall=50)
    assert sorted(table.index) == sorted(query.var_names)
    loaded.train(**kit.fast)
    assert len(loaded.history["elbo_train"]) == 4
    assert np.abs(codes(loaded) - codes(nb_model)).max() > 1e-3


def test_cells_attached_to_a_loaded_model_serve_every_other_class(kit, nb_model, folder):
    query = kit.query(nb_model.adata)
    loaded = scdisent.load(folder, query)
    shift = scdisent.ShiftModel(query)
    shift.train()
    assert shift.conditions == loaded.conditions
    assert kit.build(scdisent.BFVAE, query).adata is query


def test_a_loaded_model_can_be_saved_again(kit, nb_model, folder, tmp_path):
    query = kit.query(nb_model.adata)
    for at, adata in (("plain", None), ("attached", query)):
        scdisent.DISCoVeR.load(folder, adata).save(tmp_path / at)
        again = scdisent.DISCoVeR.load(tmp_path / at)
        np.testing.assert_array_equal(codes(again, query), codes(nb_model))
        assert (tmp_path / at / files.WEIGHTS).read_bytes() == (folder / files.WEIGHTS).read_bytes()


def test_an_untrained_model_survives_too(kit, tmp_path):
    model = kit.build(scdisent.DISCoVeR, kit.ready())
    model.save(tmp_path / "model")
    loaded = scdisent.DISCoVeR.load(tmp_path / "model")
    assert not loaded.is_trained_
    kit.assert_equal_weights(kit.weights(model), kit.weights(loaded))


@pytest.mark.parametrize(
    "column", ["number", "logical", "category"], ids=lambda name: f"condition is a {name}"
)
def test_conditions_that_are_no_text_survive(kit, tmp_path, column):
    adata = kit.world()
    treated = (adata.obs["condition"] == "stimulated").to_numpy()
    values = {
        "number": treated * 10,
        "logical": treated,
        "category": pd.Categorical(treated * 10, categories=[10, 0]),
    }
    adata.obs["condition"] = values[column]
    control = False if column == "logical" else 0
    scdisent.setup_anndata(adata, condition_key="condition", control=control)
    model = kit.trained(scdisent.DISCoVeR, adata)
    model.save(tmp_path / "model")
    query = kit.query(adata)
    loaded = scdisent.DISCoVeR.load(tmp_path / "model")
    attached = scdisent.DISCoVeR.load(tmp_path / "model", query)
    assert loaded.conditions == attached.conditions == model.conditions
    for found in (codes(loaded, query), codes(attached)):
        np.testing.assert_array_equal(found, codes(model))


def test_every_option_survives(kit, tmp_path):
    setup = {"batch_key": "donor", "categorical_covariate_keys": ["cell_type"]}
    adata = kit.ready("normal", setup=setup)
    arguments = {
        "likelihood": "normal",
        "n_specific": 2,
        "specific_prior": "context",
        "weights": {"hsic": 2.0, "adversary": 0.0},
        "seed": 4,
        "n_layers": 2,
    }
    model = kit.trained(scdisent.DISCoVeR, adata, **arguments)
    model.save(tmp_path / "model")
    loaded = scdisent.DISCoVeR.load(tmp_path / "model")
    assert loaded.options == model.options
    assert loaded.weights == model.weights
    np.testing.assert_array_equal(codes(loaded, kit.query(adata)), codes(model))


# ------------------------------------------------------------------------- attaching


def test_cells_of_one_condition_can_be_attached(kit, nb_model, folder):
    query = kit.query(nb_model.adata)
    control = (query.obs["condition"] == "control").to_numpy()
    loaded = scdisent.DISCoVeR.load(folder, query[control].copy())
    assert loaded.conditions == nb_model.conditions
    np.testing.assert_allclose(codes(loaded), codes(nb_model)[control], atol=1e-6)
    assert loaded.predict(condition="stimulated").n_obs == control.sum()


def test_attached_genes_in_another_order_are_refused_with_the_line_that_helps(
    kit, nb_model, folder, rng
):
    query = kit.query(nb_model.adata)
    shuffled = query[:, rng.permutation(query.n_vars)].copy()
    with pytest.raises(InputDataError, match=r"order.*adata\[:, .*\]\.copy\(\)"):
        scdisent.DISCoVeR.load(folder, shuffled)
    assert list(shuffled.uns) == []
    loaded = scdisent.DISCoVeR.load(folder)
    np.testing.assert_array_equal(codes(loaded, shuffled), codes(nb_model))


def test_attached_cells_that_lack_genes_are_refused_by_name(kit, nb_model, folder):
    query = kit.query(nb_model.adata)[:, 2:].copy()
    with pytest.raises(InputDataError, match=r"lacks 2 .*gene_0, gene_1"):
        scdisent.DISCoVeR.load(folder, query)


def test_attached_levels_that_were_not_in_training_are_refused(kit, nb_model, folder):
    for column, value in (("condition", "new_drug"), ("donor", "donor_9")):
        query = kit.query(nb_model.adata)
        query.obs[column] = query.obs[column].astype(str)
        query.obs.loc[query.obs_names[:3], column] = value
        with pytest.raises(UnseenLevelError, match=value):
            scdisent.DISCoVeR.load(folder, query)
        assert list(query.uns) == []


# --------------------------------------------------------------------------- altered


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("position", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_one_flipped_bit_anywhere_is_refused(folder, name, position):
    content = bytearray((folder / name).read_bytes())
    content[round(position * (len(content) - 1))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFileError, match="not those that were saved"):
        scdisent.DISCoVeR.load(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_short_or_lengthened_is_refused(folder, name):
    content = (folder / name).read_bytes()
    for altered in (content[:-1], content[: len(content) // 2], b"", content + b"\n"):
        (folder / name).write_bytes(altered)
        with pytest.raises(ModelFileError):
            scdisent.DISCoVeR.load(folder)
    (folder / name).write_bytes(content)
    scdisent.DISCoVeR.load(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=f"lacks {name}"):
        scdisent.DISCoVeR.load(folder)


def test_a_folder_of_something_else_is_refused(tmp_path):
    for at in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ModelFileError, match="not a whole scdisent model folder"):
            scdisent.DISCoVeR.load(at)


def test_files_of_two_models_do_not_mix(kit, folder, tmp_path):
    other = kit.trained(scdisent.DISCoVeR, kit.ready(seed=3))
    other.save(tmp_path / "other")
    (folder / files.WEIGHTS).write_bytes((tmp_path / "other" / files.WEIGHTS).read_bytes())
    with pytest.raises(ModelFileError, match="mixed"):
        scdisent.DISCoVeR.load(folder)


def test_a_model_of_another_class_names_the_class_to_use(folder):
    resealed(folder, **{"class": "BFVAE"})
    with pytest.raises(ModelFileError, match=r"holds a BFVAE, not a .*scdisent\.load"):
        scdisent.DISCoVeR.load(folder)


def test_a_folder_of_any_class_is_read_by_its_name(kit, folder, tmp_path):
    other = kit.trained(scdisent.BFVAE, kit.ready())
    other.save(tmp_path / "other")
    for path, cls in ((folder, scdisent.DISCoVeR), (tmp_path / "other", scdisent.BFVAE)):
        found = scdisent.load(path)
        assert type(found) is cls
        kit.assert_equal_weights(kit.weights(found), kit.weights(cls.load(path)))
    resealed(folder, **{"class": "Foreign"})
    with pytest.raises(ModelFileError, match="holds a Foreign, not a DISCoVeR or .*ShiftModel"):
        scdisent.load(folder)


def test_a_newer_format_says_to_update(folder):
    versions = {"scdisent": "9.9"}
    resealed(folder, format=files.FORMAT + 1, versions=versions)
    with pytest.raises(ModelFileError, match=r"scdisent 9\.9.*Update scdisent"):
        scdisent.DISCoVeR.load(folder)


def test_a_sealed_description_that_is_no_description_is_refused(folder):
    (folder / files.DESCRIPTION).write_text("{}")
    resealed(folder)
    with pytest.raises(ModelFileError):
        scdisent.DISCoVeR.load(folder)


def test_weights_that_do_not_fit_the_description_are_refused(folder):
    described = json.loads((folder / files.DESCRIPTION).read_bytes())
    resealed(folder, init={**described["init"], "n_latent": 5})
    with pytest.raises(ModelFileError, match="do not fit"):
        scdisent.DISCoVeR.load(folder)


# ---------------------------------------------------------------------------- safety


def test_loading_never_unpickles(kit, nb_model, folder, monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("unpickled")

    for module, names in (
        (pickle, ("load", "loads", "Unpickler")),
        (torch, ("load",)),
        (torch.serialization, ("load",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    loaded = scdisent.DISCoVeR.load(folder)
    monkeypatch.undo()
    np.testing.assert_array_equal(codes(loaded, kit.query(nb_model.adata)), codes(nb_model))


def test_the_files_are_plain(nb_model, folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    described = json.loads((folder / files.DESCRIPTION).read_bytes())
    assert described["class"] == "DISCoVeR"
    assert described["versions"].keys() == {"scdisent", "scvi-tools", "torch"}
    tensors = load_file(folder / files.WEIGHTS)
    weights = {f"module.{name}" for name in nb_model.module.state_dict()}
    kept = {"z", "w", "condition", "library", "effects_means", "effects_n_cells"}
    assert set(tensors) == weights | {f"extra.{name}" for name in kept}
    n_cells = nb_model.adata.n_obs
    assert not any(t.shape == (n_cells, nb_model.adata.n_vars) for t in tensors.values())
    umask = os.umask(0)
    os.umask(umask)
    for name in NAMES:  # others may read what the user's settings let them read
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o666 & ~umask


# --------------------------------------------------------------------------- writing


def test_an_existing_folder_is_only_replaced_on_request(kit, nb_model, folder):
    before = {name: (folder / name).read_bytes() for name in NAMES}
    other = kit.trained(scdisent.DISCoVeR, kit.ready(seed=3))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        other.save(folder)
    assert before == {name: (folder / name).read_bytes() for name in NAMES}
    other.save(folder, overwrite=True)
    query = kit.query(other.adata)
    np.testing.assert_array_equal(codes(scdisent.DISCoVeR.load(folder), query), codes(other))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_write_that_fails_leaves_the_old_model_whole(kit, nb_model, folder, monkeypatch, which):
    other = kit.trained(scdisent.DISCoVeR, kit.ready(seed=3))
    written = []

    class DiskFullError(OSError):
        pass

    write = Path.write_bytes

    def until_full(path, content):
        if len(written) == which:
            raise DiskFullError
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", until_full)
    with pytest.raises(DiskFullError):
        other.save(folder, overwrite=True)
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    query = kit.query(nb_model.adata)
    np.testing.assert_array_equal(codes(scdisent.DISCoVeR.load(folder), query), codes(nb_model))


def test_what_cannot_be_stored_is_an_error_that_writes_nothing(kit, tmp_path):
    model = kit.build(scdisent.DISCoVeR, kit.ready())
    model.init_params_["non_kwargs"]["weights"] = {"kl_invariant": object()}
    with pytest.raises(TypeError, match="cannot be stored"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_parent_folders_are_made(nb_model, tmp_path):
    nb_model.save(str(tmp_path / "a" / "b"))
    assert scdisent.DISCoVeR.load(str(tmp_path / "a" / "b")).is_trained_
