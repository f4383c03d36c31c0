"""The memory: what a pass writes stays only if it is committed."""

from dataclasses import replace

import pytest
import torch

from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.model_config import get_preset
from wam_policy.model.network.rope import Rotation, apply_rotation, line_angles, time_width

CONFIG = replace(
    get_preset('tiny'), dim=48, heads=2, layers=2, latent_size=(2, 4), window_blocks=3
)


def cache() -> KVCache:
    return KVCache(CONFIG, 1, 'cpu', torch.float32)


def write_frames(memory: KVCache, value: float, frames: int = 1) -> torch.Tensor:
    """Write constant keys and values as a pass would; return what layer 0 attends to."""
    shape = (1, CONFIG.heads, frames * CONFIG.frame_tokens, CONFIG.head_dim)
    seen = [
        layer.append(torch.full(shape, value), torch.full(shape, -value))
        for layer in memory.open_layers(frames)
    ]
    return seen[0][0]


def read_values(memory: KVCache) -> list[float]:
    """Read one value per committed frame."""
    return memory.snapshot()[0][0, 0, 0, :: CONFIG.frame_tokens, 0].tolist()


def test_a_pass_is_forgotten_unless_committed() -> None:
    memory = cache()
    write_frames(memory, 1)
    memory.commit(1)
    write_frames(memory, 2)
    write_frames(memory, 3)
    memory.commit(1)
    assert read_values(memory) == [1, 3]


def test_a_pass_sees_memory_and_itself_in_order() -> None:
    memory = cache()
    for value in (1, 2):
        write_frames(memory, value)
        memory.commit(1)
    seen = write_frames(memory, 3)[0, 0, :: CONFIG.frame_tokens, 0]
    assert seen.tolist() == [1, 2, 3]


def test_a_full_window_loses_the_oldest_and_a_pass_sees_only_the_window() -> None:
    memory = cache()
    for value in range(6):
        seen = write_frames(memory, value)
        memory.commit(1)
        assert seen.shape[2] <= CONFIG.window_frames * CONFIG.frame_tokens
    assert read_values(memory) == [2, 3, 4, 5]


def test_tentative_frames_never_push_out_old_ones() -> None:
    memory = cache()
    for value in range(4):
        write_frames(memory, value)
        memory.commit(1)
    before = [part.clone() for part in memory.snapshot()]
    write_frames(memory, 9)
    memory.commit_temporary(1)
    assert write_frames(memory, 10)[0, 0, :: CONFIG.frame_tokens, 0].tolist() == [2, 3, 9, 10]
    memory.truncate(4)
    assert all(torch.equal(a, b) for a, b in zip(before, memory.snapshot(), strict=True))


@pytest.mark.parametrize('frames', [1, 2])
def test_sliding_turns_keys_to_their_new_positions(frames: int) -> None:
    memory, width = cache(), time_width(CONFIG.head_dim)
    tokens = 3 * CONFIG.frame_tokens
    raw = torch.randn(1, tokens, CONFIG.heads, CONFIG.head_dim)

    def turned(first: int) -> torch.Tensor:
        places = torch.arange(first, first + 3).repeat_interleave(CONFIG.frame_tokens)
        head = apply_rotation(raw[..., :width], Rotation.from_angles(line_angles(places, width)))
        return torch.cat([head, raw[..., width:]], -1).transpose(1, 2)

    for layer in memory.open_layers(3):
        layer.append(turned(0), torch.zeros_like(turned(0)))
    memory.commit(3)
    memory.slide(frames)
    assert memory.frames == 3 - frames
    kept = turned(-frames)[:, :, frames * CONFIG.frame_tokens :]
    for keys in memory.snapshot()[0]:
        torch.testing.assert_close(keys, kept, atol=1e-6, rtol=1e-5)


def test_cannot_keep_more_than_there_is() -> None:
    with pytest.raises(ValueError, match='cannot keep 1 of 0'):
        cache().truncate(1)


def test_never_reallocates() -> None:
    memory = cache()
    buffers = memory.keys.data_ptr(), memory.values.data_ptr()
    for value in range(10):
        write_frames(memory, value)
        memory.commit(1)
        if value % 4 == 3:
            memory.slide(1)
    assert (memory.keys.data_ptr(), memory.values.data_ptr()) == buffers


def test_every_token_of_the_buffer_can_be_reached_and_no_more() -> None:
    memory, c = cache(), CONFIG
    for value in range(c.window_frames):
        write_frames(memory, value)
        memory.commit(1)
    tokens = c.frames_per_block * c.frame_tokens + c.register_tokens
    new = torch.zeros(1, c.heads, tokens, c.head_dim)
    layer = memory.open_layers(c.frames_per_block)[0]
    layer.append(new, new)
    assert layer.write_index + tokens == layer.keys.shape[2]
    with pytest.raises(ValueError, match=f'and {tokens + 1} new tokens exceed'):
        layer.append(*(torch.zeros(1, c.heads, tokens + 1, c.head_dim) for _ in range(2)))
