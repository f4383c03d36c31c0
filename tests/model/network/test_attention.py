"""The teacher-forcing mask against a token-by-token reading of its rules."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.model.network.attention import make_teacher_forcing_mask
from wam_policy.model.network.model_config import ModelConfig, get_preset

SMALL = replace(get_preset('tiny'), latent_size=(2, 4), actions_per_block=4)


def rows(c: ModelConfig, frames: int, with_noisy: bool) -> list[tuple[str, int, int]]:
    """List every token as (stream, block, frame or own index)."""

    def video(stream: str) -> list[tuple[str, int, int]]:
        return [
            (stream, 0 if f == 0 else (f - 1) // c.frames_per_block + 1, f)
            for f in range(frames)
            for _ in range(c.frame_tokens)
        ]

    blocks = range(1, (frames - 1) // c.frames_per_block + 1)
    actions = [('action', b, i) for b in blocks for i in range(c.actions_per_block)]
    states = [('state', b, i) for b in blocks for i in range(c.states_per_block)]
    return video('clean') + (video('noisy') if with_noisy else []) + actions + states


def sees(c: ModelConfig, query: tuple[str, int, int], key: tuple[str, int, int]) -> bool:
    (kind, block, _), (other, other_block, frame) = query, key
    if kind == 'clean':
        end = 1 + block * c.frames_per_block
        in_window = frame == 0 or max(1, end - c.window_frames) <= frame < end
        return other == 'clean' and other_block <= block and in_window
    if kind == 'state' and c.masked_state:
        return query == key
    return other_block < block if other == 'clean' else other_block == block


@settings(deadline=None, max_examples=30)
@given(
    per_block=st.integers(1, 3),
    blocks=st.integers(1, 4),
    window=st.integers(1, 4),
    states=st.sampled_from([1, 2]),
    masked=st.booleans(),
    noisy=st.booleans(),
)
def test_mask(
    per_block: int, blocks: int, window: int, states: int, masked: bool, noisy: bool
) -> None:
    c = replace(
        SMALL,
        frames_per_block=per_block,
        window_blocks=window,
        states_per_block=states,
        masked_state=masked,
    )
    frames = 1 + blocks * per_block
    mask = make_teacher_forcing_mask(c, frames, noisy, torch.device('cpu'))
    tokens = rows(c, frames, noisy)
    assert mask.tolist() == [[sees(c, query, key) for key in tokens] for query in tokens]


@pytest.mark.parametrize('masked', [True, False])
def test_every_token_sees_itself(masked: bool) -> None:
    mask = make_teacher_forcing_mask(
        replace(SMALL, masked_state=masked), 4, True, torch.device('cpu')
    )
    assert mask.diagonal().all()
