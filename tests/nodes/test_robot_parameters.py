"""Which robot a node has, and under which names."""

from dataclasses import replace

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rclpy.parameter import Parameter

from wam_policy.nodes import parameters, robot_parameters
from wam_policy.nodes.parameters import MotionParams

pytestmark = pytest.mark.ros
IN_NAMESPACE = MotionParams(embodiment='yam', robot_namespace='robot_1')


@pytest.fixture
def make_node():
    context = rclpy.Context()
    rclpy.init(context=context)
    made = []

    def make(namespace):
        made.append(
            rclpy.create_node(
                'motion',
                context=context,
                namespace=namespace,
                parameter_overrides=[Parameter('robot_namespace', value='robot_1')],
            )
        )
        return made[-1]

    yield make
    for node in made:
        node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize('namespace', ['/robot_1', '/robot_1/wam'])
def test_the_robot_has_its_names_in_the_namespace(make_node, namespace):
    robot = robot_parameters.load_robot(make_node(namespace), IN_NAMESPACE)
    assert robot.controllers[0].topic == '/robot_1/left_arm_controller/joint_trajectory'


@pytest.mark.parametrize('namespace', ['/', '/wam', '/robot_10/wam', '/wam/robot_1'])
def test_a_node_elsewhere_is_refused(make_node, namespace):
    node = make_node(namespace)
    with pytest.raises(ValueError, match='robot_namespace is robot_1, but the node runs in /'):
        robot_parameters.load_robot(node, IN_NAMESPACE)
    robot_parameters.load_robot(node, replace(IN_NAMESPACE, robot_namespace=''))


def test_joint_states_are_the_robots_unless_another_topic_is_given():
    find = robot_parameters.find_joint_states_topic
    assert find(MotionParams()) == '/joint_states'
    assert find(IN_NAMESPACE) == '/robot_1/joint_states'
    for given in ('/arm/joint_states', 'joint_states'):
        assert find(replace(IN_NAMESPACE, joint_states_topic=given)) == given


def test_the_namespace_cannot_change_after_the_start(make_node):
    node = make_node('/robot_1/wam')
    assert parameters.read(node, MotionParams).robot_namespace == 'robot_1'
    (result,) = node.set_parameters([Parameter('robot_namespace', value='robot_2')])
    assert not result.successful and 'read-only' in result.reason
    assert parameters.read(node, MotionParams).robot_namespace == 'robot_1'


@pytest.mark.parametrize('name', ['1', 'a/b', '/robot_1', 'robot-1', '_robot', 'röbot', 'a b'])
def test_what_is_no_namespace_is_refused(name):
    with pytest.raises(ValueError, match='robot_namespace'):
        MotionParams(robot_namespace=name)
