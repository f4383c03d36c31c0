"""Style, spelling, dead code and types, by the tools that check them; `.ci/run` runs all."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ('src', 'tools', 'benchmarks')
SCRIPTS = Path(sys.executable).parent
GATES = {
    'lint': ('ruff', 'check'),
    'format': ('ruff', 'format', '--check'),
    'spelling': ('codespell', *CODE, 'tests', 'docs', *sorted(p.name for p in ROOT.glob('*.md'))),
    'dead code': ('vulture', *CODE),
    'types': ('pyright',),  # takes 90 s: only with --all
}


def run_tool(*argv: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which(argv[0], path=str(SCRIPTS))
    assert program, f'{argv[0]} is not in {SCRIPTS}: ./wam setup installs it'
    return subprocess.run(
        [program, *argv[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    'gate',
    [pytest.param(name, marks=[pytest.mark.slow] * (name == 'types')) for name in GATES],
)
@pytest.mark.timeout(600)
def test_gate_passes(gate: str) -> None:
    if gate == 'types' and not (ROOT / 'install/wam_msgs').is_dir():
        pytest.skip('the messages are not built: run ./wam test')
    done = run_tool(*GATES[gate])
    assert done.returncode == 0, f'{done.stdout[-20000:]}\n{done.stderr[-2000:]}'


@pytest.mark.parametrize(
    ('gate', 'text'),
    [
        ('lint', 'import os\n'),
        ('format', 'x = "y"\n'),
        ('spelling', f'# the {"beha" + "viour"}\n'),
        ('dead code', 'def f():\n    return 1\n    g()\n'),
        ('types', "x: int = 'text'\n"),
    ],
)
def test_gate_finds_a_planted_fault(gate: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / 'planted.py'
    path.write_text(text)
    tool = [word for word in GATES[gate] if not (ROOT / word).exists()]  # without the paths
    done = run_tool(*tool, str(path))
    assert done.returncode != 0, done.stdout
    assert 'planted.py' in done.stdout + done.stderr
