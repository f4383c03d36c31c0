"""Read the time on the timeline of a device without waiting for it.

A CUDA kernel runs after its launch returns. Waiting for the device before every reading of a clock
would expose the launch of whatever follows, so an instant is an event in the stream instead: only
a difference of two instants waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self, cast

import torch


class Instant(Protocol):
    """Define what a clock returns: differences are seconds. A float is one."""

    def __sub__(self, other: Any, /) -> float: ...


class CudaInstant:
    """Mark the current position in a CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record(torch.cuda.current_stream(device))

    def __sub__(self, other: Self) -> float:
        self._event.synchronize()
        return cast(float, other._event.elapsed_time(self._event)) / 1e3


def make_device_clock(device: torch.device, now: Callable[[], float]) -> Callable[[], Instant]:
    """Return a clock for `device`: `now` on a CPU, events of the current stream on CUDA."""
    return (lambda: CudaInstant(device)) if device.type == 'cuda' else now
