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
from openpi_client import msgpack_numpy
from websockets.sync.server import serve

from tests.servers.fake_engine import ServerThread
from tests.servers.released_double import DROID_METADATA, FakeReleasedServer
from wam_policy.core.robot import embodiment
from wam_policy.servers import server_profile
from wam_policy.workers import protocol
from wam_policy.workers.protocol import WorkerMessage
from wam_policy.workers.supervisor import (
    WorkerError,
    WorkerExited,
    WorkerSpec,
    WorkerState,
    WorkerSupervisor,
)
from wam_policy.workers.worker_process import make_worker_environment

ROBOT = embodiment.load_embodiment('droid')
PROFILE = server_profile.load('dreamzero_droid')
HOME_POSITIONS = ROBOT.home_positions(ROBOT.observed)
VIEW_KEYS = [key[0] for key in PROFILE.cameras.values()]
STATE_KEYS = [span.key[0] for span in PROFILE.state]


@pytest.fixture
def double():
    made = FakeReleasedServer(VIEW_KEYS, STATE_KEYS)
    yield made
    made.close()


class RemoteWorkerClient:
    """Start the program as policy_node does, and ask it as policy_node asks."""

    def __init__(self, port, *arguments, timeout_s=2.0, robot=ROBOT, **spec):
        self.lines, self.robot, self.sequence = [], robot, 0
        self.supervisor = WorkerSupervisor(
            WorkerSpec(
                ('cpu',),
                (
                    '--server',
                    f'ws://127.0.0.1:{port}',
                    '--embodiment',
                    robot.name,
                    '--query-timeout',
                    str(timeout_s),
                    *arguments,
                ),
                guided=False,
                program=(sys.executable, '-m', 'wam_policy.servers.run_remote_worker'),
                **{'restart_delay_s': 0.1, 'max_restart_delay_s': 0.4, **spec},
            ),
            on_line=lambda rank, line: self.lines.append(line),
        )
        self.supervisor.start()

    def wait_ready(self, timeout_s=40.0):
        status = self.supervisor.wait_ready(timeout_s)
        assert status.state is WorkerState.READY, status
        return status

    def wait_for_line(self, text):
        end_s = time.monotonic() + 5.0  # lines come on a way of their own
        while not any(text in line for line in self.lines):
            assert time.monotonic() < end_s, self.lines
            time.sleep(0.02)

    def request(self, kind, fields=None, arrays=None):
        return self.supervisor.request(kind, fields, arrays, timeout_s=10.0)

    def start_session(self, session='s', instruction='pick it up'):
        self.request('reset', {'session': session, 'instruction': instruction})
        self.commit(0, 1, session)

    def commit(self, block, count, session='s'):
        frames = {
            f'frames/{camera.key}': np.stack(
                [np.full((180, 320, 3), 10 * block + i) for i in range(count)]
            ).astype(np.uint8)
            for camera in self.robot.cameras
        }
        return self.request(
            'commit', {'session': session, 'block': block, 'stamps_ns': []}, frames
        )

    def query(self, session='s', **images):
        self.sequence += 1
        return self.request(
            'query',
            {'session': session, 'sequence': self.sequence, 'stamp_ns': 7, 'seed': 0},
            {'joints': self.robot.home_positions(self.robot.observed), **images},
        )


@contextlib.contextmanager
def start_worker(*arguments, **options):
    made = RemoteWorkerClient(*arguments, **options)
    try:
        yield made
    finally:
        made.supervisor.close()


def test_a_session_sends_what_the_released_client_sends(double):
    with start_worker(double.port) as robot:
        facts = robot.wait_ready().info
        assert (
            facts['memory_update'] == 'released'
            and facts['query_images'] == 'none'
            and facts['trained']
        )
        assert facts['geometry']['frames_per_block'] == 24
        assert facts['geometry']['frame_period_s'] == pytest.approx(1 / 15)
        robot.start_session()
        first = robot.query()
        np.testing.assert_allclose(
            first.arrays['targets'], np.tile(HOME_POSITIONS, (24, 1)), atol=1e-6
        )
        np.testing.assert_array_equal(first.arrays['reference'], HOME_POSITIONS)
        assert first.fields['step_dt_s'] == pytest.approx(1 / 15)
        robot.commit(1, 24)
        robot.query()
        assert double.calls == ['reset', 'infer', 'infer']
        # one picture at first, then those 23, 16, 8 and 0 steps before the newest
        seen = [
            [int(frame[0, 0, 0]) for frame in shown[VIEW_KEYS[0]]]
            for _, shown in double.observations
        ]
        assert seen == [[0], [10, 17, 25, 33]]
        assert {prompt for prompt, _ in double.observations} == {'pick it up'}
        with pytest.raises(WorkerError, match='one query per block'):
            robot.query()
        robot.start_session('t', 'put it down')
        robot.query('t')
        assert (
            double.calls[3:] == ['reset', 'infer'] and double.observations[-1][0] == 'put it down'
        )
        assert [len(shown[VIEW_KEYS[2]]) for _, shown in double.observations] == [1, 4, 1]


