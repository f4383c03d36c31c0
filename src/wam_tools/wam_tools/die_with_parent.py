"""Run a command and end it when the parent process ends, even if the parent is killed.

`python -m wam_tools.die_with_parent PARENT_PID COMMAND...`: when the parent ends, the kernel sends
SIGTERM to this program. It sends SIGINT to the command (`ros2 launch` then shuts its nodes down)
and after SHUTDOWN_TIMEOUT_S kills the remaining processes. Otherwise it forwards SIGINT and
returns the exit status of the command (128 + n for signal n).
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

from wam_tools.process_tree import adopt_orphans, kill_descendants

PR_SET_PDEATHSIG = 1
SHUTDOWN_TIMEOUT_S = 12.0  # launch sends SIGTERM after 5 s and SIGKILL after 10 s
POLL_S = 0.05


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    orphaned: list[float] = []  # time at which the parent ended
    signal.signal(signal.SIGTERM, lambda *_: orphaned.append(time.monotonic()))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    adopt_orphans()
    if os.getppid() != parent:  # it ended before prctl
        sys.exit(f'die_with_parent: parent {parent} has ended')
    child = subprocess.Popen(command)
    signal.signal(signal.SIGINT, lambda *_: child.send_signal(signal.SIGINT))
    sigint_sent = False
    while child.poll() is None:
        if orphaned and not sigint_sent:
            sigint_sent = True
            child.send_signal(signal.SIGINT)
        if orphaned and time.monotonic() - orphaned[0] > SHUTDOWN_TIMEOUT_S:
            break
        time.sleep(POLL_S)
    if orphaned:
        kill_descendants()
    code = child.wait()
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == '__main__':
    main()
