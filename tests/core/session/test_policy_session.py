from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.core.observation.frame_history import BlockTiming
from wam_policy.core.observation.observation_buffer import MAX_STAMPS_PER_CAMERA, FrameUsage
from wam_policy.core.robot import embodiment
from wam_policy.core.session.policy_session import (
    CacheStatus,
    Commit,
    PolicySession,
    PolicyState,
    Query,
    QueryResult,
    Reset,
    SessionSettings,
    WorkerAvailability,
)
from wam_policy.core.statistics import compute_publish_stages_ms, compute_query_stages_ms
from wam_policy.core.types import Frame, JointState

MS = 1_000_000
GRID = BlockTiming(frames_per_block=4, frame_period_ns=200 * MS, window_blocks=3)
ROBOT = embodiment.load_embodiment('yam')
CAMERAS = [camera.key for camera in ROBOT.cameras]


class SessionHarness:
    """Play cameras at 20 Hz, joints at 100 Hz and one worker, in virtual time of 1 ms steps."""

    def __init__(self, query_ms=60, commit_ms=30, ready=True, **chosen):
        self.policy = PolicySession(ROBOT, SessionSettings(**chosen), session_prefix='t')
        self.now_ms, self.busy_until_ms, self.request = 0, 0, None
        self.stopped_cameras, self.requests, self.chunks = set(), [], []
        self.durations_ms = {Reset: 5, Commit: commit_ms, Query: query_ms}
        self.targets = np.zeros((24, 14))
        if ready:
            self.policy.on_workers_ready(GRID)

    def run(self, ms):
        for _ in range(ms):
            now = self.now_ms = self.now_ms + 1
            if now % 10 == 0:
                self.policy.on_joints(JointState(now * MS, ROBOT.observed, np.zeros(14)), now * MS)
            if now % 50 == 0:
                for camera in set(CAMERAS) - self.stopped_cameras:
                    self.policy.on_frame(
                        Frame(camera, now * MS, np.zeros((2, 2, 3), np.uint8)), now * MS
                    )
            if self.request and now >= self.busy_until_ms:
                self.finish_request()
            if not self.request:
                self.start_request()

    def start_request(self):
        self.request = self.policy.next_request(self.now_ms * MS)
        if self.request:
            self.requests.append((self.now_ms, self.request))
            self.busy_until_ms = self.now_ms + self.durations_ms[type(self.request)]

    def finish_request(self):
        request, self.request = self.request, None
        if isinstance(request, Reset):
            self.policy.on_reset_done(request)
        elif isinstance(request, Commit):
            self.policy.on_commit_done(request, CacheStatus(blocks=request.number + 1))
        else:
            chunk = self.policy.on_query_result(
                request, QueryResult(1 / 30, self.targets, np.zeros(14), {}), self.now_ms * MS
            )
            if chunk:
                self.chunks.append(chunk)
                self.policy.on_published(chunk, self.now_ms * MS, self.now_ms * MS)

    def requests_of(self, kind):
        return [(ms, request) for ms, request in self.requests if isinstance(request, kind)]

    def get_state(self):
        return self.policy.get_state(self.now_ms * MS)


def start_running(**more):
    stage = SessionHarness(**more)
    stage.policy.on_instruction('lift the cup')
    stage.run(3000)
    assert stage.get_state() == (PolicyState.RUNNING, '')
    return stage


def test_it_waits_for_workers_instruction_and_senses_in_turn():
    stage = SessionHarness(ready=False)
    assert stage.get_state() == (PolicyState.STARTING, 'workers are starting')
    stage.policy.on_workers_ready(GRID)
    assert stage.get_state()[0] is PolicyState.IDLE
    stage.policy.on_instruction('lift the cup')
    stage.stopped_cameras = set(CAMERAS)
    stage.run(100)
    state, reason = stage.get_state()
    assert state is PolicyState.WAITING_OBSERVATION and CAMERAS[0] in reason
    assert [type(request) for _, request in stage.requests] == [Reset]
    stage.stopped_cameras = set()
    stage.run(500)
    assert stage.get_state()[0] is PolicyState.RUNNING and stage.chunks


