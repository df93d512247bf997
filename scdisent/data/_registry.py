"""Reading scvi-tools' registry: a plain dictionary, also where no AnnData is attached."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdisent._constants import KEYS

ARGUMENT_OF = {
    KEYS.CONDITION: "condition_key",
    KEYS.BATCH: "batch_key",
    KEYS.CELL_TYPE: "labels_key",
    KEYS.SAMPLE: "sample_key",
    KEYS.SIZE_FACTOR: "size_factor_key",
    KEYS.CATEGORICAL_COVARIATES: "categorical_covariate_keys",
    KEYS.CONTINUOUS_COVARIATES: "continuous_covariate_keys",
}
"""Argument of setup that names the ``obs`` column(s) of a field."""


def setup_argument(registry: Mapping[str, Any], name: str) -> Any:
    """Argument given to setup."""
    return registry["setup_args"].get(name)


def is_registered(registry: Mapping[str, Any], key: str) -> bool:
    """Whether setup registered data for a field (optional fields may be empty)."""
    return bool(registry["field_registries"].get(key, {}).get("data_registry"))


def levels(registry: Mapping[str, Any], key: str) -> NDArray[np.object_]:
    """Levels of a categorical field in the order of their codes."""
    state = registry["field_registries"][key]["state_registry"]
    return np.asarray(state["categorical_mapping"])


def joint_levels(registry: Mapping[str, Any]) -> dict[str, NDArray[np.object_]]:
    """Levels of each categorical covariate."""
    state = registry["field_registries"][KEYS.CATEGORICAL_COVARIATES]["state_registry"]
    return {key: np.asarray(values) for key, values in state.get("mappings", {}).items()}


def gene_names(registry: Mapping[str, Any]) -> NDArray[np.object_]:
    """Genes in training order."""
    return np.asarray(registry["field_registries"][KEYS.X]["state_registry"]["column_names"])
