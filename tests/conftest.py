import os

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
os.environ.setdefault("TQDM_DISABLE", "1")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
