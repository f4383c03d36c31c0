"""`./wam eval`: try a policy on scenes it never saw, and report."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the evaluation."""
    program.become('wam_policy.learn.evaluate', arguments)
