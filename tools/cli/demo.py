"""`./wam demo`: a simulated robot under ROS 2, moved by a World Action Model."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the demo."""
    exec_module.exec_module('wam_tools.demo', arguments)
