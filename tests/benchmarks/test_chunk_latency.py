"""The bench itself: it runs, counts what it ran, needs little, and ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLER_CALLS = {
    'full16': (31, 16),
    'static8': (15, 8),
    'static4': (7, 4),
    'dynamic4': (8, 4),
    'one_step': (1, 1),
}


def run_benchmark(folder: Path, *arguments: str) -> dict:
    path = folder / 'out.json'
    done = subprocess.run(
        [sys.executable, ROOT / 'benchmarks/chunk_latency.py', *arguments, '--json', path],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=folder,
        check=False,
        env={**os.environ, 'PYTHONPATH': '', 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    assert 'mode' in done.stdout
    return json.loads(path.read_text())


def test_every_mode_asks_as_often_as_it_says(tmp_path: Path) -> None:
    found = run_benchmark(
        tmp_path,
        '--dit-only',
        '--layers',
        '1',
        '--mode',
        *SAMPLER_CALLS,
        '--cfg',
        '5',
        '1',
        '--rounds',
        '3',
        '--budget',
        '0',
    )
    assert {(row['mode'], row['cfg']): row['calls'] for row in found['rows']} == {
        (mode, cfg): calls[i]
        for mode, calls in SAMPLER_CALLS.items()
        for i, cfg in enumerate((5.0, 1.0))
    }
    for row in found['rows']:
        assert row['rounds'] == 4 and set(row['fills']) == {'1', '2', '3', '4'}
        # the rate is derived from counts: no duration on a busy machine is compared with another
        assert row['TFLOP'] > 0 and row['call_ms'] > 0 and row['p99_ms'] >= row['chunk_ms']
        assert row['of_matmul'] == pytest.approx(
            row['TFLOP/s'] / found['matmul_TFLOP/s'], rel=0.05, abs=1e-3
        )
    guided, alone = (row['kv_MB'] for row in found['rows'][:2])
    assert guided == pytest.approx(2 * alone, abs=0.02)
    assert {'date', 'commit', 'machine', 'load_average', 'matmul_TFLOP/s'} <= set(found)


def test_paper_costs_of_the_large_model_are_the_published_ones(tmp_path: Path) -> None:
    """Released code runs both branches at every evaluation."""
    found = run_benchmark(
        tmp_path, '--paper', '--preset', 'dreamzero_14b', '--mode', *SAMPLER_CALLS
    )
    want = {'full16': 16, 'static8': 8, 'static4': 4, 'dynamic4': 4, 'one_step': 1}
    for row in found['rows']:
        each = 2 * (51.6 + 54.2 + 56.8 + 59.4) / 4
        assert row['released_TFLOP'] == pytest.approx(want[row['mode']] * each, rel=2e-3)
        assert row['calls'] == SAMPLER_CALLS[row['mode']][0]


def test_the_transformer_alone_needs_no_encoder_and_no_ros() -> None:
    code = (
        'import sys; sys.argv = ["x", "--dit-only", "--layers", "1", "--rounds", "3", '
        '"--mode", "one_step"]; sys.path[0] = "benchmarks"; import chunk_latency as c; c.main(); '
        'print(sorted({"diffusers", "transformers", "yaml", "scipy", "rclpy", "modelopt", '
        '"wam_sim"} & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=250,
        check=False,
        env={**os.environ, 'PYTHONPATH': ''},
    )
    assert done.stdout.endswith('[]\n'), done.stdout + done.stderr
