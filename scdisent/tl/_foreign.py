"""Models of scvi-tools as the scores without ground truth read them."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from scdisent._errors import OptionError

Floats = NDArray[np.floating]
KEYS = ("condition_key", "labels_key", "sample_key", "batch_key", "control", "layer")


@dataclass(frozen=True)
class ScviModel:
    """A trained count model of scvi-tools with one block of codes, such as ``scvi.model.SCVI``.

    Codes are decoded by its generative part in the first batch, to shares of the total.
    """

    model: Any
    representations = ("latent",)

    @property
    def module(self) -> SimpleNamespace:
        """What the tools ask of a module."""
        return SimpleNamespace(n_latents={"latent": self.model.module.n_latent}, expects="counts")

    @property
    def registry_(self) -> dict[str, Any]:
        """Columns named at its setup; those that scvi-tools does not know are None."""
        return {"setup_args": {**dict.fromkeys(KEYS), **self.model.registry_["setup_args"]}}

    def get_var_names(self) -> Any:
        """Genes of training."""
        return self.model.get_var_names()

    def get_latent_representation(
        self, adata: AnnData, *, representation: str | None = None, return_dist: bool = False
    ) -> Any:
        """Means of the posterior, with ``return_dist`` and its variances."""
        cells = adata.copy() if adata.is_view else adata  # scvi-tools sets views up anew, in place
        return self.model.get_latent_representation(cells, return_dist=return_dist)

    def decode(self, codes: Floats, *, batch_size: int = 4096) -> Floats:
        """Shares of the total, ``(n, n_genes)``."""
        import torch

        module, parts = self.model.module, []
        module.eval()
        with torch.inference_mode():
            for part in torch.as_tensor(np.asarray(codes, dtype=np.float32)).split(batch_size):
                z = part.to(self.model.device)
                first = torch.zeros(len(z), 1, device=z.device)
                px = module.generative(z=z, library=first, batch_index=first.long())["px"]
                share = getattr(px, "scale", None)
                values = px.mean if share is None else share
                parts.append((values / values.sum(dim=-1, keepdim=True)).cpu().numpy())
        return np.concatenate(parts)


def readable(model: Any) -> Any:
    """Return the model itself, or one of scvi-tools as the tools read it.

    Raises
    ------
    OptionError
        If it has no codes or no decoder that could be read.
    """
    if hasattr(model, "representations"):
        return model
    module = getattr(model, "module", None)
    if hasattr(module, "n_latent") and hasattr(module, "generative"):
        return ScviModel(model)
    msg = (
        f"{type(model).__name__} is neither a model of scdisent nor one of scvi-tools with a "
        "generative part. Pass its codes and its decoder to scdisent.metrics.fvh_lt."
    )
    raise OptionError(msg)
