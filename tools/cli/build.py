"""`./wam build`: colcon build over src/, symlinked so that Python edits need no build."""

import argparse
import os
import shutil
from pathlib import Path

from cli import ros, setup, stamps
from cli.environment import environment
from cli.lock import exclusive
from cli.paths import Layout, checkout
from cli.process import run
from cli.progress import Progress, say

# What colcon compiles, copies or writes scripts from: its content matters.
COPIED = (
    'package.xml',
    'CMakeLists.txt',
    'setup.py',
    'setup.cfg',
    'colcon.meta',
    '*.msg',
    '*.srv',
    '*.action',
)


def key(layout: Layout) -> str:
    """Hash what a build depends on: interfaces, build files, and which data files there are.

    Modules do not count: a Python package is linked as a folder.
    """
    source = [
        path
        for path in (layout.root / 'src').rglob('*')
        if path.is_file() and path.suffix != '.pyc' and '.egg-info' not in str(path.parent)
    ]
    copied = [path for path in source if any(path.match(pattern) for pattern in COPIED)]
    names = sorted(str(path.relative_to(layout.root)) for path in source if not is_module(path))
    found = ros.located(layout, os.environ)
    return stamps.key_of([str(layout.root), str(found.prefix), *names], copied)


def is_module(path: Path) -> bool:
    """Tell whether a file is a module inside a Python package."""
    return path.suffix == '.py' and path.with_name('__init__.py').exists()


def is_ready(layout: Layout) -> bool:
    """Tell whether the last build still holds."""
    return (layout.install / 'local_setup.bash').is_file() and stamps.is_fresh(
        layout.stamps / 'build', key(layout)
    )


def ensure(layout: Layout) -> None:
    """Set up and build what is not yet."""
    setup.ensure(layout)
    if not is_ready(layout):
        with exclusive(layout):
            if not is_ready(layout):
                build(layout, [])


def build(layout: Layout, extra: list[str]) -> None:
    """Run colcon; the same command and sources with an installed ROS 2 and with our prefix."""
    argv: list[str | Path] = [
        layout.python,
        '-m',
        'colcon',
        '--log-base',
        layout.root / 'log',
        'build',
        '--base-paths',
        layout.root / 'src',
        '--build-base',
        layout.root / 'build',
        '--install-base',
        layout.install,
        '--metas',
        layout.root / 'colcon.meta',
        '--symlink-install',
        '--event-handlers',
        'console_cohesion+',
        *extra,
        '--cmake-args',
        f'-DPython3_EXECUTABLE={layout.python}',
        '-DBUILD_TESTING=OFF',
    ]
    _forget_other_ros(layout)
    title = 'colcon build'
    with Progress() as progress, progress.step(title):
        before = key(layout)

        def on_line(line: str) -> None:
            if line.startswith(('Starting', 'Finished')):
                progress.detail(title, line.split(' [')[0])

        run(
            title,
            argv,
            layout.logs / 'build.log',
            env=environment(layout),
            cwd=layout.root,
            on_line=on_line,
        )
    if not extra:
        stamps.write(layout.stamps / 'build', before)


def _forget_other_ros(layout: Layout) -> None:
    """Start from nothing when another ROS 2 is used now: CMake remembers where things were."""
    stamp = layout.stamps / 'build-ros'
    used = str(ros.located(layout, os.environ).prefix)
    if not stamps.is_fresh(stamp, used):
        for name in ('build', 'install'):
            shutil.rmtree(layout.root / name, ignore_errors=True)
        stamps.write(stamp, used)


def main(arguments: list[str]) -> int:
    """Build; further arguments go to `colcon build`."""
    parser = argparse.ArgumentParser(
        prog='./wam build',
        description=__doc__,
        epilog='Other arguments go to `colcon build`, e.g. --packages-select wam_msgs.',
    )
    _, extra = parser.parse_known_args(arguments)
    layout = checkout()
    setup.ensure(layout)
    with exclusive(layout):
        build(layout, extra)
    say('built; ./wam shell has it')
    return 0
