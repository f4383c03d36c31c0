"""A stack goes on without its observers: killed or stopped, nothing moves because of it."""

import json
import re
import signal
import time

import psutil
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from tf2_msgs.msg import TFMessage
from websockets import Origin
from websockets.sync.client import connect

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(300)]
TASK = 'pick up the red cube'
PAGE_PATTERN = re.compile(r"operator's page: http://(\S+)")


class PageReader:
    """What the page is told, as its text messages."""

    def __init__(self, host):
        self._client = connect(f'ws://{host}/ws', origin=Origin(f'http://{host}'), legacy=True)

    def read_state(self):
        while True:
            message = self._client.recv(timeout=20)
            if isinstance(message, str) and (found := json.loads(message))['type'] == 'state':
                return found

    def wait_node(self, name, condition):
        end_s = time.monotonic() + 30.0
        while True:
            found = [node for node in self.read_state()['nodes'] if node['name'] == name]
            if found and condition(found[0]):
                return
            assert time.monotonic() < end_s, f'{name}: {found}'

    def close(self):
        self._client.close()


@pytest.fixture(scope='module')
def stack(launched, watching):
    watch = watching('agibot_g1')
    launch = launched(
        'agibot_g1',
        'console:=true',
        'console_port:=18480',
        'sim:=true',
        'camera_size:=160x120',
        'checkpoint:=preset:tiny',
        'devices:=cpu',
        'steps:=1',
        'guidance_scale:=1.0',
    )
    watch.wait(lambda: watch.policy.state_name == 'IDLE', 'workers are not ready', 200)
    watch.wait_motion('HOLDING')
    watch.frames = []
    watch.create_subscription(TFMessage, '/tf', lambda _: watch.frames.append(time.monotonic()), 9)
    watch.publish_instruction(TASK)
    watch.wait_motion('FIRST_MOVE', 'TRACKING')
    return launch, watch


def find_node(launch, executable):
    return next(
        child
        for child in psutil.Process(launch.pid).children(recursive=True)
        if any(word.endswith(f'/{executable}') for word in child.cmdline())
    )


def check_motion_goes_on(launch, watch):
    watch.jumps.clear()
    accepted = watch.motion.chunks_accepted
    watch.wait(lambda: watch.motion.chunks_accepted > accepted + 5, 'no chunk is followed')
    assert launch.returncode is None and not watch.jumps
    assert watch.motion.state_name in ('FIRST_MOVE', 'TRACKING'), watch.reason


@pytest.mark.slow
def test_a_lost_description_node_is_named_and_moves_nothing(stack):
    launch, watch = stack
    page = PageReader(
        watch.wait(lambda: PAGE_PATTERN.search(launch.read_log()), 'no page is served')[1]
    )
    page.wait_node('description', lambda node: node['age_s'] < 3.0 and not node['errors'])
    description = find_node(launch, 'description_node')
    watch.wait(lambda: watch.frames, 'no /tf')
    description.send_signal(signal.SIGSTOP)
    try:
        page.wait_node('description', lambda node: node['age_s'] > 3.5)
        check_motion_goes_on(launch, watch)
        assert time.monotonic() - watch.frames[-1] > 3.0  # what RViz shows is old
    finally:
        description.send_signal(signal.SIGCONT)
    page.wait_node('description', lambda node: node['age_s'] < 3.0)
    description.kill()
    page.wait_node('description', lambda node: 'code -9' in ''.join(node['errors']))
    check_motion_goes_on(launch, watch)
    assert page.read_state()['motion']['age_s'] < 3.0  # the rest of the page is current
    page.close()


@pytest.mark.parametrize('number', [signal.SIGSTOP, signal.SIGKILL])
def test_a_lost_console_moves_nothing(stack, number):
    launch, watch = stack
    console = find_node(launch, 'console_node')
    console.send_signal(number)
    time.sleep(1.0)
    check_motion_goes_on(launch, watch)
    if number == signal.SIGSTOP:
        console.send_signal(signal.SIGCONT)
