"""A joystick as dead-man switch and e-stop: its buttons, and how long ago it was heard.

Unlike the topic `deadman`, on which motion waits and goes on, a button that is let go disables:
nothing moves again until somebody enables, with the button held.
"""

from collections.abc import Sequence

from wam_policy.core.motion.trajectory import NS_PER_S

NO_BUTTON = -1


class JoystickDeadman:
    """Know whether the buttons of a joystick allow motion; without buttons they always do."""

    def __init__(self, deadman_button: int, estop_button: int, timeout_s: float) -> None:
        """Take the places of the buttons in sensor_msgs/Joy, NO_BUTTON for none.

        ValueError names what does not fit.
        """
        if deadman_button == estop_button != NO_BUTTON:
            raise ValueError(
                f'joy_deadman_button and joy_estop_button are both {estop_button}: choose two'
            )
        if timeout_s <= 0.0:
            raise ValueError(
                f'joy_timeout_s: want more than 0 s, or -1.0 for the lease of the robot, got '
                f'{timeout_s:g}'
            )
        self._deadman_button, self._estop_button = deadman_button, estop_button
        self._timeout_s = timeout_s
        self._received_ns: int | None = None
        self._is_held = self._is_estop_pressed = False
        self._was_released = False  # since it is heard: a button that sticks never is
        self._flaw = ''  # of the last message

    @property
    def is_used(self) -> bool:
        return max(self._deadman_button, self._estop_button) != NO_BUTTON

    @property
    def needs_holding(self) -> bool:
        return self._deadman_button != NO_BUTTON

    @property
    def is_estop_pressed(self) -> bool:
        return self._is_estop_pressed

    def on_buttons(self, buttons: Sequence[int], now_ns: int) -> None:
        """Take the buttons of a message, 1 where pressed; `now_ns` is of a clock without jumps."""
        if self._is_lost(now_ns):
            self._was_released = False
        places = {
            'joy_deadman_button': self._deadman_button,
            'joy_estop_button': self._estop_button,
        }
        missing = [f'{name} is {at}' for name, at in places.items() if at >= len(buttons)]
        self._received_ns, self._flaw = now_ns, ''
        if missing:
            self._flaw = (
                f'{", ".join(missing)}, but the joystick has {len(buttons)} buttons, counted '
                'from 0: correct the parameter'
            )
        self._is_held = not missing and self.needs_holding and buttons[self._deadman_button] == 1
        self._was_released |= not missing and not self._is_held
        if 0 <= self._estop_button < len(buttons):
            self._is_estop_pressed = buttons[self._estop_button] != 0

    def check(self, now_ns: int) -> str | None:
        """Return why nothing may move."""
        if not self.is_used:
            return None
        if self._received_ns is None:
            return 'no message of the joystick: start joy_node and remap its topic to joy'
        if self._is_lost(now_ns):
            return f'no message of the joystick for more than {self._timeout_s:g} s'
        if self._flaw:
            return self._flaw
        if self._is_estop_pressed:
            return f'e-stop button {self._estop_button} of the joystick is pressed: release it'
        if not self.needs_holding or (self._is_held and self._was_released):
            return None
        button = f'dead-man button {self._deadman_button} of the joystick'
        if self._is_held:
            return f'{button} has been held since its first message: release it and press it again'
        return f'{button} is not held'

    def _is_lost(self, now_ns: int) -> bool:
        return self._received_ns is None or now_ns - self._received_ns > self._timeout_s * NS_PER_S
