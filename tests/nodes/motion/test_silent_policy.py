"""Chunks of another program are refused while the policy pauses, but not its next session."""

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_msgs.msg import PolicyStatus
from wam_policy.nodes.motion import silent_policy
from wam_policy.nodes.motion.silent_policy import SilentPolicy

pytestmark = pytest.mark.ros
STALE = {
    'state': PolicyStatus.STALE_OBSERVATION,
    'state_name': 'STALE_OBSERVATION',
    'instruction': 'pick up the red cube',
}
IDLE = {'state': PolicyStatus.IDLE, 'state_name': 'IDLE', 'session': 'ours'}
RUNNING = {'state': PolicyStatus.RUNNING, 'state_name': 'RUNNING'}


def make_policy(*statuses):
    policy = SilentPolicy()
    for status in statuses:
        policy.on_status(PolicyStatus(**status))
    return policy


def test_another_session_is_refused_once_a_later_status_still_names_the_first():
    policy = make_policy(STALE | {'session': 'ours'})
    assert policy.check('rival') is None  # may be our next session
    policy.on_status(PolicyStatus(**STALE, session='ours'))
    assert policy.check('rival') == (
        'two policies publish chunks, only one may: rival, while the policy is STALE_OBSERVATION '
        'in ours'
    )
    assert policy.check('ours') is None


def test_the_next_session_is_followed_from_its_first_chunk():
    policy = make_policy(STALE | {'session': 'ours'})
    assert policy.check('next') is None
    policy.on_status(PolicyStatus(**RUNNING, session='next'))
    assert policy.check('next') is None
    policy.on_status(PolicyStatus(**STALE, session='next'))
    assert policy.check('next') is None


@pytest.mark.parametrize('status', [RUNNING | {'session': 'ours'}, STALE, IDLE])
def test_a_policy_that_runs_or_has_no_session_or_instruction_refuses_nothing(status):
    policy = make_policy(status)
    for _ in range(3):
        assert policy.check('rival') is None
        policy.on_status(PolicyStatus(**status))


def test_a_policy_that_is_gone_refuses_nothing(monkeypatch):
    policy = make_policy(STALE | {'session': 'ours'})
    policy.check('rival')
    policy.on_status(PolicyStatus(**STALE, session='ours'))
    assert policy.check('rival')
    monkeypatch.setattr(silent_policy, 'GONE_S', 0.0)
    assert policy.check('rival') is None
