"""The transformer: its cached passes against its training forward."""

from dataclasses import replace

import pytest
import torch

from wam_policy.model.network.cfg import PositionTimeCache
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.model_config import ModelConfig, get_preset
from wam_policy.model.network.video_action_dit import FlowTimeEmbedding, VideoActionDiT

SMALL = replace(
    get_preset('tiny'),
    dim=48,
    heads=2,
    layers=3,
    ffn_dim=64,
    latent_size=(4, 6),
    text_len=5,
    text_dim=16,
    actions_per_block=4,
    action_dim=3,
    state_dim=5,
    action_hidden=16,
    latent_channels=4,
)
VARIANTS = {
    'one frame a block': SMALL,
    'two frames a block': replace(SMALL, frames_per_block=2),
    'three frames, two states': replace(SMALL, frames_per_block=3, states_per_block=2),
    'learned places': replace(SMALL, frames_per_block=2, learned_places=True),
    'image context': replace(
        SMALL, frames_per_block=2, image_context=True, image_dim=8, condition_channels=6
    ),
}


class RandomClip:
    """A random clip with everything a model reads, drawn from a seed."""

    def __init__(self, config: ModelConfig, blocks: int = 3, batch: int = 2) -> None:
        torch.manual_seed(0)
        c, frames = config, 1 + blocks * config.frames_per_block
        self.config, self.blocks, self.frames = config, blocks, frames
        self.model = VideoActionDiT(c).eval().requires_grad_(False)
        self.clean, self.noisy = torch.randn(2, batch, c.latent_channels, frames, *c.latent_size)
        self.action = torch.randn(batch, blocks * c.actions_per_block, c.action_dim)
        self.state = torch.randn(batch, blocks * c.states_per_block, c.state_dim)
        self.video_t = torch.tensor([[900.0] + [300.0 + 100 * b for b in range(blocks)]])
        self.action_t = torch.tensor([[700.0 - 90 * b for b in range(blocks)]])
        self.committed = 0  # rows of each block at time 0
        self.condition = None
        if c.condition_channels:
            self.condition = torch.randn(batch, c.condition_channels, frames, *c.latent_size)
        image = torch.randn(batch, 7, c.image_dim) if c.image_context else None
        self.context = self.model.embed_context(torch.randn(batch, c.text_len, c.text_dim), image)
        self.cache = KVCache(c, batch, 'cpu', torch.float32)

    def run_teacher_forcing(self) -> tuple[torch.Tensor, torch.Tensor]:
        c, batch = self.config, len(self.clean)
        first, later = self.video_t[:, :1], self.video_t[:, 1:]
        video_t = torch.cat([first, later.repeat_interleave(c.frames_per_block, 1)], 1)
        out = self.model(
            self.clean,
            self.noisy,
            video_t.expand(batch, -1),
            self.action,
            torch.cat([self.action_times(b) for b in range(self.blocks)], 1).expand(batch, -1),
            self.state,
            self.context,
            self.condition,
        )
        return out.video, out.action

    def action_times(self, block: int) -> torch.Tensor:
        times = self.action_t[:, block, None].repeat(1, 1, self.config.actions_per_block)[0]
        times[:, : self.committed] = 0.0
        return times

    def embed_action_time(self, block: int) -> FlowTimeEmbedding:
        t, cache = float(self.action_t[0, block]), PositionTimeCache(self.model)
        return cache.action_time(t, (self.committed,))

    def embed_flow_time(self, t: torch.Tensor) -> FlowTimeEmbedding:
        return self.model.embed_flow_time(t.reshape(1, 1))

    def append_kv(self, frames: int) -> None:
        start = self.cache.frames
        self.model.append_kv(
            self.clean[:, :, start : start + frames],
            self.embed_flow_time(torch.zeros(1)),
            self.model.compute_video_rotation(start, frames),
            self.context,
            self.cache,
            self._condition(start, frames),
        )
        self.cache.commit(frames)

    def denoise_next_block(self) -> tuple[torch.Tensor, torch.Tensor]:
        c, start = self.config, self.cache.frames
        b, n = c.block_index(start), c.frames_per_block
        return self.model.denoise(
            self.noisy[:, :, start : start + n],
            self.action[:, b * c.actions_per_block :][:, : c.actions_per_block],
            self.state[:, b * c.states_per_block :][:, : c.states_per_block],
            self.embed_flow_time(self.video_t[:, 1 + b]),
            self.embed_action_time(b),
            self.model.compute_block_rotation(start),
            self.context,
            self.cache,
            self._condition(start, n),
        )

    def _condition(self, start: int, frames: int) -> torch.Tensor | None:
        return None if self.condition is None else self.condition[:, :, start : start + frames]


