"""Start stream_node apart from whoever starts it, so that it can hold the arms when they end.

`stream_node [--python INTERPRETER] --ros-args ...`, as a launch file or `ros2 run` calls it. The
node runs in a session of its own: Ctrl-C in the terminal, and a launch that kills what does not
end, reach this program only. Notable:
- the node writes to a file, this program copies it to its output;
- the end of this program, also by kill -9, is a SIGINT for the node: it comes to rest and, where
  only its driver holds the arms up, stays until they are released;
- a second start in the same ROS domain and namespace is refused as long as the first one runs.
  A node whose start has ended, and which holds the arms, is taken over by the next start: it keeps
  its driver open and is configured again. Only a start like its own may do so, see start_record;
- with INTERPRETER the node runs in a Python of its own, where a vendor's driver may have pins that
  do not fit ours. It needs this stack on PYTHONPATH, as a ROS environment has it.
"""

import argparse
import ctypes
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO

from wam_policy.nodes.stream import start_record
from wam_policy.nodes.stream.channel_lock import open_lock_dir

NODE_MODULE = 'wam_policy.nodes.stream.stream_node'
POLL_S = 0.05
FAREWELL_S = 4.0  # launch sends SIGTERM after 5 s, SIGKILL after 10 s
PR_SET_PDEATHSIG = 1
TAKEOVER_SIGNAL = signal.SIGUSR1


def main() -> None:
    """Run the node until it ends, or until this program is requested to end."""
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: signals.append(received))
    parser = argparse.ArgumentParser(prog='stream_node', add_help=False)
    parser.add_argument('--python', default='')
    options, node_arguments = parser.parse_known_args()
    name, python = find_node_name(node_arguments), options.python or sys.executable
    record = start_record.make_record(name, python, node_arguments)
    lock, is_free = open_lock(name)
    log_path = Path(lock.name).with_suffix('.log')
    if is_free:
        with log_path.open('wb') as output:
            node = start_node(python, node_arguments, output, lock)
        start_record.write(lock, record | {'node': node.pid, 'starter': os.getpid()})
        with log_path.open('rb') as log:
            follow(node, log, signals)
    with log_path.open('rb') as log:
        log.seek(0, os.SEEK_END)
        follow(take_over(name, lock, record), log, signals)


class AdoptedNode:
    """Stand for the process of a node that another program has started."""

    def __init__(self, pid: int) -> None:
        self.pid, self._handle = pid, os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return None while it runs; its exit status is known to its parent only."""
        return 0 if select.select([self._handle], [], [], 0.0)[0] else None

    def send_signal(self, number: int) -> None:
        signal.pidfd_send_signal(self._handle, number)


def take_over(name: str, lock: TextIO, record: Mapping[str, Any]) -> AdoptedNode:
    """Return the node that holds the arms, requested to be ours; exit with the reason if not."""
    held = start_record.read(lock)
    pid = held.get('node', 'of unknown number')
    release = (
        f'support the arms, then: ros2 service call {name}/release std_srvs/srv/Trigger; then '
        f'start again. Its messages: {Path(lock.name).with_suffix(".log")}'
    )
    start = f'stream_node: process {pid} of an earlier start still runs'
    if is_running(held.get('starter')):
        sys.exit(
            f'{start}, and so does the launch that started it: end that one first. Messages: '
            f'{Path(lock.name).with_suffix(".log")}'
        )
    differences = start_record.find_differences(held, record)
    if differences:
        sys.exit(
            f'{start}, with the driver open; it may be all that holds the arms up. This start '
            f'cannot take it over, it differs: {"; ".join(differences)}. Start it as before, or '
            f'{release}'
        )
    try:
        node = AdoptedNode(pid)
        start_record.write(lock, held | {'starter': os.getpid()})
        node.send_signal(TAKEOVER_SIGNAL)
    except OSError as error:
        sys.exit(f'{start}, but cannot be reached: {error.strerror}; {release}')
    sys.stdout.write(f'stream_node: process {pid} holds the arms and is taken over\n')
    return node


def is_running(pid: Any) -> bool:
    """Tell whether a process runs; one that has ended and that nobody waits for does not.

    The starter of a killed launch stays such an entry where process 1 collects none, as in many
    containers.
    """
    if not isinstance(pid, int):
        return False
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([handle], [], [], 0.0)[0]
    finally:
        os.close(handle)


def find_node_name(node_arguments: Sequence[str]) -> str:
    """Return the full name that remapping rules among the arguments give to the node."""
    rules = dict(rule.split(':=', 1) for rule in node_arguments if ':=' in rule)
    namespace = rules.get('__ns', '/').strip('/')
    return '/' + '/'.join(filter(None, (namespace, rules.get('__node', 'stream'))))


def open_lock(name: str) -> tuple[TextIO, bool]:
    """Return the open lock file of the node `name`, and whether it was free and is ours now.

    The node inherits it: it stays locked as long as one of the two runs.
    """
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    lock = (open_lock_dir() / f'domain{domain}{name.lstrip("/").replace("/", ".")}.lock').open(
        'a+'
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return lock, False
    return lock, True


def start_node(
    python: str, node_arguments: Sequence[str], output: BinaryIO, lock: TextIO
) -> subprocess.Popen[bytes]:
    """Start the node in a session of its own; exit with the reason if `python` does not run."""
    prctl = ctypes.CDLL(None).prctl
    try:
        return subprocess.Popen(
            [python, '-m', NODE_MODULE, *node_arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
            env={**os.environ, start_record.PATH_VARIABLE: lock.name},
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGINT),
        )
    except OSError as error:
        sys.exit(f'stream_node: {python} (stream_python) does not run: {error.strerror}')


def follow(
    node: subprocess.Popen[bytes] | AdoptedNode, log: BinaryIO, signals: list[int]
) -> NoReturn:
    """Copy the node's messages until it ends, then exit with its status; 1 if it is not ours.

    Once requested to end, pass that on and leave within FAREWELL_S: the node may stay.
    """
    deadline_s: float | None = None
    while True:
        code = node.poll()
        if not copy(log):  # nobody reads any more: whoever started this is gone
            signals.append(signal.SIGPIPE)
        if code is not None:
            sys.exit(code if code >= 0 else 128 - code)
        now_s = time.monotonic()
        if signals and deadline_s is None:
            node.send_signal(signal.SIGINT)
            deadline_s = now_s + FAREWELL_S
        if deadline_s is not None and now_s > deadline_s:
            os._exit(0)  # what it printed last says who holds the arms
        time.sleep(POLL_S)


def copy(log: BinaryIO) -> bool:
    """Copy what is new in the file; return False if the output is closed."""
    try:
        sys.stdout.buffer.write(log.read())
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


if __name__ == '__main__':
    main()
