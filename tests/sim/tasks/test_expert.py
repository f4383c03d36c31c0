"""The expert does what it is asked, from anywhere, within the limits, and the same each time."""

import numpy as np
import pytest

from wam_sim.physics import sim_robot as robots
from wam_sim.physics.simulation import Simulation
from wam_sim.tasks import task_families
from wam_sim.tasks.cartesian_motion import Goal, Mover
from wam_sim.tasks.expert import Expert
from wam_sim.tasks.scene_state import Episode
from wam_sim.tasks.task_families import LEARNED_FAMILIES

LONGEST = 210  # rows
INSIDE = 0.9  # share of the embodiment's limits


class Stage:
    """One robot with its expert, for all tests of this file."""

    def __init__(self, name: str) -> None:
        self.robot = robots.load(name)
        self.simulation = Simulation(self.robot)
        self.episode = Episode(self.simulation)
        self.mover = Mover(self.robot, self.simulation.model)
        self.expert = Expert(self.robot, self.mover)

    def begin(self, seed: int, family: str, posture: np.ndarray | None = None) -> None:
        assert self.episode.begin(seed, family=family, posture=posture)
        body = self.robot.embodiment
        self.mover.put(body.rest_of(body.commanded) if posture is None else posture)
        self.expert.begin(self.simulation.task, self.simulation.start)

    def row(self) -> np.ndarray:
        """Let the expert do one row; return the set-points."""
        if not self.expert.waits(self.episode.elapsed_s):
            self.mover.toward(self.expert.goal(self.simulation.state(), self.simulation.joints()))
        self.episode.step(self.mover.position)
        return self.mover.position

    def until_done(self) -> np.ndarray:
        """Return the set-points [rows commanded] until the goal holds; fail if it never does."""
        rows = [self.mover.position]
        while not self.simulation.success:
            assert self.episode.row < LONGEST, self.simulation.task
            rows.append(self.row())
        return np.stack(rows)


@pytest.fixture(scope='module', params=robots.names())
def stage(request: pytest.FixtureRequest) -> Stage:
    return Stage(request.param)


@pytest.mark.parametrize('family', LEARNED_FAMILIES)
def test_it_succeeds_within_the_limits(stage: Stage, family: str) -> None:
    limits, step_s = stage.robot.embodiment.limits(), stage.robot.embodiment.step_dt_s
    for seed in (3, 4, 5):
        stage.begin(seed, family)
        rows = stage.until_done()
        assert len(rows) < 100  # it does not dither
        speed = np.diff(rows, axis=0) / step_s
        change = np.diff(speed, axis=0) / step_s
        jerk = np.diff(change, axis=0) / step_s
        assert (np.abs(speed) <= INSIDE * limits.velocity).all()
        assert (np.abs(change) <= INSIDE * limits.acceleration).all()
        assert (np.abs(jerk) <= INSIDE * limits.jerk).all()
        assert ((rows >= limits.lower) & (rows <= limits.upper)).all()


def test_what_is_reached_is_kept(stage: Stage) -> None:
    for family in LEARNED_FAMILIES:
        stage.begin(8, family)
        stage.until_done()
        for _ in range(40):
            stage.row()
        assert stage.simulation.success, family


@pytest.mark.parametrize('family', ['touch', 'lift'])
def test_it_takes_over_from_any_posture_and_any_motion(stage: Stage, family: str) -> None:
    rng = np.random.default_rng(1)
    stage.begin(6, family)
    elsewhere = Goal(stage.expert.anywhere(rng), {'left': 0.5, 'right': 0.5}, frozenset())
    for _ in range(15):
        stage.episode.step(stage.mover.toward(elsewhere))
    rows = stage.until_done()  # it is in motion when the expert begins
    limits = stage.robot.embodiment.limits()
    assert (np.abs(np.diff(rows, axis=0)) <= limits.velocity / 30).all()


def test_it_goes_on_from_where_somebody_else_left_the_arms(stage: Stage) -> None:
    """Joints far from any solution of its own fade into one, without a jump."""
    stage.begin(6, 'touch')
    away = np.zeros(len(stage.mover.position))
    for i in range(15):
        away[:4] = 0.2 * np.sin(i / 30)
        stage.episode.step(stage.mover.take(stage.mover.rest + away))
    rows = stage.until_done()
    limits = stage.robot.embodiment.limits()
    assert (np.abs(np.diff(rows, axis=0)) <= limits.velocity / 30).all()


def test_it_starts_from_random_postures(stage: Stage) -> None:
    rng = np.random.default_rng(2)
    for seed in (10, 11):
        for _ in range(20):
            posture = stage.expert.posture(stage.expert.anywhere(rng))
            if stage.episode.begin(seed, family='push', posture=posture):
                break
        stage.begin(seed, 'push', posture)
        np.testing.assert_allclose(
            stage.simulation.joints().positions(stage.robot.embodiment.commanded),
            posture,
            atol=1e-6,
        )
        stage.until_done()


def test_it_follows_another_instruction_from_where_it_is(stage: Stage) -> None:
    stage.begin(12, 'touch')
    for _ in range(20):
        stage.row()
    simulation = stage.simulation
    other = task_families.swapped(simulation.task, simulation.scene, np.random.default_rng(0))
    simulation.change(other)
    stage.expert.begin(other, simulation.start)
    stage.until_done()
    assert simulation.task.slot == other.slot


def test_it_waits_for_the_mark_and_the_end_of_a_block(stage: Stage) -> None:
    stage.begin(7, 'recall')
    still = stage.mover.position
    moved_s = None
    while moved_s is None:
        stage.row()
        if not np.array_equal(stage.mover.position, still):
            moved_s = stage.episode.elapsed_s
    until_s = stage.simulation.task.marked_until_s
    assert moved_s - 1 / 30 == pytest.approx(np.ceil(until_s / 0.8) * 0.8, abs=1e-6)


def test_the_same_seed_is_the_same_motion(stage: Stage) -> None:
    runs = []
    for _ in range(2):
        stage.begin(9, 'push')
        runs.append(stage.until_done())
    np.testing.assert_array_equal(*runs)


def test_what_it_cannot_do_it_refuses(stage: Stage) -> None:
    stage.episode.begin(3, family='stack')
    with pytest.raises(ValueError, match='cannot stack; it knows touch, push, lift, recall'):
        stage.expert.begin(stage.simulation.task, stage.simulation.start)