def test_queries_run_free_below_their_rate_and_commits_follow_real_time():
    stage = start_running()
    gaps = np.diff([ms for ms, _ in stage.requests_of(Query)])
    assert gaps.min() >= 100 and np.median(gaps) <= 150
    commits = [request for _, request in stage.requests_of(Commit)]
    assert [c.number for c in commits] == [0, 1, 2, 3]
    assert [len(c.block.stamps_ns) for c in commits] == [1, 4, 4, 4]
    assert stage.policy.counters.commits == 4 and stage.policy.counters.rebuilds == 0
    assert [c.sequence for c in stage.chunks] == sorted({c.sequence for c in stage.chunks})
    assert all(c.session == stage.policy.session for c in stage.chunks)


@pytest.mark.parametrize(('query_ms', 'commit_ms'), [(60, 90), (250, 90), (250, 400)])
def test_commit_and_query_take_turns_when_both_wait(query_ms, commit_ms):
    stage = SessionHarness(query_ms, commit_ms)
    stage.policy.on_instruction('lift the cup')
    stage.run(8000)
    order = [type(request) for _, request in stage.requests[2:]]
    assert not any(a is b is Commit for a, b in pairwise(order))
    assert stage.policy.counters.commits >= 9
    assert len(stage.requests_of(Query)) >= 0.6 * 8000 / (max(query_ms, 100) + commit_ms)


def test_a_new_instruction_drops_the_chunk_in_flight_and_starts_from_an_empty_memory():
    stage = start_running()
    while not isinstance(stage.request, Query):
        stage.run(1)
    old, chunks = stage.policy.session, len(stage.chunks)
    stage.policy.on_instruction('open the drawer')
    stage.requests.clear()
    stage.run(700)
    assert stage.policy.counters.dropped_chunks == 1
    assert {c.session for c in stage.chunks[chunks:]} == {stage.policy.session} != {old}
    assert stage.requests[0][1] == Reset(stage.policy.session, 'open the drawer')
    assert [type(r) for _, r in stage.requests[:3]] == [Reset, Commit, Query]
    assert stage.requests[1][1].number == 0


def test_the_same_words_again_change_nothing_but_a_run_of_them_starts_anew():
    stage = start_running()
    session = stage.policy.session
    stage.policy.on_instruction('lift the cup')
    assert stage.policy.session == session
    assert stage.policy.start_instruction('lift  the cup') == 2
    assert stage.policy.session != session


def test_a_run_needs_words():
    with pytest.raises(ValueError, match='the instruction is empty'):
        start_running().policy.start_instruction(' \n')


def test_a_text_that_is_too_long_changes_nothing_and_is_explained_until_a_better_one_comes():
    stage = start_running()
    session = stage.policy.session
    stage.policy.on_instruction('x' * 401)
    assert stage.policy.session == session and stage.policy.instruction == 'lift the cup'
    state, reason = stage.get_state()
    assert state is PolicyState.RUNNING
    assert '401 characters, limit 400' in reason and 'the previous one is kept' in reason
    stage.policy.on_instruction('lift the cup')
    assert stage.get_state() == (PolicyState.RUNNING, '')


def test_queries_that_read_no_picture_follow_the_posture():
    stage = start_running(latest_joint_state=True)
    for ms, query in stage.requests_of(Query):
        assert ms * MS - query.observation.stamp_ns < 10 * MS
        assert query.observation.joints.stamp_ns == query.observation.stamp_ns
        assert all(f.stamp_ns <= query.observation.stamp_ns for f in query.observation.frames)
    gaps = np.diff([ms for ms, _ in stage.requests_of(Query)])
    assert np.median(gaps) <= 110


