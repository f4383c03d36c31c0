"""A pair of workers is always in one named state, and whatever they do never blocks its user."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from wam_policy.workers import worker_group
from wam_policy.workers.protocol import ProtocolError
from wam_policy.workers.supervisor import (
    Backoff,
    RequestInterrupted,
    WorkerError,
    WorkerExited,
    WorkersNotReady,
    WorkerSpec,
    WorkerState,
    WorkerStatus,
    WorkerSupervisor,
)
from wam_policy.workers.worker_group import EXIT_WAIT_S
from wam_policy.workers.worker_process import make_worker_environment

FAKE_WORKER = (sys.executable, str(Path(__file__).with_name('fake_worker.py')))
pytestmark = pytest.mark.timeout(60)


def make_spec(*arguments: str, devices: tuple[str, ...] = ('cpu', 'cpu'), **changed) -> WorkerSpec:
    quick = {
        'program': FAKE_WORKER,
        'start_timeout_s': 10.0,
        'shutdown_timeout_s': 1.0,
        'restart_delay_s': 0.01,
    }
    return WorkerSpec(devices, arguments, **{**quick, **changed})


class StatusRecorder:
    """Keep every status and line, and wait for one."""

    def __init__(self) -> None:
        self.statuses: list[WorkerStatus] = []
        self.lines: list[tuple[int, str]] = []

    def on_line(self, rank: int, text: str) -> None:
        self.lines.append((rank, text))

    def wait_for(self, condition, timeout_s: float = 10.0):
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            found = [status for status in self.statuses if condition(status)]
            if found:
                return found[0]
            time.sleep(0.005)
        raise AssertionError(f'never happened; seen {self.statuses}')

    def make_supervisor(self, spec: WorkerSpec) -> WorkerSupervisor:
        return WorkerSupervisor(spec, self.on_line, self.statuses.append)


def has_exited(pid: int) -> bool:
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == 'Z'


def worker_pids(supervisor: WorkerSupervisor) -> list[int]:
    return [program.pid for program in supervisor._group._processes]


def test_a_pair_goes_through_its_states_and_leaves_nothing():
    seen = StatusRecorder()
    pair = seen.make_supervisor(make_spec())
    assert pair.status.state == WorkerState.STOPPED
    with pytest.raises(WorkersNotReady, match='not started'):
        pair.request('query', timeout_s=1)
    with pair:
        status = pair.wait_ready(10)
        assert (status.state, status.generation, status.restarts) == (WorkerState.READY, 1, 0)
        running = worker_pids(pair)
        answer = pair.request('query', {'x': 1}, {'a': np.arange(3.0)}, timeout_s=5)
        assert answer.kind == 'answer' and answer.fields['rank'] == 0
        np.testing.assert_array_equal(answer.arrays['echo'], [[0, 1, 2]])
    assert [status.state for status in seen.statuses] == [
        WorkerState.STARTING,
        WorkerState.WARMING,
        WorkerState.READY,
        WorkerState.STOPPED,
    ]
    assert all(has_exited(pid) for pid in running) and len(running) == 2
    with pytest.raises(WorkersNotReady, match='closed'):
        pair.request('query', timeout_s=1)
    pair.close()


@pytest.mark.parametrize(
    'devices, guided, roles',
    [
        (('cpu', 'cpu'), True, ('cond', 'uncond')),
        (('cuda:0',), True, ('both',)),
        (('cuda:0', 'cuda:1'), False, ('cond',)),
        (('cpu',), False, ('cond',)),
    ],
)
def test_devices_and_guidance_decide_the_roles(devices, guided, roles):
    assert make_spec(devices=devices, guided=guided).roles == roles


def test_a_plan_is_checked_at_the_door():
    with pytest.raises(ValueError, match='one or two'):
        make_spec(devices=())
    with pytest.raises(ValueError, match='2 workers need 2 cores'):
        make_spec(cores=(0,))
    assert make_spec(devices=('cuda:0', 'cuda:1')).dist_backend == 'nccl'
    assert make_spec(devices=('cuda:0', 'cuda:0')).dist_backend == 'gloo'


def test_workers_are_told_who_they_are():
    with WorkerSupervisor(
        make_spec('--seed', '7', cores=(0, 1), environment={'WAM_TEST': '1'})
    ) as pair:
        argv = pair.wait_ready(10).info['argv']
        said = dict(zip(argv[::2], argv[1::2], strict=True))
        folder = Path(said['--rendezvous'].removeprefix('file://')).parent
        assert said['--seed'] == '7' and said['--role'] == 'cond' and said['--rank'] == '0'
        assert said['--world-size'] == '2' and said['--cpu-affinity'] == '0'
        assert said['--dist-backend'] == 'gloo'
        assert folder.stat().st_mode & 0o777 == 0o700
        assert 'WAM_TEST=1' in Path(f'/proc/{worker_pids(pair)[1]}/environ').read_text()
    assert not folder.exists()


@pytest.mark.parametrize(
    'stage, deed, said',
    [
        ('loading', 'exit7', 'exited with status 7; last line: fake: leaving on purpose'),
        ('warming', 'kill', 'was killed by SIGKILL'),
        ('ready', 'exit7', 'exited with status 7; last line: fake: leaving on purpose'),
        ('loading', 'garbage', 'failed to start: head of 1213486160 bytes'),
        ('warming', 'hang', 'was not ready within 4 s'),
        ('warming', 'hang up', 'failed to start: the other end has closed'),
    ],
)
def test_a_worker_that_fails_while_starting_is_named_and_retried(stage, deed, said):
    seen = StatusRecorder()
    timeout_s = 4.0 if deed == 'hang' else 20.0
    with seen.make_supervisor(make_spec('--act1', f'{stage}:{deed}', start_timeout_s=timeout_s)):
        failed = seen.wait_for(lambda status: status.state == WorkerState.FAILED)
        assert failed.reason.startswith(f'worker uncond (rank 1) {said}')
        assert failed.reason.endswith('restart in 0.01 s') and failed.retry_s == 0.01
        again = seen.wait_for(lambda status: status.generation == 2)
        assert again.state == WorkerState.STARTING and again.restarts == 1
    assert not [status for status in seen.statuses if status.state == WorkerState.READY]


def test_half_a_message_while_starting_times_out():
    seen = StatusRecorder()
    with seen.make_supervisor(make_spec('--act0', 'warming:half')):
        # what follows the half is read as its rest: either way it is no message of ours
        failed = seen.wait_for(lambda status: status.state == WorkerState.FAILED)
        assert 'worker cond (rank 0) failed to start: ' in failed.reason


def test_a_refused_start_is_not_retried_until_asked():
    seen = StatusRecorder()
    with seen.make_supervisor(make_spec('--act0', 'loading:exit2')) as pair:
        status = pair.wait_ready(10)
        assert (status.state, status.retry_s) == (WorkerState.FAILED, None)
        assert status.reason == (
            'worker cond (rank 0) exited with status 2; last line: fake: leaving on purpose'
        )
        time.sleep(0.1)
        assert pair.status.generation == 1
        pair.restart('another try')
        seen.wait_for(lambda status: status.generation == 2)


def test_starts_that_fail_in_a_row_come_to_an_end_and_can_be_asked_for_again():
    seen = StatusRecorder()
    with seen.make_supervisor(make_spec('--act0', 'loading:kill', max_failed_starts=3)) as pair:
        status = pair.wait_ready(30)
        assert (status.generation, status.retry_s) == (3, None)
        assert 'killed by SIGKILL' in status.reason
        assert '3 starts in a row failed, no further try' in status.reason
        pair.restart('memory was freed')
        seen.wait_for(lambda status: status.generation == 6)


def test_an_interpreter_that_is_not_there_is_a_reason():
    seen = StatusRecorder()
    with seen.make_supervisor(make_spec(program=('/no/such/python',))):
        failed = seen.wait_for(lambda status: status.state == WorkerState.FAILED)
        assert 'did not start' in failed.reason and '/no/such/python' in failed.reason


@pytest.mark.parametrize(
    'rank, kind, said',
    [
        (0, 'exit9', 'exited with status 9; last line: fake: leaving on purpose'),
        (1, 'exit9', 'exited with status 9; last line: fake: leaving on purpose'),
        (1, 'kill', 'was killed by SIGKILL'),
        (0, 'garbage', 'sent a wrong message: head of 1213486160 bytes'),
        (1, 'half', 'did not answer|sent a wrong message'),
        (0, 'hang', r"did not answer 'hang' within 0.5 s"),
        (1, 'hang up', 'the other end has closed'),
    ],
)
def test_a_worker_that_fails_a_request_is_named_and_both_start_again(rank, kind, said):
    seen = StatusRecorder()
    with seen.make_supervisor(make_spec()) as pair:
        pair.wait_ready(10)
        before = worker_pids(pair)
        start_s = time.monotonic()
        with pytest.raises(WorkerExited, match=said) as caught:
            pair.request(kind, {'rank': rank}, timeout_s=0.5 if kind in ('hang', 'half') else 5)
        assert time.monotonic() - start_s < 3 + EXIT_WAIT_S
        assert caught.value.worker_exit.rank == rank
        assert all(has_exited(pid) for pid in before)
        seen.wait_for(lambda status: status.state == WorkerState.READY and status.generation == 2)
        assert pair.request('query', timeout_s=5).kind == 'answer'
        assert not set(before) & set(worker_pids(pair))


@pytest.mark.parametrize('kind', ['exit9', 'kill'])
def test_the_exit_of_a_worker_is_waited_for_and_not_a_time(kind, monkeypatch):
    monkeypatch.setattr(worker_group, 'EXIT_WAIT_S', 100.0)
    with WorkerSupervisor(make_spec()) as pair:
        pair.wait_ready(10)
        start_s = time.monotonic()
        with pytest.raises(WorkerExited, match='status 9|SIGKILL'):
            pair.request(kind, {'rank': 0}, timeout_s=10)
        assert time.monotonic() - start_s < 10


def test_a_death_between_requests_is_seen_at_once():
    seen = StatusRecorder()
    with seen.make_supervisor(make_spec(restart_delay_s=5.0)) as pair:
        pair.wait_ready(10)
        os.kill(worker_pids(pair)[1], signal.SIGSEGV)
        failed = seen.wait_for(lambda status: status.state == WorkerState.FAILED, 1.0)
        assert failed.reason == 'worker uncond (rank 1) was killed by SIGSEGV; restart in 5 s'
        with pytest.raises(WorkersNotReady, match='SIGSEGV'):
            pair.request('query', timeout_s=1)
        pair.restart('now')  # a user need not wait for the delay
        seen.wait_for(lambda status: status.generation == 2, 2.0)


def test_the_worker_that_lost_its_peer_is_not_the_culprit():
    seen = StatusRecorder()
    with seen.make_supervisor(make_spec('--act0', 'warming:exit3', '--act1', 'warming:exit4')):
        failed = seen.wait_for(lambda status: status.state == WorkerState.FAILED)
        assert 'rank 1' in failed.reason or 'status 3' in failed.reason


def test_a_refusal_leaves_the_workers_alive():
    with WorkerSupervisor(make_spec()) as pair:
        pair.wait_ready(10)
        with pytest.raises(WorkerError, match='no; ask nicely') as caught:
            pair.request('fail', timeout_s=5)
        assert (caught.value.what, caught.value.fix) == ('no', 'ask nicely')
        with pytest.raises(ProtocolError, match='not allowed'):
            pair.request('query', arrays={'a': np.array(['x'])}, timeout_s=5)
        assert pair.request('query', timeout_s=5).kind == 'answer'
        assert pair.status.generation == 1


def test_an_interrupted_request_is_dropped_and_the_next_gets_its_own_answer():
    with WorkerSupervisor(make_spec()) as pair:
        pair.wait_ready(10)
        threading.Timer(0.1, pair.interrupt).start()
        start_s = time.monotonic()
        with pytest.raises(RequestInterrupted):
            pair.request('query', {'sleep_s': 0.5}, {'a': np.zeros(1)}, timeout_s=5)
        assert time.monotonic() - start_s < 0.4
        answer = pair.request('query', {}, {'a': np.ones(1)}, timeout_s=5)
        np.testing.assert_array_equal(answer.arrays['echo'], [[1]])
        assert 0.4 < time.monotonic() - start_s < 1.5
        pair.interrupt()  # with nothing under way: no effect on what follows
        assert pair.request('query', timeout_s=5).kind == 'answer'


def test_a_restart_on_request_has_no_delay():
    seen = StatusRecorder()
    with seen.make_supervisor(make_spec(restart_delay_s=5.0)) as pair:
        pair.wait_ready(10)
        pair.restart('new checkpoint')
        seen.wait_for(
            lambda status: status.state == WorkerState.READY and status.generation == 2, 3.0
        )
        failed = seen.wait_for(lambda status: status.state == WorkerState.FAILED)
        assert 'was restarted: new checkpoint' in failed.reason


@pytest.mark.parametrize('kind', ['hang', 'deaf'])
def test_closing_ends_a_request_and_a_worker_that_does_not_listen(kind):
    pair = WorkerSupervisor(make_spec(shutdown_timeout_s=0.2))
    pair.start()
    pair.wait_ready(10)
    running = worker_pids(pair)
    closer = threading.Timer(0.2, pair.close)
    closer.start()
    with pytest.raises(WorkersNotReady):
        pair.request(kind, timeout_s=30)
    closer.join(5)
    assert not closer.is_alive() and all(has_exited(pid) for pid in running)
    assert pair.status.state == WorkerState.STOPPED


def test_stderr_is_forwarded_by_line_and_its_tail_is_bounded():
    seen = StatusRecorder()
    with seen.make_supervisor(make_spec()) as pair:
        pair.wait_ready(10)
        for text in ['a\nb\u20ac', 'x' * 200_000, 'end']:
            pair.request('say', {'text': text}, timeout_s=5)
        for number in range(100):
            pair.request('say', {'text': f'line {number}'}, timeout_s=5)
        with pytest.raises(WorkerExited) as caught:
            pair.request('kill', {'rank': 1}, timeout_s=5)
    of_rank_0 = [text for rank, text in seen.lines if rank == 0]
    assert of_rank_0[:2] == ['a', 'b\u20ac'] and of_rank_0[2].startswith('xxx')
    assert all(len(text) <= 2000 for text in of_rank_0)
    tail = caught.value.worker_exit.stderr_tail
    assert tail[-1] == 'line 99' and len(tail) == 30


def test_a_listener_that_raises_does_not_harm_the_workers():
    def broken(rank: int, line: str) -> None:
        raise RuntimeError('listener')

    with WorkerSupervisor(make_spec(), broken) as pair:
        pair.wait_ready(10)
        for _ in range(3):
            pair.request('say', {'text': 'x' * 100_000}, timeout_s=5)
        assert pair.status.state == WorkerState.READY


def test_no_descriptor_is_left_open_by_restarts():
    with WorkerSupervisor(make_spec()) as pair:
        pair.wait_ready(10)
        before = len(os.listdir('/proc/self/fd'))
        for generation in range(2, 5):
            pair.restart('again')
            while pair.status.generation < generation:
                time.sleep(0.01)
            pair.wait_ready(10)
        assert len(os.listdir('/proc/self/fd')) == before


def test_children_die_with_a_parent_that_is_killed():
    parent = subprocess.Popen(
        [
            sys.executable,
            '-c',
            textwrap.dedent(f"""
        import time
        from wam_policy.workers.supervisor import WorkerSpec, WorkerSupervisor
        pair = WorkerSupervisor(WorkerSpec(('cpu', 'cpu'), program={FAKE_WORKER!r}))
        pair.start()
        print(pair.wait_ready(10).state, *[p.pid for p in pair._group._processes], flush=True)
        time.sleep(60)
    """),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=make_worker_environment({}),
    )
    state, *children = parent.stdout.readline().split()
    assert state == 'ready'
    parent.kill()
    parent.wait()
    end_s = time.monotonic() + 3
    while not all(has_exited(int(pid)) for pid in children) and time.monotonic() < end_s:
        time.sleep(0.01)
    assert all(has_exited(int(pid)) for pid in children)


def test_the_delay_doubles_to_a_limit_and_forgets_after_a_healthy_minute():
    backoff = Backoff(0.5, 10.0, 60.0)
    assert [backoff.next_delay_s(1.0) for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]
    assert backoff.next_delay_s(59.9) == 10
    assert backoff.next_delay_s(60.0) == 0.5
    assert backoff.next_delay_s(0.0) == 1.0
    with pytest.raises(ValueError, match='0 <= first <= last'):
        Backoff(2.0, 1.0)
