"""`./wam curves CHECKPOINT`: draw what a training's logs and kept checkpoints tell."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the program that draws."""
    program.become('wam_policy.learn.curves', arguments)
