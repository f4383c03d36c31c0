"""`./wam test`: run the tests in the environment of this checkout; arguments go to pytest.

The whole suite runs in three processes on two cores, because a third of the time is spent waiting
for what moves in real time; one of them runs the files that start whole stacks. With --all there
are two: most of it is stacks then, and faults are injected at times that a busy machine misses.
"""

import os
import signal
import subprocess
from types import FrameType

from cli import domain
from cli.commands import build
from cli.environment import make_environment
from cli.paths import find_checkout

# keep the order: otherwise files with few tests run last, and they take longest
ORDER = '--no-loadscope-reorder'  # scheduler: tests/stack_scheduler.py


def main(arguments: list[str]) -> int:
    """Set up and build if needed, run pytest from the checkout's root, return its exit code."""
    layout = find_checkout()
    build.ensure_built(layout)
    env = make_environment(layout)
    # a separate domain, so that tests and a demo on this machine do not interact
    env['ROS_DOMAIN_ID'] = str(domain.find_free_domain(os.getpid()))
    is_whole_suite = not any(
        (layout.root / word.partition('::')[0]).exists() for word in arguments
    )
    # of two equal options the later one counts
    processes = '2' if '--all' in arguments else '3'
    given = [*(('-n', processes, ORDER) if is_whole_suite else ()), *arguments]
    code = _run_pytest([str(layout.python), '-m', 'pytest', *given], env, str(layout.root))
    # `ros2` commands in tests start a daemon for their domain, which runs for two hours
    subprocess.run(
        ['ros2', 'daemon', 'stop'],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return code


def _run_pytest(argv: list[str], env: dict[str, str], root: str) -> int:
    """Run pytest, forward SIGTERM to it, and return its exit code."""
    # a background process ignores SIGINT, and so would all processes that the tests start
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(argv, env=env, cwd=root)

    def forward_signal(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    signal.signal(signal.SIGTERM, forward_signal)
    # the terminal sends Ctrl-C to pytest too
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = process.wait()
    return code if code >= 0 else 128 - code
