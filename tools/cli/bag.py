"""`./wam bag repair|info FOLDERS...`: look after recorded episodes."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the program for bags."""
    exec_module.exec_module('wam_policy.recording.bag_command', arguments)
