"""`./wam soak`: the simulated stack for hours, with what it uses and how it performs."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the watcher."""
    exec_module.exec_module('wam_tools.soak', arguments)
