"""Latent codes of cells."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch.distributions import Normal

from scdisent._constants import KEYS
from scdisent._errors import OptionError, one_of
from scdisent.model._base import GETTER_BATCH_SIZE, DisentModel
from scdisent.model._common import cuda_devices, resolve_seed
from scdisent.module import SPECIFIC

FULL = "full"
ALL_FIELDS = tuple(key for key in KEYS if key not in (KEYS.X, KEYS.SAMPLE, KEYS.CELL_TYPE))
Codes = NDArray[np.float32]


class LatentMixin(DisentModel):
    """Latent codes of cells, and what codes decode to."""

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        *,
        representation: str | None = None,
        indices: Sequence[int] | NDArray[np.generic] | None = None,
        give_mean: bool = True,
        batch_size: int | None = None,
        return_dist: bool = False,
        dataloader: Iterable[dict[str, torch.Tensor]] | None = None,
        seed: int | None = None,
    ) -> Codes | tuple[Codes, Codes]:
        """Codes of cells, ``(n_cells, n_latent)``.

        Parameters
        ----------
        adata
            Any cells with the genes of training; None: the model's own.
        representation
            Name of a block: ``"invariant"`` (needs no condition column) or ``"specific"``, or
            ``"full"``: both side by side. Models of one block call it ``"latent"``. None: the
            first.
        indices
            Cells to read; None: all.
        give_mean
            The posterior mean; False: one sample of the posterior.
        batch_size
            Cells encoded at once.
        return_dist
            Return mean and variance instead.
        dataloader
            Minibatches to read instead of an AnnData, in scvi-tools' form.
        seed
            Of the sample.
        """
        blocks = self._blocks(representation)
        if dataloader is None:
            fields = self._encoder_fields(blocks)
            dataloader = self._loader(adata, fields=fields, indices=indices, batch_size=batch_size)
        else:
            self._need_training()
        mean, scale = self._posterior_moments(dataloader, blocks)
        if return_dist:
            return mean, scale**2
        if give_mean:
            return mean
        rng = np.random.default_rng(resolve_seed(seed))
        return mean + scale * rng.standard_normal(mean.shape, dtype=np.float32)

    def _encoder_fields(self, blocks: Sequence[str]) -> tuple[str, ...]:
        """What the encoders of some blocks read beside expression."""
        return (KEYS.CONDITION,) if SPECIFIC in blocks else ()

    def _blocks(self, representation: str | None) -> tuple[str, ...]:
        known = self.representations
        if representation is None:
            return known[:1]
        one_of(representation, (*known, FULL) if len(known) > 1 else known, "representation")
        return known if representation == FULL else (representation,)

    @torch.inference_mode()
    def decode(
        self, codes: NDArray[np.floating], *, library_size: float = 1.0, batch_size: int = 4096
    ) -> Codes:
        """Decoded expression of latent codes, with which traversals are drawn.

        Parameters
        ----------
        codes
            All blocks side by side as ``representation="full"`` gives them, ``(n, n_latent)``.
            Technical covariates are held at their first level, numbers at zero.
        library_size
            Counts the genes sum to for count models; real and binary ones ignore it.
        batch_size
            Codes decoded at once.

        Returns
        -------
        ``(n, n_genes)``.
        """
        self._need_training()
        module, values = self.module, torch.as_tensor(np.asarray(codes, dtype=np.float32))
        expected = sum(module.n_latents.values())
        if values.ndim != 2 or values.shape[1] != expected:
            msg = f"codes have the shape {tuple(values.shape)}; expected (n, {expected})."
            raise OptionError(msg)
        size = library_size if module.expects == "counts" else 1.0
        head = list(module.likelihoods.values())[0]
        parts = []
        for part in values.split(batch_size):
            nuisance = module.first_levels(len(part)).to(module.device)
            raw = module.decode_codes(part.to(module.device), nuisance)
            parts.append((head.profile(raw) * size).cpu())
        return torch.cat(parts).numpy()

    def _posterior_moments(
        self, dataloader: Iterable[dict[str, torch.Tensor]], blocks: Sequence[str]
    ) -> tuple[Codes, Codes]:
        means, scales = [], []
        for batch in dataloader:
            cells = self.module.moved_cells(batch)
            posteriors: list[Normal] = [self.module.posterior(cells, block) for block in blocks]
            means.append(torch.cat([q.mean for q in posteriors], dim=-1).cpu())
            scales.append(torch.cat([q.stddev for q in posteriors], dim=-1).cpu())
        return torch.cat(means).numpy(), torch.cat(scales).numpy()

    @torch.inference_mode()
    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        *,
        indices: Sequence[int] | NDArray[np.generic] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> dict[str, float]:
        """Mean negative log-likelihood of each head in nats per cell, by name of the term.

        One posterior sample a cell; summed over genes.

        Parameters
        ----------
        adata
            Cells with their condition column; None: the model's own.
        indices
            Cells to read; None: all.
        batch_size
            Cells decoded at once.
        seed
            Of the samples.
        """
        loader = self._loader(adata, fields=ALL_FIELDS, indices=indices, batch_size=batch_size)
        sums: dict[str, float] = {}
        with torch.random.fork_rng(devices=cuda_devices()):
            torch.manual_seed(resolve_seed(seed))
            for batch in loader:
                cells = self.module.cells(batch)
                raw = self.module.decode(cells, self.module.encode(cells))
                for name, head in self.module.likelihoods.items():
                    total = -head.log_prob(cells, raw[name]).sum().item()
                    sums[f"nll_{name}"] = sums.get(f"nll_{name}", 0.0) + total
        n_cells = len(loader.index)
        return {name: total / n_cells for name, total in sums.items()}

    def expression_summary(
        self, adata: AnnData | None = None, *, n_components: int = 30, seed: int = 0
    ) -> tuple[Codes, Codes]:
        """Principal components of the encoder's input, and the log depth of each cell.

        ``(n_cells, n_components)`` and ``(n_cells, 1)``: what the data alone give away.

        Parameters
        ----------
        adata
            Cells; None: the model's own.
        n_components
            Components to keep.
        seed
            Of the decomposition.
        """
        table = self._loader(adata, fields=(), batch_size=GETTER_BATCH_SIZE)
        x, depth = [], []
        for batch in table:
            cells = self.module.cells(batch)
            counts = self.module.expects == "counts"
            x.append(cells.log_normalised.csr.to_dense() if counts else cells.dense)
            depth.append(cells.dense.abs().sum(-1, keepdim=True).log1p())
        values = torch.cat(x).cpu().numpy()
        n_components = min(n_components, *values.shape)
        components = PCA(n_components, random_state=seed).fit_transform(values)
        return components, torch.cat(depth).cpu().numpy()
