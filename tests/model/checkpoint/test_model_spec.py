"""config.json: the released schema, our own section, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import model_spec
from wam_policy.model.encoders import encoder_stack
from wam_policy.model.network.model_config import get_preset


def released(family: str, **changes: Any) -> dict[str, Any]:
    """Write config.json as the released checkpoints do: no `wam` section."""
    model = get_preset(family)
    network = {
        '_target_': 'x.CausalWanModel',
        'model_type': 'i2v',
        'dim': model.dim,
        'num_heads': model.heads,
        'num_layers': model.layers,
        'ffn_dim': model.ffn_dim,
        'freq_dim': 256,
        'in_dim': model.latent_channels + model.condition_channels,
        'out_dim': model.latent_channels,
        'frame_seqlen': model.frame_tokens,
        'concat_first_frame_latent': family == 'dreamzero_14b',
        'num_frame_per_block': 2,
        'num_action_per_block': 24,
        'max_chunk_size': 4,
    }
    head = {
        'num_frames': 33,
        'num_frame_per_block': 2,
        'action_horizon': 24,
        'action_dim': 32,
        'max_state_dim': 64,
        'hidden_size': 64,
        'diffusion_model_cfg': network,
    }
    if family == 'dreamzero_5b':
        head |= {'target_video_height': 160, 'target_video_width': 320}
    for key, value in changes.items():
        target = network if key in network else head
        if value is None:
            del target[key]
        else:
            target[key] = value
    return {'model_type': 'vla', 'action_head_cfg': {'config': head}}


@pytest.mark.parametrize('family', ['dreamzero_14b', 'dreamzero_5b'])
def test_the_released_schema_gives_the_presets(family) -> None:
    found = model_spec.parse_spec(released(family))
    assert found.model == get_preset(family)
    assert found.encoders == encoder_stack.PRESETS[family]
    assert found.name == family and found.trained and found.adapters is None
    assert found.canvas == model_spec.make_preset_spec(family).canvas


def test_the_horizon_is_read_not_assumed() -> None:
    found = model_spec.parse_spec(
        released('dreamzero_14b', num_action_per_block=48, action_horizon=48)
    )
    assert found.model.actions_per_block == 48
    assert found.model.action_hz == 30 and found.model.video_hz == 5


@pytest.mark.parametrize(
    ('robot', 'actions', 'video_hz', 'block_s'),
    [('droid', 24, 5, 1.6), ('agibot_g1', 24, 10, 0.8), ('agibot_g1', 48, 5, 1.6)],
)
def test_frame_rate_follows_the_robots_control_rate(robot, actions, video_hz, block_s) -> None:
    found = model_spec.parse_spec(released('dreamzero_14b', num_action_per_block=actions))
    timed = found.with_control_rate(embodiment.load_embodiment(robot).step_dt_s).model
    assert timed.video_hz == pytest.approx(video_hz)
    assert timed.block_period_s == pytest.approx(block_s)


def test_without_targets_the_5b_model_sees_176_lines_and_drops_a_row() -> None:
    found = model_spec.parse_spec(released('dreamzero_5b', target_video_height=None))
    assert found.canvas.size == (176, 320) and found.model.latent_size == (10, 20)


def test_adapters_and_decoupled_noise_are_read() -> None:
    found = model_spec.parse_spec(
        released(
            'dreamzero_14b', train_architecture='lora', lora_rank=8, decouple_inference_noise=True
        )
    )
    assert (found.adapters.rank, found.adapters.scale) == (8, 0.5)
    assert found.video_final_noise == 0.8


@pytest.mark.parametrize('name', encoder_stack.PRESETS)
def test_our_section_survives_json(name) -> None:
    made = model_spec.make_preset_spec(name)
    assert model_spec.parse_spec({'wam': json.loads(json.dumps(made.to_dict()))}) == made


def test_committed_rows_are_written_where_a_model_was_trained_for_them() -> None:
    made = model_spec.make_preset_spec('mini')
    assert 'committed_rows' not in made.to_dict()
    section = replace(made, max_committed_rows=9).to_dict()
    assert model_spec.parse_spec({'wam': section}).max_committed_rows == 9
    for wrong in (24, -1, 2.0, 'many'):
        with pytest.raises(ValueError, match='wam.committed_rows'):
            model_spec.parse_spec({'wam': {**section, 'committed_rows': wrong}})


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'num_heads': None}, 'diffusion_model_cfg has no num_heads'),
        ({'frame_seqlen': 881}, 'frame_seqlen 881, but a canvas of 352x640 gives 880'),
        ({'max_chunk_size': -1}, 'max_chunk_size -1'),
        ({'num_action_per_block': None, 'action_horizon': None}, 'num_action_per_block nor'),
        ({'diffusion_model_cfg': 7}, 'has no diffusion_model_cfg'),
    ],
)
def test_what_does_not_fit_is_named(changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        model_spec.parse_spec(released('dreamzero_14b', **changes))


def test_prompts_are_the_checkpoints_own_or_the_released_ones() -> None:
    assert model_spec.make_preset_spec('tiny').make_prompt('yam', 'Fold It') == 'fold it'
    assert (
        model_spec.make_preset_spec('dreamzero_14b')
        .make_prompt('yam', 'Fold It')
        .startswith('A multi-view')
    )
    content = model_spec.make_preset_spec('tiny').to_dict() | {'prompts': {'agibot': 'do {i}'}}
    found = model_spec.parse_spec({'wam': content})
    assert found.make_prompt('agibot', 'X') == 'do x'
    with pytest.raises(ValueError, match="no prompt for tag 'yam'; it has agibot"):
        found.make_prompt('yam', 'x')


def test_canvas_of_every_shipped_robot() -> None:
    for name in embodiment.list_robots():
        robot = embodiment.load_embodiment(name)
        views = tuple(camera.key for camera in robot.cameras)
        for made in map(model_spec.make_preset_spec, encoder_stack.PRESETS):
            if made.canvas.size is None:
                assert (
                    made.canvas.make_layout(robot.model_tag, views).size == made.canvas.image_size
                )
    with pytest.raises(ValueError, match="arrangement 'mosaic' is unknown"):
        content = model_spec.make_preset_spec('tiny').to_dict()
        model_spec.parse_spec(
            {'wam': content | {'canvas': content['canvas'] | {'arrangement': 'mosaic'}}}
        )


def test_the_head_of_a_prompt_ends_with_the_instruction():
    spec = model_spec.make_preset_spec('dreamzero_14b')
    head = spec.make_prompt_head('agibot', 'Pick up the CUP')
    assert head.endswith('pick up the cup')
    assert spec.make_prompt('agibot', 'Pick up the CUP').startswith(head)
