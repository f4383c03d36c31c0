"""Rotary positions against complex arithmetic."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.model.network.rope import (
    Rotation,
    apply_rotation,
    line_angles,
    time_width,
    video_angles,
)

CPU = torch.device('cpu')


def test_rotation_is_complex_multiplication() -> None:
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    angles = line_angles(torch.arange(5) + 7, 8)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    want = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)
    rotation = Rotation.from_angles(angles)
    torch.testing.assert_close(apply_rotation(x.float(), rotation), want.float())
    # other dtypes take the steps that compilers fuse, in float32
    torch.testing.assert_close(apply_rotation(x, rotation), want, atol=1e-6, rtol=1e-6)


@settings(deadline=None)
@given(shift=st.integers(-200, 200), gap=st.integers(0, 50))
def test_products_depend_on_distance_alone(shift: int, gap: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=generator)

    def product(at: int) -> float:
        def put(x: torch.Tensor, position: int) -> torch.Tensor:
            return apply_rotation(
                x, Rotation.from_angles(line_angles(torch.tensor([position]), 16))
            )

        return (put(q, at) * put(k, at + gap)).sum().item()

    assert abs(product(0) - product(shift)) < 1e-4


def test_video_axes_share_a_head_as_released() -> None:
    assert time_width(128) == 44
    angles = video_angles(3, 2, (4, 5), 128, CPU).unflatten(0, (2, 4, 5))
    assert angles.shape[-1] == 64
    torch.testing.assert_close(angles[1, 2, 3, :22], line_angles(torch.tensor([4]), 44)[0])
    torch.testing.assert_close(angles[1, 2, 3, 22:43], line_angles(torch.tensor([2]), 42)[0])
    torch.testing.assert_close(angles[1, 2, 3, 43:], line_angles(torch.tensor([3]), 42)[0])
