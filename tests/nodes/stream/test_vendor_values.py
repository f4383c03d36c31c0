"""Every value of a robot's vendor block is read by the driver that it is written for."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from builtin_interfaces.msg import Time  # noqa: E402 - needs a ROS 2 environment
from sensor_msgs.msg import JointState  # noqa: E402

from wam_policy.core.robot.embodiment import list_robots, load_embodiment  # noqa: E402
from wam_policy.nodes.stream import agibot_gdk, stream_node, yam_i2rt  # noqa: E402

pytestmark = pytest.mark.ros


class TracedMapping(Mapping):
    """Hand out a mapping's values and remember which were asked for."""

    def __init__(self, values: Mapping, path: str = '', read: set[str] | None = None) -> None:
        self.values_by_key, self.path = values, path
        self.read: set[str] = set() if read is None else read

    def __getitem__(self, key: Any) -> Any:
        value = self.values_by_key[key]
        self.read.add(f'{self.path}/{key}')
        return self._trace(value, f'{self.path}/{key}')

    def _trace(self, value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            return TracedMapping(value, path, self.read)
        if isinstance(value, tuple) and value and isinstance(value[0], Mapping):
            return tuple(self._trace(each, f'{path}/{i}') for i, each in enumerate(value))
        return value

    def __iter__(self) -> Iterator:
        return iter(self.values_by_key)

    def __len__(self) -> int:
        return len(self.values_by_key)

    def find_unread(self) -> list[str]:
        return sorted(set(list_paths(self.values_by_key)) - self.read)


def list_paths(values: Any, path: str = '') -> Iterator[str]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield f'{path}/{key}'
            yield from list_paths(value, f'{path}/{key}')
    elif isinstance(values, tuple):
        for i, value in enumerate(values):
            yield from list_paths(value, f'{path}/{i}')


class FakeNode:
    """Open topics that nothing comes on and take what is published."""

    def create_subscription(self, kind, topic, callback, qos_profile=None):
        return topic

    def create_publisher(self, kind, topic, qos_profile):
        return SimpleNamespace(publish=lambda msg: None)

    def destroy_subscription(self, made):
        pass

    destroy_publisher = destroy_subscription

    def get_logger(self):
        return SimpleNamespace(warning=print, error=print, info=print)

    def get_clock(self):
        now = SimpleNamespace(nanoseconds=1, to_msg=Time)
        return SimpleNamespace(now=lambda: now)


def drive_agibot(monkeypatch, robot) -> None:
    vendor = ModuleType('genie_msgs.msg')
    for kind in ('EndState', 'HeadState', 'WaistState', 'ArmState', 'MotionControlStatus'):
        setattr(vendor, kind, object)
    monkeypatch.setitem(sys.modules, 'genie_msgs', ModuleType('genie_msgs'))
    monkeypatch.setitem(sys.modules, 'genie_msgs.msg', vendor)
    params = agibot_gdk.AgibotParams()
    monkeypatch.setattr(agibot_gdk.parameters, 'read', lambda node, kind: params)
    states = []
    gdk = agibot_gdk.AgibotGdk(FakeNode(), robot, states.append)
    motor = SimpleNamespace(
        id=1, position=0.3, status=0, err_code=0, enable=True, temperature=30.0, effort=1.0
    )
    names = robot.vendor['joint_names']
    for part, topic in (('head', 'joint_head_{}'), ('waist', 'joint_{}')):
        words = ('yaw', 'pitch') if part == 'head' else ('body_pitch', 'lift_body')
        gdk._on_body_state(
            part,
            SimpleNamespace(name=[topic.format(w) for w in words], motor_states=[motor] * 2),
        )
    for arm in robot.vendor['arm_data_topics']:
        for state in (*robot.vendor['arm_state_faults'].values_by_key, 0x1001):
            gdk._on_arm_data(
                arm, SimpleNamespace(system_error=0, arm_state=state, motor_states=[motor] * 7)
            )
    for gripper in robot.vendor['gripper_state_topics']:
        hand = SimpleNamespace(position=80.0, status=0, err_code=0)
        gdk._on_gripper_state(gripper, SimpleNamespace(end_state=[hand], controlled=True))
    for mode in (1, 0, 2, 1):
        gdk._on_motion_control(SimpleNamespace(mode=mode, error_code=0, error_msg=''))
        assert ('mode PLANNING' in gdk.fault) is (mode == 2)
    for count in (14, 42):
        gdk._on_arm_state(JointState(position=[0.1] * count))
    gdk.send(np.zeros(len(robot.commanded)))
    assert gdk.fault == '' and gdk.inactive_checks == {} and gdk.warnings == []
    assert len(states) == 2 and len(names) == 4


def drive_yam(monkeypatch, robot) -> None:
    def open_robot(channel, **_):
        return SimpleNamespace(
            motor_chain=SimpleNamespace(running=True, state=None),
            get_observations=lambda: {
                'joint_pos': np.zeros(6),
                'joint_vel': np.zeros(6),
                'gripper_pos': np.ones(1),
                'temp_rotor': np.full(7, 40.0),
            },
            command_joint_pos=lambda position: None,
            close=lambda: None,
        )

    robots, utils = ModuleType('i2rt.robots.get_robot'), ModuleType('i2rt.robots.utils')
    robots.get_yam_robot = open_robot
    utils.ArmType, utils.GripperType = {'YAM': 'yam'}, {'LINEAR_4310': 'linear_4310'}
    for name in ('i2rt', 'i2rt.robots'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, robots.__name__, robots)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    states = []
    monkeypatch.setattr(yam_i2rt.parameters, 'read', lambda node, kind: kind())
    driver = stream_node.ADAPTERS['i2rt'](FakeNode(), robot, states.append)
    driver.read()
    driver.send(np.zeros(len(robot.commanded)))
    assert states and driver.fault == ''


def drive_ros2_control(monkeypatch, robot) -> None:
    states, sent = [], []
    node = FakeNode()
    node.create_publisher = lambda *_: SimpleNamespace(publish=sent.append)
    served = robot.with_controllers(robot.vendor['served_controllers'])
    gripper = stream_node.ADAPTERS['ros2_control'](node, served, states.append)
    arm = [f'panda_joint{i}' for i in range(1, 8)]
    for names, position in ((arm, [0.1] * 7), (['gripper'], [0.5])):  # the arm's, and our own
        gripper._on_joint_state_msg(JointState(name=names, position=position))
    assert states == [] and gripper.fault == ''
    knuckle = 'robotiq_85_left_knuckle_joint'
    for angle_rad, opening in ((0.0, 1.0), (0.7929, 0.0), (0.39645, 0.5)):
        gripper._on_joint_state_msg(
            JointState(name=[*arm, knuckle], position=[0.1] * 7 + [angle_rad], velocity=[0.4] * 8)
        )
        assert states[-1].names == ('gripper',) and gripper.fault == ''
        assert states[-1].position[0] == pytest.approx(opening)
        assert states[-1].velocity[0] == pytest.approx(-0.4 / 0.7929)  # it closes
        gripper.send(np.array([opening]))
        assert list(sent[-1].data) == pytest.approx([angle_rad])
    gripper._on_joint_state_msg(JointState(name=[knuckle], position=[45.0]))  # degrees
    assert 'outside [-0.05, 0.85]' in gripper.fault and len(states) == 3
    assert set(gripper.inactive_checks) == {'temperature', 'driver_faults'}


DRIVERS = {
    'agibot_gdk': drive_agibot,
    'i2rt': drive_yam,
    'ros2_control': drive_ros2_control,
}


@pytest.mark.parametrize('name', list_robots())
def test_every_value_of_the_vendor_block_is_read(monkeypatch, name):
    robot = load_embodiment(name)
    traced = TracedMapping(robot.vendor)
    DRIVERS[traced['adapter']](monkeypatch, replace(robot, vendor=traced))
    source = Path(stream_node.__file__).read_text(encoding='utf-8')
    assert [path for path in traced.find_unread() if f"vendor['{path[1:]}']" not in source] == []


def test_a_value_that_nothing_reads_is_found():
    traced = TracedMapping({'a': 1, 'inner': {'b': 2, 'c': 3}, 'rows': ({'d': 4},)})
    assert traced['a'] + traced['inner']['b'] == 3 and traced['rows'][0].get('x') is None
    assert traced.find_unread() == ['/inner/c', '/rows/0/d']
