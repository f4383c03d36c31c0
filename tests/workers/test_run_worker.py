"""The worker's command line explains itself and refuses early, clearly and with its status."""

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from wam_policy.workers import model_options, protocol, run_worker
from wam_policy.workers.worker_process import make_worker_environment

WORKER_COMMAND = [sys.executable, '-m', 'wam_policy.workers.run_worker']
REQUIRED_ARGUMENTS = ['--checkpoint', 'preset:tiny', '--embodiment', 'yam']


def test_a_command_line_becomes_settings():
    chosen = run_worker.parse_settings(
        [
            *REQUIRED_ARGUMENTS,
            '--rank',
            '1',
            '--world-size',
            '2',
            '--role',
            'uncond',
            '--device',
            'cuda:1',
            '--steps',
            '4',
            '--cpu-affinity',
            '3',
        ]
    )
    assert (chosen.rank, chosen.world_size, chosen.role, chosen.device) == (
        1,
        2,
        'uncond',
        'cuda:1',
    )
    assert (chosen.steps, chosen.cpu_affinity, chosen.threads, chosen.fd) == (4, 3, 1, None)


@pytest.mark.parametrize(
    'arguments, said',
    [
        ([], 'required: --checkpoint, --embodiment'),
        ([*REQUIRED_ARGUMENTS, '--threads', '0'], '--threads: want more than 0'),
        ([*REQUIRED_ARGUMENTS, '--peer-timeout', '-1'], '--peer-timeout: want more than 0'),
        ([*REQUIRED_ARGUMENTS, '--world-size', '2'], '--role both needs no second worker'),
        ([*REQUIRED_ARGUMENTS, '--sampler', 'fast'], 'invalid choice'),
    ],
)
def test_a_wrong_command_line_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        run_worker.parse_settings(arguments)
    assert caught.value.code == protocol.EXIT_PERMANENT_FAILURE
    assert said in capsys.readouterr().err


def test_old_names_of_options_and_values_still_work(capsys):
    old = run_worker.parse_settings(
        [
            *REQUIRED_ARGUMENTS,
            *('--recipe', 'dynamic4', '--cfg', '2', '--window', 'slide', '--sessions', '3'),
            *('--mode', 'reference', '--core', '1', '--queries', '4'),
            *('--world', '2', '--exchange', 'nccl', '--role', 'cond'),
        ]
    )
    assert (old.sampler, old.guidance_scale, old.kv_window) == ('dynamic4', 2.0, 'slide')
    assert (old.max_sessions, old.memory_update, old.cpu_affinity) == (3, 'released', 1)
    assert (old.benchmark_queries, old.world_size, old.dist_backend) == (4, 2, 'nccl')
    assert '--cfg is deprecated' in capsys.readouterr().err


def test_the_samplers_are_those_of_the_sampler():
    from wam_policy.model import robot_policy
    from wam_policy.model.sampling import sampler

    assert set(model_options.SAMPLERS) == set(sampler.SAMPLERS)
    choices = {action.dest: action.choices for action in run_worker.make_parser()._actions}
    assert tuple(choices['memory_update']) == robot_policy.MEMORY_UPDATE_MODES


def test_help_and_refusals_come_without_torch(capsys):
    start_s = time.monotonic()
    done = subprocess.run(
        [*WORKER_COMMAND, '--checkpoint', 'preset:tiny', '--embodiment', 'yamm'],
        capture_output=True,
        text=True,
        timeout=90,
        env=make_worker_environment({}),
    )
    assert done.returncode == protocol.EXIT_PERMANENT_FAILURE
    assert done.stderr.startswith('wam-worker both: error: ') and 'yam' in done.stderr
    assert len(done.stderr.splitlines()) == 1
    seen = subprocess.run(
        [
            sys.executable,
            '-c',
            textwrap.dedent("""
        import sys
        from wam_policy.workers import run_worker, supervisor
        sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers')))
    """),
        ],
        timeout=90,
        env=make_worker_environment({}),
    )
    assert seen.returncode == 0
    assert time.monotonic() - start_s < 30


