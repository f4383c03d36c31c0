"""Notice in motion_status every stop that takes the instruction away."""

from wam_msgs.msg import MotionStatus

LATCHED_STATES = (MotionStatus.ESTOPPED, MotionStatus.PROTECTIVE_STOP)


class StopDetector:
    """Compare one status with the one before: a short stop may lie between two of them."""

    def __init__(self) -> None:
        self.is_latched = False  # in the newest status
        self._stops: int | None = None  # None: motion_node has not been heard

    def update(self, msg: MotionStatus) -> str:
        """Return why motion stopped, as long as it is latched or once per counted stop; or ''.

        A count of 0 is that of a motion_node that has just been activated.
        """
        counted = self._stops is not None and msg.stops not in (0, self._stops)
        self._stops, self.is_latched = msg.stops, msg.state in LATCHED_STATES
        return f'motion is {msg.state_name}: {msg.reason}' if self.is_latched or counted else ''
