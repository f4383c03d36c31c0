"""The simulated robot must not wait for the policy it is moved by: a real one would not."""

import os

REALTIME_PRIORITY = 5  # real time, below the control loops that steer it


def set_realtime_priority() -> bool:
    """Run this thread and those to come before ordinary processes; tell whether that is allowed.

    Root and users with an rtprio limit may (limits.conf). Late set-points and joint states would
    otherwise be the busy machine's, not the stack's.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REALTIME_PRIORITY))
    except PermissionError:
        return False
    return True
