"""How many outputs of a decoder each latent moves: the size of its Jacobian, entry by entry."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

from scdisent._errors import one_of

METHODS = ("jvp", "fd", "full")
STEP = 1e-2
"""Length of a finite difference, in standard deviations of the latent."""

Decode = Callable[[Tensor], Tensor]


class JacobianL1(NamedTuple):
    """Result of :func:`jacobian_l1`."""

    value: Tensor
    """Mean over cells of the weighted absolute sum, a scalar."""
    output: Tensor
    """``decode(z)``, ``(n_cells, n_output)``: computed on the way, so that it need not be again."""


def jacobian_l1(
    decode: Decode,
    z: Tensor,
    *,
    scale: Tensor | None = None,
    weights: Tensor | None = None,
    method: str = "jvp",
) -> JacobianL1:
    r"""Absolute sum of a decoder's Jacobian, whose penalty makes latents touch few outputs.

    .. math:: L_s = \frac1B \sum_b \sum_k \sum_j w_j\, s_j
              \left| \frac{\partial y_k}{\partial z_j}(z^{(b)}) \right|

    Without :math:`s_j` a penalty could be met by inflating the latents: under
    :math:`z \to c z` the Jacobian falls as :math:`1 / c`. With s the standard deviation of the
    latents, **gradient included**, the sum is unchanged.

    Parameters
    ----------
    decode
        ``(n, n_latent) -> (n, n_output)``, each row on its own (no batch normalisation), before any
        softmax: a softmax makes every entry non-zero.
    z
        ``(n_cells, n_latent)``.
    scale, weights
        :math:`s` and :math:`w`, each ``(n_latent,)``; None: ones. Latents of weight 0 are free.
    method
        ``"jvp"``: unbiased, one latent drawn for each cell (all equally often), one forward-mode
        product. ``"fd"``: the same by a second pass at distance ``0.01 s``, cheaper and slightly
        biased. ``"full"``: exact, one product for each latent.

    Notes
    -----
    Absolute values, because squares give no zeros; Gaussian sketches :math:`|J v|` would estimate
    the norm of rows, not this sum. Li et al. 2025 (arXiv 2503.00639, equation 9) have the sum; s, w
    and the estimators are this package's.
    """
    one_of(method, METHODS, "sparsity_method")
    factor = torch.ones_like(z[0]) if scale is None else scale
    factor = factor if weights is None else factor * weights
    free = torch.ones_like(z[0], dtype=torch.bool) if weights is None else weights > 0
    penalised = free.nonzero().flatten()
    if not len(penalised):
        return JacobianL1(z.new_zeros(()), decode(z))
    if method == "full":
        return _full(decode, z, factor=factor, latents=penalised)
    # every latent equally often, in random order: varies less than independent draws
    turn = torch.randperm(len(z), device=z.device) % len(penalised)
    start = torch.randint(len(penalised), (), device=z.device)
    latent = penalised[(turn + start) % len(penalised)]
    tangent = torch.zeros_like(z)
    tangent = tangent.scatter(1, latent[:, None], factor[latent][:, None])
    if method == "jvp":
        output, change = _jvp(decode, z, tangent)
    else:
        output = decode(z)
        change = (decode(z + STEP * tangent) - output) / STEP
    total = change.float().abs().sum(dim=-1).mean() * len(penalised)
    return JacobianL1(total, output)


def _jvp(decode: Decode, z: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Output of the decoder, and its derivative along the tangent of each row."""
    output, change = jvp(decode, (z,), (tangent,))[:2]
    return output, change


def _full(decode: Decode, z: Tensor, *, factor: Tensor, latents: Tensor) -> JacobianL1:
    total = z.new_zeros(())
    for latent in latents.tolist():
        tangent = torch.zeros_like(z)
        tangent[:, latent] = 1.0
        output, change = _jvp(decode, z, tangent)
        total = total + factor[latent] * change.float().abs().sum(dim=-1).mean()
    return JacobianL1(total, output)


@torch.no_grad()
def mean_absolute_jacobian(decode: Decode, z: Tensor) -> Tensor:
    r"""Mean over cells of :math:`|\partial y_k / \partial z_j|`, ``(n_latent, n_output)``.

    Parameters
    ----------
    decode
        As in :func:`jacobian_l1`.
    z
        ``(n_cells, n_latent)``.
    """
    rows = []
    for latent in range(z.shape[1]):
        tangent = torch.zeros_like(z)
        tangent[:, latent] = 1.0
        rows.append(_jvp(decode, z, tangent)[1].abs().mean(dim=0))
    return torch.stack(rows)
