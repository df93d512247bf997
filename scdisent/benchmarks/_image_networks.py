"""Small networks of the image benchmark: a judge of digit and colours, a conditional VAE."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from scdisent.nn import ImageDecoder, ImageEncoder

Array = NDArray[np.floating]
LABELS = ("digit", "ink", "paper")
N_FEATURES = 64
RATE = 1e-3


class Judge(nn.Module):
    """Convolutions, features, and one head each for digit, ink and paper."""

    def __init__(self, adata: AnnData) -> None:
        super().__init__()
        shape = adata.uns["image_shape"]
        self.levels = {name: adata.obs[name].cat.categories.to_numpy() for name in LABELS}
        body: Any = ImageEncoder(shape, N_FEATURES // 2, n_hidden=128).layers
        flatten = next(i for i, layer in enumerate(body) if isinstance(layer, nn.Flatten))
        self.maps = nn.Sequential(nn.Unflatten(1, tuple(int(side) for side in shape)))
        self.maps.extend(body[:flatten])
        self.dense = body[flatten:]
        heads = {name: nn.Linear(N_FEATURES, len(found)) for name, found in self.levels.items()}
        self.heads = nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits by name of the label."""
        features = F.relu(self.dense(self.maps(x)))
        return {name: head(features) for name, head in self.heads.items()}

    @torch.inference_mode()
    def look(self, images: Array) -> dict[str, Array]:
        """What it says of images: labels, ``features`` (n, 64), ``maps`` (n, channels, places)."""
        x = torch.as_tensor(images)
        maps = self.maps(x)
        features = F.relu(self.dense(maps))
        said = {
            name: self.levels[name][head(features).argmax(dim=1).numpy()]
            for name, head in self.heads.items()
        }
        return {**said, "features": features.numpy(), "maps": maps.flatten(2).numpy()}


def train_judge(adata: AnnData, *, seed: int, n_epochs: int = 15) -> Judge:
    """Fit a judge to images of all conditions."""
    torch.manual_seed(seed)
    judge = Judge(adata)
    codes = {name: torch.tensor(adata.obs[name].cat.codes.to_numpy()).long() for name in LABELS}

    def loss(x: Tensor, cells: Tensor) -> Tensor:
        said = judge(x)
        return torch.stack(
            [F.cross_entropy(said[name], codes[name][cells]) for name in LABELS]
        ).sum()

    fit(judge, adata.X, loss, n_steps=n_epochs * len(adata) // 64)
    return judge.eval()


class ConditionalVAE(nn.Module):
    """The textbook model: q(z | x), and a decoder that is told ink and paper."""

    def __init__(self, adata: AnnData, *, n_latent: int, n_hidden: int) -> None:
        super().__init__()
        self.levels = {name: list(adata.obs[name].cat.categories) for name in LABELS[1:]}
        self.n_latent, shape = n_latent, adata.uns["image_shape"].tolist()
        n_told = sum(map(len, self.levels.values()))
        self.encoder = ImageEncoder(shape, n_latent, n_hidden=n_hidden)
        self.decoder = ImageDecoder(n_latent + n_told, shape, n_hidden=n_hidden)
        self.raw_scale = nn.Parameter(torch.full((adata.n_vars,), -2.0))

    def told(self, ink: Array, paper: Array) -> Tensor:
        """One-hot ink and paper, ``(n_cells, n_inks + n_papers)``."""
        pairs = zip(self.levels.values(), (ink, paper), strict=True)
        columns = [np.equal.outer(np.asarray(values), levels) for levels, values in pairs]
        return torch.tensor(np.hstack(columns), dtype=torch.float32)

    def loss(self, x: Tensor, told: Tensor) -> Tensor:
        """Minus the bound, mean over images."""
        q = self.encoder(x)
        scale = F.softplus(self.raw_scale) + 1e-3
        px = torch.distributions.Normal(self.decoder(q.rsample(), told), scale)
        prior = torch.distributions.Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
        kl = torch.distributions.kl_divergence(q, prior).sum(dim=1)
        return (kl - px.log_prob(x).sum(dim=1)).mean()

    @torch.inference_mode()
    def translate(self, images: Array, *, ink: str, paper: str) -> Array:
        """Images in other colours: the same code, another statement."""
        told = self.told(np.full(len(images), ink), np.full(len(images), paper))
        return self.decoder(self.encoder(torch.as_tensor(images)).mean, told).numpy()

    @torch.inference_mode()
    def sample(self, n_cells: int, *, ink: str, paper: str) -> Array:
        """New images."""
        told = self.told(np.full(n_cells, ink), np.full(n_cells, paper))
        return self.decoder(torch.randn(n_cells, self.n_latent), told).numpy()


def train_conditional_vae(
    adata: AnnData, *, seed: int, n_steps: int, **size: int
) -> ConditionalVAE:
    """Fit it as long as the others."""
    torch.manual_seed(seed)
    model = ConditionalVAE(adata, **size)
    told = model.told(adata.obs["ink"].to_numpy(), adata.obs["paper"].to_numpy())
    fit(model, adata.X, lambda x, cells: model.loss(x, told[cells]), n_steps=n_steps)
    return model.eval()


def fit(
    network: nn.Module, images: Array, loss: Callable[[Tensor, Tensor], Tensor], *, n_steps: int
) -> None:
    """Minimise with Adam, annealed, in minibatches of 64."""
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for cells in _minibatches(len(images), n_steps=n_steps):
        optimizer.zero_grad()
        loss(torch.as_tensor(images[cells.numpy()]), cells).backward()
        optimizer.step()
        plan.step()


def _minibatches(n_cells: int, *, n_steps: int, size: int = 64) -> Iterator[Tensor]:
    order = torch.empty(0, dtype=torch.long)
    for _ in range(n_steps):
        if len(order) < size:
            order = torch.randperm(n_cells)
        yield order[:size]
        order = order[size:]
