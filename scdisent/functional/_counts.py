"""Log-likelihoods of counts that touch ``lgamma`` at non-zero entries only."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scdisent.functional._sparse import SparseCells

_ROWS_IN_CACHE = 64
"""Cells handled at once on the CPU: 64 x 2,000 floats stay in the second-level cache."""


class _NegativeBinomial(torch.autograd.Function):
    """Value and gradients of the NB log-likelihood in one pass over cache-sized blocks.

    Without the gamma functions, which do not depend on the mean. With ``q = mu / theta`` and
    ``r = q / (1 + q)``, per cell and gene

    * value: ``-theta log(1 + q)`` everywhere, plus ``x log r`` at ``x > 0``;
    * derivative by ``log mu``: ``x (1 - r) - theta r``, pulled back through the softmax;
    * derivative by ``theta``: ``r - log(1 + q) - x (1 - r) / theta``.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, theta: Tensor, library: Tensor, cells: SparseCells
    ) -> Tensor:
        n_cells = logits.shape[0]
        step = _ROWS_IN_CACHE if logits.device.type == "cpu" else n_cells
        value = torch.empty(n_cells, dtype=logits.dtype, device=logits.device)
        d_logits, d_theta = torch.empty_like(logits), torch.empty_like(logits)
        bounds = cells.csr.crow_indices()[[*range(0, n_cells, step), n_cells]].tolist()
        for block, start in enumerate(range(0, n_cells, step)):
            rows = slice(start, start + step)
            entries = slice(bounds[block], bounds[block + 1])
            value[rows] = _negative_binomial_block(
                logits[rows],
                theta,
                library[rows, None],
                where=(cells.rows[entries] - start, cells.columns[entries]),
                counts=cells.values[entries],
                d_logits=d_logits[rows],
                d_theta=d_theta[rows],
            )
        ctx.save_for_backward(d_logits, d_theta)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_logits, d_theta = ctx.saved_tensors
        return d_logits * gradient[:, None], gradient @ d_theta, None, None


def _negative_binomial_block(
    logits: Tensor,
    theta: Tensor,
    library: Tensor,
    *,
    where: tuple[Tensor, Tensor],
    counts: Tensor,
    d_logits: Tensor,
    d_theta: Tensor,
) -> Tensor:
    """Fill both gradients of one block and return its log-likelihood, ``(n_block,)``."""
    rows, genes = where
    share = torch.softmax(logits, dim=-1)  # (n_block, n_genes)
    odds = share * library / theta
    log_term = torch.log1p(odds)
    ratio = odds.div_(1 + odds)

    flat = rows * logits.shape[-1] + genes
    ratio_at = ratio.view(-1)[flat]  # (n_entries,)
    pull = counts * (1 - ratio_at)
    value = torch.mv(log_term, theta).neg_()
    value.index_add_(0, rows, torch.xlogy(counts, ratio_at))

    torch.sub(ratio, log_term, out=d_theta)
    d_theta.view(-1).index_add_(0, flat, pull / theta[genes], alpha=-1)
    d_rate = ratio.mul_(-theta)
    d_rate.view(-1).index_add_(0, flat, pull)
    torch.addcmul(d_rate, share, d_rate.sum(-1, keepdim=True), value=-1, out=d_logits)
    return value


def gamma_terms(cells: SparseCells, theta: Tensor) -> Tensor:
    r"""Part of a negative binomial that does not depend on its mean, ``(n_cells,)``.

    .. math:: \sum_{g: x_g > 0} \log\Gamma(x_g + \theta_g) - \log\Gamma(\theta_g)
              - \log\Gamma(x_g + 1)

    Zero at ``x = 0``. Two reconstructions with the same dispersion share it.
    """
    theta_at = theta.index_select(0, cells.columns)
    log_gamma = torch.lgamma(theta).index_select(0, cells.columns)
    counts = cells.values
    return cells.sum_by_cell(torch.lgamma(counts + theta_at) - log_gamma - cells.log_factorials)


def negative_binomial(
    cells: SparseCells,
    logits: Tensor,
    *,
    theta: Tensor,
    library: Tensor,
    gamma: Tensor | None = None,
) -> Tensor:
    r"""Log-likelihood of counts under a negative binomial whose mean is a share of the library.

    .. math:: x_g \sim \mathrm{NB}(\mu_g, \theta_g), \quad \mu = \ell\,\mathrm{softmax}(a)

    Parameters
    ----------
    cells
        Counts, ``(n_cells, n_genes)``.
    logits
        Decoder output :math:`a`, ``(n_cells, n_genes)``.
    theta
        Inverse dispersion, positive, ``(n_genes,)``; the variance is ``mu + mu**2 / theta``.
    library
        Expected total count of each cell, ``(n_cells,)``.
    gamma
        :func:`gamma_terms` of the same counts and dispersion, where they are known already.

    Returns
    -------
    ``(n_cells,)``, summed over genes. Equal to
    ``scvi.distributions.NegativeBinomial(mu, theta).log_prob(x).sum(-1)``.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    gamma = gamma_terms(cells, theta) if gamma is None else gamma
    result: Tensor = _NegativeBinomial.apply(
        logits.to(dtype), theta.to(dtype), library.to(dtype), cells
    )
    return result + gamma


def zero_inflated_negative_binomial(
    cells: SparseCells,
    logits: Tensor,
    *,
    gate: Tensor,
    theta: Tensor,
    library: Tensor,
    gamma: Tensor | None = None,
) -> Tensor:
    r"""Log-likelihood of counts under a zero-inflated negative binomial.

    .. math:: p(x) = \pi\,1[x=0] + (1-\pi)\,\mathrm{NB}(x; \mu, \theta), \quad
              \pi = \mathrm{sigmoid}(\text{gate})

    ``gate`` is ``(n_cells, n_genes)``; the other shapes are those of
    :func:`negative_binomial`.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits, gate, theta = logits.to(dtype), gate.to(dtype), theta.to(dtype)
    log_share = F.log_softmax(logits, dim=-1) + library.to(dtype).log()[:, None] - theta.log()
    log_zero = -theta * F.softplus(log_share)  # log NB(0), (n_cells, n_genes)
    at_zero = F.softplus(log_zero - gate) - F.softplus(-gate)

    where, counts = (cells.rows, cells.columns), cells.values
    at_entries = (
        log_zero[where] + counts * F.logsigmoid(log_share[where]) + F.logsigmoid(-gate[where])
    )
    gamma = gamma_terms(cells, theta) if gamma is None else gamma
    return at_zero.sum(-1) + cells.sum_by_cell(at_entries - at_zero[where]) + gamma


def poisson(cells: SparseCells, logits: Tensor, *, library: Tensor) -> Tensor:
    r"""Log-likelihood of counts under a Poisson whose mean is a share of the library.

    Because the shares sum to one, the dense part is just :math:`-\ell`. Shapes as in
    :func:`negative_binomial`.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_rate = F.log_softmax(logits.to(dtype), dim=-1) + library.to(dtype).log()[:, None]
    counts = cells.values
    at_entries = counts * log_rate[cells.rows, cells.columns] - cells.log_factorials
    return cells.sum_by_cell(at_entries) - library
