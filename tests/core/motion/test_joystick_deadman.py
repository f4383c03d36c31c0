"""A joystick allows motion only while it is heard, its button held, and was released before."""

import pytest

from wam_policy.core.motion.joystick_deadman import NO_BUTTON, JoystickDeadman

MS = 1_000_000
RELEASED, HELD, ESTOP = (0, 0, 0, 0), (0, 0, 1, 0), (0, 1, 1, 0)


def make_joystick(deadman_button=2, estop_button=1):
    return JoystickDeadman(deadman_button, estop_button, 0.2)


def press(joystick, *messages, now_ns=0):
    """Send messages 50 ms apart, the last at `now_ns` + 50 ms each; return when it was."""
    for buttons in messages:
        now_ns += 50 * MS
        joystick.on_buttons(buttons, now_ns)
    return now_ns


def test_without_buttons_nothing_is_asked_for():
    joystick = make_joystick(NO_BUTTON, NO_BUTTON)
    assert not joystick.is_used and joystick.check(0) is None
    joystick.on_buttons((), 0)
    assert joystick.check(10**12) is None and not joystick.is_estop_pressed


def test_a_joystick_that_was_never_heard_allows_nothing():
    assert 'start joy_node' in make_joystick().check(0)


def test_a_button_allows_motion_while_it_is_held():
    joystick = make_joystick()
    now_ns = press(joystick, RELEASED, HELD)
    assert joystick.check(now_ns) is None
    now_ns = press(joystick, RELEASED, now_ns=now_ns)
    assert joystick.check(now_ns) == 'dead-man button 2 of the joystick is not held'


def test_a_button_that_was_never_seen_released_may_stick():
    joystick = make_joystick()
    now_ns = press(joystick, HELD, HELD)
    assert 'release it and press it again' in joystick.check(now_ns)
    now_ns = press(joystick, RELEASED, HELD, now_ns=now_ns)
    assert joystick.check(now_ns) is None


def test_messages_that_cease_allow_nothing_and_a_held_button_must_be_released_afterwards():
    joystick = make_joystick()
    now_ns = press(joystick, RELEASED, HELD)
    assert joystick.check(now_ns + 200 * MS) is None
    assert joystick.check(now_ns + 201 * MS) == 'no message of the joystick for more than 0.2 s'
    now_ns = press(joystick, HELD, now_ns=now_ns + 500 * MS)
    assert 'release it and press it again' in joystick.check(now_ns)


def test_the_estop_button_is_told_and_allows_nothing_while_pressed():
    joystick = make_joystick()
    now_ns = press(joystick, RELEASED, HELD, ESTOP)
    assert joystick.is_estop_pressed
    assert 'e-stop button 1 of the joystick is pressed' in joystick.check(now_ns)
    now_ns = press(joystick, HELD, now_ns=now_ns)
    assert not joystick.is_estop_pressed and joystick.check(now_ns) is None


def test_an_estop_button_alone_needs_nothing_held_but_must_be_heard():
    joystick = make_joystick(deadman_button=NO_BUTTON)
    now_ns = press(joystick, RELEASED)
    assert joystick.check(now_ns) is None
    assert 'no message' in joystick.check(now_ns + 300 * MS)


@pytest.mark.parametrize('buttons', [(), (0, 0)])
def test_a_joystick_with_too_few_buttons_is_refused_with_the_parameter(buttons):
    joystick = make_joystick()
    now_ns = press(joystick, RELEASED, HELD, buttons)
    reason = joystick.check(now_ns)
    assert f'the joystick has {len(buttons)} buttons' in reason and 'is 2' in reason
    assert 'joy_deadman_button' in reason


def test_an_estop_is_heard_also_where_the_dead_man_button_is_missing():
    joystick = make_joystick()
    press(joystick, (0, 1))
    assert joystick.is_estop_pressed


@pytest.mark.parametrize(
    ('arguments', 'word'), [((1, 1, 0.2), 'both 1'), ((2, 1, 0.0), 'joy_timeout_s')]
)
def test_what_cannot_be_is_refused_with_a_sentence(arguments, word):
    with pytest.raises(ValueError, match=word):
        JoystickDeadman(*arguments)
