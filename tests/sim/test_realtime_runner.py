"""A live simulation keeps wall time, takes trajectories when they are due and survives stalls."""

from collections.abc import Callable

import numpy as np
import pytest

from wam_policy.core.motion.jtc_emulator import TrajectoryPoints
from wam_policy.core.motion.trajectory import JointMotion, integrate_jerk
from wam_sim.pacer import MAX_LAG_NS
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.simulation import STEP_NS, Simulation
from wam_sim.realtime_runner import MAX_CATCH_UP_STEPS, STEPS_PER_BATCH, RealtimeRunner

START_NS = 1_700_000_000_000_000_000
BATCH_NS = STEPS_PER_BATCH * STEP_NS


class ManualWallClock:
    """Stand still until told."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> ManualWallClock:
    return ManualWallClock()


def make_runner(
    clock: ManualWallClock,
    *,
    skip_lost_time: bool = True,
    on_batch: Callable[[Simulation], None] = lambda _: None,
) -> RealtimeRunner:
    simulation = Simulation(robots.load('yam'))
    return RealtimeRunner(
        simulation,
        clock,
        skip_lost_time=skip_lost_time,
        on_batch=on_batch,
        on_reject=lambda controller, reason: rejected.append((controller, reason)),
    )


rejected: list[tuple[str, str]] = []


def run_for(runner: RealtimeRunner, clock: ManualWallClock, wall_ns: int) -> None:
    """Let `wall_ns` pass in batches."""
    for _ in range(wall_ns // BATCH_NS):
        clock.now_ns += BATCH_NS
        runner.run_due_steps()


def make_test_trajectory(simulation: Simulation, start_ns: int) -> TrajectoryPoints:
    """Return a smooth move of joint 1 of the left arm at 60 % of every limit."""
    body = simulation.robot.embodiment
    names = body.controllers[0].joints
    limits = body.limits(names)
    jerk = np.zeros((60, len(names)))
    jerk[:, 0] = 0.6 * limits.jerk[0] * np.repeat([1, -1, -1, 1, 0, 0], 10)
    return TrajectoryPoints.from_trajectory(
        integrate_jerk(
            names,
            JointMotion.at_rest(simulation.joint_state().positions(names)),
            start_ns,
            STEP_NS * 5,
            jerk,
        )
    )


def test_stamps_are_wall_time_and_batches_come_at_100_hz(clock: ManualWallClock) -> None:
    stamps = []
    running = make_runner(clock, on_batch=lambda simulation: stamps.append(simulation.now_ns))
    run_for(running, clock, 1_000_000_000)
    assert len(stamps) == 100
    assert set(np.diff(stamps)) == {BATCH_NS}
    assert running.simulation.now_ns == clock.now_ns
    assert running.pacer.real_time_factor == pytest.approx(1.0)


def test_a_message_is_taken_when_it_arrived_even_if_physics_is_behind(
    clock: ManualWallClock,
) -> None:
    """Bridging early from the setpoint to a first point in the future would bend the curve."""
    running = make_runner(clock)
    run_for(running, clock, 100_000_000)
    clock.now_ns += 60_000_000  # physics sleeps, the message comes now
    running.queue_trajectory(
        'left_arm_controller', make_test_trajectory(running.simulation, clock.now_ns)
    )
    for _ in range(8):
        running.run_due_steps()
    run_for(running, clock, 600_000_000)
    executed = running.simulation.executed_motion
    ratios = executed.limit_ratios()
    assert ratios['jerk'].max() == pytest.approx(0.6, rel=1e-3)
    assert ratios['acceleration'].max() <= 0.6 * (1 + 1e-3)
    assert running.simulation.controllers.accepted == 1


def test_a_short_stall_is_caught_up_in_small_bites(clock: ManualWallClock) -> None:
    running = make_runner(clock)
    clock.now_ns += MAX_LAG_NS - BATCH_NS
    before_ns = running.simulation.now_ns
    running.run_due_steps()
    assert running.simulation.now_ns - before_ns == MAX_CATCH_UP_STEPS * STEP_NS
    for _ in range(20):
        running.run_due_steps()
    assert running.simulation.now_ns == clock.now_ns
    assert running.pacer.dropped_ns == 0


@pytest.mark.parametrize('jumps', [True, False])
def test_a_long_stall_is_given_up_and_stamps_follow_only_the_wall_clock(
    clock: ManualWallClock, jumps: bool
) -> None:
    running = make_runner(clock, skip_lost_time=jumps)
    clock.now_ns += 4 * MAX_LAG_NS
    running.run_due_steps()
    behind_ns = clock.now_ns - running.simulation.now_ns
    assert running.pacer.dropped_ns > 3 * MAX_LAG_NS
    assert (behind_ns <= BATCH_NS) == jumps
    run_for(running, clock, 1_000_000_000)
    assert clock.now_ns - running.simulation.now_ns <= behind_ns + BATCH_NS


def test_rejections_are_told(clock: ManualWallClock) -> None:
    rejected.clear()
    running = make_runner(clock)
    running.queue_trajectory(
        'left_arm_controller',
        TrajectoryPoints(0, ('nobody',), np.array([10]), np.zeros((1, 1)), None, None),
    )
    run_for(running, clock, 50_000_000)
    ((controller, reason),) = rejected
    assert controller == 'left_arm_controller' and 'nobody' in reason


def test_the_thread_ends_when_asked_and_keeps_what_killed_it(clock: ManualWallClock) -> None:
    running = make_runner(clock)
    running.start()
    running.close()
    assert not running.is_running and running.error is None

    def broken(_: Simulation) -> None:
        raise OSError('no more')

    failing = make_runner(clock, on_batch=broken)
    clock.now_ns += 10 * BATCH_NS
    failing.start()
    failing._thread.join(timeout=5.0)
    assert not failing.is_running and isinstance(failing.error, OSError)
    failing.close()


def test_after_a_long_stall_the_controllers_stay_where_the_arm_is(clock: ManualWallClock) -> None:
    running = make_runner(clock)
    run_for(running, clock, 50_000_000)
    move, name = (
        make_test_trajectory(running.simulation, clock.now_ns),
        running.simulation.robot.embodiment.controllers[0].name,
    )
    running.queue_trajectory(name, move)
    run_for(running, clock, 200_000_000)
    running.simulation.executed_motion.reset_maxima()
    clock.now_ns += 4 * MAX_LAG_NS
    rejected.clear()
    running.queue_trajectory(name, move)  # what waited meanwhile begins where the arm was not
    running.run_due_steps()
    run_for(running, clock, 400_000_000)
    assert rejected == [(name, 'planned before the controllers resumed after a stall')]
    assert running.simulation.executed_motion.step.max() < 0.01
    fresh = make_test_trajectory(running.simulation, clock.now_ns)
    running.queue_trajectory(name, fresh)
    run_for(running, clock, 100_000_000)
    assert running.simulation.controllers.accepted == 2
