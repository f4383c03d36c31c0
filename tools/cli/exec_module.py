"""Hand over to a module of the stack, as this very process: signals and exit code are its own."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cli import build
from cli.environment import environment
from cli.paths import checkout


def become(module: str, arguments: Sequence[str]) -> NoReturn:
    """Set up and build if needed, then run `python -m module` with `arguments`."""
    _become(['-m', module, *arguments])


def become_file(path: str, arguments: Sequence[str]) -> NoReturn:
    """Like `become`, but run a file, named from the checkout's root."""
    _become([str(checkout().root / path), *arguments])


def _become(words: Sequence[str]) -> NoReturn:
    layout = checkout()
    build.ensure(layout)
    sys.stdout.flush()
    python = str(layout.python)
    os.execve(python, [python, *words], environment(layout))
