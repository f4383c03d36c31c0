"""A thousand random requests around arms that stream_node holds: no motor loses its torque."""

import time

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from std_msgs.msg import Empty
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from tests.stack.random_requests import ANSWER_S, NUMBERS, RandomRequests
from wam_msgs.msg import DriverStatus
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.nodes import qos

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(400)]
REQUESTS, SEED = 1000, 17
MOVE_EVERY = 100  # requests
YAM = load_embodiment('yam')
STREAM, LIFECYCLE_NODES = '/wam/stream', ('/wam/stream', '/wam/motion', '/wam/recorder')


class StreamClient(RandomRequests):
    """Send random trajectories to stream_node, and random requests to every node of the launch."""

    def __init__(self, arms, seed):
        super().__init__(arms.bench.node, seed, LIFECYCLE_NODES, LIFECYCLE_NODES)
        self.publishers = [
            (publisher, self.draw_trajectory) for publisher, _ in arms.bench.trajectory_publishers
        ]
        out = arms.bench.node.create_publisher
        self.publishers += [
            (out(Empty, '/wam/estop_signal', qos.REQUEST), Empty),
            (out(DriverStatus, '/wam/driver_status', qos.LATCHED), DriverStatus),
        ]

    def draw_trajectory(self):
        """Return a trajectory of joints, positions and times that need not fit each other."""
        dice = self.dice
        joints = list(dice.choice(YAM.controllers).joints)
        names = dice.choice((joints, joints, [], joints[:2], joints * 2, ['a', ''] * 500))
        count = dice.choice((len(names), len(names), 0, len(names) + 1))
        points = [
            JointTrajectoryPoint(
                positions=dice.choices((0.1, 0.2, *NUMBERS), k=count),
                velocities=dice.choices((0.0, *NUMBERS), k=dice.choice((0, count))),
                accelerations=dice.choices((0.0, *NUMBERS), k=dice.choice((0, count))),
                time_from_start=Duration(sec=dice.choice((0, 1, i, -1, 2**31 - 1))),
            )
            for i in range(dice.choice((0, 1, 2, 30)))
        ]
        return JointTrajectory(header=self.draw_header(), joint_names=names, points=points)

    def draw_service_call(self):
        return self.dice.choice(
            (
                (SetBool, '/wam/enable', {'data': self.dice.random() < 0.8}),
                (Trigger, '/wam/estop', {}),
                (Trigger, '/wam/reset', {}),
            )
        )


def activate_stream(arms, client):
    """Bring stream_node back to where it sends."""

    def is_active():
        if arms.read_state('stream') == State.PRIMARY_STATE_ACTIVE:
            return True
        for number in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            fields = {'transition': Transition(id=number)}
            client.call(ChangeState, f'{STREAM}/change_state', fields)
        return False

    arms.wait(is_active, ANSWER_S)


@pytest.mark.slow
def test_random_requests_take_no_torque_from_the_arms(arms):
    launch = arms.bring_up()
    arms.start_moving()
    client = StreamClient(arms, SEED)
    while client.count < REQUESTS:
        client.send_one()
        assert launch.poll() is None, f'{client.count} requests: {arms.read_log()[-3000:]}'
        assert not arms.find_faults(), f'after {client.count} requests'
        if client.count % MOVE_EVERY == 0:
            activate_stream(arms, client)
            refused = client.call(Trigger, f'{STREAM}/release', {})
            assert not refused.success and 'the stack is running' in refused.message
            arms.start_moving()
    assert client.unanswered == []
    assert arms.stream.is_running()
    activate_stream(arms, client)
    arms.wait_rest()
    arms.start_moving()
    arms.wait_rest()
    arms.check_held()
    time.sleep(1.5)  # until diagnostics have told of the last request
    callbacks = {
        name: status.message
        for name, status in arms.bench.diagnostics.items()
        if name.endswith(': callbacks') and status.level != DiagnosticStatus.OK
    }
    assert callbacks == {}
