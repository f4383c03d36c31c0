"""The topic estop_signal latches the e-stop, whoever publishes, before the node is active, too."""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Empty
from std_srvs.srv import SetBool, Trigger

from tests.nodes.motion.test_motion_node import start_motion_node

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]
PUBLISHER_PROFILES = [
    QoSProfile(depth=1, reliability=reliability, durability=durability)
    for reliability in (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT)
    for durability in (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL)
]


def publish_until_latched(bench, profile):
    """Publish as a button would, again and again, until motion_node says that it has stopped."""
    publisher = bench.node.create_publisher(Empty, 'estop_signal', profile)

    def is_latched():
        publisher.publish(Empty())
        return bench.status.state_name == 'ESTOPPED'

    bench.wait(is_latched, 10.0)
    bench.node.destroy_publisher(publisher)


@pytest.mark.parametrize(
    'profile', PUBLISHER_PROFILES, ids=lambda p: f'{p.reliability.name}-{p.durability.name}'
)
def test_a_signal_from_any_publisher_stops_like_the_service(profile):
    with start_motion_node('enable_motion:=true') as (_, bench):
        bench.chunks_enabled = True
        bench.wait_state('TRACKING')
        publish_until_latched(bench, profile)
        assert 'estop_signal' in bench.status.reason
        bench.wait_rest()
        bench.wait(lambda: bench.estops[-1])
        refused = bench.call_service(SetBool, 'enable', data=True)
        assert not refused.success and 'reset' in refused.message
        bench.wait(lambda: bench.call_service(Trigger, 'reset').success, 3.0)
        bench.wait_state('DISABLED')  # one signal is one stop: none is kept for later
        assert bench.call_service(SetBool, 'enable', data=True).success
        bench.session = 'of a new instruction'
        bench.wait_state('TRACKING')
        bench.check_motion()


def test_a_signal_counts_before_the_node_is_active():
    with start_motion_node('enable_motion:=true') as (node, bench):
        node.trigger_deactivate()
        bench.wait_state('DISABLED')
        publish_until_latched(bench, PUBLISHER_PROFILES[0])
        node.trigger_activate()
        bench.wait(lambda: len(bench.setpoint_history) > 50)
        refused = bench.call_service(SetBool, 'enable', data=True)
        assert not refused.success and 'reset' in refused.message
