"""What programs of this checkout are told beyond ROS 2's own setup."""

import os
import subprocess
import sys

import pytest

from cli.environment import make_environment
from cli.paths import find_checkout

# what one participant takes in large pieces from the system: glibc's own account
MALLOC_PROBE = """
import ctypes, os, rclpy
from rclpy.node import Node

fields = 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'.split()
Account = type('Account', (ctypes.Structure,), {
    '_fields_': [(name, ctypes.c_size_t) for name in fields]})
account = ctypes.CDLL('libc.so.6').mallinfo2
account.restype = Account
before = account().hblkhd
rclpy.init()
node = Node('idle')
print(account().hblkhd - before, flush=True)
os._exit(0)
"""


@pytest.mark.ros
def test_packets_are_kept_in_blocks_that_are_full_within_minutes():
    """With those of Cyclone DDS by default every process grows for an hour."""
    pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
    env = make_environment(
        find_checkout(),
        {name: value for name, value in os.environ.items() if name != 'CYCLONEDDS_URI'},
    )
    said = subprocess.run(
        [sys.executable, '-c', MALLOC_PROBE],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(said.stdout) < 1.5e6 and said.stderr == ''  # by default 2.1 MB: two of 1 MB


def test_a_users_own_settings_of_the_middleware_win():
    env = make_environment(find_checkout(), {**os.environ, 'CYCLONEDDS_URI': 'file:///mine.xml'})
    assert env['CYCLONEDDS_URI'] == 'file:///mine.xml'


def test_what_was_compiled_is_kept_for_the_next_process(tmp_path):
    """Without: a worker compiles three thousand files of its packages at every start."""
    (tmp_path / 'module.py').write_text('')
    env = make_environment(find_checkout(), {**os.environ, 'PYTHONDONTWRITEBYTECODE': '1'})
    env['PYTHONPATH'] = str(tmp_path)
    subprocess.run([sys.executable, '-c', 'import module'], env=env, timeout=60, check=True)
    assert list(tmp_path.glob('__pycache__/module.*.pyc'))


@pytest.mark.parametrize('chosen', ['', 'rmw_fastrtps_cpp'])
def test_an_rmw_that_is_set_is_not_overwritten(chosen):
    script = find_checkout().root / 'tools/ros_prefix/setup.bash'
    result = subprocess.run(
        ['bash', '-c', f'. {script}; echo $RMW_IMPLEMENTATION'],
        env={'PATH': os.environ['PATH'], 'RMW_IMPLEMENTATION': chosen},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == (chosen or 'rmw_cyclonedds_cpp')
