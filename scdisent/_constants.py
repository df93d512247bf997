"""Names shared by all layers: registry keys and where results are stored."""

from typing import NamedTuple


class _RegistryKeys(NamedTuple):
    """Names under which setup registers the fields that scvi-tools has no name for.

    The condition lives in scvi-tools' labels slot, so that any datamodule written for scvi-tools
    (which yields ``X``, ``batch``, ``labels``) can feed these models.
    """

    X: str = "X"
    CONDITION: str = "labels"
    BATCH: str = "batch"
    CELL_TYPE: str = "cell_type"
    SAMPLE: str = "sample"
    SIZE_FACTOR: str = "size_factor"
    CATEGORICAL_COVARIATES: str = "extra_categorical_covs"
    CONTINUOUS_COVARIATES: str = "extra_continuous_covs"


KEYS = _RegistryKeys()

UNS_KEY = "scdisent"
"""Key in ``adata.uns`` under which every result is stored."""


def obsm_key(representation: str, key: str = UNS_KEY) -> str:
    """Name of the ``obsm`` slot of one latent block: ``X_<key>_<representation>``."""
    return f"X_{key}_{representation}"
