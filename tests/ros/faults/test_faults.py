"""Faults injected into real processes: every row of the table is in order.

The usual run takes one fault of each kind, on one stack; --slow runs all others too, all of them
on the other robot, and random pairs.
"""

import os

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.core import embodiment  # noqa: E402
from wam_policy.ros.faults import main  # noqa: E402

pytestmark = pytest.mark.ros
ROBOT, OTHER = embodiment.load('agibot_g1'), embodiment.load('yam')
TABLE = {fault.name: fault for fault in main.table(ROBOT)}
PAIRS, PAIRS_SEED = 10, 7
KINDS = (
    'process/policy killed', 'process/motion killed', 'process/recorder killed while recording',
    'process/worker cond killed', 'process/motion stopped', 'camera/top_head frozen',
    'camera/hand_left in another encoding', 'camera/hand_right cut short', 'joints/frozen',
    'joints/stuck under new stamps', 'joints/not a number', 'joints/reordered',
    'chunk/1.2 s late', 'chunk/not a number', 'chunk/a second policy publishes',
    'instruction/other words at 1 kHz', 'instruction/1 MB', 'network/robot unreachable',
    'disk/full while recording', 'parameters/out of range at run time')


def red(faults, robot, folder):
    rows = main.injected(faults, robot, folder, int(os.environ['ROS_DOMAIN_ID']))
    assert [row.fault for row in rows] == [fault.name for fault in faults]
    assert all(row.limit_violations == 0 and row.recovered for row in rows if row.ok)
    return [f'{row.fault}: {row.note}' for row in rows if not row.ok]


@pytest.mark.timeout(480)
def test_one_fault_of_each_kind_is_in_order(tmp_path):
    assert red([TABLE[name] for name in KINDS], ROBOT, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_other_fault_is_in_order(tmp_path):
    others = [fault for name, fault in TABLE.items() if name not in KINDS]
    assert red(in_turn(others), ROBOT, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_fault_is_in_order_on_the_other_robot(tmp_path):
    assert red(in_turn(main.table(OTHER)), OTHER, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_pairs_are_in_order(tmp_path):
    pairs = main.pairs(main.table(ROBOT), PAIRS, PAIRS_SEED)
    assert len(pairs) == PAIRS and red(in_turn(pairs), ROBOT, tmp_path) == []


def in_turn(faults):
    """Return faults that need the same stack one after another."""
    return sorted(faults, key=lambda fault: fault.needs is not main.Needs.NOTHING)
