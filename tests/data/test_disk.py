"""Cells that stay on disk: the same numbers as in memory, shuffled by blocks."""

import hashlib

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

import scdisent
from scdisent._constants import KEYS
from scdisent._errors import InputDataError, OptionError
from scdisent.data import DiskDataModule, DiskLoader
from scdisent.data._disk import BLOCK, BUFFER
from scdisent.datasets import simulate_conditions

SMALL = {"n_latent": 3, "n_hidden": 16}
FAST = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}
N = 5 * BLOCK + 20


def numbered(n_cells=N, **arguments):
    """Loader of cells whose only value is their number, a matrix that can only be sliced."""
    x = np.arange(n_cells, dtype=np.float32)[:, None]
    return DiskLoader(OnlySlices(x), {}, **{"batch_size": 16, **arguments})


class OnlySlices:
    """Like a backed matrix of a file: neighbouring rows only."""

    def __init__(self, x):
        self.x, self.shape, self.read = x, x.shape, []

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        assert rows.stop - rows.start <= BLOCK
        self.read.append(rows.start)
        return self.x[rows]


def epoch(loader):
    return [batch["X"][:, 0].int().tolist() for batch in loader]


def flat(batches):
    return [cell for batch in batches for cell in batch]


# ----------------------------------------------------------------------- the loader


@pytest.mark.parametrize("n_cells", [1, 16, BLOCK, N, (BUFFER + 2) * BLOCK + 3])
def test_in_order_every_cell_comes_once_and_in_its_place(n_cells):
    loader = numbered(n_cells)
    found = epoch(loader)
    assert flat(found) == list(range(n_cells))
    assert len(found) == len(loader)


@pytest.mark.parametrize("seed", [None, 0])
def test_a_block_is_read_once_an_epoch_whatever_the_batches(seed):
    loader = numbered(2 * BUFFER * BLOCK + 5, batch_size=100, seed=seed)
    found = flat(epoch(loader))
    assert len(set(found)) == len(found)
    assert sorted(loader.x.read) == list(range(0, 2 * BUFFER * BLOCK + 1, BLOCK))


def test_a_mask_chooses_cells():
    rows = np.arange(N) % 3 == 0
    assert flat(epoch(numbered(rows=rows))) == np.flatnonzero(rows).tolist()


