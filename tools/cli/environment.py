"""Environment variables for programs of this checkout: ROS 2, built packages, Python packages."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cli import ros
from cli.failure import CommandError
from cli.paths import CheckoutLayout
from cli.ros import RosSource

# Participants on one machine discover each other by unicast to ports derived from an index, and
# Cyclone DDS tries a limited number of them. A demo and a test run together exceed the default.
DISCOVERY_XML = (
    '<Discovery><ParticipantIndex>auto</ParticipantIndex>'
    '<MaxAutoParticipantIndex>119</MaxAutoParticipantIndex></Discovery>'
)
# A 640x480 image is 0.9 MB in datagrams and three cameras send at once: with Cyclone DDS's default
# of 1 MB, 1 % of the images was lost at 45 Hz on two busy cores; with 4 MB none.
RECEIVE_BUFFER_BYTES = 4 * 2**20
# Cyclone DDS stores packets that it keeps, mainly those of discovery, in blocks of memory and
# allocates a new block when one is full: with the default of 1 MB every process grows by 1.2 KB/s
# for 12 minutes per block. Blocks of this size are full within 2 minutes and are then reused.
# Small blocks cost a reader of images 1 % of a core (three of 640x480 at 15 Hz).
PACKET_BUFFER_XML = '<Sizing><ReceiveBufferSize>256KiB</ReceiveBufferSize></Sizing>'
RMEM_MAX_FILE = Path('/proc/sys/net/core/rmem_max')


def make_environment(
    layout: CheckoutLayout, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the variables for programs of this checkout; variables set by the user are kept."""
    found = ros.select_ros(layout, environ)
    scripts = [] if found.source is RosSource.SOURCED else [found.setup_script]
    scripts += [path for path in [layout.install_dir / 'local_setup.bash'] if path.is_file()]
    env = _source_scripts([str(script) for script in scripts], environ)
    env.pop('PYTHONHOME', None)
    # container images set it to save space, but then every process compiles torch's modules again
    env.pop('PYTHONDONTWRITEBYTECODE', None)
    env['VIRTUAL_ENV'] = str(layout.venv)
    env['PATH'] = f'{layout.venv / "bin"}:{env["PATH"]}'
    env.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    env.setdefault('CYCLONEDDS_URI', DISCOVERY_XML + PACKET_BUFFER_XML + _receive_buffer_xml())
    env.setdefault('MUJOCO_GL', 'osmesa')
    return env


def _receive_buffer_xml() -> str:
    """Return the buffer size, at most what the kernel allows: else Cyclone DDS does not start."""
    if not RMEM_MAX_FILE.is_file():
        return ''
    size = min(RECEIVE_BUFFER_BYTES, int(RMEM_MAX_FILE.read_text()))
    return f'<Internal><SocketReceiveBufferSize min="{size}B" max="{size}B"/></Internal>'


def _source_scripts(scripts: list[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Source shell scripts in bash and return the resulting environment."""
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
