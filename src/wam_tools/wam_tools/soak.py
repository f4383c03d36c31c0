"""The stack for hours: what it uses and how it performs, sampled, judged, plotted.

The stack is one of its own, or one that another command lives with (--watch), which is left alone.
Everything is measured from outside: processes by the kernel's figures, the rest from topics. The
report is written anew with every sample, so a kill loses the last one at most. Exit status: 0 if
nothing grows and nothing was lost, 1 if something does, 2 for wrong arguments.
"""

import argparse
import json
import signal
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
from rclpy.signals import SignalHandlerOptions

from wam_msgs.msg import MotionStatus, PolicyStatus
from wam_policy.core.robot import embodiment
from wam_policy.nodes.run_node import Spinning
from wam_tools import demo, demo_report, soak_plot
from wam_tools.attached_stack import Watched, below, named
from wam_tools.launch_process import MEBIBYTE, Supervised
from wam_tools.sim_operator import Stage
from wam_tools.stack_monitor import Monitor
from wam_tools.task_loop import Rounds
from wam_tools.trend import trend

WARM_UP_SHARE, WARM_UP_MAX_S = 1 / 6, 600.0  # caches fill, allocators find their size
# A library's pages count as a process's own (uss) while nobody else maps it: motion_node's and
# sim_node's rose by 55 and 78 MB when another process ended. What they allocated did not.
MEMORY = ('anon_mb', 'uss_mb')  # the first is judged, the second in reports that lack it
# Freed pictures are kept by the allocator now and then: policy_node has four more (3.7 MB) or not,
# for minutes, the more often the busier it is. A leak raises the least of every stretch, too.
MEMORY_STRETCHES = 12  # of five minutes in an hour
# A heap keeps what it once needed, and coincidences that need more get rarer, but never stop:
# motion_node's grew by 0.36 MB in ten minutes while what is in use of it (malloc's own count, and
# Python's) stayed within 0.3 %. So much more or less at the end tells nothing; a longer run
# resolves a slower leak.
RESOLUTION_MB = 0.5
# what would be said to a stack of its own
STARTING = ('seed', 'instruction', 'checkpoint', 'devices', 'steps', 'camera_size', 'camera_hz')


class Failure(Exception):
    """There is nothing to judge."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog='wam soak', description='Run the simulated stack for hours and watch what it uses.'
    )
    parser.add_argument('--robot', choices=('agibot_g1', 'yam'), default='agibot_g1')
    parser.add_argument(
        '--hours',
        type=float,
        default=1.0,
        metavar='H',
        help='at most, from the first sample on (default: %(default)g)',
    )
    parser.add_argument(
        '--watch',
        type=int,
        metavar='PID',
        help='start nothing: sample the stack below that process, for example '
        'that of a running ./wam eval, until it ends',
    )
    parser.add_argument(
        '--period',
        type=float,
        default=10.0,
        metavar='S',
        help='between two samples (default: %(default)g)',
    )
    parser.add_argument(
        '--report',
        type=Path,
        required=True,
        metavar='FILE',
        help='all samples and the verdict, JSON',
    )
    parser.add_argument('--plot', type=Path, metavar='FILE', help='PNG')
    parser.add_argument(
        '--again', action='store_true', help='judge and plot the report that is there; run nothing'
    )
    parser.add_argument('--seed', type=int, metavar='N', help='of scene and noise (default: 0)')
    parser.add_argument(
        '--instruction',
        metavar='TEXT',
        help='what to do (default: what the scene asks for, then the next)',
    )
    parser.add_argument('--checkpoint', metavar='DIR', help='a folder, or preset:NAME')
    parser.add_argument('--devices', metavar='LIST', help='one device per worker')
    parser.add_argument(
        '--steps',
        type=int,
        metavar='N',
        help='denoising steps per query (default: what the checkpoint advises)',
    )
    parser.add_argument('--camera-size', choices=demo.SIZES)
    parser.add_argument('--camera-hz', type=float, metavar='HZ')
    chosen = parser.parse_args(given)
    for name, value in (('--hours', chosen.hours), ('--period', chosen.period)):
        if not value > 0:
            parser.error(f'{name}: want more than 0, got {value:g}')
    for path in filter(None, (chosen.report, chosen.plot)):
        if not path.absolute().parent.is_dir():
            parser.error(f'there is no folder {path.absolute().parent}')
    if chosen.watch is not None and (
        given := [name for name in STARTING if getattr(chosen, name) is not None]
    ):
        parser.error(
            f'--watch starts nothing: leave out '
            f'{", ".join("--" + name.replace("_", "-") for name in given)}'
        )
    if chosen.again and not chosen.report.is_file():
        parser.error(f'--again: there is no report {chosen.report}')
    return chosen


def used(tree: Sequence[psutil.Process]) -> dict[str, dict[str, float]]:
    """Return what every process of ours uses, by a name that a restart does not change."""
    found = {}
    for process in tree:
        try:
            name = named(process.cmdline())
            if name is None:
                continue
            memory = process.memory_full_info()
            found[name] = {
                'rss_mb': memory.rss / MEBIBYTE,
                'uss_mb': memory.uss / MEBIBYTE,
                'anon_mb': allocated(process.pid) / MEBIBYTE,
                'fds': process.num_fds(),
                'threads': process.num_threads(),
            }
        except (psutil.Error, OSError):  # it ended meanwhile
            continue
    return found


def allocated(pid: int) -> int:
    """Return the bytes of memory of a process that no file stands behind."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith('Anonymous:'))


