"""Remove the results of setup and build."""

import argparse
import shutil
from pathlib import Path

from cli.lock import lock_checkout
from cli.paths import CheckoutLayout, find_checkout
from cli.progress import print_status


def find_removable_paths(layout: CheckoutLayout, with_downloads: bool) -> list[Path]:
    """Return the paths to remove; downloads are kept unless `with_downloads`."""
    paths = [layout.root / name for name in ('build', 'install', 'log', '.ros', '.venv')]
    paths += (layout.root / 'src').glob('*/*.egg-info')
    kept = () if with_downloads else ('downloads', 'uv')
    if layout.work.is_dir():
        paths += [path for path in layout.work.iterdir() if path.name not in (*kept, 'lock')]
    return [path for path in paths if path.exists() or path.is_symlink()]


def main(arguments: list[str]) -> int:
    """Remove without a prompt: setup and build can make everything again."""
    parser = argparse.ArgumentParser(prog='./wam clean', description=__doc__)
    parser.add_argument('--all', action='store_true', help='also remove the downloads')
    options = parser.parse_args(arguments)
    layout = find_checkout()
    with lock_checkout(layout):
        found = find_removable_paths(layout, options.all)
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    names = ', '.join(str(path.relative_to(layout.root)) for path in found)
    print_status(f'removed {names}' if found else 'nothing to remove')
    return 0
