"""The first GPU minutes: every part runs here on the CPU, and no figure that exists is lost."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.first_gpu_run import gpu
from benchmarks.first_gpu_run.gpu import Part, Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(560)  # 243 s on two idle cores
@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / 'benchmarks/gpu.sh', tmp_path / 'out', '--dry-run', '--total', '500'],
        capture_output=True,
        text=True,
        timeout=540,
        cwd=tmp_path,
        check=False,
        env={**os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / 'out' / 'gpu.json').read_text())
    rows = {row['part']: row for row in found['rows']}
    assert list(rows) == [part.name for part in gpu.PARTS]
    for name, row in rows.items():
        assert row['status'] == 'complete' and row['commit'], name
        if 'sampler' in row:
            assert row['chunk_ms'] > 0 and row['kernels'][0]['ms'] > 0 and row['rounds'] == 4
            assert {'flash', 'cudnn'} <= set(row['attention'])
    assert rows['14b_static4_both']['calls'] == 7 and rows['14b_dynamic4_both']['calls'] == 8
    # on a CPU only the mathematical kernel and the fused one for CPUs exist: others say so
    variants = {each['kernel']: each for each in rows['kernels']['variants']}
    assert any('failed' in each for name, each in variants.items() if 'CUDNN' in name)
    assert any('ms' in each for name, each in variants.items() if name.startswith('float32'))
    assert rows['load_14b']['load_s'] > 0 and rows['load_14b']['warm_up_s'] > 0
    assert found['environments'][0]['environment']['torch']
    assert '14b_full16_both' in done.stdout and 'vLLM-Omni' in done.stdout
    assert (tmp_path / 'out' / 'gpu.txt').read_text().strip() in done.stdout


def test_limits_and_crashes_lose_nothing_and_a_second_run_continues(tmp_path: Path) -> None:
    (tmp_path / 'calls').mkdir()

    def note(name: str) -> int:
        """Count the calls of a part in files: every part is a process."""
        path = tmp_path / 'calls' / name
        path.write_text(path.read_text() + 'x' if path.exists() else 'x')
        return len(path.read_text())

    def finish(settings: Settings, save: gpu.SaveFn) -> None:
        note('finish')
        save(True, chunk_ms=1.0)

    def hang(settings: Settings, save: gpu.SaveFn) -> None:
        save(False, chunk_ms=2.0)
        subprocess.Popen(['sleep', '60'])
        if note('hang') == 1:
            time.sleep(60)
        save(True, chunk_ms=2.5)

    def crash(settings: Settings, save: gpu.SaveFn) -> None:
        save(False, chunk_ms=3.0)
        if note('crash') == 1:
            os.abort()
        raise RuntimeError('still wrong')

    parts = [Part('finish', 20, finish), Part('hang', 2, hang), Part('crash', 20, crash)]
    settings = Settings(tmp_path / 'out', 'cpu', 60.0, dry_run=True)
    assert gpu.run_parts(parts, settings) == 1
    read = {part.name: gpu.read_row(settings, part) for part in parts}
    assert [(row['status'], row['chunk_ms']) for row in read.values()] == [
        ('complete', 1.0),
        ('partial', 2.0),
        ('partial', 3.0),
    ]
    attempts = gpu.read_lines(settings.folder / 'attempts.jsonl')
    assert [attempt['outcome'].split()[0] for attempt in attempts] == [
        'complete',
        'exceeded',
        'failed',
    ]
    # a part that was never tried comes before those that failed
    parts.append(Part('late', 20, lambda settings, save: save(True, order=note('late'))))
    assert gpu.run_parts(parts, settings) == 1
    attempts = gpu.read_lines(settings.folder / 'attempts.jsonl')[3:]
    assert [(each['part'], each['outcome'].split(';')[0]) for each in attempts] == [
        ('late', 'complete'),
        ('hang', 'complete'),
        ('crash', 'failed with status 1'),
    ]
    assert (tmp_path / 'calls' / 'finish').read_text() == 'x', 'measured again what was complete'
    assert 'still wrong' in (settings.folder / 'logs' / 'crash.log').read_text()
    assert len(json.loads((settings.folder / 'gpu.json').read_text())['rows']) == 4


def test_no_part_starts_without_time_left(tmp_path: Path, capsys) -> None:
    settings = Settings(tmp_path, 'cpu', gpu.LEAST_S / 2, dry_run=True)
    part = Part('any', 20, lambda settings, save: save(True))
    assert gpu.run_parts([part], settings) == 1
    assert gpu.read_row(settings, part) == {} and 'not started' in capsys.readouterr().out
    assert gpu.run_parts([part], replace(settings, total_s=30.0)) == 0


def test_what_is_wanted_most_is_measured_first() -> None:
    names = [part.name for part in gpu.PARTS]
    order = ['14b_one_step_cond', '14b_dynamic4_cond', '14b_static4_cond', '14b_static8_cond']
    order += ['14b_fp8_one_step_cond', '14b_static8_both', '5b_one_step_cond', '14b_full16_both']
    assert [name for name in names if name in order] == order
    assert names[-1] == '14b_full16_both' and len(set(names)) == len(names)
    assert max(part.limit_s for part in gpu.PARTS) < gpu.TOTAL_S / 3


def test_the_peers_are_those_of_the_documentation() -> None:
    lines = gpu.read_peers(gpu.PEERS_FILE)
    assert len(lines) > 8 and any('594 ms' in line for line in lines)


@pytest.mark.parametrize('arguments', [['--total', 'x'], ['a', 'b']])
def test_usage_errors_end_before_any_part(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(arguments)
