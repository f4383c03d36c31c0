"""Goals watched over an episode: when each first came true and stayed so for a moment."""

from collections.abc import Sequence

from wam_sim.physics.scene import CUBES, PAD
from wam_sim.tasks.task_families import FAMILIES, SIDES, SceneState, Task

MIN_HOLD_NS = 100_000_000  # a hand that rushes past a cube has not touched it


def validate_goal(task: Task) -> Task:
    """Return `task` if it can be watched; ValueError says what is wrong with it."""
    if task.family not in FAMILIES:
        raise ValueError(f'goal: no family {task.family!r}; known: {", ".join(FAMILIES)}')
    if task.slot not in CUBES:
        raise ValueError(f'goal: no cube {task.slot!r}; there are {", ".join(CUBES)}')
    if task.side not in (SIDES if task.family in ('touch', 'recall', 'push') else ('',)):
        raise ValueError(f'goal: {task.family} has no side {task.side!r}')
    if task.onto not in {'pad': (PAD,), 'stack': CUBES}.get(task.family, ('',)):
        raise ValueError(f'goal: {task.family} goes not onto {task.onto!r}')
    return task


class SuccessMonitor:
    """Watch tasks from one start; `look` as often as the physics allow."""

    def __init__(self, tasks: Sequence[Task], start: SceneState) -> None:
        self.tasks = tuple(tasks)
        self._start = start
        self._holds_since_ns: list[int | None] = [None] * len(self.tasks)
        self.reached_ns: list[int | None] = [None] * len(self.tasks)  # began to hold for good

    def update(self, now: SceneState, now_ns: int) -> bool:
        """Take note of what holds now; tell whether a goal has just been reached."""
        before = self.reached_ns.count(None)
        for i, task in enumerate(self.tasks):
            if self.reached_ns[i] is not None:
                continue
            if not task.is_done(now, self._start):
                self._holds_since_ns[i] = None
            elif self._holds_since_ns[i] is None:
                self._holds_since_ns[i] = now_ns
            elif now_ns - self._holds_since_ns[i] >= MIN_HOLD_NS:
                self.reached_ns[i] = self._holds_since_ns[i]
        return self.reached_ns.count(None) < before
