"""The expert does what it is asked, from anywhere, within the limits, and the same each time."""

import numpy as np
import pytest

from wam_policy.core.motion.monitors import EffortMonitor
from wam_policy.core.robot.limits import gripper_mask
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.simulation import Simulation
from wam_sim.tasks import task_families
from wam_sim.tasks.cartesian_motion import CartesianMotion, ToolGoal
from wam_sim.tasks.expert import Expert
from wam_sim.tasks.scene_state import SimEpisode
from wam_sim.tasks.task_families import LEARNED_FAMILIES

MAX_ROWS = 210  # rows
LIMIT_SHARE = 0.9  # share of the embodiment's limits


class ExpertRunner:
    """One robot with its expert, for all tests of this file."""

    def __init__(self, name: str) -> None:
        self.robot = robots.load(name)
        self.simulation = Simulation(self.robot)
        self.episode = SimEpisode(self.simulation)
        self.motion = CartesianMotion(self.robot, self.simulation.model)
        self.expert = Expert(self.robot, self.motion)

    @property
    def max_row_change(self) -> np.ndarray:
        body = self.robot.embodiment
        return body.limits().velocity * body.step_dt_s

    def reset(self, seed: int, family: str, joint_positions: np.ndarray | None = None) -> None:
        assert self.episode.reset(seed, family=family, joint_positions=joint_positions)
        body = self.robot.embodiment
        self.motion.reset(
            body.home_positions(body.commanded) if joint_positions is None else joint_positions
        )
        self.expert.begin(self.simulation.task, self.simulation.start)

    def step(self) -> np.ndarray:
        """Let the expert do one row; return the setpoints."""
        if not self.expert.is_waiting(self.episode.elapsed_s):
            self.motion.step_toward(
                self.expert.compute_goal(self.simulation.state(), self.simulation.joint_state())
            )
        self.episode.step(self.motion.position)
        return self.motion.position

    def run_until_done(self) -> np.ndarray:
        """Return the setpoints [rows commanded] until the goal holds; fail if it never does."""
        rows = [self.motion.position]
        while not self.simulation.is_success:
            assert self.episode.row < MAX_ROWS, self.simulation.task
            rows.append(self.step())
        return np.stack(rows)


@pytest.fixture(scope='module', params=robots.list_robots())
def stage(request: pytest.FixtureRequest) -> ExpertRunner:
    return ExpertRunner(request.param)


def test_its_efforts_are_measured_and_never_trip(stage: ExpertRunner) -> None:
    body = stage.robot.embodiment
    monitor = EffortMonitor(body, gripper_mask(body))
    stage.reset(3, LEARNED_FAMILIES[0])
    largest = np.zeros(len(body.commanded))
    while not stage.simulation.is_success:
        stage.step()
        state = stage.simulation.joint_state()
        largest = np.maximum(largest, np.abs(state.efforts(body.commanded)))
        assert monitor.check_effort(state) is None
    assert monitor.check_inputs(stage.simulation.now_ns) == ''
    # the largest of every family and two seeds is 0.65 of the rated effort (YAM, third joint)
    arm = np.isfinite(monitor.limit)
    assert 0.0 < (largest / monitor.limit)[arm].max() < 0.8


@pytest.mark.parametrize('family', LEARNED_FAMILIES)
def test_it_succeeds_within_the_limits(stage: ExpertRunner, family: str) -> None:
    limits, step_s = stage.robot.embodiment.limits(), stage.robot.embodiment.step_dt_s
    for seed in (3, 4, 5):
        stage.reset(seed, family)
        rows = stage.run_until_done()
        assert len(rows) < 100  # it does not dither
        speed = np.diff(rows, axis=0) / step_s
        change = np.diff(speed, axis=0) / step_s
        jerk = np.diff(change, axis=0) / step_s
        assert (np.abs(speed) <= LIMIT_SHARE * limits.velocity).all()
        assert (np.abs(change) <= LIMIT_SHARE * limits.acceleration).all()
        assert (np.abs(jerk) <= LIMIT_SHARE * limits.jerk).all()
        assert ((rows >= limits.lower) & (rows <= limits.upper)).all()


