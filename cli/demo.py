"""`./wam demo`: a simulated robot under ROS 2, moved by a World Action Model."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the demo."""
    program.become('wam_policy.ros.demo', arguments)
