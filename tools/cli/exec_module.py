"""Replace this process by a Python program of the stack, which gets its signals and exit code."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cli.commands import build
from cli.environment import make_environment
from cli.paths import find_checkout


def exec_module(module: str, arguments: Sequence[str]) -> NoReturn:
    """Set up and build if needed, then run `python -m module` with `arguments`."""
    _exec_python(['-m', module, *arguments])


def exec_file(path: str, arguments: Sequence[str]) -> NoReturn:
    """Set up and build if needed, then run a file, given relative to the checkout's root."""
    _exec_python([str(find_checkout().root / path), *arguments])


def _exec_python(arguments: Sequence[str]) -> NoReturn:
    layout = find_checkout()
    build.ensure_built(layout)
    sys.stdout.flush()
    python = str(layout.python)
    os.execve(python, [python, *arguments], make_environment(layout))
