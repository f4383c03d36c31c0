"""`./wam curves CHECKPOINT`: draw what a training's logs and kept checkpoints tell."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the program that draws."""
    exec_module.exec_module('wam_learning.training.plot_training', arguments)
