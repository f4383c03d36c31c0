"""Compute rotary positions: three axes for video tokens, one axis for actions and states.

Pairs are interleaved (elements 2j and 2j+1). Angles are computed in float64 and stored as float32
cosines and sines; rotating in float32 instead of complex128 costs 1e-7 and halves memory traffic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROPE_THETA = 10000.0


class Rotation(NamedTuple):
    """Hold cosines and sines per token, [tokens 1 head_dim/2], float32."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def from_angles(cls, angles: Tensor) -> Rotation:
        """Make a rotation from angles [tokens head_dim/2]."""
        return cls(angles.cos().float()[:, None], angles.sin().float()[:, None])


def line_angles(positions: Tensor, width: int) -> Tensor:
    """Return angles [positions width/2] of positions on one axis."""
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width
    return torch.outer(positions.double(), ROPE_THETA**-exponents)


def time_width(head_dim: int) -> int:
    """Count the leading elements of a head that encode the frame (the rest: rows, columns)."""
    return head_dim - 4 * (head_dim // 6)


def video_angles(
    start: int, frames: int, grid: tuple[int, int], head_dim: int, device: torch.device
) -> Tensor:
    """Return angles [frames*rows*columns head_dim/2], frame-major, of frames `start` and on."""
    rows, columns = grid
    place_width = 2 * (head_dim // 6)

    def axis(first: int, count: int, width: int) -> Tensor:
        return line_angles(torch.arange(first, first + count, device=device), width)

    shape = (frames, rows, columns, -1)
    angles = (
        axis(start, frames, time_width(head_dim))[:, None, None].expand(shape),
        axis(0, rows, place_width)[None, :, None].expand(shape),
        axis(0, columns, place_width)[None, None, :].expand(shape),
    )
    return torch.cat(angles, dim=-1).flatten(0, 2)


def apply_rotation(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate each pair of x [batch tokens heads head_dim] by its token's angle; keep the dtype."""
    cos, sin = rotation
    if x.device.type == 'cpu' and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        # one vectorized product: 0.05 instead of 0.75 ms for 465 tokens of width 512; compilers
        # fuse the steps below, but not complex numbers
        turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(cos, sin)
        return torch.view_as_real(turned).flatten(-2)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
