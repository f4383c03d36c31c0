"""Run trials through ROS: start the stack a user starts, set scenes, speak, watch, time.

`./wam eval` writes the jobs and judges the lines that come back, one per trial; both are those of
`wam_learning.evaluation.eval_worker`. Whatever a trial says is done to the stack from outside.
"""

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions

from wam_msgs.msg import ActionChunk
from wam_policy.core.robot import embodiment
from wam_policy.core.session.policy_session import State
from wam_policy.nodes import message_conversion
from wam_policy.nodes.run_node import Spinning
from wam_tools.launch_process import Supervised
from wam_tools.sim_operator import LATCHED, Stage, Trouble

DISCOVERY_S = 1.0
START_S = 400.0  # beyond what the policy gives its workers
WATCH_S = 0.02
ATTEMPTS = 3  # to set a stage
REFUSED_S = 3.0  # an instruction that is not followed by then was not heard


class Failure(Exception):
    """The stack did not get as far as to be tried."""


class Chunks:
    """Count chunks of the policy and their ages on arrival."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.count, self.latency_ms = 0, []
        stage.on_chunk = self._on_chunk

    def _on_chunk(self, msg: ActionChunk) -> None:
        self.count += 1
        self.latency_ms.append(
            (self._stage.now_ns() - message_conversion.ns(msg.header.stamp)) / 1e6
        )


def launch_command(robot: str, job: Mapping[str, Any], extra: Sequence[str] = ()) -> list[str]:
    """Return the launch for one job; what the job does not choose stays as the checkpoint says."""
    names = {'steps': 'steps', 'guidance': 'cfg'}
    chosen = [f'{names[key]}:={value}' for key, value in job['choice'].items() if key in names]
    return [
        'ros2',
        'launch',
        'wam_bringup',
        f'{robot}.launch.py',
        'sim:=true',
        'enable_motion:=true',
        f'checkpoint:={job["checkpoint"]}',
        *chosen,
        *extra,
    ]


def tried(stage: Stage, trial: Mapping[str, Any], asked: threading.Event) -> dict[str, Any]:
    """Live one trial; return its result, fields as in learn.trials.Result."""
    _staged(stage, trial, asked)
    chunks, said = Chunks(stage), list(trial['said'])
    begun_ns = stage.say(said[0][1])
    asked_ns, trouble = begun_ns, ''
    last = said.pop(0)
    while not asked.is_set():
        now_ns = stage.now_ns()
        if said and now_ns >= begun_ns + said[0][0] * 1e9:
            last = said.pop(0)
            asked_ns = stage.say(last[1])
        heard = stage.policy.instruction == last[1]
        if not heard and now_ns - asked_ns > REFUSED_S * 1e9:
            stage.say(last[1])
        trouble = trouble or (stage.motion.reason if stage.motion.state in LATCHED else '')
        over = now_ns >= asked_ns + trial['limit_s'] * 1e9
        if not said and (over or trouble or stage.sim.goals_reached[:1] == [True]):
            break
        asked.wait(WATCH_S)
    reached = [
        _seconds(at, flag, asked_ns)
        for at, flag in zip(stage.sim.goals_stamp, stage.sim.goals_reached, strict=True)
    ]
    return {
        'trial': dict(trial),
        'reached_s': reached,
        'lived_s': (stage.now_ns() - begun_ns) / 1e9,
        'chunks': chunks.count,
        'jerk_ratio': max(stage.sim.jerk_ratio, default=0.0),
        'trouble': trouble,
        'latency_ms': chunks.latency_ms,
        'psnr_db': [],
        'ssim': [],
    }


def _staged(stage: Stage, trial: Mapping[str, Any], asked: threading.Event) -> None:
    """Bring the arms home and show the scene; a second and a third attempt may follow."""
    for attempt in range(ATTEMPTS):
        try:
            stage.hushed(asked)
            stage.go_home(asked)
            stage.begin(
                trial['seed'], trial['family'], trial['combinations'], trial['goals'], asked
            )
            return
        except Trouble as trouble:
            if attempt + 1 == ATTEMPTS:
                raise Failure(f'trial {trial["seed"]}: {trouble}') from trouble


def _seconds(stamp: Any, reached: bool, asked_ns: int) -> float | None:
    """Return when a goal was reached after the last instruction; None: not, or before it."""
    after_s = (message_conversion.ns(stamp) - asked_ns) / 1e9
    return after_s if reached and after_s > 0 else None


def run(
    robot: str, job: Mapping[str, Any], extra: Sequence[str], asked: threading.Event
) -> Iterator[dict[str, Any]]:
    """Start a stack for one job and yield a result per trial; Failure with its last words."""
    stage = Stage(embodiment.load(robot))
    spinning = Spinning([stage])
    stack = None
    log = Path(tempfile.mkstemp(prefix='wam-eval-', suffix='.log')[1])
    try:
        if asked.wait(DISCOVERY_S) or stage.count_publishers('status'):
            raise Failure(
                'another stack runs in this ROS domain: end it, or set ROS_DOMAIN_ID '
                'to a number of your own'
            )
        stack = Supervised(launch_command(robot, job, extra), log)
        _up(stage, stack, asked)
        for trial in job['trials']:
            if asked.is_set():
                return
            if stack.returncode is not None:
                raise Failure(f'the launch ended by itself with status {stack.returncode}')
            yield tried(stage, trial, asked)
    except (Failure, Trouble) as failure:
        words = stack.last_words() if stack else ''
        raise Failure(f'{failure}\n{words}') from failure
    finally:
        if stack is not None:
            stack.stop(threading.Event())
        spinning.stop()
        stage.destroy_node()
        log.unlink(missing_ok=True)


def _up(stage: Stage, stack: Supervised, asked: threading.Event) -> None:
    """Wait until the policy waits for an instruction and the simulator shows itself."""
    end_s = time.monotonic() + START_S
    while stage.policy.state not in (State.IDLE.value, State.HOLDING.value) or not (
        stage.sim.robot and stage.motion.state_name
    ):
        if asked.wait(0.1):
            raise Failure('ended before the stack was up')
        if stack.returncode is not None:
            raise Failure(f'the launch ended by itself with status {stack.returncode}')
        if time.monotonic() > end_s:
            raise Failure(
                f'the stack is not up within {START_S:g} s: {stage.policy.state_name}: '
                f'{stage.policy.reason}'
            )


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m wam_tools.evaluate_ros', description=__doc__.splitlines()[0]
    )
    parser.add_argument('--robot', choices=embodiment.names(), required=True)
    parser.add_argument(
        '--jobs',
        type=Path,
        required=True,
        metavar='FILE',
        help='one job per line, as learn.episodes.Job writes it',
    )
    parser.add_argument(
        '--share', default='0/1', metavar='I/N', help='only 0/1: one robot at a time'
    )
    parser.add_argument(
        'launch', nargs='*', metavar='NAME:=VALUE', help='further arguments of the launch'
    )
    chosen = parser.parse_args(given)
    if chosen.share != '0/1':
        parser.error('--share: the clock allows one robot at a time: 0/1')
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        for job in joined([json.loads(line) for line in chosen.jobs.read_text().splitlines()]):
            for result in run(chosen.robot, job, chosen.launch, asked):
                print(json.dumps(result), flush=True)
    except Failure as failure:
        print(f'eval: {failure}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 130 if asked.is_set() else 0


def joined(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the jobs with those in one that need the same stack: a start takes long."""
    found: list[dict[str, Any]] = []
    for job in jobs:
        same = next(
            (
                one
                for one in found
                if (one['checkpoint'], one['choice']) == (job['checkpoint'], job['choice'])
            ),
            None,
        )
        if same is None:
            found.append({**job, 'trials': list(job['trials'])})
        else:
            same['trials'] += job['trials']
    return found


if __name__ == '__main__':
    sys.exit(main())
