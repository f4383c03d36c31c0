"""Walks, skipping and guidance with velocities that tests can know."""

import queue
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wam_policy.model.sampling.noise_schedule import decouple_schedule, make_unipc_schedule
from wam_policy.model.sampling.sampler import (
    SAMPLERS,
    CommittedActions,
    Sample,
    SamplingConfig,
    SimilaritySkipper,
    draw_noise,
    make_exchanged_velocity_fn,
    make_guided_velocity_fn,
    make_unguided_velocity_fn,
    sample,
    static_mask,
)

NOISE = draw_noise(7, (1, 2, 1, 3, 3), (1, 4, 5), torch.float32, torch.device('cpu'))


class ToyVelocityFn:
    """A branch whose actions depend on the video it is shown, nonlinearly."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.mix = torch.randn(20, 18, generator=generator) / 4
        self.calls = 0

    def __call__(
        self, x_video: Tensor, x_action: Tensor, t_video: int, t_action: int
    ) -> tuple[Tensor, Tensor]:
        self.calls += 1
        acted = torch.tanh(x_video.flatten() @ self.mix.T + t_action / 1000) + x_action.flatten()
        seen = torch.tanh(x_action.flatten() @ self.mix - t_video / 1000) + x_video.flatten()
        return seen.reshape(x_video.shape), acted.reshape(x_action.shape)


def make_sampling_config(**changes: object) -> SamplingConfig:
    values = {
        'steps': 16,
        'shift': 5.0,
        'guidance': 3.0,
        'evaluations': None,
        'dynamic': False,
        'video_final_noise': None,
    }
    return SamplingConfig(**{**values, **changes})


SAMPLING_CONFIGS = {
    **SAMPLERS,
    'four steps': make_sampling_config(steps=4),
    'two steps': make_sampling_config(steps=2),
}


def run(
    r: SamplingConfig, guided_video: bool = True
) -> tuple[Sample, ToyVelocityFn, ToyVelocityFn]:
    cond, uncond = ToyVelocityFn(1), ToyVelocityFn(2)
    out = sample(
        r, *NOISE, make_guided_velocity_fn(cond, uncond, r.guidance), guided_video=guided_video
    )
    return out, cond, uncond


@settings(deadline=None)
@given(steps=st.integers(1, 24), shift=st.floats(1, 8), seed=st.integers(0, 99))
def test_an_oracle_is_reached_exactly(steps: int, shift: float, seed: int) -> None:
    """Where the velocity always points from the data, any walk ends in it."""
    video, action = draw_noise(
        seed, (1, 2, 1, 3, 3), (1, 4, 5), torch.float32, torch.device('cpu')
    )
    walk = make_unipc_schedule(steps, shift)
    sigma = dict(zip(walk.timesteps, walk.sigmas, strict=False))

    def oracle(x_video, x_action, t_video, t_action, _):
        return (x_video - video) / sigma[t_video], (x_action - action) / sigma[t_action]

    out = sample(
        make_sampling_config(steps=steps, shift=shift), *NOISE, oracle, guided_video=False
    )
    torch.testing.assert_close(out.video, video, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.action, action, atol=1e-4, rtol=1e-4)


def test_a_decoupled_video_stops_at_its_noise_level() -> None:
    data = torch.ones_like(NOISE[0])
    walk = decouple_schedule(make_unipc_schedule(4, 5.0), 0.8)
    sigma = dict(zip(walk.timesteps, walk.sigmas, strict=False))

    def oracle(x_video, x_action, t_video, t_action, _):
        return (x_video - data) / sigma[t_video], x_action

    out = sample(
        make_sampling_config(steps=4, video_final_noise=0.8), *NOISE, oracle, guided_video=False
    )
    torch.testing.assert_close(out.video, 0.8 * NOISE[0] + 0.2 * data, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize('name', SAMPLING_CONFIGS)
def test_leaving_guidance_out_at_the_end_changes_no_action(name: str) -> None:
    full, _, all_calls = run(SAMPLING_CONFIGS[name], guided_video=True)
    lean, cond, uncond = run(SAMPLING_CONFIGS[name], guided_video=False)
    assert torch.equal(full.action, lean.action)
    assert full.evaluated == lean.evaluated and cond.calls == sum(lean.evaluated)
    last_is_known = not SAMPLING_CONFIGS[name].dynamic or lean.evaluated[-1]
    assert uncond.calls == all_calls.calls - last_is_known


def test_guidance_does_reach_the_actions_through_the_video() -> None:
    weak, strong = (
        run(make_sampling_config(guidance=1.5))[0],
        run(make_sampling_config(guidance=3.0))[0],
    )
    assert not torch.allclose(weak.action, strong.action)


@pytest.mark.parametrize('scale', [0.0, 1.5, 7.0])
def test_a_first_action_follows_the_conditional_branch_alone(scale: float) -> None:
    one = make_sampling_config(steps=1, guidance=scale)
    alone = sample(one, *NOISE, make_unguided_velocity_fn(ToyVelocityFn(1)), guided_video=True)
    assert torch.equal(run(one)[0].action, alone.action)


def test_scale_one_is_the_conditional_branch() -> None:
    alone = sample(
        make_sampling_config(),
        *NOISE,
        make_unguided_velocity_fn(ToyVelocityFn(1)),
        guided_video=True,
    )
    out = run(make_sampling_config(guidance=1.0))[0]
    torch.testing.assert_close(out.video, alone.video)
    torch.testing.assert_close(out.action, alone.action)


def test_scale_zero_is_the_unconditional_video() -> None:
    cond, uncond = ToyVelocityFn(1), ToyVelocityFn(2)
    video, action = make_guided_velocity_fn(cond, uncond, 0.0)(*NOISE, 500, 500, True)
    assert torch.equal(video, uncond(*NOISE, 500, 500)[0])
    assert torch.equal(action, cond(*NOISE, 500, 500)[1])


@pytest.mark.parametrize(
    'r, wanted',
    [
        (SAMPLERS['full16'], True),
        (SAMPLERS['static8'], True),
        (SAMPLERS['static4'], True),
        (SAMPLERS['dynamic4'], True),
        (SAMPLERS['one_step'], False),
        (make_sampling_config(guidance=1.0), False),
        (make_sampling_config(steps=2), True),
    ],
)
def test_recipes_know_whether_guidance_can_matter(r: SamplingConfig, wanted: bool) -> None:
    assert r.guides_actions() is wanted
    assert (run(r, guided_video=False)[2].calls > 0) is wanted or r.guidance == 1


@pytest.mark.parametrize('name', SAMPLING_CONFIGS)
@pytest.mark.parametrize('guided_video', [True, False])
def test_two_workers_arrive_where_one_does(name: str, guided_video: bool) -> None:
    r = SAMPLING_CONFIGS[name]
    want = run(r, guided_video)[0]
    inboxes = queue.Queue(), queue.Queue()
    results: dict[int, Sample] = {}

    def worker(rank: int) -> None:
        def exchange(video: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
            inboxes[1 - rank].put((video, action))
            return inboxes[rank].get(timeout=10)

        velocity = make_exchanged_velocity_fn(
            ToyVelocityFn(1 + rank), exchange, r.guidance, conditional=rank == 0
        )
        results[rank] = sample(r, *NOISE, velocity, guided_video=guided_video)

    threads = [threading.Thread(target=worker, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert torch.equal(results[0].action, want.action)
    assert torch.equal(results[0].video, want.video)
    assert results[0].evaluated == results[1].evaluated
    assert all(box.empty() for box in inboxes)
    if guided_video:
        assert torch.equal(results[1].action, want.action)


@pytest.mark.parametrize('evaluations', [5, 6, 7, 8])
def test_static_masks_ask_as_often_as_they_say(evaluations: int) -> None:
    mask = static_mask(16, evaluations)
    out, cond, _ = run(make_sampling_config(evaluations=evaluations))
    assert sum(mask) == evaluations == cond.calls and out.evaluated == mask


@pytest.mark.parametrize(
    'make',
    [
        lambda: make_sampling_config(evaluations=9),
        lambda: make_sampling_config(steps=8, evaluations=5),
        lambda: make_sampling_config(evaluations=8, dynamic=True),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(
    make: Callable[[], SamplingConfig],
) -> None:
    with pytest.raises(ValueError):
        make()


def test_agreeing_velocities_are_asked_for_four_times() -> None:
    gate = SimilaritySkipper()
    runs = [gate.should_evaluate(lambda: 1.0) for _ in range(16)]
    assert [i for i, ran in enumerate(runs) if ran] == [0, 1, 6, 11]


def test_similarity_is_not_asked_before_there_are_two_velocities() -> None:
    gate = SimilaritySkipper()

    def unasked() -> float:
        raise AssertionError

    assert gate.should_evaluate(unasked) and gate.should_evaluate(unasked)


def test_a_constant_velocity_is_skipped_and_a_changing_one_is_not() -> None:
    def constant(x_video, x_action, t_video, t_action, _):
        return torch.ones_like(x_video), x_action

    flips = iter([1.0, -1.0] * 8)

    def flipping(x_video, x_action, t_video, t_action, _):
        return next(flips) * torch.ones_like(x_video), x_action

    steady = sample(SAMPLERS['dynamic4'], *NOISE, constant, guided_video=True)
    nervous = sample(SAMPLERS['dynamic4'], *NOISE, flipping, guided_video=True)
    assert (sum(steady.evaluated), sum(nervous.evaluated)) == (4, 16)
    # the mask of four is what the similarity chooses at best
    assert steady.evaluated == static_mask(16, 4)


def test_noise_follows_the_seed() -> None:
    def draw(seed: int) -> tuple[Tensor, Tensor]:
        return draw_noise(seed, (3, 4), (5,), torch.float32, torch.device('cpu'))

    assert all(torch.equal(a, b) for a, b in zip(draw(1), draw(1), strict=True))
    assert not torch.equal(draw(1)[0], draw(2)[0])


def test_the_noise_scale_multiplies_both_initial_samples() -> None:
    config = make_sampling_config(steps=4)
    velocity = make_guided_velocity_fn(ToyVelocityFn(1), ToyVelocityFn(2), config.guidance)
    half = tuple(0.5 * noise for noise in NOISE)
    want = sample(config, *half, velocity, guided_video=True)
    found = sample(
        make_sampling_config(steps=4, noise_scale=0.5), *NOISE, velocity, guided_video=True
    )
    assert torch.equal(found.video, want.video) and torch.equal(found.action, want.action)
    assert not torch.equal(found.action, run(config)[0].action)


@pytest.mark.parametrize('scale', [-0.1, 1.5, float('nan')])
def test_a_noise_scale_outside_0_to_1_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match='noise scale in'):
        make_sampling_config(noise_scale=scale)


@pytest.mark.parametrize('name', SAMPLING_CONFIGS)
def test_committed_actions_stay_and_are_shown_to_every_evaluation(name: str) -> None:
    video_noise, action_noise = NOISE
    committed = CommittedActions(torch.full((1, 4, 5), 0.25), (2,))
    toy, shown = ToyVelocityFn(1), []

    def velocity(x_video: Tensor, x_action: Tensor, *times: int) -> tuple[Tensor, Tensor]:
        shown.append(x_action)
        return toy(x_video, x_action, *times)

    found = sample(
        SAMPLING_CONFIGS[name],
        video_noise,
        action_noise,
        make_unguided_velocity_fn(velocity),
        guided_video=False,
        committed=committed,
    )
    assert len(shown) >= 1
    for action in (*shown, found.action):
        assert (action[:, :2] == 0.25).all() and (action[:, 2:] != 0.25).all()
