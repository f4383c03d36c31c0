"""Start stream_node apart from whoever starts it, so that it can hold the arms when they end.

`stream_node [--python INTERPRETER] --ros-args ...`, as a launch file or `ros2 run` calls it. The
node runs in a session of its own: Ctrl-C in the terminal, and a launch that kills what does not
end, reach this program only. Notable:
- the node writes to a file, this program copies it to its output;
- the end of this program, also by kill -9, is a SIGINT for the node: it comes to rest and, where
  only its driver holds the arms up, stays until they are released;
- a second start in the same ROS domain and namespace is refused as long as the node runs;
- with INTERPRETER the node runs in a Python of its own, where a vendor's driver may have pins that
  do not fit ours. It needs this stack on PYTHONPATH, as a ROS environment has it.
"""

import argparse
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn, TextIO

NODE_MODULE = 'wam_policy.nodes.stream.stream_node'
POLL_S = 0.05
FAREWELL_S = 4.0  # launch sends SIGTERM after 5 s, SIGKILL after 10 s
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the node until it ends, or until this program is requested to end."""
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: signals.append(received))
    parser = argparse.ArgumentParser(prog='stream_node', add_help=False)
    parser.add_argument('--python', default='')
    options, node_arguments = parser.parse_known_args()
    name = find_node_name(node_arguments)
    lock = acquire_lock(name)
    log_path = Path(lock.name).with_suffix('.log')
    with log_path.open('wb') as output:
        node = start_node(options.python or sys.executable, node_arguments, output, lock)
    lock.write(f'{node.pid}\n')
    lock.flush()
    with log_path.open('rb') as log:
        follow(node, log, signals)


def find_node_name(node_arguments: Sequence[str]) -> str:
    """Return the full name that remapping rules among the arguments give to the node."""
    rules = dict(rule.split(':=', 1) for rule in node_arguments if ':=' in rule)
    namespace = rules.get('__ns', '/').strip('/')
    return '/'.join(filter(None, ('', namespace, rules.get('__node', 'stream'))))


def acquire_lock(name: str) -> TextIO:
    """Return the open lock file of the node `name`; exit with the reason if it is taken.

    The node inherits it: it stays locked as long as one of the two runs.
    """
    folder = Path(os.environ.get('ROS_HOME') or '~/.ros').expanduser() / 'wam'
    folder.mkdir(parents=True, exist_ok=True)
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    path = folder / f'domain{domain}{name.replace("/", ".")}.lock'
    lock = path.open('a+')
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        sys.exit(
            f'stream_node: process {lock.read().strip()} of an earlier start still runs, with '
            'the driver open; it may be all that holds the arms up. Support them, then: '
            f'ros2 service call {name}/release std_srvs/srv/Trigger; then start again. Its '
            f'messages: {path.with_suffix(".log")}'
        )
    lock.seek(0)
    lock.truncate()
    return lock


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
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGINT),
        )
    except OSError as error:
        sys.exit(f'stream_node: {python} (stream_python) does not run: {error.strerror}')


def follow(node: subprocess.Popen[bytes], log: BinaryIO, signals: list[int]) -> NoReturn:
    """Copy the node's messages until it ends, then exit with its status.

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
