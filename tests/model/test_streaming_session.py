"""Sessions: what is real stays, what is imagined does not."""

import queue
import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.model import toy_network
from wam_policy.model.network.cfg import CfgRole
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.released_session import ReleasedSession
from wam_policy.model.sampling.sampler import SAMPLERS, SamplingConfig
from wam_policy.model.streaming_session import InferenceContext, StreamingSession

CONFIG = replace(toy_network.CONFIG, dim=48, ffn_dim=64, frames_per_block=1)
WITH_IMAGE = replace(
    CONFIG, frames_per_block=2, image_context=True, image_dim=6, condition_channels=5
)
SAMPLING = SamplingConfig(4, 5.0, 3.0, None, False, None)
STATE = torch.linspace(-1, 1, 5)


class FakeEncoders:
    """Average pixels over 8x8 patches and groups of frames; the context is the last frame."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def tokenizer(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([[ord(c) for c in prompts[0][:4].ljust(4)]])
        return ids, torch.ones_like(ids)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.sin(ids[..., None] * torch.arange(1.0, 9.0))

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        self.prompts += prompts
        return self.encode_text(*self.tokenizer(prompts))

    def encode_image(self, frame: Tensor) -> Tensor:
        return frame.mean((2, 3))[..., None] * torch.arange(1.0, 7.0)

    def encode_first_frame(self, first: Tensor) -> tuple[Tensor, Tensor]:
        return first.unflatten(4, (-1, 8)).unflatten(3, (-1, 8)).mean((4, 6)), first

    def encode_next_frames(self, state: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        groups = [group.mean(2, keepdim=True) for group in frames.split(4, dim=2)]
        latents = [self.encode_first_frame(group)[0] for group in groups]
        latents[0] = latents[0] + 0.1 * self.encode_first_frame(state)[0]
        return torch.cat(latents, 2), frames[:, :, -1:]

    def encode_frames(self, video: Tensor) -> Tensor:
        latent, context = self.encode_first_frame(video[:, :, :1])
        if video.shape[2] == 1:
            return latent
        return torch.cat([latent, self.encode_next_frames(context, video[:, :, 1:])[0]], 2)


def frames(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 16, 32, 3), generator=generator, dtype=torch.uint8)


def model(config: ModelConfig = CONFIG) -> VideoActionDiT:
    return toy_network.make_model(config)


def pixels(canvas: Tensor) -> Tensor:
    return (canvas.float() / 127.5 - 1).permute(0, 4, 1, 2, 3)


def make_inference_context(
    config: ModelConfig = CONFIG, sampling: SamplingConfig = SAMPLING, **options
) -> InferenceContext:
    options = {'now': lambda: 0.0, **options}
    return InferenceContext(model(config), FakeEncoders(), pixels, sampling, **options)


def make_session(
    config: ModelConfig = CONFIG,
    sampling: SamplingConfig = SAMPLING,
    window: str = 'restart',
    **options,
) -> tuple[StreamingSession, InferenceContext]:
    ep = make_inference_context(config, sampling, **options)
    live = StreamingSession(ep, negative='bad', window=window)
    live.reset('pick')
    return live, ep


def contents(ep: InferenceContext) -> list[Tensor]:
    return [part for b in ep.guidance.branches for part in b.cache.snapshot()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize('config', [CONFIG, WITH_IMAGE], ids=['plain', 'image'])
def test_after_a_commit_the_memory_is_that_of_the_real_frames_alone(config: ModelConfig) -> None:
    block = config.block_pixel_frames
    asked, asked_episode = make_session(config)
    silent, silent_episode = make_session(config)
    imagined, imagined_episode = make_session(config)
    for live in (asked, silent, imagined):
        live.observe(frames(1, 1))
    for seed in range(3):
        asked.infer(STATE, seed, newest=frames(50 + seed, 2))
    dream = imagined.infer(STATE, 0).video
    for live in (asked, silent):
        live.observe(frames(2, block))
    imagined_episode.commit(dream)
    assert same(contents(asked_episode), contents(silent_episode))
    assert not same(contents(asked_episode), contents(imagined_episode))
    torch.testing.assert_close(
        asked.infer(STATE, 3).actions, silent.infer(STATE, 3).actions, rtol=0, atol=0
    )


@pytest.mark.parametrize('newest', [None, 1, 3, 4])
def test_a_query_leaves_the_memory_byte_identical(newest: int | None) -> None:
    live, ep = make_session()
    live.observe(frames(0, 1))
    for seed in range(1, 4):  # up to a full window
        live.observe(frames(seed, 4))
        before = contents(ep)
        live.infer(STATE, 1, newest=None if newest is None else frames(9, newest))
        assert same(before, contents(ep))


def test_newer_frames_are_seen_for_one_query() -> None:
    live, _ = make_session()
    live.observe(frames(0, 1))
    plain = live.infer(STATE, 1).actions
    peeked = live.infer(STATE, 1, newest=frames(9, 2)).actions
    assert not torch.allclose(plain, peeked)
    assert torch.equal(plain, live.infer(STATE, 1).actions)


def test_a_failed_query_leaves_the_memory_too() -> None:
    live, ep = make_session()
    live.observe(frames(0, 1))
    before = contents(ep)
    with pytest.raises(RuntimeError):
        live.infer(torch.zeros(4), 1, newest=frames(9, 4))  # a state of the wrong width
    assert same(before, contents(ep))


def test_queries_follow_seed_state_prompt_and_frames() -> None:
    def ask(prompt: str = 'pick', seed: int = 1, state: Tensor = STATE, shown: int = 0) -> Tensor:
        live, _ = make_session()
        live.reset(prompt)
        live.observe(frames(shown, 1))
        return live.infer(state, seed).actions

    base = ask()
    assert torch.equal(base, ask())
    for other in (ask(prompt='place'), ask(seed=2), ask(state=-STATE), ask(shown=3)):
        assert not torch.allclose(base, other)


def test_a_reset_forgets_everything() -> None:
    live, ep = make_session()
    live.observe(frames(0, 1))
    live.observe(frames(1, 4))
    live.reset('pick')
    assert live.memory.frames == live.memory.commits == 0
    with pytest.raises(RuntimeError, match='call observe first'):
        live.infer(STATE, 1)
    live.observe(frames(5, 1))
    fresh, fresh_episode = make_session()
    fresh.observe(frames(5, 1))
    assert same(contents(ep), contents(fresh_episode))


def test_a_full_window_restarts_from_its_newest_frame() -> None:
    live, ep = make_session(WITH_IMAGE)
    held = []
    live.observe(frames(0, 1))
    for seed in range(1, 6):
        live.observe(frames(seed, 8))
        held.append(live.memory.frames)
    assert held == [3, 5, 7, 1, 3] and live.memory.rebuilds == 1 and live.memory.commits == 6
    fresh, fresh_episode = make_session(WITH_IMAGE)
    fresh.observe(frames(4, 8)[-1:])
    fresh.observe(frames(5, 8))
    assert same(contents(ep), contents(fresh_episode))


def test_a_sliding_window_keeps_its_length_and_its_positions() -> None:
    live, ep = make_session(window='slide')
    starts = []
    live.observe(frames(0, 1))
    for seed in range(1, 12):
        live.observe(frames(seed, 4))
        starts.append(live.memory.frames)
        assert torch.isfinite(live.infer(STATE, 1).actions).all()
    assert starts == [2, 3, 4, *[4] * 8] and live.memory.rebuilds == 8


def test_memory_is_never_reallocated() -> None:
    live, ep = make_session(window='slide')
    buffers = [b.cache.keys.data_ptr() for b in ep.guidance.branches]
    live.observe(frames(0, 1))
    for seed in range(8):
        live.observe(frames(seed, 4))
        live.infer(STATE, seed, newest=frames(seed, 3))
    assert buffers == [b.cache.keys.data_ptr() for b in ep.guidance.branches]


def test_wrong_frames_are_refused_by_count_and_type() -> None:
    live, _ = make_session()
    with pytest.raises(ValueError, match='takes 1 frames, got 4'):
        live.observe(frames(0, 4))
    live.observe(frames(0, 1))
    with pytest.raises(ValueError, match='takes 4 frames, got 1'):
        live.observe(frames(0, 1))
    with pytest.raises(ValueError, match='uint8'):
        live.observe(frames(0, 4).float())
    with pytest.raises(ValueError, match='newest'):
        live.infer(STATE, 1, newest=frames(0, 5))
    assert live.memory.commits == 1


def test_a_window_of_one_block_cannot_slide() -> None:
    with pytest.raises(ValueError, match='use restart'):
        make_session(replace(CONFIG, window_blocks=1), window='slide')
    with pytest.raises(ValueError, match='restart, slide'):
        make_session(window='grow')


def test_one_step_never_touches_the_negative_prompt() -> None:
    live, ep = make_session(sampling=SAMPLERS['one_step'])
    live.observe(frames(0, 1))
    assert live.infer(STATE, 1).evaluations == 1
    assert ep.encoders.prompts == ['pick'] and len(ep.guidance.branches) == 1


def test_dropping_guidance_from_the_last_step_changes_no_action() -> None:
    answers = []
    for guided_video in (True, False):
        live, _ = make_session(guided_video=guided_video)
        live.observe(frames(0, 1))
        answers.append(live.infer(STATE, 1))
    assert torch.equal(answers[0].actions, answers[1].actions)
    assert not torch.equal(answers[0].video, answers[1].video)


@pytest.mark.parametrize('role', [CfgRole.COND, CfgRole.UNCOND])
def test_half_a_pair_is_refused(role: CfgRole) -> None:
    with pytest.raises(ValueError, match='peer'):
        make_session(role=role)


def test_an_idle_unconditional_worker_is_refused() -> None:
    with pytest.raises(ValueError, match='do not start it'):
        make_session(
            sampling=SAMPLERS['one_step'], role=CfgRole.UNCOND, exchange=lambda v, a: (v, a)
        )


@pytest.mark.parametrize('guided_video', [True, False])
def test_two_processes_act_as_one(guided_video: bool) -> None:
    def life(live: StreamingSession) -> list[Tensor | None]:
        live.observe(frames(0, 1))
        answers = [live.infer(STATE, 1).actions]
        live.observe(frames(1, 4))
        return [*answers, live.infer(STATE, 2, newest=frames(3, 2)).actions]

    want = life(make_session(guided_video=guided_video)[0])
    inboxes = {CfgRole.COND: queue.Queue(), CfgRole.UNCOND: queue.Queue()}
    got: dict[CfgRole, list[Tensor | None]] = {}

    def alone(role: CfgRole, peer: CfgRole) -> StreamingSession:
        def exchange(video: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
            inboxes[peer].put((video.clone(), action.clone()))
            return inboxes[role].get(timeout=10)

        return make_session(role=role, exchange=exchange, guided_video=guided_video)[0]

    def worker(role: CfgRole, live: StreamingSession) -> None:
        got[role] = life(live)

    pair = [
        (CfgRole.COND, alone(CfgRole.COND, CfgRole.UNCOND)),
        (CfgRole.UNCOND, alone(CfgRole.UNCOND, CfgRole.COND)),
    ]
    threads = [threading.Thread(target=worker, args=one) for one in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert same(got[CfgRole.COND], want)
    assert got[CfgRole.UNCOND] == [None, None]


@pytest.mark.parametrize('config', [CONFIG, WITH_IMAGE], ids=['plain', 'image'])
def test_bfloat16_says_about_the_same(config: ModelConfig) -> None:
    answers = []
    for dtype in (torch.float32, torch.bfloat16):
        ep = InferenceContext(
            model(config).to(dtype), FakeEncoders(), pixels, SAMPLING, now=lambda: 0.0
        )
        live = StreamingSession(ep, negative='bad')
        live.reset('pick')
        live.observe(frames(0, 1))
        live.observe(frames(1, config.block_pixel_frames))
        answers.append(live.infer(STATE, 1))
        assert answers[-1].actions.dtype == answers[-1].video.dtype == dtype
    exact, rounded = (answer.actions.float().flatten() for answer in answers)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.999


def test_time_is_taken_from_the_clock_that_is_handed_in() -> None:
    ticks = iter(range(1000))
    live, _ = make_session(now=lambda: float(next(ticks)))
    live.observe(frames(0, 1))
    assert live.timings_ms == {'preprocess': 1000.0, 'encode': 1000.0, 'kv_update': 1000.0}
    answer = live.infer(STATE, 1, newest=frames(0, 1))
    assert set(answer.timings_ms) == {'preprocess', 'encode', 'kv_update', 'denoise'}


def test_the_image_condition_grows_to_what_one_encoding_gives() -> None:
    live, ep = make_session(WITH_IMAGE)
    first = frames(0, 1)
    live.observe(first)
    assert ep.condition_frames == 3
    live.infer(STATE, 1, newest=frames(9, 8))
    assert ep.condition_frames == 5
    for seed in (1, 2, 3):
        live.observe(frames(seed, 8))
    clip = torch.cat([pixels(first[None]), torch.zeros(1, 3, 32, 16, 32)], 2)
    whole = ep.encoders.encode_frames(clip)
    grown = ep.slice_condition(0, 9)
    torch.testing.assert_close(grown[:, 2:], whole)
    assert grown[:, :2, 0].eq(1).all() and grown[:, :2, 1:].eq(0).all()


# ---- the released rhythm


def test_the_released_loop_starts_over_as_released() -> None:
    live = ReleasedSession(make_inference_context(WITH_IMAGE), negative='bad')
    calls = [
        (1, 'pick'),
        (4, 'pick'),
        (9, 'pick'),
        (8, 'pick'),
        (4, 'pick'),
        (4, 'pick'),
        (4, 'place'),
        (4, 'place'),
        (1, 'place'),
        (4, 'place'),
    ]
    ends = []
    for i, (count, prompt) in enumerate(calls):
        answer = live.step(frames(i, count), prompt, STATE)
        ends.append(live.start_frame)
        assert answer.video.shape[2] == (3 if live.start_frame == 3 else 2)
    assert ends == [3, 5, 7, 9, 3, 5, 3, 5, 3, 5]
    live.reset()
    live.step(frames(0, 4), 'place', STATE)
    assert live.start_frame == 3


def test_both_rhythms_agree_where_they_do_the_same() -> None:
    """First call: one frame, no block before it; with the reference's noise and guidance."""
    live, _ = make_session(WITH_IMAGE, guided_video=True)
    live.observe(frames(0, 1))
    ours = live.infer(STATE, 1140)
    released = ReleasedSession(
        make_inference_context(WITH_IMAGE, guided_video=True), negative='bad'
    )
    theirs = released.step(frames(0, 1), 'pick', STATE)
    torch.testing.assert_close(ours.actions, theirs.actions)
    torch.testing.assert_close(ours.video, theirs.video[:, :, 1:])


