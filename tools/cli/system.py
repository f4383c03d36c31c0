"""Debian and Ubuntu packages: find missing ones, install or unpack them."""

import ctypes.util
import importlib.util
import os
import shutil

from cli.failure import CommandError
from cli.paths import CheckoutLayout
from cli.process import run


def find_missing_packages() -> list[str]:
    """Return the missing Debian packages, detected by the programs and libraries they contain."""
    found = {
        'cmake': shutil.which('cmake'),
        'make': shutil.which('make'),
        'g++': shutil.which('g++') and shutil.which('gcc'),
        'libosmesa6': ctypes.util.find_library('OSMesa'),  # MuJoCo's off-screen cameras
        'python3.12-venv': importlib.util.find_spec('ensurepip'),  # Debian splits it off
    }
    return [name for name, present in found.items() if not present]


def install_packages(layout: CheckoutLayout, names: list[str]) -> None:
    """Install Debian packages; raises CommandError with the command if not root."""
    line = 'apt-get install -y --no-install-recommends ' + ' '.join(names)
    if shutil.which('apt-get') is None:
        raise CommandError(
            f'missing system packages (Debian names): {" ".join(names)}: '
            'install them with the package manager of this system'
        )
    if os.geteuid() != 0:
        raise CommandError(f'missing system packages: sudo {line}')
    env = {**os.environ, 'DEBIAN_FRONTEND': 'noninteractive'}
    run('apt-get update', ['apt-get', 'update'], layout.logs / 'apt-update.log', env=env)
    run('apt-get install', line.split(), layout.logs / 'apt-install.log', env=env)
