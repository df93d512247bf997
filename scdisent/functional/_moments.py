"""How far apart the codes of two groups of cells are: MMD, HSIC, group means."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scdisent.functional._precision import full_precision

N_WIDTHS = 4
"""Kernels: squared widths of 4, 1, 1/4 and 1/16 of the mean squared distance between cells."""


def squared_distances(codes: Tensor) -> Tensor:
    """Pairwise squared Euclidean distances, ``(n_cells, n_latent) -> (n_cells, n_cells)``."""
    square = codes.square().sum(-1)
    distances = torch.addmm(square[:, None] + square[None, :], codes, codes.T, alpha=-2)
    return distances.clamp_min(0)  # rounding makes tiny negatives on the diagonal


def rbf_kernel(codes: Tensor) -> Tensor:
    r"""Sum of Gaussian kernels of several widths, ``(n_cells, n_cells)``.

    .. math:: k(u, v) = \sum_{s} \exp\left(-\frac{\|u - v\|^2}{2 s\, m}\right),
              \quad s \in \{4, 1, \tfrac14, \tfrac1{16}\}

    where :math:`m` is the mean squared distance between cells (gradient stopped), so that the
    kernel is unchanged when the codes are scaled.
    """
    codes = codes.to(torch.promote_types(codes.dtype, torch.float32))
    with full_precision(codes):
        kernel: Tensor = _RbfMixture.apply(codes)
    return kernel


class _RbfMixture(torch.autograd.Function):
    """Kernel and its slope by the squared distance in one go; see :func:`rbf_kernel`."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor) -> Tensor:
        distances = squared_distances(codes)
        n_pairs = max(len(codes) * (len(codes) - 1), 1)
        rate = -1 / (8 * (distances.sum() / n_pairs).clamp_min(1e-12))
        kernel = distances.mul_(rate).exp_()
        total, slope = kernel.clone(), kernel.clone()
        for step in range(1, N_WIDTHS):  # a quarter of the width is the fourth power
            kernel.square_().square_()
            total += kernel
            slope.add_(kernel, alpha=4**step)
        ctx.save_for_backward(codes, slope.mul_(rate))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        codes, slope = ctx.saved_tensors
        with full_precision(gradient):
            pull = (gradient + gradient.T) * slope  # both orders of a pair
            return 2 * (pull.sum(1, keepdim=True) * codes - pull @ codes)


