"""`./wam play --robot NAME --out DIR`: make a data set in the simulator."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the players' program."""
    program.become('wam_policy.learn.play', arguments)
