"""Task after task for a simulated robot: the next scene once one is done or takes too long.

Between two tasks the arms go home, as in an evaluation: hands that still stand where the last
task ended hide the next scene's cubes.
"""

import threading
from dataclasses import dataclass

from wam_tools.sim_operator import Stage, Trouble
from wam_tools.stack_monitor import Monitor

LIMIT_S = 10.0  # for one task, from the first chunk that follows it


@dataclass(frozen=True, slots=True)
class Score:
    """Count tasks that came to an end, one way or the other."""

    tried: int = 0
    done: int = 0

    def __str__(self) -> str:
        return f'{self.done} of {self.tried} tasks done'


class Rounds:
    """Advance a running stack from scene to scene; call `occupy` about once a second."""

    def __init__(self, monitor: Monitor, stage: Stage) -> None:
        self._monitor, self._stage = monitor, stage
        self._since_s: float | None = None  # when the policy began to follow this task
        self._left: int | None = None  # episode that is over; the next is not there yet
        self._closing = threading.Event()
        self._change: threading.Thread | None = None
        self.trouble = ''  # why the last change of scenes did not succeed
        self.score = Score()

    def occupy(self, asked: str | None, now_s: float) -> None:
        """Ask for what is `asked`, else for task after task; random weights would finish none."""
        if self._monitor.trained and not asked:
            self.advance(now_s)
        elif words := asked or self._monitor.task:
            self._monitor.say(words)

    def advance(self, now_s: float) -> None:
        """Say what the scene asks for; end it when it is done or its time is over."""
        monitor, sim = self._monitor, self._monitor.sim
        if sim is None or (self._change is not None and self._change.is_alive()):
            return
        if sim.episode == self._left:
            self._begin_change()
            return
        self._left = None
        following = monitor.policy is not None and monitor.policy.instruction == sim.instruction
        if not following:
            self._since_s = None
            monitor.witness.resume(now_s)
            monitor.say(sim.instruction)
            return
        if self._since_s is None and monitor.state == 'RUNNING':
            self._since_s = now_s
        done = bool(sim.goals_reached and sim.goals_reached[0])
        if self._since_s is not None and (done or now_s - self._since_s > LIMIT_S):
            self.score = Score(self.score.tried + 1, self.score.done + done)
            self._left = sim.episode
            monitor.witness.pause(now_s)
            self._begin_change()

    def __str__(self) -> str:
        return f'{self.score} ({self.trouble})' if self.trouble else str(self.score)

    def close(self) -> None:
        """Give up what is under way; the stack must still live."""
        self._closing.set()
        if self._change is not None:
            self._change.join()

    def _begin_change(self) -> None:
        if not self._closing.is_set():
            self._change = threading.Thread(target=self._changed, name='rounds', daemon=True)
            self._change.start()

    def _changed(self) -> None:
        """Take the words away, send the arms home, show the next scene."""
        try:
            # the same words may come again: without silence they would not be heard as new
            self._stage.hushed(self._closing)
            self._stage.go_home(self._closing)
            if not self._closing.is_set():
                self._stage.next_scene(self._closing)
            self.trouble = ''
        except Trouble as trouble:  # `advance` tries again
            self.trouble = str(trouble)