def test_what_is_reached_is_kept(stage: ExpertRunner) -> None:
    for family in LEARNED_FAMILIES:
        stage.reset(8, family)
        stage.run_until_done()
        for _ in range(40):
            stage.step()
        assert stage.simulation.is_success, family


@pytest.mark.parametrize('family', ['touch', 'lift'])
def test_it_takes_over_from_any_posture_and_any_motion(stage: ExpertRunner, family: str) -> None:
    rng = np.random.default_rng(1)
    stage.reset(6, family)
    elsewhere = ToolGoal(
        stage.expert.sample_random_points(rng),
        dict.fromkeys(stage.robot.hand_sides, 0.5),
        frozenset(),
    )
    for _ in range(15):
        stage.episode.step(stage.motion.step_toward(elsewhere))
    rows = stage.run_until_done()  # it is in motion when the expert begins
    assert (np.abs(np.diff(rows, axis=0)) <= stage.max_row_change).all()


def test_it_goes_on_from_where_somebody_else_left_the_arms(stage: ExpertRunner) -> None:
    """Joints far from any solution of its own fade into one, without a jump."""
    stage.reset(6, 'touch')
    away = np.zeros(len(stage.motion.position))
    for i in range(15):
        away[:4] = 0.2 * np.sin(i / 30)
        stage.episode.step(stage.motion.override(stage.motion.home + away))
    rows = stage.run_until_done()
    assert (np.abs(np.diff(rows, axis=0)) <= stage.max_row_change).all()


def test_it_starts_from_random_postures(stage: ExpertRunner) -> None:
    rng = np.random.default_rng(2)
    for seed in (10, 11):
        for _ in range(20):
            posture = stage.expert.solve_joint_positions(stage.expert.sample_random_points(rng))
            if stage.episode.reset(seed, family='push', joint_positions=posture):
                break
        stage.reset(seed, 'push', posture)
        np.testing.assert_allclose(
            stage.simulation.joint_state().positions(stage.robot.embodiment.commanded),
            posture,
            atol=1e-6,
        )
        stage.run_until_done()


def test_it_follows_another_instruction_from_where_it_is(stage: ExpertRunner) -> None:
    stage.reset(12, 'touch')
    for _ in range(20):
        stage.step()
    simulation = stage.simulation
    other = task_families.sample_other_task(
        simulation.task, simulation.scene, np.random.default_rng(0)
    )
    simulation.set_task(other)
    stage.expert.begin(other, simulation.start)
    stage.run_until_done()
    assert simulation.task.slot == other.slot


def test_it_waits_for_the_mark_and_the_end_of_a_block(stage: ExpertRunner) -> None:
    stage.reset(7, 'recall')
    still = stage.motion.position
    moved_s = None
    while moved_s is None:
        stage.step()
        if not np.array_equal(stage.motion.position, still):
            moved_s = stage.episode.elapsed_s
    until_s = stage.simulation.task.mark_end_s
    step_s = stage.robot.embodiment.step_dt_s
    begin_s = np.ceil(np.ceil(until_s / 0.8) * 0.8 / step_s - 1e-6) * step_s
    assert moved_s - step_s == pytest.approx(begin_s, abs=1e-6)


def test_the_same_seed_is_the_same_motion(stage: ExpertRunner) -> None:
    runs = []
    for _ in range(2):
        stage.reset(9, 'push')
        runs.append(stage.run_until_done())
    np.testing.assert_array_equal(*runs)


def test_what_it_cannot_do_it_refuses(stage: ExpertRunner) -> None:
    stage.episode.reset(3, family='stack')
    with pytest.raises(
        ValueError, match="no family 'stack'; want one of touch, push, lift, recall"
    ):
        stage.expert.begin(stage.simulation.task, stage.simulation.start)
