"""Measure what the operator's page costs: chunk rate, latency, processor and network.

`./wam bench console_cost --output FILE` runs one simulated stack and lets nobody look, then one
viewer, then one with the panel of predicted video open, over and over in turn, so that a slow
minute of the machine meets all of them. The viewer is a client that reads everything and draws
nothing: what a browser costs belongs to its machine.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rclpy
from websockets import Origin
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from benchmarks import record
from wam_policy.core.robot import embodiment
from wam_policy.nodes.run_node import ExecutorThread
from wam_tools.stack_monitor import StackMonitor

MODES = ('nobody looks', 'one viewer', 'one viewer, predicted video')
PAGE_PATTERN = re.compile(r"operator's page: http://(\S+)")
PREDICTED = 3  # first byte of a message with a predicted frame, wam_console.viewer_hub
SETTLE_S = 4.0  # after a change of mode


class PageReader:
    """Read everything that the page is sent."""

    def __init__(self, host: str, *, shows_predictions: bool) -> None:
        self.bytes, self.predicted_frames = 0, 0
        self._host, self._shows = host, shows_predictions
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> None:
        self._stop_event.set()
        self._thread.join()

    def _read(self) -> None:
        with connect(
            f'ws://{self._host}/ws', origin=Origin(f'http://{self._host}'), compression=None
        ) as client:
            if self._shows:
                client.send(json.dumps({'id': 1, 'name': 'show_predictions', 'shown': True}))
            while not self._stop_event.is_set():
                message = client.recv(timeout=10)
                self.bytes += len(message)
                self.predicted_frames += not isinstance(message, str) and message[0] == PREDICTED


def measure(
    monitor: StackMonitor, console: psutil.Process, host: str, mode: str, seconds: float
) -> dict[str, Any]:
    """Return rates over one stretch of time in one mode."""
    viewer = None if mode == MODES[0] else PageReader(host, shows_predictions=mode == MODES[2])
    time.sleep(SETTLE_S)
    cpu, bytes_before = console.cpu_times(), viewer.bytes if viewer else 0
    chunks, start_s = monitor.policy.chunks_published, time.monotonic()
    latencies_ms = []
    while time.monotonic() - start_s < seconds:
        time.sleep(0.5)
        if monitor.task:
            monitor.ensure_instruction(monitor.task)
        latencies_ms.append(monitor.metrics.recent_latency_ms())
    elapsed_s, now = time.monotonic() - start_s, console.cpu_times()
    found = {
        'mode': mode,
        'seconds': round(elapsed_s, 2),
        'chunks_per_s': round((monitor.policy.chunks_published - chunks) / elapsed_s, 3),
        'latency_ms': round(float(np.median([each for each in latencies_ms if each])), 1),
        'console_cpu_share': round((now.user + now.system - cpu.user - cpu.system) / elapsed_s, 4),
        'bytes_per_s': round((viewer.bytes - bytes_before) / elapsed_s) if viewer else 0,
        'predicted_frames': viewer.predicted_frames if viewer else 0,
        'load_average': os.getloadavg()[0],
    }
    if viewer:
        viewer.close()
    return found


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return median and range over the rounds, per mode."""
    return {
        mode: {
            key: record.summarize_range(row[key] for row in rows if row['mode'] == mode)
            for key in ('chunks_per_s', 'latency_ms', 'console_cpu_share', 'bytes_per_s')
        }
        for mode in MODES
    }


def main() -> None:
    parser = record.make_parser(
        "Measure the cost of the operator's page", '--output', required=True
    )
    parser.add_argument('--robot', default='agibot_g1')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=12.0, help='of each mode in a round')
    options = parser.parse_args()
    rclpy.init()
    monitor = StackMonitor(embodiment.load_embodiment(options.robot))
    monitor.subscribe()
    executor = ExecutorThread([monitor])
    log_path = Path(tempfile.mkstemp(suffix='.log')[1])
    with log_path.open('w') as log:
        launch = subprocess.Popen(
            ['ros2', 'launch', 'wam_bringup', f'{options.robot}.launch.py', 'sim:=true'],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    rows = []
    try:
        while not (page := PAGE_PATTERN.search(log_path.read_text())) or not monitor.task:
            time.sleep(0.5)
        while not monitor.policy.chunks_published:
            monitor.ensure_instruction(monitor.task)
            time.sleep(0.5)
        console = next(
            child
            for child in psutil.Process(launch.pid).children(recursive=True)
            if any('console_node' in word for word in child.cmdline())
        )
        for number in range(options.rounds):
            for mode in MODES[number % 3 :] + MODES[: number % 3]:
                rows.append(measure(monitor, console, page[1], mode, options.seconds))
                print(rows[-1], flush=True)
        memory_mb = console.memory_info().rss / 2**20
    finally:
        launch.send_signal(signal.SIGINT)
        launch.wait(30)
        executor.stop()
        log_path.unlink()
    report = {
        'robot': options.robot,
        'rounds': options.rounds,
        'console_memory_mb': round(memory_mb, 1),
        'summary': summarize(rows),
        'rows': rows,
    }
    record.write_report(options.output, report)


if __name__ == '__main__':
    main()
