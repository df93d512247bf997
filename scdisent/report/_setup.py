"""Head of the page: which model, which cells."""

from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pandas as pd

from scdisent._constants import obsm_key
from scdisent.report._html import EMPTY, missing, read, table, text
from scdisent.report._source import EMBED, ROLES, Source

PACKAGES = ("scvi-tools", "torch", "anndata")
MOST_NAMES = 12
"""Levels listed by name in one line."""
UNKNOWN = f"not stored; pass the model, or call {EMBED} again"
"""Said of what earlier versions did not store."""
CROSSED = {**ROLES, "batch_key": "batch"}


def model_and_data(source: Source) -> str:
    """Facts, cells of each condition, and how conditions meet cell types, donors and batches."""
    parts = [f"<h3>Model</h3>{_facts(_model(source))}", f"<h3>Data</h3>{_facts(_data(source))}"]
    condition = source.column("condition_key")
    if not condition:
        name = source.facts["condition_key"]
        what = f"adata.obs has no column {name!r}." if name else "Setup named no condition."
        return "\n".join([*parts, missing(f"{what} Cells cannot be counted by condition.")])
    obs = source.adata.obs
    tables = [table(cells_of_levels(obs[condition]), caption=f"Cells of each {condition}")]
    for role, word in CROSSED.items():
        key = source.column(role)
        if key and role != "condition_key":
            caption = f"Cells of each {word}, by {condition}"
            tables.append(table(crossed(obs, key, condition), caption=caption))
    parts.append(f'<div class="beside">{"".join(tables)}</div>')
    note = (
        "A condition without cells of some cell types, or with donors and batches of its own, "
        "cannot be told apart from them: look for zeros."
    )
    return "\n".join([*parts, read(note)])


def cells_of_levels(values: "pd.Series[str]") -> pd.DataFrame:
    """Number and share of the cells of each level."""
    counts = values.astype(str).value_counts().sort_index()
    return pd.DataFrame(
        {str(values.name): counts.index, "cells": counts.to_numpy(), "share": counts / len(values)}
    )


def crossed(obs: pd.DataFrame, rows: str, columns: str) -> pd.DataFrame:
    """Cells of each pair of levels; the column with more levels makes the rows."""
    if obs[columns].nunique() > max(obs[rows].nunique(), MOST_NAMES):
        rows, columns = columns, rows
    found = pd.crosstab(obs[rows].astype(str), obs[columns].astype(str))
    found.columns.name = None
    return found.reset_index()


def _model(source: Source) -> dict[str, str]:
    facts, here = source.facts, [f"{name} {_version(name)}" for name in PACKAGES]
    sizes = {
        name: np.shape(source.adata.obsm[obsm_key(name)])[1]
        for name in source.representations
        if obsm_key(name) in source.adata.obsm
    }
    unknown = "none" if source.model is not None else UNKNOWN
    return {
        "Model": facts["model"],
        "Preset": facts["preset"] or unknown,
        "Likelihood": facts["likelihood"] or unknown,
        "Latents": ", ".join(f"{size} {name}" for name, size in sizes.items()) or EMPTY,
        "Codes made by": f"scdisent {facts['version']}" if facts["version"] else EMPTY,
        "Installed where this page was made": ", ".join(here),
    }


def _data(source: Source) -> dict[str, str]:
    facts, obs = source.facts, source.adata.obs
    is_known = source.model is not None or "layer" in source.results["embed"]
    values = f"layer {facts['layer']}" if facts["layer"] else "X" if is_known else UNKNOWN
    data = {
        "Cells": f"{source.adata.n_obs:,}",
        "Genes or features": f"{source.adata.n_vars:,}",
        "Values": values,
    }
    for role, word in CROSSED.items():
        key = source.column(role)
        name = facts[role]
        if key:
            data[word.capitalize()] = f"{key}: {_levels(obs[key])}"
        else:
            data[word.capitalize()] = f"{name} (not in obs)" if name else "none named at setup"
    return {**data, "Control": facts["control"] or "none named at setup"}


def _levels(values: "pd.Series[str]") -> str:
    names = sorted(values.dropna().astype(str).unique())
    shown = ", ".join(names[:MOST_NAMES])
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{len(names)} ({shown}{more})"


def _facts(facts: dict[str, str]) -> str:
    rows = (f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts.items())
    return f"<dl>{''.join(rows)}</dl>"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
