"""Normalised expression and differential expression from the model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scvi.model.base import DifferentialComputation
from torch import Tensor

from scdisent._constants import KEYS
from scdisent._errors import OptionError, SetupError, one_of
from scdisent.data import _registry as reg
from scdisent.model._change_mixin import ChangeMixin
from scdisent.model._common import cuda_devices, resolve_seed, rows_of, subset
from scdisent.module import INVARIANT, JOINT, SPECIFIC
from scdisent.nn import Cells


class ExpressionMixin(ChangeMixin):
    """Decoded expression for models with an invariant and a specific block."""

    @torch.inference_mode()
    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        *,
        reconstruction: str = JOINT,
        transform_condition: str | None = None,
        transform_batch: str | int | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | str = 1e4,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        return_mean: bool = True,
        return_numpy: bool = False,
        indices: Sequence[int] | NDArray[np.generic] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> pd.DataFrame | NDArray[np.float32]:
        """Decoded expression of each cell, without the noise of counting.

        Parameters
        ----------
        adata
            Cells; None: the model's own.
        reconstruction
            ``"joint"``: p(x | z, w); ``"invariant"``: without w, what is shared (DISCoVeR: its head
            p(x | z); CGVAE: w at the median of its prior).
        transform_condition
            Decode as if under this condition: w moved by the difference of the conditions' means
            (CGVAE: transported). With doses: a full name such as ``"drug@0.5"``.
        transform_batch
            Decode as this technical batch; None: each cell's own.
        gene_list
            Genes to return; None: all.
        library_size
            Counts the genes sum to for count models; ``"latent"``: each cell's observed library.
            Real and binary likelihoods ignore it.
        n_samples
            0 or 1 with the default: the posterior mean is decoded. More: posterior samples.
        n_samples_overall
            Draw this many cells with replacement and one posterior sample each.
        return_mean
            Average the samples of a cell; else ``(n_samples, n_cells, n_genes)``.
        return_numpy
            Array instead of a DataFrame with cell and gene names.
        indices, batch_size
            Cells to use; cells decoded at once.
        seed
            Of the samples.
        """
        self._need_training()
        one_of(reconstruction, (JOINT, INVARIANT), "reconstruction")
        source = self._source(adata)
        rng = np.random.default_rng(resolve_seed(seed))
        if n_samples_overall is not None:
            rows = np.arange(source.n_obs) if indices is None else rows_of(source, indices)
            indices = rng.choice(rows, n_samples_overall)
        source = subset(source, indices)
        genes, chosen = self._genes(gene_list)
        as_batch = self._batch_code(transform_batch)
        plan = None
        if transform_condition is not None:
            target = self._named_condition(transform_condition)
            plan = self._transfer_to(target, self.transfers[0])
        use_mean = n_samples <= 1 and n_samples_overall is None
        samples = [
            np.concatenate(
                [
                    self._decoded(
                        cells,
                        reconstruction,
                        plan=plan,
                        library_size=library_size,
                        rng=None if use_mean else rng,
                    )[:, chosen]
                    for cells in self._cells_of(
                        source, None, batch_size=batch_size, as_batch=as_batch
                    )
                ]
            )
            for _ in range(max(1, n_samples))
        ]
        if len(samples) > 1 and not return_mean:
            return np.stack(samples)
        values = np.mean(samples, axis=0)
        if return_numpy:
            return values
        return pd.DataFrame(values, index=source.obs_names, columns=genes)

    def _genes(self, gene_list: Sequence[str] | None) -> tuple[NDArray[np.object_], Any]:
        genes = reg.gene_names(self.registry_)
        if gene_list is None:
            return genes, slice(None)
        positions = pd.Index(genes).get_indexer(list(gene_list))
        if (positions < 0).any():
            unknown = [gene for gene, at in zip(gene_list, positions, strict=True) if at < 0]
            msg = f"gene_list holds genes that the model does not know: {unknown[:5]}."
            raise OptionError(msg)
        return genes[positions], positions

    def _batch_code(self, batch: str | int | None) -> int | None:
        """Code of a technical batch."""
        if batch is None:
            return None
        known = [str(level) for level in reg.levels(self.registry_, KEYS.BATCH)]
        return known.index(one_of(str(batch), known, "transform_batch"))

    def _decoded(
        self,
        cells: Cells,
        reconstruction: str,
        *,
        plan: Any,
        library_size: float | str,
        rng: np.random.Generator | None,
    ) -> NDArray[np.float32]:
        """Profile of one minibatch times the library."""
        module = self.module
        z = _code(module.posterior(cells, INVARIANT), rng)
        if reconstruction == INVARIANT:
            if plan is None:
                raw = module.decode_invariant(z, module.told(cells.condition), cells.nuisance)
            else:
                raw = plan.decode_invariant(module, cells, z)
        else:
            w = _code(module.posterior(cells, SPECIFIC), rng)
            if plan is not None:
                w = plan.specific_code(module, cells, z, w)
            raw = module.decode_joint(z, w, cells.nuisance)
        head = module.likelihoods[reconstruction if reconstruction in module.likelihoods else JOINT]
        profile = head.profile(raw)
        if module.expects == "counts":
            size = cells.library[:, None] if library_size == "latent" else float(library_size)
            profile = profile * size
        return profile.cpu().numpy()

    def differential_expression(
        self,
        adata: AnnData | None = None,
        *,
        groupby: str | None = None,
        group1: str | None = None,
        group2: str | None = None,
        idx1: Any = None,
        idx2: Any = None,
        mode: str = "change",
        delta: float = 0.25,
        fdr_target: float = 0.05,
        batch_size: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Genes that differ between two groups of cells (scvi-tools' test on our posterior).

        Parameters
        ----------
        adata
            The AnnData of the model, or one set up like it; None: the model's own.
        groupby, group1, group2
            Column and its levels; ``group2=None``: all other cells. ``groupby`` defaults to the
            condition, ``group2`` then to the control.
        idx1, idx2
            Masks or positions instead.
        mode, delta
            As in scvi-tools: ``"change"`` tests whether the log2 fold change exceeds ``delta``.
        fdr_target
            Expected share of false discoveries among ``is_de_fdr``.
        batch_size, seed
            Cells decoded at once; seed of the posterior samples.
        **kwargs
            Of :meth:`scvi.model.base.DifferentialComputation.get_bayes_factors`.

        Returns
        -------
        One row a gene, the surest first. Cells of a donor are not independent: a low FDR here is
        no statement about donors.
        """
        self._need_training()
        adata = self._validate_anndata(self._source(adata))
        first, second, name = self._groups(adata, groupby, group1, group2, idx1, idx2)
        rng = np.random.default_rng(resolve_seed(seed))

        def expression(adata: AnnData, **options: Any) -> NDArray[np.float32]:
            draw = int(rng.integers(2**31))
            return self.get_normalized_expression(
                adata,
                return_numpy=True,
                library_size=1,
                batch_size=batch_size,
                seed=draw,
                **options,
            )

        test = DifferentialComputation(expression, None, self.get_anndata_manager(adata))
        with torch.random.fork_rng(devices=cuda_devices()), seeded_numpy(resolve_seed(seed)):
            found = test.get_bayes_factors(
                first, second, mode=mode, delta=delta, use_observed_batches=True, **kwargs
            )
        table = pd.DataFrame(found, index=adata.var_names)
        table.insert(0, "comparison", name)
        key = "proba_de" if mode == "change" else "bayes_factor"
        table = table.sort_values(key, ascending=False)
        if mode == "change":
            expected_fdr = (1 - table["proba_de"]).cumsum() / np.arange(1, len(table) + 1)
            table["is_de_fdr"] = expected_fdr <= fdr_target
        return table

    def _groups(
        self, adata: AnnData, groupby: Any, group1: Any, group2: Any, idx1: Any, idx2: Any
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], str]:
        """Masks of the two groups and the name of the comparison."""
        if idx1 is not None:
            first = _mask(adata, idx1)
            return first, ~first if idx2 is None else _mask(adata, idx2), "idx1 vs idx2"
        if groupby is None:
            groupby = reg.setup_argument(self.registry_, "condition_key")
            group2 = self.control if group2 is None else group2
        if groupby not in adata.obs:
            msg = f"groupby={groupby!r} is not a column of adata.obs: {sorted(adata.obs.columns)}."
            raise SetupError(msg)
        column = adata.obs[groupby].astype(str)
        levels = sorted(column.unique())
        if group1 is None:
            others = [level for level in levels if level != group2]
            if len(others) != 1:
                msg = f"name group1: {groupby!r} has the levels {levels}."
                raise OptionError(msg)
            group1 = others[0]
        first = (column == one_of(str(group1), levels, "group1")).to_numpy()
        if group2 is None:
            return first, ~first, f"{group1} vs rest"
        second = (column == one_of(str(group2), levels, "group2")).to_numpy()
        return first, second, f"{group1} vs {group2}"


@contextmanager
def seeded_numpy(seed: int) -> Iterator[None]:
    """Seed numpy's global state for scvi-tools' test, which uses it, and put it back after."""
    state = np.random.get_state()  # noqa: NPY002 - the state of the caller, to be restored
    np.random.seed(seed % 2**32)  # noqa: NPY002, TID251 - scvi-tools draws from the global state
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _code(posterior: Any, rng: np.random.Generator | None) -> Tensor:
    if rng is None:
        return posterior.mean
    noise = rng.standard_normal(posterior.mean.shape, dtype=np.float32)
    return posterior.mean + posterior.stddev * torch.from_numpy(noise).to(posterior.mean.device)


def _mask(adata: AnnData, index: Any) -> NDArray[np.bool_]:
    mask = np.zeros(adata.n_obs, dtype=bool)
    mask[rows_of(adata, index)] = True
    return mask
