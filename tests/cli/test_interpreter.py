"""The entry script finds a Python 3.12 that runs, whatever lies on the PATH."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.path.realpath(sys.executable))


def write_script(path, text):
    """Write an executable bash script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/bash\n{text}\n')
    path.chmod(0o755)
    return path


def write_broken_shim(folder):
    """Put a python3.12 that only says that it is not there, as version managers do."""
    return write_script(
        folder / 'python3.12', 'echo "python3.12: command not found" >&2; exit 127'
    )


@pytest.fixture
def checkout(tmp_path):
    """Lay out a checkout that tells which interpreter runs it; its path has a space."""
    root = tmp_path / 'a checkout'
    (root / 'tools/cli').mkdir(parents=True)
    shutil.copy(ROOT / 'wam', root / 'wam')
    (root / 'tools/cli/__main__.py').write_text(
        'import sys\nprint(sys.argv[1:], sys.executable, sys.stdin.read(), sep="|")'
    )
    return root


def run_wam(root, path, home, *arguments, **environ):
    """Run the entry script with a PATH and a home of the test's making."""
    env = {'PATH': f'{path}:/usr/bin:/bin', 'HOME': str(home), **environ}
    return subprocess.run(
        [root / 'wam', *arguments],
        env=env,
        cwd='/',
        input='typed',
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_lying_shim_is_passed_over_for_a_version_manager(checkout, tmp_path):
    write_broken_shim(tmp_path / 'shims')
    real = tmp_path / 'home/.pyenv/versions/3.12.7/bin/python'
    write_script(real, f'exec -a "$0" {PYTHON} "$@"')
    result = run_wam(checkout, tmp_path / 'shims', tmp_path / 'home', 'x', 'two words')
    assert result.returncode == 0, result.stderr
    said, executable, typed = result.stdout.strip().split('|')
    assert said == "['x', 'two words']"
    assert 'shims' not in executable
    assert typed == 'typed', 'the command must keep the standard input of the user'


def test_another_version_under_the_right_name_is_refused(checkout, tmp_path):
    write_script(tmp_path / 'old/python3.12', 'echo 3.11')
    marker = write_script(
        tmp_path / 'good/python3.12', f'touch {tmp_path}/used; exec {PYTHON} "$@"'
    )
    result = run_wam(checkout, f'{tmp_path}/old:{marker.parent}', tmp_path, 'x')
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'used').exists()


def test_none_at_all_gives_one_line_with_the_fix(checkout, tmp_path):
    # a PATH and a home without any Python; bash and coreutils through links
    tools = tmp_path / 'tools'
    tools.mkdir()
    for name in ('bash', 'env', 'dirname', 'readlink'):
        (tools / name).symlink_to(shutil.which(name))
    text = (checkout / 'wam').read_text()
    assert '/usr/bin/python3.12' in text
    (checkout / 'wam').write_text(
        text.replace('/usr/', '/absent/usr/').replace('#!/absent/usr/', '#!/usr/')
    )
    result = subprocess.run(
        [checkout / 'wam'],
        env={'PATH': str(tools), 'HOME': str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert 'apt-get install python3.12' in result.stderr
    assert 'uv python install 3.12' in result.stderr


def test_a_named_interpreter_comes_first(checkout, tmp_path):
    named = write_script(tmp_path / 'my/python', f'touch {tmp_path}/named; exec {PYTHON} "$@"')
    result = run_wam(checkout, tmp_path, tmp_path, 'x', WAM_PYTHON=str(named))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'named').exists()
