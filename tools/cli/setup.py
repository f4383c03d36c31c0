"""Get all that is needed: system packages, ROS 2 where none is installed, Python packages."""

import argparse
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cli import prefix, process, ros, system, venv
from cli.failure import Failure
from cli.lock import exclusive
from cli.paths import Layout, checkout
from cli.progress import Progress, say
from cli.ros import Origin

# measured: 6.1 GB of packages, 0.5 GB of ROS 2, and as much again while files are unpacked
NEEDED_BYTES = 9 * 10**9


def is_ready(layout: Layout) -> bool:
    """Tell whether there is nothing left to set up."""
    assembled = ros.located(layout, os.environ).origin is Origin.ASSEMBLED
    return (
        venv.is_ready(layout)
        and (not assembled or prefix.is_ready(layout))
        and not system.missing_packages()
    )


def ensure(layout: Layout) -> None:
    """Set up what is not set up yet; every step can be interrupted and run again."""
    if re.search(r'[\s:]', str(layout.root)):
        # scripts cannot name such an interpreter in their first line, nor can search paths
        raise Failure(
            f'the path of this checkout, {str(layout.root)!r}, has a space or colon, '
            'which ROS 2 cannot handle: move the checkout'
        )
    if not is_ready(layout):
        with exclusive(layout):
            _set_up(layout)


def _set_up(layout: Layout) -> None:
    """Go through the steps; each finds out for itself whether it is done."""
    found = ros.located(layout, os.environ)
    free = shutil.disk_usage(layout.root).free
    if not layout.venv.exists() and free < NEEDED_BYTES:
        raise Failure(
            f'the disk has {free / 1e9:.1f} GB left and setup needs '
            f'{NEEDED_BYTES / 1e9:.0f} GB: free some space and run ./wam setup again'
        )
    with Progress() as progress:
        missing = system.missing_packages()
        if missing:
            with progress.step(f'system packages: {" ".join(missing)}'):
                system.install_packages(layout, missing)
        with progress.step('set-up tools'):
            pip, uv = venv.bootstrap(layout)
        if found.origin is Origin.ASSEMBLED and not prefix.is_ready(layout):
            say(prefix.LICENCE)
            _side_by_side(layout, pip, uv, progress)
        else:
            _packages(layout, uv, progress, threading.Event())


def _side_by_side(
    layout: Layout, pip: list[str | Path], uv: list[str | Path], progress: Progress
) -> None:
    """Fill `.venv` and assemble the ROS 2 prefix at the same time."""
    created = threading.Event()
    packages_ended = threading.Event()

    def wait_for_packages() -> None:
        while not created.wait(0.2):
            if packages_ended.is_set():
                raise Failure('the Python packages could not be installed')

    def packages() -> None:
        try:
            _packages(layout, uv, progress, created)
        finally:
            packages_ended.set()

    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(packages),
            pool.submit(prefix.assemble, layout, pip, progress, wait_for_packages),
        ]
        try:
            # the packages' own failure first: the prefix may have failed only because of it
            for one in both:
                one.result()
        except KeyboardInterrupt:
            process.stop_all()
            raise


def _packages(
    layout: Layout, uv: list[str | Path], progress: Progress, created: threading.Event
) -> None:
    """Make and fill `.venv`; `created` is set once the generators' packages are there."""
    if not venv.is_ready(layout):
        with progress.step('Python packages (3 GB to download)'):
            venv.create(layout, uv)
            created.set()
            venv.fill(layout, uv)
    created.set()


def main(arguments: list[str]) -> int:
    """Set everything up and say what is used."""
    parser = argparse.ArgumentParser(prog='./wam setup', description=__doc__)
    parser.parse_args(arguments)
    layout = checkout()
    done = is_ready(layout)
    ensure(layout)
    found = ros.located(layout, os.environ)
    say(
        f'{"already set up" if done else "set up"}: '
        f'ROS 2 Jazzy {found.origin.value} ({found.prefix}), Python packages in .venv'
    )
    return 0
