"""Data: sets that can be loaded by name, and worlds with planted truth."""

from scdisent.datasets._cards import Card, card
from scdisent.datasets._colored import noisy_colored_digits
from scdisent.datasets._digits import recolored_digits, two_color_digits
from scdisent.datasets._domains import simulate_domains, true_domain_features
from scdisent.datasets._factors import simulate_factors
from scdisent.datasets._load import get, load, verify
from scdisent.datasets._load import list_datasets as list  # the agreed name; used as datasets.list
from scdisent.datasets._simulate import simulate_conditions, true_rates
from scdisent.datasets._toys import noisy_swiss_roll, toy_sum

__all__ = [
    "Card",
    "card",
    "get",
    "list",
    "load",
    "noisy_colored_digits",
    "noisy_swiss_roll",
    "recolored_digits",
    "simulate_conditions",
    "simulate_domains",
    "simulate_factors",
    "toy_sum",
    "true_domain_features",
    "true_rates",
    "two_color_digits",
    "verify",
]