@pytest.mark.parametrize(
    'checkpoint, said', [('/no/such/folder', 'no config.json'), ('preset:tinny', 'tinny')]
)
def test_a_checkpoint_that_cannot_be_is_one_line(checkpoint, said, capsys):
    status = run_worker.main(['--checkpoint', checkpoint, '--embodiment', 'yam'])
    lines = capsys.readouterr().err.splitlines()
    assert status == protocol.EXIT_PERMANENT_FAILURE and len(lines) == 1 and said in lines[0]


def test_a_device_that_is_not_there_is_one_line(capsys):
    status = run_worker.main([*REQUIRED_ARGUMENTS, '--device', 'cuda:63'])
    assert status == protocol.EXIT_PERMANENT_FAILURE
    assert 'no device cuda:63' in capsys.readouterr().err


def test_a_worker_that_does_not_read_dies_with_its_parent():
    """The kernel ends it: at this moment the worker imports torch and looks at no socket."""
    parent = subprocess.Popen(
        [
            sys.executable,
            '-c',
            textwrap.dedent(f"""
        import time
        from wam_policy.workers.worker_process import WorkerProcess
        program = WorkerProcess(
            {[*WORKER_COMMAND, *REQUIRED_ARGUMENTS]!r}, 0, 'both', lambda rank, line: None, {{}})
        print(program.pid, flush=True)
        time.sleep(60)
    """),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=make_worker_environment({}),
    )
    child = int(parent.stdout.readline())
    maps = Path(f'/proc/{child}/maps')
    deadline_s = time.monotonic() + 30
    while 'torch' not in maps.read_text() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert 'torch' in maps.read_text()
    os.kill(child, signal.SIGSTOP)  # cannot see any end of file either
    parent.kill()
    parent.wait()
    for _ in range(300):
        state = Path(f'/proc/{child}/stat')
        if not state.exists() or state.read_text().rsplit(')', 1)[1].split()[0] == 'Z':
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        raise AssertionError('the worker outlived its parent')


def test_a_cuda_device_without_an_index_gets_one(monkeypatch) -> None:
    """NCCL needs it, and every tensor of the worker is then on the same device."""
    import torch

    current = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'set_device', current.append)
    assert run_worker.select_device('cuda') == torch.device('cuda', 0) == current[0]
    with pytest.raises(ValueError, match='no device cuda:1: torch reports 1'):
        run_worker.select_device('cuda:1')


def test_kernels_are_kept_and_a_compiled_start_may_take_longer(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setenv('MKL_NUM_THREADS', '1')
    monkeypatch.delenv('TORCHINDUCTOR_CACHE_DIR', raising=False)
    run_worker.configure_process(run_worker.parse_settings(REQUIRED_ARGUMENTS))
    assert os.environ['TORCHINDUCTOR_CACHE_DIR'] == str(tmp_path / 'wam' / 'inductor')
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', '/mine')
    run_worker.configure_process(run_worker.parse_settings(REQUIRED_ARGUMENTS))
    assert os.environ['TORCHINDUCTOR_CACHE_DIR'] == '/mine'
    assert model_options.extend_start_timeout(300, 'eager') == 300
    assert model_options.extend_start_timeout(300, 'compiled') >= 1800


FAULTS_OF_LARGE_BLOCKS = """
import resource, sys
from wam_policy.workers import run_worker
if sys.argv[1] == 'keep':
    run_worker.keep_freed_memory()
def fill():
    bytearray(b'x') * (100 << 20)  # larger than malloc keeps by itself
for _ in range(2):
    fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), 'mallopt'), reason='another C library than glibc'
)
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = {
        way: int(
            subprocess.run(
                [sys.executable, '-c', FAULTS_OF_LARGE_BLOCKS, way],
                env=make_worker_environment({}),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for way in ('plain', 'keep')
    }
    # with huge pages a fault is 2 MiB, without them 4 KiB; each block has 100 MiB
    assert faults['keep'] < 20 < faults['plain'], faults