def group_similarities(kernel: Tensor, groups: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Mean kernel value between groups, self-pairs left out.

    Parameters
    ----------
    kernel
        ``(n_cells, n_cells)``.
    groups
        Group of each cell, integers in ``[0, n_groups)``, ``(n_cells,)``.

    Returns
    -------
    Means ``(n_groups, n_groups)`` (of no meaning where a group is too small) and group sizes
    ``(n_groups,)``.
    """
    member = F.one_hot(groups, n_groups).to(kernel.dtype)  # (n_cells, n_groups)
    sizes = member.sum(0)
    with full_precision(kernel):
        totals = member.T @ kernel @ member
        own = member.T @ kernel.diagonal()
    pairs = sizes[:, None] * sizes[None, :] - torch.diag(sizes)
    return (totals - torch.diag(own)) / pairs.clamp_min(1), sizes


def mmd(
    kernel: Tensor, condition: Tensor, *, n_conditions: int, within: Tensor | None = None
) -> Tensor:
    r"""Unbiased squared maximum mean discrepancy between conditions.

    .. math:: \mathrm{MMD}^2_u(k, l) = \bar k_{kk} + \bar k_{ll} - 2 \bar k_{kl}

    where the bars are means over pairs of different cells. Averaged over pairs of conditions with
    the product of their sizes as weight and, with ``within``, over the strata (cell types), so
    that a composition which differs between conditions is not read as a shift. Unbiased: its
    mean is zero for equal laws, also in small groups, where the biased estimate would reward
    contraction of the codes.

    Parameters
    ----------
    kernel
        :func:`rbf_kernel` of the codes, ``(n_cells, n_cells)``.
    condition, within
        Integer codes, ``(n_cells,)``.

    Returns
    -------
    Scalar, in units of the kernel (at most ``2 * N_WIDTHS``). Source: Gretton et al.
    2012, equation 3; the mixture of widths follows VFAE (Louizos et al. 2016) and trVAE.
    """
    strata, n_strata = _dense_codes(within, len(kernel), kernel.device)
    groups, n_groups = strata * n_conditions + condition, n_strata * n_conditions
    stratum = torch.arange(n_groups, device=kernel.device) // n_conditions
    if n_groups > len(kernel):  # most are empty: only those in the minibatch
        present, groups = groups.unique(return_inverse=True)
        stratum, n_groups = stratum[present], len(present)
    similarity, sizes = group_similarities(kernel, groups, n_groups)
    same = similarity.diagonal()
    discrepancy = same[:, None] + same[None, :] - 2 * similarity  # (n_groups, n_groups)
    sizes = torch.where(sizes > 1, sizes, 0)  # one cell has no pair of its own
    together = (stratum[:, None] == stratum[None, :]).triu(diagonal=1)
    # Pair counts grow with the square of a stratum: dividing by its size makes every cell count
    # the same.
    of_stratum = sizes.new_zeros(n_strata).index_add(0, stratum, sizes)[stratum].clamp_min(1)
    weights = together * sizes[:, None] * sizes[None, :] / of_stratum[:, None]
    return (weights * discrepancy).sum() / weights.sum().clamp_min(1e-12)


def hsic(kernel: Tensor, other: Tensor, *, within: Tensor | None = None) -> Tensor:
    r"""Unbiased Hilbert-Schmidt independence criterion of two kernels on the same cells.

    .. math:: \frac{1}{n(n-3)} \sum_{i \ne j} \left( K_{ij} - \frac{r_i + r_j}{n-2}
              + \frac{\sum_k r_k}{(n-1)(n-2)} \right) L_{ij}, \qquad r_i = \sum_{j \ne i} K_{ij}

    With ``within`` the average over strata weighted by their cells, which makes it a criterion of
    conditional independence. Its mean is zero for independent cells. Strata of fewer than four
    cells count nothing.

    Parameters
    ----------
    kernel, other
        ``(n_cells, n_cells)``, such as :func:`rbf_kernel` or :func:`label_kernel`.
    within
        Integer codes, ``(n_cells,)``.

    Returns
    -------
    Scalar. Source: Song et al. 2012, theorem 2, in the centred form of Székely and Rizzo 2014; used
    on latents by HCV (Lopez et al. 2018).
    """
    strata, n_strata = _dense_codes(within, len(kernel), kernel.device)
    together = label_kernel(strata).fill_diagonal_(0)
    rows = (kernel * together).sum(1)

    def over_stratum(values: Tensor) -> Tensor:
        return values.new_zeros(n_strata).index_add(0, strata, values)[strata]

    size = over_stratum(torch.ones_like(rows))
    enough, size = size >= 4, size.clamp_min(4)
    half = rows / (size - 2) - over_stratum(rows) / (2 * (size - 1) * (size - 2))
    centred = (kernel - half[:, None] - half[None, :]) * together
    weight = enough / (size - 3) / enough.sum().clamp_min(1)
    return (weight * (centred * other).sum(1)).sum()


def label_kernel(labels: Tensor) -> Tensor:
    """1 where two cells share a label, else 0: ``(n_cells,) -> (n_cells, n_cells)``."""
    return (labels[:, None] == labels[None, :]).to(torch.get_default_dtype())


def standardised(codes: Tensor, groups: Tensor, *, n_groups: int) -> Tensor:
    """Codes with mean 0 and standard deviation 1 in each group and dimension.

    Mean and deviation are constants for the gradient. Makes a penalty see dimensions whose means
    vary little, which distances overlook and a linear attacker does not.
    """
    fixed = codes.detach()
    mean, sizes = class_means(fixed, groups, n_groups=n_groups)
    square, _ = class_means(fixed.square(), groups, n_groups=n_groups)
    scale = (square - mean.square()).clamp_min(0).sqrt() + 1e-6
    return (codes - mean[groups]) / scale[groups]


def class_means(codes: Tensor, groups: Tensor, *, n_groups: int) -> tuple[Tensor, Tensor]:
    """Mean code of each group and its number of cells: ``(n_groups, n_latent)``, ``(n_groups,)``.

    A group without cells has mean zero.
    """
    member = F.one_hot(groups, n_groups).to(codes.dtype)
    sizes = member.sum(0)
    return (member.T @ codes) / sizes.clamp_min(1)[:, None], sizes


def _dense_codes(within: Tensor | None, n_cells: int, device: torch.device) -> tuple[Tensor, int]:
    """Strata numbered without gaps, and how many there are."""
    if within is None:
        return torch.zeros(n_cells, dtype=torch.int64, device=device), 1
    levels, strata = torch.unique(within, return_inverse=True)
    return strata, len(levels)
