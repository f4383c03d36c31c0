"""Measure the main latencies on one GPU in 8 minutes; nothing that was measured can be lost.

benchmarks/gpu.sh [FOLDER] runs this from any directory. The parts run one after another, the most
wanted first, each in a process of its own with a limit of its own. A part writes its file anew
after every window that it measured, so that a time limit, a crash or a lost machine leaves what
was measured so far. Run it again on the same folder to continue: complete parts are kept.

Weights are random and drawn on the device (zeros would draw less power and clock higher); one part
loads a checkpoint of full size whose files take no disk space, as a worker loads it. Needs torch,
numpy and safetensors; that part also diffusers, transformers, yaml, scipy. 14B in bf16 needs about
54 GB: weights 33, the KV caches of both branches 16, contexts and graphs. The parts were run on a
CPU (--dry-run), never on a GPU by this project.
"""

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

import torch

from benchmarks import record
from benchmarks.chunk_latency import TIMES
from benchmarks.first_gpu_run import gpu_parts
from wam_policy.command_line import CommandParser
from wam_policy.provenance import collect_provenance

TOTAL_S = 480.0
# Imported once here: every part would import it anew (1.5 s) when it makes tensors on 'meta'.
PRELOADED_MODULES = ('torch.fx.experimental.symbolic_shapes',)
LEAST_S = 8.0  # what is left when no further part is started
KILL_WAIT_S = 5.0
PEERS_FILE = ROOT / 'docs' / 'reference' / 'benchmarks.md'
PEERS_TITLE = '## Published results of others'
ENVIRONMENT_PREFIXES = ('CUDA', 'NCCL', 'NVIDIA', 'PYTORCH', 'TORCH', 'TRITON', 'OMP')
COLUMNS = (
    *('part', 'status', *TIMES),
    *('TFLOP/s', 'of_matmul', 'rehearsal_s', 'rounds', 'peak_memory_MB'),
)

SaveFn = Callable[..., None]  # save(complete, **fields): write the row of this part


@dataclass(frozen=True, slots=True)
class Settings:
    """Hold where and how long to measure."""

    folder: Path
    device: str
    total_s: float
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Part:
    """Define one measurement: what runs in a process of its own, and for how long at most."""

    name: str
    limit_s: float
    measure: Callable[[Settings, SaveFn], None]


def make_chunk_part(
    name: str,
    limit_s: float,
    sampler: str,
    guidance_scale: float,
    *,
    preset: str = 'dreamzero_14b',
    engine: str = 'compiled',
    precision: str = 'full',
    budget_s: float = 8.0,
) -> Part:
    """Return the part that measures one sampler; guidance scale 1: the conditional branch."""

    def measure(settings: Settings, save: SaveFn) -> None:
        gpu_parts.measure_chunks(
            settings.device,
            gpu_parts.ChunkSettings(
                'tiny' if settings.dry_run else preset,
                sampler,
                guidance_scale,
                'eager' if settings.dry_run else engine,
                precision,
                0.0 if settings.dry_run else budget_s,
                1 if settings.dry_run else None,
            ),
            save,
        )

    return Part(name, limit_s, measure)


