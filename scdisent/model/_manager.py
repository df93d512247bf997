"""From checked input to scvi-tools' registration."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from anndata import AnnData
from scvi.data import AnnDataManager

from scdisent._errors import SetupError
from scdisent.conditions import ConditionTable, as_table
from scdisent.data import DOSED, check_setup, condition_names, scvi_fields, table_of_levels


def build_manager(
    adata: AnnData,
    setup_method_args: dict[str, Any],
    *,
    source_registry: dict[str, Any] | None = None,
    new_levels: bool = False,
) -> AnnDataManager:
    """Check the input, then register its fields; ``new_levels`` come after those of the source."""
    arguments = dict(setup_method_args["setup_args"])
    control = arguments.pop("control")
    table = as_table(arguments.pop("condition_table"))
    condition_key, dose_key = arguments["condition_key"], arguments["dose_key"]
    single = ("labels_key", "batch_key", "sample_key", "size_factor_key")
    covariates = ("categorical_covariate_keys", "continuous_covariate_keys")
    check_setup(
        adata,
        condition_key=condition_key,
        control=control,
        layer=arguments["layer"],
        single_columns={key: arguments[key] for key in single},
        **{key: arguments[key] for key in covariates},
        dose_key=dose_key,
        source_registry=source_registry,
        new_levels=new_levels,
    )
    named: dict[str, Any] = {"condition_key": condition_key, "control": control}
    if dose_key is not None:
        table = _table_of_doses(table, adata, **named)
        setup_method_args["setup_args"]["condition_table"] = table.to_dict()
        named |= {"dose_key": dose_key, "separator": table.separator}
    if table is not None and condition_key is not None and not new_levels:
        levels = sorted(
            condition_names(adata.obs, **{"dose_key": None, **named}).astype(str).unique()
        )
        table.encode(levels, like=levels, control=None if control is None else str(control))
    if dose_key is not None:
        adata.obs[DOSED] = condition_names(adata.obs, **named)
    manager = AnnDataManager(fields=scvi_fields(**arguments), setup_method_args=setup_method_args)
    further = {"extend_categories": True} if new_levels else {}
    manager.register_fields(adata, source_registry, **further)
    return manager


def _table_of_doses(
    table: ConditionTable | None, adata: AnnData, *, condition_key: str, control: str | None
) -> ConditionTable:
    """Rows of levels without a dose of their own; by name where nothing else is known."""
    if table is None:
        return table_of_levels(adata.obs, condition_key, control)
    if table.dose is not None:
        msg = (
            f"doses come from the cells (dose_key) and from column {table.dose!r} of "
            "condition_table. Leave one of them out."
        )
        raise SetupError(msg)
    return table


def plain_table(
    table: ConditionTable | pd.DataFrame | Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Table of conditions as it is saved with a model."""
    found = as_table(table)
    return None if found is None else found.to_dict()
