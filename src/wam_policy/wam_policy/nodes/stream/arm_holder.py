"""Who holds the arms up, and when they may be let down.

Some drivers hold the arms only as long as they are open: closing one, or the end of its process,
cuts torque and the arms sag. Such a driver is closed on an explicit request, or when it cannot
hold much longer, after a period in which a warning counts down.
"""

from typing import Any

COUNTDOWN_STEP_S = 5.0


class ArmHolder:
    """Keep an adapter open until its arms are released.

    The adapter has `held_arms`, the arms that would sag if it were closed; `exhaustion`, why it
    cannot hold them much longer; `release_warning_s`; `fault`; `close`.
    """

    def __init__(self, adapter: Any, release_service: str) -> None:
        self.adapter, self._release_service = adapter, release_service
        self.is_open = True
        self.warning = ''
        self._release_s: float | None = None  # when the warning period ends
        self._next_message_s = 0.0
        self._messages: list[str] = []

    @property
    def is_holding(self) -> bool:
        """Tell whether arms would sag if the adapter were closed."""
        return self.is_open and bool(self.adapter.held_arms)

    def describe(self) -> str:
        """Return who holds what, and how to end it."""
        if not self.is_open:
            return 'nothing: released'
        if not self.adapter.held_arms:
            return 'nothing by this process'
        arms = ' and '.join(self.adapter.held_arms)
        return (
            f'{arms}: held up by this process alone, which stays until they are released; support '
            f'them, then: ros2 service call {self._release_service} std_srvs/srv/Trigger'
        )

    def describe_released(self) -> str:
        """Return that the arms were released, empty while they are not."""
        return '' if self.is_open else 'the arms were released: clean up and configure again'

    def check(self, now_s: float) -> bool:
        """Return whether the arms have to be released now; `now_s` is monotonic.

        Call it about ten times a second while the arms rest. A reason that goes away ends the
        countdown.
        """
        reason = self.adapter.exhaustion if self.is_holding else ''
        if not reason:
            if self._release_s is not None:
                self._messages.append('the arms can be held again: they are not released')
            self._release_s, self.warning = None, ''
            return False
        release_s = self._release_s
        if release_s is None:
            self._release_s = release_s = now_s + self.adapter.release_warning_s
            self._next_message_s = now_s
        left_s = max(0.0, release_s - now_s)
        self.warning = f'{reason}: SUPPORT THE ARMS, they lose torque in {left_s:.0f} s'
        if now_s >= self._next_message_s:
            self._next_message_s += COUNTDOWN_STEP_S
            self._messages.append(self.warning)
        return left_s == 0.0

    def take_messages(self) -> list[str]:
        """Return what is to be logged, each message once."""
        messages, self._messages = self._messages, []
        return messages

    def close(self) -> None:
        """Close the adapter; arms that only it held lose torque."""
        if self.is_open:
            self.is_open = False
            self._release_s, self.warning = None, ''
            self.adapter.close()
