"""Arms that only an open driver holds: released after a countdown that can end."""

from types import SimpleNamespace

from wam_policy.nodes.stream.arm_holder import ArmHolder


def make_holder():
    adapter = SimpleNamespace(
        held_arms=('left arm',), exhaustion='', release_warning_s=12.0, closed=0
    )
    adapter.close = lambda: setattr(adapter, 'closed', adapter.closed + 1)
    return adapter, ArmHolder(adapter, '/wam/stream/release')


def test_the_countdown_warns_every_five_seconds_and_ends_in_a_release():
    adapter, holder = make_holder()
    assert not holder.check(100.0) and not holder.warning
    adapter.exhaustion = 'too hot'
    due = [holder.check(100.0 + s) for s in range(13)]
    assert due == [False] * 12 + [True]
    left = [int(message.split()[-2]) for message in holder.take_messages()]
    assert left == [12, 7, 2] and holder.take_messages() == []


def test_a_reason_that_goes_away_ends_the_countdown():
    adapter, holder = make_holder()
    adapter.exhaustion = 'too hot'
    assert not holder.check(100.0) and 'lose torque in 12 s' in holder.warning
    adapter.exhaustion = ''
    assert not holder.check(130.0) and not holder.warning
    assert holder.take_messages()[-1] == 'the arms can be held again: they are not released'
    adapter.exhaustion = 'too hot'
    assert not holder.check(131.0)  # a new countdown


def test_it_says_who_holds_what_and_closes_once():
    adapter, holder = make_holder()
    assert holder.is_holding and 'left arm: held up' in holder.describe()
    assert 'ros2 service call /wam/stream/release' in holder.describe()
    adapter.held_arms = ()  # its driver has stopped
    assert not holder.is_holding and holder.describe() == 'nothing by this process'
    holder.close()
    holder.close()
    assert adapter.closed == 1 and holder.describe_released()
