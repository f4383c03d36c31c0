"""The SROS 2 policies name what each node really opens: nothing is missing, nothing too much.

WAM_WRITE_ENCLAVES=1 writes src/wam_bringup/config/sros2 anew instead of comparing.
"""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree
from xml.etree.ElementTree import Comment, Element, SubElement

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Empty

from cli.domain import find_free_domain
from wam_console.console_node import ConsoleNode
from wam_policy.core.robot import embodiment
from wam_policy.nodes.description.description_node import DescriptionNode
from wam_policy.nodes.motion.motion_node import MotionNode
from wam_policy.nodes.policy import worker_backend
from wam_policy.nodes.policy.policy_node import PolicyNode
from wam_policy.nodes.recorder.recorder_node import RecorderNode
from wam_policy.nodes.stream.stream_node import StreamNode
from wam_policy.robot_names import add_namespace
from wam_policy.workers.supervisor import WorkerSpec

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]
POLICY_DIR = Path(__file__).resolve().parents[2] / 'src' / 'wam_bringup' / 'config' / 'sros2'
STUB_WORKER = Path(__file__).parents[1] / 'nodes' / 'toy_worker.py'
NODES = {
    'policy': PolicyNode,
    'motion': MotionNode,
    'recorder': RecorderNode,
    'stream': StreamNode,
    'console': ConsoleNode,
    'description': DescriptionNode,
}
ROBOTS = embodiment.list_robots()
NAMESPACE, SAFETY_PAGE = 'robot_1', POLICY_DIR.parents[3] / 'docs/explanation/safety.md'
SHARED = 'rosout|parameter_events|diagnostics|clock'
MOVE_POLICY = rf's#(ns="|path="|>)/#\1/robot_1/#; s#/robot_1/({SHARED})<#/\1<#'
WRITE = bool(os.environ.get('WAM_WRITE_ENCLAVES'))
# what every node has, in the policy's own words: parameters, life cycle, log, clock
COMMON_TOPICS = ('/rosout', '/parameter_events', '/clock', '/diagnostics')
OWN_SERVICES = (
    'describe_parameters',
    'get_parameter_types',
    'get_parameters',
    'list_parameters',
    'set_parameters',
    'set_parameters_atomically',
    'get_type_description',
    'change_state',
    'get_state',
    'get_available_states',
    'get_available_transitions',
    'get_transition_graph',
)

SEEDS = count(os.getpid())
Permissions = dict[str, list[str]]  # "topics publish" -> names


class MotionlessArm:
    """Open like i2rt's robot object; it is never asked to move."""

    def __init__(self, **_: object) -> None:
        self.motor_chain = None

    def get_observations(self) -> dict[str, list[float]]:
        return {
            'joint_pos': [0.1] * 6,
            'joint_vel': [0.0] * 6,
            'gripper_pos': [1.0],
            'joint_eff': [0.0] * 6,
        }

    def close(self) -> None:
        """Let go."""


@pytest.fixture
def vendors(monkeypatch):
    """Stand in for the vendors' packages: names of topics do not depend on what is in them."""
    genie = ModuleType('genie_msgs.msg')
    for kind in ('EndState', 'HeadState', 'WaistState', 'ArmState', 'MotionControlStatus'):
        setattr(genie, kind, Empty)
    opener, kinds = ModuleType('i2rt.robots.get_robot'), ModuleType('i2rt.robots.utils')
    opener.get_yam_robot = MotionlessArm
    kinds.ArmType, kinds.GripperType = {'YAM': 'yam'}, {'LINEAR_4310': 'linear_4310'}
    for module in (
        ModuleType('genie_msgs'),
        genie,
        ModuleType('i2rt'),
        ModuleType('i2rt.robots'),
        opener,
        kinds,
    ):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(
        worker_backend,
        'build_worker_spec',
        lambda params, checkpoint, base: WorkerSpec(
            devices=('cpu',),
            arguments=('--embodiment', params.embodiment),
            program=(sys.executable, str(STUB_WORKER)),
            restart_delay_s=0.2,
        ),
    )


