"""`./wam shell`: run bash in the environment of this checkout."""

import argparse
import os
import re
import shlex
from collections.abc import Mapping
from typing import NoReturn

from cli.commands import setup
from cli.environment import make_environment
from cli.paths import find_checkout
from cli.progress import print_status

# Variables that decide which ROS 2, which DDS and which Python run. ~/.bashrc may set its prompt,
# aliases and all else, but not these: a shell would then differ from `-c` and from the launch.
GUARDED = re.compile(
    r'ROS_\w+|RMW_\w+|CYCLONEDDS_\w+|FASTRTPS_\w+|FASTDDS_\w+|AMENT_\w+|COLCON_\w+|PYTHON\w+|'
    r'CMAKE_PREFIX_PATH|LD_LIBRARY_PATH|LD_PRELOAD|VIRTUAL_ENV|MUJOCO_GL|PATH'
)
# names that an alias or function of ~/.bashrc must not replace
COMMANDS = ('ros2', 'python', 'python3', 'colcon')
BASHRC = """[ -f ~/.bashrc ] && . ~/.bashrc
unalias {commands} 2>/dev/null
unset -f {commands}
_wam_changed=()
_wam_guard() {{  # value it has to have, or none; PATH grows in many a ~/.bashrc
  if [ $# = 2 ]; then
    [ "${{!1-}}" = "$2" ] || [ "$1" = PATH ] || _wam_changed+=("$1=${{!1-}}")
    export "$1=$2"
  else
    _wam_changed+=("$1=${{!1-}}")
    unset "$1"
  fi
}}
{guards}
for _wam_name in $(compgen -e); do
  case " {kept} " in *" $_wam_name "*) continue ;; esac
  if [[ $_wam_name =~ ^({pattern})$ ]]; then _wam_guard "$_wam_name"; fi
done
if [ ${{#_wam_changed[@]}} -gt 0 ]; then
  printf 'wam: ~/.bashrc sets %s: %s\\n' "$(IFS=,; printf '%s' "${{_wam_changed[*]}}")" \
    'not used here, nor by -c; to use one, set it in front of ./wam' >&2
fi
unset -f _wam_guard
unset _wam_changed _wam_name
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
    env.pop('BASH_ENV', None)  # a file that `bash -c` would source
    if options.command is not None:
        os.execvpe('bash', ['bash', '-c', options.command], env)
    if not (layout.install_dir / 'local_setup.bash').is_file():
        print_status('src/ is not built yet: run ./wam build, then open the shell again')
    _exec_interactive_bash(env)


def make_bashrc(env: Mapping[str, str]) -> str:
    """Return start-up commands: the user's ~/.bashrc, then every guarded variable as in `env`."""
    kept = {name: value for name, value in env.items() if GUARDED.fullmatch(name)}
    return BASHRC.format(
        commands=' '.join(COMMANDS),
        guards='\n'.join(
            f'_wam_guard {name} {shlex.quote(value)}' for name, value in sorted(kept.items())
        ),
        kept=' '.join(sorted(kept)),
        pattern=GUARDED.pattern.replace(r'\w', '[A-Za-z0-9_]'),
    )


def _exec_interactive_bash(env: dict[str, str]) -> NoReturn:
    """Replace this process by an interactive bash."""
    read, write = os.pipe()
    os.write(write, make_bashrc(env).encode())
    os.close(write)
    os.set_inheritable(read, True)
    os.execvpe('bash', ['bash', '--rcfile', f'/dev/fd/{read}', '-i'], env)
