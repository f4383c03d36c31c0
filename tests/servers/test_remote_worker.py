"""The remote worker against a double of the released server, and against servers that fail."""

import contextlib
import re
import select
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.servers.fake_engine import Served
from tests.servers.released_double import DROID, Double
from wam_policy.core.robot import embodiment
from wam_policy.servers import server_profile
from wam_policy.workers import exit_codes, protocol
from wam_policy.workers.protocol import Message
from wam_policy.workers.supervisor import Pair, Plan, State, WorkerDied, WorkerError
from wam_policy.workers.worker_process import package_environment

ROBOT = embodiment.load('droid')
SPOKEN = server_profile.load('dreamzero_droid')
REST = ROBOT.rest_of(ROBOT.observed)
VIEWS = [key[0] for key in SPOKEN.cameras.values()]
STATE = [span.key[0] for span in SPOKEN.state]


@pytest.fixture
def double():
    made = Double(VIEWS, STATE)
    yield made
    made.close()


class Worker:
    """Start the program as policy_node does, and ask it as policy_node asks."""

    def __init__(self, port, *arguments, timeout_s=2.0, robot=ROBOT, **plan):
        self.lines, self.robot, self.sequence = [], robot, 0
        self.pair = Pair(
            Plan(
                ('cpu',),
                (
                    '--server',
                    f'ws://127.0.0.1:{port}',
                    '--embodiment',
                    robot.name,
                    '--timeout',
                    str(timeout_s),
                    *arguments,
                ),
                guided=False,
                program=(sys.executable, '-m', 'wam_policy.servers.run_remote_worker'),
                **{'first_delay_s': 0.1, 'last_delay_s': 0.4, **plan},
            ),
            on_line=lambda rank, line: self.lines.append(line),
        )
        self.pair.start()

    def ready(self, timeout_s=40.0):
        status = self.pair.wait_ready(timeout_s)
        assert status.state is State.READY, status
        return status

    def hear(self, words):
        end_s = time.monotonic() + 5.0  # lines come on a way of their own
        while not any(words in line for line in self.lines):
            assert time.monotonic() < end_s, self.lines
            time.sleep(0.02)

    def ask(self, kind, fields=None, arrays=None):
        return self.pair.request(kind, fields, arrays, timeout_s=10.0)

    def begin(self, session='s', instruction='pick it up'):
        self.ask('reset', {'session': session, 'instruction': instruction})
        self.commit(0, 1, session)

    def commit(self, block, count, session='s'):
        frames = {
            f'frames/{camera.key}': np.stack(
                [np.full((180, 320, 3), 10 * block + i) for i in range(count)]
            ).astype(np.uint8)
            for camera in self.robot.cameras
        }
        return self.ask('commit', {'session': session, 'block': block, 'stamps_ns': []}, frames)

    def query(self, session='s'):
        self.sequence += 1
        return self.ask(
            'query',
            {'session': session, 'sequence': self.sequence, 'stamp_ns': 7, 'seed': 0},
            {'joints': self.robot.rest_of(self.robot.observed)},
        )


@contextlib.contextmanager
def worker(*arguments, **options):
    made = Worker(*arguments, **options)
    try:
        yield made
    finally:
        made.pair.close()


def test_a_session_as_the_released_client_lives_it(double):
    with worker(double.port) as robot:
        facts = robot.ready().facts
        assert facts['mode'] == 'reference' and facts['sight'] == 'memory' and facts['trained']
        assert facts['geometry']['frames_per_block'] == 24
        assert facts['geometry']['frame_period_s'] == pytest.approx(1 / 15)
        robot.begin()
        first = robot.query()
        np.testing.assert_allclose(first.arrays['targets'], np.tile(REST, (24, 1)), atol=1e-6)
        np.testing.assert_array_equal(first.arrays['reference'], REST)
        assert first.fields['step_dt_s'] == pytest.approx(1 / 15)
        robot.commit(1, 24)
        robot.query()
        assert double.calls == ['reset', 'infer', 'infer']
        # one picture at first, then those 23, 16, 8 and 0 steps before the newest
        seen = [[int(frame[0, 0, 0]) for frame in shown[VIEWS[0]]] for _, shown in double.seen]
        assert seen == [[0], [10, 17, 25, 33]]
        assert {prompt for prompt, _ in double.seen} == {'pick it up'}
        with pytest.raises(WorkerError, match='once a block'):
            robot.query()
        robot.begin('t', 'put it down')
        robot.query('t')
        assert double.calls[3:] == ['reset', 'infer'] and double.seen[-1][0] == 'put it down'
        assert [len(shown[VIEWS[2]]) for _, shown in double.seen] == [1, 4, 1]


