"""Trials without ROS: what is asked when, and that a policy which can do it, does it."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from wam_learning.evaluation.eval_conditions import CONDITIONS, MAIN, make_trials
from wam_learning.evaluation.eval_worker import EXPERT, EvalJob, run_job
from wam_learning.evaluation.rollout import (
    MeasuredJerk,
    RolloutConfig,
    RolloutObserver,
    make_simulation,
    run_trial,
)
from wam_policy.core.robot.embodiment import Embodiment
from wam_sim.physics import sim_robot as robots

IMAGE_SIZE = (32, 24)


@pytest.fixture(scope='module')
def robot():
    return robots.load('agibot_g1')


@dataclass
class HoldingPolicy:
    """Hold the posture it is asked about, and remember what it was asked."""

    robot: Embodiment

    def __post_init__(self):
        self.geometry = SimpleNamespace(
            frames_per_block=4, frame_period_s=0.2, window_blocks=4, step_dt_s=self.robot.step_dt_s
        )
        self.memory = SimpleNamespace(commits=0, frames=1, window_frames=5, rebuilds=0)
        self.instructions, self.frame_counts = [], []

    def reset(self, instruction):
        self.instructions.append(instruction)
        return {}

    def commit(self, views):
        self.frame_counts.append({len(frames) for frames in views.values()})
        return {}

    def query(self, joints, seed, newest=None):
        here = joints[[self.robot.observed.index(name) for name in self.robot.commanded]]
        return SimpleNamespace(targets=np.tile(here, (24, 1)), reference=here, timings_ms={})


def run_holding_trial(robot, trial, config):
    simulation = make_simulation(robot, trial, IMAGE_SIZE)
    policy = HoldingPolicy(robot.embodiment)
    try:
        return policy, run_trial(trial, simulation, policy, config, RolloutObserver())
    finally:
        simulation.close()


@pytest.mark.parametrize('fast', [False, True])
def test_who_holds_still_reaches_nothing_and_is_asked_on_both_clocks(robot, fast):
    trial = replace(make_trials(MAIN, robot, ('touch',), 1, 7)[0], limit_s=2.5)
    policy, result = run_holding_trial(robot, trial, RolloutConfig(fast=fast))
    assert not result.success and result.stop_reason == '' and result.jerk_ratio <= 1.0 + 1e-6
    assert result.duration_s == pytest.approx(2.5, abs=0.02)
    assert policy.instructions == [trial.instructions[0][1]]
    assert policy.frame_counts[0] == {1} and policy.frame_counts[1:] == [{4}] * 3
    assert 15 <= result.chunks <= 20  # 8 Hz at most, commits take their turns
    assert all(100 <= ms <= 145 for ms in result.latency_ms)


def test_measured_jerk_is_that_of_the_arm_joint_nearest_to_its_limit(robot):
    embodiment = robot.embodiment
    limit = embodiment.limits().jerk
    arm = embodiment.observed.index(embodiment.commanded[0])
    gripper = next(
        embodiment.observed.index(name)
        for name in embodiment.commanded
        if embodiment.joint(name).kind == 'gripper'
    )
    jerk, position = MeasuredJerk(embodiment), np.zeros(len(embodiment.observed))
    for at_s in np.arange(0, 0.5, 0.01):
        position[arm] = 0.25 * limit[0] * at_s**3 / 6  # a quarter of the limit all the time
        position[gripper] = round(at_s * 50) % 2  # a gripper may snap shut
        jerk.record(position)
    assert jerk.compute_max_ratio() == pytest.approx(0.25, rel=1e-6)
    assert MeasuredJerk(embodiment).compute_max_ratio() == 0.0


def test_a_change_of_words_begins_a_session_of_its_own(robot):
    trial = replace(
        make_trials(CONDITIONS['instruction_change'], robot, ('touch',), 1, 7)[0], limit_s=0.5
    )
    policy, result = run_holding_trial(robot, trial, RolloutConfig())
    assert policy.instructions == [words for _, words in trial.instructions]
    assert policy.frame_counts[-1] == {1}
    assert result.duration_s == pytest.approx(trial.last_instruction_s + 0.5, abs=0.02)


def test_the_expert_succeeds_through_the_whole_loop(robot):
    """Delays, limits, seams and controllers leave room for a policy that knows what to do."""
    trials = make_trials(MAIN, robot, ('touch', 'lift'), 2, 9_000_000)
    results = list(run_job(robot, EvalJob(EXPERT, tuple(trials))))
    assert [result.success for result in results] == [True, True], results
    assert all(result.jerk_ratio <= 1.0 + 1e-4 for result in results)


class RampPolicy(HoldingPolicy):
    """Ask one joint to move at a constant speed, from where the query says it is."""

    def query(self, joints, seed, newest=None):
        found = super().query(joints, seed, newest)
        found.targets[:, 0] += 0.2 * self.robot.step_dt_s * np.arange(24)
        self.measured = [*getattr(self, 'measured', []), joints[self.first]]
        return found

    @property
    def first(self):
        return self.robot.observed.index(self.robot.commanded[0])


@pytest.mark.parametrize('execution', ['blended', 'rolled_forward'])
def test_latency_takes_no_speed_from_a_steady_motion(robot, execution):
    """A policy that continues its motion does so at its speed, however its chunks are used."""
    trial = replace(make_trials(MAIN, robot, ('touch',), 1, 7)[0], limit_s=2.5)
    simulation = make_simulation(robot, trial, IMAGE_SIZE)
    policy = RampPolicy(robot.embodiment)
    config = RolloutConfig(fast=True, query_s=0.5, execution=execution)
    try:
        run_trial(trial, simulation, policy, config)
    finally:
        simulation.close()
    moved = policy.measured[-1] - policy.measured[0]
    # the first answer is on its way, unless queries already start where the arm will be
    ahead = execution == 'rolled_forward'
    span_s = 0.5 * (len(policy.measured) - (1 if ahead else 2))
    assert len(policy.measured) >= 4
    assert moved == pytest.approx(0.2 * span_s, rel=0.35)


def test_a_policy_that_cannot_continue_rows_is_refused(robot):
    trial = make_trials(MAIN, robot, ('touch',), 1, 7)[0]
    simulation = make_simulation(robot, trial, IMAGE_SIZE)
    config = RolloutConfig(fast=True, execution='trained_prefix')
    try:
        with pytest.raises(ValueError, match='not trained to continue committed rows'):
            run_trial(trial, simulation, RampPolicy(robot.embodiment), config)
    finally:
        simulation.close()


def test_a_wrong_pace_is_refused():
    with pytest.raises(ValueError, match='execution'):
        RolloutConfig(execution='fast')
    with pytest.raises(ValueError, match='naive needs fast'):
        RolloutConfig(execution='naive')
    with pytest.raises(ValueError, match='query_hz'):
        RolloutConfig(query_hz=0.0)
    with pytest.raises(ValueError, match='query_s'):
        RolloutConfig(query_s=-0.1)


def test_jobs_travel_as_lines_and_are_shared_out(robot):
    job = EvalJob(
        'x', tuple(make_trials(MAIN, robot, ('touch', 'push'), 5, 3)), choice={'steps': 1}
    )
    assert EvalJob.from_json(job.to_json()) == job
    shares = [job.shard(i, 2).trials for i in range(2)]
    assert sorted(t.seed for share in shares for t in share) == sorted(t.seed for t in job.trials)
