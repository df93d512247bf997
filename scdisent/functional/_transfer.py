"""Moving a cell's specific code from one condition to another."""

import torch
from torch import Tensor


def local_mean(query: Tensor, points: Tensor, values: Tensor, *, n_neighbors: int) -> Tensor:
    """Mean value of the nearest points of each query.

    ``query`` (n_cells, n_latent), ``points`` (n_points, n_latent), ``values`` (n_points, n_out);
    returns ``(n_cells, n_out)``.
    """
    nearest = torch.cdist(query, points).topk(min(n_neighbors, len(points)), largest=False).indices
    return values[nearest].mean(dim=1)


def support(query: Tensor, points: Tensor) -> Tensor:
    """How usual it is for a point to lie as far from the others as the query does.

    Share of points whose distance to their nearest fellow is at least the query's distance to its
    nearest point: near 1 inside the data, 0 further out than every point. ``(n_cells,)``.
    """
    if len(points) < 2:
        return query.new_zeros(len(query))
    own = torch.cdist(points, points).fill_diagonal_(torch.inf).amin(dim=1).sort().values
    distance = torch.cdist(query, points).amin(dim=1)
    return 1 - torch.searchsorted(own, distance) / len(own)
