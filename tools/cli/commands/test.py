"""`./wam test`: every test in the environment of this checkout; arguments go to pytest.

The whole suite runs two files at a time: half of it waits for robots that move in real time.
"""

import os
import signal
import subprocess
from types import FrameType

from cli import domain
from cli.commands import build
from cli.environment import make_environment
from cli.paths import find_checkout

# in their order: the files with the fewest tests would come last, and take the longest
PARALLEL_ARGUMENTS = ('-n', '2', '--dist', 'loadfile', '--no-loadscope-reorder')


def main(arguments: list[str]) -> int:
    """Set up and build if needed, run pytest from the checkout's root, return its exit code."""
    layout = find_checkout()
    build.ensure_built(layout)
    env = make_environment(layout)
    # a domain of its own: a demo that runs beside the tests hears nothing of them
    env['ROS_DOMAIN_ID'] = str(domain.find_free_domain(os.getpid()))
    whole = not any((layout.root / word.partition('::')[0]).exists() for word in arguments)
    given = [*(PARALLEL_ARGUMENTS if whole else ()), *arguments]  # the later of two options counts
    code = _run_pytest([str(layout.python), '-m', 'pytest', *given], env, str(layout.root))
    # `ros2` commands in tests start a daemon for their domain, which would stay for hours
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
    """Run pytest and pass signals on to it; it decides how to end."""
    # what was started in the background ignores Ctrl-C, and so would all that the tests start
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(argv, env=env, cwd=root)

    def forward_signal(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    signal.signal(signal.SIGTERM, forward_signal)
    # the terminal sends Ctrl-C to pytest too
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = process.wait()
    return code if code >= 0 else 128 - code
