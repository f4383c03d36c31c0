"""Measure the added latency of a policy server, and its throughput with several clients.

Run from the repository root: python benchmarks/remote_latency.py [--json FILE]. The first table
measures the round trip with a policy that answers immediately: directly over a socket to a worker
process, and through remote worker, WebSocket and server, all on this machine. The second uses the
real model: local workers, as in the policy node, then our server with the same workers; every
client sends queries without a pause.
"""

import argparse
import asyncio
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

from benchmarks import record
from benchmarks.worker_roundtrip import serve_echo, time_rounds
from wam_policy.command_line import add_value, to_options
from wam_policy.core.robot import checkpoints, embodiment
from wam_policy.servers import handshake, server_profile
from wam_policy.servers.request_queue import RequestQueue
from wam_policy.servers.server_metrics import ServerMetrics
from wam_policy.servers.session_manager import SessionManager
from wam_policy.servers.transports.websocket_server import PolicyServer
from wam_policy.workers import protocol
from wam_policy.workers.supervisor import WorkerSpec, WorkerState, WorkerSupervisor
from wam_policy.workers.worker_process import make_worker_environment

IMAGE_SIZES = ((320, 176), (640, 480))
ROBOT_NAME = 'agibot_g1'
WORKER_MODULE = 'wam_policy.servers.run_remote_worker'
TARGETS_SHAPE = (24, 16)  # rows, commanded joints of the robot


