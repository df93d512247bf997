"""Pure functions of tensors: likelihoods, divergences, penalties, games."""

from scdisent.functional._adversarial import (
    GAMES,
    confusion_game,
    critic_cross_entropy,
    entropy_game,
    zero_sum_game,
)
from scdisent.functional._counts import (
    gamma_terms,
    negative_binomial,
    poisson,
    zero_inflated_negative_binomial,
)
from scdisent.functional._draws import draw_negative_binomial
from scdisent.functional._generative_games import (
    GENERATIVE_GAMES,
    GenerativeGame,
    r1_penalty,
    unit_gradient_penalty,
)
from scdisent.functional._jacobian import (
    JacobianL1,
    jacobian_l1,
    mean_absolute_jacobian,
)
from scdisent.functional._kl import gaussian_kl
from scdisent.functional._moments import (
    class_means,
    hsic,
    label_kernel,
    mmd,
    rbf_kernel,
    standardised,
)
from scdisent.functional._sparse import (
    SparseCells,
    csr_tensor,
    log1p_dense,
    log1p_normalised,
    sparse_linear,
)
from scdisent.functional._total_correlation import (
    code_covariance,
    off_diagonal,
    permuted,
    total_correlation,
    unit_diagonal,
)
from scdisent.functional._transfer import local_mean, support

__all__ = [
    "GAMES",
    "GENERATIVE_GAMES",
    "GenerativeGame",
    "JacobianL1",
    "SparseCells",
    "class_means",
    "code_covariance",
    "confusion_game",
    "critic_cross_entropy",
    "csr_tensor",
    "draw_negative_binomial",
    "entropy_game",
    "gamma_terms",
    "gaussian_kl",
    "hsic",
    "jacobian_l1",
    "label_kernel",
    "local_mean",
    "log1p_dense",
    "log1p_normalised",
    "mean_absolute_jacobian",
    "mmd",
    "negative_binomial",
    "off_diagonal",
    "permuted",
    "poisson",
    "r1_penalty",
    "rbf_kernel",
    "sparse_linear",
    "standardised",
    "support",
    "total_correlation",
    "unit_diagonal",
    "unit_gradient_penalty",
    "zero_inflated_negative_binomial",
    "zero_sum_game",
]
