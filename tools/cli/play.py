"""`./wam play --robot NAME --out DIR`: make a data set in the simulator."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the players' program."""
    exec_module.exec_module('wam_learning.demonstrations.generate_demos', arguments)
