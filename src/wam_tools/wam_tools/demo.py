"""Run a simulated robot under ROS 2 with a World Action Model, and measure the stack.

The launch is the one a user starts by hand. This program adds the instruction of the scene
and a monitor that measures from topics alone. Exit status: 0 if the loop was alive and ended
cleanly, 1 if not, 2 for wrong arguments, 130 and 143 if it was interrupted or terminated.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import rclpy

from wam_policy.command_line import CommandParser
from wam_policy.core.robot import embodiment
from wam_policy.nodes.run_node import ExecutorThread
from wam_tools import demo_report, stack_launch
from wam_tools.launch_process import LaunchProcess
from wam_tools.run_metrics import START_PHASES, StartUpPhases
from wam_tools.sim_operator import SimOperator
from wam_tools.stack_launch import StackLaunchError, StopRequest
from wam_tools.stack_monitor import StackMonitor
from wam_tools.task_loop import TaskLoop

START_TIMEOUT_S = 180.0  # from the launch to the first chunk; sufficient for a slow machine
DEPRECATED_OPTIONS = {'--flavour': '--server-profile'}
PAGE_PATTERN = re.compile(r"operator's page: (http://\S+)")
START_POLL_S = 0.1  # how late the instruction may follow the simulator's first status
MIN_MOVED_RAD = 0.01  # below this the robot counts as not moved
ERASE_LINE = '\r\x1b[2K'


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    parser = CommandParser(
        'wam demo', 'Simulate a robot that a World Action Model controls.', DEPRECATED_OPTIONS
    )
    stack_launch.add_launch_options(parser)
    parser.add_argument('--headless', action='store_true', help='open no window')
    parser.add_argument('--no-console', action='store_true', help="serve no operator's page")
    parser.add_argument(
        '--duration',
        type=float,
        metavar='S',
        help='seconds from the first chunk to the end (default: until Ctrl-C)',
    )
    parser.add_argument(
        '--report', type=Path, metavar='FILE', help='write the measurements as JSON'
    )
    parser.add_argument(
        '--backend',
        choices=('local', 'remote'),
        help='local workers or a policy server (default: local)',
    )
    parser.add_argument(
        '--server',
        metavar='URL',
        help='address of the policy server: ws://, wss://, http://, https:// or '
        'zmq+tcp://HOST:PORT, as its server profile needs it',
    )
    parser.add_argument(
        '--server-profile',
        metavar='NAME',
        help='message format of the server: a name of wam_policy/servers/profiles or a .yaml file',
    )
    options = parser.parse(argv)
    parser.require_positive(options, 'duration', unit=' s')
    options.seed = options.seed or 0
    if options.seed < 0:
        parser.error(f'--seed: want 0 or more, got {options.seed}')
    parser.require_folders(options, 'report')
    if (options.backend == 'remote') != (options.server is not None):
        parser.error('give both or neither of --backend remote and --server URL')
    return options


def make_launch_command(options: argparse.Namespace) -> list[str]:
    """Return the launch command; options not given keep the launch file's default."""
    display = has_display()
    if not options.headless and not display:
        print_flushed('no display: the simulator runs without a window')
    # the instruction is published, once there is a policy
    names = [name for name in stack_launch.LAUNCH_OPTIONS if name != 'instruction']
    names += ['backend', 'server', 'server_profile']
    return stack_launch.make_launch_command(
        options.robot,
        {
            'viewer': 'true' if display and not options.headless else 'false',
            'console': 'false' if options.no_console else None,  # else as the launch file has it
            **{name: getattr(options, name) for name in names},
        },
    )


