"""`./wam record` hears a robot in a namespace, and no other one."""

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from sensor_msgs.msg import JointState

from wam_policy.nodes import qos
from wam_policy.nodes.recorder import record_command
from wam_policy.nodes.run_node import ExecutorThread
from wam_policy.recording import bag_access

pytestmark = pytest.mark.ros
PERIOD_S = 0.02


def test_the_joint_states_of_the_robot_in_the_namespace_are_recorded(tmp_path, ros_domain):
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('robots', context=context)
    outputs = [
        (node.create_publisher(JointState, topic, qos.JOINTS), JointState(name=[name]))
        for topic, name in (('/joint_states', 'other'), ('/robot_1/joint_states', 'ours'))
    ]
    node.create_timer(PERIOD_S, lambda: [out.publish(msg) for out, msg in outputs])
    spinning = ExecutorThread([node])
    try:
        given = ('--robot', 'yam', '--robot-namespace', 'robot_1', '--seconds', '1.5')
        assert record_command.main([*given, '--out', str(tmp_path), '--instruction', 'x']) == 0
    finally:
        spinning.stop()
        node.destroy_node()
        rclpy.shutdown(context=context)
    (folder,) = tmp_path.iterdir()
    assert bag_access.read_metadata(folder)['robot_namespace'] == 'robot_1'
    with bag_access.open_reader(folder) as reader:
        heard = {
            connection.topic: reader.deserialize(raw, connection.msgtype).name
            for connection, _, raw in reader.messages()
            if connection.topic.endswith('joint_states')
        }
    assert heard == {'/robot_1/joint_states': ['ours']}