def collect_node_permissions(
    robot: str, episodes_dir: Path, robot_namespace: str = ''
) -> dict[str, Permissions]:
    """Start each node with everything on and return what it opens."""
    found = {}
    for name, kind in NODES.items():
        context = rclpy.Context()
        # a domain for each: the graph may take a node for one of the same name that has gone
        rclpy.init(
            context=context,
            domain_id=find_free_domain(next(SEEDS)),
            args=[
                '--ros-args',
                '-r',
                f'__ns:={add_namespace(robot_namespace, "/wam")}',
                '-p',
                f"robot_namespace:='{robot_namespace}'",
                '-p',
                f'embodiment:={robot}',
                '-p',
                'enable_motion:=true',
                '-p',
                'use_deadman:=true',
                '-p',
                'joy_deadman_button:=0',
                '-p',
                f'output_dir:={episodes_dir}',
                '-p',
                'predicted_video:=true',
            ],
        )
        node = kind(context=context)
        try:
            assert node.trigger_configure() == node.trigger_activate(), name
            if isinstance(node, ConsoleNode):  # it subscribes while somebody looks
                node.stack.set_viewers(1, wants_predictions=True)
                node.stack.update_subscriptions()
            found[name] = wait_for_stable_permissions(node)
        finally:
            node.close()
            node.destroy_node()
            rclpy.shutdown(context=context)
    return found


def wait_for_stable_permissions(node: LifecycleNode) -> Permissions:
    """Wait until the graph has told everything."""
    before, since_s = None, time.monotonic()
    while time.monotonic() - since_s < 60.0:
        now = read_permissions(node)
        if now == before and now['topics publish']:
            return now
        before = now
        time.sleep(1.0)
    raise AssertionError(f'the graph does not settle: {before}')


def read_permissions(node: LifecycleNode) -> Permissions:
    where = node.get_name(), node.get_namespace()

    def list_own_names(pairs: list) -> list[str]:
        return sorted(
            name
            for name, _ in pairs
            if name not in COMMON_TOPICS
            and '/_action/' not in name
            and not name.endswith('/transition_event')
            and name not in own_services
        )

    own_services = {f'{node.get_fully_qualified_name()}/{service}' for service in OWN_SERVICES}
    served = node.get_service_names_and_types_by_node(*where)
    called = node.get_client_names_and_types_by_node(*where)
    heard = node.get_subscriber_names_and_types_by_node(*where)
    return {
        'topics publish': list_own_names(node.get_publisher_names_and_types_by_node(*where)),
        'topics subscribe': list_own_names(heard),
        'services reply': list_own_names(served),
        'services request': list_own_names(called),
        'actions execute': sorted(
            {name.split('/_action/')[0] for name, _ in served if '/_action/' in name}
        ),
        # only to see their status: the policy has no finer right
        'actions call': sorted(
            {name.split('/_action/')[0] for name, _ in heard if '/_action/' in name}
        ),
    }


def make_policy_xml(robot: str, permissions: dict[str, Permissions]) -> str:
    """Return what `ros2 security create_keystore` and `create_permission` take."""
    root = Element('policy', version='0.2.0')
    root.append(
        Comment(
            f' {robot}: made by WAM_WRITE_ENCLAVES=1 ./wam test tests/bringup/test_enclaves.py '
        )
    )
    enclaves = SubElement(root, 'enclaves')
    for name, granted in permissions.items():
        profile = SubElement(
            SubElement(SubElement(enclaves, 'enclave', path=f'/wam/{name}'), 'profiles'),
            'profile',
            ns='/wam',
            node=name,
        )
        add_common_permissions(profile)
        for what, topics in granted.items():
            tag, right = what.split()
            if topics:
                block = SubElement(profile, tag, {right: 'ALLOW'})
                for topic in topics:
                    SubElement(block, tag.removesuffix('s')).text = topic
    ElementTree.indent(root, ' ')
    return ElementTree.tostring(root, encoding='unicode') + '\n'


