"""Real cells that training did not see treated (slow; `make science`)."""

import os

import pandas as pd
import pytest

from scdisent.benchmarks._response import run_task

pytestmark = [
    pytest.mark.science,
    pytest.mark.skipif(
        not os.environ.get("SCDISENT_DATA_DIR"),
        reason="SCDISENT_DATA_DIR is not set: the data folder is not here",
    ),
]
SEED = 3
"""Neither of the published tables nor of what the defaults were chosen by."""


@pytest.mark.parametrize("hidden", ["CD14+ Monocytes", "NK cells"])
def test_a_cell_type_never_seen_treated_is_predicted_better_than_by_shifts(hidden):
    rows = [row for m in ("shift", "DISCoVeR") for row in run_task(("kang types", hidden, m, SEED))]
    values = pd.DataFrame(rows).query("kind != 'ranks'").set_index("method")
    own, shifts = values.loc["DISCoVeR"], values.loc[["ridge", "weighted"]]
    assert own["pearson_delta"] > shifts["pearson_delta"].max()
    assert own["pearson_delta_top"] > shifts["pearson_delta_top"].max()
    assert own["energy_distance"] < shifts["energy_distance"].min()
    assert own["r2_variance_top"] > shifts["r2_variance_top"].max()
    assert 0.8 < own["coverage"] < 0.99