def test_the_query_rate_can_be_changed_on_the_way():
    stage = start_running()
    stage.policy.set_query_period(500 * MS)
    stage.requests.clear()
    stage.run(3000)
    assert np.diff([ms for ms, _ in stage.requests_of(Query)]).min() >= 500


def test_one_query_per_commit_where_the_released_server_is_followed():
    stage = SessionHarness(query_per_commit=True)
    stage.policy.on_instruction('lift the cup')
    stage.run(4000)
    kinds = [type(request) for _, request in stage.requests[1:]]
    assert kinds[:8] == [Commit, Query] * 4


def test_latency_tells_where_the_time_went_and_leaves_the_first_answer_out():
    stage = start_running()
    p50 = stage.policy.latencies.percentiles_ms(50)[0]
    assert set(p50) == {'image_transport', 'queue', 'transport', 'publish', 'total'}
    assert p50['transport'] == 60 and p50['image_transport'] == 0
    assert p50['total'] == pytest.approx(p50['queue'] + p50['transport'], abs=50)
    assert 6.5 < stage.policy.chunk_rate.hz(stage.now_ms * MS) <= 10
    stage.policy.on_workers_ready(GRID)
    stage.durations_ms[Query] = 700
    stage.run(1000)
    assert stage.policy.latencies.percentiles_ms(100)[0]['transport'] == 60


def test_an_empty_instruction_stops_all_requests():
    stage = start_running()
    stage.policy.on_instruction('')
    stage.run(100)
    stage.requests.clear()
    stage.run(500)
    assert not stage.requests and stage.get_state() == (
        PolicyState.HOLDING,
        'the instruction is empty',
    )


def test_a_flood_of_instructions_costs_one_session_per_request_and_ends_well():
    stage = start_running()
    stage.requests.clear()
    for i in range(1000):
        stage.policy.on_instruction(f'task {i}')
        stage.run(1)
    assert len(stage.requests_of(Reset)) < 250 and not stage.requests_of(Query)
    stage.run(500)
    assert stage.get_state()[0] is PolicyState.RUNNING
    assert stage.chunks[-1].session == stage.policy.session


def test_a_dark_camera_stops_queries_says_so_and_resumes_by_itself():
    stage = start_running()
    stage.stopped_cameras = {CAMERAS[1]}
    stage.run(300)
    stage.requests.clear()
    stage.run(1000)
    state, reason = stage.get_state()
    assert state is PolicyState.STALE_OBSERVATION
    assert CAMERAS[1] in reason and 'limit 0.2 s' in reason
    assert not stage.requests_of(Query)
    session, stage.stopped_cameras = stage.policy.session, set()
    stage.run(500)
    assert stage.get_state()[0] is PolicyState.RUNNING and stage.policy.session == session


def test_a_long_gap_begins_a_new_memory_in_a_new_session():
    stage = start_running()
    session, stage.stopped_cameras = stage.policy.session, {CAMERAS[0]}
    stage.run(4000)
    stage.stopped_cameras = set()
    stage.requests.clear()
    stage.run(2000)
    assert stage.get_state()[0] is PolicyState.RUNNING and stage.policy.session != session
    assert [c.number for _, c in stage.requests_of(Commit)] == [0, 1, 2]
    assert stage.policy.counters.rebuilds == 1


