"""`./wam record`: record an episode beside a running stack."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the recorder."""
    exec_module.exec_module('wam_policy.nodes.recorder.record_command', arguments)
