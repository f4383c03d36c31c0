"""Task after task for a simulated robot: the next scene once one is done or takes too long.

Between two tasks the arms go home, as in an evaluation: hands that still stand where the last
task ended hide the next scene's cubes.
"""

import threading
from dataclasses import dataclass

from wam_tools.sim_operator import SceneSetupError, SimOperator
from wam_tools.stack_monitor import StackMonitor

TASK_TIMEOUT_S = 10.0  # for one task, from the first chunk that follows it


@dataclass(frozen=True, slots=True)
class TaskScore:
    """Count tasks that came to an end, one way or the other."""

    attempted: int = 0
    succeeded: int = 0

    def __str__(self) -> str:
        return f'{self.succeeded} of {self.attempted} tasks done'


class TaskLoop:
    """Advance a running stack from scene to scene; call `occupy` about once a second."""

    def __init__(self, monitor: StackMonitor, operator: SimOperator) -> None:
        self._monitor, self._operator = monitor, operator
        self._following_since_s: float | None = None  # when the policy began to follow this task
        self._finished_episode: int | None = (
            None  # episode that is over; the next is not there yet
        )
        self._stop_event = threading.Event()
        self._change_thread: threading.Thread | None = None
        self.setup_error = ''  # why the last change of scenes did not succeed
        self.score = TaskScore()

    def tick(self, instruction: str | None, now_s: float) -> None:
        """Ask for what is `asked`, else for task after task; random weights would finish none."""
        if self._monitor.trained and not instruction:
            self.advance(now_s)
        elif words := instruction or self._monitor.task:
            self._monitor.ensure_instruction(words)

    def advance(self, now_s: float) -> None:
        """Say what the scene asks for; end it when it is done or its time is over."""
        monitor, sim = self._monitor, self._monitor.sim
        if not sim.robot or (self._change_thread is not None and self._change_thread.is_alive()):
            return
        if sim.episode_index == self._finished_episode:
            self._start_scene_change()
            return
        self._finished_episode = None
        if monitor.policy.instruction != sim.instruction:
            self._following_since_s = None
            monitor.metrics.resume(now_s)
            monitor.ensure_instruction(sim.instruction)
            return
        if self._following_since_s is None and monitor.policy.state_name == 'RUNNING':
            self._following_since_s = now_s
        done = any(list(sim.goals_reached)[:1])
        if self._following_since_s is not None and (
            done or now_s - self._following_since_s > TASK_TIMEOUT_S
        ):
            self.score = TaskScore(self.score.attempted + 1, self.score.succeeded + done)
            self._finished_episode = sim.episode_index
            monitor.metrics.pause(now_s)
            self._start_scene_change()

    def __str__(self) -> str:
        return f'{self.score} ({self.setup_error})' if self.setup_error else str(self.score)

    def close(self) -> None:
        """Give up what is under way; the stack must still live."""
        self._stop_event.set()
        if self._change_thread is not None:
            self._change_thread.join()

    def _start_scene_change(self) -> None:
        if not self._stop_event.is_set():
            self._change_thread = threading.Thread(
                target=self._change_scene, name='rounds', daemon=True
            )
            self._change_thread.start()

    def _change_scene(self) -> None:
        """Take the words away, send the arms home, show the next scene."""
        try:
            # the same words may come again: without silence they would not be heard as new
            self._operator.clear_instruction(self._stop_event)
            self._operator.go_home(self._stop_event)
            if not self._stop_event.is_set():
                self._operator.show_next_scene(self._stop_event)
            self.setup_error = ''
        except SceneSetupError as trouble:  # `advance` tries again
            self.setup_error = str(trouble)
