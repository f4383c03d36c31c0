"""Programs that each try a share of the trials, and one reader of what they say.

They are plain programs (learn.episodes, ros.evaluate): a line per result on standard output.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

from wam_learning.evaluation.eval_worker import Job
from wam_learning.evaluation.trials import Result

LAST_LINES = 12


def tried(
    module: str, robot: str, jobs: Sequence[Job], workers: int, say: Callable[[str], None]
) -> list[Result]:
    """Run `module` so many times over shares of the jobs; return all results.

    RuntimeError with its last words if one of them fails; the others are ended then.
    """
    total, began_s, found = sum(len(job.trials) for job in jobs), time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix='wam-eval-') as folder:
        path = Path(folder) / 'jobs'
        path.write_text('\n'.join(job.to_json() for job in jobs) + '\n')
        programs = [
            _Program(
                [
                    sys.executable,
                    '-m',
                    module,
                    '--robot',
                    robot,
                    '--jobs',
                    str(path),
                    '--share',
                    f'{i}/{workers}',
                ],
                Path(folder) / f'errors.{i}',
            )
            for i in range(workers)
        ]
        try:
            for line in _lines(programs):
                found.append(Result.from_json(line))
                say(progress(found, total, time.monotonic() - began_s))
            for program in programs:
                program.judge()
        finally:
            for program in programs:
                program.end()
    return found


def progress(found: Sequence[Result], total: int, passed_s: float) -> str:
    """Say how far it is and how it goes in the series under way."""
    last = found[-1]
    same = [result for result in found if result.trial.series == last.trial.series]
    left_s = passed_s / len(found) * (total - len(found))
    at = last.reached_s[0]
    return (
        f'{len(found):4d}/{total}  {last.trial.series} {last.trial.family} '
        f'{last.trial.seed}: {"no" if at is None else f"{at:.1f} s"}'
        f'{f" ({last.trouble})" if last.trouble else ""}  '
        f'{sum(r.success for r in same)} of {len(same)}  {left_s:.0f} s left'
    )


class _Program:
    """Hold one of them; a thread passes its lines on."""

    def __init__(self, command: Sequence[str], errors: Path) -> None:
        self._errors = errors
        with errors.open('w') as file:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=file, stdin=subprocess.DEVNULL, text=True
            )
        assert self._process.stdout is not None
        self._said = self._process.stdout

    def pass_on(self, said: SimpleQueue) -> None:
        def run() -> None:
            for line in self._said:
                said.put(line)
            said.put(None)

        threading.Thread(target=run, daemon=True).start()

    def judge(self) -> None:
        """Raise what went wrong, if anything did."""
        status = self._process.wait()
        if status:
            words = self._errors.read_text(errors='replace').splitlines()[-LAST_LINES:]
            raise RuntimeError('\n'.join([f'a program ended with status {status}:', *words]))

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._said.close()


def _lines(programs: Sequence[_Program]) -> Iterator[str]:
    """Yield lines of all programs as they come; a program that fails ends it for all."""
    said: SimpleQueue = SimpleQueue()
    for program in programs:
        program.pass_on(said)
    running = len(programs)
    while running:
        line = said.get()
        if line is None:
            running -= 1
        elif line.startswith('{'):
            yield line
