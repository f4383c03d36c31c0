"""`./wam demo`: a simulated robot under ROS 2, moved by a World Action Model."""
import os
import sys
from typing import NoReturn

from cli import build
from cli.environment import environment
from cli.layout import checkout

MODULE = 'wam_policy.ros.demo'


def main(arguments: list[str]) -> NoReturn:
    """Set up and build if needed, then become the demo: signals and exit code are its own."""
    layout = checkout()
    build.ensure(layout)
    sys.stdout.flush()
    python = str(layout.python)
    os.execve(python, [python, '-m', MODULE, *arguments], environment(layout))
