import numpy as np
import pytest

from wam_policy.core.motion.trajectory import Trajectory
from wam_policy.core.robot import embodiment
from wam_policy.core.types import Chunk, JointState
from wam_tools.run_metrics import RunMetrics

ROBOT = embodiment.load_embodiment('yam')
MS = 1_000_000


def chunk(stamp_ns=0, denoise=20.0):
    return Chunk(
        stamp_ns,
        's',
        1,
        1 / 30,
        ROBOT.commanded,
        np.zeros((4, 14)),
        np.zeros(14),
        'c',
        {'denoise': denoise},
    )


def posture(*first):
    return JointState(0, ROBOT.observed, np.r_[first, np.zeros(14 - len(first))])


def ramp(start_ns, start, jerk):
    """Return a motion of the left arm's first joint: jerk up, down, down, up."""
    name = ROBOT.controllers[0]
    a, v, p = [0.0], [0.0], [start]
    for j in (jerk, -jerk, -jerk, jerk):
        p.append(p[-1] + 0.1 * v[-1] + 0.005 * a[-1] + j * 0.001 / 6)
        v.append(v[-1] + 0.1 * a[-1] + 0.005 * j)
        a.append(a[-1] + 0.1 * j)
    a[-1] = v[-1] = 0.0
    wide = np.zeros((5, len(name.joints)))
    p, v, a = (np.c_[column, wide[:, 1:]] for column in (p, v, a))
    return Trajectory(name.joints, start_ns, 100 * MS * np.arange(5), p, v, a)


def test_rates_count_from_the_first_chunk_in_wall_time():
    witness = RunMetrics(ROBOT)
    witness.on_camera_rates({ROBOT.cameras[0].key: 1.0})
    assert witness.rate_hz(5.0) == 0.0
    for i in range(21):
        witness.on_chunk(chunk(), 0, 0, 10.0 + 0.125 * i)
    for rate_hz in (15.0, 14.0):
        witness.on_camera_rates({ROBOT.cameras[0].key: rate_hz})
    assert witness.rate_hz(12.5) == pytest.approx(8.0)
    assert witness.recent_hz(12.5) == pytest.approx(8.0)
    assert witness.recent_hz(14.5) < 5.0
    assert witness.camera_hz() == {
        ROBOT.cameras[0].key: 14.5,
        ROBOT.cameras[1].key: 0.0,
        ROBOT.cameras[2].key: 0.0,
    }


def test_a_rate_leaves_out_when_nothing_is_asked_for():
    witness = RunMetrics(ROBOT)
    witness.pause(9.0)  # before the first chunk there is no rate
    for i in range(9):
        witness.on_chunk(chunk(), 0, 0, 10.0 + 0.125 * i)
    witness.pause(11.0)
    witness.pause(12.0)  # it is one pause
    assert witness.rate_hz(13.0) == pytest.approx(8.0)
    witness.resume(15.0)
    for i in range(1, 9):
        witness.on_chunk(chunk(), 0, 0, 15.0 + 0.125 * i)
    assert witness.rate_hz(16.0) == pytest.approx(8.0)
    assert witness.rate_hz(18.0) == pytest.approx(4.0)  # a policy that stalls is no pause


def test_latency_leaves_the_first_chunk_out_and_names_every_stage():
    witness = RunMetrics(ROBOT)
    assert witness.latency_ms() == {} and witness.recent_latency_ms() is None
    witness.on_chunk(chunk(denoise=900.0), 0, 2000 * MS, 0.0)
    for total_ms in (50, 60, 70):
        witness.on_chunk(chunk(), (total_ms - 2) * MS, total_ms * MS, 1.0)
    found = witness.latency_ms()
    assert found['p50'] == 60.0 and 69.0 < found['p99'] <= 70.0
    assert (found['denoise'], found['publish']) == (20.0, 2.0) and 'total' not in found
    assert witness.recent_latency_ms() == 60.0


def test_commands_are_judged_between_their_points_too():
    witness = RunMetrics(ROBOT)
    witness.on_trajectory(ROBOT.controllers[0].name, ramp(0, 0.0, 40.0))
    assert witness.commanded_ratios['jerk'] == pytest.approx(0.5)  # limit 80
    assert witness.commanded_ratios['acceleration'] == pytest.approx(0.5)  # limit 8
    assert witness.commanded_ratios['velocity'] == pytest.approx(0.4 / 1.5)
    witness.on_trajectory(ROBOT.controllers[0].name, ramp(0, 0.0, 20.0))
    assert witness.commanded_ratios['jerk'] == pytest.approx(0.5) and witness.trajectory_count == 2


def test_a_jump_from_one_command_to_the_next_is_seen():
    witness, name = RunMetrics(ROBOT), ROBOT.controllers[0].name
    first = ramp(0, 0.0, 40.0)
    witness.on_trajectory(name, first)
    witness.on_trajectory(name, ramp(400 * MS, first.goal[0], 40.0))
    assert witness.max_blend_offset < 1e-12
    witness.on_trajectory(name, ramp(900 * MS, 0.5, 40.0))
    assert witness.max_blend_offset == pytest.approx(0.5 - 2 * first.goal[0])


def test_how_far_the_robot_moved_and_how_fast_it_was_simulated():
    witness = RunMetrics(ROBOT)
    witness.on_real_time_factor(0.1)
    for way in (0.2, 0.3, 0.5, 0.25):
        witness.on_joints(posture(way))
    witness.on_chunk(chunk(), 0, 0, 0.0)
    witness.on_real_time_factor(0.9)
    witness.on_real_time_factor(1.0)
    assert witness.moved_rad == pytest.approx(0.3) and witness.real_time_factor() == 0.95


def test_a_run_of_days_keeps_as_much_as_one_of_hours(monkeypatch):
    monkeypatch.setattr('wam_tools.run_metrics.MAX_LATENCIES', 50)
    seen = RunMetrics(ROBOT)
    for number in range(400):
        seen.on_chunk(chunk(number), 0, 0, 0.1 * number)
        seen.on_real_time_factor(1.0)
    assert seen.chunk_count == 400 and seen.rate_hz(39.9) == pytest.approx(10.0)
    assert seen.recent_hz(39.9) == pytest.approx(10.0) and seen.real_time_factor() == 1.0
    assert all(len(kept) == 50 for kept in seen._latencies_ms.values())