# In the order of their worth. The sum of the limits exceeds the whole allowance, the sum of what
# the parts are expected to take does not: a part that hangs costs its own limit only.
PARTS = (
    make_chunk_part('14b_one_step_cond_eager', 45, 'one_step', 1, engine='eager', budget_s=4),
    make_chunk_part('14b_one_step_cond', 120, 'one_step', 1),
    make_chunk_part('14b_dynamic4_cond', 40, 'dynamic4', 1),
    make_chunk_part('14b_static4_cond', 40, 'static4', 1),
    make_chunk_part('14b_static8_cond', 45, 'static8', 1),
    make_chunk_part('14b_fp8_one_step_cond', 75, 'one_step', 1, precision='fp8'),
    make_chunk_part('14b_fp8_dynamic4_cond', 40, 'dynamic4', 1, precision='fp8'),
    make_chunk_part('14b_fp8_static4_cond', 40, 'static4', 1, precision='fp8'),
    make_chunk_part('14b_fp8_static8_cond', 45, 'static8', 1, precision='fp8'),
    make_chunk_part('14b_dynamic4_both', 50, 'dynamic4', 5),
    make_chunk_part('14b_static4_both', 50, 'static4', 5),
    make_chunk_part('14b_static8_both', 60, 'static8', 5),
    Part(
        'kernels',
        30,
        lambda settings, save: gpu_parts.measure_kernels(settings.device, settings.dry_run, save),
    ),
    make_chunk_part('5b_one_step_cond', 60, 'one_step', 1, preset='dreamzero_5b', budget_s=3),
    make_chunk_part('5b_static8_both', 45, 'static8', 5, preset='dreamzero_5b', budget_s=3),
    Part(
        'load_14b',
        90,
        lambda settings, save: gpu_parts.measure_load(settings.device, settings.dry_run, save),
    ),
    make_chunk_part('14b_full16_both', 90, 'full16', 5),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every part that is not complete yet; print the table. 1 if a part failed."""
    parser = CommandParser('benchmarks/gpu.sh', __doc__)
    parser.add_argument(
        'folder', type=Path, nargs='?', default=ROOT / 'docs/reference/benchmarks/gpu'
    )
    parser.add_argument('--device', default='cuda:0')
    parser.add_argument('--total', type=float, default=TOTAL_S, metavar='SECONDS')
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='run every part on the CPU with the tiny model, eager, one window each',
    )
    chosen = parser.parse_args(arguments)
    settings = Settings(
        chosen.folder.resolve(),
        'cpu' if chosen.dry_run else chosen.device,
        chosen.total,
        chosen.dry_run,
    )
    for name in PRELOADED_MODULES:
        importlib.import_module(name)
    return run_parts(PARTS, settings)


def run_parts(parts: Sequence[Part], settings: Settings) -> int:
    """Run the parts within the allowance; write attempts, report and table as they come."""
    deadline_s = time.monotonic() + settings.total_s
    for name in ('rows', 'logs'):
        (settings.folder / name).mkdir(parents=True, exist_ok=True)
    provenance = collect_provenance()
    append_line(
        settings.folder / 'environment.jsonl', provenance | {'environment': read_environment()}
    )
    # a part that failed or was cut off before waits for those that were never tried
    attempts = read_lines(settings.folder / 'attempts.jsonl')
    tried = {attempt['part'] for attempt in attempts}
    failed = False
    try:
        for part in sorted(parts, key=lambda part: part.name in tried):
            row = read_row(settings, part)
            if (row.get('status'), row.get('commit')) == ('complete', provenance['commit']):
                continue
            left_s = deadline_s - time.monotonic()
            if left_s < LEAST_S:
                outcome, taken_s = f'not started: {max(0.0, left_s):.0f} s left', 0.0
            else:
                start_s = time.monotonic()
                outcome = run_part(part, settings, min(part.limit_s, left_s))
                taken_s = time.monotonic() - start_s
                append_line(
                    settings.folder / 'attempts.jsonl',
                    {'part': part.name, 'outcome': outcome, 'taken_s': round(taken_s, 1)}
                    | {key: provenance[key] for key in ('date', 'commit')},
                )
            failed = failed or outcome != 'complete'
            print(f'gpu.sh: {part.name}: {outcome} ({taken_s:.0f} s)', flush=True)
    finally:
        write_report(parts, settings)
    return int(failed)


def run_part(part: Part, settings: Settings, limit_s: float) -> str:
    """Run a part in a process of its own; return 'complete' or what happened instead.

    It is forked from this one, which has imported torch but never touches CUDA: importing it anew
    for every part would take a minute of the allowance.
    """
    process = multiprocessing.get_context('fork').Process(
        target=_run_in_child, args=(part, settings), daemon=False
    )
    process.start()
    process.join(limit_s)
    late = process.is_alive()
    if late:
        for kill in (os.killpg, os.kill):  # its compilers, too; at first it has no group
            with suppress(ProcessLookupError):
                kill(process.pid or 0, signal.SIGKILL)
        process.join(KILL_WAIT_S)  # a process inside a driver call may outlast this
    log = f'see logs/{part.name}.log'
    if late:
        return f'exceeded {limit_s:.0f} s; {log}'
    if process.exitcode:
        return f'failed with status {process.exitcode}; {log}'
    return str(read_row(settings, part).get('status', f'wrote nothing; {log}'))


def _run_in_child(part: Part, settings: Settings) -> None:
    os.setpgrp()
    log = os.open(
        settings.folder / 'logs' / f'{part.name}.log',
        os.O_WRONLY | os.O_CREAT | os.O_APPEND,
        0o644,
    )
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(log, 'w', buffering=1)
    start_s = time.monotonic()

    def save(complete: bool, **fields: Any) -> None:
        row = {
            **collect_provenance(),
            'part': part.name,
            'status': 'complete' if complete else 'partial',
            'part_s': round(time.monotonic() - start_s, 2),
            **fields,
        }
        replace_file(row_path(settings, part), json.dumps(row, indent=1) + '\n')

    status = 0
    try:
        part.measure(settings, save)
    except BaseException:  # noqa: BLE001  the log has the trace, the row what was measured
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)  # no interpreter shutdown: nothing is left to save, and it may hang


# ---- files


def row_path(settings: Settings, part: Part) -> Path:
    return settings.folder / 'rows' / f'{part.name}.json'


def read_row(settings: Settings, part: Part) -> dict[str, Any]:
    """Return the row of a part; empty if there is none."""
    try:
        return json.loads(row_path(settings, part).read_text())
    except FileNotFoundError:
        return {}


def replace_file(path: Path, text: str) -> None:
    """Replace a file at once, so that a kill leaves either the old or the new content."""
    beside = path.with_suffix('.new')
    with beside.open('w') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    with path.open('a') as file:
        file.write(json.dumps(content) + '\n')
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


# ---- environment and report


def read_environment() -> dict[str, Any]:
    """Return what a latency depends on beside the code; never touches CUDA in this process."""
    query = 'name,driver_version,memory.total,clocks.max.sm,clocks.sm,power.limit,temperature.gpu'
    try:
        gpus = subprocess.run(
            ['nvidia-smi', f'--query-gpu={query}', '--format=csv'],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        ).stdout.splitlines()
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        gpus = [f'nvidia-smi: {error}']
    return {
        'gpus': gpus,
        'torch': torch.__version__,
        'cuda': torch.version.cuda,
        'variables': {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(ENVIRONMENT_PREFIXES)
        },
    }


def write_report(parts: Sequence[Part], settings: Settings) -> None:
    """Write gpu.json and gpu.txt from whatever rows there are; print the table."""
    rows = [row for part in parts if (row := read_row(settings, part))]
    content = {
        'environments': read_lines(settings.folder / 'environment.jsonl'),
        'attempts': read_lines(settings.folder / 'attempts.jsonl'),
        'rows': rows,
    }
    replace_file(settings.folder / 'gpu.json', json.dumps(content, indent=1) + '\n')
    text = '\n\n'.join(
        (
            record.format_table(rows, COLUMNS),
            'Published results of others, one 14B chunk:\n' + '\n'.join(read_peers(PEERS_FILE)),
        )
    )
    replace_file(settings.folder / 'gpu.txt', text + '\n')
    print(text, flush=True)


def read_peers(path: Path) -> list[str]:
    """Return the table of published results in the documentation, a line per row."""
    section = path.read_text().partition(PEERS_TITLE)[2].partition('\n## ')[0]
    return [line for line in section.splitlines() if line.startswith('|')]


if __name__ == '__main__':
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a part inside a driver call may outlast its kill: do not wait for it
