"""`./wam shell`: one environment, interactive or not, whatever ~/.bashrc says."""

import os
import subprocess

import pytest

from cli.commands import shell

FOREIGN = """
export ROS_DISTRO=humble AMENT_PREFIX_PATH=/opt/ros/humble PYTHONPATH=/opt/ros/humble/python
export RMW_IMPLEMENTATION=rmw_fastrtps_cpp CYCLONEDDS_URI=file:///other.xml ROS_DOMAIN_ID=5
export PATH=/opt/ros/humble/bin:$PATH LD_LIBRARY_PATH=/opt/ros/humble/lib EDITOR=nano
export MINE='two words'
alias ros2=false
python() { echo replaced; }
PS1='$ '
"""
ENV = {
    'PATH': os.environ['PATH'],
    'ROS_DISTRO': 'jazzy',
    'AMENT_PREFIX_PATH': '/here/.ros/jazzy',
    'PYTHONPATH': "/here/it's mine",
    'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp',
    'CYCLONEDDS_URI': '<Discovery/>',
}


def start_interactive(tmp_path, bashrc, command):
    (tmp_path / '.bashrc').write_text(bashrc)
    start = tmp_path / 'start'
    start.write_text(shell.make_bashrc(ENV))
    return subprocess.run(
        ['bash', '--rcfile', str(start), '-i'],
        input=command,
        env={**ENV, 'HOME': str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_bashrc_decides_nothing_about_ros_and_conflicts_are_named(tmp_path):
    done = start_interactive(tmp_path, FOREIGN, 'env -0; type -t ros2 python\n')
    *pairs, kinds = done.stdout.split('\0')
    found = dict(pair.split('=', 1) for pair in pairs if '=' in pair)
    assert {name: found.get(name) for name in ENV} == ENV
    assert not {'ROS_DOMAIN_ID', 'LD_LIBRARY_PATH'} & found.keys()
    assert (found['EDITOR'], found['MINE']) == ('nano', 'two words')
    assert 'alias' not in kinds and 'function' not in kinds
    [line] = [line for line in done.stderr.splitlines() if line.startswith('wam: ')]
    for name in ('ROS_DISTRO=humble', 'ROS_DOMAIN_ID=5', 'CYCLONEDDS_URI=file:///other.xml'):
        assert name in line
    assert 'RMW_IMPLEMENTATION=rmw_fastrtps_cpp' in line and 'PYTHONPATH=/opt' in line
    assert '=/opt/ros/humble/bin' not in line  # PATH grows in most of these files


@pytest.mark.parametrize('bashrc', ['', 'export EDITOR=nano\nPATH=/usr/games:$PATH\n'])
def test_nothing_is_said_where_nothing_conflicts(tmp_path, bashrc):
    done = start_interactive(tmp_path, bashrc, 'echo "$RMW_IMPLEMENTATION"\n')
    assert done.stdout == 'rmw_cyclonedds_cpp\n' and 'wam: ' not in done.stderr