@pytest.mark.parametrize('count', [2, 3, 13])
def test_frame_counts_the_released_loop_cannot_use_are_refused(count: int) -> None:
    live = ReleasedSession(make_inference_context(WITH_IMAGE), negative='bad')
    live.step(frames(0, 1), 'pick', STATE)
    with pytest.raises(ValueError, match='frames in a call'):
        live.step(frames(1, count), 'pick', STATE)


@pytest.mark.parametrize('count, conditions_on', [(4, 3), (9, 8), (8, 0), (5, 0)])
def test_a_released_restart_conditions_on_one_frame(count: int, conditions_on: int) -> None:
    clip = frames(1, count)
    whole = ReleasedSession(make_inference_context(WITH_IMAGE), negative='bad').step(
        clip, 'pick', STATE
    )
    alone = ReleasedSession(make_inference_context(WITH_IMAGE), negative='bad').step(
        clip[conditions_on : conditions_on + 1], 'pick', STATE
    )
    assert torch.equal(whole.actions, alone.actions)


def test_a_released_block_short_of_frames_repeats_them() -> None:
    def ask(clip: Tensor) -> Tensor:
        live = ReleasedSession(make_inference_context(WITH_IMAGE), negative='bad')
        live.step(frames(0, 1), 'pick', STATE)
        return live.step(clip, 'pick', STATE).actions

    four = frames(1, 4)
    eight = four.repeat_interleave(2, 0)
    nine = torch.cat([four[:1], eight])
    assert torch.equal(ask(four), ask(eight)) and torch.equal(ask(eight), ask(nine))
    assert torch.equal(ask(nine), ask(torch.cat([nine, frames(2, 3)])))
