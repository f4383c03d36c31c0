"""`./wam train DATA... --out DIR`: turn data sets into a checkpoint."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the training."""
    exec_module.exec_module('wam_learning.training.train', arguments)
