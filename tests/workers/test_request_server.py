"""A worker answers every request: with data, an acknowledgment or what was wrong and its fix."""

import gc
import sys
import threading
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wam_policy.model.encoders.text_encoder import PromptTooLong
from wam_policy.model.network.cfg import CfgRole
from wam_policy.model.robot_policy import PolicyGeometry, PolicyOutput
from wam_policy.model.streaming_session import MemoryUsage
from wam_policy.workers import protocol, request_server, run_worker
from wam_policy.workers.protocol import PeerLost, WorkerMessage
from wam_policy.workers.request_server import WorkerServer

VIEW = np.zeros((1, 4, 6, 3), np.uint8)


class FakePolicy:
    """Count what is committed and do as told."""

    exchange = None  # alone

    robot = SimpleNamespace(observed=('a', 'b', 'c'), commanded=('a', 'b'))
    model = SimpleNamespace(dit=SimpleNamespace(config=SimpleNamespace(frames_per_block=1)))
    geometry = PolicyGeometry(('top', 'side'), (4, 6), 2, 0.2, 1, 5, 0.1, 4, 32)

    def __init__(self, role: CfgRole = CfgRole.BOTH) -> None:
        self.role = role
        self.needs_commit, self.streaming, self.imagination_error = False, True, None
        self.error: Exception | None = None
        self.reset_error: Exception | None = None
        self.calls: list[tuple] = []
        self.commits = 0

    @property
    def memory(self) -> MemoryUsage:
        return MemoryUsage(self.commits, 5, self.commits, 0)

    max_committed_rows = 0

    def reset(self, instruction: str, mode: str | None) -> dict[str, float]:
        if self.reset_error:
            raise self.reset_error
        self.calls.append(('reset', instruction))
        self.streaming = mode != 'released'
        self.commits = 0
        return {'text': 1.0}

    def commit(self, views) -> dict[str, float]:
        if self.error:
            raise self.error
        self.commits += 1
        self.calls.append(('commit', {name: view.shape for name, view in views.items()}))
        return {'encode': 2.0}

    def query(self, joints, seed, newest, committed) -> PolicyOutput:
        if self.error:
            raise self.error
        self.calls.append(('query', seed, None if newest is None else sorted(newest)))
        self.committed = committed
        targets = None if self.role is CfgRole.UNCOND else np.full((5, 2), float(seed))
        return PolicyOutput(targets, joints[:2], {'denoise': 3.0})

    def begin_query(self, joints, newest, committed) -> tuple:
        if self.error:
            raise self.error
        self.calls.append(('begin', None if newest is None else sorted(newest)))
        return (joints,)

    def finish_query(self, pending, sample) -> PolicyOutput:
        targets = None if self.role is CfgRole.UNCOND else np.full((5, 2), float(sample))
        return PolicyOutput(targets, pending[0][:2], {'denoise': 3.0})

    def decode_prediction(self) -> np.ndarray:
        return np.zeros((1, 4, 6, 3), np.uint8)


class ServerClient:
    """Ask a server in a thread."""

    def __init__(self, *policies: FakePolicy, collect_garbage=lambda: None) -> None:
        self.sock, far = protocol.make_socket_pair()
        self.lines: list[str] = []
        self.error: Exception | None = None
        self.server = WorkerServer(
            far, policies, {'model': 'fake'}, self.lines.append, collect_garbage
        )
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            self.server.serve()
        except (PeerLost, protocol.ProtocolError) as error:
            self.error = error

    def request(self, kind: str, arrays=None, **fields) -> WorkerMessage:
        protocol.send(self.sock, WorkerMessage(kind, {'id': 7, **fields}, arrays or {}), 5)
        answer = protocol.receive(self.sock, 5)
        assert answer.fields['id'] == 7
        return answer

    def start_session(self) -> None:
        self.request('reset', session='s', instruction='go')
        assert self.request('commit', make_frames(1), session='s', block=0).kind == 'committed'


def make_frames(count: int, prefix: str = 'frames/') -> dict[str, np.ndarray]:
    return {prefix + name: np.repeat(VIEW, count, axis=0) for name in ('top', 'side')}


