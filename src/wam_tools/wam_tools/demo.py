"""A simulated robot under ROS 2, moved by a World Action Model: start, watch, measure, end.

The launch is the one a user starts by hand. This program adds the instruction that the scene asks
for, and a monitor that measures from topics alone. Exit status: 0 if the loop was alive and ended
cleanly, 1 if not, 2 for wrong arguments, 130 and 143 if it was interrupted or terminated.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.signals import SignalHandlerOptions

from wam_policy.core.robot import embodiment
from wam_policy.nodes.run_node import Spinning
from wam_tools import demo_report
from wam_tools.launch_process import Supervised
from wam_tools.sim_operator import Stage
from wam_tools.stack_monitor import Monitor
from wam_tools.task_loop import Rounds

SIZES = ('160x120', '320x240', '640x480')
DISCOVERY_S = 1.0  # until nodes that are here already are known
START_S = 180.0  # from the launch to the first chunk, on a slow machine
MOVED_RAD = 0.01  # less than this is a robot that stood still


class Failure(Exception):
    """The demo did not show what it should."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog='wam demo', description='Simulate a robot and let a World Action Model move it.'
    )
    parser.add_argument('--robot', choices=('agibot_g1', 'yam'), default='agibot_g1')
    parser.add_argument('--headless', action='store_true', help='open no window')
    parser.add_argument(
        '--duration',
        type=float,
        metavar='S',
        help='seconds from the first chunk to the end (default: until Ctrl-C)',
    )
    parser.add_argument('--report', type=Path, metavar='FILE', help='write what was measured')
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='N',
        help='of scene and noise (default: %(default)s)',
    )
    parser.add_argument(
        '--instruction',
        metavar='TEXT',
        help='what to do (default: what the scene asks for, then the next)',
    )
    parser.add_argument(
        '--checkpoint',
        metavar='DIR',
        help='weights: a folder, mini (which came along), or preset:NAME for '
        'random ones (default: mini)',
    )
    parser.add_argument(
        '--backend',
        choices=('local', 'remote'),
        help='who predicts: workers here, or a policy server (default: local)',
    )
    parser.add_argument('--server', metavar='URL', help='of that server, ws://HOST:PORT')
    parser.add_argument('--flavour', metavar='NAME', help='how it wants to be spoken to')
    parser.add_argument(
        '--devices', metavar='LIST', help='one device per worker, e.g. cpu,cpu or cuda:0,cuda:1'
    )
    parser.add_argument(
        '--steps',
        type=int,
        metavar='N',
        help='denoising steps per query (default: what the checkpoint advises)',
    )
    parser.add_argument('--camera-size', choices=SIZES, help='of the pictures')
    parser.add_argument('--camera-hz', type=float, metavar='HZ', help='pictures per second')
    chosen = parser.parse_args(given)
    if chosen.duration is not None and not chosen.duration > 0:
        parser.error(f'--duration: want more than 0 s, got {chosen.duration:g}')
    if chosen.seed < 0:
        parser.error(f'--seed: want 0 or more, got {chosen.seed}')
    if chosen.report is not None and not chosen.report.absolute().parent.is_dir():
        parser.error(f'--report: there is no folder {chosen.report.absolute().parent}')
    if (chosen.backend == 'remote') != (chosen.server is not None):
        parser.error('--backend remote and --server ws://HOST:PORT belong together')
    return chosen


