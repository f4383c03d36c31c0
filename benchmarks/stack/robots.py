"""Measure several robots on one of our servers: whole simulated stacks, and replayed robots.

`./wam bench robots --output FILE` starts one `./wam serve` of the shipped model. Then 1, 2 and 4
simulated stacks, each in a namespace of one ROS domain (`--domains`: in a domain of its own), run
with the smallest images that the simulator renders; all are measured over the same stretch of
time. A machine with too few cores for so many simulations cannot tell what the server carries.
Therefore that is also measured alone, with 1, 2 and 4 clients that send recorded observations at a
robot's rate: a query every 80 ms, which reads the memory, and a block of four frames of every
camera every 0.8 s. A latency counts from when the query was due, so that waiting for an earlier
answer is part of it.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from benchmarks import observations, record
from benchmarks.remote_latency import run_server
from benchmarks.servers.session_throughput import ask, find_server, open_session, read_cpu_s
from cli import domain
from wam_policy.core.robot import embodiment
from wam_policy.servers import server_profile, value_mapping
from wam_policy.servers.codecs import msgpack_codec

MAX_ROBOTS = 4
CHEAP_CAMERAS = {'camera_size': '160', 'camera_hz': '5.0'}  # the model's own frame rate
QUERY_PERIOD_S = 1 / 12.5  # max_query_rate_hz of the policy node
FRAMES_PER_BLOCK, FRAME_HZ = 4, 5.0
RECORDED_BLOCKS = 4
START_TIMEOUT_S = 240.0  # of all stacks; four on two cores take a minute
SETTLE_S = 5.0
MEBIBYTE = 2**20


def main() -> int:
    """Measure, print a line per number of robots, write JSON."""
    parser = record.make_parser(__doc__, '--output')
    parser.add_argument('--robot', default='agibot_g1', help='(default: %(default)s)')
    parser.add_argument('--checkpoint', default='mini', help='(default: %(default)s)')
    parser.add_argument('--robots', type=int, nargs='*', default=[1, 2, 4], metavar='N')
    parser.add_argument('--seconds', type=float, default=15.0, help='of each number of stacks')
    parser.add_argument('--replay-seconds', type=float, default=8.0, help='of a round')
    parser.add_argument('--rounds', type=int, default=3, help='of the replay')
    parser.add_argument('--no-stacks', action='store_true', help='replay only')
    parser.add_argument('--domains', action='store_true', help='a ROS domain for each stack')
    parser.add_argument('--stack', metavar='ADDRESS', help=argparse.SUPPRESS)
    parser.add_argument('--namespace', default='', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if max(options.robots, default=0) > MAX_ROBOTS:
        parser.error(f'--robots: want at most {MAX_ROBOTS}, got {options.robots}')
    if options.stack:
        run_stack(options.robot, options.stack, options.seconds, options.namespace)
        return 0
    with run_server(
        *('-m', 'wam_policy.servers.serve', '--checkpoint', options.checkpoint),
        *('--embodiment', options.robot, '--port', '0', '--quiet'),
        *('--max-sessions', str(MAX_ROBOTS)),
    ) as address:
        replayed = asyncio.run(replay_all(options, address))
        stacks = []
        for count in options.robots if not options.no_stacks else ():
            stacks.append(measure_stacks(options, address, count))
            print(json.dumps(stacks[-1]), flush=True)
    names = ('robot', 'checkpoint', 'seconds', 'replay_seconds', 'rounds')
    given = {name: getattr(options, name) for name in names}
    found = {
        'cameras': CHEAP_CAMERAS,
        'separated_by': 'domains' if options.domains else 'namespaces',
        'replayed': replayed,
        'stacks': stacks,
    }
    record.write_report(options.output, given | found)
    return 0


def measure_memory_mb(processes: Sequence[psutil.Process]) -> float:
    """Return the memory of processes in MB; pages that they share count once (PSS)."""
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return round(total / MEBIBYTE, 1)


def measure_server(address: str) -> list[psutil.Process]:
    """Return the processes of the server."""
    server = find_server(address)
    return [server, *server.children(recursive=True)]


# ---- whole stacks


def measure_stacks(options: argparse.Namespace, address: str, count: int) -> dict[str, Any]:
    """Run stacks side by side over one stretch of time; return what each measured."""
    seeds = [os.getpid() + 20 * number * options.domains for number in range(count)]
    domains = {seed: str(domain.find_free_domain(seed)) for seed in set(seeds)}
    namespaces = ['' if options.domains else f'robot_{number + 1}' for number in range(count)]
    command = [sys.executable, __file__, '--stack', address, '--robot', options.robot]
    stacks = [
        subprocess.Popen(
            [*command, '--seconds', str(options.seconds), '--namespace', namespace],
            env=os.environ | {'ROS_DOMAIN_ID': domains[seed]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, namespace in zip(seeds, namespaces, strict=True)
    ]
    try:
        read_lines(stacks)  # each has a first chunk
        time.sleep(SETTLE_S)
        server = measure_server(address)
        before_s, started_s = read_cpu_s(server), time.monotonic()
        tell(stacks, 'measure')
        found = [json.loads(line) for line in read_lines(stacks)]
        share = (read_cpu_s(server) - before_s) / (time.monotonic() - started_s)
        memory_mb, load = measure_memory_mb(server), os.getloadavg()[0]
        tell(stacks, 'stop')
        failed = [stack.wait(60) for stack in stacks]
    finally:
        for stack in stacks:
            stack.send_signal(signal.SIGINT)
            stack.wait(60)
    return {
        'robots': count,
        'server_memory_mb': memory_mb,
        'server_cpu_share': round(share, 3),
        'load_average': load,
        'exit_codes': failed,
        'each': found,
    }


def read_lines(programs: Sequence[subprocess.Popen]) -> list[str]:
    """Return a line of each program; RuntimeError if one ended."""
    lines = []
    for program in programs:
        assert program.stdout is not None
        lines.append(program.stdout.readline())
        if not lines[-1]:
            raise RuntimeError(f'a stack ended with status {program.wait(60)}')
    return lines


def tell(programs: Sequence[subprocess.Popen], word: str) -> None:
    for program in programs:
        assert program.stdin is not None
        program.stdin.write(word + '\n')
        program.stdin.flush()


def run_stack(robot_name: str, address: str, seconds: float, namespace: str) -> None:
    """Run a stack in this process's ROS domain: report its first chunk, measure when told."""
    from wam_policy.nodes.run_node import ExecutorThread
    from wam_tools import stack_launch
    from wam_tools.launch_process import LaunchProcess
    from wam_tools.run_metrics import RunMetrics
    from wam_tools.stack_monitor import StackMonitor

    stop_request = stack_launch.StopRequest()
    robot = embodiment.load_embodiment(robot_name)
    monitor = StackMonitor(robot, robot_namespace=namespace)
    monitor.subscribe()
    executor = ExecutorThread([monitor])
    command = stack_launch.make_launch_command(
        robot_name,
        {
            'seed': os.getpid(),
            'robot_namespace': namespace,
            'console': 'false',
            'backend': 'remote',
            'server': address,
            **CHEAP_CAMERAS,
        },
    )
    log_path = Path(tempfile.mkstemp(suffix='.log')[1])
    launch, end_s = LaunchProcess(command, log_path), time.monotonic() + START_TIMEOUT_S
    try:
        while monitor.metrics.first_chunk_s is None:
            if monitor.task:
                monitor.ensure_instruction(monitor.task)
            is_late = time.monotonic() > end_s or launch.returncode is not None
            if stop_request.wait(0.2) or is_late:
                raise SystemExit(f'no chunk: {monitor.reason}\n{launch.read_log_tail()}')
        print('first chunk', flush=True)
        sys.stdin.readline()
        monitor.metrics = metrics = RunMetrics(monitor.robot)
        underruns, late = monitor.motion.underruns, monitor.motion.chunks_late
        stop_request.wait(seconds)
        report = {
            'chunks_per_s': round((metrics.chunk_count - 1) / seconds, 2),
            'chunks': metrics.chunk_count,
            'latency_ms': {name: round(ms, 1) for name, ms in metrics.latency_ms().items()},
            'real_time_factor': round(metrics.real_time_factor(), 3),
            'underruns': monitor.motion.underruns - underruns,
            'late_chunks': monitor.motion.chunks_late - late,
            'memory_mb': measure_memory_mb(launch.find_processes()),
        }
        print(json.dumps(report), flush=True)
        sys.stdin.readline()
    finally:
        launch.stop(threading.Event())
        executor.stop()
        log_path.unlink()


