"""Load robots of this package and of folders elsewhere, which an environment variable names.

A robot that is used for learning and serving only (a benchmark's, a colleague's) need not be
copied into the package. Nodes and launch files know the robots of the package alone.
"""

import os
from pathlib import Path

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment

ROBOT_PATH_VARIABLE = 'WAM_ROBOT_PATH'  # folders of robot folders, separated as in PATH


def find_robot_folders() -> tuple[Path, ...]:
    """Return the folders of robot folders: the package's, then those of WAM_ROBOT_PATH.

    Raise ValueError for one that does not exist.
    """
    parts = filter(None, os.environ.get(ROBOT_PATH_VARIABLE, '').split(os.pathsep))
    added = tuple(Path(part).expanduser() for part in parts)
    missing = [str(folder) for folder in added if not folder.is_dir()]
    if missing:
        raise ValueError(f'{ROBOT_PATH_VARIABLE}: {", ".join(missing)}: no such folder')
    return embodiment.ROBOTS_DIR, *added


def list_robots() -> tuple[str, ...]:
    """Return the names of all robots, sorted; raise ValueError for a missing folder."""
    names = {name for folder in find_robot_folders() for name in embodiment.list_robots(folder)}
    return tuple(sorted(names))


def load_robot(name: str) -> Embodiment:
    """Load a robot by the name of its folder; raise ValueError with file, key and fix.

    A robot elsewhere cannot replace one of the package: the name then stands twice, an error.
    """
    folders = find_robot_folders()
    holders = [folder for folder in folders if name in embodiment.list_robots(folder)]
    if len(holders) > 1:
        raise ValueError(
            f'robot {name!r} is in {" and in ".join(map(str, holders))}; rename one of them'
        )
    if holders:
        return embodiment.load_embodiment(name, holders[0])
    try:
        return embodiment.load_embodiment(name)
    except ValueError as error:
        if len(folders) == 1:
            raise ValueError(
                f'{error}; for a robot elsewhere set {ROBOT_PATH_VARIABLE} to the folder above it'
            ) from None
        others = [known for folder in folders[1:] for known in embodiment.list_robots(folder)]
        raise ValueError(
            f'{error}; in {ROBOT_PATH_VARIABLE}: {", ".join(others) or "none"}'
        ) from None
