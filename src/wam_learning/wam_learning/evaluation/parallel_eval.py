"""Run trials in parallel worker processes and collect their results.

A worker (`eval_worker`, `wam_tools.evaluate_ros`) prints one line per result.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

from wam_learning.evaluation.eval_worker import EvalJob
from wam_learning.evaluation.trials import TrialResult
from wam_policy.command_line import to_options

STDERR_TAIL_LINES = 12


def run_trials(
    module: str, robot: str, jobs: Sequence[EvalJob], workers: int, log: Callable[[str], None]
) -> list[TrialResult]:
    """Run `module` in `workers` processes over shards of the jobs; return all results.

    If a process fails, terminate the others and raise RuntimeError with the end of its stderr.
    """
    total, began_s, found = sum(len(job.trials) for job in jobs), time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix='wam-eval-') as folder:
        path = Path(folder) / 'jobs'
        path.write_text('\n'.join(job.to_json() for job in jobs) + '\n')
        processes = [
            _EvalWorker(
                [
                    *(sys.executable, '-m', module),
                    *to_options({'robot': robot, 'job_file': path, 'shard': f'{i}/{workers}'}),
                ],
                Path(folder) / f'errors.{i}',
            )
            for i in range(workers)
        ]
        try:
            for line in _read_lines(processes):
                found.append(TrialResult.from_json(line))
                log(format_progress(found, total, time.monotonic() - began_s))
            for process in processes:
                process.raise_on_failure()
        finally:
            for process in processes:
                process.terminate()
    return found


def format_progress(results: Sequence[TrialResult], total: int, elapsed_s: float) -> str:
    """Return a line with the last result, the success rate of its condition and the time left."""
    last = results[-1]
    same = [result for result in results if result.trial.series == last.trial.series]
    left_s = elapsed_s / len(results) * (total - len(results))
    at = last.reached_s[0]
    return (
        f'{len(results):4d}/{total}  {last.trial.series} {last.trial.family} '
        f'{last.trial.seed}: {"no" if at is None else f"{at:.1f} s"}'
        f'{f" ({last.stop_reason})" if last.stop_reason else ""}  '
        f'{sum(r.success for r in same)} of {len(same)}  {left_s:.0f} s left'
    )


class _EvalWorker:
    """Run one worker process; a thread forwards the lines of its stdout."""

    def __init__(self, command: Sequence[str], stderr_path: Path) -> None:
        self._stderr_path = stderr_path
        with stderr_path.open('w') as file:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=file, stdin=subprocess.DEVNULL, text=True
            )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout

    def forward_lines(self, queue: SimpleQueue) -> None:
        def run() -> None:
            for line in self._stdout:
                queue.put(line)
            queue.put(None)

        threading.Thread(target=run, daemon=True).start()

    def raise_on_failure(self) -> None:
        """Wait for the exit; raise RuntimeError with the end of stderr if it failed."""
        status = self._process.wait()
        if status:
            tail = self._stderr_path.read_text(errors='replace').splitlines()[-STDERR_TAIL_LINES:]
            raise RuntimeError('\n'.join([f'a worker exited with status {status}:', *tail]))

    def terminate(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._stdout.close()


def _read_lines(workers: Sequence[_EvalWorker]) -> Iterator[str]:
    """Yield the result lines of all workers as they arrive, until all have exited."""
    lines: SimpleQueue = SimpleQueue()
    for process in workers:
        process.forward_lines(lines)
    running = len(workers)
    while running:
        line = lines.get()
        if line is None:
            running -= 1
        elif line.startswith('{'):
            yield line
