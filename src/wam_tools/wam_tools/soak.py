"""Run the stack for hours; sample its resources and performance, evaluate and plot them.

The stack is started here, or is below another process (--attach-pid) and is then not touched.
Processes are measured by the kernel's counters, the rest from topics. The
report is rewritten with every sample, so a kill loses the last one at most. Exit status: 0 if
nothing grows and nothing was lost, 1 otherwise, 2 for wrong arguments.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rclpy

from wam_policy.command_line import CommandParser, add_value
from wam_policy.core.robot import embodiment
from wam_policy.nodes.run_node import ExecutorThread
from wam_tools import demo, demo_report, soak_plot, stack_launch
from wam_tools.attached_stack import AttachedStack, process_name
from wam_tools.launch_process import MEBIBYTE, LaunchProcess
from wam_tools.sim_operator import SimOperator
from wam_tools.stack_launch import LAUNCH_OPTIONS, StackLaunchError, StopRequest
from wam_tools.stack_monitor import StackMonitor
from wam_tools.task_loop import TaskLoop
from wam_tools.trend import fit_trend

WARM_UP_SHARE, WARM_UP_MAX_S = 1 / 6, 600.0  # caches and allocators grow at first
# Pages of a library count as private (uss) while no other process maps it: those of motion_node
# and sim_node rose by 55 and 78 MB when another process ended, although they allocated nothing.
MEMORY_KEYS = ('anon_mb', 'uss_mb')  # the second for reports without the first
# The allocator keeps freed images at times: policy_node has up to four more (3.7 MB) for minutes,
# more often under load. A leak also raises the minimum of every interval.
MEMORY_INTERVALS = 12  # of five minutes in an hour
# A heap keeps its maximum size, and rare events increase it: that of motion_node grew by 0.36 MB
# in ten minutes while the memory in use (counted by malloc and Python) stayed within 0.3 %. Such a
# difference is not significant; a longer run resolves a slower leak.
MEMORY_RESOLUTION_MB = 0.5
DEPRECATED_OPTIONS = {'--watch': '--attach-pid', '--again': '--replot'}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    parser = CommandParser(
        'wam soak',
        'Run the simulated stack for hours and measure its resources.',
        DEPRECATED_OPTIONS,
    )
    stack_launch.add_launch_options(parser)
    add_value(parser, '--hours', 1.0, 'limit, from the first sample', 'H')
    parser.add_argument(
        '--attach-pid',
        type=int,
        metavar='PID',
        help='start nothing: sample the stack below that process, for example '
        'that of a running ./wam eval, until it ends',
    )
    add_value(parser, '--period', 10.0, 'time between samples', 'S')
    parser.add_argument(
        '--report',
        type=Path,
        required=True,
        metavar='FILE',
        help='all samples and their evaluation, JSON',
    )
    parser.add_argument('--plot', type=Path, metavar='FILE', help='PNG')
    parser.add_argument(
        '--replot', action='store_true', help='evaluate and plot the existing report; run nothing'
    )
    options = parser.parse(argv)
    parser.require_positive(options, 'hours', 'period')
    parser.require_folders(options, 'report', 'plot')
    if options.attach_pid is not None and (
        launch_options := [name for name in LAUNCH_OPTIONS if getattr(options, name) is not None]
    ):
        parser.error(
            f'--attach-pid starts no stack: omit '
            f'{", ".join("--" + name.replace("_", "-") for name in launch_options)}'
        )
    if options.replot and not options.report.is_file():
        parser.error(f'--replot: no report {options.report}')
    return options


def measure_processes(processes: Sequence[psutil.Process]) -> dict[str, dict[str, float]]:
    """Return the resources of every process of the stack, by a name that a restart keeps."""
    found = {}
    for process in processes:
        try:
            name = process_name(process.cmdline())
            if name is None:
                continue
            memory = process.memory_full_info()
            found[name] = {
                'rss_mb': memory.rss / MEBIBYTE,
                'uss_mb': memory.uss / MEBIBYTE,
                'anon_mb': read_anonymous_bytes(process.pid) / MEBIBYTE,
                'fds': process.num_fds(),
                'threads': process.num_threads(),
            }
        except (psutil.Error, OSError):  # it has ended
            continue
    return found


def read_anonymous_bytes(pid: int) -> int:
    """Return the bytes of anonymous memory of a process, which no file backs."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith('Anonymous:'))


