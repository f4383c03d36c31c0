"""`./wam soak`: the simulated stack for hours, with what it uses and how it performs."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the watcher."""
    program.become('wam_policy.ros.soak', arguments)
