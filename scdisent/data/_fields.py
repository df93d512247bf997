"""One registration for every model: the scvi-tools fields that setup builds."""

from collections.abc import Mapping, Sequence
from typing import Any

from anndata import AnnData
from scvi.data import fields

from scdisent._constants import KEYS
from scdisent._errors import SetupError
from scdisent.data._checks import (
    check_columns,
    check_condition,
    check_dose,
    check_expression,
    check_names,
    check_numbers,
    warn_if_confounded,
    warn_if_named_twice,
)
from scdisent.data._doses import DOSED, condition_names
from scdisent.data._query import check_like_training


def check_setup(
    adata: AnnData,
    *,
    condition_key: str | None,
    control: str | None,
    layer: str | None,
    single_columns: dict[str, str | None],
    categorical_covariate_keys: Sequence[str] | None,
    continuous_covariate_keys: Sequence[str] | None,
    dose_key: str | None = None,
    separator: str,
    source_registry: Mapping[str, Any] | None = None,
    new_levels: bool = False,
) -> None:
    """Everything that can be wrong with the input, before the AnnData is touched.

    With ``source_registry`` the cells must have the genes and levels of that setup, of which any
    part will do (with ``new_levels``: any levels); without one they must have at least two
    conditions.
    """
    if adata.is_view:
        msg = "adata is a view of another AnnData. Run adata = adata.copy() before setup."
        raise SetupError(msg)
    check_names(adata)
    listed = [*(categorical_covariate_keys or []), *(continuous_covariate_keys or [])]
    check_columns(
        adata,
        {
            "condition_key": condition_key,
            **single_columns,
            **{f"covariate {key}": key for key in listed},
        },
    )
    size_factor = single_columns["size_factor_key"]
    check_numbers(adata, [*filter(None, [size_factor]), *(continuous_covariate_keys or [])])
    if size_factor is not None and not (adata.obs[size_factor] > 0).all():
        msg = (
            f"size_factor_key={size_factor!r} must be positive in every cell. "
            f"Check adata.obs[{size_factor!r}]."
        )
        raise SetupError(msg)
    if dose_key is not None:
        check_dose(adata, dose_key=dose_key, condition_key=condition_key)
    check_expression(adata, layer=layer)
    if source_registry is not None:
        check_like_training(adata, source_registry, new_levels=new_levels)
        return
    if condition_key is None:
        if control is not None:
            msg = f"control={control!r} is a level of condition_key, which is None. Name both."
            raise SetupError(msg)
        return
    named: dict[str, Any] = {"control": control, "separator": separator}
    names = condition_names(adata.obs, condition_key=condition_key, dose_key=dose_key, **named)
    check_condition(names, control=control)
    warn_if_named_twice(names, **named)
    nuisance = [single_columns["batch_key"], single_columns["sample_key"]]
    others = [key for key in [*nuisance, *(categorical_covariate_keys or [])] if key]
    warn_if_confounded(adata.obs, condition_key=condition_key, others=others)


def scvi_fields(
    *,
    condition_key: str | None,
    layer: str | None,
    labels_key: str | None,
    batch_key: str | None,
    sample_key: str | None,
    size_factor_key: str | None,
    categorical_covariate_keys: Sequence[str] | None,
    continuous_covariate_keys: Sequence[str] | None,
    dose_key: str | None = None,
) -> list[fields.BaseAnnDataField]:
    """Fields in scvi-tools' own names where it has one; the condition takes the labels slot."""
    found = [
        # Never "corrected" in place: that would rewrite the user's X.
        fields.LayerField(KEYS.X, layer, is_count_data=False, correct_data_format=False),
        fields.CategoricalObsField(KEYS.BATCH, batch_key),
        fields.CategoricalObsField(KEYS.CONDITION, DOSED if dose_key else condition_key),
        fields.CategoricalJointObsField(KEYS.CATEGORICAL_COVARIATES, categorical_covariate_keys),
        fields.NumericalJointObsField(KEYS.CONTINUOUS_COVARIATES, continuous_covariate_keys),
    ]
    if labels_key is not None:
        found.append(fields.CategoricalObsField(KEYS.CELL_TYPE, labels_key))
    if sample_key is not None:
        found.append(fields.CategoricalObsField(KEYS.SAMPLE, sample_key))
    if size_factor_key is not None:
        found.append(fields.NumericalObsField(KEYS.SIZE_FACTOR, size_factor_key))
    return found