@pytest.mark.parametrize(
    ('act', 'words'),
    [
        ('crash', 'CUDA error: device-side assert triggered'),
        ('text', 'queue is full'),
        ('nan', 'not finite'),
        ('horizon', 'want actions .24, 8'),
        ('garbage', 'garbage'),
        ('huge', 'closed the connection.*1009|went away'),
        ('vanish', 'closed the connection|went away'),
        ('slow', 'did not answer within 1 s'),
    ],
)
def test_a_fault_is_told_and_the_next_session_is_whole(double, act, words):
    with worker(double.port, timeout_s=1.0) as robot:
        robot.ready()
        robot.begin()
        robot.query()
        robot.commit(1, 24)
        double.act = act
        begun_s = time.monotonic()
        with pytest.raises(WorkerError, match=words):
            robot.query()
        assert time.monotonic() - begun_s < 2.0
        if act == 'crash':  # all of the server's words are in the log
            robot.hear('Traceback')
            robot.hear('self.infer(message)')
        with pytest.raises(WorkerError, match='while None is on'):
            robot.commit(2, 24)  # whatever the session was, it is over
        double.act = ''
        robot.begin('again')
        answer = robot.query('again')
        np.testing.assert_allclose(answer.arrays['targets'], np.tile(REST, (24, 1)), atol=1e-6)
        assert robot.pair.status.restarts == 0


def test_a_late_answer_is_never_taken_for_a_new_one(double):
    """The slow server answers the old connection while a new session is asked on another."""
    with worker(double.port, timeout_s=0.5) as robot:
        robot.ready()
        robot.begin()
        double.act = 'slow'
        with pytest.raises(WorkerError, match='did not answer'):
            robot.query()
        double.act = ''
        robot.begin('b')
        other = REST + 0.1
        answer = robot.ask(
            'query', {'session': 'b', 'sequence': 9, 'stamp_ns': 8, 'seed': 0}, {'joints': other}
        )
        np.testing.assert_allclose(answer.arrays['targets'], np.tile(other, (24, 1)), atol=1e-6)


def test_a_server_that_dies_and_returns_is_found_again():
    double = Double(VIEWS, STATE)
    with worker(double.port, timeout_s=1.0) as robot:
        robot.ready()
        robot.begin()
        double.act = 'vanish'
        double.close()
        with pytest.raises(WorkerError, match='closed the connection|went away'):
            robot.query()
        with pytest.raises(WorkerDied, match='no server at ws://127.0.0.1'):
            robot.begin('b')
        time.sleep(0.5)
        again = Double(VIEWS, STATE, port=double.port)
        end_s = time.monotonic() + 10
        while robot.pair.status.state is not State.READY:
            assert time.monotonic() < end_s, robot.pair.status
            time.sleep(0.05)
        robot.begin('c')
        assert robot.query('c').kind == 'chunk'
        assert robot.pair.status.restarts >= 1
        again.close()


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        (
            {'image_resolution': (224, 224)},
            'image_resolution: the server says .224, 224., '
            'dreamzero_droid on droid needs .180, 320',
        ),
        ({'n_external_cameras': 1}, 'n_external_cameras'),
        ({'needs_wrist_camera': False}, 'wrist'),
        ({'action_space': 'cartesian_velocity'}, 'action_space'),
        ({'action_horizon': 16}, 'horizon'),
        ({'embodiment': 'yam'}, 'embodiment'),
        ({'action_dim': 7}, 'action_dim'),
    ],
)
def test_a_server_for_something_else_is_refused_for_good(config, words):
    double = Double(VIEWS, STATE, {**DROID, **config})
    with worker(double.port) as robot:
        status = robot.pair.wait_ready(40.0)
        assert status.state is State.FAILED and status.retry_s is None
        assert re.search(words, status.reason), status.reason
    assert double.calls == []
    double.close()


def test_what_is_no_policy_server_is_refused():
    double = Double(VIEWS, STATE, config=[1, 2])
    with worker(double.port) as robot:
        assert 'want its configuration' in robot.pair.wait_ready(40.0).reason
    double.close()


