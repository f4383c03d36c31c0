"""`./wam record`: record an episode beside a running stack."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the recorder."""
    program.become('wam_policy.ros.record', arguments)
