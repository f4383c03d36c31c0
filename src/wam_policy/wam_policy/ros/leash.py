"""Become another program that is asked to end when its parent dies, however that happens.

`python -m wam_policy.ros.leash PARENT_PID COMMAND...`: the parent may be killed without a chance
to clean up; the kernel then sends SIGINT here, which lets `ros2 launch` end its nodes in order.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGINT) != 0:
        raise OSError(ctypes.get_errno(), 'prctl')
    if os.getppid() != parent:          # it died before the kernel was told
        sys.exit(f'leash: parent {parent} is gone')
    os.execvp(command[0], command)


if __name__ == '__main__':
    main()
