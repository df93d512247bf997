"""Building blocks: encoders, decoders, likelihood heads, priors, adversaries."""

from scdisent.nn._adversaries import READS, Adversary, TotalCorrelationCritic, balanced_weights
from scdisent.nn._cells import Cells
from scdisent.nn._coders import make_decoder, make_encoder, sparse_coders
from scdisent.nn._conditions import (
    ConditionCode,
    ConditionInputs,
    CovariateCode,
    IndexCode,
    condition_code,
)
from scdisent.nn._decoders import Decoder
from scdisent.nn._encoders import GaussianEncoder
from scdisent.nn._flows import FLOWS, ConditionFlow, FlowPrior
from scdisent.nn._images import ImageDecoder, ImageEncoder
from scdisent.nn._likelihoods import LIKELIHOODS, CountLikelihood, Likelihood, likelihood_class
from scdisent.nn._mixed import FAMILIES, Mixed, make_likelihood
from scdisent.nn._moved_latents import MovedLatents
from scdisent.nn._priors import PRIORS, specific_prior
from scdisent.nn._projection_critic import ProjectionCritic

__all__ = [
    "FAMILIES",
    "FLOWS",
    "LIKELIHOODS",
    "PRIORS",
    "READS",
    "Adversary",
    "Cells",
    "ConditionCode",
    "ConditionFlow",
    "ConditionInputs",
    "CountLikelihood",
    "CovariateCode",
    "Decoder",
    "FlowPrior",
    "GaussianEncoder",
    "ImageDecoder",
    "ImageEncoder",
    "IndexCode",
    "Likelihood",
    "Mixed",
    "MovedLatents",
    "ProjectionCritic",
    "TotalCorrelationCritic",
    "balanced_weights",
    "condition_code",
    "likelihood_class",
    "make_decoder",
    "make_encoder",
    "make_likelihood",
    "sparse_coders",
    "specific_prior",
]
