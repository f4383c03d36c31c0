"""How a program behaves that was started as a worker: it answers its parent and ends with it."""

import ctypes
import os
import select
import signal
import socket
import threading
import time

from wam_policy.workers import exit_codes

PR_SET_PDEATHSIG = 1


def adopt_socket(fd: int, grace_s: float) -> socket.socket:
    """Take the socket that the parent handed down, and end when the parent does.

    A request that is under way when the other end closes has `patience_s` to finish.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    end = socket.socket(fileno=fd)

    def watch() -> None:
        poll = select.poll()
        poll.register(end.fileno(), select.POLLRDHUP)
        poll.poll()
        time.sleep(grace_s)  # an idle worker sees the end itself and leaves in order
        os._exit(exit_codes.OK)

    threading.Thread(target=watch, name='hang-up', daemon=True).start()
    return end
