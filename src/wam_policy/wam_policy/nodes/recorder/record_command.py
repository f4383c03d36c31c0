"""Record one episode beside a running stack, from the terminal.

The episode ends with Ctrl-C or after a time, and is kept by default. Exit status: 0 it
is saved (or was discarded on request), 1 it is not, 2 wrong arguments.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from wam_msgs.msg import EpisodeStatus
from wam_policy.command_line import CommandParser
from wam_policy.core.robot import embodiment
from wam_policy.nodes.recorder.recorder_node import RecorderNode
from wam_policy.nodes.run_node import ExecutorThread
from wam_policy.recording.episode_info import EpisodeEnd, TaskSuccess

SUCCESS = TransitionCallbackReturn.SUCCESS
DISCOVERY_S = 1.0  # until who talks is known, so that the beginning is not lost
PRINT_PERIOD_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Record until the end is requested, and return the exit status."""
    options = _parse_arguments(arguments)
    end_requested = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end_requested.set())
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = RecorderNode(
        namespace='/'.join(filter(None, (options.robot_namespace, options.namespace))),
        parameter_overrides=[
            Parameter('embodiment', value=options.robot),
            Parameter('robot_namespace', value=options.robot_namespace),
            Parameter('output_dir', value=options.output_dir),
            Parameter('images', value=options.images),
            Parameter('use_sim_time', value=options.sim_time),
            Parameter('auto_record', value=options.auto_record),
        ],
    )
    spinning = ExecutorThread([node], end_requested.set)
    try:
        if node.trigger_configure() != SUCCESS or node.trigger_activate() != SUCCESS:
            return 1  # the node has logged why
        end_requested.wait(DISCOVERY_S)
        if options.auto_record:
            _print_status_until(node, end_requested, options.seconds)
            return 0
        return _record_one_episode(node, end_requested, options)
    finally:
        spinning.stop()
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()


def _record_one_episode(
    node: RecorderNode, stop_event: threading.Event, options: argparse.Namespace
) -> int:
    try:
        name = node.start_episode(options.instruction, options.label)
    except (ValueError, OSError) as error:
        print(f'record: {error}', file=sys.stderr)
        return 2
    print(f'recording {name}; Ctrl-C ends it')
    _print_status_until(node, stop_event, options.seconds)
    writer = node.end_episode(EpisodeEnd('stopped', TaskSuccess(options.success), options.note))
    if writer is None:
        print(f'record: {node.make_status().reason}', file=sys.stderr)
        return 1
    good, message = node.wait_until_saved(writer)
    print(f'{name}: {message}')
    return 0 if good else 1


def _print_status_until(
    node: RecorderNode, stop_event: threading.Event, duration_s: float
) -> None:
    """Show once a second how it goes, until the end is requested, out of time, or failed."""
    left_s = duration_s or float('inf')
    while left_s > 0 and not stop_event.wait(min(PRINT_PERIOD_S, left_s)):
        left_s -= PRINT_PERIOD_S
        status = node.make_status()
        if status.state == EpisodeStatus.ERROR:
            return
        if status.state != EpisodeStatus.RECORDING:
            continue
        lost = {
            topic: count
            for topic, count in zip(status.topic_names, status.dropped_counts, strict=True)
            if count
        }
        print(
            f'{status.duration:6.1f} s  {sum(status.message_counts)} messages  '
            f'{status.size_bytes / 1e6:.1f} MB  {sum(status.dropped_counts)} dropped'
            + ''.join(f'  {topic}: {count}' for topic, count in lost.items())
            + (f'  {status.reason}' if status.reason else ''),
            flush=True,
        )


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        './wam record', __doc__, {'--each-instruction': '--auto-record', '--folder': '--out'}
    )
    add = parser.add_argument
    add(
        '--robot',
        default='agibot_g1',
        choices=embodiment.list_robots(),
        help='(default: %(default)s)',
    )
    add(
        '--out',
        dest='output_dir',
        default='episodes',
        help='folder of all episodes (default: %(default)s)',
    )
    add('--instruction', default='', help='what is done; default: the one that is followed now')
    add('--label', action='append', default=[], metavar='KEY=VALUE', help='stored with the bag')
    add('--seconds', type=float, default=0.0, help='end after this time; default: at Ctrl-C')
    add(
        '--success',
        default='unknown',
        choices=[each.value for each in TaskSuccess],
        help='stored with the bag at the end (default: %(default)s)',
    )
    add('--note', default='', help='stored with the bag at the end')
    add('--auto-record', action='store_true', help='an episode for every instruction')
    add(
        '--images',
        default='jpeg',
        choices=('jpeg', 'raw', 'compressed'),
        help='as the parameter of recorder_node (default: %(default)s)',
    )
    add('--namespace', default='wam', help='of the stack (default: %(default)s)')
    add('--robot-namespace', default='', metavar='NAME', help='of the robot, as robot_1')
    add('--sim-time', action='store_true', help='follow /clock')
    return parser.parse(arguments)


if __name__ == '__main__':
    sys.exit(main())
