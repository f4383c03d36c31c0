"""Faults injected into real processes: every row of the table is in order.

The usual run takes one fault of each kind, on one stack; --slow runs all others too.
"""

import os

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.core import embodiment  # noqa: E402
from wam_policy.ros.faults import main  # noqa: E402

pytestmark = pytest.mark.ros
ROBOT = embodiment.load('agibot_g1')
TABLE = {fault.name: fault for fault in main.table(ROBOT)}
KINDS = (
    'process/policy killed', 'process/motion killed', 'process/recorder killed while recording',
    'process/worker cond killed', 'process/motion stopped', 'camera/top_head frozen',
    'camera/hand_left in another encoding', 'camera/hand_right cut short', 'joints/frozen',
    'joints/stuck under new stamps', 'joints/not a number', 'joints/reordered',
    'chunk/1.2 s late', 'chunk/not a number', 'chunk/a second policy publishes',
    'instruction/other words at 1 kHz', 'instruction/1 MB', 'network/robot unreachable',
    'disk/full while recording', 'parameters/out of range at run time')


def red(names, folder):
    rows = main.injected([TABLE[name] for name in names], ROBOT, folder,
                         int(os.environ['ROS_DOMAIN_ID']))
    assert [row.fault for row in rows] == list(names)
    assert all(row.limit_violations == 0 and row.recovered for row in rows if row.ok)
    return [f'{row.fault}: {row.note}' for row in rows if not row.ok]


@pytest.mark.timeout(480)
def test_one_fault_of_each_kind_is_in_order(tmp_path):
    assert red(KINDS, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_other_fault_is_in_order(tmp_path):
    faults = sorted((fault for name, fault in TABLE.items() if name not in KINDS),
                    key=lambda fault: fault.needs is not main.Needs.NOTHING)
    assert red([fault.name for fault in faults], tmp_path) == []