@pytest.mark.parametrize(
    ('act', 'words'),
    [
        ('crash', 'CUDA error: device-side assert triggered'),
        ('text', 'queue is full'),
        ('nan', 'NaN or infinity'),
        ('horizon', 'want actions .24, 8'),
        ('garbage', 'invalid answer'),
        ('huge', 'closed the connection.*1009|while sending'),
        ('vanish', 'closed the connection|while sending'),
        ('slow', 'did not answer within 1 s'),
    ],
)
def test_an_error_is_reported_and_the_next_session_works(double, act, words):
    with start_worker(double.port, timeout_s=1.0) as robot:
        robot.wait_ready()
        robot.start_session()
        robot.query()
        robot.commit(1, 24)
        double.fault = act
        begun_s = time.monotonic()
        with pytest.raises(WorkerError, match=words):
            robot.query()
        assert time.monotonic() - begun_s < 2.0
        if act == 'crash':  # all of the server's words are in the log
            robot.wait_for_line('Traceback')
            robot.wait_for_line('self.infer(message)')
        with pytest.raises(WorkerError, match='the open session is None'):
            robot.commit(2, 24)  # whatever the session was, it is over
        double.fault = ''
        robot.start_session('again')
        answer = robot.query('again')
        np.testing.assert_allclose(
            answer.arrays['targets'], np.tile(HOME_POSITIONS, (24, 1)), atol=1e-6
        )
        assert robot.supervisor.status.restarts == 0


def test_a_late_answer_is_never_used_for_a_new_request(double):
    """The slow server answers the old connection while a new session is asked on another."""
    with start_worker(double.port, timeout_s=0.5) as robot:
        robot.wait_ready()
        robot.start_session()
        double.fault = 'slow'
        with pytest.raises(WorkerError, match='did not answer'):
            robot.query()
        double.fault = ''
        robot.start_session('b')
        other = HOME_POSITIONS + 0.1
        answer = robot.request(
            'query', {'session': 'b', 'sequence': 9, 'stamp_ns': 8, 'seed': 0}, {'joints': other}
        )
        np.testing.assert_allclose(answer.arrays['targets'], np.tile(other, (24, 1)), atol=1e-6)


def test_an_idle_connection_that_the_server_closed_is_no_error(double):
    with start_worker(double.port) as robot:
        robot.wait_ready()
        double.close_connections()
        robot.start_session()
        assert robot.query().kind == 'chunk'
        assert robot.supervisor.status.restarts == 0
        double.close_connections()  # in the middle of a session: what the server knew is lost
        robot.commit(1, 24)
        with pytest.raises(WorkerError, match='closed the connection'):
            robot.query()


