"""Monitor goals over an episode: the time at which each was first met for MIN_HOLD_NS."""

from collections.abc import Sequence

from wam_sim.physics.scene import CUBES, PAD
from wam_sim.tasks.task_families import FAMILIES, ONLY, SIDES, SceneState, Task

MIN_HOLD_NS = 100_000_000  # a hand that passes a cube has not touched it


def validate_goal(task: Task) -> Task:
    """Return `task` if it is a valid goal; raises ValueError with the invalid field."""
    if task.family not in FAMILIES:
        raise ValueError(f'goal: no family {task.family!r}; want one of {", ".join(FAMILIES)}')
    if task.slot not in CUBES:
        raise ValueError(f'goal: no cube {task.slot!r}; want one of {", ".join(CUBES)}')
    hands = (*SIDES, ONLY)
    if task.side not in {'touch': hands, 'recall': hands, 'push': SIDES}.get(task.family, ('',)):
        raise ValueError(f'goal: {task.family} has no side {task.side!r}')
    if task.onto not in {'pad': (PAD,), 'stack': CUBES}.get(task.family, ('',)):
        raise ValueError(f'goal: {task.family} has no target {task.onto!r}')
    return task


class SuccessMonitor:
    """Monitor tasks from one start state; call `update` after every batch of physics steps."""

    def __init__(self, tasks: Sequence[Task], start: SceneState) -> None:
        self.tasks = tuple(tasks)
        self._start = start
        self._holds_since_ns: list[int | None] = [None] * len(self.tasks)
        self.reached_ns: list[int | None] = [None] * len(self.tasks)  # start of the hold

    def update(self, now: SceneState, now_ns: int) -> bool:
        """Check the goals at `now_ns`; return whether one has just been reached."""
        before = self.reached_ns.count(None)
        for i, task in enumerate(self.tasks):
            if self.reached_ns[i] is not None:
                continue
            since_ns = self._holds_since_ns[i]
            if not task.is_done(now, self._start):
                self._holds_since_ns[i] = None
            elif since_ns is None:
                self._holds_since_ns[i] = now_ns
            elif now_ns - since_ns >= MIN_HOLD_NS:
                self.reached_ns[i] = since_ns
        return self.reached_ns.count(None) < before
