"""What mixed precision must leave alone."""

import torch
from torch import Tensor


def full_precision(like: Tensor) -> torch.autocast:
    """Context without autocast on the device of ``like``.

    For sums over thousands of terms: in half precision 257 cells are counted as 256.
    """
    return torch.autocast(device_type=like.device.type, enabled=False)
