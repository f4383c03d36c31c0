"""`./wam synthetic DIR`: random weights in the layout of a released checkpoint."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the generator."""
    exec_module.exec_module('wam_policy.model.checkpoint.random_checkpoint', arguments)
