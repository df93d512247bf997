"""From checked input to scvi-tools' registration."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from anndata import AnnData
from scvi.data import AnnDataManager

from scdisent.conditions import ConditionTable, as_table
from scdisent.data import check_setup, scvi_fields


def build_manager(
    adata: AnnData,
    setup_method_args: dict[str, Any],
    *,
    source_registry: dict[str, Any] | None = None,
) -> AnnDataManager:
    """Check the input, then register its fields."""
    arguments = dict(setup_method_args["setup_args"])
    control = arguments.pop("control")
    table = as_table(arguments.pop("condition_table"))
    single = ("labels_key", "batch_key", "sample_key", "size_factor_key")
    covariates = ("categorical_covariate_keys", "continuous_covariate_keys")
    check_setup(
        adata,
        condition_key=arguments["condition_key"],
        control=control,
        layer=arguments["layer"],
        single_columns={key: arguments[key] for key in single},
        **{key: arguments[key] for key in covariates},
        source_registry=source_registry,
    )
    if table is not None and arguments["condition_key"] is not None:
        levels = adata.obs[arguments["condition_key"]].astype(str).unique()
        table.encode(sorted(levels), like=sorted(levels), control=control)
    manager = AnnDataManager(fields=scvi_fields(**arguments), setup_method_args=setup_method_args)
    manager.register_fields(adata, source_registry)
    return manager


def plain_table(
    table: ConditionTable | pd.DataFrame | Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Table of conditions as it is saved with a model."""
    found = as_table(table)
    return None if found is None else found.to_dict()
