"""Divergences between diagonal Gaussians."""

from torch import Tensor
from torch.distributions import Normal, kl_divergence


def gaussian_kl(q: Normal, p: Normal) -> Tensor:
    r"""Divergence of two diagonal Gaussians, summed over latent dimensions.

    .. math:: \mathrm{KL}(q\,\|\,p) = \sum_d \log\frac{s_d}{\sigma_d}
              + \frac{\sigma_d^2 + (\mu_d - m_d)^2}{2 s_d^2} - \frac12

    Both have shape ``(n_cells, n_latent)``; returns ``(n_cells,)`` in nats.
    """
    result: Tensor = kl_divergence(q, p).sum(-1)
    return result
