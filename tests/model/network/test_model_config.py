"""Configs: geometry, JSON, and parameter counts of the real sizes."""

import json
from dataclasses import replace

import pytest
import torch

from wam_policy.model.network.model_config import PRESETS, ModelConfig, get_preset
from wam_policy.model.network.video_action_dit import VideoActionDiT


@pytest.mark.parametrize('name', PRESETS)
def test_json_round_trip(name: str) -> None:
    config = get_preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_wrong_keys_are_named() -> None:
    values = get_preset('tiny').to_dict()
    del values['dim']
    with pytest.raises(ValueError, match=r"missing \['dim'\], unknown \['width'\]"):
        ModelConfig.from_dict({**values, 'width': 128})


def test_unknown_preset_answers_with_the_nearest() -> None:
    with pytest.raises(ValueError, match='did you mean dreamzero_14b'):
        get_preset('dreamzero14b')


@pytest.mark.parametrize(
    'change',
    [
        {'heads': 5},
        {'latent_size': (7, 12)},
        {'states_per_block': 5},
    ],
)
def test_impossible_sizes_are_refused(change: dict) -> None:
    with pytest.raises(ValueError):
        replace(get_preset('tiny'), **change)


def test_geometry_of_the_released_model() -> None:
    c = get_preset('dreamzero_14b')
    assert (c.frame_tokens, c.window_frames, c.window_pixel_frames) == (880, 9, 33)
    assert c.block_period_s == pytest.approx(1.6) == c.actions_per_block / c.action_hz
    assert [c.block_index(start) for start in (1, 3, 5, 7, 9)] == [0, 1, 2, 3, 4]


def test_geometry_of_tiny() -> None:
    c = get_preset('tiny')
    assert (c.frame_tokens, c.block_pixel_frames) == (24, 4)
    assert c.block_period_s == pytest.approx(0.8) == c.actions_per_block / c.action_hz


@pytest.mark.parametrize(
    'name, tensors, parameters',
    [
        ('dreamzero_14b', 1317, 16_484_292_448),
        ('dreamzero_5b', 997, 5_606_692_832),
    ],
)
def test_real_sizes_have_the_released_tensors(name: str, tensors: int, parameters: int) -> None:
    with torch.device('meta'):
        state = VideoActionDiT(get_preset(name)).state_dict()
    assert len(state) == tensors
    assert sum(value.numel() for value in state.values()) == parameters
