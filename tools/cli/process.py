"""Run programs for setup and build, with their output in a log file."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cli.failure import CommandError, summarize_output

# running programs, so that an interrupted setup can end those of other threads
_running_processes: set[subprocess.Popen] = set()


def run(
    title: str,
    argv: Sequence[str | Path],
    log_path: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a program and return its output; call `on_line` with each line as it arrives.

    Raises CommandError with one line if the program cannot start or exits with an error.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    with log_path.open('w') as file:
        try:
            process = subprocess.Popen(
                [str(word) for word in argv],
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors='replace',
            )
        except FileNotFoundError as e:
            raise CommandError(f'{title}: {argv[0]} is not installed') from e
        _running_processes.add(process)
        try:
            for line in process.stdout or ():
                lines.append(line)
                file.write(line)
                if on_line is not None:
                    on_line(line.rstrip())
        except BaseException:
            process.terminate()
            raise
        finally:
            code = process.wait()
            _running_processes.discard(process)
    if code != 0:
        raise CommandError(summarize_output(title, ''.join(lines), os.path.relpath(log_path)))
    return ''.join(lines)


def terminate_all() -> None:
    """Terminate all programs that were started by `run`."""
    for process in list(_running_processes):
        process.terminate()
