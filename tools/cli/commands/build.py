"""`./wam build`: run colcon build on src/, with symlinks, so that Python edits need no build."""

import argparse
import os
import shutil
from pathlib import Path

from cli import prefix, ros, stamps
from cli.commands import setup
from cli.environment import make_environment
from cli.lock import lock_checkout
from cli.paths import CheckoutLayout, find_checkout
from cli.process import run
from cli.progress import StepProgress, print_status

# Files whose content colcon compiles or copies, or from which it writes scripts.
COPIED_PATTERNS = (
    'package.xml',
    'CMakeLists.txt',
    'setup.py',
    'setup.cfg',
    'colcon.meta',
    '*.msg',
    '*.srv',
    '*.action',
)


def hash_build_inputs(layout: CheckoutLayout) -> str:
    """Return the hash of the build inputs: interfaces, build files, and names of data files.

    Modules are excluded, because a Python package is linked as a folder.
    """
    source = [
        path
        for path in (layout.root / 'src').rglob('*')
        if path.is_file() and path.suffix != '.pyc' and '.egg-info' not in str(path.parent)
    ]
    copied = [path for path in source if any(path.match(pattern) for pattern in COPIED_PATTERNS)]
    names = sorted(str(path.relative_to(layout.root)) for path in source if not is_module(path))
    return stamps.hash_inputs([str(layout.root), identify_ros(layout), *names], copied)


def identify_ros(layout: CheckoutLayout) -> str:
    """Name the ROS 2 that interfaces are compiled against; ours with what it is made from."""
    found = ros.select_ros(layout, os.environ)
    if found.source is not ros.RosSource.ASSEMBLED:
        return str(found.prefix)
    return f'{found.prefix} {prefix.hash_compiled_inputs(layout)}'


def is_module(path: Path) -> bool:
    """Return whether a file is a module inside a Python package."""
    return path.suffix == '.py' and path.with_name('__init__.py').exists()


def is_ready(layout: CheckoutLayout) -> bool:
    """Return whether the last build is up to date."""
    return (layout.install_dir / 'local_setup.bash').is_file() and stamps.is_fresh(
        layout.stamps / 'build', hash_build_inputs(layout)
    )


def ensure_built(layout: CheckoutLayout) -> None:
    """Set up and build if needed."""
    setup.ensure_set_up(layout)
    if not is_ready(layout):
        with lock_checkout(layout):
            if not is_ready(layout):
                build(layout, [])


def build(layout: CheckoutLayout, colcon_arguments: list[str]) -> None:
    """Run colcon, with the same command for an installed ROS 2 and the assembled prefix."""
    argv: list[str | Path] = [
        *(layout.python, '-m', 'colcon', '--log-base', layout.root / 'log', 'build'),
        *('--base-paths', layout.root / 'src', '--build-base', layout.root / 'build'),
        *('--install-base', layout.install_dir, '--metas', layout.root / 'colcon.meta'),
        *('--symlink-install', '--event-handlers', 'console_cohesion+', *colcon_arguments),
        *('--cmake-args', f'-DPython3_EXECUTABLE={layout.python}', '-DBUILD_TESTING=OFF'),
    ]
    _clean_if_ros_changed(layout)
    title = 'colcon build'
    with StepProgress() as progress, progress.step(title):
        before = hash_build_inputs(layout)

        def on_line(line: str) -> None:
            if line.startswith(('Starting', 'Finished')):
                progress.set_detail(title, line.split(' [')[0])

        run(
            title,
            argv,
            layout.logs / 'build.log',
            env=make_environment(layout),
            cwd=layout.root,
            on_line=on_line,
        )
    if not colcon_arguments:
        stamps.write(layout.stamps / 'build', before)


def _clean_if_ros_changed(layout: CheckoutLayout) -> None:
    """Remove build and install if the ROS 2 prefix has changed, because CMake caches its paths."""
    stamp = layout.stamps / 'build-ros'
    used = identify_ros(layout)
    if not stamps.is_fresh(stamp, used):
        for name in ('build', 'install'):
            shutil.rmtree(layout.root / name, ignore_errors=True)
        stamps.write(stamp, used)


def main(arguments: list[str]) -> int:
    """Build; pass further arguments to `colcon build`."""
    parser = argparse.ArgumentParser(
        prog='./wam build',
        description=__doc__,
        epilog='Other arguments go to `colcon build`, e.g. --packages-select wam_msgs.',
    )
    _, extra = parser.parse_known_args(arguments)
    layout = find_checkout()
    setup.ensure_set_up(layout)
    with lock_checkout(layout):
        build(layout, extra)
    print_status('built; open ./wam shell to use it')
    return 0
