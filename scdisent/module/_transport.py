"""What generators whose latents a condition moves have in common."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scdisent.module._base import DisentModule, State, Term
from scdisent.module._discover import INVARIANT, JOINT, SPECIFIC
from scdisent.nn import Cells, ConditionInputs, MovedLatents, make_likelihood, sparse_coders

SPARSITY = "sparsity"


class TransportModule(DisentModule):
    """Base of CG-VAE and CG-GAN: one block of latents, of which a condition moves the style.

    Codes stand as content, then style; with gates each latent is style while its gate is open, and
    content once it is closed. A subclass gives :meth:`law_of_codes`.

    Parameters
    ----------
    n_input, n_labels
        Number of genes and of conditions.
    condition_inputs
        What is known of the conditions of training; None: a free code for each.
    likelihood, scale
        Noise of the cells.
    n_latent, n_specific
        Latents that no condition may move, and those that it may. ``n_specific=None``: all of
        ``n_latent``, with gates.
    flow
        Family of the maps; ``"none"``: no condition moves anything.
    code_dropout
        Of codes that are computed from what is known.
    **sizes
        Of :class:`DisentModule`.
    """

    encoder: Any  # torch's containers do not know what they hold
    decoder: Any

    def __init__(
        self,
        n_input: int,
        n_labels: int,
        *,
        condition_inputs: ConditionInputs | None,
        likelihood: str,
        scale: float | None,
        n_latent: int,
        n_specific: int | None,
        flow: str,
        code_dropout: float,
        **sizes: Any,
    ) -> None:
        super().__init__(**sizes)
        self.latents = MovedLatents(
            0 if n_specific is None else n_latent,
            n_latent if n_specific is None else n_specific,
            n_conditions=n_labels,
            flow=flow,
            gated=n_specific is None,
            inputs=condition_inputs,
            code_dropout=code_dropout,
        )
        self.n_codes = self.latents.n_latent
        head = make_likelihood(likelihood, n_input, families=None, scale=scale)
        self.likelihoods = nn.ModuleDict({JOINT: head})

    def _add_coders(
        self, *, n_hidden: int, n_layers: int, image_shape: Sequence[int] | None
    ) -> None:
        """Networks from and to cells; after everything that decoders read is there."""
        self.encoder, self.decoder = sparse_coders(
            self.likelihoods[JOINT],
            self.n_codes,
            n_nuisance=self.n_nuisance,
            n_hidden=n_hidden,
            n_layers=n_layers,
            image_shape=image_shape,
        )

    @abstractmethod
    def law_of_codes(self, cells: Cells) -> Normal:
        """Law of all latents of real cells, in use or not, ``(n_cells, n_codes)``."""

    @property
    def n_latents(self) -> dict[str, int]:
        """Size of each block: what training has left open and in use."""
        latents = self.latents
        return {INVARIANT: int(latents.is_content.sum()), SPECIFIC: int(latents.is_style.sum())}

    def posterior(self, cells: Cells, block: str, condition: Tensor | None = None) -> Normal:
        """Law of one block; no block reads the condition."""
        return self.latents.block(self.law_of_codes(cells), style=block == SPECIFIC)

    def decode_codes(self, codes: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output for content and style side by side, ``(n_cells, n_codes)``."""
        raw: Tensor = self.decoder(self.latents.arranged(codes), nuisance)
        return raw

    def decode_joint(self, z: Tensor, w: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output for content and style."""
        return self.decode_codes(torch.cat([z, w], dim=-1), nuisance)

    def decode_invariant(self, z: Tensor, condition: Tensor, nuisance: Tensor) -> Tensor:
        """Raw output for content, with style at the median of its law under the condition."""
        return self.decode_joint(z, self.latents.median_style(condition), nuisance)

    def structure(self, state: State) -> Iterator[Term]:
        """Terms by which few genes hang on a latent, and few latents on the condition."""
        if SPARSITY in state.raw:
            yield Term(SPARSITY, state.raw[SPARSITY])
        if self.latents.gates is not None and self.weights.get("gate"):
            # Without a gradient: after_step shrinks the gates, to exact zeros.
            yield Term("gate", self.latents.gates.detach().sum())

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Shrink the gates."""
        weight = self.weights.get("gate", 0.0)
        self.latents.shrink_gates(optimizer, weight=weight, progress=self.progress)
