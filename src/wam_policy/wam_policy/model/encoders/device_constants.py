"""Keep constant tensors on their device.

Making one there copies from the host and stalls the stream: once per value, not once per image.
Buffers would have to be filled after every construction on `meta`.
"""

from functools import lru_cache

import torch
from torch import Tensor


def constant_like(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return `values` in float32 on the device of `like`, one axis."""
    return _make_constant(values, like.device)


@lru_cache(maxsize=64)
def _make_constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # the first use may not train, a later one may
        return torch.tensor(values, device=device, dtype=torch.float32)
