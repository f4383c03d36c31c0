"""The commands of `ros2` in `./wam shell`: upstream's where they are installed, else ours."""

import importlib
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
cli = pytest.importorskip('ros2cli.cli')

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

PEER_SCRIPT = """
import rclpy
from rclpy.action import ActionServer
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import String
from std_srvs.srv import Trigger
from wam_msgs.action import RunInstruction

rclpy.init()
node = LifecycleNode('peer')
text = node.create_publisher(String, 'words', 1)
node.create_timer(0.05, lambda: text.publish(String(data='hello')))
node.create_service(Trigger, 'ask', lambda request, response: response)
node.declare_parameter('speed', 3)
server = ActionServer(node, RunInstruction, 'run', lambda goal: RunInstruction.Result())
print('ready', flush=True)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, ExternalShutdownException):
    pass
"""


@pytest.fixture
def run_ros2(capsys, monkeypatch):
    for name in ('action', 'lifecycle'):
        with suppress(ImportError):  # upstream's own are installed
            module = importlib.import_module(f'ros2verbs.{name}')
            monkeypatch.setattr(module, 'DISCOVERY_S', 1.0)

    def run(*words):
        capsys.readouterr()
        monkeypatch.setattr(sys, 'argv', ['ros2', *words])  # upstream's verbs read it, too
        result = cli.main(argv=list(words))  # in this process: a start takes seconds
        text = capsys.readouterr().out
        return result, text if result in (0, None) else f'{text}{result}'

    return run


@pytest.fixture(scope='module')
def peer():
    process = subprocess.Popen([sys.executable, '-c', PEER_SCRIPT], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b'ready\n'
    yield process
    process.send_signal(signal.SIGINT)
    process.wait(10)


def test_interfaces_are_listed_and_shown(run_ros2):
    status, text = run_ros2('interface', 'list', '-a')
    assert not status and 'wam_msgs/action/RunInstruction' in text and '/msg/' not in text
    assert 'uint32 width' in run_ros2('interface', 'show', 'sensor_msgs/msg/Image')[1]
    assert 'wam_msgs/srv/Reload' in run_ros2('interface', 'package', 'wam_msgs')[1]
    assert "checkpoint: ''" in run_ros2('interface', 'proto', 'wam_msgs/srv/Reload')[1]
    status, text = run_ros2('interface', 'show', 'sensor_msgs/msg/Nothing')
    assert status != 0 and 'Nothing' in text


def test_a_lifecycle_node_is_led_through_its_states(peer, run_ros2):
    assert '/peer' in run_ros2('lifecycle', 'nodes')[1]
    assert run_ros2('lifecycle', 'get', '/peer')[1] == 'unconfigured [1]\n'
    assert 'configure [1]' in run_ros2('lifecycle', 'list', '/peer')[1]
    status, text = run_ros2('lifecycle', 'set', '/peer', 'activate')
    assert status != 0
    assert run_ros2('lifecycle', 'set', '/peer', 'configure') == (0, 'Transitioning successful\n')
    assert 'inactive [2]' in run_ros2('lifecycle', 'get', '/peer')[1]


def test_actions_services_and_parameters_are_shown(peer, run_ros2):
    assert 'wam_msgs/action/RunInstruction' in run_ros2('action', 'list', '-t')[1]
    status, text = run_ros2('action', 'info', '/run')
    assert status == 0 and 'Action servers: 1' in text and '/peer' in text
    assert 'std_srvs/srv/Trigger' in run_ros2('service', 'type', '/ask')[1]
    assert '3' in run_ros2('param', 'get', '/peer', 'speed')[1]


def test_a_bag_is_recorded_shown_and_played(peer, tmp_path, run_ros2):
    bag = tmp_path / 'bag'
    words = ['ros2', 'bag', 'record', '-s', 'mcap', '-o', str(bag), '/words']
    recorder = subprocess.Popen(words)
    deadline_s = time.monotonic() + 60.0
    while not list(bag.glob('*.mcap')) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    time.sleep(3.0)
    recorder.send_signal(signal.SIGINT)
    recorder.wait(20)
    status, text = run_ros2('bag', 'info', str(bag))
    assert status == 0, text
    assert 'Topic: /words | Type: std_msgs/msg/String | Count: ' in text
    player = subprocess.Popen(['ros2', 'bag', 'play', str(bag), '-l'], stdout=subprocess.DEVNULL)
    try:
        rclpy.init()
        node = rclpy.create_node('listener')
        deadline_s = time.monotonic() + 30.0
        while node.count_publishers('/words') < 2 and time.monotonic() < deadline_s:
            rclpy.spin_once(node, timeout_sec=0.1)
        assert node.count_publishers('/words') == 2  # the peer and the bag
    finally:
        rclpy.try_shutdown()
        player.send_signal(signal.SIGINT)
        player.wait(10)
    status, text = run_ros2('bag', 'info', str(tmp_path / 'none'))
    assert status != 0 and 'none' in text
