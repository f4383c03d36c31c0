"""Faults injected into real processes: every row of the table is in order.

--all runs them on the other robot, too, and random pairs.
"""

import os

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.core.robot import embodiment
from wam_tools.fault_injection import run_faults

pytestmark = pytest.mark.ros
ROBOT, OTHER = embodiment.load_embodiment('agibot_g1'), embodiment.load_embodiment('yam')
TABLE = run_faults.make_all_faults(ROBOT)
PAIRS, PAIRS_SEED = 10, 7
# a stack for each: what a machine that was taken away turns red is tried again by itself
GROUPS = (
    ('process',),
    ('camera',),
    ('joints', 'chunk'),
    ('instruction', 'parameters', 'network'),
    ('memory', 'checkpoint', 'disk', 'clock'),
)


def run_and_list_failures(faults, robot, folder):
    rows = run_faults.run_faults(faults, robot, folder, int(os.environ['ROS_DOMAIN_ID']))
    assert [row.fault for row in rows] == [fault.name for fault in faults]
    assert all(row.limit_violations == 0 and row.recovered for row in rows if row.ok)
    return [f'{row.fault}: {row.note}' for row in rows if not row.ok]


def test_every_fault_belongs_to_a_group():
    assert {fault.name.split('/')[0] for fault in TABLE} == {
        kind for group in GROUPS for kind in group
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize('group', GROUPS, ids='-'.join)
def test_every_fault_is_in_order(group, tmp_path):
    faults = [fault for fault in TABLE if fault.name.split('/')[0] in group]
    assert run_and_list_failures(run_faults.sort_by_feature(faults), ROBOT, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_fault_is_in_order_on_the_other_robot(tmp_path):
    assert (
        run_and_list_failures(
            run_faults.sort_by_feature(run_faults.make_all_faults(OTHER)), OTHER, tmp_path
        )
        == []
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_pairs_are_in_order(tmp_path):
    pairs = run_faults.sample_fault_pairs(TABLE, PAIRS, PAIRS_SEED)
    assert (
        len(pairs) == PAIRS
        and run_and_list_failures(run_faults.sort_by_feature(pairs), ROBOT, tmp_path) == []
    )
