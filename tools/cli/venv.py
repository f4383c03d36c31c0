"""Make the virtual environment `.venv` from the pins in tools/requirements."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cli import ros, stamps
from cli.failure import CommandError
from cli.paths import CheckoutLayout
from cli.process import run
from cli.ros import RosSource

# required packages with reasons, exact versions of their dependencies, excluded dependencies
PIN_FILES = ('requirements.txt', 'constraints.txt', 'overrides.txt')


def hash_venv_inputs(layout: CheckoutLayout) -> str:
    """Return the hash of the pins and the interpreter."""
    pins = [layout.root / 'tools/requirements' / name for name in PIN_FILES]
    return stamps.hash_inputs([str(find_base_python(layout))], pins)


def is_ready(layout: CheckoutLayout) -> bool:
    """Return whether the environment exists and matches the present pins."""
    return layout.python.exists() and stamps.is_fresh(
        layout.stamps / 'venv', hash_venv_inputs(layout)
    )


def find_base_python(layout: CheckoutLayout) -> Path:
    """Return the base interpreter: that of an installed ROS 2, else the one that runs this.

    rclpy of an installed ROS 2 is compiled for the system's Python 3.12.
    """
    if ros.select_ros(layout, os.environ).source is not RosSource.ASSEMBLED:
        for path in (Path('/usr/bin/python3.12'), Path('/usr/bin/python3')):
            if path.exists() and _read_python_version(path) == '3.12':
                return path
    base = getattr(sys, '_base_executable', sys.executable)
    return Path(os.path.realpath(base))


def _read_python_version(python: Path) -> str:
    """Return the version of an interpreter, for example `3.12`; empty if it does not run."""
    code = 'import sys; print("%d.%d" % sys.version_info[:2])'
    result = subprocess.run([python, '-c', code], capture_output=True, text=True, check=False)
    return result.stdout.strip()


def install_tools(layout: CheckoutLayout) -> tuple[list[str | Path], list[str | Path]]:
    """Make `pip` and `uv` available inside the checkout; return the two command lines."""
    tools = layout.work / 'tools'
    stamp = layout.stamps / 'tools'
    python = tools / 'bin' / 'python'
    pins = layout.root / 'tools/requirements/tools.txt'
    wanted = stamps.hash_inputs([str(find_base_python(layout))], [pins])
    if not (python.exists() and stamps.is_fresh(stamp, wanted)):
        shutil.rmtree(tools, ignore_errors=True)
        run(
            'making the set-up tools',
            [find_base_python(layout), '-m', 'venv', tools],
            layout.logs / 'tools.log',
        )
        run(
            'fetching pip and uv',
            [python, '-m', 'pip', 'install', '--disable-pip-version-check', '-r', pins],
            layout.logs / 'tools-packages.log',
        )
        stamps.write(stamp, wanted)
    return [python, '-m', 'pip', '--disable-pip-version-check'], [tools / 'bin' / 'uv']


def create(layout: CheckoutLayout, uv: list[str | Path]) -> None:
    """Make the environment unless it is valid."""
    base = find_base_python(layout)
    if layout.venv.exists() and not (
        layout.python.exists() and _read_python_version(layout.python) == '3.12'
    ):
        shutil.rmtree(layout.venv)
    if not layout.venv.exists():
        run(
            'making .venv',
            [*uv, 'venv', '--python', base, layout.venv],
            layout.logs / 'venv.log',
            env=_make_uv_environment(layout),
        )


def install_requirements(layout: CheckoutLayout, uv: list[str | Path]) -> None:
    """Install every pinned package and write the stamp."""
    pins = layout.root / 'tools/requirements'
    run(
        'installing the Python packages',
        [
            *(*uv, 'pip', 'install', '--python', layout.python),
            *('--requirement', pins / 'requirements.txt'),
            *('--constraint', pins / 'constraints.txt'),
            *('--override', pins / 'overrides.txt'),
        ],
        layout.logs / 'venv-packages.log',
        env=_make_uv_environment(layout),
    )
    if not layout.python.exists():
        raise CommandError('.venv was removed during the installation: run ./wam setup again')
    stamps.write(layout.stamps / 'venv', hash_venv_inputs(layout))


def _make_uv_environment(layout: CheckoutLayout) -> dict[str, str]:
    """Return the variables for uv; its cache is in the checkout, so that files are hard links."""
    return {
        'UV_HTTP_TIMEOUT': '60',
        **os.environ,
        'UV_CACHE_DIR': str(layout.work / 'uv'),
        'UV_PYTHON_DOWNLOADS': 'never',
        'UV_NO_PROGRESS': '1',
    }
