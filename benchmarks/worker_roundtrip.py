"""Measure the latency of queries to one and to two worker processes.

Run from the repository root: python benchmarks/worker_roundtrip.py [--json FILE]. Latencies
include the round trip; the start-up time is from the first process to `ready`.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

from benchmarks import record
from wam_policy.command_line import add_value, to_options
from wam_policy.core.robot import embodiment
from wam_policy.workers import protocol
from wam_policy.workers.supervisor import WorkerSpec, WorkerState, WorkerSupervisor
from wam_policy.workers.worker_process import make_worker_environment

WARMUP_ROUNDS = 10  # not counted


def main() -> int:
    """Measure, print a table, write JSON."""
    parser = record.make_parser(__doc__)
    parser.add_argument('--checkpoint', default='preset:tiny', help='(default: %(default)s)')
    parser.add_argument('--embodiment', default='agibot_g1', choices=embodiment.list_robots())
    parser.add_argument(
        '--devices', nargs='+', default=['cpu', 'cpu'], help='one or two (default: %(default)s)'
    )
    parser.add_argument('--steps', type=int, default=4, help='network calls per query and branch')
    add_value(parser, '--rounds', 200, 'measured')
    parser.add_argument('--pin', action='store_true', help='also with each worker on one core')
    parser.add_argument('--echo', type=int, metavar='FD', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo is not None:
        serve_echo(socket.socket(fileno=options.echo))
        return 0
    rows = [measure_wire(options.rounds)]
    both = tuple(options.devices)
    model = {name: getattr(options, name) for name in ('checkpoint', 'embodiment', 'steps')}
    plans: dict[str, tuple[tuple[str, ...], bool, tuple[int, ...]]] = {
        'one worker, no guidance': (both[:1], False, ()),
        'one worker': (both[:1], True, ()),
    }
    if len(both) == 2:
        plans['two workers'] = (both, True, ())
        if options.pin:
            plans['two workers, pinned'] = (both, True, tuple(sorted(os.sched_getaffinity(0)))[:2])
    for name, (devices, guided, cores) in plans.items():
        plan = WorkerSpec(
            devices,
            tuple(to_options(model | {'guidance_scale': 5 if guided else 1})),
            guided,
            cores=cores,
        )
        rows += measure_queries(
            name, plan, embodiment.load_embodiment(options.embodiment), options.rounds
        )
    print_table(rows)
    record.write_report(
        options.json, {'checkpoint': options.checkpoint, 'steps': options.steps, 'rows': rows}
    )
    return 0


def serve_echo(end: socket.socket) -> None:
    """Answer every message with a chunk of the usual size."""
    chunk = {'targets': np.zeros((24, 16)), 'reference': np.zeros(16)}
    while True:
        try:
            request = protocol.receive(end)
        except protocol.PeerClosed:
            return
        protocol.send(end, protocol.WorkerMessage('chunk', dict(request.fields), chunk))


def measure_wire(rounds: int) -> dict:
    """Measure a round trip to another process: three 640x480 images, then a chunk back."""
    near, far = protocol.make_socket_pair()
    frames = {f'newest/{i}': np.full((1, 480, 640, 3), i, np.uint8) for i in range(3)}
    child = subprocess.Popen(
        [sys.executable, __file__, '--echo', str(far.fileno())],
        pass_fds=[far.fileno()],
        env=make_worker_environment({}),
    )
    far.close()

    def round_trip() -> None:
        protocol.send(near, protocol.WorkerMessage('query', {'id': 1}, frames), 10)
        protocol.receive(near, 10)

    with near:
        row = summarize('socket: 2.8 MB request, chunk as answer', time_rounds(round_trip, rounds))
    child.wait()
    return row


def measure_queries(
    name: str, plan: WorkerSpec, robot: embodiment.Embodiment, rounds: int
) -> list[dict]:
    """Measure queries without images, and queries with the newest images."""
    start_s = time.perf_counter()
    with WorkerSupervisor(plan, lambda rank, line: None) as pair:
        status = pair.wait_ready(plan.start_timeout_s)
        if status.state != WorkerState.READY:
            raise SystemExit(f'{name}: {status.reason}')
        ready_s = time.perf_counter() - start_s
        geometry = status.info['geometry']

        def gray_frames(prefix: str, count: int) -> dict[str, np.ndarray]:
            return {
                f'{prefix}/{camera.key}': np.full(
                    (count, camera.size[1], camera.size[0], 3), 128, np.uint8
                )
                for camera in robot.cameras
            }

        def request(kind: str, arrays: dict[str, np.ndarray], **fields: object) -> dict:
            return dict(
                pair.request(kind, {'session': 'bench', **fields}, arrays, timeout_s=60).fields
            )

        request('reset', {}, instruction='pick up the red cube')
        for block, count in enumerate((geometry['first_frames'], geometry['frames_per_block'])):
            request('commit', gray_frames('frames', count), block=block, stamps_ns=[0] * count)
        sequence = iter(range(10**9))
        stages: list[dict[str, float]] = []

        def make_query(arrays: dict[str, np.ndarray]) -> Callable[[], None]:
            def once() -> None:
                answer = request(
                    'query',
                    {'joints': robot.home_positions(robot.observed), **arrays},
                    sequence=next(sequence),
                    stamp_ns=0,
                    seed=0,
                )
                stages.append(answer['timings_ms'])

            return once

        rows = []
        for what, arrays in (
            ('query', {}),
            ('query with newest frames', gray_frames('newest', 1)),
        ):
            stages.clear()
            row = summarize(f'{name}: {what}', time_rounds(make_query(arrays), rounds))
            row['stages_ms'] = {
                stage: round(float(np.median([each[stage] for each in stages[WARMUP_ROUNDS:]])), 3)
                for stage in stages[0]
            }
            rows.append({**row, 'ready_s': round(ready_s, 2)})
    return rows


def time_rounds(call: Callable[[], None], rounds: int) -> list[float]:
    """Return the time of `rounds` calls after a warm-up, ms."""
    taken_ms = []
    for _ in range(WARMUP_ROUNDS + rounds):
        start_s = time.perf_counter()
        call()
        taken_ms.append(1e3 * (time.perf_counter() - start_s))
    return taken_ms[WARMUP_ROUNDS:]


def summarize(name: str, taken_ms: list[float]) -> dict:
    """Return a row of latency statistics."""
    p50, p99 = np.percentile(taken_ms, [50, 99])
    return {
        'name': name,
        'p50_ms': round(float(p50), 3),
        'p99_ms': round(float(p99), 3),
        'worst_ms': round(max(taken_ms), 3),
        'rounds': len(taken_ms),
    }


def print_table(rows: list[dict]) -> None:
    print(f'{"":50}{"p50 ms":>9}{"p99 ms":>9}{"ready s":>9}  stages, median ms')
    for row in rows:
        stages = '  '.join(f'{name} {ms:.1f}' for name, ms in row.get('stages_ms', {}).items())
        print(
            f'{row["name"]:50}{row["p50_ms"]:9.2f}{row["p99_ms"]:9.2f}'
            f'{row.get("ready_s", 0):9.1f}  {stages}'
        )


if __name__ == '__main__':
    sys.exit(main())