def add_common_permissions(profile: Element) -> None:
    """Grant what every node needs: its log, clock, parameters and life cycle."""
    for right, topics in (
        ('publish', ('/rosout', '/parameter_events', '/diagnostics', '~/transition_event')),
        ('subscribe', ('/clock', '/parameter_events')),
    ):
        block = SubElement(profile, 'topics', {right: 'ALLOW'})
        for topic in topics:
            SubElement(block, 'topic').text = topic
    block = SubElement(profile, 'services', {'reply': 'ALLOW'})
    for service in OWN_SERVICES:
        SubElement(block, 'service').text = f'~/{service}'
    block = SubElement(profile, 'services', {'request': 'ALLOW'})
    SubElement(block, 'service').text = '~/get_parameters'  # of another node of its name


def iterate_permissions(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield enclave, kind, right and name of everything a policy grants."""
    for enclave in ElementTree.parse(path).iter('enclave'):
        for block in enclave.iter():
            for item in block if block.tag in ('topics', 'services', 'actions') else ():
                yield enclave.get('path', ''), block.tag, *block.attrib, item.text or ''


@pytest.mark.parametrize('robot', ROBOTS)
def test_each_node_may_do_what_it_does_and_nothing_else(robot, vendors, tmp_path):
    made = make_policy_xml(robot, collect_node_permissions(robot, tmp_path))
    path = POLICY_DIR / f'{robot}.xml'
    if WRITE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made, encoding='utf-8')
    assert path.read_text(encoding='utf-8') == made, (
        'the nodes open something else: '
        'WAM_WRITE_ENCLAVES=1 ./wam test tests/bringup/test_enclaves.py'
    )


@pytest.mark.parametrize(
    'robot', [ROBOTS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in ROBOTS[1:])]
)
def test_of_a_robot_in_a_namespace_every_name_moves(robot, vendors, tmp_path):
    """Also the command by which the policies follow, of docs/explanation/safety.md."""
    found = collect_node_permissions(robot, tmp_path, NAMESPACE)
    opened = {
        (f'/wam/{node}', right, name)
        for node, granted in found.items()
        for right, names in granted.items()
        for name in names
    }
    path = POLICY_DIR / f'{robot}.xml'
    assert MOVE_POLICY in SAFETY_PAGE.read_text(encoding='utf-8')
    moved = tmp_path / 'moved.xml'
    moved.write_bytes(subprocess.check_output(['sed', '-E', MOVE_POLICY, str(path)]))
    granted = {
        (enclave.removeprefix(f'/{NAMESPACE}'), f'{kind} {right}', name)
        for enclave, kind, right, name in iterate_permissions(moved)
        if not name.startswith('~') and name not in COMMON_TOPICS
    }
    assert opened == granted
    assert all(name.startswith(f'/{NAMESPACE}/') for *_, name in opened)
    assert len(opened) == sum(
        not name.startswith('~') and name not in COMMON_TOPICS
        for *_, name in iterate_permissions(path)
    )


@pytest.mark.parametrize('robot', ROBOTS)
def test_only_motion_and_its_driver_may_command_the_robot(robot):
    given = list(iterate_permissions(POLICY_DIR / f'{robot}.xml'))
    body = embodiment.load_embodiment(robot)
    for controller in body.controllers:
        who = {
            enclave
            for enclave, _, right, name in given
            if right == 'publish' and name == controller.topic
        }
        assert who == {'/wam/motion'}
    vendor = {
        name
        for enclave, _, right, name in given
        if right == 'publish' and name.startswith('/wbc/')
    }
    assert all(
        enclave == '/wam/stream'
        for enclave, _, right, name in given
        if right == 'publish' and name in vendor
    )
    writers = {
        enclave
        for enclave, _, right, name in given
        if right == 'publish'
        and name in ('/wam/robot_fault', '/wam/driver_status', '/joint_states')
    }
    assert writers == {'/wam/stream'}
    assert not [name for *_, name in given if '*' in name]
