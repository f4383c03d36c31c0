"""`./wam faults`: faults injected into a running stack, and what the robot does about each."""
from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the injector."""
    program.become('wam_policy.ros.faults.main', arguments)
