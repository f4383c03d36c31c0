"""`./wam train DATA... --out DIR`: turn data sets into a checkpoint."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the training."""
    program.become('wam_policy.learn.train', arguments)
