"""Recipes that move a cell's specific code to another condition."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scdisent._errors import InputDataError
from scdisent.functional import local_mean, support
from scdisent.module import INVARIANT, JOINT, SPECIFIC
from scdisent.nn import Cells

TRANSFERS = ("mean_difference", "local_difference", "nearest", "prior", "swap", "decoder")
OF_UNSEEN = ("mean_difference", "prior", "decoder")
"""Those that need no cells of the target, only its code."""


N_COMPARED = 2_000
"""Anchors that say how usual a cell is under a condition without cells."""


@dataclass(frozen=True)
class Anchors:
    """Codes of some training cells, from which differences between conditions are read."""

    z: Tensor
    w: Tensor
    condition: Tensor
    library: Tensor

    def of(self, code: int) -> tuple[Tensor, Tensor]:
        """Codes of one condition: ``(n, n_latent)`` and ``(n, n_specific)``."""
        chosen = self.condition == code
        return self.z[chosen], self.w[chosen]

    def to(self, device: torch.device) -> "Anchors":
        """The same on a device."""
        return Anchors(*(value.to(device) for value in vars(self).values()))


@dataclass(frozen=True)
class Transfer:
    """How the decoder's statement about a cell is moved to another condition."""

    recipe: str
    n_neighbors: int
    anchors: Anchors
    target: int
    """Code of the target; -1 for one that was not in training."""
    unseen: Tensor | None = field(default=None, kw_only=True)
    """Code of a target without cells, ``(1, n_code)``."""
    code_distance: float = field(default=0.0, kw_only=True)
    offset: Tensor | None = field(default=None, kw_only=True)
    """Added to the target's logits, ``(n_strata, n_genes)``; the stratum is in ``cell_type``."""

    @property
    def notes(self) -> dict[str, Any]:
        """What the prediction's ``uns`` says beside the recipe."""
        return {"code_distance": self.code_distance}

    def near(self, z: Tensor) -> Tensor:
        """Support of invariant codes among training cells of the target, ``(n_cells,)``.

        Of a target without cells: among all, or some of each condition where there are many.
        """
        if self.target >= 0:
            return support(z, self.anchors.of(self.target)[0])
        every = -(-len(self.anchors.z) // N_COMPARED)
        order = self.anchors.condition.argsort(stable=True)
        return support(z, self.anchors.z[order][::every])

    def told(self, module: Any, cells: Cells) -> Tensor:
        """What the module reads of the target for each cell."""
        if self.unseen is not None:
            return self.unseen.expand(len(cells), -1)
        told: Tensor = module.told(torch.full_like(cells.condition, self.target))
        return told

    def decode_invariant(self, module: Any, cells: Cells, z: Tensor) -> Tensor:
        """Raw output of the invariant head under the target."""
        raw: Tensor = module.decode_invariant(z, self.told(module, cells), cells.nuisance)
        return raw

    def specific_code(self, module: Any, cells: Cells, z: Tensor, w: Tensor) -> Tensor:
        """Specific code that the cells would have under the target, ``(n_cells, n_specific)``."""
        if self.recipe == "swap":
            target = torch.full_like(cells.condition, self.target)
            return module.posterior(cells, SPECIFIC, condition=target).mean
        if self.recipe == "prior":
            return module.prior(z, self.told(module, cells)).mean
        if self.unseen is not None:  # means of w that the priors say, for both conditions alike
            here = module.prior(z, module.told(cells.condition)).mean
            return w + module.prior(z, self.told(module, cells)).mean - here
        there = self._mean_near(z, self.target)
        if self.recipe == "nearest":
            return there
        here = torch.empty_like(w)
        for code in cells.condition.unique().tolist():
            chosen = cells.condition == code
            here[chosen] = self._mean_near(z[chosen], code)
        return w + there - here

    def _mean_near(self, z: Tensor, code: int) -> Tensor:
        points, values = self.anchors.of(code)
        if not len(points):
            msg = f"no training cells of condition code {code} to read its specific code from."
            raise InputDataError(msg)
        if self.recipe == "mean_difference":
            return values.mean(dim=0).expand(len(z), -1)
        return local_mean(z, points, values, n_neighbors=self.n_neighbors)

    def decode(self, module: Any, cells: Cells) -> tuple[Any, Tensor, Tensor]:
        """Likelihood head and its raw outputs under the cells' own and the target condition."""
        head, before, after = self._decode(module, cells)
        if self.offset is not None:
            offset = self.offset[cells.cell_type]
            after = after + F.pad(offset, (0, after.shape[1] - offset.shape[1]))
        return head, before, after

    def _decode(self, module: Any, cells: Cells) -> tuple[Any, Tensor, Tensor]:
        z = module.posterior(cells, INVARIANT).mean
        if self.recipe == "decoder":
            own, target = module.told(cells.condition), self.told(module, cells)
            raws = [module.decode_invariant(z, y, cells.nuisance) for y in (own, target)]
            return module.likelihoods[INVARIANT], raws[0], raws[1]
        w = module.posterior(cells, SPECIFIC).mean
        moved = self.specific_code(module, cells, z, w)
        raws = [module.decode_joint(z, code, cells.nuisance) for code in (w, moved)]
        return module.likelihoods[JOINT], raws[0], raws[1]
