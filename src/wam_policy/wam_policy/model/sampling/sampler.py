"""Sample a block of video and actions from noise, given a velocity function.

A branch is `velocity(x_video, x_action, t_video, t_action) -> (v_video, v_action)`. Defines how
branches combine to one guided velocity and at which steps the network is evaluated, independent
of the network.
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

# Steps of 16 at which the network is evaluated, by number of evaluations: those of the released
# code, and with 4 those of its similarity skipping where all velocities agree. A mask makes the
# last evaluation known, which then needs no unconditional branch, and no similarity to wait for.
STATIC_EVALUATION_STEPS = {
    4: (0, 1, 6, 11),
    5: (0, 1, 2, 7, 12),
    6: (0, 1, 5, 10, 14, 15),
    7: (0, 1, 2, 6, 10, 14, 15),
    8: (0, 1, 2, 6, 10, 13, 14, 15),
}
STATIC_NUM_STEPS = 16


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """Define how a query denoises: steps, evaluations and guidance."""

    steps: int
    shift: float
    guidance: float  # 1: the conditional branch alone
    evaluations: int | None  # static mask of 16 steps; None: every step
    dynamic: bool  # skip by similarity instead of by mask
    video_final_noise: float | None  # the video's schedule ends there; None: at data
    noise_scale: float = 1.0  # of the initial noise of both modalities, 0 to 1; 1: as released

    def __post_init__(self) -> None:
        if not 0 <= self.noise_scale <= 1:
            raise ValueError(f'want a noise scale in [0, 1], got {self.noise_scale:g}')
        if self.dynamic and self.evaluations is not None:
            raise ValueError('a sampler skips by mask (evaluations) or by similarity (dynamic)')
        static_mask(self.steps, self.evaluations)

    def make_schedules(self) -> tuple[NoiseSchedule, NoiseSchedule]:
        """Return the schedules of video and actions."""
        action = make_unipc_schedule(self.steps, self.shift)
        if self.video_final_noise is None:
            return action, action
        return decouple_schedule(action, self.video_final_noise), action

    def guides_actions(self) -> bool:
        """Return whether the unconditional branch can affect the actions.

        They follow the conditional branch; guidance affects them only through the video that a
        later evaluation reads.
        """
        evaluated_again = self.dynamic or sum(static_mask(self.steps, self.evaluations)) > 1
        return self.guidance != 1 and self.steps > 1 and evaluated_again


@dataclass(frozen=True, slots=True)
class Sample:
    """Hold the denoised video and actions."""

    video: Tensor
    action: Tensor
    evaluated: tuple[bool, ...]  # [steps]


@dataclass(frozen=True, slots=True, eq=False)
class CommittedActions:
    """Hold the first actions of each sample clean: they are executed whatever is predicted."""

    rows: Tensor  # [batch actions action_dim], normalized; those that are not held are not read
    counts: tuple[int, ...]  # [batch], how many are held

    def hold(self, action: Tensor) -> Tensor:
        """Return actions [batch actions action_dim] with the held rows in place."""
        held = torch.arange(action.shape[1]) < torch.tensor(self.counts)[:, None]
        return torch.where(held[..., None].to(action.device), self.rows, action)


def sample(
    config: SamplingConfig,
    video_noise: Tensor,
    action_noise: Tensor,
    velocity: GuidedVelocityFn,
    *,
    guided_video: bool,
    committed: CommittedActions | None = None,
) -> Sample:
    """Denoise both modalities along their schedules; `committed` actions stay as they are.

    Without `guided_video` guidance is skipped where it can no longer affect the actions: they are
    the same, the predicted video is less guided. With a `noise_scale` below 1 the samples are
    closer to the mean of the possible answers, and several steps follow one draw less.
    """
    video_schedule, action_schedule = config.make_schedules()
    video, action = (
        UniPCSolver(video_schedule, config.noise_scale * video_noise),
        UniPCSolver(action_schedule, config.noise_scale * action_noise),
    )
    gate = SimilaritySkipper() if config.dynamic else None
    mask = static_mask(config.steps, config.evaluations)
    past: list[Tensor] = []  # video velocities of the last two evaluations
    evaluated = []
    for i in range(config.steps):
        run = gate.should_evaluate(partial(velocity_similarity, *past)) if gate else mask[i]
        if run:
            reaches_actions = any(
                mask[i + 1 :]
            )  # a dynamic mask is all True: later steps are unknown
            v_video, v_action = velocity(
                video.x,
                action.x if committed is None else committed.hold(action.x),
                video_schedule.timesteps[i],
                action_schedule.timesteps[i],
                guided_video or reaches_actions,
            )
            past = [*past[-1:], v_video]
        video.step(v_video)
        action.step(v_action)
        evaluated.append(run)
    found = action.x if committed is None else committed.hold(action.x)
    return Sample(video.x, found, tuple(evaluated))


class UniPCSolver:
    """Denoise one sample along a schedule, second order, in the dtype of the sample.

    Sums keep the order and operands of the reference: others round differently in bfloat16.
    """

    def __init__(self, schedule: NoiseSchedule, noise: Tensor) -> None:
        self.x = noise
        self._steps = iter(compute_unipc_steps(schedule))
        self._sample = noise  # where the last velocity was corrected to
        self._data = self._older = noise  # clean samples that the last velocities implied

    def step(self, velocity: Tensor) -> None:
        """Correct the current sample by its velocity, then predict the next."""
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
    """Return the steps with an evaluation; ValueError lists the known numbers of evaluations."""
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
    'static4': SamplingConfig(16, 5.0, 5.0, 4, False, None),
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
        """Decide one step; `similarity` of the last two evaluations is computed only if needed."""
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
    """Return the cosine of two velocities, averaged over the batch; waits for the device."""
    flat = newer.float().flatten(1), older.float().flatten(1)
    return torch.cosine_similarity(*flat, dim=1).mean().item()


# ---- combine branches to one velocity


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

    Both sides then hold the same sample. Where guidance is skipped, the unconditional side
    computes nothing, and its sample is invalid from there on.
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
