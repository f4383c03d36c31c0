"""Read the time of a node's clock cheaply, some hundred times a second.

rclpy's `Clock.now` makes three objects per reading: a fifth of what motion_node computed. Unless
simulated time is followed, ROS time is the system's clock, which Python reads by itself.
"""

import time

from rclpy.clock import Clock, ClockChange, JumpThreshold, ROSClock, TimeJump


class NodeClock:
    """Give the time of a node's clock in ns, simulated or not, also where that changes."""

    def __init__(self, clock: Clock) -> None:
        """Take a node's clock, which follows ROS time; TypeError for one that does not."""
        if not isinstance(clock, ROSClock):
            raise TypeError(f'want a clock of type ROS_TIME, got {clock.clock_type.name}')
        self._clock = clock
        self._uses_sim_time = clock.ros_time_is_active
        # registered for as long as this is kept
        self._jump_handle = clock.create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=None, on_clock_change=True),
            post_callback=self._on_clock_change,
        )

    def __call__(self) -> int:
        return self._clock.now().nanoseconds if self._uses_sim_time else time.time_ns()

    def _on_clock_change(self, jump: TimeJump) -> None:
        self._uses_sim_time = jump.clock_change in (
            ClockChange.ROS_TIME_ACTIVATED,
            ClockChange.ROS_TIME_NO_CHANGE,
        )