def make_query(**changed) -> dict:
    return {
        'session': 's',
        'sequence': 1,
        'stamp_ns': 5,
        'seed': 3,
        'arrays': {'joints': np.arange(3.0)},
        **changed,
    }


def make_queries(*sessions, **changed) -> dict:
    queries = [
        make_query(session=session, seed=i, sequence=i + 1) for i, session in enumerate(sessions)
    ]
    arrays = {f'{i}/joints': query.pop('arrays')['joints'] for i, query in enumerate(queries)}
    return {'queries': queries, 'arrays': arrays, **changed}


def test_queries_of_several_sessions_have_answers_of_their_own(monkeypatch):
    batches = []

    def predict_batch(policies, pendings, seeds):
        batches.append(len(policies))
        return seeds

    monkeypatch.setattr(request_server.robot_policy, 'predict_batch', predict_batch)
    policies = [FakePolicy() for _ in range(3)]
    talk = ServerClient(*policies)
    for name in 'abc':
        talk.request('reset', session=name, instruction='go')
        talk.request('commit', make_frames(1), session=name, block=0)
    policies[1].error = RuntimeError('of a test')
    found = talk.request('queries', **make_queries('a', 'b', 'c', 'a', 'unknown'))
    kinds = [answer['kind'] for answer in found.fields['answers']]
    assert found.kind == 'chunks' and kinds == ['chunk', 'error', 'chunk', 'error', 'error']
    assert batches == [2] and 'of a test' in found.fields['answers'][1]['what']
    assert 'two queries of session' in found.fields['answers'][3]['what']
    np.testing.assert_array_equal(found.arrays['2/targets'], np.full((5, 2), 2.0))
    # a query that failed ended its own session only
    assert 'b' not in talk.server._sessions.names and 'a' in talk.server._sessions.names

    monkeypatch.setattr(request_server.robot_policy, 'predict_batch', lambda *given: 1 / 0)
    found = talk.request('queries', **make_queries('x', 'x', 'x', 'c'))
    assert 'division by zero' in found.fields['answers'][3]['what']


def test_committed_rows_and_delay_are_checked_and_select_the_first_row():
    talk = ServerClient(FakePolicy())
    talk.start_session()
    given = {'joints': np.arange(3.0), 'committed': np.zeros((2, 2))}
    assert talk.request('query', **make_query(delay=2, arrays=given)).fields['first_row'] == 2
    assert talk.request('query', **make_query(sequence=2)).fields['first_row'] == 0
    for word, wrong in (
        ('delay', {'delay': 5}),
        ('delay', {'delay': -1}),
        ('delay', {'delay': 1.0}),
        ('committed', {'arrays': {**given, 'committed': np.zeros((2, 3))}}),
        ('committed', {'arrays': {**given, 'committed': np.zeros((6, 2))}}),
        ('committed', {'arrays': {**given, 'committed': np.full((1, 2), np.nan)}}),
    ):
        answer = talk.request('query', **make_query(sequence=3, **wrong))
        assert answer.kind == 'error' and word in answer.fields['what']


def test_committed_rows_are_held_up_to_the_delay_by_a_model_that_was_trained_for_it():
    policy = FakePolicy()
    talk = ServerClient(policy)
    talk.start_session()
    rows = np.arange(8.0).reshape(4, 2)
    given = {'arrays': {'joints': np.arange(3.0), 'committed': rows}}
    talk.request('query', **make_query(sequence=1, **given))
    assert policy.committed is None  # it was not
    policy.max_committed_rows = 3
    for sequence, delay in ((2, 2), (3, 3)):
        talk.request('query', **make_query(sequence=sequence, delay=delay, **given))
        np.testing.assert_array_equal(policy.committed, rows[:delay])
    refused = talk.request('query', **make_query(sequence=4, **given))
    assert '4 committed rows, the model was trained to continue 3' in refused.fields['what']
    short = {'arrays': {**given['arrays'], 'committed': rows[:1]}}
    talk.request('query', **make_query(sequence=5, **short))
    np.testing.assert_array_equal(policy.committed, rows[:1])


