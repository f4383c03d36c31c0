"""Run evaluation trials through ROS: launch the stack, set scenes, send instructions, measure.

`./wam eval` writes the jobs and evaluates the output, one line per trial, in the formats of
`wam_learning.evaluation.eval_worker`. The stack is unmodified and used only through ROS.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rclpy

from wam_msgs.msg import ActionChunk
from wam_policy.command_line import CommandParser
from wam_policy.core.robot import embodiment
from wam_policy.core.session.policy_session import PolicyState
from wam_policy.nodes import message_conversion
from wam_policy.nodes.run_node import ExecutorThread
from wam_tools import stack_launch
from wam_tools.launch_process import LaunchProcess
from wam_tools.sim_operator import LATCHED_STATES, SceneSetupError, SimOperator
from wam_tools.stack_launch import StackLaunchError, StopRequest

DEPRECATED_OPTIONS = {'--jobs': '--job-file', '--share': '--shard'}
START_TIMEOUT_S = 400.0  # more than the start timeout of the policy's workers
POLL_PERIOD_S = 0.02
MAX_SETUP_ATTEMPTS = 3  # per scene
INSTRUCTION_TIMEOUT_S = 3.0  # an instruction not active by then is sent again


class ChunkCounter:
    """Count chunks of the policy and record their latency on arrival."""

    def __init__(self, operator: SimOperator) -> None:
        self._operator = operator
        self.count, self.latency_ms = 0, []
        operator.on_chunk = self._on_chunk

    def _on_chunk(self, msg: ActionChunk) -> None:
        self.count += 1
        self.latency_ms.append(
            (self._operator.now_ns() - message_conversion.to_ns(msg.header.stamp)) / 1e6
        )


def make_launch_command(
    robot: str, job: Mapping[str, Any], launch_arguments: Sequence[str] = ()
) -> list[str]:
    """Return the launch command of a job; other options keep the checkpoint's defaults."""
    names = {'steps': 'steps', 'guidance': 'guidance_scale'}
    options = {names[key]: value for key, value in job['choice'].items() if key in names}
    weights = {name: job.get(name) or None for name in ('checkpoint', 'base')}
    server = {name: job.get(name) or None for name in ('server', 'server_profile')}
    backend = {'backend': 'remote'} if server['server'] else {}
    if execution := job.get('pace', {}).get('execution'):
        options['execution'] = execution
    return stack_launch.make_launch_command(
        robot,
        {**weights, **backend, **server, 'console': 'false', **options},
        launch_arguments,
    )


def run_trial(
    operator: SimOperator, trial: Mapping[str, Any], stop_event: threading.Event
) -> dict[str, Any]:
    """Run one trial; return its result with the fields of evaluation.trials.TrialResult."""
    _set_up_scene(operator, trial, stop_event)
    chunks, pending = ChunkCounter(operator), list(trial['instructions'])
    start_ns = operator.publish_instruction(pending[0][1])
    instructed_ns, stop_reason = start_ns, ''
    last = pending.pop(0)
    while not stop_event.is_set():
        now_ns = operator.now_ns()
        if pending and now_ns >= start_ns + pending[0][0] * 1e9:
            last = pending.pop(0)
            instructed_ns = operator.publish_instruction(last[1])
        received = operator.policy.instruction == last[1]
        if not received and now_ns - instructed_ns > INSTRUCTION_TIMEOUT_S * 1e9:
            operator.publish_instruction(last[1])
        stop_reason = stop_reason or (
            operator.motion.reason if operator.motion.state in LATCHED_STATES else ''
        )
        over = now_ns >= instructed_ns + trial['limit_s'] * 1e9
        if not pending and (over or stop_reason or next(iter(operator.sim.goals_reached), False)):
            break
        stop_event.wait(POLL_PERIOD_S)
    reached = [
        _reached_after_s(at, flag, instructed_ns)
        for at, flag in zip(
            operator.sim.goals_reached_stamp, operator.sim.goals_reached, strict=True
        )
    ]
    return {
        'trial': dict(trial),
        'reached_s': reached,
        'duration_s': (operator.now_ns() - start_ns) / 1e9,
        'chunks': chunks.count,
        'jerk_ratio': max(operator.sim.max_jerk_ratio, default=0.0),
        'stop_reason': stop_reason,
        'latency_ms': chunks.latency_ms,
        'psnr_db': [],
        'ssim': [],
    }


