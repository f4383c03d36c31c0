"""A stack that another command started: found below that command, looked at, never touched."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from wam_tools.launch_process import Supervised

ROLE = '--role'
DOMAIN = 'ROS_DOMAIN_ID'


def named(command: Sequence[str]) -> str | None:
    """Name a process of the stack by its command line; None for others."""
    if ROLE in command:
        return f'worker {command[command.index(ROLE) + 1]}'
    for part in command[:3]:
        if part.endswith('_node'):
            return Path(part).name
    return 'launch' if 'launch' in command and 'leash' not in ' '.join(command) else None


class Watched:
    """The stack below a process; it may not be there yet, and another may take its place."""

    def __init__(self, pid: int, environment: Mapping[str, str] = os.environ) -> None:
        """Raises ValueError, with what to do, where `pid` cannot be watched from here."""
        try:
            self._process = psutil.Process(pid)
            self.command = ' '.join(self._process.cmdline())
            theirs = self._process.environ().get(DOMAIN, '0')
        except psutil.NoSuchProcess:
            raise ValueError(f'there is no process {pid}') from None
        except psutil.AccessDenied:
            raise ValueError(f'process {pid} is of another user: watch as that one') from None
        if theirs != (ours := environment.get(DOMAIN, '0')):
            raise ValueError(
                f'process {pid} is in the ROS domain {theirs}, this one in {ours}: '
                f'set {DOMAIN}={theirs}'
            )
        self._launch: psutil.Process | None = None
        self.stacks = 0  # seen so far

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Tell whether the process is no more; one that waits for its parent is not."""
        try:
            return not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def tree(self) -> list[psutil.Process]:
        """Return what runs below the process; counts the stacks by their launch."""
        found = below(self._process)
        launch = next((each for each in found if _name(each) == 'launch'), None)
        if launch is not None and launch != self._launch:
            self._launch, self.stacks = launch, self.stacks + 1
        return found

    def robot(self) -> str | None:
        """Return which robot the present stack drives by its launch file; None: there is none."""
        self.tree()
        try:
            words = self._launch.cmdline() if self._launch else []
        except psutil.Error:
            return None
        return next(
            (word.removesuffix('.launch.py') for word in words if word.endswith('.launch.py')),
            None,
        )


def below(process: psutil.Process | Supervised) -> list[psutil.Process]:
    """Return the living descendants of a process; none where it ended itself."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _name(process: psutil.Process) -> str | None:
    try:
        return named(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return None
