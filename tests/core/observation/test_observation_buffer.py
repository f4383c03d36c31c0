import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.core.observation.observation_buffer import (
    CLOCK_JUMP_NS,
    ObservationBuffer,
    ObservationRejection,
    StampedBuffer,
)
from wam_policy.core.robot import embodiment
from wam_policy.core.types import Frame, JointState, Observation

S = 1_000_000_000
MS = 1_000_000
ROBOT = embodiment.load_embodiment('yam')
TOP, LEFT, RIGHT = (camera.key for camera in ROBOT.cameras)


def frame(stamp_ns, camera=TOP):
    return Frame(camera, stamp_ns, np.zeros((2, 2, 3), np.uint8))


def joints(stamp_ns):
    return JointState(stamp_ns, ROBOT.observed, ROBOT.home_positions(ROBOT.observed))


def views(frames_ms, joints_ms):
    seen = ObservationBuffer(ROBOT)
    for camera, stamps in frames_ms.items():
        for stamp in stamps:
            seen.camera_buffers[camera].put(frame(stamp * MS, camera))
    for stamp in joints_ms:
        seen.joint_buffer.put(joints(stamp * MS))
    return seen


@given(st.lists(st.integers(0, 5000), max_size=60), st.integers(0, 6000))
def test_as_of_is_the_newest_not_later_among_what_was_kept(stamps_ms, t_ms):
    ring = StampedBuffer(history_ns=3 * S, capacity=1000)
    kept = []
    for stamp in stamps_ms:
        if kept and kept[-1] - stamp >= CLOCK_JUMP_NS // MS:
            kept = []
        if ring.put(frame(stamp * MS)):
            kept.append(stamp)
    kept = [stamp for stamp in kept if stamp > kept[-1] - 3000]
    assert kept == sorted(set(kept)) and len(ring) == len(kept)
    expected = max((stamp for stamp in kept if stamp <= t_ms), default=None)
    picked = ring.as_of(t_ms * MS)
    assert (None if picked is None else picked.stamp_ns // MS) == expected


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40), st.integers(0, 4000))
def test_nearest_is_the_closest_of_all(stamps_ms, t_ms):
    ring = StampedBuffer(history_ns=10 * S, capacity=1000)
    for stamp in sorted(set(stamps_ms)):
        ring.put(frame(stamp * MS))
    picked = ring.nearest(t_ms * MS).stamp_ns // MS
    assert abs(picked - t_ms) == min(abs(stamp - t_ms) for stamp in stamps_ms)


def test_nothing_is_nearest_in_an_empty_buffer():
    assert StampedBuffer(S, 10).nearest(0) is None


@given(st.integers(1, 50), st.integers(1, 200))
def test_ring_is_bounded_in_number_and_seconds(capacity, count):
    ring = StampedBuffer(history_ns=S, capacity=capacity)
    for i in range(count):
        ring.put(frame(i * 20 * MS))
    assert len(ring) == min(count, capacity, 50)
    assert ring.newest.stamp_ns == (count - 1) * 20 * MS


def test_ring_counts_a_frozen_camera_and_late_frames_and_keeps_neither():
    ring = StampedBuffer(3 * S, 100)
    assert ring.put(frame(10 * S))
    assert not ring.put(frame(10 * S))
    assert not ring.put(frame(10 * S - 30 * MS))
    assert (ring.received, ring.duplicates, ring.reordered, ring.jumps) == (3, 1, 1, 0)
    assert len(ring) == 1 and ring.newest.stamp_ns == 10 * S


def test_ring_starts_over_when_the_clock_was_set_back():
    ring = StampedBuffer(3 * S, 100)
    for i in range(5):
        ring.put(frame(10 * S + i * 100 * MS))
    assert ring.put(frame(2 * S))
    assert ring.jumps == 1 and len(ring) == 1
    assert ring.as_of(10 * S).stamp_ns == 2 * S


