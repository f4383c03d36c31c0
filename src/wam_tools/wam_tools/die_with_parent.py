"""Run a command that must not outlive whoever started it, however that one ends.

`python -m wam_tools.die_with_parent PARENT_PID COMMAND...`: the parent may be killed without a
chance to clean up. The kernel tells this program, which asks the command to end (SIGINT lets `ros2
launch` end its nodes in order) and after a while ends whatever is left of its processes. Until
then it only hands SIGINT on, and the command's exit status back (128 + n for signal n).
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

from wam_tools.process_tree import adopt_orphans, kill_descendants

PR_SET_PDEATHSIG = 1
SHUTDOWN_TIMEOUT_S = 12.0  # launch itself gives up SIGINT after 5 s and SIGTERM after 10 s
POLL_S = 0.05


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    orphaned: list[float] = []  # when the parent was found dead
    signal.signal(signal.SIGTERM, lambda *_: orphaned.append(time.monotonic()))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    adopt_orphans()
    if os.getppid() != parent:  # it died before the kernel was told
        sys.exit(f'leash: parent {parent} is gone')
    child = subprocess.Popen(command)
    signal.signal(signal.SIGINT, lambda *_: child.send_signal(signal.SIGINT))
    asked = False
    while child.poll() is None:
        if orphaned and not asked:
            asked = True
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
