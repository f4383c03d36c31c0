"""Generate one episode with the expert, with perturbations, and label every row.

Rows of a perturbation are not supervised, but the expert's motion after it demonstrates recovery.
A policy that controls the arms counts as a perturbation, too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from wam_learning.data.time_sync import SynchronizedSample
from wam_learning.demonstrations.dagger_policy import RollInPolicy
from wam_policy.core.types import Frame, Observation
from wam_sim.physics.cameras import project_visible_object
from wam_sim.physics.sim_robot import SimRobot
from wam_sim.physics.simulation import Simulation
from wam_sim.tasks.cartesian_motion import CartesianMotion, ToolGoal
from wam_sim.tasks.expert import Expert
from wam_sim.tasks.scene_state import SimEpisode, count_image_period_rows
from wam_sim.tasks.task_families import LEARNED, TRAIN_SPLIT, SceneState, Task, sample_task

SUPERVISED, PIXEL, PLACE = 'supervised', 'grounding.pixel', 'grounding.place'
IMAGE_SIZE = (160, 120)  # pixels: a canvas tile of 64x64 keeps fewer
HOLD_AFTER_SUCCESS_S, MIN_EPISODE_S, MAX_EPISODE_S = 0.9, 2.2, 7.0
MAX_ATTEMPTS = 20
INSTRUCTION_CHANGE_S = (0.6, 3.5)  # during the first task, or after it
FIRST_POLICY_S, NEXT_POLICY_S = (0.4, 6.0), (0.4, 2.0)  # long enough to get stuck
PERTURB_BEFORE_BEGIN_PROB = 0.6  # of perturbations in the phase before the hands may start
POLICY_EXTRA_S = 3.0  # additional episode time with a policy


@dataclass(frozen=True, slots=True)
class Perturbations:
    """Hold the probabilities of making an episode harder."""

    perturb_prob: float = 0.6  # something else moves the arms once or twice
    random_start_prob: float = 0.5  # the arms start at random positions over the table
    instruction_change_prob: float = 0.15  # another instruction during the episode
    near_miss_prob: float = 0.0  # of random starts: one hand low next to an object
    policy_seconds: tuple[float, float] | None = None  # range of policy control times, s


@dataclass(frozen=True, slots=True)
class _Perturbation:
    """Describe one perturbation."""

    start_row: int
    end_row: int
    distractor: Task | None  # None: towards the points
    points: Mapping[str, np.ndarray]  # side -> [3]
    by_policy: bool = False  # by the policy, until it has succeeded


class DemoGenerator:
    """Generate episodes of one robot; a `policy` replaces the random perturbations if given."""

    def __init__(
        self, robot: SimRobot, perturbations: Perturbations, policy: RollInPolicy | None = None
    ) -> None:
        self.simulation = Simulation(robot, task=LEARNED, task_split=TRAIN_SPLIT)
        self.episode, self.mover = (
            SimEpisode(self.simulation),
            CartesianMotion(robot, self.simulation.model),
        )
        self.expert, self.perturbations, self._policy = (
            Expert(robot, self.mover),
            perturbations,
            policy,
        )
        self._rate_hz = 1.0 / robot.embodiment.step_dt_s
        self._head_camera = robot.cameras[0].key
        self.success = False
        self.expert_needed = False  # the expert moved the arms before the goal was reached

    def generate_episode(
        self, seed: int, family: str, repetition: int = 0
    ) -> Iterator[tuple[SynchronizedSample, dict[str, Any]]]:
        """Yield every row of the episode with its labels.

        Scene and task follow from `seed`, start and perturbations from `repetition`, too.
        Afterwards `success` and `expert_needed` describe the episode.
        """
        stream = [seed, 2]  # not those of scene and task
        rng = np.random.default_rng([*stream, repetition] if repetition else stream)
        simulation, episode = self.simulation, self.episode
        self._begin_episode(seed, family, rng)
        change = -1
        if (
            not simulation.task.mark_s
            and rng.random() < self.perturbations.instruction_change_prob
        ):
            period = count_image_period_rows(simulation.robot.embodiment)
            change = period * round(rng.uniform(*INSTRUCTION_CHANGE_S) * self._rate_hz / period)
        spans = []
        if rng.random() < self.perturbations.perturb_prob:
            spans = list(
                self._sample_perturbations(rng)
                if self._policy is None
                else self._sample_policy_segments(rng, change)
            )
        reached, by_expert, active, self.expert_needed = None, True, None, False
        while True:
            if episode.row == change:
                self._change_instruction(rng)
                reached = None
            seen, state = self._observe(), simulation.state()
            yield self._make_sample(seen), self._make_labels(state, by_expert)
            self.success = simulation.is_success
            reached = (reached if reached is not None else episode.row) if self.success else None
            if self._is_over(reached, change):
                return
            if reached is not None:  # nothing to correct: the rest is holding still
                spans = [
                    span for span in spans if not span.by_policy or span.start_row > episode.row
                ]
            span = next((s for s in spans if s.start_row <= episode.row < s.end_row), None)
            if self._policy is not None and spans and episode.row < spans[-1].end_row:
                self._policy.observe(seen, simulation.task.instruction, self.mover.position)
            if span is not active:
                self._retarget_expert(span, state)
                active = span
            self.expert_needed = self.expert_needed or (span is None and reached is None)
            episode.step(self._compute_setpoint(span, seen, state))
            by_expert = span is None

    def _begin_episode(self, seed: int, family: str, rng: np.random.Generator) -> None:
        positions, tries = (
            None,
            MAX_ATTEMPTS if rng.random() < self.perturbations.random_start_prob else 0,
        )
        self.episode.reset(seed, family=family)
        for _ in range(tries):
            wanted = self.expert.solve_joint_positions(self._random_points(rng))
            if self.episode.reset(seed, family=family, joint_positions=wanted):
                positions = wanted
                break
        else:
            self.episode.reset(seed, family=family)
        body = self.simulation.robot.embodiment
        self.mover.reset(body.home_positions(body.commanded) if positions is None else positions)
        self._start_state = self.simulation.start
        self.expert.begin(self.simulation.task, self._start_state)
        if self._policy is not None:
            self._policy.reset()

    def _random_points(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Return hand positions side -> [3] at which a failed attempt may end."""
        share = self.perturbations.near_miss_prob
        if share and rng.random() < share:  # at 0, draw nothing, so that seeds keep their episodes
            return self.expert.sample_near_miss(
                self.simulation.start, self.simulation.task.slot, rng
            )
        return self.expert.sample_random_points(rng)

    def _change_instruction(self, rng: np.random.Generator) -> None:
        """Set a task with another object."""
        simulation, before = self.simulation, self.simulation.task
        for _ in range(MAX_ATTEMPTS):
            task = sample_task(LEARNED, simulation.scene, int(rng.integers(2**31)), TRAIN_SPLIT)
            if task.slot != before.slot and not task.mark_s:
                simulation.set_task(task)
                self._start_state = simulation.start
                self.expert.begin(task, self._start_state)
                return

    def _sample_perturbations(self, rng: np.random.Generator) -> Iterator[_Perturbation]:
        """Yield one or two random perturbations, the first often at once.

        Arms also move while a mark is shown: their motion must not reveal the marked object.
        """
        waits = round(self.simulation.task.hands_start_s * self._rate_hz)
        if waits and rng.random() < PERTURB_BEFORE_BEGIN_PROB:
            at = int(rng.integers(0, waits))
        else:
            at = waits + (
                0 if rng.random() < 0.35 else round(rng.uniform(0.0, 2.0) * self._rate_hz)
            )
        for _ in range(int(rng.integers(1, 3))):
            end = at + round(rng.uniform(0.3, 0.8) * self._rate_hz)
            distractor = sample_task(
                LEARNED, self.simulation.scene, int(rng.integers(2**31)), TRAIN_SPLIT
            )
            yield _Perturbation(
                at, end, distractor if rng.random() < 0.6 else None, self._random_points(rng)
            )
            at = end + round(rng.uniform(0.4, 1.5) * self._rate_hz)

    def _sample_policy_segments(
        self, rng: np.random.Generator, change_row: int
    ) -> Iterator[_Perturbation]:
        """Yield when the policy controls the arms: at the start, and often once more later.

        With policy_seconds it continues across a change, for a random time in that range.
        """
        if self.perturbations.policy_seconds is not None:
            long = round(rng.uniform(*self.perturbations.policy_seconds) * self._rate_hz)
            if change_row >= 0:
                yield _Perturbation(0, change_row, None, {}, by_policy=True)
            yield _Perturbation(
                max(0, change_row), max(0, change_row) + long, None, {}, by_policy=True
            )
            return
        end = round(rng.uniform(*FIRST_POLICY_S) * self._rate_hz)
        yield _Perturbation(0, end, None, {}, by_policy=True)
        if change_row >= 0:
            at = max(end, change_row)
            yield _Perturbation(
                at,
                at + round(rng.uniform(*FIRST_POLICY_S) * self._rate_hz),
                None,
                {},
                by_policy=True,
            )
        elif rng.random() < 0.6:
            at = end + round(rng.uniform(0.4, 1.2) * self._rate_hz)
            yield _Perturbation(
                at,
                at + round(rng.uniform(*NEXT_POLICY_S) * self._rate_hz),
                None,
                {},
                by_policy=True,
            )

    def _retarget_expert(self, perturbation: _Perturbation | None, state: SceneState) -> None:
        """Set the goal of the expert: the distractor, or the task again."""
        if perturbation is None:
            self.expert.begin(self.simulation.task, self._start_state)
        elif perturbation.distractor is not None:
            self.expert.begin(perturbation.distractor, state)

    def _compute_setpoint(
        self, perturbation: _Perturbation | None, observation: Observation, state: SceneState
    ) -> np.ndarray:
        """Return the setpoints of the next row, [commanded]."""
        if perturbation is not None and perturbation.by_policy:
            assert self._policy is not None  # only a policy yields such perturbations
            return self.mover.override(
                self._policy.compute_setpoint(self.mover.position, observation.stamp_ns)
            )
        if perturbation is not None and perturbation.distractor is None:
            openings = {
                side: self.mover.position[hand.gripper_column]
                for side, hand in self.mover.hands.items()
            }
            return self.mover.step_toward(ToolGoal(perturbation.points, openings, frozenset()))
        if perturbation is None and self.expert.is_waiting(self.episode.elapsed_s):
            return self.mover.position
        return self.mover.step_toward(self.expert.compute_goal(state, observation.joints))

    def _is_over(self, reached_row: int | None, change_row: int) -> bool:
        row, seconds = self.episode.row, self.episode.elapsed_s
        held = (
            reached_row is not None and row - reached_row >= HOLD_AFTER_SUCCESS_S * self._rate_hz
        )
        longest_s = (
            MAX_EPISODE_S
            + max(0, change_row) / self._rate_hz
            + (0.0 if self._policy is None else POLICY_EXTRA_S)
        )
        return seconds >= longest_s or (held and seconds >= MIN_EPISODE_S and row > change_row)

    def _observe(self) -> Observation:
        fresh = self.episode.has_new_images
        seen = self.episode.observe()
        if fresh:
            self._small_frames = tuple(
                Frame(
                    frame.camera,
                    frame.stamp_ns,
                    cv2.resize(frame.rgb, IMAGE_SIZE, interpolation=cv2.INTER_AREA),
                )
                for frame in seen.frames
            )
            self._object_pixel = project_visible_object(
                self.simulation.model,
                self.simulation.data,
                self._head_camera,
                IMAGE_SIZE,
                self.simulation.task.slot,
            )
        return seen

    def _make_sample(self, observation: Observation) -> SynchronizedSample:
        small = Observation(observation.stamp_ns, self._small_frames, observation.joints)
        return SynchronizedSample(
            self.episode.row, small, self.mover.position, self.simulation.task.instruction
        )

    def _make_labels(self, state: SceneState, by_expert: bool) -> dict[str, Any]:
        return {
            SUPERVISED: by_expert,
            PIXEL: self._object_pixel,
            PLACE: state.objects[self.simulation.task.slot][:2],
        }

    def close(self) -> None:
        self.simulation.close()
