"""`./wam setup`: system packages, ROS 2 where none is installed, and the Python packages."""
import argparse
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from cli import prefix, ros, system, venv
from cli.failure import Failure
from cli.layout import Layout, checkout
from cli.progress import Progress, say
from cli.ros import Origin


def is_ready(layout: Layout) -> bool:
    """Tell whether there is nothing left to set up."""
    assembled = ros.located(layout, os.environ).origin is Origin.ASSEMBLED
    return (not system.missing_packages() and venv.is_ready(layout)
            and (not assembled or prefix.is_ready(layout)))


def ensure(layout: Layout) -> None:
    """Set up what is not set up yet; every step can be interrupted and run again."""
    if is_ready(layout):
        return
    found = ros.located(layout, os.environ)
    with Progress() as progress:
        missing = system.missing_packages()
        if missing:
            with progress.step(f'system packages: {" ".join(missing)}'):
                system.install_packages(layout, missing)
        with progress.step('set-up tools'):
            pip, uv = venv.bootstrap(layout)
        if found.origin is Origin.ASSEMBLED and not prefix.is_ready(layout):
            say(prefix.LICENCE)
            _both(layout, pip, uv, progress)
        elif not venv.is_ready(layout):
            _packages(layout, uv, progress, threading.Event())


def _both(layout: Layout, pip: list, uv: list, progress: Progress) -> None:
    """Fill `.venv` and assemble the ROS 2 prefix side by side."""
    created = threading.Event()
    packages_done = threading.Event()

    def wait_for_packages() -> None:
        while not created.wait(0.2):
            if packages_done.is_set():
                raise Failure('the Python packages could not be installed')

    def packages() -> None:
        try:
            if venv.is_ready(layout):
                created.set()
            else:
                _packages(layout, uv, progress, created)
        finally:
            packages_done.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(packages)
        second = pool.submit(prefix.assemble, layout, pip, progress, wait_for_packages)
        # the packages first: when they fail, the prefix fails only because of them
        first.result()
        second.result()


def _packages(layout: Layout, uv: list, progress: Progress, created: threading.Event) -> None:
    """Make `.venv` and fill it; `created` is set once the generators' packages are there."""
    with progress.step('Python packages (3 GB to download)'):
        venv.create(layout, uv)
        created.set()
        venv.fill(layout, uv)


def main(arguments: list[str]) -> int:
    """Set everything up and say what was used."""
    parser = argparse.ArgumentParser(prog='./wam setup', description=__doc__)
    parser.parse_args(arguments)
    layout = checkout()
    done = is_ready(layout)
    ensure(layout)
    found = ros.located(layout, os.environ)
    say(f'{"already set up" if done else "set up"}: '
        f'ROS 2 Jazzy {found.origin.value} ({found.prefix}), Python packages in .venv')
    return 0
