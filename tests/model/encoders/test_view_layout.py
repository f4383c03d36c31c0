"""Canvas: layouts, roundings, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.core.observation import view_tiles
from wam_policy.model.encoders import view_layout

VIEWS = ('head', 'left', 'right')


def flat(value: int, height: int = 48, width: int = 64, frames: int = 2) -> torch.Tensor:
    return torch.full((frames, height, width, 3), value, dtype=torch.uint8)


def shows(part: torch.Tensor, value: int) -> bool:
    """Tell whether a part shows one color: truncation may take one step off a resampled 10."""
    return bool(((part.int() - value).abs() <= 1).all())


def test_quadrants_put_left_hand_below_and_leave_a_black_quarter() -> None:
    plan = view_tiles.make_layout('quadrants', VIEWS, 16, 24)
    shown = view_layout.compose_views(
        {'right': flat(30), 'left': flat(20), 'head': flat(10)}, plan
    )
    assert shown.shape == (2, 32, 48, 3)
    assert shows(shown[:, :16, :24], 10)
    assert shows(shown[:, 16:, :24], 20)
    assert shows(shown[:, :16, 24:], 30)
    assert (shown[:, 16:, 24:] == 0).all()


def test_wide_top_repeats_each_wrist_column_twice() -> None:
    plan = view_tiles.make_layout('wide_top', ('a', 'b', 'wrist'), 16, 24, crop=1.0)
    wrist = torch.randint(0, 256, (1, 16, 24, 3), dtype=torch.uint8)
    shown = view_layout.compose_views(
        {'a': flat(11, frames=1), 'b': flat(22, frames=1), 'wrist': wrist}, plan
    )
    assert torch.equal(shown[:, :16, 0::2], shown[:, :16, 1::2])
    assert (shown[:, :16, 0::2].int() - wrist.int()).abs().max() <= 1  # truncation of x/255*255
    assert shows(shown[:, 16:, :24], 11) and shows(shown[:, 16:, 24:], 22)


def test_head_beside_hands_halves_the_hand_views() -> None:
    plan = view_tiles.make_layout('head_beside_hands', VIEWS, 64, 64)
    shown = view_layout.compose_views(
        {'head': flat(10), 'left': flat(20), 'right': flat(30)}, plan
    )
    assert shown.shape == (2, 64, 96, 3)
    assert shows(shown[:, :32, 64:], 20) and shows(shown[:, 32:, 64:], 30)


def test_released_arrangements() -> None:
    assert view_tiles.released_layout_name('oxe_droid', 3) == 'wide_top'
    assert view_tiles.released_layout_name('agibot', 3) == 'quadrants'
    assert view_tiles.released_layout_name('oxe_droid', 1) == 'single'


def test_the_crop_keeps_the_middle() -> None:
    frames = flat(0, 180, 320, 1)
    frames[:, 4:175, 8:312] = 200  # exactly the center crop of 171x304
    assert shows(view_layout.crop_and_resize(frames, 176, 320), 200)


@settings(deadline=None)
@given(st.integers(0, 255))
def test_bytes_are_truncated_not_rounded(value: int) -> None:
    pixel = view_layout.crop_and_resize(flat(value, 16, 16, 1), 16, 16, crop=1.0)
    assert pixel[0, 0, 0, 0] == int(torch.tensor(value).float() / 255 * 255)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 2**31))
def test_model_input_is_invertible_to_the_byte_in_fp32_and_bounded(dtype, seed) -> None:
    picture = torch.randint(
        0, 256, (1, 2, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    video = view_layout.to_model_input(picture, dtype)
    assert video.shape == (1, 3, 2, 8, 8) and video.dtype == dtype
    assert video.abs().max() <= 1
    back = ((video.float() + 1) / 2 * 255).round().permute(0, 2, 3, 4, 1)
    tolerance = 0 if dtype == torch.float32 else 2
    assert (back - picture.float()).abs().max() <= tolerance


def test_model_input_resizes_on_request() -> None:
    video = view_layout.to_model_input(flat(9, 32, 64)[None], torch.float32, (16, 32))
    assert video.shape == (1, 3, 2, 16, 32)


@pytest.mark.parametrize(
    ('views', 'words'),
    [
        ({'head': flat(1), 'left': flat(1)}, 'no frames of right'),
        ({'head': flat(1), 'left': flat(1), 'right': flat(1, frames=3)}, 'number of frames'),
        ({'head': flat(1), 'left': flat(1), 'right': flat(1).float()}, 'right: want uint8'),
    ],
)
def test_refusals_name_the_view(views, words) -> None:
    with pytest.raises(ValueError, match=words):
        view_layout.compose_views(views, view_tiles.make_layout('quadrants', VIEWS, 16, 16))


def test_unknown_arrangement_and_wrong_view_count() -> None:
    with pytest.raises(ValueError, match='known: quadrants'):
        view_tiles.make_layout('mosaic', VIEWS, 16, 16)
    with pytest.raises(ValueError, match='needs 3 views, got 1'):
        view_tiles.make_layout('quadrants', ('head',), 16, 16)
    with pytest.raises(ValueError, match='does not fit'):
        view_tiles.ViewLayout(16, 16, (view_tiles.Tile('head', 8, 0, 16, 16),))
