"""The long watch: what it names, how it judges, and that a kill loses one sample at most."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_tools import soak, soak_plot
from wam_tools.attached_stack import AttachedStack, process_name

pytestmark = pytest.mark.ros


def samples(leak_mb_per_h=0.0, hours=1.0, period_s=20.0, restarts=0):
    """Return made-up samples of two processes; the node's memory grows."""
    noise = np.random.default_rng(5)
    found = []
    for at_s in np.arange(0.0, 3600 * hours, period_s):
        used = {'rss_mb': 200.0, 'fds': 30, 'threads': 12}
        found.append(
            {
                'at_s': float(at_s),
                'latency_p50_ms': 80.0,
                'latency_p99_ms': 120.0,
                'chunk_hz': 8.0,
                'underruns': 0,
                'load': 1.0,
                'worker_restarts': restarts,
                'processes': {
                    'motion_node': {**used, 'uss_mb': 90.0 + noise.normal(0.0, 0.2)},
                    'policy_node': {
                        **used,
                        'uss_mb': 120.0 + noise.normal(0.0, 0.2) + leak_mb_per_h * at_s / 3600,
                    },
                },
            }
        )
    return found


def document(**changes):
    found = samples(**changes)
    return {
        'robot': 'yam',
        'model': 'toy',
        'samples': found,
        'launch_exit_code': 0,
        'verdict': soak.evaluate_samples(found, 600.0),
    }


@pytest.mark.parametrize(
    ('command', 'name'),
    [
        (
            ['python', '-m', 'wam_policy.workers.run_worker', '--rank', '1', '--role', 'uncond'],
            'worker uncond',
        ),
        (['python', '/install/lib/wam_policy/policy_node', '--ros-args'], 'policy_node'),
        (['python', '/opt/bin/ros2', 'launch', 'wam_bringup', 'yam.launch.py'], 'launch'),
        (['python', '-m', 'wam_tools.die_with_parent', '1', 'ros2', 'launch'], None),
        (['python', '-m', 'wam_tools.evaluate_ros', '--robot', 'yam', '--job-file', 'F'], None),
        (['bash'], None),
    ],
)
def test_processes_are_named_by_what_they_do(command, name):
    assert process_name(command) == name


def test_a_stack_that_does_not_grow_is_flat():
    found = document()
    assert found['verdict']['flat'] and found['verdict']['grows'] == []
    assert found['verdict']['samples'] == 150  # those of the warm-up do not count
    assert soak.find_failures(found) == []


@pytest.mark.parametrize('hours', [1.0, 3.0])
def test_a_heap_that_settles_is_no_leak_and_a_longer_run_tells_slower_ones(hours):
    given = samples(hours=hours)
    for each in given:  # ever rarer, never again less
        each['processes']['motion_node']['uss_mb'] = 90.0 + 0.1 * int(
            3.0 * np.log1p(each['at_s'] / 600.0)
        )
    assert soak.evaluate_samples(given, 600.0)['grows'] == []
    leak_mb_per_h = 2.0 / hours
    assert soak.evaluate_samples(samples(hours=hours, leak_mb_per_h=leak_mb_per_h), 600.0)[
        'grows'
    ] == ['policy_node uss_mb']


def test_a_leak_is_found_and_named():
    found = document(leak_mb_per_h=5.0)
    assert not found['verdict']['flat']
    assert found['verdict']['grows'] == ['policy_node uss_mb']
    assert found['verdict']['processes']['policy_node']['uss_mb']['per_hour'] == pytest.approx(
        5.0, abs=0.5
    )
    assert 'policy_node uss_mb grows' in soak.find_failures(found)


def test_what_a_process_allocated_is_judged_not_the_libraries_it_alone_maps():
    given = samples()
    for number, each in enumerate(given):
        for process in each['processes'].values():
            process['anon_mb'] = process['uss_mb'] - 40.0
            process['uss_mb'] += 55.0 * (number > 100)  # another process has ended
    found = soak.evaluate_samples(given, 600.0)
    assert found['grows'] == [] and found['flat'] and found['memory'] == 'anon_mb'
    mine = psutil.Process()
    assert 0 < soak.read_anonymous_bytes(mine.pid) <= mine.memory_info().rss


def test_buffers_that_come_and_go_are_no_leak_and_hide_none():
    noise = np.random.default_rng(6)
    given = samples()
    leaking = samples(leak_mb_per_h=5.0)
    for number, each in enumerate(given):  # busier in the second half
        buffers = 3.7 * (noise.uniform() < 0.3 + 0.5 * (number > 90))
        for one in (each, leaking[number]):
            one['processes']['policy_node']['uss_mb'] += buffers
    assert soak.evaluate_samples(given, 600.0)['grows'] == []
    assert soak.evaluate_samples(leaking, 600.0)['grows'] == ['policy_node uss_mb']


def test_restarted_workers_and_a_launch_that_failed_are_faults():
    found = document(restarts=1) | {'launch_exit_code': 1}
    assert soak.find_failures(found) == [
        'the launch ended with status 1',
        'workers were restarted',
    ]


