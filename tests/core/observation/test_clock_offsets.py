"""Offsets between clocks are estimated whatever the transport does, and named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam_policy.core.motion.monitors import JointStateMonitor
from wam_policy.core.observation.clock_offsets import ClockOffsets
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.core.session.policy_session import PolicySession, SessionSettings
from wam_policy.core.types import Frame, JointState

MS, S = 1_000_000, 1_000_000_000
START_NS = 1_700_000_000 * S
ROBOT = load_embodiment('yam')


def watch(offset_ms: float, transport_ms=(20, 80), seconds: float = 3.0) -> ClockOffsets:
    """Return what is known of a 30 Hz source whose clock is `offset_ms` ahead of ours."""
    offsets, rng = ClockOffsets(), np.random.default_rng(1)
    for k in range(round(seconds * 30)):
        sent_ns = START_NS + round(k * S / 30)
        arrived_ns = sent_ns + round(rng.uniform(*transport_ms) * MS)
        offsets.update('top', sent_ns + round(offset_ms * MS), arrived_ns)
    return offsets


@given(st.floats(-500, 500))
def test_the_estimate_is_as_good_as_the_fastest_transport(offset_ms):
    delay_ms = watch(offset_ms).min_delay_ns('top') / MS
    assert 20 - offset_ms <= delay_ms <= 25 - offset_ms


@pytest.mark.parametrize(
    ('offset_ms', 'words'),
    [
        (0, ''),
        (-400, 'at least 0.42'),
        (-400, 'clock of its source is behind'),
        (300, 'in the future: the clock of its source is ahead'),
        (-START_NS / MS, 'not stamped'),
    ],
)
def test_what_is_unusual_gets_words(offset_ms, words):
    text = watch(offset_ms).describe('top')
    assert words in text and bool(text) == bool(words)


def test_a_clock_that_was_set_right_is_believed_after_ten_seconds():
    offsets = watch(-400)
    for k in range(400):
        stamp_ns = START_NS + 3 * S + round(k * S / 30)
        offsets.update('top', stamp_ns, stamp_ns + 20 * MS)
    assert offsets.describe('top') == '' and offsets.min_delay_ns('top') == 20 * MS


def test_one_delay_does_not_make_an_offset_and_a_gap_begins_anew():
    offsets = watch(0)
    offsets.update('top', START_NS + 4 * S, START_NS + 5 * S)
    assert offsets.describe('top') == ''
    offsets.update('top', START_NS + 60 * S, START_NS + 61 * S)
    assert offsets.min_delay_ns('top') == S
    offsets.reset()
    assert offsets.min_delay_ns('top') is None and offsets.describe('top') == ''


@pytest.mark.parametrize(
    ('delays_ms', 'words'),
    [
        ({'a': 20, 'b': 25, 'c': 30}, ''),
        ({'a': 20, 'b': 25, 'c': 330}, 'stamps of c are 0.305 s behind the others'),
        ({'a': -180, 'b': 25, 'c': 30}, 'stamps of a are 0.205 s ahead of the others'),
        ({'a': 900}, ''),
    ],
)
def test_sources_that_disagree_are_named(delays_ms, words):
    offsets = ClockOffsets()
    for name, delay_ms in delays_ms.items():
        offsets.update(name, START_NS, START_NS + delay_ms * MS)
    assert offsets.find_outlier(['a', 'b', 'c']) == words


@pytest.mark.parametrize(
    ('late_ms', 'words'),
    [(400, 'at least 0.400 s old on arrival'), (START_NS / MS, 'not stamped')],
)
def test_the_reason_of_motion_tells_a_wrong_clock_from_silence(late_ms, words):
    monitor = JointStateMonitor(ROBOT)
    for k in range(30):
        now = START_NS + 10 * k * MS
        state = JointState(
            now - round(late_ms * MS), ROBOT.observed, ROBOT.home_positions(ROBOT.observed)
        )
        monitor.update(state, now)
    assert words in monitor.check_age(now)
    assert words not in monitor.check_age(now + 5 * S)  # nothing came for long: it is silent


def test_the_policy_says_that_a_stale_camera_has_a_wrong_clock():
    session = PolicySession(ROBOT, SessionSettings(), 'one')
    for k in range(30):
        now = START_NS + 33 * k * MS
        for camera in ROBOT.cameras:
            late_ms = 900 if camera is ROBOT.cameras[1] else 20
            stamp_ns = now - late_ms * MS
            session.on_frame(Frame(camera.key, stamp_ns, np.zeros((2, 2, 3), np.uint8)), now)
    rejection = session.observations.latest_observation(now)
    assert rejection.source == ROBOT.cameras[1].key
    assert 'at least 0.900 s old on arrival' in rejection.reason


def test_cameras_whose_clocks_disagree_are_named_in_the_status():
    session = PolicySession(ROBOT, SessionSettings(), 'one')
    for k in range(30):
        now = START_NS + 33 * k * MS
        for camera, delay_ms in zip(ROBOT.cameras, (10, 130, 15), strict=True):
            rgb = np.zeros((2, 2, 3), np.uint8)
            session.on_frame(Frame(camera.key, now - delay_ms * MS, rgb), now)
    reason = session.get_state(now)[1]
    assert f'stamps of {ROBOT.cameras[1].key} are 0.115 s behind the others' in reason
    session.on_time_jump('time went back')
    assert 'behind' not in session.get_state(now)[1]
