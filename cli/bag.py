"""`./wam bag repair|info FOLDERS...`: look after recorded episodes."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the program for bags."""
    program.become('wam_policy.bag.main', arguments)
