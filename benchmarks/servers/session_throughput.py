"""Measure chunks per second of several sessions on one server, with and without batches.

Run from the repository root: python benchmarks/servers/session_throughput.py [--json FILE]. Two
servers of the same model run side by side, one with --max-batch 1 (every query alone) and one that
computes queries together. Only one of them is used at a time, in turns, so that both see the same
load of the machine. Every session queries without a pause. Next to chunks per second stand chunks
per second of CPU time of the workers, which other programs on the machine disturb less.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from websockets.asyncio.client import ClientConnection, connect

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

from benchmarks import record
from benchmarks.remote_latency import run_server
from wam_policy.command_line import add_value
from wam_policy.core.robot import embodiment
from wam_policy.servers import server_profile, value_mapping
from wam_policy.servers.codecs import msgpack_codec

SESSIONS = (1, 2, 4, 8)
INSTRUCTION = 'fold it'
WARMUP_QUERIES = 5  # of each session, not counted


def main() -> int:
    """Measure, print a table, write JSON."""
    parser = record.make_parser(__doc__)
    parser.add_argument('--robot', default='yam', help='(default: %(default)s)')
    parser.add_argument('--checkpoint', default='', help='(default: the shipped model)')
    parser.add_argument('--devices', default='cpu', help='(default: %(default)s)')
    add_value(parser, '--rounds', 6, 'of each')
    parser.add_argument('--seconds', type=float, default=3.0, help='per round and server')
    options = parser.parse_args()
    model = ('--checkpoint', options.checkpoint) if options.checkpoint else ()
    command = (
        *('-m', 'wam_policy.servers.serve', '--embodiment', options.robot, *model),
        *('--devices', options.devices, '--max-sessions', str(max(SESSIONS))),
        *('--port', '0', '--quiet'),
    )
    with (
        run_server(*command, '--max-batch', '1') as single,
        run_server(*command, '--max-batch', str(max(SESSIONS))) as batched,
    ):
        rows = asyncio.run(measure_all(options, {'single': single, 'batched': batched}))
    given = {name: getattr(options, name) for name in ('robot', 'devices', 'seconds', 'rounds')}
    record.write_report(options.json, {**given, 'rows': rows})
    return 0


async def measure_all(options: argparse.Namespace, servers: dict[str, str]) -> list[dict]:
    """Return a row per number of sessions and server; print them."""
    rows = []
    for sessions in SESSIONS:
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        load = []
        for _ in range(options.rounds):
            for name, address in servers.items():  # in turns: the same load for both
                found[name].append(
                    await measure(address, options.robot, sessions, options.seconds)
                )
            load.append(os.getloadavg()[0])
        single, batched = ([pair[0] for pair in found[name]] for name in servers)
        ratios = [b / a for a, b in zip(single, batched, strict=True)]
        for name, pairs in found.items():
            rows.append(
                {
                    'sessions': sessions,
                    'server': name,
                    'chunks_per_s': [pair[0] for pair in pairs],
                    'chunks_per_cpu_s': [pair[1] for pair in pairs],
                    'load': load,
                }
            )
        cpu = [statistics.median(pair[1] for pair in pairs) for pairs in found.values()]
        print(
            f'{sessions} sessions: {statistics.median(single):6.1f} -> '
            f'{statistics.median(batched):6.1f} chunks/s, ratio of rounds '
            f'{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); '
            f'per CPU second {cpu[0]:.0f} -> {cpu[1]:.0f} ({cpu[1] / cpu[0]:.2f}x); '
            f'load {statistics.mean(load):.1f}',
            flush=True,
        )
    return rows


async def measure(
    address: str, robot_name: str, sessions: int, seconds: float
) -> tuple[float, float]:
    """Return chunks per second and per second of CPU time of the workers."""
    connections = [await open_session(address, robot_name) for _ in range(sessions)]
    query = make_query(robot_name)
    for connection in connections:
        for _ in range(WARMUP_QUERIES):
            await ask(connection, query)
    workers = find_server(address).children(recursive=True)
    before_s, started_s = read_cpu_s(workers), time.perf_counter()
    end_s = started_s + seconds
    counts = await asyncio.gather(*(ask_until(c, query, end_s) for c in connections))
    taken_s, cpu_s = time.perf_counter() - started_s, read_cpu_s(workers) - before_s
    for connection in connections:
        await connection.close()
    return sum(counts) / taken_s, sum(counts) / cpu_s


def read_cpu_s(processes: Sequence[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


def find_server(address: str) -> psutil.Process:
    """Return the child process of this program that listens at an address."""
    port = int(address.rsplit(':', 1)[1])
    for process in psutil.Process().children():
        ports = {c.laddr.port for c in process.net_connections('tcp') if c.status == 'LISTEN'}
        if port in ports:
            return process
    raise RuntimeError(f'no server of this program listens at {address}')


async def open_session(
    address: str, robot_name: str, instruction: str = INSTRUCTION
) -> ClientConnection:
    """Start a session whose memory takes commits, and commit a first image."""
    robot = embodiment.load_embodiment(robot_name)
    profile = server_profile.load_for_robot('', robot)
    size = profile.image_size or (320, 240)
    views = {key: np.zeros((1, size[1], size[0], 3), np.uint8) for key in profile.cameras}
    connection = await connect(address, compression=None, max_size=None, ping_interval=None)
    await connection.recv()
    prompt = str((profile.prompt_key or ('prompt',))[0])
    for message in (
        {'endpoint': 'reset', 'memory': 'clocked', prompt: instruction},
        {'endpoint': 'commit', 'block': 0, **value_mapping.encode_images(profile, views)},
    ):
        await ask(connection, msgpack_codec.pack(message))
    return connection


def make_query(robot_name: str) -> bytes:
    """Return an encoded query without images."""
    robot = embodiment.load_embodiment(robot_name)
    profile = server_profile.load_for_robot('', robot)
    joints = robot.home_positions(robot.observed)
    message = value_mapping.encode_request(profile, robot, {}, joints, INSTRUCTION)
    return msgpack_codec.pack({'endpoint': 'infer', **message})


async def ask(connection: ClientConnection, message: bytes) -> str | bytes:
    """Send a message and return the answer; RuntimeError if it is an error."""
    await connection.send(message)
    answer = await connection.recv()
    if isinstance(answer, str) and answer != 'reset successful':
        raise RuntimeError(answer)
    return answer


async def ask_until(connection: ClientConnection, query: bytes, end_s: float) -> int:
    count = 0
    while time.perf_counter() < end_s:
        await ask(connection, query)
        count += 1
    return count


if __name__ == '__main__':
    sys.exit(main())
