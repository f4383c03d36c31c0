"""`./wam serve`: our engine behind the OpenPI protocol, for clients here or elsewhere."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the server."""
    program.become('wam_policy.serve.main', arguments)
