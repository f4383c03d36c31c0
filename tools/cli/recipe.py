"""`./wam recipe --out DIR`: make wam-mini again, from nothing."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the recipe."""
    exec_module.exec_module('wam_learning.training.reproduce_models', arguments)