def test_a_server_without_memory_is_asked_again_on_a_new_connection():
    def close_after_one_answer(connection):
        connection.send(msgpack_numpy.packb({}))
        connection.recv()
        connection.send(msgpack_numpy.packb({'actions': np.zeros((15, 8), np.float32)}))
        connection.close(1001, 'idle')

    newest = {
        f'newest/{key}': np.zeros((224, 224, 3), np.uint8)
        for key in server_profile.load('openpi').cameras
    }
    with serve(close_after_one_answer, '127.0.0.1', 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        with start_worker(port, '--server-profile', 'openpi') as robot:
            robot.wait_ready()
            robot.start_session()
            for _ in range(3):
                assert robot.query(**newest).arrays['targets'].shape == (15, 8)
                time.sleep(0.3)  # until the close has arrived
        server.shutdown()


def test_a_reset_has_a_time_limit_of_its_own(double):
    double.reset_s = 1.0
    with start_worker(double.port, timeout_s=0.5) as robot:
        robot.wait_ready()
        robot.start_session()
        assert robot.query().kind == 'chunk'
    with start_worker(double.port, '--reset-timeout', '0.3', timeout_s=5.0) as robot:
        robot.wait_ready()
        with pytest.raises(WorkerError, match=r'did not answer within 0.3 s'):
            robot.start_session()


def test_it_waits_for_a_server_that_is_not_there_yet_and_says_so():
    double = FakeReleasedServer(VIEW_KEYS, STATE_KEYS)
    double.close()
    with start_worker(double.port) as robot:
        end_s = time.monotonic() + 20
        while 'no server at ws://' not in robot.supervisor.status.reason:
            assert time.monotonic() < end_s, robot.supervisor.status
            time.sleep(0.05)
        assert robot.supervisor.status.state is WorkerState.STARTING
        again = FakeReleasedServer(VIEW_KEYS, STATE_KEYS, port=double.port)
        assert robot.wait_ready().restarts == 0  # the program that waited is the one that runs
        again.close()


def test_it_reconnects_to_a_restarted_server():
    double = FakeReleasedServer(VIEW_KEYS, STATE_KEYS)
    with start_worker(double.port, timeout_s=1.0) as robot:
        robot.wait_ready()
        robot.start_session()
        double.fault = 'vanish'
        double.close()
        with pytest.raises(WorkerError, match='closed the connection|while sending'):
            robot.query()
        with pytest.raises(WorkerExited, match='no server at ws://127.0.0.1'):
            robot.start_session('b')
        time.sleep(0.5)
        again = FakeReleasedServer(VIEW_KEYS, STATE_KEYS, port=double.port)
        end_s = time.monotonic() + 10
        while robot.supervisor.status.state is not WorkerState.READY:
            assert time.monotonic() < end_s, robot.supervisor.status
            time.sleep(0.05)
        robot.start_session('c')
        assert robot.query('c').kind == 'chunk'
        assert robot.supervisor.status.restarts >= 1
        again.close()


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        (
            {'image_resolution': (224, 224)},
            'image_resolution: the server has .224, 224., '
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
def test_a_server_for_another_robot_is_refused_permanently(config, words):
    double = FakeReleasedServer(VIEW_KEYS, STATE_KEYS, {**DROID_METADATA, **config})
    with start_worker(double.port) as robot:
        status = robot.supervisor.wait_ready(40.0)
        assert status.state is WorkerState.FAILED and status.retry_s is None
        assert re.search(words, status.reason), status.reason
    assert double.calls == []
    double.close()


def test_another_kind_of_server_is_refused():
    double = FakeReleasedServer(VIEW_KEYS, STATE_KEYS, metadata=[1, 2])
    with start_worker(double.port) as robot:
        assert 'want a map of metadata' in robot.supervisor.wait_ready(40.0).reason
    double.close()


def run_remote_worker(*arguments, **variables):
    return subprocess.run(
        [sys.executable, '-m', 'wam_policy.servers.run_remote_worker', *arguments],
        env=make_worker_environment(variables),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ('arguments', 'status', 'words'),
    [
        (
            ('--server', 'http://x', '--embodiment', 'yam'),
            protocol.EXIT_PERMANENT_FAILURE,
            'want ws://HOST:PORT',
        ),
        (
            ('--server', 'ws://127.0.0.1:1', '--embodiment', 'yum'),
            protocol.EXIT_PERMANENT_FAILURE,
            'did you mean yam',
        ),
        (
            ('--server', 'ws://127.0.0.1:1', '--embodiment', 'yam', '--server-profile', 'openpi'),
            protocol.EXIT_PERMANENT_FAILURE,
            'openpi is for droid',
        ),
        (
            ('--server', 'ws://127.0.0.1:1', '--embodiment', 'yam'),
            protocol.EXIT_FAILED,
            'no server at',
        ),
    ],
)
def test_a_wrong_command_line_or_address_is_an_error(arguments, status, words):
    found = run_remote_worker(*arguments)
    assert found.returncode == status and words in found.stderr


def test_old_names_of_options_still_work():
    found = run_remote_worker(
        *('--server', 'ws://127.0.0.1:1', '--embodiment', 'yam'),
        *('--flavour', 'openpi_yam', '--timeout', '1', '--world', '1', '--exchange', 'gloo'),
    )
    assert found.returncode == protocol.EXIT_FAILED and 'no server at' in found.stderr
    assert '--flavour is deprecated' in found.stderr


def test_without_fd_it_reports_the_server_and_exits(double):
    found = run_remote_worker('--server', f'ws://127.0.0.1:{double.port}', '--embodiment', 'droid')
    assert found.returncode == 0 and 'DreamZero-DROID, the released server' in found.stderr


@pytest.mark.parametrize(
    ('token', 'status', 'words'),
    [
        ('', protocol.EXIT_PERMANENT_FAILURE, 'the token is wrong or missing: set WAM_TOKEN'),
        ('guess', protocol.EXIT_PERMANENT_FAILURE, 'the token is wrong or missing'),
        ('sesame', protocol.EXIT_OK, 'fake at'),
    ],
)
def test_only_the_right_token_is_accepted(token, status, words):
    served = ServerThread(token='sesame')
    found = run_remote_worker(
        '--server', f'ws://127.0.0.1:{served.port}', '--embodiment', 'yam', WAM_TOKEN=token
    )
    assert found.returncode == status and words in found.stderr, found.stderr
    served.stop()


class TcpProxy:
    """Carry bytes to a port until told to swallow them: a TCP peer that is gone without a word."""

    def __init__(self, port):
        self.port, self.blocked = port, False
        self.listener = socket.create_server(('127.0.0.1', 0))
        threading.Thread(target=self.accept_connections, daemon=True).start()

    def accept_connections(self):
        with contextlib.suppress(OSError):
            while True:
                near, far = (
                    self.listener.accept()[0],
                    socket.create_connection(('127.0.0.1', self.port)),
                )
                threading.Thread(target=self.forward, args=(near, far), daemon=True).start()

    def forward(self, near, far):
        with near, far, contextlib.suppress(OSError):
            while not self.blocked:
                for source in select.select([near, far], [], [], 0.05)[0]:
                    raw = source.recv(65536)
                    if not raw:
                        return
                    (far if source is near else near).sendall(raw)
            threading.Event().wait(20.0)  # neither reads nor closes


def test_a_half_open_connection_times_out(double):
    valve = TcpProxy(double.port)
    with start_worker(valve.listener.getsockname()[1], timeout_s=1.0) as robot:
        robot.wait_ready()
        robot.start_session()
        robot.query()
        robot.commit(1, 24)
        valve.blocked = True
        time.sleep(0.2)
        begun_s = time.monotonic()
        with pytest.raises(WorkerError, match='did not answer|while sending'):
            robot.query()
        assert time.monotonic() - begun_s < 2.5
        valve.blocked = False
        robot.start_session('b')
        assert robot.query('b').kind == 'chunk'
    valve.listener.close()


def test_it_exits_when_the_node_closes_the_socket(double):
    near, far = protocol.make_socket_pair()
    program = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'wam_policy.servers.run_remote_worker',
            '--server',
            f'ws://127.0.0.1:{double.port}',
            '--embodiment',
            'droid',
            '--query-timeout',
            '30',
            '--fd',
            str(far.fileno()),
        ],
        pass_fds=[far.fileno()],
        env=make_worker_environment({}),
    )
    far.close()
    assert protocol.receive(near, 10).kind == 'ready'
    protocol.send(near, WorkerMessage('reset', {'id': 1, 'session': 's', 'instruction': 'x'}))
    protocol.receive(near, 5)
    protocol.send(
        near,
        WorkerMessage(
            'commit',
            {'id': 2, 'session': 's', 'block': 0},
            {
                f'frames/{camera}': np.zeros((1, 180, 320, 3), np.uint8)
                for camera in PROFILE.cameras
            },
        ),
    )
    protocol.receive(near, 5)
    double.fault = 'slow'
    protocol.send(
        near,
        WorkerMessage(
            'query',
            {'id': 3, 'session': 's', 'sequence': 1, 'stamp_ns': 1, 'seed': 0},
            {'joints': HOME_POSITIONS},
        ),
    )
    time.sleep(0.3)
    near.close()
    assert program.wait(2.0) == 0
