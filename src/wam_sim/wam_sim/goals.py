"""Goals watched over an episode: when each first came true and stayed so for a moment."""

from collections.abc import Sequence

from wam_sim.tasks import State, Task

HELD_NS = 100_000_000       # a hand that rushes past a cube has not touched it


class Goals:
    """Watch tasks from one start; `look` as often as the physics allow."""

    def __init__(self, tasks: Sequence[Task], start: State) -> None:
        self.tasks = tuple(tasks)
        self._start = start
        self._since_ns: list[int | None] = [None] * len(self.tasks)
        self.reached_ns: list[int | None] = [None] * len(self.tasks)    # began to hold for good

    def look(self, now: State, now_ns: int) -> None:
        """Take note of what holds now."""
        for i, task in enumerate(self.tasks):
            if self.reached_ns[i] is not None:
                continue
            if not task.done(now, self._start):
                self._since_ns[i] = None
            elif self._since_ns[i] is None:
                self._since_ns[i] = now_ns
            elif now_ns - self._since_ns[i] >= HELD_NS:
                self.reached_ns[i] = self._since_ns[i]
