"""Log-likelihoods of counts that touch ``lgamma`` at non-zero entries only."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scdisent.functional._precision import full_precision
from scdisent.functional._sparse import SparseCells


class _NegativeBinomial(torch.autograd.Function):
    """Value and gradients of the NB log-likelihood at once, in few passes over few buffers.

    Without the gamma functions, which do not depend on the mean. With ``q = mu / theta`` and
    ``r = q / (1 + q)``, per cell and gene

    * value: ``-theta log(1 + q)`` everywhere, plus ``x log r`` at ``x > 0``;
    * derivative by ``log mu``: ``d = x (1 - r) - theta r``, pulled back through the softmax;
    * derivative by ``theta``: ``-log(1 + q) - d / theta``.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, theta: Tensor, library: Tensor, cells: SparseCells
    ) -> Tensor:
        share = torch.softmax(logits, dim=-1)  # (n_cells, n_genes)
        odds = (share * library[:, None]).div_(theta)
        log_term = torch.log1p(odds)
        ratio = odds.div_(odds + 1)
        ratio_at = ratio.view(-1)[cells.positions]  # (n_nonzero,)
        counted = cells.sum_by_cell(torch.xlogy(cells.values, ratio_at))
        value = counted - torch.mv(log_term, theta)

        d_rate = ratio.mul_(-theta)
        d_rate.view(-1).index_add_(0, cells.positions, cells.values * (1 - ratio_at))
        minus_d_theta = log_term.addcdiv_(d_rate, theta)
        d_logits = d_rate.addcmul_(share, d_rate.sum(-1, keepdim=True), value=-1)
        ctx.save_for_backward(d_logits, minus_d_theta)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_logits, minus_d_theta = ctx.saved_tensors
        with full_precision(gradient):
            return d_logits * gradient[:, None], -gradient @ minus_d_theta, None, None


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
    with full_precision(logits):
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
    instead = (at_entries - at_zero[where]) * (counts > 0)  # zeros may be stored, too
    return at_zero.sum(-1) + cells.sum_by_cell(instead) + gamma


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
