"""`./wam export BAGS... OUT`: turn episodes into a data set."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the export."""
    program.become('wam_policy.learn.export', arguments)
