"""`ros2 launch`, upstream's or our stand-in: arguments, errors, a clean end on Ctrl-C."""

import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip('launch_ros', reason='needs a ROS 2 environment: run ./wam test')
pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]

LAUNCH_FILE_TEMPLATE = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration

def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument('colour', default_value='red', choices=['red', 'blue'],
                              description='which cube'),
        ExecuteProcess(cmd=[{python!r}, '-u', '-c', {child!r}, LaunchConfiguration('colour')],
                       output='screen'),
    ])
"""


@pytest.fixture
def launch_file(tmp_path):
    path = tmp_path / 'one.launch.py'
    path.write_text(
        LAUNCH_FILE_TEMPLATE.format(
            python=sys.executable,
            child='import signal, sys\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(0))\n'
            'print("started", sys.argv[1])\nsignal.pause()',
        )
    )
    return path


def run_ros2_launch(*arguments):
    """Run `ros2 launch` to its end."""
    return subprocess.run(
        ['ros2', 'launch', *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_arguments_are_shown(launch_file):
    result = run_ros2_launch(launch_file, '--show-args')
    assert result.returncode == 0, result.stderr
    for text in ("'colour':", 'which cube', 'red', 'blue', "(default: 'red')"):
        assert text in result.stdout


def test_a_value_out_of_the_choices_is_refused(launch_file):
    result = run_ros2_launch(launch_file, 'colour:=green')
    assert result.returncode != 0
    assert 'green' in result.stdout + result.stderr


@pytest.mark.parametrize('word', ['colour=red', ':=red'])
def test_a_malformed_argument_is_refused(launch_file, word):
    result = run_ros2_launch(launch_file, word)
    assert result.returncode != 0
    assert word in result.stdout + result.stderr


def test_an_unknown_package_or_file_is_named():
    assert run_ros2_launch('no_such_package', 'x.launch.py').returncode != 0
    result = run_ros2_launch('wam_bringup', 'no_such.launch.py')
    assert result.returncode != 0
    assert 'no_such.launch.py' in result.stdout + result.stderr


def test_it_ends_cleanly_on_ctrl_c(launch_file, tmp_path):
    log = tmp_path / 'log'
    with log.open('w') as file:
        process = subprocess.Popen(
            ['ros2', 'launch', str(launch_file), 'colour:=blue'],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    end = time.monotonic() + 20
    while 'started blue' not in log.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0, log.read_text()
    assert 'finished cleanly' in log.read_text()
