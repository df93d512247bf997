"""Which of several runs is disentangled, asked of the runs themselves, without true factors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import Lasso
from sklearn.preprocessing import StandardScaler

from scdisent._errors import InputDataError, one_of
from scdisent.metrics._checks import Floats, as_codes, one_thread
from scdisent.metrics._supervised import cross_correlation

METHODS = ("spearman", "lasso")
MIN_KL = 0.01
"""Latents with less divergence from the prior, in nats, carry nothing and are left out."""
LASSO_PENALTY = 0.1


@dataclass(frozen=True)
class UDR:
    """Result of :func:`udr`."""

    scores: Floats
    """Median over the partners of each run, ``(n_runs,)``."""
    pairwise: Floats
    """Score of each pair of runs, ``(n_runs, n_runs)``; NaN on the diagonal."""
    n_informative: tuple[int, ...]
    """Latents of each run that were compared."""

    @property
    def best(self) -> int:
        """Position of the run with the largest score."""
        return int(self.scores.argmax())


def udr(
    codes: Sequence[ArrayLike],
    *,
    kl: Sequence[ArrayLike] | None = None,
    method: Literal["spearman", "lasso"] = "spearman",
) -> UDR:
    r"""Unsupervised disentanglement ranking: agreement of runs up to order and sign of latents.

    For two runs with similarities :math:`R_{kl} \ge 0` of their standardised latents,

    .. math::

        \tfrac12 \operatorname{mean}_k \frac{\max_l R_{kl}^2}{\sum_l R_{kl}} +
        \tfrac12 \operatorname{mean}_l \frac{\max_k R_{kl}^2}{\sum_k R_{kl}},

    and the score of a run is its median over the other runs (Duan et al. 2020). Rotated codes lose,
    because a latent then resembles several. High scores need axes that the objective prefers, not
    axes that are true.

    Parameters
    ----------
    codes
        One array ``(n_cells, n_latent)`` a run, at least two runs, rows the same cells; the number
        of latents may differ.
    kl
        Mean divergence of each latent from the prior in nats, one array ``(n_latent,)`` a run.
        Latents with at most 0.01 are left out. Without it only constant latents are.
    method
        ``"spearman"``: absolute rank correlation. ``"lasso"``: absolute coefficients (penalty 0.1)
        of the latents of one run on all latents of the other; shrinkage keeps even two equal runs
        at about 0.9. It differs a little between the directions, so ``pairwise`` is not symmetric.

    Returns
    -------
    :class:`UDR`, scores in ``[0, 1]``; a pair is 0 if one run has no informative latent.

    Raises
    ------
    InputDataError
        If there are fewer than two runs, they differ in cells, or ``kl`` does not match.
    """
    one_of(method, METHODS, "method")
    runs = _informative([as_codes(run) for run in codes], kl=kl)
    pairwise = np.full((len(runs), len(runs)), np.nan)
    with one_thread():
        for i, one in enumerate(runs):
            for j, other in enumerate(runs):
                if i != j:
                    pairwise[i, j] = _agreement(_similarity(one, other, method=method))
    sizes = tuple(run.shape[1] for run in runs)
    return UDR(np.nanmedian(pairwise, axis=1), pairwise, sizes)


def _informative(runs: list[Floats], *, kl: Sequence[ArrayLike] | None) -> list[Floats]:
    """Standardised latents of each run that carry something."""
    if len(runs) < 2 or len({len(run) for run in runs}) > 1:
        msg = (
            "udr compares at least two runs on the same cells, but codes have shapes "
            f"{[run.shape for run in runs]}."
        )
        raise InputDataError(msg)
    kept = [np.ptp(run, axis=0) > 0 for run in runs]
    if kl is not None:
        divergence = [np.asarray(each, dtype=np.float64) for each in kl]
        _check_kl(divergence, runs)
        kept = [keep & (each > MIN_KL) for keep, each in zip(kept, divergence, strict=True)]
    return [
        StandardScaler().fit_transform(run[:, keep]) if keep.any() else run[:, keep]
        for run, keep in zip(runs, kept, strict=True)
    ]


def _check_kl(divergence: list[Floats], runs: list[Floats]) -> None:
    expected = [(run.shape[1],) for run in runs]
    found = [each.shape for each in divergence]
    if found != expected or not all(np.isfinite(each).all() for each in divergence):
        msg = (
            f"kl must hold one finite value for each latent of each run, shapes {expected}, but "
            f"has shapes {found}, or NaN. Pass the mean divergence of each latent."
        )
        raise InputDataError(msg)


def _similarity(one: Floats, other: Floats, *, method: str) -> Floats:
    """Absolute similarity of the latents of two runs, ``(n_latent, n_latent_other)``."""
    if 0 in (one.shape[1], other.shape[1]):
        return np.zeros((1, 1))
    if method == "spearman":
        return np.abs(cross_correlation(one, other, method=method))
    fitted = Lasso(alpha=LASSO_PENALTY).fit(one, other)
    return np.abs(fitted.coef_).reshape(other.shape[1], one.shape[1]).T


def _agreement(similarity: Floats) -> float:
    """Half the sum of the means over rows and over columns of max^2 / sum; 0 / 0 counts as 0."""
    means = []
    for axis in (0, 1):
        largest, total = similarity.max(axis=axis), similarity.sum(axis=axis)
        share = np.divide(largest**2, total, out=np.zeros_like(total), where=total > 0)
        means.append(share.mean())
    return float(np.mean(means))