def test_dead_workers_hold_and_their_successors_get_the_real_past_before_any_query():
    stage = start_running()
    while not isinstance(stage.request, Query):
        stage.run(1)
    stage.request, session = None, stage.policy.session
    stage.policy.on_workers_unavailable(
        WorkerAvailability.DOWN, 'worker cond (rank 0) was killed by SIGKILL'
    )
    assert stage.get_state() == (PolicyState.HOLDING, 'worker cond (rank 0) was killed by SIGKILL')
    stage.requests.clear()
    stage.run(5000)
    assert not stage.requests
    commits, down_ms = stage.policy.counters.commits, stage.now_ms
    stage.policy.on_workers_ready(GRID)
    stage.run(700)
    kinds = [type(request) for _, request in stage.requests]
    assert kinds[:5] == [Reset, Commit, Commit, Commit, Commit] and Query in kinds[5:7]
    blocks = [request.block for _, request in stage.requests_of(Commit)]
    assert [request.number for _, request in stage.requests_of(Commit)][:4] == [0, 1, 2, 3]
    stamps = [stamp for block in blocks for stamp in block.stamps_ns]
    assert set(np.diff(stamps)) == {200 * MS}
    assert down_ms * MS - blocks[3].stamps_ns[-1] < 800 * MS
    assert stage.policy.counters.rebuilds == 1 and stage.policy.session != session
    # every block is counted once, however often it was sent
    assert stage.policy.counters.commits - commits >= 3
    assert stage.get_state()[0] is PolicyState.RUNNING


def test_workers_that_stay_down_are_an_error():
    stage = start_running()
    stage.policy.on_workers_unavailable(WorkerAvailability.FAILED, 'no checkpoint at /nowhere')
    assert stage.policy.permanent_failure == 'no checkpoint at /nowhere'
    assert stage.get_state() == (PolicyState.ERROR, 'no checkpoint at /nowhere')


def test_a_refused_request_is_tried_again_later_with_the_past_replayed():
    stage = start_running()
    while not isinstance(stage.request, Query):
        stage.run(1)
    stage.request = None
    stage.policy.on_request_failed('out of memory', (stage.now_ms + 1000) * MS)
    assert stage.policy.permanent_failure == ''  # another try may succeed
    stage.requests.clear()
    stage.run(900)
    assert not stage.requests and stage.get_state() == (PolicyState.ERROR, 'out of memory')
    stage.run(600)
    assert stage.get_state()[0] is PolicyState.RUNNING and stage.policy.counters.rebuilds == 1


@pytest.mark.parametrize(
    ('targets', 'fault'),
    [
        (np.full((24, 14), np.nan), 'NaN or infinity'),
        (np.full((24, 14), np.inf), 'NaN or infinity'),
        (np.zeros((24, 13)), 'do not match'),
        (np.zeros((0, 14)), 'do not match'),
        (np.zeros(14), 'do not match'),
    ],
)
def test_an_answer_that_must_not_move_anything_is_dropped_counted_and_explained(targets, fault):
    stage = start_running()
    chunks = len(stage.chunks)
    stage.targets = targets
    stage.run(500)
    assert len(stage.chunks) == chunks and stage.policy.counters.dropped_chunks >= 3
    assert fault in stage.get_state()[1]
    stage.targets = np.zeros((24, 14))
    stage.run(500)
    assert stage.get_state() == (PolicyState.RUNNING, '')


def test_an_answer_whose_rows_are_all_past_is_dropped():
    stage = SessionHarness(query_ms=900)
    stage.policy.on_instruction('lift the cup')
    stage.run(3000)
    assert not stage.chunks and stage.policy.counters.dropped_chunks == 3
    assert 'its last row was due before it arrived' in stage.get_state()[1]


def test_a_clock_set_back_drops_the_past_and_begins_a_new_session():
    stage = start_running()
    session = stage.policy.session
    stage.policy.on_time_jump('time went back by 2 s')
    assert stage.get_state()[0] is PolicyState.WAITING_OBSERVATION
    stage.now_ms, stage.busy_until_ms = 0, 0
    stage.run(1500)
    assert stage.get_state()[0] is PolicyState.RUNNING and stage.policy.session != session


def test_workers_slower_than_real_time_begin_anew_and_still_answer():
    stage = SessionHarness(commit_ms=1200)
    stage.policy.on_instruction('lift the cup')
    stage.run(20_000)
    assert stage.policy.counters.rebuilds >= 1 and len(stage.chunks) >= 8
    numbers = [c.number for _, c in stage.requests_of(Commit)]
    assert numbers.count(0) >= 2


