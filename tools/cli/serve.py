"""`./wam serve`: our engine behind the OpenPI protocol, for clients here or elsewhere."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the server."""
    exec_module.exec_module('wam_policy.servers.serve', arguments)