def has_display() -> bool:
    return bool(os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY'))


def print_flushed(text: str) -> None:
    print(text, flush=True)


class ProgressLine:
    """Print statuses over one another; other lines appear above the current one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._shown = ''

    def show(self, elapsed_s: float, text: str) -> None:
        """Show a status; where lines cannot be rewritten, only one that differs from the last."""
        if self._stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            line = f'{elapsed_s:5.0f} s  {text}'
            self._write(ERASE_LINE + line[:width])  # a wrapped line could not be erased
        elif text != self._shown:
            self._write(f'{elapsed_s:5.0f} s  {text}\n')
        self._shown = text

    def print(self, text: str) -> None:
        """Print a line that stays."""
        self.close()
        self._write(text + '\n')

    def close(self) -> None:
        """Keep the current line on a terminal: what follows begins on a new one."""
        if self._shown and self._stream.isatty():
            self._write('\n')
        self._shown = ''

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class Demo:
    """Run one demo."""

    def __init__(self, options: argparse.Namespace, stop_event: threading.Event) -> None:
        self._options, self._stop_event = options, stop_event
        self._phases = StartUpPhases.from_process_start()
        self._phases.mark('imported', time.monotonic())
        self._robot = embodiment.load_embodiment(options.robot)
        self._monitor = StackMonitor(self._robot)
        self._operator = SimOperator(self._robot)
        self._task_loop = TaskLoop(self._monitor, self._operator)
        self._launch: LaunchProcess | None = None
        self._progress = ProgressLine()
        self._page_url = ''
        self._log_path = Path(tempfile.mkstemp(prefix='wam-demo-', suffix='.log')[1])

    def run(self) -> dict:
        """Return the report; raise StackLaunchError if there is nothing to report."""
        spinning = ExecutorThread([self._monitor, self._operator])
        try:
            return self._run_stack()
        finally:
            spinning.stop()
            self._monitor.destroy_node()
            self._operator.destroy_node()

    def _run_stack(self) -> dict:
        stack_launch.ensure_domain_is_free(self._monitor, self._stop_event)
        self._monitor.subscribe()
        command = make_launch_command(self._options)
        print_flushed(f'{" ".join(command)}\nlog: {self._log_path}')
        start_s = time.monotonic()
        self._phases.mark('domain_checked', start_s)
        self._launch = launch = LaunchProcess(command, self._log_path)
        found = {}
        try:
            first_chunk_s = self._wait_first_chunk(launch, start_s)
            self._monitor_run(launch, first_chunk_s)
            found = {
                **demo_report.collect_metrics(self._monitor, time.monotonic()),
                'start_up_s': first_chunk_s - start_s,
                'start_up_phases_s': self._phases.describe(),
            }
        finally:
            ended = self._stop_stack(launch)
        return {**found, **ended}

    def _wait_first_chunk(self, launch: LaunchProcess, launched_s: float) -> float:
        """Wait for the first chunk; return its time, s of the monotonic clock."""
        while (first_chunk_s := self._monitor.metrics.first_chunk_s) is None:
            if time.monotonic() - launched_s > START_TIMEOUT_S:
                raise StackLaunchError(
                    f'no chunk within {START_TIMEOUT_S:g} s: {self._monitor.reason}'
                )
            self._tick(launch, launched_s)
            if self._stop_event.is_set():
                raise StackLaunchError(f'ended before the first chunk: {self._monitor.reason}')
        for phase in START_PHASES:  # those that no status told of are over by then
            self._phases.mark(phase, first_chunk_s)
        self._progress.print(f'start-up: {self._phases}')
        return first_chunk_s

    def _wait_starting(self, duration_s: float) -> None:
        """Wait until the first chunk, a signal or the end, and send the instruction at once."""
        monitor, end_s = self._monitor, time.monotonic() + duration_s
        while (now_s := time.monotonic()) < end_s and monitor.metrics.first_chunk_s is None:
            self._phases.mark_policy(monitor.policy.state_name, monitor.policy.instruction, now_s)
            self._task_loop.tick(self._options.instruction, now_s)
            if self._stop_event.wait(START_POLL_S):
                return

    def _monitor_run(self, launch: LaunchProcess, start_s: float) -> None:
        """Run the stack for the duration, or until a signal."""
        if not self._monitor.trained:
            self._progress.print(
                'weights are random (UNTRAINED): the robot moves without a purpose'
            )
        while not self._stop_event.is_set():
            left_s = (
                float('inf')
                if self._options.duration is None
                else start_s + self._options.duration - time.monotonic()
            )
            if left_s <= 0:
                return
            self._tick(launch, start_s, min(1.0, left_s))

    def _tick(self, launch: LaunchProcess, start_s: float, duration_s: float = 1.0) -> None:
        """Wait for at most a second, advance the task loop and print the status."""
        if self._monitor.metrics.first_chunk_s is None:
            self._wait_starting(duration_s)
        else:
            self._stop_event.wait(duration_s)
        if not self._page_url:
            self._announce_page(launch)
        launch.measure_memory_mb()
        if launch.returncode is not None:
            raise StackLaunchError(f'the launch ended by itself with status {launch.returncode}')
        self._task_loop.tick(self._options.instruction, time.monotonic())
        self._progress.show(time.monotonic() - start_s, self._format_status())

    def _announce_page(self, launch: LaunchProcess) -> None:
        """Print the address of the operator's page once it is served; on a desktop, open it."""
        found = PAGE_PATTERN.search(launch.read_log())
        if found is None:
            return
        self._page_url = found[1]
        self._progress.print(f"operator's page: {self._page_url}")
        if has_display() and not self._options.headless:
            webbrowser.open(self._page_url)

    def _format_status(self) -> str:
        monitor, now_s = self._monitor, time.monotonic()
        metrics, latency_ms = monitor.metrics, monitor.metrics.recent_latency_ms()
        if metrics.first_chunk_s is None:
            return monitor.reason
        cameras = ' '.join(f'{rate:.1f}' for rate in metrics.camera_hz().values())
        return (
            f'{monitor.policy.state_name:<9} '
            f'{metrics.recent_hz(now_s):4.1f} chunks/s  latency {latency_ms or 0.0:4.0f} ms  '
            f'cameras {cameras} Hz  '
            f'real time x{monitor.sim.real_time_factor:.2f}  '
            f'memory {monitor.policy.kv_commits} blocks  '
            f'moved {metrics.moved_rad:.2f} rad  {self._task_loop}'
        )

    def _stop_stack(self, launch: LaunchProcess) -> dict:
        """Stop the launch; return the exit codes and task counts for the report."""
        self._progress.close()
        self._task_loop.close()
        force_stop = threading.Event()
        status, left = launch.stop(force_stop)
        return {
            'steps': self._options.steps or 0,
            'tasks_done': self._task_loop.score.succeeded,
            'tasks_tried': self._task_loop.score.attempted,
            'memory_mb': launch.peak_mb,
            'launch_exit_code': status,
            'exit_codes': launch.exit_codes(),
            'killed_processes': left,
        }

    def read_log_tail(self) -> str:
        return self._launch.read_log_tail() if self._launch else ''

    def delete_log(self) -> None:
        self._log_path.unlink(missing_ok=True)


def find_failures(
    results: dict, duration_s: float | None, *, has_memory: bool = True
) -> list[str]:
    """Return the reasons why a run did not work or did not end cleanly.

    Without `has_memory` no frames need to be committed: a remote server may have none.
    """
    failures = []
    if results['chunks'] < 2:
        failures.append(f'only {results["chunks"]} chunks were received')
    if has_memory and results['kv_commits'] < 1:
        failures.append('no real frames were committed')
    if results['moved_rad'] < MIN_MOVED_RAD and (duration_s or 10.0) >= 5.0:
        failures.append(f'the robot moved only {results["moved_rad"]:.4f} rad')
    if results['launch_exit_code'] != 0:
        failures.append(f'the launch ended with status {results["launch_exit_code"]}')
    failures += [
        f'{name} ended with status {code}' for name, code in results['exit_codes'].items() if code
    ]
    if results['killed_processes']:
        failures.append(f'{results["killed_processes"]} processes had to be killed')
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_arguments(argv)
    stop_request = StopRequest()
    demo, failures, found = Demo(options, stop_request), [], {}
    try:
        found = demo.run()
        failures = find_failures(found, options.duration, has_memory=options.backend != 'remote')
    except StackLaunchError as failure:
        failures = [str(failure)]
    finally:
        rclpy.try_shutdown()
    status = _exit_status(failures, stop_request.signals, options.duration)
    if found and options.report is not None:
        options.report.write_text(json.dumps({**found, 'exit_code': status}, indent=2) + '\n')
        print_flushed(f'report: {options.report}')
    if failures and not stop_request.signals:
        print_flushed(demo.read_log_tail())
        print('\n'.join(f'demo: {text}' for text in failures), file=sys.stderr)
    else:
        demo.delete_log()
    return status


def _exit_status(failures: list[str], signals: list[int], duration_s: float | None) -> int:
    """Return the exit status; Ctrl-C on a demo without a duration counts as success."""
    if signals and (signals[0] != signal.SIGINT or duration_s is not None or failures):
        return 128 + signals[0]
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