@pytest.mark.parametrize('queries', [None, [], 'all', [1]])
def test_a_batch_that_is_no_list_of_queries_is_refused(queries):
    assert ServerClient(FakePolicy()).request('queries', queries=queries).kind == 'error'
    talk = ServerClient(FakePolicy())
    wrong = talk.request('queries', **make_queries('s', arrays={'1/joints': np.zeros(3)}))
    assert wrong.kind == 'error' and '0/... to 0/...' in wrong.fields['fix']


def test_a_whole_session():
    policy = FakePolicy()
    talk = ServerClient(policy)
    assert talk.request('hello').fields['model'] == 'fake'
    assert talk.request('reset', session='s', instruction='go').kind == 'ok'
    first = talk.request('commit', make_frames(1), session='s', block=0)
    assert (first.kind, first.fields['cached_blocks'], first.fields['commits']) == (
        'committed',
        0,
        1,
    )
    second = talk.request('commit', make_frames(2), session='s', block=1)
    assert (second.fields['cached_blocks'], second.fields['window_fill']) == (1, 0.4)
    chunk = talk.request('query', **make_query())
    assert chunk.kind == 'chunk' and chunk.arrays['targets'].shape == (5, 2)
    assert chunk.fields['timings_ms'] == {'denoise': 3.0} and chunk.fields['horizon'] == 5
    np.testing.assert_array_equal(chunk.arrays['reference'], [0, 1])
    assert talk.request('video').arrays['frames'].shape == (1, 4, 6, 3)
    protocol.send(talk.sock, WorkerMessage('stop'))
    talk.thread.join(5)
    assert not talk.thread.is_alive() and talk.error is None


def test_newest_frames_may_be_single_images():
    policy = FakePolicy()
    talk = ServerClient(policy)
    talk.start_session()
    image = {f'newest/{name}': VIEW[0] for name in ('top', 'side')}
    talk.request('query', **make_query(arrays={'joints': np.zeros(3), **image}))
    assert policy.calls[-1] == ('query', 3, ['side', 'top'])


def test_the_unconditional_branch_acknowledges():
    talk = ServerClient(FakePolicy(CfgRole.UNCOND))
    talk.start_session()
    answer = talk.request('query', **make_query())
    assert answer.kind == 'ok' and not answer.arrays
    assert talk.request('video').kind == 'ok'


