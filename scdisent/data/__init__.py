"""How cells reach a model: setup, checks, loaders."""

from scdisent.data._cells import CellLoader, CellTable, TensorTable, registered_columns
from scdisent.data._checks import (
    check_families,
    check_likelihood,
    expression_of,
    first_rows,
    inspect_expression,
    layer_name,
)
from scdisent.data._datamodules import ResidentDataModule, split_cells
from scdisent.data._disk import DiskDataModule, DiskLoader
from scdisent.data._doses import DOSED, condition_names, conditions_of, table_of_levels
from scdisent.data._fields import check_setup, scvi_fields
from scdisent.data._query import query_loader, with_genes_of

__all__ = [
    "DOSED",
    "CellLoader",
    "CellTable",
    "DiskDataModule",
    "DiskLoader",
    "ResidentDataModule",
    "TensorTable",
    "check_families",
    "check_likelihood",
    "check_setup",
    "condition_names",
    "conditions_of",
    "expression_of",
    "first_rows",
    "inspect_expression",
    "layer_name",
    "query_loader",
    "registered_columns",
    "scvi_fields",
    "split_cells",
    "table_of_levels",
    "with_genes_of",
]
