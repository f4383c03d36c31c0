"""The way home: from where the arms are to rest, level at both ends, slower at first."""

import numpy as np
import pytest

from wam_policy.core.robot import embodiment
from wam_tools.sim_operator import HomingMotion

ROBOT = embodiment.load_embodiment('yam')
REST = ROBOT.home_positions(ROBOT.commanded)


def homing(slowly=False, off=0.6):
    start = REST.copy()
    start[0] += off
    return HomingMotion(ROBOT, start, 1_000_000_000, slowly, 'home-1')


def test_it_begins_where_the_arms_are_and_stays_at_rest():
    way = homing()
    assert np.allclose(way.make_chunk(way.start_ns, 1).targets[0], way.start)
    after = way.make_chunk(way.start_ns + round(way.duration_s * 1e9), 2)
    assert np.allclose(after.targets, REST) and after.embodiment_hash == ROBOT.config_hash


@pytest.mark.parametrize('slowly', [False, True])
def test_it_keeps_its_speed(slowly):
    way, rows = homing(slowly), []
    for i in range(int(way.duration_s / ROBOT.step_dt_s) + 2):
        rows.append(way.make_chunk(way.start_ns + round(i * ROBOT.step_dt_s * 1e9), i).targets[0])
    speed = np.abs(np.diff(rows, axis=0)).max() / ROBOT.step_dt_s
    assert speed <= (0.3 if slowly else 1.2)
    assert np.abs(np.diff(rows, n=2, axis=0)).max() < 0.02  # no step in speed


def test_chunks_that_follow_each_other_agree():
    way = homing()
    first = way.make_chunk(way.start_ns, 1)
    later = way.make_chunk(way.start_ns + round(5 * ROBOT.step_dt_s * 1e9), 2)
    assert np.allclose(first.targets[5:], later.targets[:-5], atol=1e-6)


@pytest.mark.parametrize('name', embodiment.list_robots())
def test_a_closed_gripper_opens_at_its_own_speed(name):
    robot = embodiment.load_embodiment(name)
    home = robot.home_positions(robot.commanded)
    start, column = home.copy(), robot.commanded.index(robot.grippers[0].name)
    start[column] = 1.0 - home[column]
    way = HomingMotion(robot, start, 0, False, 'home-1')
    velocity = robot.limits().velocity[column]
    assert way.duration_s == pytest.approx(max(0.3, 2 / velocity * abs(start - home)[column]))
    rows = [way.make_chunk(round(i * 5e6), i).targets[0][column] for i in range(200)]
    assert np.abs(np.diff(rows)).max() / 0.005 <= velocity


def test_who_is_home_already_is_soon_done():
    assert homing(off=0.0).duration_s == pytest.approx(0.3)
