"""Notice chunks of another program while a policy with an instruction publishes none."""

import time

from wam_msgs.msg import PolicyStatus

GONE_S = 2.5  # without a status, of which one comes every second


class SilentPolicy:
    """Compare the session of chunks with that of a policy that has an instruction and pauses.

    Two that publish at the same time are seen by the chunk validator. A policy whose camera is
    late publishes nothing, and then another program would be the only one. Without an instruction
    the robot is free for others, as for the move home between tasks. The first chunk of a new
    session may arrive before the status that names it: a status that comes later decides.
    """

    def __init__(self) -> None:
        self._session = self._state_name = self._other_session = ''
        self._status_s, self._is_confirmed = 0.0, False

    def on_status(self, msg: PolicyStatus) -> None:
        self._status_s, self._state_name = time.monotonic(), msg.state_name
        is_silent = msg.state != PolicyStatus.RUNNING and msg.instruction
        self._session = msg.session if is_silent else ''
        self._is_confirmed = bool(self._session and self._other_session not in ('', self._session))
        if not self._is_confirmed:
            self._other_session = ''

    def check(self, session: str) -> str | None:
        """Return why a chunk of `session` is refused, or None."""
        is_gone = time.monotonic() - self._status_s > GONE_S
        if is_gone or self._session in ('', session):
            return None
        if session != self._other_session:
            self._other_session, self._is_confirmed = session, False
        if not self._is_confirmed:
            return None
        return (
            f'two policies publish chunks, only one may: {session}, while the policy is '
            f'{self._state_name} in {self._session}'
        )