def main() -> int:
    """Measure, print tables, write JSON."""
    parser = record.make_parser(__doc__)
    add_value(parser, '--rounds', 300, 'measured')
    parser.add_argument('--checkpoint', default='mini', help='(default: %(default)s)')
    parser.add_argument('--steps', type=int, default=1, help='network calls per query and branch')
    add_value(parser, '--devices', 'cpu', 'of the workers, two for guidance')
    parser.add_argument('--seconds', type=float, default=8.0, help='per number of sessions')
    parser.add_argument('--echo', choices=('wire', 'server'), help=argparse.SUPPRESS)
    parser.add_argument('--fd', type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.checkpoint = checkpoints.resolve_checkpoint(options.checkpoint)
    if options.echo == 'wire':
        serve_echo(socket.socket(fileno=options.fd))
        return 0
    if options.echo == 'server':
        asyncio.run(run_echo_server())
        return 0
    rows = [row for size in IMAGE_SIZES for row in measure_latency(size, options.rounds)]
    rows += measure_throughput(options)
    record.write_report(
        options.json,
        {
            'checkpoint': Path(options.checkpoint).name,
            'devices': options.devices,
            'steps': options.steps,
            'rows': rows,
        },
    )
    return 0


class ZeroBackend:
    """Backend that returns zeros immediately."""

    first_frames, frames_per_block, horizon = 1, 4, TARGETS_SHAPE[0]
    generation, restarts, not_ready_reason, max_committed_rows = 1, 0, '', 0

    def reset(self, session: str, instruction: str, mode: str) -> None:
        return None

    def commit(self, session: str, block: int, views: Any) -> dict[str, Any]:
        return {'cached_blocks': 0, 'window_fill': 0.2, 'rebuilds': 0, 'timings_ms': {}}

    def query_batch(self, queries: Sequence[Any]) -> list[np.ndarray | Exception]:
        return [np.zeros(TARGETS_SHAPE) for _ in queries]


async def run_echo_server() -> None:
    """Serve a policy that answers immediately; print the address to stderr."""
    robot = embodiment.load_embodiment(ROBOT_NAME)
    profile = server_profile.load_for_robot('', robot)
    engine = ZeroBackend()
    manager = SessionManager(robot, engine, engine, 4, lambda line: None)
    metadata = handshake.make_server_metadata(
        profile,
        robot,
        {},
        {
            'kind': 'clocked',
            'first_frames': 1,
            'frames_per_block': 4,
            'frame_period_s': 0.2,
            'window_blocks': 4,
        },
    )
    metrics = ServerMetrics(manager, engine)
    queue = RequestQueue(manager, metrics, lambda line: None, log_requests=False)
    server = PolicyServer(queue, profile, metadata, metrics=metrics, backend=engine)
    await server.run(
        '127.0.0.1',
        0,
        lambda port: print(f'at ws://127.0.0.1:{port}', file=sys.stderr, flush=True),
    )


@contextmanager
def run_server(*command: str) -> Iterator[str]:
    """Run a server program; yield its address."""
    program = subprocess.Popen(
        [sys.executable, *command],
        stderr=subprocess.PIPE,
        text=True,
        env=make_worker_environment({}),
    )
    try:
        assert program.stderr is not None
        output = []
        for line in program.stderr:
            output.append(line)
            if found := re.search(r'at (ws://[\d.]+:\d+)', line):
                break
        else:
            raise RuntimeError(f'the server did not start: {"".join(output)}')
        address = found[1]
        threading.Thread(target=program.stderr.read, daemon=True).start()
        yield address
    finally:
        program.kill()
        program.wait()


def measure_latency(size: tuple[int, int], rounds: int) -> list[dict]:
    """Measure queries with three images, direct and remote; print the added latency."""
    robot = embodiment.load_embodiment(ROBOT_NAME)
    arrays = {
        f'newest/{camera.key}': np.zeros((size[1], size[0], 3), np.uint8)
        for camera in robot.cameras
    } | {'joints': robot.home_positions(robot.observed)}
    query = protocol.WorkerMessage(
        'query', {'session': 's', 'sequence': 1, 'stamp_ns': 1, 'seed': 0, 'id': 1}, arrays
    )
    direct = time_worker((__file__, '--echo', 'wire'), [], query, rounds)
    reset = protocol.WorkerMessage('reset', {'session': 's', 'instruction': 'x', 'id': 1})
    commit = protocol.WorkerMessage(
        'commit',
        {'session': 's', 'block': 0, 'id': 1},
        {
            name.replace('newest', 'frames'): view[None]
            for name, view in arrays.items()
            if name != 'joints'
        },
    )
    with run_server(__file__, '--echo', 'server') as address:
        remote = time_worker(
            ('-m', WORKER_MODULE, '--server', address, '--embodiment', ROBOT_NAME),
            [reset, commit],
            query,
            rounds,
        )
    rows = []
    for name, taken_ms in (('direct', direct), ('remote', remote)):
        median_ms, p99_ms = np.percentile(taken_ms, [50, 99]).tolist()
        what = f'3 x {size[0]}x{size[1]}, {name}'
        rows.append({'what': what, 'median_ms': median_ms, 'p99_ms': p99_ms})
        print('{what:<28} median {median_ms:6.2f} ms   p99 {p99_ms:6.2f} ms'.format(**rows[-1]))
    added = {key: rows[1][key] - rows[0][key] for key in ('median_ms', 'p99_ms')}
    print(f'{"added":<28} median {added["median_ms"]:6.2f} ms   p99 {added["p99_ms"]:6.2f} ms')
    return [*rows, {'what': f'3 x {size[0]}x{size[1]}, added', **added}]


def time_worker(
    command: tuple[str, ...],
    setup_messages: list[protocol.WorkerMessage],
    query: protocol.WorkerMessage,
    rounds: int,
) -> list[float]:
    """Send queries to a worker program over its socket; return the time of each in ms."""
    near, far = protocol.make_socket_pair()
    program = subprocess.Popen(
        [sys.executable, *command, '--fd', str(far.fileno())],
        pass_fds=[far.fileno()],
        env=make_worker_environment({}),
        stderr=subprocess.DEVNULL,
    )
    far.close()
    if setup_messages:
        assert protocol.receive(near, 60).kind == 'ready'
    for message in setup_messages:
        protocol.send(near, message, 10)
        assert protocol.receive(near, 10).kind != 'error'

    def round_trip() -> None:
        protocol.send(near, query, 10)
        assert protocol.receive(near, 10).kind == 'chunk'

    try:
        return time_rounds(round_trip, rounds)
    finally:
        near.close()
        program.wait(10)


def measure_throughput(options: argparse.Namespace) -> list[dict]:
    """Measure chunks per second of one model: locally, and remotely with 1, 2 and 4 clients."""
    model = {'checkpoint': options.checkpoint, 'embodiment': ROBOT_NAME, 'steps': options.steps}
    rows = []

    def measure_sessions(what: str, plan: WorkerSpec, sessions: int) -> None:
        counts = run_clients(plan, sessions, options.seconds)
        rows.append(
            {
                'what': what,
                'chunks_per_s': sum(counts) / options.seconds,
                'slowest_per_s': min(counts) / options.seconds,
            }
        )
        print(
            '{what:<28} {chunks_per_s:5.1f} chunks/s in total, '
            'slowest client {slowest_per_s:.1f}'.format(**rows[-1])
        )

    devices = tuple(options.devices.split(','))
    local = WorkerSpec(devices, tuple(to_options(model)), guided=len(devices) > 1)
    measure_sessions('local workers', local, 1)
    served = to_options(model | {'devices': options.devices, 'port': 0, 'quiet': True})
    with run_server('-m', 'wam_policy.servers.serve', *served) as address:
        remote = WorkerSpec(
            ('cpu',),
            ('--server', address, '--embodiment', ROBOT_NAME),
            guided=False,
            program=(sys.executable, '-m', WORKER_MODULE),
        )
        for sessions in (1, 2, 4):
            measure_sessions(f'{sessions} sessions', remote, sessions)
    return rows


def run_clients(plan: WorkerSpec, sessions: int, seconds: float) -> list[int]:
    """Run `sessions` clients that query without a pause; return the chunks of each."""
    robot = embodiment.load_embodiment(ROBOT_NAME)
    counts, begin = [0] * sessions, threading.Barrier(sessions)

    def run_client(number: int) -> None:
        with WorkerSupervisor(plan) as pair:
            assert pair.wait_ready(300).state is WorkerState.READY
            pair.request('reset', {'session': 's', 'instruction': 'x'}, timeout_s=30)
            pair.request(
                'commit',
                {'session': 's', 'block': 0, 'stamps_ns': []},
                {
                    f'frames/{camera.key}': np.zeros((1, 240, 320, 3), np.uint8)
                    for camera in robot.cameras
                },
                timeout_s=30,
            )
            begin.wait()
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s:
                pair.request(
                    'query',
                    {'session': 's', 'sequence': counts[number], 'stamp_ns': 1, 'seed': 0},
                    {'joints': robot.home_positions(robot.observed)},
                    timeout_s=30,
                )
                counts[number] += 1

    threads = [threading.Thread(target=run_client, args=(number,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


if __name__ == '__main__':
    sys.exit(main())