@pytest.mark.parametrize('committed', [0, 2])
@pytest.mark.parametrize('name', VARIANTS)
def test_cached_queries_equal_the_training_forward(name: str, committed: int) -> None:
    clip = RandomClip(VARIANTS[name])
    clip.committed = committed
    video, action = clip.run_teacher_forcing()
    clip.append_kv(1)
    for block in range(clip.blocks):
        start, count = clip.cache.frames, clip.config.actions_per_block
        ours_video, ours_action = clip.denoise_next_block()
        frames = video[:, :, start : start + clip.config.frames_per_block]
        torch.testing.assert_close(ours_video, frames, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(
            ours_action, action[:, block * count : (block + 1) * count], atol=2e-5, rtol=1e-4
        )
        clip.append_kv(clip.config.frames_per_block)


@pytest.mark.parametrize('name', VARIANTS)
def test_a_lean_pass_gives_what_the_whole_one_does(name: str) -> None:
    clip = RandomClip(VARIANTS[name])
    c, batch, n = clip.config, len(clip.clean), clip.config.frames_per_block
    video, action = clip.run_teacher_forcing()
    lean = clip.model(
        clip.clean[:, :, :-n],
        clip.noisy[:, :, 1:],
        clip.video_t[:, 1:].repeat_interleave(n, 1).expand(batch, -1),
        clip.action,
        clip.action_t.repeat_interleave(c.actions_per_block, 1).expand(batch, -1),
        clip.state,
        clip.context,
        clip.condition,
        skip_unused_tokens=True,
    )
    torch.testing.assert_close(lean.video, video[:, :, 1:], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(lean.action, action, atol=2e-5, rtol=1e-4)
    assert lean.clean_tokens.shape[1] == (clip.frames - n) * c.frame_tokens


def test_a_model_without_video_answers_as_it_was_trained() -> None:
    clip = RandomClip(replace(SMALL, predicts_video=False))
    c, batch = clip.config, len(clip.clean)
    trained = clip.model(
        clip.clean[:, :, :-1],
        None,
        clip.video_t[:, 1:].expand(batch, -1),
        clip.action,
        clip.action_t.repeat_interleave(c.actions_per_block, 1).expand(batch, -1),
        clip.state,
        clip.context,
        skip_unused_tokens=True,
    )
    clip.append_kv(1)
    video, action = clip.denoise_next_block()
    torch.testing.assert_close(
        action, trained.action[:, : c.actions_per_block], atol=2e-5, rtol=1e-4
    )
    assert not video.any()


def test_training_attends_as_inference_does() -> None:
    """On a CPU another attention serves training; only gradients tell which one ran."""
    clip = RandomClip(SMALL)
    fused = clip.run_teacher_forcing()
    clip.model.requires_grad_(True)
    for ours, theirs in zip(clip.run_teacher_forcing(), fused, strict=True):
        assert ours.requires_grad
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_a_state_that_trained_alone_sees_more_when_cached() -> None:
    """As in the released models: there training and cached inference differ by the state."""
    clip = RandomClip(replace(SMALL, masked_state=True))
    video, _ = clip.run_teacher_forcing()
    clip.append_kv(1)
    ours, _ = clip.denoise_next_block()
    assert not torch.allclose(ours, video[:, :, 1:2], atol=1e-4)


def test_a_query_leaves_the_memory_as_it_was() -> None:
    clip = RandomClip(VARIANTS['two frames a block'])
    clip.append_kv(1)
    clip.append_kv(2)
    before = clip.cache.snapshot()
    clip.denoise_next_block()
    after = clip.cache.snapshot()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_actions_can_train_without_the_video_stream() -> None:
    clip = RandomClip(SMALL)
    batch, count = len(clip.clean), clip.config.actions_per_block
    out = clip.model(
        clip.clean,
        None,
        torch.zeros(batch, clip.frames),
        clip.action,
        clip.action_t.repeat_interleave(count, 1).expand(batch, -1),
        clip.state,
        clip.context,
    )
    assert out.video is None and out.action.shape == clip.action.shape
    assert out.clean_tokens.shape == (batch, clip.frames * clip.config.frame_tokens, SMALL.dim)


def test_the_future_does_not_reach_back() -> None:
    clip = RandomClip(SMALL)
    video, action = clip.run_teacher_forcing()
    clip.clean[:, :, 2:] += 1
    clip.noisy[:, :, 2:] -= 1
    clip.state[:, 1:] += 1
    clip.action[:, SMALL.actions_per_block :] += 1
    later_video, later_action = clip.run_teacher_forcing()
    torch.testing.assert_close(later_video[:, :, :2], video[:, :, :2])
    first = slice(None), slice(0, SMALL.actions_per_block)
    torch.testing.assert_close(later_action[first], action[first])
    assert not torch.allclose(later_video[:, :, 2], video[:, :, 2])


def test_every_parameter_learns() -> None:
    clip = RandomClip(VARIANTS['image context'])
    clip.model.requires_grad_(True)
    c = clip.config
    clip.context = clip.model.embed_context(
        torch.randn(2, c.text_len, c.text_dim), torch.randn(2, 7, c.image_dim)
    )
    video, action = clip.run_teacher_forcing()
    (video.square().mean() + action.square().mean()).backward()
    idle = [name for name, p in clip.model.named_parameters() if p.grad is None]
    assert idle == []


def test_one_time_for_all_equals_two_equal_times() -> None:
    clip = RandomClip(SMALL)
    clip.append_kv(1)
    clip.video_t[:, 1] = clip.action_t[:, 0]
    apart = clip.denoise_next_block()
    shared, split = clip.embed_flow_time(clip.action_t[:, 0]), clip.embed_flow_time
    clip.embed_flow_time = lambda t: shared
    together = clip.denoise_next_block()
    clip.embed_flow_time = split
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_the_step_traces_into_one_graph() -> None:
    """No host synchronization, no data-dependent branch: a compiler takes the step whole."""
    clip = RandomClip(SMALL)
    clip.append_kv(1)
    want = clip.denoise_next_block()
    eager = clip.model.denoise
    clip.model.denoise = torch.compile(eager, backend='eager', fullgraph=True)
    for a, b in zip(clip.denoise_next_block(), want, strict=True):
        torch.testing.assert_close(a, b)