# ---- replayed robots


async def replay_all(options: argparse.Namespace, address: str) -> list[dict[str, Any]]:
    """Return a row per number of robots; rounds of all numbers take turns."""
    recording = Recording(options.robot)
    found: dict[int, list[dict[str, Any]]] = {count: [] for count in options.robots}
    for _ in range(options.rounds):
        for count in options.robots:
            found[count].append(
                await replay(address, recording, options.robot, count, options.replay_seconds)
            )
    rows = []
    for count, rounds in found.items():
        rows.append(
            {
                'robots': count,
                **{key: record.summarize_range(one[key] for one in rounds) for key in rounds[0]},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


class Recording:
    """Hold encoded messages of a simulated robot: a query and a commit per block."""

    def __init__(self, robot_name: str) -> None:
        robot = embodiment.load_embodiment(robot_name)
        profile = server_profile.load_for_robot('', robot)
        count = 1 + RECORDED_BLOCKS * FRAMES_PER_BLOCK
        self.instruction, samples = observations.simulate(robot, FRAME_HZ, 0, count)
        seen = observations.stack_blocks(self.instruction, list(samples), FRAMES_PER_BLOCK)
        self.blocks = [
            value_mapping.encode_images(
                profile,
                {
                    key: frames[1 + i * FRAMES_PER_BLOCK : 1 + (i + 1) * FRAMES_PER_BLOCK]
                    for key, frames in seen.views.items()
                },
            )
            for i in range(RECORDED_BLOCKS)
        ]
        self.queries = [
            msgpack_codec.pack(
                {
                    'endpoint': 'infer',
                    **value_mapping.encode_request(profile, robot, {}, joints, self.instruction),
                }
            )
            for joints in seen.joint_positions
        ]


async def replay(
    address: str, recording: Recording, robot_name: str, count: int, seconds: float
) -> dict[str, float]:
    """Let `count` robots query and commit at their own rate; return what they got."""
    connections = [
        await open_session(address, robot_name, recording.instruction) for _ in range(count)
    ]
    server = measure_server(address)
    before_s, started_s = read_cpu_s(server), time.perf_counter()
    latencies = await asyncio.gather(
        *(
            run_robot(connection, recording, started_s + QUERY_PERIOD_S * number / count, seconds)
            for number, connection in enumerate(connections)
        )
    )
    taken_s = time.perf_counter() - started_s
    cpu_s = read_cpu_s(server) - before_s
    memory_mb = measure_memory_mb(server)
    for connection in connections:
        await connection.close()
    every = np.concatenate(latencies)
    return {
        'chunks_per_s_each': round(len(every) / count / taken_s, 2),
        'slowest_chunks_per_s': round(min(map(len, latencies)) / taken_s, 2),
        'latency_p50_ms': round(float(np.percentile(every, 50)), 1),
        'latency_p99_ms': round(float(np.percentile(every, 99)), 1),
        'server_cpu_share': round(cpu_s / taken_s, 3),
        'server_memory_mb': memory_mb,
        'load_average': os.getloadavg()[0],
    }


async def run_robot(
    connection: Any, recording: Recording, start_s: float, seconds: float
) -> list[float]:
    """Query and commit in turn as a policy node does; return the latency of each query in ms."""
    due_s, block, latencies_ms = start_s, 0, []
    block_s = FRAMES_PER_BLOCK / FRAME_HZ
    while (now_s := time.perf_counter()) < start_s + seconds:
        if now_s < due_s:
            await asyncio.sleep(due_s - now_s)
        if time.perf_counter() - start_s > block * block_s:
            images = recording.blocks[block % len(recording.blocks)]
            block += 1
            message = {'endpoint': 'commit', 'block': block, **images}
            await ask(connection, msgpack_codec.pack(message))
        await ask(connection, recording.queries[block % len(recording.queries)])
        answered_s = time.perf_counter()
        latencies_ms.append(1e3 * (answered_s - due_s))
        due_s = max(due_s + QUERY_PERIOD_S, answered_s)
    return latencies_ms


if __name__ == '__main__':
    sys.exit(main())
