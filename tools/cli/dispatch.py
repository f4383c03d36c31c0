"""Run a sub-command of commands.toml: a module of the stack or a file of `cli.commands`."""

import difflib
import importlib
import os
import signal
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from cli import domain
from cli.failure import CommandError, describe_oserror
from cli.progress import print_status


@dataclass(frozen=True, slots=True)
class Command:
    """One sub-command; without a module, `cli.commands.<name>.main(arguments)` runs it."""

    help: str
    module: str = ''  # run by `python -m` in the environment of the stack
    own_domain: bool = False  # run in a ROS domain that no other program on this machine uses


COMMANDS = {
    name: Command(**fields)
    for name, fields in tomllib.loads(
        Path(__file__).with_name('commands.toml').read_text()
    ).items()
}
# until the next release
DEPRECATED_COMMANDS = {
    'check': 'inspect',
    'curves': 'plot-training',
    'play': 'generate-demos',
    'reproduce': 'recipe',
    'synthetic': 'random-checkpoint',
}


def format_usage() -> str:
    """Return the usage text, with one line per sub-command."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name:<{width}} {command.help}' for name, command in COMMANDS.items()]
    return '\n'.join(['usage: ./wam COMMAND [ARGUMENTS]', '', *lines, ''])


def format_unknown_command(name: str) -> str:
    """Return the error for an unknown sub-command, with the nearest known one."""
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f'did you mean {near[0]}?' if near else f'known: {", ".join(COMMANDS)}'
    return f'no command {name!r}: {hint}'


def run_command(name: str, arguments: list[str]) -> int:
    """Run a sub-command; a module of the stack replaces this process."""
    command = COMMANDS[name]
    if not command.module:
        return importlib.import_module(f'cli.commands.{name}').main(arguments)
    from cli.exec_module import exec_module

    if command.own_domain:
        os.environ['ROS_DOMAIN_ID'] = str(domain.find_free_domain(os.getpid()))
    return exec_module(command.module, arguments)


def on_sigterm(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt as for Ctrl-C, so that programs started by setup end too."""
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Run one sub-command and return its exit code; print a CommandError as one line."""
    if not arguments or arguments[0] in ('help', '-h', '--help'):
        sys.stdout.write(format_usage())
        return 0
    name, *rest = arguments
    if name in DEPRECATED_COMMANDS:
        new_name = DEPRECATED_COMMANDS[name]
        print_status(
            f'warning: {name} is deprecated and will be removed in the next release: '
            f'use {new_name}'
        )
        name = new_name
    if name not in COMMANDS:
        print_status(format_unknown_command(name))
        return 2
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        return run_command(name, rest)
    except CommandError as e:
        print_status(str(e))
        return 1
    except OSError as e:
        if os.environ.get('WAM_TRACEBACK'):
            raise
        print_status(f'{name}: {describe_oserror(e)}')
        return 1
    except KeyboardInterrupt:
        print_status(f'{name}: interrupted')
        return 130
