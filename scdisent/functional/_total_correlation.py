"""Dependence between the dimensions of one latent block: total correlation, covariance."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from scdisent.functional._precision import full_precision


def permuted(codes: Tensor) -> Tensor:
    """Shuffle every dimension over the cells on its own: a sample of the product of marginals.

    ``(n_cells, n_latent) -> (n_cells, n_latent)``. Source: Kim and Mnih 2018, algorithm 1.
    """
    order = torch.rand(codes.shape, device=codes.device).argsort(0)
    return codes.gather(0, order)


def total_correlation(codes: Tensor, posterior: Normal) -> Tensor:
    r"""Total correlation of the aggregate posterior, estimated inside a minibatch; scalar.

    .. math:: \widehat{TC} = \frac1n \sum_i \Big[ \log \frac1n \sum_j q(z_i \mid x_j)
              - \sum_k \log \frac1n \sum_j q(z_{ik} \mid x_j) \Big]

    Parameters
    ----------
    codes
        A sample of the posterior, ``(n_cells, n_latent)``.
    posterior
        Of the same cells.

    Notes
    -----
    Source: Chen et al. 2018, minibatch-weighted sampling. Deviation: the mean over the minibatch
    instead of their weight ``1 / (N n)``, which moves the value by a constant and no gradient.
    """
    with full_precision(codes):
        pairwise = Normal(posterior.mean[None], posterior.stddev[None], validate_args=False)
        log_q = pairwise.log_prob(codes[:, None])  # (n_cells, n_cells, n_latent)
        joint = torch.logsumexp(log_q.sum(-1), dim=1)
        marginals = torch.logsumexp(log_q, dim=1).sum(-1)
        return (joint - marginals).mean() + (codes.shape[1] - 1) * math.log(len(codes))


def code_covariance(mean: Tensor, variance: Tensor | None = None) -> Tensor:
    r"""Covariance of the codes over the cells, ``(n_latent, n_latent)``.

    .. math:: \mathrm{Cov}_x[\mu(x)] + \mathbb{E}_x\,\mathrm{diag}\,\sigma^2(x)

    without the second part if ``variance`` is None. Source: Kumar et al. 2018, equations 6 and 7.
    """
    with full_precision(mean):
        centred = mean - mean.mean(0)
        covariance = centred.T @ centred / len(mean)
        return covariance if variance is None else covariance + torch.diag(variance.mean(0))


def off_diagonal(covariance: Tensor) -> Tensor:
    """Sum of the squared covariances of different dimensions; scalar."""
    return covariance.square().sum() - covariance.diagonal().square().sum()


def unit_diagonal(covariance: Tensor) -> Tensor:
    """Sum of the squared distances of the variances from one; scalar."""
    return (covariance.diagonal() - 1).square().sum()
