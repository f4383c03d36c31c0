"""The simulated robots follow, record, grip and repeat themselves exactly."""

import mujoco
import numpy as np
import pytest

from wam_policy.core.motion.jtc_emulator import TrajectoryPoints
from wam_policy.core.motion.qp_planner import compute_switch_ns, plan_tracking
from wam_policy.core.motion.trajectory import JointMotion, Trajectory, integrate_jerk, make_hold
from wam_policy.core.robot.limits import limits_with_margin
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.simulation import STEP_NS, Simulation
from wam_sim.tasks.inverse_kinematics import ArmIk

GRID_NS = 10_000_000
ROBOTS = robots.list_robots()


def send_to(
    simulation: Simulation, joints: tuple[str, ...], target: list[float], duration_s: float
) -> None:
    """Send the controller of `joints` to `target`, at rest on arrival."""
    still = np.zeros((1, len(joints)))
    controller = next(c for c in simulation.robot.embodiment.controllers if c.joints == joints)
    reason = simulation.accept(
        controller.name,
        TrajectoryPoints(
            0, joints, np.array([int(duration_s * 1e9)]), np.array([target]), still, still
        ),
    )
    assert reason is None
    simulation.step(int(duration_s * 1e9) // STEP_NS + 200)


def move_at_limits(simulation: Simulation, share: float) -> None:
    """Move every joint towards the middle of its range, jerk and acceleration at `share`."""
    body = simulation.robot.embodiment
    for controller in body.controllers:
        limits = body.limits(controller.joints)
        ramp = round(float(limits.acceleration[0] / limits.jerk[0]) * 1e9 / GRID_NS)
        flat = int((limits.velocity[0] / limits.acceleration[0]) * 1e9 / GRID_NS) - ramp
        half = [1.0] * ramp + [0.0] * flat + [-1.0] * ramp
        start = simulation.joint_state().positions(controller.joints)
        way = np.where((limits.lower + limits.upper) / 2 > start, share, -share)
        jerk = np.array(half + [-value for value in half])[:, None] * limits.jerk * way
        plan = integrate_jerk(
            controller.joints,
            JointMotion.at_rest(start),
            simulation.now_ns + STEP_NS,
            GRID_NS,
            jerk,
        )
        assert simulation.accept(controller.name, TrajectoryPoints.from_trajectory(plan)) is None
    simulation.step(500)


@pytest.mark.parametrize('name', ROBOTS)
def test_joints_track_motion_at_the_limits_and_the_record_is_exact(name: str) -> None:
    simulation = Simulation(robots.load(name))
    move_at_limits(simulation, 0.999)
    executed, ratios = simulation.executed_motion, simulation.executed_motion.limit_ratios()
    assert executed.tracking_error.max() < 0.005
    np.testing.assert_allclose(ratios['jerk'], 0.999, rtol=1e-3)
    np.testing.assert_allclose(ratios['acceleration'], 0.999, rtol=1e-3)
    assert (ratios['velocity'] > 0.8).all() and (ratios['velocity'] <= 1.0).all()
    np.testing.assert_allclose(ratios['measured_velocity'], ratios['velocity'], atol=0.02)
    limits = simulation.robot.embodiment.limits()
    np.testing.assert_allclose(executed.step, executed.velocity * STEP_NS / 1e9, rtol=1e-3)
    assert (executed.velocity <= limits.velocity).all()


def test_the_record_sees_a_jump_that_no_trajectory_should_hold() -> None:
    """A position-only trajectory jumps in velocity; nothing may smooth that away."""
    simulation = Simulation(robots.load('agibot_g1'))
    body = simulation.robot.embodiment
    controller = body.controllers[0]
    target = simulation.joint_state().positions(controller.joints) + 0.2
    assert (
        simulation.accept(
            controller.name,
            TrajectoryPoints(
                simulation.now_ns + STEP_NS,
                controller.joints,
                np.array([0, 100_000_000]),
                np.stack([target, target + 0.1]),
                None,
                None,
            ),
        )
        is None
    )
    simulation.step(5)
    worst = dict(zip(body.commanded, simulation.executed_motion.step, strict=True))
    assert worst[controller.joints[0]] == pytest.approx(0.2, abs=1e-9)
    assert worst[body.controllers[1].joints[0]] == 0.0


@pytest.mark.parametrize('name', ROBOTS)
def test_fingers_open_and_close_with_the_canonical_command(name: str) -> None:
    simulation = Simulation(robots.load(name))
    body = simulation.robot.embodiment

    def gap_m(side: str) -> float:
        pads = [
            simulation.data.geom_xpos[geom]
            for geom in range(simulation.model.ngeom)
            if simulation.model.geom_contype[geom]
            and simulation.model.body(simulation.model.geom_bodyid[geom]).name
            in simulation.robot.descendants(simulation.robot.hand(side).tool_link)
            and simulation.model.body(simulation.model.geom_bodyid[geom]).name
            != simulation.robot.hand(side).tool_link
        ]
        assert len(pads) == 2
        return float(np.linalg.norm(pads[0] - pads[1]))

    for side in simulation.robot.hand_sides:
        name_ = simulation.robot.hand(side).gripper
        gaps = []
        for opening in (1.0, 0.5, 0.0, 1.0):
            send_to(simulation, (name_,), [opening], 0.8)
            mujoco.mj_kinematics(simulation.model, simulation.data)
            gaps.append(gap_m(side))
            assert simulation.joint_state().positions((name_,))[0] == pytest.approx(
                opening, abs=0.01
            )
        assert gaps[0] > 0.075 and gaps[2] < 0.012
        assert gaps[2] < gaps[1] - 0.03 < gaps[0] - 0.06
        assert gaps[3] == pytest.approx(gaps[0], abs=1e-3)
        assert body.gripper(name_).side == side


@pytest.mark.parametrize('name', ROBOTS)
def test_a_cube_can_be_gripped_and_lifted(name: str) -> None:
    robot = robots.load(name)
    simulation = Simulation(robot, task='lift', seed=2)
    cube = simulation.scene.find_object(simulation.task.slot)
    side = robot.hand_sides[0 if cube.y_m > 0 else -1]
    arm = ArmIk(robot, simulation.model, side)
    rest, gripper = robot.embodiment.home_positions(arm.names), robot.hand(side).gripper

    def above(height_m: float) -> np.ndarray:
        """Stand over the cube, fingers along its faces."""
        pose = arm.solve(
            np.array([cube.x_m, cube.y_m, robot.table.height_m + height_m]),
            np.array([0.0, 0.0, -1.0]),
            rest,
            rest,
        )
        return min(
            (
                np.append(pose.joints_rad[:-1], pose.joints_rad[-1] + roll)
                for roll in np.linspace(-0.8, 0.8, 81)
            ),
            key=across,
        )

    def across(joints: np.ndarray) -> float:
        arm.compute_tool_pose(joints)
        x, y = arm.data.body(robot.hand(side).tool_link).xmat.reshape(3, 3)[:2, 1]
        return abs(np.sin(2 * (np.arctan2(y, x) - cube.yaw_rad)))

    send_to(simulation, arm.names, above(0.14), 1.5)
    assert not simulation.is_success
    send_to(simulation, arm.names, above(0.03), 1.0)
    send_to(simulation, (gripper,), [0.0], 0.8)
    assert 0.2 < simulation.joint_state().positions((gripper,))[0] < 0.7  # stopped by the cube
    send_to(simulation, arm.names, above(0.16), 1.2)
    assert simulation.is_success


def test_the_same_commands_give_the_same_states_bit_for_bit() -> None:
    def run() -> tuple[np.ndarray, ...]:
        simulation = Simulation(robots.load('yam'), seed=5)
        move_at_limits(simulation, 0.7)
        simulation.reset(6)
        move_at_limits(simulation, -0.5)
        return (
            simulation.data.qpos.copy(),
            simulation.data.qvel.copy(),
            simulation.executed_motion.jerk,
        )

    for one, other in zip(run(), run(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('late_ns', [-STEP_NS, 3 * STEP_NS, 25 * STEP_NS])
def test_what_comes_after_its_switch_breaks_no_limit(late_ns: int) -> None:
    simulation = Simulation(robots.load('agibot_g1'))
    body = simulation.robot.embodiment
    start, limits = simulation.joint_state().positions(body.commanded), limits_with_margin(body)
    way = np.where((limits.lower + limits.upper) / 2 > start, 1.0, -1.0)

    def sent(before: Trajectory, start_ns: int, rows: np.ndarray) -> Trajectory:
        plan = plan_tracking(before, start_ns, start + way * rows[:, None], limits)
        for controller in body.controllers:
            refusals.append(
                simulation.accept(
                    controller.name,
                    TrajectoryPoints.from_trajectory(plan).reorder(controller.joints),
                )
            )
        return plan

    refusals: list[str | None] = []
    first = sent(
        make_hold(body.commanded, start, 0),
        compute_switch_ns(simulation.now_ns, 30_000_000),
        np.linspace(0.0, 0.3, 20),
    )
    simulation.step(100)
    parted_ns = compute_switch_ns(simulation.now_ns, 30_000_000)
    simulation.step((parted_ns + late_ns - simulation.now_ns) // STEP_NS)
    second = sent(first, parted_ns, np.linspace(0.1, -0.3, 60))
    simulation.step(1500)
    assert second.end_ns > first.end_ns
    assert any('too late' in (reason or '') for reason in refusals) == (late_ns > 0)
    assert simulation.executed_motion.limit_ratios()['jerk'].max() <= 1.0 + 1e-6


def test_objects_lie_still_where_the_seed_puts_them() -> None:
    simulation = Simulation(robots.load('agibot_g1'), seed=9)
    before = simulation.state()
    simulation.step(1000)
    for slot, place in simulation.state().objects.items():
        np.testing.assert_allclose(place, before.objects[slot], atol=1e-3)


def test_reset_puts_the_arms_at_rest_and_keeps_time() -> None:
    simulation = Simulation(robots.load('yam'), seed=1)
    move_at_limits(simulation, 0.9)
    moved = simulation.joint_state().position
    now_ns, jerk = simulation.now_ns, simulation.executed_motion.jerk.copy()
    assert simulation.reset(2)
    assert simulation.scene.seed == 2 and simulation.now_ns == now_ns
    body = simulation.robot.embodiment
    np.testing.assert_allclose(
        simulation.joint_state().position, body.home_positions(body.observed), atol=1e-9
    )
    assert np.abs(moved - simulation.joint_state().position).max() > 0.2
    simulation.step(100)
    np.testing.assert_array_equal(simulation.executed_motion.jerk, jerk)  # a reset is no motion


def test_kept_arms_are_left_alone_and_refuse_scenes_under_them() -> None:
    robot = robots.load('yam')
    simulation = Simulation(robot, seed=1)
    arm = ArmIk(robot, simulation.model, 'left')
    x_low, x_high, y_low, y_high = robot.workspace
    pose = arm.solve(
        np.array([(x_low + x_high) / 2, (y_low + y_high) / 2, robot.table.height_m + 0.035]),
        np.array([0.0, 0.0, -1.0]),
        robot.embodiment.home_positions(arm.names),
        robot.embodiment.home_positions(arm.names),
    )
    send_to(simulation, arm.names, pose.joints_rad, 3.0)
    before = simulation.joint_state().position
    outcomes = {}
    for seed in range(2, 40):
        scene = simulation.scene
        outcomes[simulation.reset(seed, keep_arms=True)] = True
        assert simulation.scene.seed in (seed, scene.seed)
        np.testing.assert_array_equal(simulation.joint_state().position, before)
    assert set(outcomes) == {True, False}


def test_wrong_names_and_broken_numbers_are_refused_and_counted() -> None:
    simulation = Simulation(robots.load('yam'))
    still = np.zeros((1, 6))
    names = simulation.robot.embodiment.controllers[0].joints
    wrong = TrajectoryPoints(0, names[::-1][:5], np.array([10]), still[:, :5], None, None)
    assert 'joint names' in simulation.accept('left_arm_controller', wrong)
    broken = TrajectoryPoints(0, names, np.array([10]), still + np.nan, None, None)
    assert 'finite' in simulation.accept('left_arm_controller', broken)
    assert simulation.controllers.rejected == 2 and simulation.controllers.accepted == 0


def is_marked(simulation: Simulation) -> bool:
    """Tell whether the mark lies around the task's cube; else it must be out of sight."""
    place = simulation.data.mocap_pos[simulation.model.body('mark').mocapid[0]]
    cube = simulation.start.objects[simulation.task.slot]
    beside = np.linalg.norm((place - cube)[:2]) < 1e-6
    assert beside == (place[2] > 0.0)
    return bool(beside)


def test_a_mark_is_shown_for_its_time_of_the_simulated_clock() -> None:
    simulation = Simulation(robots.load('agibot_g1'), task='recall', seed=3)
    for seed in (3, 4):
        simulation.reset(seed)
        check_marked_for_its_time(simulation)
    simulation.reset(5, task='touch')
    simulation.step(200)
    assert not is_marked(simulation)


def check_marked_for_its_time(simulation: Simulation) -> None:
    """Step from the beginning of the task over both ends of the mark's time."""
    begun_ns, done = simulation.now_ns, 0
    for at_s in (simulation.task.mark_from_s, simulation.task.mark_end_s):
        before = is_marked(simulation)
        assert before == (done > 0)
        last = round(at_s * 1e9) // STEP_NS - 1
        simulation.step(last - done)
        assert is_marked(simulation) == before
        simulation.step(2)
        assert is_marked(simulation) != before
        done = (simulation.now_ns - begun_ns) // STEP_NS


def test_a_mark_may_wait_until_the_task_was_heard() -> None:
    simulation = Simulation(robots.load('yam'), task='recall', seed=3, defer_mark=True)
    simulation.now_ns = 2 * 10**18  # a live simulation takes the wall clock's stamps
    simulation.step(800)
    simulation.start_mark_timer()
    check_marked_for_its_time(simulation)
    simulation.start_mark_timer()  # said again: the episode does not begin again
    simulation.step(400)
    assert not is_marked(simulation)
