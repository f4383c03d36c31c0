"""The demo: its door, its judgment, and a short run of the whole."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_tools import demo

pytestmark = [pytest.mark.ros, pytest.mark.stack]
GOOD = {
    'chunks': 400,
    'kv_commits': 60,
    'moved_rad': 0.4,
    'launch_exit_code': 0,
    'exit_codes': {'policy_node': 0, 'sim_node': 0},
    'killed_processes': 0,
}


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (['--robot', 'g1'], "invalid choice: 'g1'"),
        (['--duration', '0'], 'want more than 0 s'),
        (['--duration', 'long'], 'invalid float'),
        (['--seed', '-1'], 'want 0 or more'),
        (['--camera-size', '1x1'], 'invalid choice'),
        (['--report', '/no/such/folder/r.json'], 'no folder'),
    ],
)
def test_wrong_arguments_are_refused_with_status_2(given, words, capsys):
    with pytest.raises(SystemExit) as refused:
        demo.parse_arguments(given)
    assert refused.value.code == 2 and words in capsys.readouterr().err


def test_the_launch_is_the_one_a_user_types(monkeypatch):
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    command = demo.make_launch_command(
        demo.parse_arguments(['--robot', 'yam', '--seed', '7', '--camera-hz', '20', '--headless'])
    )
    assert command[:4] == ['ros2', 'launch', 'wam_bringup', 'yam.launch.py']
    assert {
        'sim:=true',
        'enable_motion:=true',
        'seed:=7',
        'viewer:=false',
        'camera_hz:=20.0',
    } == set(command[4:])


def test_a_window_is_opened_where_there_is_a_display_and_missed_where_there_is_none(
    monkeypatch, capsys
):
    monkeypatch.setenv('DISPLAY', ':0')
    assert 'viewer:=true' in demo.make_launch_command(demo.parse_arguments([]))
    assert 'viewer:=false' in demo.make_launch_command(demo.parse_arguments(['--headless']))
    monkeypatch.delenv('DISPLAY')
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    assert 'viewer:=false' in demo.make_launch_command(demo.parse_arguments([]))
    assert 'no display' in capsys.readouterr().out


def test_a_remote_server_needs_no_memory():
    assert demo.find_failures({**GOOD, 'kv_commits': 0}, 8.0, has_memory=False) == []


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'chunks': 1}, 'only 1 chunks'),
        ({'kv_commits': 0}, 'no real frames'),
        ({'moved_rad': 0.001}, 'moved only 0.0010 rad'),
        ({'launch_exit_code': 1}, 'launch ended with status 1'),
        ({'launch_exit_code': None}, 'launch ended with status None'),
        ({'exit_codes': {'motion_node': -11}}, 'motion_node ended with status -11'),
        ({'killed_processes': 2}, '2 processes had to be killed'),
    ],
)
def test_a_run_that_was_not_alive_or_not_clean_is_told_so(change, words):
    assert demo.find_failures(GOOD, 60.0) == []
    found = demo.find_failures(GOOD | change, 60.0)
    assert len(found) == 1 and words in found[0]


@pytest.mark.parametrize(
    ('wrong', 'numbers', 'duration_s', 'status'),
    [
        ([], [], 60.0, 0),
        (['x'], [], 60.0, 1),
        ([], [signal.SIGINT], None, 0),
        (['x'], [signal.SIGINT], None, 130),
        ([], [signal.SIGINT], 60.0, 130),
        ([], [signal.SIGTERM], None, 143),
        (['x'], [signal.SIGTERM, signal.SIGINT], 60.0, 143),
    ],
)
def test_the_status_tells_how_it_ended(wrong, numbers, duration_s, status):
    assert demo._exit_status(wrong, numbers, duration_s) == status


@pytest.mark.parametrize(
    'rmw',
    [
        pytest.param(None, id='rmw of the environment'),
        pytest.param('rmw_fastrtps_cpp', marks=pytest.mark.slow),
    ],
)
def test_the_demo_reports_what_it_measured(rmw, tmp_path):
    """A short run of the whole, in the domain of these tests."""
    env = {**os.environ, **({'RMW_IMPLEMENTATION': rmw} if rmw else {})}
    report = tmp_path / 'report.json'
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'wam_tools.demo',
            '--robot',
            'yam',
            '--headless',
            '--duration',
            '5',
            '--seed',
            '3',
            '--camera-size',
            '160x120',
            '--report',
            str(report),
        ],
        capture_output=True,
        text=True,
        timeout=250,
        env=env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found['robot'] == 'yam' and found['trained'] == 1
    assert rmw in (None, found['versions']['rmw'])
    assert found['chunks'] > 8 and found['kv_commits'] > 2
    assert {'p50', 'p99', 'image_transport', 'denoise', 'publish'} <= set(found['latency_ms'])
    assert all(np.isfinite(rate) and rate > 1 for rate in found['camera_rate_hz'].values())
    for key in ('max_velocity_ratio', 'max_acceleration_ratio', 'max_jerk_ratio'):
        assert 0 < found[key] <= 1.0 + 1e-6
    nodes = ('policy_node', 'motion_node', 'sim_node', 'description_node', 'console_node')
    assert found['exit_codes'] == dict.fromkeys(nodes, 0)
    assert found['memory_mb'] < 6000


@pytest.mark.timeout(100)
@pytest.mark.parametrize(
    ('number', 'status'),
    [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGKILL, -9)],
)
def test_however_it_ends_nothing_is_left(number, status, tmp_path):
    mark = f'demo-{os.getpid()}-{number}'
    run = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'wam_tools.demo',
            '--robot',
            'yam',
            '--headless',
            '--camera-size',
            '160x120',
        ],
        stdout=subprocess.DEVNULL,
        env={**os.environ, 'WAM_MARK': mark},
    )
    end_s = time.monotonic() + 60
    while not any('workers.run_worker' in ' '.join(p.cmdline()) for p in marked(mark)):
        assert time.monotonic() < end_s, 'the workers do not start'
        time.sleep(0.2)
    run.send_signal(number)
    assert run.wait(30) == status
    end_s = time.monotonic() + 20
    while left := marked(mark):
        assert time.monotonic() < end_s, [p.cmdline() for p in left]
        time.sleep(0.1)


def marked(mark):
    """Return the processes whose environment carries a mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get('WAM_MARK') == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_the_old_name_of_the_server_profile_still_works(capsys):
    chosen = demo.parse_arguments(['--headless', '--flavour', 'released'])
    assert 'server_profile:=released' in demo.make_launch_command(chosen)
    assert 'use --server-profile' in capsys.readouterr().err
