"""Goals count once they have held for a moment, from when they began to hold."""

from dataclasses import replace

import pytest

from wam_sim.physics import sim_robot as robots
from wam_sim.physics.simulation import Simulation
from wam_sim.tasks.success_monitor import MIN_HOLD_NS, SuccessMonitor, validate_goal
from wam_sim.tasks.task_families import Task

LIFT = Task('lift', '', 'cube_0', '', '')


@pytest.fixture(scope='module')
def start():
    return Simulation(robots.load('yam'), task='lift', seed=1).state()


def raise_cube(start, meters):
    return replace(
        start, objects={**start.objects, 'cube_0': start.objects['cube_0'] + [0, 0, meters]}
    )


def test_a_goal_counts_from_when_it_began_to_hold(start):
    goals = SuccessMonitor((LIFT, Task('lift', '', 'cube_1', '', '')), start)
    assert not goals.update(raise_cube(start, 0.1), 5) and goals.reached_ns == [None, None]
    assert goals.update(raise_cube(start, 0.1), 5 + MIN_HOLD_NS)
    assert goals.reached_ns == [5, None]
    goals.update(start, 6 + MIN_HOLD_NS)
    assert goals.reached_ns == [5, None], 'what was reached stays reached'


def test_what_holds_for_too_short_does_not_count(start):
    goals = SuccessMonitor((LIFT,), start)
    for now_ns, height in ((0, 0.1), (MIN_HOLD_NS - 1, 0.0), (MIN_HOLD_NS, 0.1)):
        assert not goals.update(raise_cube(start, height), now_ns)
    assert goals.reached_ns == [None]


@pytest.mark.parametrize(
    ('task', 'words'),
    [
        (replace(LIFT, family='throw'), "no family 'throw'"),
        (replace(LIFT, slot='can'), "no cube 'can'"),
        (replace(LIFT, side='left'), "no side 'left'"),
        (Task('touch', '', 'cube_0', '', ''), "no side ''"),
        (Task('stack', '', 'cube_0', '', 'pad'), "no target 'pad'"),
    ],
)
def test_goals_that_cannot_be_watched_are_refused(task, words):
    with pytest.raises(ValueError, match=words):
        validate_goal(task)
    assert validate_goal(LIFT) is LIFT