def test_of_several_stacks_the_longest_is_judged_after_a_warm_up_of_its_own():
    first = [{**each, 'stack': 1} for each in samples(leak_mb_per_h=50.0, hours=0.2)]
    second = [{**each, 'stack': 2, 'at_s': each['at_s'] + 800.0} for each in samples()]
    found = soak.evaluate_samples(first + second, 600.0)
    assert found['flat'] and found['stacks'] == 2 and found['samples'] == 150
    assert not soak.evaluate_samples(
        second
        + [
            {**each, 'at_s': each['at_s'] + 5000.0, 'stack': 3}
            for each in samples(leak_mb_per_h=50.0, hours=2.0)
        ],
        600.0,
    )['flat']


def test_a_run_that_was_too_short_is_not_called_flat():
    assert 'too short for a slope' in soak.find_failures(document(hours=0.01))[0]


def test_a_report_is_replaced_whole_judged_again_and_drawn(tmp_path):
    path, plot = tmp_path / 'R.json', tmp_path / 'P.png'
    soak.write_report(path, document())
    assert soak.main(['--replot', '--report', str(path), '--plot', str(plot)]) == 0
    assert json.loads(path.read_text())['verdict']['flat']
    assert plot.read_bytes().startswith(b'\x89PNG') and not list(tmp_path.glob('*.part'))
    soak_plot.plot_report(document(hours=0.01), plot)  # too short for a slope


@pytest.mark.parametrize(
    ('given', 'complaint'),
    [
        (['--hours', '0', '--report', 'R.json'], '--hours: want more than 0'),
        (['--report', '/nowhere/R.json'], 'no folder /nowhere'),
        (['--replot', '--report', 'none.json'], 'no report none.json'),
        (
            ['--attach-pid', '7', '--seed', '1', '--camera-hz', '5', '--report', 'R.json'],
            'omit --seed, --camera-hz',
        ),
    ],
)
def test_wrong_arguments_name_the_fix(given, complaint, capsys):
    with pytest.raises(SystemExit):
        soak.parse_arguments(given)
    assert complaint in capsys.readouterr().err


# a command that lives with one "stack" after another, each a launch with a node below it
TWO_STACKS = """
import shutil, subprocess, sys
stack = ('import shutil, subprocess; '
         'subprocess.run(["motion_node", "60"], executable=shutil.which("sleep"))')
for _ in range(2):
    launch = subprocess.Popen([sys.executable, '-c', stack, 'launch', 'yam.launch.py'])
    print('up', flush=True)
    sys.stdin.readline()
    subprocess.run(['pkill', '-P', str(launch.pid)])
    launch.kill()
    launch.wait()
    print('down', flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def command():
    """Start that command; end it, and with it what it would have started."""
    with subprocess.Popen(
        [sys.executable, '-c', TWO_STACKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        yield started
        for child in AttachedStack(started.pid).find_processes() if started.poll() is None else ():
            child.kill()
        started.kill()


def told(command):
    """Let it go on, and hear what it did."""
    command.stdin.write('\n')
    command.stdin.flush()
    return command.stdout.readline().strip()


def until(check):
    end_s = time.monotonic() + 5.0
    while not check():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_stacks_below_a_command_are_found_counted_and_outlived(command):
    watched = AttachedStack(command.pid)
    assert command.stdout.readline() == 'up\n'
    until(
        lambda: set(soak.measure_processes(watched.find_processes())) == {'launch', 'motion_node'}
    )
    assert (
        watched.stack_count == 1 and watched.find_robot_name() == 'yam' and not watched.has_ended
    )
    assert told(command) == 'down'
    assert (
        soak.measure_processes(watched.find_processes()) == {}
        and watched.find_robot_name() is None
    )
    assert told(command) == 'up'
    until(
        lambda: set(soak.measure_processes(watched.find_processes())) == {'launch', 'motion_node'}
    )
    assert watched.stack_count == 2
    assert told(command) == 'down'
    command.stdin.close()
    until(lambda: watched.has_ended)  # not yet waited for: a zombie has ended too
    assert watched.find_processes() == [] and watched.find_robot_name() is None
    assert '-c' in watched.command


def test_what_cannot_be_watched_says_why():
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    with pytest.raises(ValueError, match=f'no process {gone.pid}'):
        AttachedStack(gone.pid)
    here = psutil.Process().environ().get('ROS_DOMAIN_ID', '0')  # as it was started
    with pytest.raises(ValueError, match=f'set ROS_DOMAIN_ID={here}'):
        AttachedStack(os.getpid(), {'ROS_DOMAIN_ID': '230'})


def test_a_watch_of_what_has_ended_fails_with_the_reason(command, ros_domain, capfd, tmp_path):
    command.kill()
    command.wait()
    given = ['--attach-pid', str(command.pid), '--report', str(tmp_path / 'R.json')]
    assert soak.main(given) == 1
    assert f'no process {command.pid}' in capfd.readouterr().err


def test_old_options_still_work_with_a_warning(capsys, tmp_path):
    path = tmp_path / 'R.json'
    path.write_text('{}')
    chosen = soak.parse_arguments(['--watch=7', '--again', '--report', str(path)])
    assert chosen.attach_pid == 7 and chosen.replot
    warnings = capsys.readouterr().err
    assert 'use --attach-pid' in warnings and 'use --replot' in warnings
