"""From checked input to scvi-tools' registration."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    with as_it_was_on_failure(adata):
        return _registered(adata, setup_method_args, source_registry, new_levels=new_levels)


@contextmanager
def as_it_was_on_failure(adata: AnnData) -> Iterator[None]:
    """Take back what registration wrote into an AnnData when something is refused after it."""
    slots = {name: dict(getattr(adata, name)) for name in ("obs", "obsm", "uns")}
    try:
        yield
    except BaseException:
        for name, before in slots.items():
            slot = getattr(adata, name)
            for key in [key for key in slot if str(key).startswith("_scvi") and key not in before]:
                del slot[key]
            for key in [key for key in before if str(key).startswith("_scvi")]:
                slot[key] = before[key]
        raise


def _registered(
    adata: AnnData,
    setup_method_args: dict[str, Any],
    source_registry: dict[str, Any] | None,
    *,
    new_levels: bool,
) -> AnnDataManager:
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
        separator="+" if table is None else table.separator,
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
    try:
        manager.register_fields(adata, source_registry, **further)
    except TypeError as error:  # levels are sorted
        msg = (
            f"a column of levels holds text and numbers ({error}). Write one type, as in "
            "adata.obs[name] = adata.obs[name].astype(str); levels of a query as in training."
        )
        raise SetupError(msg) from error
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


def plain(value: object) -> object:
    """Sequences as lists: the arguments are stored with a saved model."""
    return list(value) if isinstance(value, tuple | list) else value