def run(*arguments, **variables):
    return subprocess.run(
        [sys.executable, '-m', 'wam_policy.servers.run_remote_worker', *arguments],
        env=package_environment(variables),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ('arguments', 'status', 'words'),
    [
        (
            ('--server', 'http://x', '--embodiment', 'yam'),
            exit_codes.REFUSED,
            'want ws://HOST:PORT',
        ),
        (
            ('--server', 'ws://127.0.0.1:1', '--embodiment', 'yum'),
            exit_codes.REFUSED,
            'did you mean yam',
        ),
        (
            ('--server', 'ws://127.0.0.1:1', '--embodiment', 'yam', '--flavour', 'openpi'),
            exit_codes.REFUSED,
            'openpi speaks for droid',
        ),
        (
            ('--server', 'ws://127.0.0.1:1', '--embodiment', 'yam'),
            exit_codes.FAILED,
            'no server at',
        ),
    ],
)
def test_a_wrong_command_line_or_address_is_told(arguments, status, words):
    found = run(*arguments)
    assert found.returncode == status and words in found.stderr


def test_by_hand_it_tells_what_it_found(double):
    found = run('--server', f'ws://127.0.0.1:{double.port}', '--embodiment', 'droid')
    assert found.returncode == 0 and 'DreamZero-DROID, the released server' in found.stderr


@pytest.mark.parametrize(
    ('token', 'status', 'words'),
    [
        ('', exit_codes.REFUSED, 'the token is wrong or missing: set WAM_TOKEN'),
        ('guess', exit_codes.REFUSED, 'the token is wrong or missing'),
        ('sesame', exit_codes.OK, 'fake at'),
    ],
)
def test_only_the_right_token_opens_our_server(token, status, words):
    served = Served(token='sesame')
    found = run(
        '--server', f'ws://127.0.0.1:{served.port}', '--embodiment', 'yam', WAM_TOKEN=token
    )
    assert found.returncode == status and words in found.stderr, found.stderr
    served.stop()


class Valve:
    """Carry bytes to a port until told to swallow them: a TCP peer that is gone without a word."""

    def __init__(self, port):
        self.port, self.shut = port, False
        self.listener = socket.create_server(('127.0.0.1', 0))
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                near, far = (
                    self.listener.accept()[0],
                    socket.create_connection(('127.0.0.1', self.port)),
                )
                threading.Thread(target=self.carry, args=(near, far), daemon=True).start()

    def carry(self, near, far):
        with near, far, contextlib.suppress(OSError):
            while not self.shut:
                for source in select.select([near, far], [], [], 0.05)[0]:
                    raw = source.recv(65536)
                    if not raw:
                        return
                    (far if source is near else near).sendall(raw)
            threading.Event().wait(20.0)  # neither reads nor closes


def test_a_half_open_connection_is_given_up_in_time(double):
    valve = Valve(double.port)
    with worker(valve.listener.getsockname()[1], timeout_s=1.0) as robot:
        robot.ready()
        robot.begin()
        robot.query()
        robot.commit(1, 24)
        valve.shut = True
        time.sleep(0.2)
        begun_s = time.monotonic()
        with pytest.raises(WorkerError, match='did not answer|went away'):
            robot.query()
        assert time.monotonic() - begun_s < 2.5
        valve.shut = False
        robot.begin('b')
        assert robot.query('b').kind == 'chunk'
    valve.listener.close()


def test_it_leaves_at_once_when_the_node_does(double):
    near, far = protocol.pair()
    program = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'wam_policy.servers.run_remote_worker',
            '--server',
            f'ws://127.0.0.1:{double.port}',
            '--embodiment',
            'droid',
            '--timeout',
            '30',
            '--fd',
            str(far.fileno()),
        ],
        pass_fds=[far.fileno()],
        env=package_environment({}),
    )
    far.close()
    assert protocol.receive(near, 10).kind == 'ready'
    protocol.send(near, Message('reset', {'id': 1, 'session': 's', 'instruction': 'x'}))
    protocol.receive(near, 5)
    protocol.send(
        near,
        Message(
            'commit',
            {'id': 2, 'session': 's', 'block': 0},
            {
                f'frames/{camera}': np.zeros((1, 180, 320, 3), np.uint8)
                for camera in SPOKEN.cameras
            },
        ),
    )
    protocol.receive(near, 5)
    double.act = 'slow'
    protocol.send(
        near,
        Message(
            'query',
            {'id': 3, 'session': 's', 'sequence': 1, 'stamp_ns': 1, 'seed': 0},
            {'joints': REST},
        ),
    )
    time.sleep(0.3)
    near.close()
    assert program.wait(2.0) == 0