@pytest.mark.parametrize(
    'kind, fields, said',
    [
        ('dance', {}, "unknown request 'dance'"),
        ('reset', {'session': 's'}, 'reset: instruction is None'),
        (
            'reset',
            {'session': 's', 'instruction': 'go', 'memory_update': 'slow'},
            "memory_update is 'slow'",
        ),
        ('commit', {'session': 'other', 'block': 1}, "session 'other' while 's' is on"),
        ('commit', {'session': 's', 'block': 3, 'arrays': make_frames(2)}, 'block 3, next is 1'),
        ('commit', {'session': 's', 'block': 1.0, 'arrays': make_frames(2)}, 'block is 1.0'),
        ('commit', {'session': 's', 'block': 1, 'arrays': make_frames(3)}, 'has 3 frames of top'),
        ('commit', {'session': 's', 'block': 1}, 'no frames/top'),
        (
            'commit',
            {'session': 's', 'block': 1, 'arrays': make_frames(2) | {'frames/side': VIEW}},
            'differ in their number',
        ),
        (
            'commit',
            {
                'session': 's',
                'block': 1,
                'arrays': make_frames(2) | {'frames/side': VIEW.astype(float)},
            },
            'is float64',
        ),
        ('query', make_query(session='old'), "session 'old' while 's' is on"),
        ('query', make_query(arrays={}), 'no joint positions: want 3'),
        ('query', make_query(arrays={'joints': np.zeros(2)}), 'no joint positions: want 3'),
        (
            'query',
            make_query(arrays={'joints': np.array([0, np.nan, 0])}),
            'no joint positions: want 3',
        ),
        ('query', make_query(sequence=-1), 'query -1 after -1'),
        ('query', make_query(seed=-1), 'seed -1'),
        ('query', make_query(seed=2**63), 'seed 9223372036854775808'),
        (
            'query',
            make_query(arrays={'joints': np.zeros(3), 'newest/top': VIEW}),
            'no newest/side',
        ),
        ('video', {}, 'no prediction'),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_done(kind, fields, said):
    policy = FakePolicy()
    talk = ServerClient(policy)
    talk.start_session()
    before = list(policy.calls)
    answer = talk.request(kind, **fields)
    assert answer.kind == 'error' and said in answer.fields['what'] and answer.fields['fix']
    assert policy.calls == before
    assert talk.request('query', **make_query()).kind == 'chunk'  # the session goes on


def test_the_released_rhythm_wants_frames_before_every_query():
    policy = FakePolicy()
    talk = ServerClient(policy)
    talk.start_session()
    policy.needs_commit = True
    assert 'one query per block' in talk.request('query', **make_query()).fields['what']
    policy.needs_commit = False
    assert talk.request('query', **make_query()).kind == 'chunk'


def test_an_instruction_that_the_model_would_not_read_to_its_end_is_refused():
    policy = FakePolicy()
    policy.reset_error = PromptTooLong('go', 70, 63, 'bytes')
    talk = ServerClient(policy)
    answer = talk.request('reset', session='s', instruction='go')
    assert answer.kind == 'error' and '70 bytes, the model reads 63' in answer.fields['what']
    assert answer.fields['fix'] == 'shorten the instruction'
    policy.reset_error = None
    talk.start_session()


def test_nothing_before_a_reset_and_no_query_before_a_commit():
    talk = ServerClient(FakePolicy())
    assert 'without a session' in talk.request('query', **make_query()).fields['what']
    talk.request('reset', session='s', instruction='go')
    assert 'before any commit' in talk.request('query', **make_query()).fields['what']


@pytest.mark.parametrize(
    'fault, said',
    [
        (
            torch.OutOfMemoryError('CUDA out of memory. Tried to'),
            'out of memory on query: CUDA out',
        ),
        (RuntimeError('shape'), 'query failed: RuntimeError: shape'),
    ],
)
def test_a_fault_ends_the_session_and_not_the_worker(fault, said):
    policy = FakePolicy()
    talk = ServerClient(policy)
    talk.start_session()
    policy.error = fault
    answer = talk.request('query', **make_query())
    assert answer.kind == 'error' and answer.fields['what'].startswith(said)
    policy.error = None
    assert 'without a session' in talk.request('query', **make_query()).fields['what']
    talk.start_session()
    assert talk.request('query', **make_query()).kind == 'chunk'


def test_a_lost_peer_and_a_broken_stream_end_the_worker():
    policy = FakePolicy()
    talk = ServerClient(policy)
    talk.start_session()
    policy.error = PeerLost('worker 1 is gone')
    protocol.send(
        talk.sock,
        WorkerMessage(
            'query',
            {k: v for k, v in make_query().items() if k != 'arrays'},
            make_query()['arrays'],
        ),
    )
    talk.thread.join(5)
    assert isinstance(talk.error, PeerLost)
    talk = ServerClient(FakePolicy())
    talk.sock.sendall(b'GET / HTTP/1.1\r\n')
    talk.thread.join(5)
    assert isinstance(talk.error, protocol.ProtocolError)


def test_the_end_of_the_other_side_ends_the_worker_in_order():
    talk = ServerClient(FakePolicy())
    talk.sock.close()
    talk.thread.join(5)
    assert not talk.thread.is_alive() and talk.error is None


def test_sessions_have_a_memory_each_and_the_one_unused_for_longest_makes_room():
    first, second = FakePolicy(), FakePolicy()
    talk = ServerClient(first, second)
    for name in ('a', 'b'):
        talk.request('reset', session=name, instruction=name)
        talk.request('commit', make_frames(1), session=name, block=0)
    assert (first.calls[0], second.calls[0]) == (('reset', 'a'), ('reset', 'b'))
    assert talk.request('query', **make_query(session='a')).kind == 'chunk'
    assert talk.request('video').fields['session'] == 'a'
    talk.request('reset', session='c', instruction='c')  # a was used after b
    assert second.calls[-1] == ('reset', 'c')
    said = talk.request('query', **make_query(session='b')).fields['what']
    assert said == "query of session 'b' while 'a', 'c' is on"
    assert talk.request('query', **make_query(session='a', sequence=2)).kind == 'chunk'
    talk.request('reset', session='a', instruction='again')  # in the memory that it has
    assert first.calls[-1] == ('reset', 'again') and second.calls[-1] == ('reset', 'c')
    assert 'no prediction' in talk.request('video').fields['what']


def test_a_fault_ends_one_session_and_its_memory_serves_the_next():
    first, second = FakePolicy(), FakePolicy()
    talk = ServerClient(first, second)
    for name in ('a', 'b'):
        talk.request('reset', session=name, instruction=name)
        talk.request('commit', make_frames(1), session=name, block=0)
    first.error = RuntimeError('shape')
    assert talk.request('query', **make_query(session='a')).kind == 'error'
    assert talk.request('query', **make_query(session='b')).kind == 'chunk'
    talk.request('reset', session='c', instruction='c')
    assert first.calls[-1] == ('reset', 'c')
    assert talk.request('query', **make_query(session='b', sequence=2)).kind == 'chunk'


def test_the_released_rhythm_brings_as_many_frames_as_it_has():
    policy = FakePolicy()
    talk = ServerClient(policy)
    talk.request('reset', session='s', instruction='go', memory_update='released')
    for block, count in enumerate((1, 4, 3)):
        assert (
            talk.request('commit', make_frames(count), session='s', block=block).kind
            == 'committed'
        )


class LeakingPolicy(FakePolicy):
    """Leave with every query what torch leaves: a tuple on the list of those to be used again."""

    def query(self, joints, seed, newest) -> PolicyOutput:
        tuple(letter for letter in 'abcd')
        return super().query(joints, seed, newest)


def test_queries_by_the_hundred_leave_nothing_behind():
    policy, freed = LeakingPolicy(), []
    talk = ServerClient(policy, collect_garbage=lambda: freed.append(gc.collect()))

    def lived(block: int, queries: int) -> int:
        for _ in range(queries):
            talk.request('query', **make_query(sequence=lived.sequence))
            lived.sequence += 1
        policy.calls.clear()
        talk.request('commit', make_frames(2), session='s', block=block)
        talk.request('hello')  # what comes after that answer is over, too
        return sys.getallocatedblocks()

    lived.sequence = 1
    talk.start_session()
    counts = [lived(block, 400) for block in range(1, 5)]
    # without clearing up one tuple per query and more; threads of other tests allocate, too
    assert min(after - before for before, after in pairwise(counts)) < 200
    assert len(freed) == 6  # once per reset and commit, never per query


def test_the_program_clears_up_and_does_not_walk_the_model_for_it(monkeypatch):
    made, done, ends = [], [], protocol.make_socket_pair()
    monkeypatch.setattr(
        run_worker,
        'gc',
        SimpleNamespace(
            collect=lambda: done.append('collect'), freeze=lambda: done.append('freeze')
        ),
    )
    monkeypatch.setattr(run_worker.protocol, 'adopt_socket', lambda fd, grace_s: ends[0])
    monkeypatch.setattr(run_worker, 'build_policy', lambda chosen: FakePolicy())
    monkeypatch.setattr(run_worker, 'warm_up', lambda policy, seed: done.append('warmed'))
    monkeypatch.setattr(
        request_server, 'build_worker_info', lambda policy, device: {'model': '', 'reason': ''}
    )
    monkeypatch.setattr(
        request_server,
        'WorkerServer',
        lambda *args: made.append(args) or SimpleNamespace(serve=lambda: made[0][-1]()),
    )
    run_worker.serve(
        run_worker.parse_settings(
            ['--checkpoint', 'preset:tiny', '--embodiment', 'yam', '--fd', '3']
        ),
        0.0,
    )
    assert done == ['warmed', 'collect', 'freeze', 'collect']
