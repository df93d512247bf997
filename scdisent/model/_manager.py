"""From checked input to scvi-tools' registration."""

from typing import Any

from anndata import AnnData
from scvi.data import AnnDataManager

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
    manager = AnnDataManager(fields=scvi_fields(**arguments), setup_method_args=setup_method_args)
    manager.register_fields(adata, source_registry)
    return manager