@pytest.mark.parametrize("n_cells", [N, (BUFFER + 2) * BLOCK + 3])
def test_in_training_cells_come_once_in_full_batches_of_another_order_each_epoch(n_cells):
    loader = numbered(n_cells, seed=0)
    first, second = epoch(loader), epoch(loader)
    for batches in (first, second):
        cells = flat(batches)
        assert len(set(cells)) == len(cells) == n_cells // 16 * 16
        assert {len(batch) for batch in batches} == {16}
        assert len(batches) == len(loader)
    assert first != second
    assert first == epoch(numbered(n_cells, seed=0))
    assert first != epoch(numbered(n_cells, seed=1))
    blocks = {tuple(sorted({cell // BLOCK for cell in batch})) for batch in first}
    assert np.mean([len(found) for found in blocks]) > 2  # cells of several blocks meet


@pytest.mark.parametrize("n_shards", [2, 3])
@pytest.mark.parametrize("held_out", [0, 1, 2])
def test_processes_take_disjoint_cells_and_as_many_steps_in_every_epoch(n_shards, held_out):
    rows = np.arange(N) // BLOCK != held_out
    loaders = [numbered(rows=rows, seed=3, shard=(r, n_shards)) for r in range(n_shards)]
    for _ in range(4):
        parts = [epoch(loader) for loader in loaders]
        cells = [cell for part in parts for cell in flat(part)]
        assert len(set(cells)) == len(cells)
        assert set(cells) <= set(np.flatnonzero(rows).tolist())
        assert {len(part) for part in parts} == {len(loaders[0])}
    for rank in range(n_shards):  # validation is not dealt
        whole = numbered(rows=rows, shard=(rank, n_shards))
        assert flat(epoch(whole)) == np.flatnonzero(rows).tolist()


def test_fewer_cells_than_a_batch_are_one_batch():
    assert [sorted(batch) for batch in epoch(numbered(10, seed=0))] == [list(range(10))]


def test_columns_and_chosen_genes_follow_their_cells(rng):
    x = sp.csr_matrix(rng.poisson(1.0, (N, 9)).astype(np.float32))
    genes = np.array([7, 0, 3])
    columns = {"labels": np.arange(N)[:, None]}
    for batch in DiskLoader(x, columns, batch_size=50, genes=genes, seed=0):
        cells = batch["labels"][:, 0].numpy()
        np.testing.assert_array_equal(batch["X"].to_dense(), x[cells][:, genes].toarray())


# -------------------------------------------------------------------------- the split


def test_whole_blocks_are_held_out_and_nothing_is_lost():
    x = np.zeros((20 * BLOCK + 5, 1), dtype=np.float32)
    data = DiskDataModule(x, {}, batch_size=16, train_size=0.6, validation_size=0.2, seed=1)
    parts = data.train_idx, data.val_idx, data.test_idx
    assert sorted(np.concatenate(parts)) == list(range(len(x)))
    blocks = [set(part // BLOCK) for part in parts]
    assert not blocks[0] & blocks[1]
    assert not blocks[1] & blocks[2]
    shares = np.array([len(part) for part in parts]) / len(x)
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.06)
    assert DiskDataModule(x, {}, batch_size=16, train_size=1.0).val_dataloader() == []


@pytest.mark.parametrize("seed", range(10))
def test_a_condition_of_one_block_is_trained_on(seed):
    x = np.zeros((10 * BLOCK, 1), dtype=np.float32)
    condition = (np.arange(len(x)) >= 9 * BLOCK).astype(np.int64)[:, None]
    data = DiskDataModule(x, {KEYS.CONDITION: condition}, batch_size=16, train_size=0.5, seed=seed)
    assert set(condition[data.train_idx, 0]) == {0, 1}
    assert not set(data.train_idx // BLOCK) & set(data.val_idx // BLOCK)
    assert sorted([*data.train_idx, *data.val_idx]) == list(range(len(x)))


@pytest.mark.parametrize(("train_size", "validation_size"), [(1.5, None), (0.8, 0.4), (0.5, -0.1)])
def test_sizes_that_are_no_shares_are_refused(train_size, validation_size):
    sizes = {"train_size": train_size, "validation_size": validation_size}
    with pytest.raises(OptionError, match=r"train_size must lie in \(0, 1\]"):
        DiskDataModule(np.zeros((9, 1)), {}, batch_size=4, **sizes)


# ----------------------------------------------------------------------- with a model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same cells on disk, sparse and dense."""
    adata = simulate_conditions(
        n_cells=400, n_genes=30, n_types=2, n_donors=2, shared_effect_genes=6, type_effect_genes=2
    )
    del adata.uns["truth"]
    folder = tmp_path_factory.mktemp("disk")
    adata.write_h5ad(folder / "sparse.h5ad")
    adata.X = adata.X.toarray()
    adata.write_h5ad(folder / "dense.h5ad")
    return folder


def opened(files, layout, backed="r"):
    adata = anndata.read_h5ad(files / f"{layout}.h5ad", backed=backed)
    scdisent.setup_anndata(adata, condition_key="condition", control="control", batch_key="donor")
    return adata


def results(model, adata=None):
    source = np.flatnonzero((model.adata if adata is None else adata).obs["condition"] == "control")
    predicted = model.predict(adata, condition="stimulated", indices=source, kind="mean").X
    return {
        "codes": model.get_latent_representation(adata, representation="full"),
        "expression": model.get_normalized_expression(adata, return_numpy=True),
        "predicted": np.asarray(predicted),
    }


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_a_model_trains_and_reads_from_disk_and_leaves_the_file_alone(files, layout, rng):
    def digest():
        return hashlib.sha256((files / f"{layout}.h5ad").read_bytes()).hexdigest()

    before = digest()
    backed = opened(files, layout)
    model = scdisent.DISCoVeR(backed, **SMALL)
    model.train(**FAST, check_val_every_n_epoch=1)
    assert backed.isbacked
    assert digest() == before
    curve = model.history["elbo_train"].to_numpy(dtype=float).ravel()
    assert curve[-1] < curve[0]
    assert len(model.history["elbo_validation"]) == 2

    in_memory = opened(files, layout, backed=None)
    on_disk = results(model)
    for name, value in results(model, in_memory).items():
        np.testing.assert_allclose(on_disk[name], value, rtol=1e-3, atol=1e-4, err_msg=name)

    other_order = in_memory[:, rng.permutation(in_memory.n_vars)].copy()
    other_order.write_h5ad(files / "other.h5ad")
    query = anndata.read_h5ad(files / "other.h5ad", backed="r")
    codes = model.get_latent_representation(query, representation="full")
    np.testing.assert_allclose(codes, on_disk["codes"], atol=1e-4)


def test_what_is_wrong_on_disk_is_found_at_setup(files, tmp_path):
    adata = anndata.read_h5ad(files / "dense.h5ad")
    adata.X[3, 2] = np.nan
    adata.write_h5ad(tmp_path / "bad.h5ad")
    backed = anndata.read_h5ad(tmp_path / "bad.h5ad", backed="r")
    with pytest.raises(InputDataError, match="X holds 1 values that are NaN"):
        scdisent.setup_anndata(backed, condition_key="condition")
