"""`./wam serve`: our engine behind the OpenPI protocol, for clients here or elsewhere."""
import os
import sys
from typing import NoReturn

from cli import build
from cli.environment import environment
from cli.layout import checkout

MODULE = 'wam_policy.serve.main'


def main(arguments: list[str]) -> NoReturn:
    """Set up and build if needed, then become the server: signals and exit code are its own."""
    layout = checkout()
    build.ensure(layout)
    sys.stdout.flush()
    python = str(layout.python)
    os.execve(python, [python, '-m', MODULE, *arguments], environment(layout))
