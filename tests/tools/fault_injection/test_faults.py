"""Inject faults into real processes: every row of the table is in order.

By default a stack gets faults of several kinds; --all injects every fault on both
robots, and random pairs.
"""

import os

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.core.robot import embodiment
from wam_tools.fault_injection import run_faults
from wam_tools.fault_injection.faults import arm_faults

pytestmark = [pytest.mark.ros, pytest.mark.stack]
ROBOT, OTHER = embodiment.load_embodiment('agibot_g1'), embodiment.load_embodiment('yam')
TABLE = run_faults.make_all_faults(ROBOT)
PAIRS, PAIRS_SEED = 10, 7
REPRESENTATIVES = (
    'process/motion killed',
    'camera/top_head dropped',
    'joints/not a number',
    'chunk/a second policy publishes',
    'network/all chunks lost',
    'command/second publisher on a trajectory topic',
)
# a stack for each: one failure does not repeat the others
GROUPS = (
    ('process', 'requests'),
    ('camera',),
    ('joints', 'chunk'),
    ('instruction', 'parameters', 'network'),
    ('command', 'checks'),
    ('memory', 'checkpoint', 'disk', 'clock'),
)


def run_and_list_failures(faults, robot, folder):
    rows = run_faults.run_faults(faults, robot, folder, int(os.environ['ROS_DOMAIN_ID']))
    assert [row.fault for row in rows] == [fault.name for fault in faults]
    assert all(row.limit_violations == 0 and row.recovered for row in rows if row.ok)
    return [f'{row.fault}: {row.note}' for row in rows if not row.ok]


def test_every_fault_belongs_to_a_group():
    families = {fault.name.split('/')[0] for fault in TABLE}
    assert families == {kind for group in GROUPS for kind in group}
    assert {fault.name for fault in TABLE} >= set(REPRESENTATIVES)


@pytest.mark.timeout(600)
def test_faults_of_several_kinds_are_in_order(tmp_path):
    faults = [fault for fault in TABLE if fault.name in REPRESENTATIVES]
    assert run_and_list_failures(run_faults.sort_by_feature(faults), ROBOT, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize('group', GROUPS, ids='-'.join)
def test_every_fault_is_in_order(group, tmp_path):
    faults = [fault for fault in TABLE if fault.name.split('/')[0] in group]
    assert run_and_list_failures(run_faults.sort_by_feature(faults), ROBOT, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_fault_is_in_order_on_the_other_robot(tmp_path):
    faults = [fault for fault in run_faults.make_all_faults(OTHER) if fault.run_alone is None]
    assert run_and_list_failures(run_faults.sort_by_feature(faults), OTHER, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_fault_around_held_arms_is_in_order(tmp_path):
    assert run_and_list_failures(arm_faults.FAULTS, OTHER, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_row_of_arms_that_lose_their_torque_fails(tmp_path):
    """What nobody may do: kill the process that holds the arms."""
    planted = arm_faults.make_fault(
        'stream_node killed',
        arm_faults.ArmFault(lambda arms: arms.stream.kill(), 'exited', arm_faults.take_over),
        '',
    )
    (row,) = run_faults.run_faults([planted], OTHER, tmp_path, int(os.environ['ROS_DOMAIN_ID']))
    assert not row.ok and 'can_follower_l lost torque' in row.note
    assert list(tmp_path.glob('stack-0/launch*.log'))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_pairs_are_in_order(tmp_path):
    pairs = run_faults.sample_fault_pairs(TABLE, PAIRS, PAIRS_SEED)
    assert (
        len(pairs) == PAIRS
        and run_and_list_failures(run_faults.sort_by_feature(pairs), ROBOT, tmp_path) == []
    )
