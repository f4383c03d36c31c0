"""A node of the stack that reports no more, or reports an error, is named."""

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from wam_console.node_health import NodeHealth


def report(health, name, now_s, level=DiagnosticStatus.OK, message=''):
    status = DiagnosticStatus(name=name, level=level, message=message)
    health.add(DiagnosticArray(status=[status]), now_s)


def test_ages_grow_until_a_node_reports_again():
    health = NodeHealth('')
    report(health, 'motion: callbacks', 10.0)
    report(health, 'description: callbacks', 11.0)
    assert health.describe(13.0) == [
        {'name': 'motion', 'age_s': 3.0, 'errors': []},
        {'name': 'description', 'age_s': 2.0, 'errors': []},
    ]
    report(health, 'motion: callbacks', 13.0)
    assert health.describe(13.0)[0]['age_s'] == 0.0


def test_an_error_stays_until_its_task_is_well():
    health = NodeHealth('')
    report(health, 'policy: workers', 1.0, DiagnosticStatus.ERROR, 'no workers')
    report(health, 'policy: callbacks', 1.0)
    assert health.describe(1.0)[0]['errors'] == ['no workers']
    report(health, 'policy: workers', 2.0, DiagnosticStatus.WARN, 'slow')
    assert health.describe(2.0)[0]['errors'] == []


def test_the_launch_speaks_for_a_node_that_has_exited_and_strangers_are_left_out():
    health = NodeHealth('')
    report(health, 'other: callbacks', 1.0, DiagnosticStatus.ERROR, 'not ours')
    report(health, 'recorder: process', 1.0, DiagnosticStatus.ERROR, 'exited with code -9')
    assert health.describe(1.0) == [
        {'name': 'recorder', 'age_s': None, 'errors': ['exited with code -9']}
    ]


@pytest.mark.parametrize(
    ('namespace', 'ours', 'others'),
    [
        ('robot_1', '/robot_1/wam/motion', ('/robot_2/wam/motion', '/robot_10/motion', 'motion')),
        ('robot_1', '/robot_1/sim', ('/robot_2/sim', 'sim')),
        ('', 'motion', ('/robot_1/wam/motion', '/motion')),
    ],
)
def test_only_the_nodes_of_the_own_robot_count(namespace, ours, others):
    health = NodeHealth(namespace)
    for other in others:
        report(health, f'{other}: state', 1.0, DiagnosticStatus.ERROR, 'of another robot')
    assert health.describe(1.0) == []
    report(health, f'{ours}: state', 1.0)
    assert health.describe(1.0) == [{'name': ours.rpartition('/')[2], 'age_s': 0.0, 'errors': []}]