def take_sample(
    monitor: StackMonitor,
    processes: Mapping[str, Any],
    stack: int,
    start_s: float,
    previous: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return one sample of resources and performance; `previous` is one of the same stack."""
    policy, motion = monitor.policy, monitor.motion
    now_s = time.monotonic() - start_s
    stages = dict(
        zip(
            policy.stage_names,
            zip(policy.stage_p50_ms, policy.stage_p99_ms, strict=True),
            strict=True,
        )
    )
    p50_ms, p99_ms = stages.get('total', (0.0, 0.0))
    since = (
        {'at_s': now_s - 1.0, 'chunks': policy.chunks_published} if previous is None else previous
    )
    return {
        'at_s': round(now_s, 2),
        'stack': stack,
        'state': policy.state_name,
        'chunks': policy.chunks_published,
        'chunk_hz': max(0, policy.chunks_published - since['chunks'])
        / max(now_s - since['at_s'], 1e-3),
        'latency_p50_ms': p50_ms,
        'latency_p99_ms': p99_ms,
        'camera_hz': min(policy.camera_rate_hz, default=0.0),
        'underruns': motion.underruns,
        'late_chunks': motion.chunks_late,
        'chunks_rejected': motion.chunks_rejected,
        'late_ticks': motion.late_ticks,
        'jitter_p99_ms': motion.tick_jitter_p99_ms,
        'dropped_chunks': policy.dropped_chunks,
        'dropped_frames': policy.dropped_frames,
        'kv_commits': policy.kv_commits,
        'worker_restarts': policy.worker_restarts,
        'load': psutil.getloadavg()[0],
        'processes': processes,
    }


def evaluate_samples(samples: Sequence[Mapping[str, Any]], warm_up_s: float) -> dict[str, Any]:
    """Evaluate the samples after the warm-up: slope, confidence interval, flatness per metric.

    If several stacks ran one after another, the longest run is evaluated.
    """
    stacks = Counter(each.get('stack', 1) for each in samples)
    most = stacks.most_common(1)[0][0] if stacks else 1
    longest = [each for each in samples if each.get('stack', 1) == most]
    warm = [each for each in longest if each['at_s'] - longest[0]['at_s'] >= warm_up_s]
    names = sorted({name for each in warm for name in each['processes']})
    memory = next(
        (
            figure
            for figure in MEMORY_KEYS
            if all(figure in process for each in warm for process in each['processes'].values())
        ),
        MEMORY_KEYS[1],
    )
    series = {name: [each for each in warm if name in each['processes']] for name in names}
    found: dict[str, Any] = {
        'warm_up_s': warm_up_s,
        'samples': len(warm),
        'stacks': len(stacks),
        'processes': {},
    }
    for name, rows in series.items():
        at_s = np.array([each['at_s'] for each in rows])
        found['processes'][name] = {
            figure: judge(at_s, np.array([each['processes'][name][figure] for each in rows]))
            for figure, judge in (
                (memory, _fit_memory_trend),
                ('fds', _fit_trend),
                ('threads', _fit_trend),
            )
        }
    total = np.array([sum(p[memory] for p in each['processes'].values()) for each in warm])
    found['memory'] = memory
    found['total_mb'] = _fit_memory_trend(np.array([each['at_s'] for each in warm]), total)
    grows = [
        f'{name} {figure}'
        for name, figures in found['processes'].items()
        for figure, judged in figures.items()
        if judged and judged['low'] > 0.0
    ]
    found['grows'] = grows
    found['flat'] = bool(found['total_mb'] and found['total_mb']['low'] <= 0.0)
    return found


def _fit_memory_trend(at_s: np.ndarray, value: np.ndarray) -> dict[str, float] | None:
    """Return the trend of the minimum memory per interval, MB, widened by the resolution."""
    judged = _fit_trend(at_s, value, max_intervals=MEMORY_INTERVALS, aggregate=np.min)
    if judged is None:
        return None
    unsure = MEMORY_RESOLUTION_MB * 3600.0 / float(at_s[-1] - at_s[0])
    low, high = judged['low'] - unsure, judged['high'] + unsure
    return judged | {'low': low, 'high': high, 'flat': low <= 0.0 <= high}


def _fit_trend(at_s: np.ndarray, value: np.ndarray, **options: Any) -> dict[str, float] | None:
    slope = fit_trend(at_s, value, **options)
    return slope and {
        'first': float(value[0]),
        'last': float(value[-1]),
        'per_hour': slope.per_hour,
        'low': slope.low,
        'high': slope.high,
        'flat': slope.is_flat,
    }


def write_report(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the report atomically."""
    part = path.with_name(path.name + '.part')
    part.write_text(json.dumps(document, indent=1) + '\n')
    part.replace(path)


class Soak:
    """Run one soak test."""

    def __init__(self, options: argparse.Namespace, stop_event: threading.Event) -> None:
        self._options, self._stop_event = options, stop_event
        robot = embodiment.load_embodiment(options.robot)
        self._monitor, self._operator = StackMonitor(robot), SimOperator(robot)
        self._outcome: dict[str, Any] = {}
        self.samples: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Return the report; raise StackLaunchError if no stack ran."""
        spinning = ExecutorThread([self._monitor, self._operator])
        try:
            if self._options.attach_pid is None:
                self._run_launched_stack()
            else:
                self._run_attached_stack(AttachedStack(self._options.attach_pid))
        except ValueError as error:
            raise StackLaunchError(f'--attach-pid: {error}') from error
        finally:
            spinning.stop()
            self._monitor.destroy_node()
            self._operator.destroy_node()
        return self._make_report()

    def _run_launched_stack(self) -> None:
        """Start a stack, run tasks on it, and stop it."""
        stack_launch.ensure_domain_is_free(self._monitor, self._stop_event)
        self._monitor.subscribe()
        given = argparse.Namespace(
            **{
                **vars(self._options),
                'seed': self._options.seed or 0,
                'headless': True,
                'no_console': True,
                'backend': None,
                'server': None,
                'server_profile': None,
            }
        )
        stack = LaunchProcess(
            demo.make_launch_command(given),
            Path(tempfile.mkstemp(prefix='wam-soak-', suffix='.log')[1]),
        )
        rounds = TaskLoop(self._monitor, self._operator)

        def find_end_reason() -> str | None:
            if stack.returncode is not None:
                raise StackLaunchError(
                    f'the launch ended by itself with status {stack.returncode}:\n'
                    f'{stack.read_log_tail()}'
                )
            rounds.tick(self._options.instruction, time.monotonic())
            return None

        try:
            started_s = time.monotonic()
            while not self._is_running() and not self._wait(1.0, find_end_reason):
                if time.monotonic() - started_s > demo.START_TIMEOUT_S:
                    raise StackLaunchError(
                        f'no chunk: {self._monitor.reason}\n{stack.read_log_tail()}'
                    )
            self._take_samples(
                lambda: (measure_processes(stack.find_processes()), 1), find_end_reason
            )
        finally:
            rounds.close()
            status, left = stack.stop(threading.Event())
        self._outcome |= {
            'tasks_done': rounds.score.succeeded,
            'tasks_tried': rounds.score.attempted,
            'launch_exit_code': status,
            'exit_codes': stack.exit_codes(),
            'killed_processes': left,
        }

    def _run_attached_stack(self, attached: AttachedStack) -> None:
        """Observe one stack after another until the process that starts them ends."""
        self._outcome |= {'watched': {'pid': attached.pid, 'command': attached.command}}

        def find_end_reason() -> str | None:
            return f'process {attached.pid} ended' if attached.has_ended else None

        while attached.find_robot_name() is None and not self._wait(1.0, find_end_reason):
            pass
        if attached.find_robot_name() not in (None, self._options.robot):
            raise StackLaunchError(
                f'the stack below process {attached.pid} runs {attached.find_robot_name()}: '
                f'use --robot {attached.find_robot_name()}'
            )
        self._monitor.subscribe()
        while not self._is_running() and not self._wait(1.0, find_end_reason):
            pass
        self._take_samples(
            lambda: (measure_processes(attached.find_processes()), attached.stack_count),
            find_end_reason,
        )

    def _is_running(self) -> bool:
        return bool(self._monitor.metrics.first_chunk_s and self._monitor.motion.state_name)

    def _take_samples(
        self,
        measure: Callable[[], tuple[dict[str, Any], int]],
        find_end_reason: Callable[[], str | None],
    ) -> None:
        """Take samples; `measure` returns resources per process and the number of the stack."""
        if 'ended' in self._outcome:
            raise StackLaunchError(
                f'{self._outcome["ended"]} without a chunk: {self._monitor.reason}'
            )
        start_s = due_s = time.monotonic()
        while due_s - start_s <= 3600 * self._options.hours:
            if self._wait(max(0.0, due_s - time.monotonic()), find_end_reason):
                return
            due_s += self._options.period
            processes, stack = measure()
            if not processes:  # between two stacks
                continue
            before = next((each for each in self.samples[-1:] if each['stack'] == stack), None)
            self.samples.append(take_sample(self._monitor, processes, stack, start_s, before))
            write_report(self._options.report, self._make_report())
            demo.print_flushed(_format_sample(self.samples[-1]))
        self._outcome['ended'] = f'{self._options.hours:g} h have passed'

    def _wait(self, seconds: float, find_end_reason: Callable[[], str | None]) -> bool:
        """Wait, check for an end reason every second, and return whether there is one."""
        end_s = time.monotonic() + seconds
        while True:
            left_s = end_s - time.monotonic()
            if self._stop_event.wait(min(1.0, max(0.0, left_s))):
                self._outcome['ended'] = 'interrupted'
            elif reason := find_end_reason():
                self._outcome['ended'] = reason
            if 'ended' in self._outcome or left_s <= 1.0:
                return 'ended' in self._outcome

    def _make_report(self) -> dict[str, Any]:
        warm_up_s = min(WARM_UP_MAX_S, WARM_UP_SHARE * 3600 * self._options.hours)
        return {
            'robot': self._options.robot,
            'hours': self._options.hours,
            'period_s': self._options.period,
            'model': self._monitor.policy.model,
            **demo_report.describe_environment(),
            'verdict': evaluate_samples(self.samples, warm_up_s),
            'samples': self.samples,
            **self._outcome,
        }


def _format_sample(sample: Mapping[str, Any]) -> str:
    total_mb = sum(process['anon_mb'] for process in sample['processes'].values())
    return (
        f'{sample["at_s"]:7.0f} s  {sample["chunk_hz"]:4.1f} chunks/s  latency '
        f'{sample["latency_p50_ms"]:4.0f} / {sample["latency_p99_ms"]:4.0f} ms  memory '
        f'{total_mb:6.0f} MB  underruns {sample["underruns"]}  load {sample["load"]:.1f}'
    )


def find_failures(document: Mapping[str, Any]) -> list[str]:
    """Return the reasons why a run failed."""
    judged = document['verdict']
    wrong = [f'{name} grows' for name in judged['grows']]
    if not judged['flat']:
        wrong.append('total memory grows, or the run was too short for a slope')
    if document.get('launch_exit_code'):
        wrong.append(f'the launch ended with status {document["launch_exit_code"]}')
    if document['samples'] and document['samples'][-1]['worker_restarts']:
        wrong.append('workers were restarted')
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_arguments(argv)
    if options.replot:
        document = json.loads(options.report.read_text())
        document['verdict'] = evaluate_samples(
            document['samples'], document['verdict']['warm_up_s']
        )
    else:
        stop_request = StopRequest()
        try:
            document = Soak(options, stop_request).run()
        except StackLaunchError as failure:
            print(f'soak: {failure}', file=sys.stderr)
            return 1
        finally:
            rclpy.try_shutdown()
    write_report(options.report, document)
    if options.plot is not None:
        soak_plot.plot_report(document, options.plot)
    wrong = find_failures(document)
    if 'ended' in document:
        print(f'{document["ended"]}, {len(document["samples"])} samples')
    print('\n'.join(f'soak: {text}' for text in wrong) or 'no growth')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
