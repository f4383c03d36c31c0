"""Nodes that die alone, and a camera that goes dark: the joints come to rest by themselves."""

import signal

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from sensor_msgs.msg import Image

from tests.stack_fixtures import bring_up_node
from wam_policy.nodes import qos

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]
NODE_ARGUMENTS = ('-r', '__ns:=/wam', '-p', 'embodiment:=yam')


class ImageRelay:
    """Hand one camera's pictures on until told otherwise."""

    def __init__(self, probe, source_topic, topic):
        self.enabled = True
        self._publisher = probe.create_publisher(Image, topic, qos.IMAGE)
        probe.create_subscription(Image, source_topic, self._on_image, qos.IMAGE)

    def _on_image(self, msg):
        if self.enabled:
            self._publisher.publish(msg)


@pytest.fixture(scope='module')
def stack(started, watching):
    """Give the nodes of a stack, started one by one, one camera going through our hands."""
    watch = watching('yam')
    camera = watch.robot.cameras[1]
    relay = ImageRelay(watch, '/hidden', camera.topic)
    nodes = {
        'sim': started(
            'wam_sim.sim_node',
            '-p',
            'robot:=yam',
            '-p',
            'image_width:=160',
            '-p',
            'image_height:=120',
            '-r',
            f'{camera.topic}:=/hidden',
        ),
        'policy': started(
            'wam_policy.nodes.policy.policy_node', *NODE_ARGUMENTS, '-p', "devices:=['cpu']"
        ),
        'motion': started(
            'wam_policy.nodes.motion.motion_node', *NODE_ARGUMENTS, '-p', 'enable_motion:=true'
        ),
    }
    for node in ('policy', 'motion'):
        bring_up_node(watch, node)
    watch.wait(lambda: watch.policy.state_name == 'IDLE', 'workers are not ready', 90)
    return nodes, watch, relay, camera


@pytest.fixture
def running(stack):
    _, watch, *_ = stack
    watch.publish_instruction('pick up the red cube')
    watch.wait_running()
    watch.wait_motion('FIRST_MOVE', 'TRACKING')
    watch.jumps.clear()
    yield stack
    assert not watch.jumps


def test_a_dark_camera_stops_the_queries_and_light_starts_them(running):
    _, watch, relay, camera = running
    relay.enabled = False
    watch.wait(lambda: watch.policy.state_name == 'STALE_OBSERVATION')
    assert camera.key in watch.policy.reason and 'limit 0.2 s' in watch.policy.reason
    watch.wait_motion('HOLDING')
    chunks = watch.policy.chunks_published
    watch.wait_rest()
    assert watch.policy.chunks_published == chunks
    relay.enabled = True
    watch.wait_running()
    watch.wait_motion('FIRST_MOVE', 'TRACKING')


def test_without_motion_node_the_controllers_come_to_rest_and_a_new_one_goes_on(running, started):
    nodes, watch, *_ = running
    nodes['motion'].send_signal(signal.SIGKILL)
    nodes['motion'].wait()
    watch.wait_rest(2.0)
    chunks = watch.policy.chunks_published
    watch.wait(lambda: watch.policy.chunks_published > chunks + 3, 'policy went silent')
    nodes['motion'] = started(
        'wam_policy.nodes.motion.motion_node', *NODE_ARGUMENTS, '-p', 'enable_motion:=true'
    )
    bring_up_node(watch, 'motion')
    watch.wait_motion('FIRST_MOVE', 'TRACKING')


def test_without_policy_node_the_joints_come_to_rest_and_a_new_one_goes_on(running, started):
    nodes, watch, *_ = running
    nodes['policy'].send_signal(signal.SIGKILL)
    nodes['policy'].wait()
    watch.wait_motion('HOLDING')
    watch.wait_rest(2.0)
    session = watch.policy.session
    nodes['policy'] = started(
        'wam_policy.nodes.policy.policy_node', *NODE_ARGUMENTS, '-p', "devices:=['cpu']"
    )
    bring_up_node(watch, 'policy')
    watch.wait(lambda: watch.policy.state_name == 'IDLE', 'workers are not ready', 90)
    watch.publish_instruction('pick up the red cube')
    watch.wait_running(session)
    watch.wait_motion('FIRST_MOVE', 'TRACKING')
