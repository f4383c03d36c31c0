"""A stack started by another command: found among its child processes and only observed."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from wam_tools.process_tree import find_descendants

ROLE_OPTION = '--role'
DOMAIN_VARIABLE = 'ROS_DOMAIN_ID'


def process_name(command: Sequence[str]) -> str | None:
    """Return the name of a process of the stack from its command line; None for others."""
    if ROLE_OPTION in command:
        return f'worker {command[command.index(ROLE_OPTION) + 1]}'
    for part in command[:3]:
        if part.endswith('_node'):
            return Path(part).name
    return 'launch' if 'launch' in command and 'die_with_parent' not in ' '.join(command) else None


class AttachedStack:
    """The stack below a process; it may start later, and a new one may follow it."""

    def __init__(self, pid: int, environment: Mapping[str, str] = os.environ) -> None:
        """Raise ValueError with the fix if `pid` cannot be observed from here."""
        try:
            self._process = psutil.Process(pid)
            self.command = ' '.join(self._process.cmdline())
            theirs = self._process.environ().get(DOMAIN_VARIABLE, '0')
        except psutil.NoSuchProcess:
            raise ValueError(f'no process {pid}') from None
        except psutil.AccessDenied:
            raise ValueError(
                f'process {pid} belongs to another user: run this command as that user'
            ) from None
        if theirs != (ours := environment.get(DOMAIN_VARIABLE, '0')):
            raise ValueError(
                f'process {pid} is in the ROS domain {theirs}, this one in {ours}: '
                f'set {DOMAIN_VARIABLE}={theirs}'
            )
        self._launch: psutil.Process | None = None
        self.stack_count = 0  # stacks found so far

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Return whether the process has ended; a zombie counts as ended."""
        try:
            return not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def find_processes(self) -> list[psutil.Process]:
        """Return the processes below the process; count stacks by their launch."""
        found = find_descendants(self.pid)
        launch = next((each for each in found if _read_process_name(each) == 'launch'), None)
        if launch is not None and launch != self._launch:
            self._launch, self.stack_count = launch, self.stack_count + 1
        return found

    def find_robot_name(self) -> str | None:
        """Return the robot of the present stack from its launch file; None without a stack."""
        self.find_processes()
        try:
            words = self._launch.cmdline() if self._launch else []
        except psutil.Error:
            return None
        return next(
            (word.removesuffix('.launch.py') for word in words if word.endswith('.launch.py')),
            None,
        )


def _read_process_name(process: psutil.Process) -> str | None:
    try:
        return process_name(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return None