def launch_command(chosen: argparse.Namespace) -> list[str]:
    """Return the command a user would type; what is not chosen stays as the launch file says."""
    display = bool(os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY'))
    if not chosen.headless and not display:
        say('no display: the simulator runs without a window')
    given = {
        'sim': 'true',
        'enable_motion': 'true',
        'seed': chosen.seed,
        'viewer': 'true' if display and not chosen.headless else 'false',
        'steps': chosen.steps,
        'checkpoint': chosen.checkpoint,
        'devices': chosen.devices,
        'backend': chosen.backend,
        'server': chosen.server,
        'flavour': chosen.flavour,
        'camera_size': chosen.camera_size,
        'camera_hz': chosen.camera_hz,
    }
    return [
        'ros2',
        'launch',
        'wam_bringup',
        f'{chosen.robot}.launch.py',
        *(f'{key}:={value}' for key, value in given.items() if value is not None),
    ]


def say(text: str) -> None:
    print(text, flush=True)


class Demo:
    """Live through one demo."""

    def __init__(self, chosen: argparse.Namespace, asked: threading.Event) -> None:
        self._chosen, self._asked = chosen, asked
        self._robot = embodiment.load(chosen.robot)
        self._monitor = Monitor(self._robot)
        self._stage = Stage(self._robot)
        self._rounds = Rounds(self._monitor, self._stage)
        self._stack: Supervised | None = None
        self._log = Path(tempfile.mkstemp(prefix='wam-demo-', suffix='.log')[1])

    def run(self) -> dict:
        """Return the report; raises Failure with the reason if there is nothing to report."""
        spinning = Spinning([self._monitor, self._stage])
        try:
            return self._measured()
        finally:
            spinning.stop()
            self._monitor.destroy_node()
            self._stage.destroy_node()

    def _measured(self) -> dict:
        if self._asked.wait(DISCOVERY_S):
            raise Failure('ended before anything was started')
        if self._monitor.others():
            raise Failure(
                'another stack runs in this ROS domain: end it, or set ROS_DOMAIN_ID '
                'to a number of your own'
            )
        self._monitor.watch()
        command = launch_command(self._chosen)
        say(f'{" ".join(command)}\nlog: {self._log}')
        begun_s = time.monotonic()
        self._stack = Supervised(command, self._log)
        found = {}
        try:
            start_up_s = self._started(begun_s)
            self._watched()
            found = {
                **demo_report.figures(self._monitor, time.monotonic()),
                'start_up_s': start_up_s,
            }
        finally:
            ended = self._ended()
        return {**found, **ended}

    def _started(self, begun_s: float) -> float:
        """Wait for the first chunk; return how long it took."""
        while self._monitor.witness.begun_s is None:
            if time.monotonic() - begun_s > START_S:
                raise Failure(f'no chunk within {START_S:g} s: {self._monitor.reason}')
            self._second(begun_s)
            if self._asked.is_set():
                raise Failure(f'ended before the first chunk: {self._monitor.reason}')
        return self._monitor.witness.begun_s - begun_s

    def _watched(self) -> None:
        """Let the stack run for the duration; a signal ends it earlier."""
        begun_s = self._monitor.witness.begun_s
        if not self._monitor.trained:
            say('weights are random (UNTRAINED): the robot moves, but not for a purpose')
        while not self._asked.is_set():
            left_s = (
                float('inf')
                if self._chosen.duration is None
                else begun_s + self._chosen.duration - time.monotonic()
            )
            if left_s <= 0:
                return
            self._second(begun_s, min(1.0, left_s))

    def _second(self, begun_s: float, length_s: float = 1.0) -> None:
        """Let at most a second pass, say how it goes, and ask for what is to be done."""
        self._asked.wait(length_s)
        self._stack.weigh()
        if self._stack.returncode is not None:
            raise Failure(f'the launch ended by itself with status {self._stack.returncode}')
        self._rounds.occupy(self._chosen.instruction, time.monotonic())
        say(self._line(time.monotonic() - begun_s))

    def _line(self, passed_s: float) -> str:
        monitor, now_s = self._monitor, time.monotonic()
        witness, latency_ms = monitor.witness, monitor.witness.recent_ms()
        if witness.begun_s is None:
            return f'{passed_s:5.0f} s  {monitor.reason}'
        cameras = ' '.join(f'{rate:.1f}' for rate in witness.camera_hz().values())
        return (
            f'{passed_s:5.0f} s  {monitor.state:<9} {witness.recent_hz(now_s):4.1f} chunks/s  '
            f'latency {latency_ms or 0.0:4.0f} ms  cameras {cameras} Hz  '
            f'real time x{monitor.sim.real_time_factor if monitor.sim else 0.0:.2f}  '
            f'memory {monitor.policy.kv_commits if monitor.policy else 0} blocks  '
            f'moved {witness.moved:.2f} rad  {self._rounds}'
        )

    def _ended(self) -> dict:
        """End the launch and say how; figures of the ending for the report."""
        self._rounds.close()
        hurry = threading.Event()
        status, left = self._stack.stop(hurry)
        return {
            'steps': self._chosen.steps or 0,
            'tasks_done': self._rounds.score.done,
            'tasks_tried': self._rounds.score.tried,
            'memory_mb': self._stack.peak_mb,
            'launch_exit_code': status,
            'exit_codes': self._stack.exit_codes(),
            'killed_processes': left,
        }

    def last_words(self) -> str:
        return self._stack.last_words() if self._stack else ''

    def forget_log(self) -> None:
        self._log.unlink(missing_ok=True)


def faults(found: dict, duration_s: float | None) -> list[str]:
    """Return what kept a measured run from being alive and clean."""
    wrong = []
    if found['chunks'] < 2:
        wrong.append(f'only {found["chunks"]} chunks came')
    if found['kv_commits'] < 1:
        wrong.append('no real frames were committed')
    if found['moved_rad'] < MOVED_RAD and (duration_s or 10.0) >= 5.0:
        wrong.append(f'the robot moved only {found["moved_rad"]:.4f} rad')
    if found['launch_exit_code'] != 0:
        wrong.append(f'the launch ended with status {found["launch_exit_code"]}')
    wrong += [
        f'{name} ended with status {code}' for name, code in found['exit_codes'].items() if code
    ]
    if found['killed_processes']:
        wrong.append(f'{found["killed_processes"]} processes had to be killed')
    return wrong


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    asked, numbers = threading.Event(), []

    def on_signal(number: int, _: object) -> None:
        numbers.append(number)
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    demo, wrong, found = Demo(chosen, asked), [], {}
    try:
        found = demo.run()
        wrong = faults(found, chosen.duration)
    except Failure as failure:
        wrong = [str(failure)]
    finally:
        rclpy.try_shutdown()
    status = _status(wrong, numbers, chosen.duration)
    if found and chosen.report is not None:
        chosen.report.write_text(json.dumps({**found, 'exit_code': status}, indent=2) + '\n')
        say(f'report: {chosen.report}')
    if wrong and not numbers:
        say(demo.last_words())
        print('\n'.join(f'demo: {text}' for text in wrong), file=sys.stderr)
    else:
        demo.forget_log()
    return status


def _status(wrong: list[str], numbers: list[int], duration_s: float | None) -> int:
    """Return the exit status; Ctrl-C is the way to end a demo that has no duration."""
    if numbers and (numbers[0] != signal.SIGINT or duration_s is not None or wrong):
        return 128 + numbers[0]
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
