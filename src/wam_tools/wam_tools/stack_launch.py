"""Shared by programs that launch a stack: options, launch command, errors, signal handling."""

import argparse
import os
import signal
import threading
from collections.abc import Mapping, Sequence

import rclpy
from rclpy.signals import SignalHandlerOptions

from wam_policy.core.robot import embodiment
from wam_tools.stack_node import StackNode

CAMERA_SIZES = ('160', '320', '640', '160x120', '320x240', '640x480')
DISCOVERY_S = 1.0  # time to discover running nodes
# options of the stack and its task
LAUNCH_OPTIONS = (
    'seed',
    'instruction',
    'checkpoint',
    'base',
    'devices',
    'steps',
    'camera_size',
    'camera_hz',
)


class StackLaunchError(Exception):
    """Report that the stack could not be launched or did not respond as required."""


class StopRequest(threading.Event):
    """Event set by SIGINT, SIGTERM and SIGHUP, with their numbers in `signals`; starts rclpy.

    rclpy's own signal handlers would shut its context down before the stack is stopped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signals: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)

    def _on_signal(self, number: int, _: object) -> None:
        self.signals.append(number)
        self.set()


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Add `--robot` and the options of LAUNCH_OPTIONS; those not given are None."""
    add = parser.add_argument
    add('--robot', choices=embodiment.list_robots(), default='agibot_g1')
    add('--seed', type=int, metavar='N', help='seed of scene and noise (default: 0)')
    add(
        '--instruction',
        metavar='TEXT',
        help='instruction (default: the tasks of one scene after another)',
    )
    add(
        '--checkpoint',
        metavar='DIR',
        help='weights: a folder, mini (included), or preset:NAME for random ones (default: mini)',
    )
    add(
        '--base',
        metavar='DIR',
        help='complete checkpoint under --checkpoint, if that has only adapters',
    )
    add('--devices', metavar='LIST', help='one device per worker, e.g. cpu,cpu or cuda:0,cuda:1')
    add(
        '--steps',
        type=int,
        metavar='N',
        help='denoising steps per query (default: of the checkpoint)',
    )
    add('--camera-size', choices=CAMERA_SIZES, help='of the images; a width keeps their aspect')
    add('--camera-hz', type=float, metavar='HZ', help='images per second')


def make_launch_command(
    robot: str, arguments: Mapping[str, object], further: Sequence[str] = ()
) -> list[str]:
    """Return the launch command for a simulated robot; arguments of None are omitted.

    `further` are launch arguments as text, `name:=value`.
    """
    given = {'sim': 'true', 'enable_motion': 'true', **arguments}
    return [
        'ros2',
        'launch',
        'wam_bringup',
        f'{robot}.launch.py',
        *(f'{key}:={value}' for key, value in given.items() if value is not None),
        *further,
    ]


def ensure_domain_is_free(node: StackNode, stop: threading.Event) -> None:
    """Wait until running nodes are discovered; raise StackLaunchError if a stack runs."""
    if stop.wait(DISCOVERY_S):
        raise StackLaunchError('interrupted before the launch')
    if node.is_stack_running():
        raise StackLaunchError(
            f'another stack runs in ROS domain {os.environ.get("ROS_DOMAIN_ID", "0")}: stop it, '
            'or set ROS_DOMAIN_ID to another number'
        )
