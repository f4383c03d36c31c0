"""Interfaces, e-stop signal and the check for other RMWs, on each RMW implementation.

A process has one RMW, so each is tried in processes of its own.
"""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import os
import subprocess
import sys
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
pytest.importorskip('wam_msgs', reason='src/ is not built: run ./wam test')
from ament_index_python.packages import get_packages_with_prefixes

from cli.domain import find_free_domain
from cli.ros import SUPPORTED_RMWS
from wam_policy.nodes import rmw_vendor

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]
INSTALLED_RMWS = [name for name in SUPPORTED_RMWS if name in get_packages_with_prefixes()]
SEEDS = count(os.getpid() + 50)
CHECKS = Path(__file__).with_name('interface_checks.py')

MOTION_SCRIPT = """
import time
import rclpy
from wam_policy.nodes import rmw_vendor
from wam_policy.nodes.motion.motion_node import MotionNode

rclpy.init(args=['--ros-args', '-p', 'embodiment:=yam', '-r', '__ns:=/wam'])
node = MotionNode()
node.trigger_configure()
node.trigger_activate()
start, text = time.monotonic(), ''
while time.monotonic() < start + 90:
    rclpy.spin_once(node, timeout_sec=0.05)
    alone, now = rmw_vendor.describe_domain(node)
    # with the same RMW there is nobody to wait for
    if now != text and (not alone or time.monotonic() > start + 3):
        text = now
        print(text, flush=True)
"""
BUTTON_SCRIPT = """
import time
import rclpy
from std_msgs.msg import Bool, Empty
from wam_policy.nodes import qos, rmw_vendor

rclpy.init()
node = rclpy.create_node('button')
publisher = node.create_publisher(Empty, '/wam/estop_signal', 1)
latched = []
node.create_subscription(Bool, '/wam/estop', lambda msg: latched.append(msg.data), qos.LATCHED)
end = time.monotonic() + 60
while not any(latched):
    assert time.monotonic() < end, f'the robot did not stop: {latched}'
    publisher.publish(Empty())
    rclpy.spin_once(node, timeout_sec=0.1)
print(rmw_vendor.describe_domain(node)[1])
"""


@pytest.fixture(autouse=True)
def own_domain(monkeypatch):
    """Give each test a ROS domain: a killed participant is seen for ten seconds more."""
    monkeypatch.setenv('ROS_DOMAIN_ID', str(find_free_domain(next(SEEDS))))


def make_env(rmw):
    """Return the environment of a process on `rmw`, in the domain of this test."""
    return {**os.environ, 'RMW_IMPLEMENTATION': rmw}


@contextmanager
def start_script(script, rmw):
    """Run a script on `rmw` until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, '-c', script], env=make_env(rmw), stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_assembled_ros_has_every_supported_rmw():
    if Path(get_packages_with_prefixes()['rclpy']).parent.name == '.ros':
        assert list(SUPPORTED_RMWS) == INSTALLED_RMWS
    assert INSTALLED_RMWS


@pytest.mark.parametrize('rmw', INSTALLED_RMWS)
def test_messages_services_and_actions_of_ours_work_on(rmw):
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', CHECKS],
        env=make_env(rmw),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert '6 passed' in result.stdout and 'skipped' not in result.stdout


@pytest.mark.parametrize('button_rmw', INSTALLED_RMWS)
@pytest.mark.parametrize('motion_rmw', INSTALLED_RMWS)
def test_the_estop_signal_works_across_and_both_sides_see_the_other_rmw(motion_rmw, button_rmw):
    with start_script(MOTION_SCRIPT, motion_rmw) as motion:
        button = subprocess.run(
            [sys.executable, '-c', BUTTON_SCRIPT],
            env=make_env(button_rmw),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert button.returncode == 0, button.stderr
        if motion_rmw == button_rmw:
            assert button.stdout.startswith('no node with another DDS')
            return
        product = rmw_vendor.PRODUCTS[rmw_vendor.VENDOR_IDS[motion_rmw]]
        assert product in button.stdout and f'RMW_IMPLEMENTATION={button_rmw}' in button.stdout
        product = rmw_vendor.PRODUCTS[rmw_vendor.VENDOR_IDS[button_rmw]]
        # after what it says while the other process still starts
        assert any(product in line for line in motion.stdout)


def make_endpoint(vendor, name='talker', namespace='/'):
    """Stand for what rclpy says of a publisher."""
    gid = list(bytes.fromhex(vendor) + bytes(14))
    return SimpleNamespace(endpoint_gid=gid, node_name=name, node_namespace=namespace)


def test_nodes_are_told_apart_by_the_vendor_in_their_gid():
    cyclone, fast = make_endpoint('0110'), make_endpoint('010f', 'rviz', '/lab')
    find = rmw_vendor.find_foreign_nodes
    assert find([cyclone, fast, fast], 'rmw_cyclonedds_cpp') == ['/lab/rviz (Fast DDS)']
    assert find([cyclone, fast], 'rmw_fastrtps_cpp') == ['/talker (Cyclone DDS)']
    assert find([fast], 'rmw_fastrtps_dynamic_cpp') == []
    unnamed = make_endpoint('0199', '_NODE_NAME_UNKNOWN_', '_NODE_NAMESPACE_UNKNOWN_')
    assert find([unnamed], 'rmw_fastrtps_cpp') == ['unnamed (vendor 0199)']


def test_an_rmw_without_a_known_vendor_makes_no_claim(monkeypatch):
    monkeypatch.setattr(rmw_vendor, 'get_rmw_implementation_identifier', lambda: 'rmw_zenoh_cpp')
    node = SimpleNamespace(
        get_publishers_info_by_topic=lambda topic: [make_endpoint('0110')],
        get_subscriptions_info_by_topic=lambda topic: [],
    )
    alone, text = rmw_vendor.describe_domain(node)
    assert alone and text == 'check not active: the DDS vendor of rmw_zenoh_cpp is unknown'
