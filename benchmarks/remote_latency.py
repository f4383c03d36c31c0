"""What does asking over the network cost, and how many chunks a second do several clients get?

Run from the repository root: python benchmarks/remote_latency.py [--json FILE]. The first table
asks a policy that answers at once, so that only the way there and back is timed: directly over the
wire to a worker process, and through remote worker, websocket and server, all on this machine. The
second asks the real model, first its own workers, as a robot's node does, then our server in front
of the same workers; every client asks as fast as it can.
"""

import argparse
import asyncio
import math
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

from benchmarks import record
from wam_policy.core.robot import checkpoints, embodiment
from wam_policy.servers import handshake, server_profile
from wam_policy.servers.session_manager import SessionManager
from wam_policy.servers.transports.websocket_server import PolicyServer
from wam_policy.workers import protocol
from wam_policy.workers.supervisor import WorkerSpec, WorkerState, WorkerSupervisor
from wam_policy.workers.worker_process import make_worker_environment

WARMUP_ROUNDS = 10  # rounds that are not counted
IMAGE_SIZES = ((320, 176), (640, 480))
ROBOT_NAME = 'agibot_g1'
TARGETS_SHAPE = (24, 16)  # of a chunk of that robot: rows, commanded joints


def main() -> int:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there')
    parser.add_argument('--rounds', type=int, default=300, help='measured (default: %(default)s)')
    parser.add_argument('--checkpoint', default='mini', help='(default: %(default)s)')
    parser.add_argument('--steps', type=int, default=1, help='network calls per query and branch')
    parser.add_argument(
        '--devices', default='cpu', help='of the workers: two for guidance (default: %(default)s)'
    )
    parser.add_argument('--seconds', type=float, default=8.0, help='per number of sessions')
    parser.add_argument('--echo', choices=('wire', 'server'), help=argparse.SUPPRESS)
    parser.add_argument('--fd', type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.checkpoint = checkpoints.resolve_checkpoint(chosen.checkpoint)
    if chosen.echo == 'wire':
        serve_wire_echo(socket.socket(fileno=chosen.fd))
        return 0
    if chosen.echo == 'server':
        asyncio.run(run_echo_server())
        return 0
    rows = [row for size in IMAGE_SIZES for row in measure_latency(size, chosen.rounds)]
    rows += measure_throughput(chosen)
    if chosen.json:
        record.write_report(
            chosen.json,
            {
                'checkpoint': Path(chosen.checkpoint).name,
                'devices': chosen.devices,
                'steps': chosen.steps,
                'rows': rows,
            },
        )
    return 0


def serve_wire_echo(end: socket.socket) -> None:
    """Answer every message of the wire with a chunk of the usual size."""
    chunk = {'targets': np.zeros(TARGETS_SHAPE), 'reference': np.zeros(TARGETS_SHAPE[1])}
    while True:
        try:
            request = protocol.receive(end)
        except protocol.PeerClosed:
            return
        protocol.send(end, protocol.WorkerMessage('chunk', dict(request.fields), chunk))


class ZeroBackend:
    """Predict nothing, at once."""

    first_frames, frames_per_block = 1, 4
    generation, restarts, not_ready_reason = 1, 0, ''

    def reset(self, session: str, instruction: str, mode: str) -> None:
        return None

    def commit(self, session: str, block: int, views: Any) -> dict[str, Any]:
        return {'cached_blocks': 0, 'window_fill': 0.2, 'rebuilds': 0, 'timings_ms': {}}

    def query(
        self, session: str, sequence: int, joints: np.ndarray, seed: int, newest: Any = None
    ) -> np.ndarray:
        return np.zeros(TARGETS_SHAPE)


async def run_echo_server() -> None:
    """Serve a policy that answers at once; the port goes to standard error."""
    robot = embodiment.load_embodiment(ROBOT_NAME)
    spoken = server_profile.load_for_robot('', robot)
    engine = ZeroBackend()
    manager = SessionManager(spoken, robot, engine, engine, 4, lambda line: None)
    said = handshake.make_server_metadata(
        spoken,
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
    server = PolicyServer(manager, said, log=lambda line: None, log_requests=False, backend=engine)
    await server.run(
        '127.0.0.1',
        0,
        lambda port: print(f'at ws://127.0.0.1:{port}', file=sys.stderr, flush=True),
    )


@contextmanager
def run_server(*command: str) -> Iterator[str]:
    """Run a server program; give its address."""
    program = subprocess.Popen(
        [sys.executable, *command],
        stderr=subprocess.PIPE,
        text=True,
        env=make_worker_environment({}),
    )
    try:
        assert program.stderr is not None
        said = []
        for line in program.stderr:
            said.append(line)
            if found := re.search(r'at (ws://[\d.]+:\d+)', line):
                break
        else:
            raise RuntimeError(f'the server did not start: {"".join(said)}')
        address = found[1]
        threading.Thread(target=program.stderr.read, daemon=True).start()
        yield address
    finally:
        program.kill()
        program.wait()


def measure_latency(size: tuple[int, int], rounds: int) -> list[dict]:
    """Time three pictures there and a chunk back, both ways; print what the network added."""
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
            (
                '-m',
                'wam_policy.servers.run_remote_worker',
                '--server',
                address,
                '--embodiment',
                ROBOT_NAME,
            ),
            [reset, commit],
            query,
            rounds,
        )
    rows = []
    for name, taken_ms in (('direct', direct), ('remote', remote)):
        rows.append({'what': f'3 x {size[0]}x{size[1]}, {name}', **summarize_latency(taken_ms)})
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
    """Ask a worker program over its socket; give each query's ms."""
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


def time_rounds(call: Callable[[], None], rounds: int) -> list[float]:
    taken_ms = []
    for _ in range(WARMUP_ROUNDS + rounds):
        start_s = time.perf_counter()
        call()
        taken_ms.append(1e3 * (time.perf_counter() - start_s))
    return taken_ms[WARMUP_ROUNDS:]


def summarize_latency(taken_ms: list[float]) -> dict[str, float]:
    ordered = sorted(taken_ms)
    return {
        'median_ms': ordered[len(ordered) // 2],
        'p99_ms': ordered[math.ceil(0.99 * len(ordered)) - 1],
    }


def measure_throughput(chosen: argparse.Namespace) -> list[dict]:
    """Count the chunks that 1, 2 and 4 clients get from one model, and one without the network."""
    model = (
        '--checkpoint',
        chosen.checkpoint,
        '--embodiment',
        ROBOT_NAME,
        '--steps',
        str(chosen.steps),
    )
    rows = []

    def measure_sessions(what: str, plan: WorkerSpec, sessions: int) -> None:
        counts = run_clients(plan, sessions, chosen.seconds)
        rows.append(
            {
                'what': what,
                'chunks_per_s': sum(counts) / chosen.seconds,
                'slowest_per_s': min(counts) / chosen.seconds,
            }
        )
        print(
            '{what:<28} {chunks_per_s:5.1f} chunks/s in all, '
            'the slowest {slowest_per_s:.1f}'.format(**rows[-1])
        )

    devices = tuple(chosen.devices.split(','))
    measure_sessions('local workers', WorkerSpec(devices, model, guided=len(devices) > 1), 1)
    with run_server(
        '-m',
        'wam_policy.servers.serve',
        *model,
        '--devices',
        chosen.devices,
        '--port',
        '0',
        '--quiet',
    ) as address:
        remote = WorkerSpec(
            ('cpu',),
            ('--server', address, '--embodiment', ROBOT_NAME),
            guided=False,
            program=(sys.executable, '-m', 'wam_policy.servers.run_remote_worker'),
        )
        for sessions in (1, 2, 4):
            measure_sessions(f'{sessions} sessions', remote, sessions)
    return rows


def run_clients(plan: WorkerSpec, sessions: int, seconds: float) -> list[int]:
    """Let so many clients of a plan ask as fast as they can; give the chunks each got."""
    robot, counts, begin = (
        embodiment.load_embodiment(ROBOT_NAME),
        [0] * sessions,
        threading.Barrier(sessions),
    )

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
