"""Make the virtual environment `.venv` from the pins in setup/."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cli import ros, stamps
from cli.failure import Failure
from cli.paths import Layout
from cli.process import run
from cli.ros import Origin

# why each package is there, the exact versions of what they bring along, and what is not brought
PINS = ('requirements.txt', 'constraints.txt', 'overrides.txt')
# what assembling the ROS 2 prefix needs: installed first, so that both go on side by side
FIRST = ('numpy', 'pyyaml', 'lark', 'empy', 'packaging', 'setuptools', 'catkin_pkg')


def key(layout: Layout) -> str:
    """Hash what the environment is made from: the pins and the interpreter."""
    pins = [layout.root / 'tools/requirements' / name for name in PINS]
    return stamps.key_of([str(base_python(layout))], pins)


def is_ready(layout: Layout) -> bool:
    """Tell whether the environment is there and holds the present pins."""
    return layout.python.exists() and stamps.is_fresh(layout.stamps / 'venv', key(layout))


def base_python(layout: Layout) -> Path:
    """Name the interpreter to build on: an installed ROS 2's own, else the one that runs this.

    rclpy of an installed ROS 2 is compiled for the system's Python 3.12.
    """
    if ros.located(layout, os.environ).origin is not Origin.ASSEMBLED:
        for path in (Path('/usr/bin/python3.12'), Path('/usr/bin/python3')):
            if path.exists() and _version(path) == '3.12':
                return path
    base = getattr(sys, '_base_executable', sys.executable)
    return Path(os.path.realpath(base))


def _version(python: Path) -> str:
    """Ask an interpreter for its version, `3.12`; empty when it does not run."""
    code = 'import sys; print("%d.%d" % sys.version_info[:2])'
    result = subprocess.run([python, '-c', code], capture_output=True, text=True, check=False)
    return result.stdout.strip()


def bootstrap(layout: Layout) -> tuple[list[str | Path], list[str | Path]]:
    """Make `pip` and `uv` available inside the checkout; return the two command lines."""
    tools = layout.work / 'tools'
    stamp = layout.stamps / 'tools'
    python = tools / 'bin' / 'python'
    pins = layout.root / 'tools/requirements/tools.txt'
    wanted = stamps.key_of([str(base_python(layout))], [pins])
    if not (python.exists() and stamps.is_fresh(stamp, wanted)):
        shutil.rmtree(tools, ignore_errors=True)
        run(
            'making the set-up tools',
            [base_python(layout), '-m', 'venv', tools],
            layout.logs / 'tools.log',
        )
        run(
            'fetching pip and uv',
            [python, '-m', 'pip', 'install', '--disable-pip-version-check', '-r', pins],
            layout.logs / 'tools-packages.log',
        )
        stamps.write(stamp, wanted)
    return [python, '-m', 'pip', '--disable-pip-version-check'], [tools / 'bin' / 'uv']


def create(layout: Layout, uv: list[str | Path]) -> None:
    """Make an environment that runs, and the first packages in it; keeps one that is fine."""
    base = base_python(layout)
    if layout.venv.exists() and not (layout.python.exists() and _version(layout.python) == '3.12'):
        shutil.rmtree(layout.venv)
    if not layout.venv.exists():
        run(
            'making .venv',
            [*uv, 'venv', '--python', base, layout.venv],
            layout.logs / 'venv.log',
            env=_uv_environment(layout),
        )
    _install(
        layout,
        uv,
        'first',
        [*FIRST, '--constraint', layout.root / 'tools/requirements/constraints.txt'],
    )


def fill(layout: Layout, uv: list[str | Path]) -> None:
    """Install every pinned package and mark the environment as done."""
    _install(
        layout,
        uv,
        'packages',
        [
            '--requirement',
            layout.root / 'tools/requirements/requirements.txt',
            '--constraint',
            layout.root / 'tools/requirements/constraints.txt',
            '--override',
            layout.root / 'tools/requirements/overrides.txt',
        ],
    )
    if not layout.python.exists():
        raise Failure('.venv vanished while it was filled: run ./wam setup again')
    stamps.write(layout.stamps / 'venv', key(layout))


def _install(layout: Layout, uv: list[str | Path], name: str, what: list[str | Path]) -> None:
    """Install packages into `.venv`; what is there already is left alone."""
    run(
        'installing the Python packages',
        [*uv, 'pip', 'install', '--python', layout.python, *what],
        layout.logs / f'venv-{name}.log',
        env=_uv_environment(layout),
    )


def _uv_environment(layout: Layout) -> dict[str, str]:
    """Keep uv's cache in the checkout: files are linked from there, not stored twice."""
    return {
        'UV_HTTP_TIMEOUT': '60',
        **os.environ,
        'UV_CACHE_DIR': str(layout.work / 'uv'),
        'UV_PYTHON_DOWNLOADS': 'never',
        'UV_NO_PROGRESS': '1',
    }
