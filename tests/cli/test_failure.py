"""Raw output of programs becomes one line with the fix."""

import errno
import sys

import pytest

from cli import process
from cli.failure import CommandError, describe_oserror, summarize_output

NETWORK = 'no network'
FULL = 'the disk is full'
OUTPUTS = [
    (
        'pip',
        NETWORK,
        'WARNING: Retrying after connection broken: Failed to establish a new '
        'connection: [Errno -3] Temporary failure in name resolution\nERROR: No matching',
    ),
    ('pip', NETWORK, 'ERROR: Could not find a version that satisfies x==1 (from versions: none)'),
    (
        'uv',
        NETWORK,
        'error: Request failed after 3 retries\n  Caused by: error sending request '
        'for url (https://pypi.org/simple/torch/)\n  Caused by: client error (Connect)',
    ),
    ('apt', NETWORK, 'E: Failed to fetch http://deb.debian.org/x.deb  Could not connect'),
    (
        'uv',
        FULL,
        'error: Failed to install: torch\n  Caused by: failed to copy file: '
        'No space left on device (os error 28)',
    ),
    ('pip', FULL, 'ERROR: Could not install packages: [Errno 28] No space left'),
    ('pip', 'differs from the pinned file', 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES'),
]


@pytest.mark.parametrize(('program', 'meaning', 'output'), OUTPUTS)
def test_known_outputs_are_explained_in_one_line(program, meaning, output):
    line = summarize_output('installing', output, 'x.log')
    assert meaning in line
    assert line.startswith('installing: ')
    assert '\n' not in line
    assert 'run ./wam setup again' in line


def test_an_unknown_output_keeps_its_error_and_names_the_log():
    line = summarize_output(
        'colcon build', 'a\nCMake Error at x.cmake:3 (message):\nbye\n', 'l/b.log'
    )
    assert line == (
        'colcon build failed: CMake Error at x.cmake:3 (message): (full output: l/b.log)'
    )


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(number):
    assert FULL in describe_oserror(OSError(number, 'x'))


def test_a_failing_program_raises_one_line_and_leaves_its_log(tmp_path):
    log = tmp_path / 'logs/x.log'
    code = 'import sys; print("connection refused"); sys.exit(3)'
    with pytest.raises(CommandError, match=NETWORK):
        process.run('fetching', [sys.executable, '-c', code], log)
    assert log.read_text() == 'connection refused\n'


def test_a_program_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CommandError, match='no-such-program is not installed'):
        process.run('fetching', ['no-such-program'], tmp_path / 'x.log')


def test_lines_are_seen_as_they_come(tmp_path):
    seen = []
    output = process.run(
        'x', [sys.executable, '-c', 'print(1); print(2)'], tmp_path / 'x.log', on_line=seen.append
    )
    assert (seen, output) == (['1', '2'], '1\n2\n')