def _set_up_scene(
    operator: SimOperator, trial: Mapping[str, Any], stop_event: threading.Event
) -> None:
    """Move the arms home and show the scene, in up to MAX_SETUP_ATTEMPTS attempts."""
    for attempt in range(MAX_SETUP_ATTEMPTS):
        try:
            operator.clear_instruction(stop_event)
            operator.go_home(stop_event)
            operator.begin_episode(
                trial['seed'], trial['family'], trial['combinations'], trial['goals'], stop_event
            )
            return
        except SceneSetupError as error:
            if attempt + 1 == MAX_SETUP_ATTEMPTS:
                raise StackLaunchError(f'trial {trial["seed"]}: {error}') from error


def _reached_after_s(stamp: Any, reached: bool, instructed_ns: int) -> float | None:
    """Return when a goal was reached, s after the last instruction; None if not after it."""
    after_s = (message_conversion.to_ns(stamp) - instructed_ns) / 1e9
    return after_s if reached and after_s > 0 else None


def run_job(
    robot: str,
    job: Mapping[str, Any],
    launch_arguments: Sequence[str],
    stop_event: threading.Event,
) -> Iterator[dict[str, Any]]:
    """Start a stack for a job, yield a result per trial; StackLaunchError has the log's tail."""
    stage = SimOperator(embodiment.load_embodiment(robot))
    spinning = ExecutorThread([stage])
    stack = None
    log = Path(tempfile.mkstemp(prefix='wam-eval-', suffix='.log')[1])
    try:
        stack_launch.ensure_domain_is_free(stage, stop_event)
        stack = LaunchProcess(make_launch_command(robot, job, launch_arguments), log)
        _wait_until_ready(stage, stack, stop_event)
        for trial in job['trials']:
            if stop_event.is_set():
                return
            if stack.returncode is not None:
                raise StackLaunchError(
                    f'the launch ended by itself with status {stack.returncode}'
                )
            yield run_trial(stage, trial, stop_event)
    except (StackLaunchError, SceneSetupError) as failure:
        words = stack.read_log_tail() if stack else ''
        raise StackLaunchError(f'{failure}\n{words}') from failure
    finally:
        if stack is not None:
            stack.stop(threading.Event())
        spinning.stop()
        stage.destroy_node()
        log.unlink(missing_ok=True)


def _wait_until_ready(
    operator: SimOperator, launch: LaunchProcess, stop_event: threading.Event
) -> None:
    """Wait until the policy is ready for an instruction and the simulator runs."""
    end_s = time.monotonic() + START_TIMEOUT_S
    while operator.policy.state not in (PolicyState.IDLE.value, PolicyState.HOLDING.value) or not (
        operator.sim.robot and operator.motion.state_name
    ):
        if stop_event.wait(0.1):
            raise StackLaunchError('ended before the stack was up')
        if launch.returncode is not None:
            raise StackLaunchError(f'the launch ended by itself with status {launch.returncode}')
        if time.monotonic() > end_s:
            raise StackLaunchError(
                f'the stack is not up within {START_TIMEOUT_S:g} s: {operator.reason}'
            )


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(
        'python -m wam_tools.evaluate_ros', (__doc__ or '').partition('\n')[0], DEPRECATED_OPTIONS
    )
    parser.add_argument('--robot', choices=embodiment.list_robots(), required=True)
    parser.add_argument(
        '--job-file',
        type=Path,
        required=True,
        metavar='FILE',
        help='one job per line, as written by evaluation.eval_worker.EvalJob',
    )
    parser.add_argument(
        '--shard', default='0/1', metavar='I/N', help='only 0/1: one robot at a time'
    )
    parser.add_argument(
        'launch', nargs='*', metavar='NAME:=VALUE', help='further arguments of the launch'
    )
    options = parser.parse(argv)
    if options.shard != '0/1':
        parser.error('--shard: want 0/1, because trials run in real time on one robot')
    stop_request = StopRequest()
    try:
        lines = options.job_file.read_text().splitlines()
        for job in merge_jobs([json.loads(line) for line in lines]):
            for result in run_job(options.robot, job, options.launch, stop_request):
                print(json.dumps(result), flush=True)
    except StackLaunchError as failure:
        print(f'eval: {failure}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 130 if stop_request.is_set() else 0


def merge_jobs(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Merge jobs that use the same stack, because starting one takes long."""
    found: list[dict[str, Any]] = []
    for job in jobs:
        command = make_launch_command('', job)
        same = next((one for one in found if make_launch_command('', one) == command), None)
        if same is None:
            found.append({**job, 'trials': list(job['trials'])})
        else:
            same['trials'] += job['trials']
    return found


if __name__ == '__main__':
    sys.exit(main())