def test_frames_that_nobody_looked_at_are_counted():
    stage = start_running()
    received = sum(ring.received for ring in stage.policy.observations.camera_buffers.values())
    picked = {
        (f.camera, f.stamp_ns) for _, q in stage.requests_of(Query) for f in q.observation.frames
    }
    picked |= {
        (f.camera, f.stamp_ns)
        for _, c in stage.requests_of(Commit)
        for frames in c.block.views.values()
        for f in frames
    }
    assert stage.policy.dropped_frames == received - len(picked) > 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(['words', 'stop', 'down', 'up', 'dark', 'light', 'jump', 'refuse']),
            st.integers(1, 900),
        ),
        max_size=12,
    )
)
def test_whatever_happens_chunks_belong_to_their_session_and_memory_is_gapless(events):
    stage = SessionHarness()
    for i, (event, ms) in enumerate(events):
        policy = stage.policy
        if event in ('words', 'stop'):
            policy.on_instruction(f'task {i}' if event == 'words' else '')
        elif event in ('down', 'up'):
            stage.request = None
            policy.on_workers_unavailable(
                WorkerAvailability.DOWN, 'gone'
            ) if event == 'down' else policy.on_workers_ready(GRID)
        elif event in ('dark', 'light'):
            stage.stopped_cameras = {CAMERAS[2]} if event == 'dark' else set()
        elif event == 'jump':
            policy.on_time_jump('jump')
        elif stage.request:
            stage.request = None
            policy.on_request_failed('refused', (stage.now_ms + 50) * MS)
        stage.run(ms)
    sessions = [request.session for _, request in stage.requests]
    assert sessions == sorted(sessions, key=lambda s: int(s.split('-')[1]))
    for session in set(sessions):
        mine = [request for _, request in stage.requests if request.session == session]
        assert isinstance(mine[0], Reset) and sum(isinstance(r, Reset) for r in mine) == 1
        commits = [request for request in mine if isinstance(request, Commit)]
        assert [c.number for c in commits] == list(range(len(commits)))
        stamps = [stamp for c in commits for stamp in c.block.stamps_ns]
        assert set(np.diff(stamps)) <= {200 * MS}
        assert not mine[1:] or isinstance(mine[1], Commit)


def make_frame(stamp_ns, camera='head'):
    return Frame(camera, stamp_ns, np.zeros((1, 1, 3), np.uint8))


def test_each_frame_counts_once_per_camera():
    usage = FrameUsage()
    usage.add([make_frame(1), make_frame(2), make_frame(1)])
    usage.add([make_frame(1), make_frame(1, 'hand')])
    assert usage.used == 3


def test_the_memory_of_frame_usage_is_bounded():
    usage = FrameUsage()
    usage.add(make_frame(i) for i in range(MAX_STAMPS_PER_CAMERA + 10))
    assert usage.used == MAX_STAMPS_PER_CAMERA + 10
    assert sum(map(len, usage._stamps_ns.values())) == MAX_STAMPS_PER_CAMERA


STEP = st.integers(0, 10**9)


@given(STEP, STEP, STEP, STEP, STEP)
def test_stages_add_up_to_the_total(start, receive, wait, answer, publish):
    arrived, asked = start + receive, start + receive + wait
    answered = asked + answer
    stages = compute_query_stages_ms(start, arrived, asked, answered, {'denoise': answer / 2e6})
    last = compute_publish_stages_ms(start, answered, answered + publish)
    assert sum(stages.values()) + last['publish'] == pytest.approx(last['total'])
    assert min(stages.values()) >= 0.0


def test_workers_that_claim_more_than_the_round_trip_leave_no_negative_transport():
    assert compute_query_stages_ms(0, 0, 0, 1_000_000, {'denoise': 2.0})['transport'] == 0.0