def sample(
    monitor: Monitor,
    processes: Mapping[str, Any],
    stack: int,
    begun_s: float,
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return one sample: what is used, and how the loop performs; `before` of the same stack."""
    policy, motion = monitor.policy or PolicyStatus(), monitor.motion or MotionStatus()
    now_s = time.monotonic() - begun_s
    stages = dict(
        zip(
            policy.stage_names,
            zip(policy.stage_p50_ms, policy.stage_p99_ms, strict=True),
            strict=True,
        )
    )
    p50_ms, p99_ms = stages.get('total', (0.0, 0.0))
    since = {'at_s': now_s - 1.0, 'chunks': policy.chunks} if before is None else before
    return {
        'at_s': round(now_s, 2),
        'stack': stack,
        'state': policy.state_name,
        'chunks': policy.chunks,
        'chunk_hz': max(0, policy.chunks - since['chunks']) / max(now_s - since['at_s'], 1e-3),
        'latency_p50_ms': p50_ms,
        'latency_p99_ms': p99_ms,
        'camera_hz': min(policy.camera_rate_hz, default=0.0),
        'underruns': motion.underruns,
        'late_chunks': motion.late_chunks,
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


def verdict(samples: Sequence[Mapping[str, Any]], warm_up_s: float) -> dict[str, Any]:
    """Judge the samples after the warm-up: slope, interval, and whether it is flat, per figure.

    Of several stacks one after another, each with a warm-up of its own, the longest is judged.
    """
    stacks = Counter(each.get('stack', 1) for each in samples)
    most = max(stacks, key=stacks.get, default=1)
    longest = [each for each in samples if each.get('stack', 1) == most]
    warm = [each for each in longest if each['at_s'] - longest[0]['at_s'] >= warm_up_s]
    names = sorted({name for each in warm for name in each['processes']})
    memory = next(
        (
            figure
            for figure in MEMORY
            if all(figure in process for each in warm for process in each['processes'].values())
        ),
        MEMORY[1],
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
            for figure, judge in ((memory, _held), ('fds', _judged), ('threads', _judged))
        }
    total = np.array([sum(p[memory] for p in each['processes'].values()) for each in warm])
    found['memory'] = memory
    found['total_mb'] = _held(np.array([each['at_s'] for each in warm]), total)
    grows = [
        f'{name} {figure}'
        for name, figures in found['processes'].items()
        for figure, judged in figures.items()
        if judged and judged['low'] > 0.0
    ]
    found['grows'] = grows
    found['flat'] = bool(found['total_mb'] and found['total_mb']['low'] <= 0.0)
    return found


def _held(at_s: np.ndarray, value: np.ndarray) -> dict[str, float] | None:
    """Judge memory by what is held at the least, MB, as far as that can be told."""
    judged = _judged(at_s, value, stretches=MEMORY_STRETCHES, stands_for=np.min)
    if judged is None:
        return None
    unsure = RESOLUTION_MB * 3600.0 / float(at_s[-1] - at_s[0])
    low, high = judged['low'] - unsure, judged['high'] + unsure
    return judged | {'low': low, 'high': high, 'flat': low <= 0.0 <= high}


def _judged(at_s: np.ndarray, value: np.ndarray, **how: Any) -> dict[str, float] | None:
    slope = trend(at_s, value, **how)
    return slope and {
        'first': float(value[0]),
        'last': float(value[-1]),
        'per_hour': slope.per_hour,
        'low': slope.low,
        'high': slope.high,
        'flat': slope.flat,
    }


def written(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the report at once: a reader, and a kill, find the old one or the new one."""
    part = path.with_name(path.name + '.part')
    part.write_text(json.dumps(document, indent=1) + '\n')
    part.replace(path)


class Soak:
    """Live through one long run."""

    def __init__(self, chosen: argparse.Namespace, asked: threading.Event) -> None:
        self._chosen, self._asked = chosen, asked
        robot = embodiment.load(chosen.robot)
        self._monitor, self._stage = Monitor(robot), Stage(robot)
        self._end: dict[str, Any] = {}
        self.samples: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Return the report; raises Failure with the reason if nothing ran."""
        spinning = Spinning([self._monitor, self._stage])
        try:
            if self._chosen.watch is None:
                self._launched()
            else:
                self._watched(Watched(self._chosen.watch))
        except ValueError as error:
            raise Failure(f'--watch: {error}') from error
        finally:
            spinning.stop()
            self._monitor.destroy_node()
            self._stage.destroy_node()
        return self._document()

    def _launched(self) -> None:
        """Start a stack, keep its robot busy, and end it."""
        time.sleep(demo.DISCOVERY_S)
        if self._monitor.others():
            raise Failure(
                'another stack runs in this ROS domain: end it, or set ROS_DOMAIN_ID '
                'to a number of your own'
            )
        self._monitor.watch()
        given = argparse.Namespace(
            **{
                **vars(self._chosen),
                'seed': self._chosen.seed or 0,
                'headless': True,
                'backend': None,
                'server': None,
                'flavour': None,
            }
        )
        stack = Supervised(
            demo.launch_command(given),
            Path(tempfile.mkstemp(prefix='wam-soak-', suffix='.log')[1]),
        )
        rounds = Rounds(self._monitor, self._stage)

        def over() -> str | None:
            if stack.returncode is not None:
                raise Failure(
                    f'the launch ended by itself with status {stack.returncode}:\n'
                    f'{stack.last_words()}'
                )
            rounds.occupy(self._chosen.instruction, time.monotonic())
            return None

        try:
            started_s = time.monotonic()
            while not self._lives() and not self._waited(1.0, over):
                if time.monotonic() - started_s > demo.START_S:
                    raise Failure(f'no chunk came: {self._monitor.reason}\n{stack.last_words()}')
            self._sampled(lambda: (used(below(stack)), 1), over)
        finally:
            rounds.close()
            status, left = stack.stop(threading.Event())
        self._end |= {
            'tasks_done': rounds.score.done,
            'tasks_tried': rounds.score.tried,
            'launch_exit_code': status,
            'exit_codes': stack.exit_codes(),
            'killed_processes': left,
        }

    def _watched(self, watched: Watched) -> None:
        """Look at a stack, or at one after another, until what started them ends."""
        self._end |= {'watched': {'pid': watched.pid, 'command': watched.command}}

        def over() -> str | None:
            return f'process {watched.pid} ended' if watched.ended else None

        while watched.robot() is None and not self._waited(1.0, over):
            pass
        if watched.robot() not in (None, self._chosen.robot):
            raise Failure(
                f'the stack below process {watched.pid} drives {watched.robot()}: '
                f'say --robot {watched.robot()}'
            )
        self._monitor.watch()
        while not self._lives() and not self._waited(1.0, over):
            pass
        self._sampled(lambda: (used(watched.tree()), watched.stacks), over)

    def _lives(self) -> bool:
        return self._monitor.witness.begun_s is not None and self._monitor.motion is not None

    def _sampled(
        self, look: Callable[[], tuple[dict[str, Any], int]], over: Callable[[], str | None]
    ) -> None:
        """Take samples; `look` returns what each process uses and the number of their stack."""
        if 'ended' in self._end:
            raise Failure(f'{self._end["ended"]}, and no chunk came: {self._monitor.reason}')
        begun_s = due_s = time.monotonic()
        while due_s - begun_s <= 3600 * self._chosen.hours:
            if self._waited(max(0.0, due_s - time.monotonic()), over):
                return
            due_s += self._chosen.period
            processes, stack = look()
            if not processes:  # one stack ended, the next has not begun
                continue
            before = next((each for each in self.samples[-1:] if each['stack'] == stack), None)
            self.samples.append(sample(self._monitor, processes, stack, begun_s, before))
            written(self._chosen.report, self._document())
            demo.say(_line(self.samples[-1]))
        self._end['ended'] = f'{self._chosen.hours:g} h have passed'

    def _waited(self, seconds: float, over: Callable[[], str | None]) -> bool:
        """Wait, looking every second whether it is `over`; return that, and keep the reason."""
        end_s = time.monotonic() + seconds
        while True:
            left_s = end_s - time.monotonic()
            if self._asked.wait(min(1.0, max(0.0, left_s))):
                self._end['ended'] = 'interrupted'
            elif reason := over():
                self._end['ended'] = reason
            if 'ended' in self._end or left_s <= 1.0:
                return 'ended' in self._end

    def _document(self) -> dict[str, Any]:
        policy = self._monitor.policy
        warm_up_s = min(WARM_UP_MAX_S, WARM_UP_SHARE * 3600 * self._chosen.hours)
        return {
            'robot': self._chosen.robot,
            'hours': self._chosen.hours,
            'period_s': self._chosen.period,
            'model': policy.model if policy else '',
            **demo_report.taken(),
            'verdict': verdict(self.samples, warm_up_s),
            'samples': self.samples,
            **self._end,
        }


def _line(last: Mapping[str, Any]) -> str:
    total_mb = sum(process['anon_mb'] for process in last['processes'].values())
    return (
        f'{last["at_s"]:7.0f} s  {last["chunk_hz"]:4.1f} chunks/s  latency '
        f'{last["latency_p50_ms"]:4.0f} / {last["latency_p99_ms"]:4.0f} ms  memory '
        f'{total_mb:6.0f} MB  underruns {last["underruns"]}  load {last["load"]:.1f}'
    )


def faults(document: Mapping[str, Any]) -> list[str]:
    """Return what a run shows that it should not."""
    judged = document['verdict']
    wrong = [f'{name} grows' for name in judged['grows']]
    if not judged['flat']:
        wrong.append('memory grows as a whole, or the run was too short to tell')
    if document.get('launch_exit_code'):
        wrong.append(f'the launch ended with status {document["launch_exit_code"]}')
    if document['samples'] and document['samples'][-1]['worker_restarts']:
        wrong.append('workers were restarted')
    return wrong


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    if chosen.again:
        document = json.loads(chosen.report.read_text())
        document['verdict'] = verdict(document['samples'], document['verdict']['warm_up_s'])
    else:
        asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: asked.set())
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        try:
            document = Soak(chosen, asked).run()
        except Failure as failure:
            print(f'soak: {failure}', file=sys.stderr)
            return 1
        finally:
            rclpy.try_shutdown()
    written(chosen.report, document)
    if chosen.plot is not None:
        soak_plot.drawn(document, chosen.plot)
    wrong = faults(document)
    if 'ended' in document:
        print(f'{document["ended"]}, {len(document["samples"])} samples')
    print('\n'.join(f'soak: {text}' for text in wrong) or 'nothing grows')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
