"""`./wam shell`: run bash in the environment of this checkout."""

import argparse
import os
import shlex
from typing import NoReturn

from cli.commands import setup
from cli.environment import make_environment
from cli.paths import find_checkout
from cli.progress import print_status

# The user's ~/.bashrc first, so that it does not overwrite our variables and prompt.
BASHRC = """[ -f ~/.bashrc ] && . ~/.bashrc
export PATH={path} PYTHONPATH={pythonpath}
PS1="(wam) $PS1"
"""


def main(arguments: list[str]) -> int:
    """Start an interactive bash, or run one command with -c; return its exit code."""
    parser = argparse.ArgumentParser(prog='./wam shell', description=__doc__)
    parser.add_argument('-c', metavar='COMMAND', dest='command', help='run it and exit')
    options = parser.parse_args(arguments)
    layout = find_checkout()
    setup.ensure_set_up(layout)
    env = make_environment(layout)
    if options.command is not None:
        os.execvpe('bash', ['bash', '-c', options.command], env)
    if not (layout.install_dir / 'local_setup.bash').is_file():
        print_status('src/ is not built yet: run ./wam build, then open the shell again')
    _exec_interactive_bash(env)


def _exec_interactive_bash(env: dict[str, str]) -> NoReturn:
    """Replace this process by an interactive bash."""
    read, write = os.pipe()
    rc = BASHRC.format(path=shlex.quote(env['PATH']), pythonpath=shlex.quote(env['PYTHONPATH']))
    os.write(write, rc.encode())
    os.close(write)
    os.set_inheritable(read, True)
    os.execvpe('bash', ['bash', '--rcfile', f'/dev/fd/{read}', '-i'], env)
