"""From noise to a block of video and actions, given only a function that tells velocities.

A branch is `velocity(x_video, x_action, t_video, t_action) -> (v_video, v_action)`. How branches
become one guided velocity, and at which steps the network is asked at all, is decided here; what
the network is, nobody here knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from wam_policy.model.sampling.noise_schedule import (
    NoiseSchedule,
    compute_unipc_steps,
    decouple_schedule,
    make_unipc_schedule,
)

Velocities = tuple[Tensor, Tensor]
VelocityFn = Callable[[Tensor, Tensor, int, int], Velocities]
# the last argument: does the video have to be guided at this step?
GuidedVelocityFn = Callable[[Tensor, Tensor, int, int, bool], Velocities]
ExchangeFn = Callable[[Tensor, Tensor], Velocities]

# At which of 16 steps the released models ask the network, by the number of askings.
STATIC_EVALUATION_STEPS = {
    5: (0, 1, 2, 7, 12),
    6: (0, 1, 5, 10, 14, 15),
    7: (0, 1, 2, 6, 10, 14, 15),
    8: (0, 1, 2, 6, 10, 13, 14, 15),
}
STATIC_NUM_STEPS = 16


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """Say how a query walks from noise to actions."""

    steps: int
    shift: float
    guidance: float  # 1: the conditional branch alone
    evaluations: int | None  # static mask of 16 steps; None: every step
    dynamic: bool  # skip by similarity instead of by mask
    video_final_noise: float | None  # the video's walk stops there; None: at data

    def __post_init__(self) -> None:
        if self.dynamic and self.evaluations is not None:
            raise ValueError('a recipe skips by mask (evaluations) or by similarity (dynamic)')
        static_mask(self.steps, self.evaluations)

    def make_schedules(self) -> tuple[NoiseSchedule, NoiseSchedule]:
        """Give the video's and the actions' walk."""
        action = make_unipc_schedule(self.steps, self.shift)
        if self.video_final_noise is None:
            return action, action
        return decouple_schedule(action, self.video_final_noise), action

    def guides_actions(self) -> bool:
        """Tell whether the unconditional branch can reach the actions at all.

        They follow the conditional branch; guidance touches them only through the video that a
        later evaluation reads.
        """
        evaluated_again = self.dynamic or sum(static_mask(self.steps, self.evaluations)) > 1
        return self.guidance != 1 and self.steps > 1 and evaluated_again


@dataclass(frozen=True, slots=True)
class Sample:
    """Hold what a walk arrived at."""

    video: Tensor
    action: Tensor
    evaluated: tuple[bool, ...]  # [steps]


def sample(
    config: SamplingConfig,
    video_noise: Tensor,
    action_noise: Tensor,
    velocity: GuidedVelocityFn,
    *,
    guided_video: bool,
) -> Sample:
    """Walk both modalities down their schedules.

    Without `guided_video` guidance is left out where it can no longer reach the actions: they
    come out the same, the predicted video less guided.
    """
    video_walk, action_walk = config.make_schedules()
    video, action = UniPCSolver(video_walk, video_noise), UniPCSolver(action_walk, action_noise)
    gate = SimilaritySkipper() if config.dynamic else None
    mask = static_mask(config.steps, config.evaluations)
    past: list[Tensor] = []  # video velocities of the last two evaluations
    evaluated = []
    for i in range(config.steps):
        run = gate.should_evaluate(partial(velocity_similarity, *past)) if gate else mask[i]
        if run:
            reaches_actions = any(mask[i + 1 :])  # a dynamic mask is all True: who knows
            v_video, v_action = velocity(
                video.x,
                action.x,
                video_walk.timesteps[i],
                action_walk.timesteps[i],
                guided_video or reaches_actions,
            )
            past = [*past[-1:], v_video]
        video.step(v_video)
        action.step(v_action)
        evaluated.append(run)
    return Sample(video.x, action.x, tuple(evaluated))


class UniPCSolver:
    """Walk one sample down a schedule, second order, in the sample's dtype.

    The sums keep the reference's order and operands: in bfloat16 another order is another walk.
    """

    def __init__(self, schedule: NoiseSchedule, noise: Tensor) -> None:
        self.x = noise
        self._steps = iter(compute_unipc_steps(schedule))
        self._sample = noise  # where the last velocity was corrected to
        self._data = self._older = noise  # clean samples that the last velocities implied

    def step(self, velocity: Tensor) -> None:
        """Correct the present sample with what the velocity says, then predict the next."""
        step, past = next(self._steps), self._data
        data = self.x - step.sigma * velocity
        sample = self.x
        if (correct := step.correct) is not None:
            bend = correct.near * (data - past)
            if correct.order == 2:
                bend = correct.far * ((self._older - past) / correct.ratio) + bend
            sample = correct.keep * self._sample - correct.scale * past - correct.scale * bend
        ahead = step.predict
        self.x = ahead.keep * sample - ahead.scale * data
        if ahead.order == 2:
            self.x = self.x - ahead.scale * (ahead.near * ((past - data) / ahead.ratio))
        self._sample, self._older, self._data = sample, past, data


def static_mask(steps: int, evaluations: int | None) -> tuple[bool, ...]:
    """Say at which steps the network is asked; ValueError lists the known numbers of askings."""
    if evaluations is None or evaluations == steps:
        return (True,) * steps
    if steps != STATIC_NUM_STEPS or evaluations not in STATIC_EVALUATION_STEPS:
        raise ValueError(
            f'{evaluations} evaluations in {steps} steps: want all, '
            f'or {", ".join(map(str, STATIC_EVALUATION_STEPS))} of {STATIC_NUM_STEPS}'
        )
    return tuple(i in STATIC_EVALUATION_STEPS[evaluations] for i in range(steps))


SAMPLERS = {
    'full16': SamplingConfig(16, 5.0, 5.0, None, False, None),
    'static8': SamplingConfig(16, 5.0, 5.0, 8, False, None),
    'dynamic4': SamplingConfig(16, 5.0, 5.0, None, True, None),
    'one_step': SamplingConfig(1, 5.0, 5.0, None, False, 0.8),
}


class SimilaritySkipper:
    """Skip evaluations while successive ones agree."""

    # above this similarity skip that many steps, then run; compared in float32 as it is computed
    SKIP_THRESHOLDS = ((torch.tensor(0.95).item(), 4), (torch.tensor(0.93).item(), 2))

    def __init__(self) -> None:
        self._evaluations = 0
        self._countdown = 0

    def should_evaluate(self, similarity: Callable[[], float]) -> bool:
        """Decide one step; `similarity` of the last two evaluations is asked only if needed."""
        run = self._decide(similarity)
        self._evaluations += run
        return run

    def _decide(self, similarity: Callable[[], float]) -> bool:
        if self._evaluations < 2:
            return True
        if self._countdown:
            self._countdown -= 1
            return self._countdown == 0
        alike = similarity()
        for threshold, steps in self.SKIP_THRESHOLDS:
            if alike > threshold:
                self._countdown = steps
                return False
        return True


def velocity_similarity(older: Tensor, newer: Tensor) -> float:
    """Take the cosine of two velocities, averaged over the batch; waits for the device."""
    flat = newer.float().flatten(1), older.float().flatten(1)
    return torch.cosine_similarity(*flat, dim=1).mean().item()


# ---- how branches become one velocity


def apply_guidance(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    return uncond + scale * (cond - uncond)


def make_unguided_velocity_fn(cond: VelocityFn) -> GuidedVelocityFn:
    """Follow the conditional branch alone."""
    return lambda x_video, x_action, t_video, t_action, _: cond(
        x_video, x_action, t_video, t_action
    )


def make_guided_velocity_fn(
    cond: VelocityFn, uncond: VelocityFn, scale: float
) -> GuidedVelocityFn:
    """Run both branches here; actions follow the conditional one."""

    def velocity(
        x_video: Tensor, x_action: Tensor, t_video: int, t_action: int, guide: bool
    ) -> Velocities:
        v_video, v_action = cond(x_video, x_action, t_video, t_action)
        if guide:
            other, _ = uncond(x_video, x_action, t_video, t_action)
            v_video = apply_guidance(v_video, other, scale)
        return v_video, v_action

    return velocity


def make_exchanged_velocity_fn(
    own: VelocityFn, exchange: ExchangeFn, scale: float, *, conditional: bool
) -> GuidedVelocityFn:
    """Run one branch here, its peer elsewhere, and swap velocities at every guided step.

    Both sides then walk alike. Where guidance is left out the unconditional side has nothing to
    add and rests: its sample is worthless from there on.
    """

    def velocity(
        x_video: Tensor, x_action: Tensor, t_video: int, t_action: int, guide: bool
    ) -> Velocities:
        if not guide and not conditional:
            return torch.zeros_like(x_video), torch.zeros_like(x_action)
        mine = own(x_video, x_action, t_video, t_action)
        if not guide:
            return mine
        theirs = exchange(*mine)
        cond, uncond = (mine, theirs) if conditional else (theirs, mine)
        return apply_guidance(cond[0], uncond[0], scale), cond[1]

    return velocity


def draw_noise(
    seed: int,
    video_shape: tuple[int, ...],
    action_shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Draw both modalities' noise, each from a fresh generator of the same seed.

    Always on the CPU in float32, so that every device starts a query from the same noise.
    """

    def one(shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator('cpu').manual_seed(seed)
        return torch.randn(shape, generator=generator).to(device, dtype)

    return one(video_shape), one(action_shape)
