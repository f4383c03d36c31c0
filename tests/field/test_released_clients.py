"""The clients that other projects released, as programs of their own, against our server.

They are not on PyPI or need other packages than ours, so each is given by an environment
variable, and not run without it (docs/how-to/serve-your-model.md says how to get them):

WAM_DREAMZERO: checkout of dreamzero0/dreamzero; its client needs only what is installed here
WAM_OPENPI, WAM_OPENPI_PYTHON: checkout of openpi, and a Python with its client's packages
WAM_VLA_EVAL_PYTHON: a Python with the package vla-eval
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.remote_latency import run_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SERVE = ('-m', 'wam_policy.servers.serve', '--devices', 'cpu', '--port', '0', '--quiet')
DROID = (*SERVE, '--embodiment', 'droid', '--checkpoint', 'preset:tiny')
VLA_EVAL_CLIENT = Path(__file__).with_name('vla_eval_client.py')


def find(variable):
    """Return what a variable of the environment names, or skip."""
    if not os.environ.get(variable):
        pytest.skip(f'{variable} is not set: this client is not on this machine')
    return Path(os.environ[variable])


def run_client(*command, **options):
    found = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=240, **options
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


def test_dreamzeros_client_accepts_the_configuration_and_gets_chunks():
    folder = find('WAM_DREAMZERO')
    with run_server(*DROID) as address:
        port = address.rpartition(':')[2]
        text = run_client(
            *(sys.executable, 'test_client_AR.py', '--port', port, '--num-chunks', 2),
            *('--prompt', 'touch the red cube'),  # the model reads 51 bytes
            cwd=folder,
            env={**os.environ, 'PYTHONPATH': str(folder)},
        )
    assert 'Server configuration validated for AR_droid' in text
    assert text.count('Action shape: (24, 8)') == 3 and 'Done.' in text


def test_openpis_client_gets_its_rows():
    folder, python = find('WAM_OPENPI'), find('WAM_OPENPI_PYTHON')
    with run_server(*DROID, '--server-profile', 'openpi') as address:
        port = address.rpartition(':')[2]
        # it does not import all of rich that it uses
        start = (
            'import runpy, sys, rich.console, rich.table; del sys.argv[0]; '
            'runpy.run_path(sys.argv[0], run_name="__main__")'
        )
        client = folder / 'examples' / 'simple_client' / 'main.py'
        text = run_client(
            *(python, '-c', start, client),
            *('--env', 'DROID', '--host', '127.0.0.1', '--port', port, '--num-steps', 4),
        )
    assert '4/4' in text and 'Timing Statistics' in text


@pytest.mark.parametrize('runner', ['sync', 'live'])
def test_vla_evals_runner_finishes_an_episode(runner):
    python = find('WAM_VLA_EVAL_PYTHON')
    with run_server(
        *(*SERVE, '--embodiment', 'yam', '--server-profile', 'vla_eval_yam')
    ) as address:
        text = run_client(python, VLA_EVAL_CLIENT, address, runner)
    assert 'steps 20' in text and 'finite True' in text
