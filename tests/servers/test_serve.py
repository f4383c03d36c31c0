"""The whole way: `serve` with a model, asked by our remote worker and by the example script."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from wam_policy.core.robot import embodiment
from wam_policy.servers import profile_service, serve, server_profile
from wam_policy.servers.serving_engine import ServedModel
from wam_policy.workers import model_options
from wam_policy.workers import run_worker as worker_main
from wam_policy.workers.supervisor import WorkerSpec, WorkerState, WorkerSupervisor
from wam_policy.workers.worker_process import make_worker_environment

ROOT = Path(__file__).resolve().parents[2]
MODEL_ARGUMENTS = ('--checkpoint', 'preset:tiny', '--steps', '2', '--seed', '3')
ENVIRONMENT = {'OMP_NUM_THREADS': '1'}


@contextlib.contextmanager
def run_server(robot, *arguments):
    program = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'wam_policy.servers.serve',
            *MODEL_ARGUMENTS,
            '--embodiment',
            robot,
            '--threads',
            '1',
            '--port',
            '0',
            *arguments,
        ],
        env=make_worker_environment(ENVIRONMENT),
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    try:
        for line in program.stderr:
            lines.append(line)
            if found := re.search(r'at ws://127.0.0.1:(\d+)', line):
                break
        assert found, lines
        yield program, int(found[1])
    finally:
        program.kill()
        program.communicate()


def run_episode(spec, robot, between_commits=lambda: None):
    """Live a short episode: targets of a query before, between and after commits."""
    random, found = np.random.default_rng(0), []
    with WorkerSupervisor(spec) as pair:
        status = pair.wait_ready(250)
        assert status.state is WorkerState.READY, status

        def ask(kind, fields=None, arrays=None):
            return pair.request(kind, fields, arrays, timeout_s=30)

        ask('reset', {'session': 's', 'instruction': 'wipe the table'})
        for block in range(7):  # past the end of the window
            count = status.info['geometry']['frames_per_block'] if block else 1
            frames = {
                f'frames/{camera.key}': random.integers(0, 256, (count, 24, 32, 3), np.uint8)
                for camera in robot.cameras
            }
            said = ask('commit', {'session': 's', 'block': block, 'stamps_ns': []}, frames)
            if block == 3:
                between_commits()
            newest = {name.replace('frames', 'newest'): view[0] for name, view in frames.items()}
            for more in ({}, newest if block % 2 else {}):
                joints = robot.home_positions(robot.observed) + random.uniform(
                    0, 0.01, len(robot.observed)
                )
                answer = ask(
                    'query',
                    {'session': 's', 'sequence': len(found), 'stamp_ns': 1, 'seed': 11},
                    {'joints': joints, **more},
                )
                found.append(answer.arrays['targets'])
        geometry = {
            key: status.info['geometry'][key]
            for key in (
                'frames_per_block',
                'frame_period_s',
                'window_blocks',
                'horizon',
                'step_dt_s',
            )
        }
        facts = {
            key: status.info[key]
            for key in ('memory_update', 'embodiment_hash', 'trained', 'model')
        }
    cache = {key: said.fields[key] for key in ('cached_blocks', 'window_fill', 'rebuilds')}
    return found, {**geometry, **facts, **cache}


def run_example(robot, port):
    """Run the script that others may copy: three requests of a session of its own."""
    asked = subprocess.run(
        [
            sys.executable,
            ROOT / 'examples' / 'openpi_actions.py',
            '--robot',
            robot,
            '--port',
            str(port),
            '--requests',
            '3',
        ],
        env={**os.environ, 'WAM_TOKEN': 'open'},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert asked.returncode == 0, asked.stderr
    assert re.search(r'3 answers of float32 \[24, \d+\]: median \d', asked.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'devices'), [('agibot_g1', 'cpu,cpu'), ('yam', 'cpu')])
def test_a_robot_cannot_tell_our_server_from_a_local_worker(name, devices):
    robot = embodiment.load_embodiment(name)
    local = WorkerSpec(('cpu',), (*MODEL_ARGUMENTS, '--embodiment', name), environment=ENVIRONMENT)
    wanted, told = run_episode(local, robot)
    with run_server(name, '--quiet', '--devices', devices) as (_, port):
        remote = WorkerSpec(
            ('cpu',),
            ('--server', f'ws://127.0.0.1:{port}', '--embodiment', name),
            guided=False,
            program=(sys.executable, '-m', 'wam_policy.servers.run_remote_worker'),
        )
        # another client in the middle of it must not be felt
        found, said = run_episode(remote, robot, lambda: run_example(name, port))
    assert said == told
    for theirs, ours in zip(found, wanted, strict=True):
        # states and targets travel as float32
        np.testing.assert_allclose(theirs, ours, atol=2e-5)
    assert np.ptp([targets[-1] for targets in wanted], axis=0).max() > 1e-3


def get_health(port):
    talk = http.client.HTTPConnection('127.0.0.1', port, timeout=5)
    talk.request('GET', '/healthz')
    answer = talk.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.slow
def test_healthz_is_503_without_a_worker_and_exit_is_clean():
    with run_server('droid', '--token', 'open', '--devices', 'cpu') as (program, port):
        run_example('droid', port)
        assert get_health(port) == (200, 'OK\n')
        (worker,) = psutil.Process(program.pid).children()
        worker.kill()
        end_s = time.monotonic() + 60
        while get_health(port)[0] != 503:
            assert time.monotonic() < end_s
        assert re.search('SIGKILL|loading', get_health(port)[1])
        children = psutil.Process(program.pid).children()
        program.send_signal(signal.SIGTERM)
        said = program.stderr.read()
        assert program.wait(60) == 0
        assert not any(child.is_running() for child in children)
        assert len(re.findall(r'infer \d+\.\d ms', said)) == 3
        assert re.search(r'session [0-9a-f-]{36}: 3 answers, median \d+\.\d ms, p99', said)
        assert 'SIGKILL' in said and said.strip().endswith('stopped')


def run_until_exit(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'wam_policy.servers.serve', *arguments],
        env=make_worker_environment(ENVIRONMENT),
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.parametrize(
    ('arguments', 'status', 'words'),
    [
        (
            ('--checkpoint', '/none', '--embodiment', 'yam', '--devices', 'cpu'),
            2,
            'neither a folder nor a shipped model',
        ),
        (
            ('--checkpoint', 'preset:tiny', '--embodiment', 'yam', '--server-profile', 'openpi'),
            2,
            'is for droid',
        ),
        (
            ('--checkpoint', 'preset:tiny', '--embodiment', 'yam', '--max-sessions', '0'),
            2,
            'more than 0',
        ),
        (
            ('--checkpoint', 'preset:tiny', '--embodiment', 'yam', '--devices', 'gpu'),
            2,
            'want one or two of cpu and cuda:N',
        ),
    ],
)
def test_what_cannot_be_served_is_refused(arguments, status, words):
    found = run_until_exit(*arguments)
    assert found.returncode == status and re.search(words, found.stderr), found.stderr


def test_a_port_that_is_taken_is_told():
    with socket.create_server(('127.0.0.1', 0)) as taken:
        found = run_until_exit(
            *MODEL_ARGUMENTS,
            '--embodiment',
            'yam',
            '--devices',
            'cpu',
            '--port',
            str(taken.getsockname()[1]),
        )
    assert found.returncode == 1 and 'cannot listen on 127.0.0.1' in found.stderr


def test_a_server_profile_with_other_actions_is_rejected():
    robot = embodiment.load_embodiment('yam')
    model = ServedModel('m', True, 1, 4, 0.2, 4, horizon=24, step_dt_s=1 / 30)
    own = server_profile.load_for_robot('', robot)
    assert profile_service.check_profile(own, robot, model) == []
    for other in (replace(model, step_dt_s=1 / 15), replace(model, horizon=16)):
        with pytest.raises(ValueError, match='select another --server-profile'):
            profile_service.check_profile(own, robot, other)
    with pytest.raises(ValueError, match='does not carry left_joint1'):
        profile_service.check_profile(server_profile.load('lingbot_va_yam'), robot, model)
    # head and waist are only measured: the model sees them at home
    warnings = profile_service.check_profile(
        server_profile.load('go1'), embodiment.load_embodiment('agibot_g1'), model
    )
    assert any('does not carry idx' in warning and 'at home' in warning for warning in warnings)


def test_a_profile_with_other_rows_or_fewer_cameras_is_served_with_a_warning():
    robot = embodiment.load_embodiment('yam')
    model = ServedModel('m', True, 1, 4, 0.2, 4, horizon=24, step_dt_s=1 / 30)
    found = profile_service.check_profile(server_profile.load('openpi_yam'), robot, model)
    assert len(found) == 1 and 'answers have 24 rows' in found[0]
    droid = embodiment.load_embodiment('droid')
    found = profile_service.check_profile(
        server_profile.load('openpi'), droid, replace(model, step_dt_s=1 / 15)
    )
    assert len(found) == 1 and 'exterior_image_2_left: the model sees black' in found[0]


@pytest.mark.parametrize(
    ('listen', 'words'),
    [
        ('groot_yam', 'want PROFILE:PORT'),
        ('groot_yam:x', 'want PROFILE:PORT'),
        ('groot_agibot:5555', 'is for agibot_g1, not for yam'),
    ],
)
def test_a_wrong_listen_option_is_an_error(listen, words):
    robot = embodiment.load_embodiment('yam')
    arguments = serve.parse_arguments(['--embodiment', 'yam', '--listen', listen])
    with pytest.raises(ValueError, match=words):
        serve.load_listeners(arguments, robot)


@pytest.mark.parametrize('given', [(), ('--checkpoint', 'mini')])
def test_the_shipped_model_of_the_robot_is_served(monkeypatch, given):
    served = []

    def stop(devices, arguments, *more):
        served.append(arguments[arguments.index('--checkpoint') + 1])
        raise ValueError('stopped')

    monkeypatch.setattr(serve, 'make_worker_spec', stop)
    for robot, folder in (('agibot_g1', 'mini'), ('yam', 'mini_yam')):
        assert serve.main(['--embodiment', robot, *given]) != 0
        assert Path(served.pop()).name == folder
    assert serve.main(['--embodiment', 'droid', *given]) != 0 and not served  # there is none


def test_workers_get_the_same_command_line(tmp_path):
    chosen = serve.parse_arguments(
        [
            *MODEL_ARGUMENTS,
            '--embodiment',
            'yam',
            '--guidance-scale',
            '2',
            '--guided-video',
            '--max-sessions',
            '3',
            '--base',
            str(tmp_path),
            '--token',
            'x',
            '--devices',
            'cuda:0,cuda:1',
        ]
    )
    model_options.resolve_defaults(chosen)
    got = worker_main.parse_settings(model_options.to_argv(chosen))
    assert (got.steps, got.seed, got.guided_video, got.max_sessions) == (2, 3, True, 3)
    assert (got.checkpoint, got.base, got.sampler) == ('preset:tiny', str(tmp_path), 'static8')
    assert chosen.devices == ('cuda:0', 'cuda:1') and got.guidance_scale == 2.0


def test_old_names_of_options_still_work(capsys):
    chosen = serve.parse_arguments(
        [
            *MODEL_ARGUMENTS,
            *('--embodiment', 'yam', '--flavour', 'openpi_yam', '--recipe', 'static8'),
            *('--connections', '5', '--message-mib', '6', '--grace', '7', '--answer-timeout', '8'),
        ]
    )
    assert (chosen.server_profile, chosen.sampler) == ('openpi_yam', 'static8')
    assert (chosen.max_connections, chosen.max_message_mib) == (5, 6)
    assert (chosen.shutdown_timeout, chosen.query_timeout) == (7.0, 8.0)
    assert '--grace is deprecated' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('given', 'wanted'),
    [
        ((), ('full16', 4, 1.0)),
        (('--sampler', 'static8'), ('static8', None, 1.0)),
        (('--steps', '2', '--guidance-scale', '3'), ('full16', 2, 3.0)),
    ],
)
def test_what_is_not_given_is_as_the_checkpoint_advises(tmp_path, given, wanted):
    (tmp_path / 'config.json').write_text(
        json.dumps({'wam': {'inference': {'recipe': 'full16', 'steps': 4, 'guidance': 1.0}}})
    )
    chosen = serve.parse_arguments(['--checkpoint', str(tmp_path), '--embodiment', 'yam', *given])
    model_options.resolve_defaults(chosen)
    assert (chosen.sampler, chosen.steps, chosen.guidance_scale) == wanted
