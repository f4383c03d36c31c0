"""Run one task after another on a simulated robot, each until success or a timeout.

Between two tasks the arms move home, as in an evaluation: otherwise hands can hide the cubes of
the next scene.
"""

import threading
from dataclasses import dataclass

from wam_tools.sim_operator import SceneSetupError, SimOperator
from wam_tools.stack_monitor import StackMonitor

TASK_TIMEOUT_S = 10.0  # per task, from the start of its execution


@dataclass(frozen=True, slots=True)
class TaskScore:
    """Number of attempted and successful tasks."""

    attempted: int = 0
    succeeded: int = 0

    def __str__(self) -> str:
        return f'{self.succeeded} of {self.attempted} tasks done'


class TaskLoop:
    """Advance a running stack from scene to scene; call `tick` about once per second."""

    def __init__(self, monitor: StackMonitor, operator: SimOperator) -> None:
        self._monitor, self._operator = monitor, operator
        self._following_since_s: float | None = None  # start of the execution of this task
        self._finished_episode: int | None = (
            None  # index of a finished episode until the next one starts
        )
        self._stop_event = threading.Event()
        self._change_thread: threading.Thread | None = None
        self.setup_error = ''  # reason if the last scene change failed
        self.score = TaskScore()

    def tick(self, instruction: str | None, now_s: float) -> None:
        """Send `instruction`, else run the tasks; untrained weights stay at the first task."""
        if self._monitor.trained and not instruction:
            self.advance(now_s)
        elif words := instruction or self._monitor.task:
            self._monitor.ensure_instruction(words)

    def advance(self, now_s: float) -> None:
        """Send the instruction of the scene; end the task on success or timeout."""
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
        """Cancel a scene change in progress; call it while the stack still runs."""
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
        """Clear the instruction, move the arms home, show the next scene."""
        try:
            # an equal instruction for the next scene starts a session only after an empty one
            self._operator.clear_instruction(self._stop_event)
            self._operator.go_home(self._stop_event)
            if not self._stop_event.is_set():
                self._operator.show_next_scene(self._stop_event)
            self.setup_error = ''
        except SceneSetupError as error:  # `advance` tries again
            self.setup_error = str(error)
