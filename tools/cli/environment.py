"""The environment in which everything of ours runs: ROS 2, what was built, the Python packages."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cli import ros
from cli.failure import CommandError
from cli.paths import CheckoutLayout
from cli.ros import RosSource

# Participants on one machine find each other by unicast to port numbers derived from an index,
# and Cyclone DDS tries only so many. A demo beside a test run needs more than its default.
DISCOVERY_XML = (
    '<Discovery><ParticipantIndex>auto</ParticipantIndex>'
    '<MaxAutoParticipantIndex>119</MaxAutoParticipantIndex></Discovery>'
)
# A 640x480 picture is 0.9 MB of datagrams and three cameras send at once: in the 1 MB that Cyclone
# DDS asks for by itself, 1 % of the pictures was lost at 45 Hz on two busy cores, in 4 MB none.
RECEIVE_BUFFER_BYTES = 4 * 2**20
# Cyclone DDS puts packets that it keeps for a while, those of discovery above all, one behind the
# other into a block of memory and takes a new block when it is full: with its 1 MB every process
# grows by 1.2 KB/s for 12 minutes, and the next block begins anew. Blocks of this size are full
# within two, and then the same ones take turns. Small blocks cost a reader of pictures 1 % of a
# core (three of 640x480 at 15 Hz).
PACKET_BUFFER_XML = '<Sizing><ReceiveBufferSize>256KiB</ReceiveBufferSize></Sizing>'
RMEM_MAX_FILE = Path('/proc/sys/net/core/rmem_max')


def make_environment(
    layout: CheckoutLayout, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Compute the variables for programs of this checkout; a user's own settings win."""
    found = ros.select_ros(layout, environ)
    scripts = [] if found.source is RosSource.SOURCED else [found.setup_script]
    scripts += [path for path in [layout.install_dir / 'local_setup.bash'] if path.is_file()]
    env = _source_scripts([str(script) for script in scripts], environ)
    env.pop('PYTHONHOME', None)
    # container images set it to stay small: each of a dozen processes would compile torch anew
    env.pop('PYTHONDONTWRITEBYTECODE', None)
    env['VIRTUAL_ENV'] = str(layout.venv)
    env['PATH'] = f'{layout.venv / "bin"}:{env["PATH"]}'
    env.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    env.setdefault('CYCLONEDDS_URI', DISCOVERY_XML + PACKET_BUFFER_XML + _receive_buffer_xml())
    env.setdefault('MUJOCO_GL', 'osmesa')
    return env


def _receive_buffer_xml() -> str:
    """Ask for as much as the kernel grants: Cyclone DDS does not start with less than it asks."""
    if not RMEM_MAX_FILE.is_file():
        return ''
    size = min(RECEIVE_BUFFER_BYTES, int(RMEM_MAX_FILE.read_text()))
    return f'<Internal><SocketReceiveBufferSize min="{size}B" max="{size}B"/></Internal>'


def _source_scripts(scripts: list[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Source shell scripts in bash and read the environment that results."""
    code = 'for script in "$@"; do . "$script" || exit 1; done; exec env -0'
    result = subprocess.run(
        ['bash', '-c', code, 'wam', *scripts],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if result.returncode != 0:
        raise CommandError(
            f'cannot source {" ".join(scripts)}: '
            f'{result.stderr.decode(errors="replace").strip()[-200:]}'
        )
    pairs = (entry.partition('=') for entry in result.stdout.decode().split('\0') if entry)
    return {name: value for name, _, value in pairs if name not in ('_', 'SHLVL')}
