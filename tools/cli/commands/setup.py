"""Install system packages, ROS 2 (unless it is installed) and Python packages."""

import argparse
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cli import prefix, process, ros, system, venv
from cli.failure import CommandError
from cli.lock import lock_checkout
from cli.paths import CheckoutLayout, find_checkout
from cli.progress import StepProgress, print_status
from cli.ros import RosSource

# measured: 6.1 GB of packages, 0.5 GB of ROS 2, the rest temporary while files are unpacked
REQUIRED_DISK_BYTES = 9 * 10**9


def is_ready(layout: CheckoutLayout) -> bool:
    """Return whether everything is set up."""
    assembled = ros.select_ros(layout, os.environ).source is RosSource.ASSEMBLED
    return (
        venv.is_ready(layout)
        and (not assembled or prefix.is_ready(layout))
        and not system.find_missing_packages()
    )


def ensure_set_up(layout: CheckoutLayout) -> None:
    """Set up if needed; every step can be interrupted and run again."""
    if re.search(r'[\s:]', str(layout.root)):
        # neither shebang lines nor search paths can contain such a path
        raise CommandError(
            f'the path of this checkout, {str(layout.root)!r}, has a space or colon, '
            'which ROS 2 cannot handle: move the checkout'
        )
    if not is_ready(layout):
        with lock_checkout(layout):
            _set_up(layout)


def _set_up(layout: CheckoutLayout) -> None:
    """Run the steps; each is skipped if it is done."""
    found = ros.select_ros(layout, os.environ)
    free = shutil.disk_usage(layout.root).free
    if not layout.venv.exists() and free < REQUIRED_DISK_BYTES:
        raise CommandError(
            f'{free / 1e9:.1f} GB of disk space are free and setup needs '
            f'{REQUIRED_DISK_BYTES / 1e9:.0f} GB: free disk space and run ./wam setup again'
        )
    with StepProgress() as progress:
        missing = system.find_missing_packages()
        if missing:
            with progress.step(f'system packages: {" ".join(missing)}'):
                system.install_packages(layout, missing)
        with progress.step('set-up tools'):
            pip, uv = venv.install_tools(layout)
        if found.source is RosSource.ASSEMBLED and not prefix.is_ready(layout):
            print_status(prefix.LICENSE_NOTICE)
            _install_in_parallel(layout, pip, uv, progress)
        else:
            _install_packages(layout, uv, progress)


def _install_in_parallel(
    layout: CheckoutLayout, pip: list[str | Path], uv: list[str | Path], progress: StepProgress
) -> None:
    """Install `.venv` and assemble the ROS 2 prefix in parallel."""
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(_install_packages, layout, uv, progress),
            pool.submit(prefix.assemble, layout, pip, progress),
        ]
        try:
            for one in both:
                one.result()
        except KeyboardInterrupt:
            process.terminate_all()
            raise


def _install_packages(
    layout: CheckoutLayout, uv: list[str | Path], progress: StepProgress
) -> None:
    """Make and fill `.venv`."""
    if not venv.is_ready(layout):
        with progress.step('Python packages (3 GB to download)'):
            venv.create(layout, uv)
            venv.install_requirements(layout, uv)


def main(arguments: list[str]) -> int:
    """Set up everything and print what is used."""
    parser = argparse.ArgumentParser(prog='./wam setup', description=__doc__)
    parser.parse_args(arguments)
    layout = find_checkout()
    done = is_ready(layout)
    ensure_set_up(layout)
    found = ros.select_ros(layout, os.environ)
    print_status(
        f'{"already set up" if done else "set up"}: '
        f'ROS 2 Jazzy {found.source.value} ({found.prefix}), Python packages in .venv'
    )
    return 0
