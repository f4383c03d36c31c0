"""`./wam eval`: try a policy on scenes it never saw, and report."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the evaluation."""
    exec_module.exec_module('wam_learning.evaluation.evaluate', arguments)
