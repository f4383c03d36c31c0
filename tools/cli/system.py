"""Debian and Ubuntu packages: find missing ones, install or unpack them."""

import ctypes.util
import importlib.util
import os
import shutil
from pathlib import Path

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


def unpack_debs(layout: CheckoutLayout, names: list[str], target: Path) -> None:
    """Fetch Debian packages and unpack them into `target`; needs no root and installs nothing."""
    for program in ('apt-get', 'dpkg-deb'):
        if shutil.which(program) is None:
            raise CommandError(
                f'{program} is not there, and the ROS 2 headers come from Debian or Ubuntu: '
                'use one of them, install ROS 2 Jazzy, or use docker/'
            )
    folder = layout.downloads / 'debs'
    if not all(list(folder.glob(f'{name}_*.deb')) for name in names):
        _fetch_debs(layout, names, folder)
    for name in names:
        for deb in folder.glob(f'{name}_*.deb'):
            run(f'unpacking {name}', ['dpkg-deb', '-x', deb, target], layout.logs / 'dpkg.log')


def _fetch_debs(layout: CheckoutLayout, names: list[str], folder: Path) -> None:
    """Download packages into `folder`, which exists only if all succeeded."""
    part = folder.with_suffix('.part')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    argv = ['apt-get', 'download', *names]
    log = layout.logs / 'apt-download.log'
    try:
        run('fetching ROS 2 headers', argv, log, cwd=part)
    except CommandError as e:
        # a fresh container has empty package lists
        if os.geteuid() != 0:
            raise CommandError(
                f'{e}; if the package lists are outdated: sudo apt-get update'
            ) from e
        run('apt-get update', ['apt-get', 'update'], layout.logs / 'apt-update.log')
        run('fetching ROS 2 headers', argv, log, cwd=part)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)