@pytest.mark.parametrize('latest_joint_state', [True, False])
def test_predicted_video_begins_after_the_frames_that_the_query_read(latest_joint_state):
    """Queries that read the memory predict what follows it, whenever they are sent."""
    stage = start_running(latest_joint_state=latest_joint_state)
    _, query = stage.requests_of(Query)[-1]
    committed = [commit for _, commit in stage.requests_of(Commit)][-1].block.stamps_ns[-1]
    wanted = committed if latest_joint_state else query.observation.stamp_ns
    assert stage.policy.predicted_from_ns(query) == wanted
    assert query.observation.stamp_ns > committed


def test_the_usual_imagination_error_starts_again_with_the_workers():
    stage = start_running()
    commit = stage.requests_of(Commit)[-1][1]
    for _ in range(10):
        stage.policy.on_commit_done(commit, CacheStatus(imagination_error=0.4))
    assert stage.policy.imagination_range.bounds == pytest.approx((0.4, 0.4))
    stage.policy.on_commit_done(commit, CacheStatus(imagination_error=None))
    assert stage.policy.cache_status.imagination_error is None
    stage.policy.on_workers_ready(GRID)
    assert stage.policy.imagination_range.bounds is None


def start_following(**more):
    """Return a session of a server that learns what was executed of a chunk of 0.8 s."""
    stage = SessionHarness(ready=False, **more)
    timing = BlockTiming(24, round(1e9 / 30), 1, follows_chunks=True)
    stage.policy.on_workers_ready(timing, query_per_commit=True)
    stage.policy.on_instruction('lift the cup')
    return stage


def test_a_block_is_what_was_executed_of_a_chunk():
    # the answer takes longer than its rows: the robot rests meanwhile, and executes all of them
    stage = start_following(query_ms=1500)
    stage.run(8000)
    assert stage.get_state() == (PolicyState.RUNNING, '')
    kinds = [type(request) for _, request in stage.requests]
    assert kinds[:7] == [Reset, Commit, Query, Commit, Query, Commit, Query]
    queries, commits = stage.requests_of(Query), stage.requests_of(Commit)
    for (query_ms, _), chunk, (commit_ms, commit) in zip(
        queries, stage.chunks, commits[1:], strict=False
    ):
        assert chunk.stamp_ns == (query_ms + 1500) * MS  # not that of its observation
        after_rows = [chunk.stamp_ns + round((i + 1) / 30 * 1e9) for i in range(24)]
        assert np.abs(np.subtract(commit.block.stamps_ns, after_rows)).max() <= 24
        assert len(commit.block.views[CAMERAS[0]]) == 24
        assert commit.block.stack_joints().shape == (24, 14)
        assert after_rows[-1] <= commit_ms * MS <= after_rows[-1] + 100 * MS
    assert commits[0][1].block.stack_joints().shape == (1, 14)
    assert stage.policy.latencies.percentiles_ms(50)[0]['total'] >= 1500


def test_after_a_failure_a_server_of_executed_chunks_starts_with_a_new_image():
    stage = start_following()
    stage.run(3000)
    newest = stage.requests_of(Commit)[-1][1]
    assert newest.number > 1
    first = len(stage.requests)
    stage.policy.on_request_failed('lost', (stage.now_ms + 200) * MS)
    stage.request = None
    stage.run(2000)
    reset, commit, query, *_ = [request for _, request in stage.requests[first:]]
    assert isinstance(reset, Reset) and isinstance(query, Query)
    assert commit.number == 0 and len(commit.block.stamps_ns) == 1
    assert commit.block.stamps_ns[0] > newest.block.stamps_ns[-1]
    assert stage.get_state()[0] is PolicyState.RUNNING


def test_an_answer_that_took_too_long_at_rest_starts_a_new_session():
    stage = start_following(query_ms=11_000)
    stage.run(12_000)
    assert 'its observation is 11.0 s old' in stage.get_state()[1]
    assert not stage.chunks and len(stage.requests_of(Reset)) == 2
