"""Play one episode with the expert, disturb it now and then, and label every row.

A disturbance is somebody else's motion: rows of it are no example of what to do, but what the
expert does afterwards is an example of how to recover. A policy that drives is one, too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from wam_learning.data.time_sync import Row
from wam_learning.demonstrations.dagger_policy import Driver
from wam_policy.core.types import Frame, Observation
from wam_sim.physics.cameras import shown
from wam_sim.physics.sim_robot import Robot
from wam_sim.physics.simulation import Simulation
from wam_sim.tasks.cartesian_motion import Goal, Mover
from wam_sim.tasks.expert import Expert
from wam_sim.tasks.scene_state import PICTURE_EVERY, Episode
from wam_sim.tasks.task_families import LEARNED, TRAINED, State, Task, sampled

SUPERVISED, PIXEL, PLACE = 'supervised', 'grounding.pixel', 'grounding.place'
STORED = (160, 120)  # pixels: a canvas tile of 64x64 keeps fewer
AFTER_S, SHORTEST_S, LONGEST_S = 0.9, 2.2, 7.0
START_TRIES = 20
CHANGE_S = (0.6, 3.5)  # in mid-motion, or when the first is done
FIRST_DRIVE_S, NEXT_DRIVE_S = (0.4, 6.0), (0.4, 2.0)  # long enough to get stuck
WAITING_SHARE = 0.6  # of disturbances that come before a mark is gone
LONGER_S = 3.0  # what a policy may waste of an episode


@dataclass(frozen=True, slots=True)
class Mischief:
    """State how often episodes are made harder, as shares of all episodes."""

    disturbed: float = 0.6  # something else drives the arms once or twice
    displaced: float = 0.5  # the arms start anywhere over the table
    changed: float = 0.15  # another instruction in mid-episode
    missed: float = 0.0  # of arms that are anywhere: one low beside an object
    patience_s: tuple[float, float] | None = None  # no share: how long a policy drives


@dataclass(frozen=True, slots=True)
class _Span:
    """State one disturbance."""

    start: int  # row
    end: int
    decoy: Task | None  # None: towards the points
    points: Mapping[str, np.ndarray]  # side -> [3]
    policy: bool = False  # the driver's own, until it has succeeded


class Player:
    """Play episodes of one robot; a `driver` takes the disturbances' place if given."""

    def __init__(self, robot: Robot, mischief: Mischief, driver: Driver | None = None) -> None:
        self.simulation = Simulation(robot, task=LEARNED, combinations=TRAINED)
        self.episode, self.mover = Episode(self.simulation), Mover(robot, self.simulation.model)
        self.expert, self.mischief, self._driver = Expert(robot, self.mover), mischief, driver
        self._hz = 1.0 / robot.embodiment.step_dt_s
        self._head = robot.cameras[0].key
        self.success = False
        self.needed = False  # the expert did something for it, other than holding still

    def rows(self, seed: int, family: str) -> Iterator[tuple[Row, dict[str, Any]]]:
        """Yield every row of the episode with its labels.

        `success` and `needed` hold what came of it.
        """
        rng = np.random.default_rng([seed, 2])  # neither the scene's nor the task's
        simulation, episode = self.simulation, self.episode
        self._begin(seed, family, rng)
        change = -1
        if not simulation.task.mark_s and rng.random() < self.mischief.changed:
            change = PICTURE_EVERY * round(rng.uniform(*CHANGE_S) * self._hz / PICTURE_EVERY)
        spans = []
        if rng.random() < self.mischief.disturbed:
            spans = list(self._spans(rng) if self._driver is None else self._drives(rng, change))
        reached, by_expert, driver, self.needed = None, True, None, False
        while True:
            if episode.row == change:
                self._change(rng)
                reached = None
            seen, state = self._seen(), simulation.state()
            yield self._row(seen), self._labels(state, by_expert)
            self.success = simulation.success
            reached = (reached if reached is not None else episode.row) if self.success else None
            if self._over(reached, change):
                return
            if reached is not None:  # nothing to put right: what is left is to hold still
                spans = [span for span in spans if not span.policy or span.start > episode.row]
            span = next((s for s in spans if s.start <= episode.row < s.end), None)
            if self._driver is not None and spans and episode.row < spans[-1].end:
                self._driver.see(seen, simulation.task.instruction, self.mover.position)
            if span is not driver:
                self._hand_over(span, state)
                driver = span
            self.needed = self.needed or (span is None and reached is None)
            episode.step(self._next(span, seen, state))
            by_expert = span is None

    def _begin(self, seed: int, family: str, rng: np.random.Generator) -> None:
        posture, tries = None, START_TRIES if rng.random() < self.mischief.displaced else 0
        self.episode.begin(seed, family=family)
        for _ in range(tries):
            wanted = self.expert.posture(self._astray(rng))
            if self.episode.begin(seed, family=family, posture=wanted):
                posture = wanted
                break
        else:
            self.episode.begin(seed, family=family)
        body = self.simulation.robot.embodiment
        self.mover.put(body.rest_of(body.commanded) if posture is None else posture)
        self._start = self.simulation.start
        self.expert.begin(self.simulation.task, self._start)
        if self._driver is not None:
            self._driver.begin()

    def _astray(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Return points [3] where hands may be that did not do what was asked."""
        share = self.mischief.missed
        if share and rng.random() < share:  # without any, seeds draw what they always did
            return self.expert.missed(self.simulation.start, self.simulation.task.slot, rng)
        return self.expert.anywhere(rng)

    def _change(self, rng: np.random.Generator) -> None:
        """Ask for another cube."""
        simulation, before = self.simulation, self.simulation.task
        for _ in range(START_TRIES):
            task = sampled(LEARNED, simulation.scene, int(rng.integers(2**31)), TRAINED)
            if task.slot != before.slot and not task.mark_s:
                simulation.change(task)
                self._start = simulation.start
                self.expert.begin(task, self._start)
                return

    def _spans(self, rng: np.random.Generator) -> Iterator[_Span]:
        """Draw one or two disturbances, the first often at once.

        Arms move while a mark is shown, too: what they do then says nothing of where it was.
        """
        waits = round(self.simulation.task.begins_s * self._hz)
        if waits and rng.random() < WAITING_SHARE:
            at = int(rng.integers(0, waits))
        else:
            at = waits + (0 if rng.random() < 0.35 else round(rng.uniform(0.0, 2.0) * self._hz))
        for _ in range(int(rng.integers(1, 3))):
            end = at + round(rng.uniform(0.3, 0.8) * self._hz)
            decoy = sampled(LEARNED, self.simulation.scene, int(rng.integers(2**31)), TRAINED)
            yield _Span(at, end, decoy if rng.random() < 0.6 else None, self._astray(rng))
            at = end + round(rng.uniform(0.4, 1.5) * self._hz)

    def _drives(self, rng: np.random.Generator, change: int) -> Iterator[_Span]:
        """Draw when the policy drives: from the start, and from a change on or often once more.

        With patience it drives on through a change, for a time drawn from that span.
        """
        if self.mischief.patience_s is not None:
            long = round(rng.uniform(*self.mischief.patience_s) * self._hz)
            if change >= 0:
                yield _Span(0, change, None, {}, policy=True)
            yield _Span(max(0, change), max(0, change) + long, None, {}, policy=True)
            return
        end = round(rng.uniform(*FIRST_DRIVE_S) * self._hz)
        yield _Span(0, end, None, {}, policy=True)
        if change >= 0:
            at = max(end, change)
            yield _Span(
                at, at + round(rng.uniform(*FIRST_DRIVE_S) * self._hz), None, {}, policy=True
            )
        elif rng.random() < 0.6:
            at = end + round(rng.uniform(0.4, 1.2) * self._hz)
            yield _Span(
                at, at + round(rng.uniform(*NEXT_DRIVE_S) * self._hz), None, {}, policy=True
            )

    def _hand_over(self, span: _Span | None, state: State) -> None:
        """Let the expert follow the decoy, or what was asked again."""
        if span is None:
            self.expert.begin(self.simulation.task, self._start)
        elif span.decoy is not None:
            self.expert.begin(span.decoy, state)

    def _next(self, span: _Span | None, seen: Observation, state: State) -> np.ndarray:
        """Return the set-points of the next row."""
        if span is not None and span.policy:
            return self.mover.take(self._driver.next(self.mover.position, seen.stamp_ns))
        if span is not None and span.decoy is None:
            openings = {
                side: self.mover.position[hand.gripper] for side, hand in self.mover.hands.items()
            }
            return self.mover.toward(Goal(span.points, openings, frozenset()))
        if span is None and self.expert.waits(self.episode.elapsed_s):
            return self.mover.position
        return self.mover.toward(self.expert.goal(state, seen.joints))

    def _over(self, reached: int | None, change: int) -> bool:
        row, seconds = self.episode.row, self.episode.elapsed_s
        held = reached is not None and row - reached >= AFTER_S * self._hz
        longest_s = (
            LONGEST_S + max(0, change) / self._hz + (0.0 if self._driver is None else LONGER_S)
        )
        return seconds >= longest_s or (held and seconds >= SHORTEST_S and row > change)

    def _seen(self) -> Observation:
        fresh = self.episode.new_picture
        seen = self.episode.observe()
        if fresh:
            self._small = tuple(
                Frame(
                    frame.camera,
                    frame.stamp_ns,
                    cv2.resize(frame.rgb, STORED, interpolation=cv2.INTER_AREA),
                )
                for frame in seen.frames
            )
            self._pixel = shown(
                self.simulation.model,
                self.simulation.data,
                self._head,
                STORED,
                self.simulation.task.slot,
            )
        return seen

    def _row(self, seen: Observation) -> Row:
        small = Observation(seen.stamp_ns, self._small, seen.joints)
        return Row(self.episode.row, small, self.mover.position, self.simulation.task.instruction)

    def _labels(self, state: State, by_expert: bool) -> dict[str, Any]:
        return {
            SUPERVISED: by_expert,
            PIXEL: self._pixel,
            PLACE: state.objects[self.simulation.task.slot][:2],
        }

    def close(self) -> None:
        self.simulation.close()
