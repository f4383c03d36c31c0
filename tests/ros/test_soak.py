"""The long watch: what it names, how it judges, and that a kill loses one sample at most."""

import json

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.ros import soak, soak_plot  # noqa: E402

pytestmark = pytest.mark.ros


def samples(leak_mb_per_h=0.0, hours=1.0, period_s=20.0, restarts=0):
    """Return made-up samples of two processes; the node's memory grows."""
    noise = np.random.default_rng(5)
    found = []
    for at_s in np.arange(0.0, 3600 * hours, period_s):
        used = {'rss_mb': 200.0, 'fds': 30, 'threads': 12}
        found.append({
            'at_s': float(at_s), 'latency_p50_ms': 80.0, 'latency_p99_ms': 120.0, 'chunk_hz': 8.0,
            'underruns': 0, 'load': 1.0, 'worker_restarts': restarts, 'processes': {
                'motion_node': {**used, 'uss_mb': 90.0 + noise.normal(0.0, 0.2)},
                'policy_node': {**used, 'uss_mb': 120.0 + noise.normal(0.0, 0.2)
                                + leak_mb_per_h * at_s / 3600}}})
    return found


def document(**changes):
    found = samples(**changes)
    return {'robot': 'yam', 'model': 'toy', 'samples': found, 'launch_exit_code': 0,
            'verdict': soak.verdict(found, 600.0)}


@pytest.mark.parametrize(('command', 'name'), [
    (['python', '-m', 'wam_policy.worker.main', '--rank', '1', '--role', 'uncond'],
     'worker uncond'),
    (['python', '/install/lib/wam_policy/policy_node', '--ros-args'], 'policy_node'),
    (['python', '/opt/bin/ros2', 'launch', 'wam_bringup', 'yam.launch.py'], 'launch'),
    (['python', '-m', 'wam_policy.ros.leash', '1', 'ros2', 'launch'], None),
    (['bash'], None),
])
def test_processes_are_named_by_what_they_do(command, name):
    assert soak.named(command) == name


def test_a_stack_that_does_not_grow_is_flat():
    found = document()
    assert found['verdict']['flat'] and found['verdict']['grows'] == []
    assert found['verdict']['samples'] == 150       # those of the warm-up do not count
    assert soak.faults(found) == []


def test_a_leak_is_found_and_named():
    found = document(leak_mb_per_h=5.0)
    assert not found['verdict']['flat']
    assert found['verdict']['grows'] == ['policy_node uss_mb']
    assert found['verdict']['processes']['policy_node']['uss_mb']['per_hour'] == pytest.approx(
        5.0, abs=0.5)
    assert 'policy_node uss_mb grows' in soak.faults(found)


def test_restarted_workers_and_a_launch_that_failed_are_faults():
    found = document(restarts=1) | {'launch_exit_code': 1}
    assert soak.faults(found) == ['the launch ended with status 1', 'workers were restarted']


def test_a_run_that_was_too_short_is_not_called_flat():
    assert 'too short to tell' in soak.faults(document(hours=0.01))[0]


def test_a_report_is_replaced_whole_judged_again_and_drawn(tmp_path):
    path, plot = tmp_path / 'R.json', tmp_path / 'P.png'
    soak.written(path, document())
    assert soak.main(['--again', '--report', str(path), '--plot', str(plot)]) == 0
    assert json.loads(path.read_text())['verdict']['flat']
    assert plot.read_bytes().startswith(b'\x89PNG') and not list(tmp_path.glob('*.part'))
    soak_plot.drawn(document(hours=0.01), plot)     # too short for a slope


@pytest.mark.parametrize(('given', 'complaint'), [
    (['--hours', '0', '--report', 'R.json'], '--hours: want more than 0'),
    (['--report', '/nowhere/R.json'], 'no folder /nowhere'),
    (['--again', '--report', 'none.json'], 'no report none.json'),
])
def test_wrong_arguments_name_the_fix(given, complaint, capsys):
    with pytest.raises(SystemExit):
        soak.arguments(given)
    assert complaint in capsys.readouterr().err
