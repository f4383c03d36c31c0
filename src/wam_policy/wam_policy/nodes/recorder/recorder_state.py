"""The episodes of one recorder: at most one is recorded, others may still be saved.

A new episode begins at once; the one before it is finished meanwhile by its own tape.
"""

import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import cdr_image
from wam_policy.nodes.parameters import RecorderParams
from wam_policy.nodes.recorder.episode_writer import Lane, Progress, Tape
from wam_policy.nodes.recorder.recorded_topics import Source
from wam_policy.recording import episode_info
from wam_policy.recording.bag_writer import BagWriter, Topic
from wam_policy.recording.episode_info import Ending, Episode

MEGABYTE = 1_000_000


class State(Enum):
    """Name the states; names and numbers are those of EpisodeStatus."""

    IDLE = 0
    RECORDING = 1
    SAVING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Show how recording stands at one instant."""

    state: State
    episode: str
    instruction: str
    duration_s: float
    progress: Progress  # of the present episode, else of the last one
    reason: str


class Episodes:
    """Own the folder of episodes; share it between threads freely."""

    def __init__(
        self,
        root: Path,
        robot: Embodiment,
        given: RecorderParams,
        named: Sequence[tuple[Source, str]],
        distro: str,
    ) -> None:
        """Take each source with the full name of its topic."""
        self._root, self._robot, self._given, self._distro = root, robot, given, distro
        self._topics: list[Topic] = [source.written(name) for source, name in named]
        encode = partial(cdr_image.compressed, quality=given.jpeg_quality)
        self._lanes = [
            Lane(topic.name, source.queue, encode if source.jpeg else None)
            for topic, (source, _) in zip(self._topics, named, strict=True)
        ]
        self._keeps = [source.kept for source, _ in named]
        self._kept: dict[int, bytes] = {}  # lane -> newest message
        self._lock = threading.RLock()
        self._tape: Tape | None = None
        self._episode: Episode | None = None
        self._saving: list[Tape] = []
        self._fault = ''
        nothing = (0,) * len(named)
        self._last = Progress(nothing, nothing, 0)

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(topic.name for topic in self._topics)

    @property
    def current(self) -> Episode | None:
        """Return the episode that is recorded now."""
        return self._episode

    def begin(self, now_ns: int, instruction: str, labels: Mapping[str, str]) -> str:
        """Start an episode and return its name.

        Raises ValueError while one is recorded or where the disk has no room, OSError for what
        else the disk says.
        """
        with self._lock:
            if self._episode is not None:
                raise ValueError(f'{self._episode.name} is being recorded; stop it first')
            free = shutil.disk_usage(self._root).free
            if free < self._given.min_free_mb * MEGABYTE:
                raise ValueError(
                    f'the disk has {free / MEGABYTE:.0f} MB left, less than '
                    f'min_free_mb ({self._given.min_free_mb}); free some space'
                )
            taken = [path.name for path in self._root.iterdir()]
            begun = Episode(
                episode_info.folder_name(now_ns, instruction, taken),
                self._robot.name,
                self._robot.contract,
                instruction,
                now_ns,
                labels,
            )
            bag = BagWriter(self._root / begun.name, self._topics, begun.described())
            self._tape = Tape(
                bag,
                self._lanes,
                self._given.jpeg_threads,
                self._given.min_free_mb * MEGABYTE,
                self._distro,
            )
            self._episode, self._fault = begun, ''
            for lane, raw in self._kept.items():
                self._tape.put(lane, now_ns, raw)
            return begun.name

    def put(self, lane: int, log_ns: int, raw: bytes) -> None:
        """Take one message; without an episode only the newest of some topics is kept."""
        with self._lock:
            if self._tape is not None:
                self._tape.put(lane, log_ns, raw)
            if self._keeps[lane]:
                self._kept[lane] = raw

    def lose(self, lane: int, count: int) -> None:
        """Count messages that the middleware lost."""
        with self._lock:
            if self._tape is not None:
                self._tape.lose(lane, count)

    def end(self, ending: Ending) -> Tape | None:
        """Finish the episode and return its tape, which saves it; None if there is none."""
        with self._lock:
            tape, self._tape, self._episode = self._tape, None, None
            if tape is not None:
                tape.finish(ending)
                self._saving.append(tape)
            return tape

    def discard(self, tape: Tape) -> None:
        """Remove an episode that has ended, and nothing else."""
        shutil.rmtree(self._root / tape.name)

    def settle(self) -> None:
        """Notice what the tapes have come to; call it now and then."""
        with self._lock:
            if self._tape is not None and self._tape.progress().fault:
                self.end(Ending('the recorder failed'))
            for tape in [tape for tape in self._saving if tape.over]:
                self._saving.remove(tape)
                self._last = tape.progress()
                self._fault = self._last.fault or self._fault

    def join(self) -> list[str]:
        """Wait until everything is saved; return the names of those that were given up."""
        with self._lock:
            saving = list(self._saving)
        stuck = [tape.name for tape in saving if not tape.join()]
        self.settle()
        return stuck

    def snapshot(self, now_ns: int) -> Snapshot:
        with self._lock:
            self.settle()
            if self._tape is not None and self._episode is not None:
                begun, progress = self._episode, self._tape.progress()
                return Snapshot(
                    State.RECORDING,
                    begun.name,
                    begun.instruction,
                    (now_ns - begun.start_ns) / 1e9,
                    progress,
                    '; '.join(progress.complaints),
                )
            if self._saving:
                tape = self._saving[0]
                return Snapshot(State.SAVING, tape.name, '', 0.0, tape.progress(), '')
            state = State.ERROR if self._fault else State.IDLE
            return Snapshot(
                state, '', '', 0.0, self._last, self._fault or '; '.join(self._last.complaints)
            )