def test_rate_decays_when_a_camera_stops():
    ring = StampedBuffer(3 * S, 1000)
    for i in range(91):
        ring.put(frame(i * S // 30))
    assert ring.rate_hz(3 * S) == pytest.approx(30.0, abs=0.6)
    assert ring.rate_hz(4 * S) == pytest.approx(15.0, abs=0.6)
    assert ring.rate_hz(9 * S) == 0.0


def test_observation_is_what_all_saw_at_the_latest_common_instant():
    result = views(
        {TOP: [960, 1000], LEFT: [980, 1010], RIGHT: [950, 985]}, [975, 983, 995]
    ).latest_observation(1020 * MS)
    assert isinstance(result, Observation)
    assert result.stamp_ns == 985 * MS  # the right camera is the slowest
    assert [(f.camera, f.stamp_ns // MS) for f in result.frames] == [
        (TOP, 1000),  # 15 ms after, 960 is 25 ms before
        (LEFT, 980),
        (RIGHT, 985),
    ]
    assert result.joints.stamp_ns == 983 * MS  # not the newer ones


def test_nothing_yet_is_missing_and_names_the_topic():
    refusal = views({}, []).latest_observation(S)
    assert refusal == ObservationRejection(
        TOP, f'camera {TOP} (/top_camera/image_raw): nothing has arrived yet', missing=True
    )
    refusal = views({TOP: [1000], LEFT: [1000], RIGHT: [1000]}, []).latest_observation(S)
    assert refusal.source == 'joints' and refusal.missing


@pytest.mark.parametrize(
    ('late', 'now_ms', 'source', 'words'),
    [
        (None, 1099, None, None),
        (None, 1101, 'joints', 'newest is 0.101 s old, limit 0.1 s'),
        (LEFT, 1000, LEFT, '(/left_camera/image_raw): newest is 0.250 s old, limit 0.2 s'),
    ],
)
def test_age_gates_name_the_source_the_age_and_the_limit(late, now_ms, source, words):
    stamps = {camera: [1000] for camera in (TOP, LEFT, RIGHT)}
    if late:
        stamps[late] = [750]
    result = views(stamps, [i * 10 for i in range(101)]).latest_observation(now_ms * MS)
    if source is None:
        assert isinstance(result, Observation)
    else:
        assert (result.source, result.missing) == (source, False) and words in result.reason


def test_a_camera_ahead_of_the_clock_is_refused_with_the_fix():
    result = views({TOP: [4000], LEFT: [1000], RIGHT: [1000]}, [1000]).latest_observation(S)
    assert result.source == TOP and '3.000 s in the future' in result.reason
    assert 'synchronize' in result.reason


def test_frames_further_apart_than_the_rates_explain_are_used_and_counted():
    seen = views({TOP: [850, 1000], LEFT: [900], RIGHT: [870, 905]}, [890, 1000])
    result = seen.latest_observation(1000 * MS)
    assert [f.stamp_ns // MS for f in result.frames] == [850, 900, 905]
    assert seen.bridged_observations == 1  # 55 ms, limit 50 ms
    seen.latest_observation(1001 * MS)  # as the status asks, between two queries
    assert seen.bridged_observations == 1
    near = views({TOP: [850, 1000], LEFT: [900], RIGHT: [870, 895]}, [890, 1000])
    assert isinstance(near.latest_observation(1000 * MS), Observation)
    assert near.bridged_observations == 0


@settings(max_examples=40, deadline=None)
@given(
    rates_hz=st.tuples(*[st.floats(8.0, 30.0)] * 3),
    phases=st.tuples(*[st.floats(0.0, 1.0)] * 3),
    jitter=st.floats(0.0, 0.15),
    delay_ms=st.integers(0, 40),
    seed=st.integers(0, 1000),
)
def test_cameras_that_run_freely_make_an_observation_at_any_time(
    rates_hz, phases, jitter, delay_ms, seed
):
    """Cameras of any phase and of 8 to 30 Hz, delivered late, are never refused."""
    rng = np.random.default_rng(seed)
    seen, arrivals = ObservationBuffer(ROBOT), []
    for camera, rate_hz, phase in zip((TOP, LEFT, RIGHT), rates_hz, phases, strict=True):
        at = (np.arange(int(4 * rate_hz)) + phase) / rate_hz
        at += rng.uniform(-jitter, jitter, len(at)) / rate_hz
        arrivals += [(int(t * S) + delay_ms * MS, int(t * S), camera) for t in np.sort(at)]
    for i in range(400):
        seen.joint_buffer.put(joints(i * 10 * MS))
    refused = 0
    for now_ns, stamp_ns, camera in sorted(arrivals):
        seen.camera_buffers[camera].put(frame(stamp_ns, camera))
        if 1.5 * S < now_ns < 3.5 * S:
            refused += not isinstance(seen.observation_at(stamp_ns - S // 5), Observation)
            latest = seen.latest_observation(now_ns)
            refused += isinstance(latest, ObservationRejection) and latest.source != 'joints'
    assert refused == 0


def test_limits_follow_the_measured_rate_up_to_twice_the_configured_age():
    stamps = {camera: list(range(0, 2001, 125)) for camera in (TOP, LEFT, RIGHT)}
    assert isinstance(views(stamps, [2000, 2290]).latest_observation(2300 * MS), Observation)
    late = views(stamps, [2000, 2300]).latest_observation(2313 * MS)
    assert late.reason.endswith('newest is 0.313 s old, limit 0.3125 s')  # 2.5 intervals
    slow = views({c: list(range(0, 2001, 500)) for c in stamps}, [2000, 2440])
    assert 'limit 0.4 s' in slow.latest_observation(2450 * MS).reason


def test_a_posture_must_be_from_before_the_frames():
    stamps = {camera: [1000] for camera in (TOP, LEFT, RIGHT)}
    refusal = views(stamps, [1050]).latest_observation(1060 * MS)
    assert refusal.source == 'joints' and 'before the frames' in refusal.reason


def test_clear_forgets_every_sense():
    seen = views({camera: [1000] for camera in (TOP, LEFT, RIGHT)}, [1000])
    assert isinstance(seen.latest_observation(S), Observation)
    seen.clear()
    assert seen.latest_observation(S).missing


def test_any_instant_is_judged_as_the_newest_is():
    seen = views({TOP: [900, 960], LEFT: [905, 965], RIGHT: [895, 955]}, [890, 950])
    whole = seen.observation_at(930 * MS)
    assert isinstance(whole, Observation) and whole.stamp_ns == 930 * MS
    assert [f.stamp_ns // MS for f in whole.frames] == [900, 905, 955]
    assert whole.joints.stamp_ns == 890 * MS
    live = views({TOP: [900], LEFT: [890, 965], RIGHT: [895, 955]}, [890, 950])
    assert live.latest_observation(965 * MS).stamp_ns == 900 * MS
    assert live.latest_observation(965 * MS).frames == live.observation_at(900 * MS).frames


@pytest.mark.parametrize(
    ('at_ms', 'frames_ms', 'joints_ms', 'source', 'words'),
    [
        (850, {TOP: [], LEFT: [900], RIGHT: [900]}, [840], TOP, 'nearest: none'),
        (699, {TOP: [900], LEFT: [900], RIGHT: [900]}, [690], TOP, 'nearest: +0.201 s'),
        (1101, {TOP: [900], LEFT: [900], RIGHT: [900]}, [1100], TOP, 'no frame within 0.2 s'),
        (960, {TOP: [900], LEFT: [900], RIGHT: [900]}, [859], 'joints', 'within 0.1 s'),
        (960, {TOP: [960], LEFT: [750], RIGHT: [955]}, [950], LEFT, 'nearest: -0.210 s'),
    ],
)
def test_an_instant_nobody_saw_well_is_refused(at_ms, frames_ms, joints_ms, source, words):
    refusal = views(frames_ms, joints_ms).observation_at(at_ms * MS)
    assert refusal.source == source and words in refusal.reason and not refusal.missing
