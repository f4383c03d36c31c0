"""Task after task for a simulated robot: the next scene once one is done or takes too long."""

from dataclasses import dataclass

from std_srvs.srv import Trigger

from wam_policy.ros.monitor import Monitor

LIMIT_S = 10.0              # for one task, from the first chunk that follows it


@dataclass(frozen=True, slots=True)
class Score:
    """Count tasks that came to an end, one way or the other."""

    tried: int = 0
    done: int = 0

    def __str__(self) -> str:
        return f'{self.done} of {self.tried} tasks done'


class Rounds:
    """Advance a running stack from scene to scene; call `advance` about once a second."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._reset = monitor.create_client(Trigger, '/sim/reset')
        self._since_s: float | None = None      # when the policy began to follow this task
        self._left: int | None = None           # episode that is over; the next is not there yet
        self.score = Score()

    def advance(self, now_s: float) -> None:
        """Say what the scene asks for; end it when it is done or its time is over."""
        monitor, sim = self._monitor, self._monitor.sim
        if sim is None or sim.episode == self._left:
            return
        self._left = None
        following = monitor.policy is not None and monitor.policy.instruction == sim.instruction
        if not following:
            self._since_s = None
            monitor.say(sim.instruction)
            return
        if self._since_s is None and monitor.state == 'RUNNING':
            self._since_s = now_s
        done = bool(sim.goals_reached and sim.goals_reached[0])
        if self._since_s is not None and (done or now_s - self._since_s > LIMIT_S):
            self.score = Score(self.score.tried + 1, self.score.done + done)
            self._left = sim.episode
            # the same words may come again: without silence they would not be heard as new
            monitor.hush()
            self._reset.call_async(Trigger.Request())
