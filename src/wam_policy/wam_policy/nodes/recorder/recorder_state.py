"""The episodes of one recorder: at most one is recorded, others may still be saved.

A new episode begins at once; the one before it is finished meanwhile by its own writer.
"""

import shutil
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes.images import cdr_image
from wam_policy.nodes.parameters import RecorderParams
from wam_policy.nodes.recorder.episode_writer import EpisodeProgress, EpisodeWriter, TopicQueue
from wam_policy.nodes.recorder.recorded_topics import RecordedTopic
from wam_policy.recording import episode_info
from wam_policy.recording.bag_writer import BagTopic, BagWriter
from wam_policy.recording.episode_info import EpisodeEnd, EpisodeMetadata

BYTES_PER_MB = 1_000_000


class RecorderState(Enum):
    """Name the states; names and numbers are those of EpisodeStatus."""

    IDLE = 0
    RECORDING = 1
    SAVING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class RecorderSnapshot:
    """Show how recording stands at one instant."""

    state: RecorderState
    episode: str
    instruction: str
    duration_s: float
    progress: EpisodeProgress  # of the present episode, else of the last one
    reason: str


class EpisodeRecorder:
    """Own the folder of episodes; share it between threads freely."""

    def __init__(
        self,
        root: Path,
        robot: Embodiment,
        params: RecorderParams,
        resolved_topics: Sequence[tuple[RecordedTopic, str]],
        ros_distro: str,
    ) -> None:
        """Take each source with the full name of its topic."""
        self._root, self._robot, self._params, self._ros_distro = root, robot, params, ros_distro
        self._topics: list[BagTopic] = [
            source.to_bag_topic(name) for source, name in resolved_topics
        ]
        encode = partial(
            cdr_image.compress_image,
            quality=params.jpeg_quality,
            allow_mono=params.allow_mono_images,
        )
        self._topic_queues = [
            TopicQueue(topic.name, source.queue_size, encode if source.encode_jpeg else None)
            for topic, (source, _) in zip(self._topics, resolved_topics, strict=True)
        ]
        # index -> newest messages, of topics that are kept between episodes
        self._latest_messages = {
            index: deque[bytes](maxlen=source.keep_latest)
            for index, (source, _) in enumerate(resolved_topics)
            if source.keep_latest
        }
        self._lock = threading.RLock()
        self._writer: EpisodeWriter | None = None
        self._episode: EpisodeMetadata | None = None
        self._finishing_writers: list[EpisodeWriter] = []
        self._error = ''
        nothing = (0,) * len(resolved_topics)
        self._last_progress = EpisodeProgress(nothing, nothing, 0)

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(topic.name for topic in self._topics)

    @property
    def current(self) -> EpisodeMetadata | None:
        """Return the episode that is recorded now."""
        return self._episode

    def start(self, now_ns: int, instruction: str, labels: Mapping[str, str]) -> str:
        """Start an episode and return its name.

        Raises ValueError while one is recorded or where the disk has no room, OSError for what
        else the disk says.
        """
        with self._lock:
            if self._episode is not None:
                raise ValueError(f'{self._episode.name} is being recorded; stop it first')
            free = shutil.disk_usage(self._root).free
            if free < self._params.min_free_mb * BYTES_PER_MB:
                raise ValueError(
                    f'the disk has {free / BYTES_PER_MB:.0f} MB left, less than '
                    f'min_free_mb ({self._params.min_free_mb}); free some space'
                )
            taken = [path.name for path in self._root.iterdir()]
            metadata = EpisodeMetadata(
                episode_info.make_folder_name(now_ns, instruction, taken),
                self._robot.name,
                self._robot.config_hash,
                instruction,
                now_ns,
                labels,
                self._params.robot_namespace,
            )
            bag = BagWriter(self._root / metadata.name, self._topics, metadata.to_dict())
            self._writer = EpisodeWriter(
                bag,
                self._topic_queues,
                self._params.jpeg_threads,
                self._params.min_free_mb * BYTES_PER_MB,
                self._ros_distro,
            )
            self._episode, self._error = metadata, ''
            for index, messages in self._latest_messages.items():
                for raw in messages:
                    self._writer.put(index, now_ns, raw)
            return metadata.name

    def put(self, topic_index: int, log_ns: int, raw: bytes) -> None:
        """Take one message; without an episode only the newest of some topics is kept."""
        with self._lock:
            if self._writer is not None:
                self._writer.put(topic_index, log_ns, raw)
            if topic_index in self._latest_messages:
                self._latest_messages[topic_index].append(raw)

    def count_lost(self, topic_index: int, count: int) -> None:
        """Count messages that the middleware lost."""
        with self._lock:
            if self._writer is not None:
                self._writer.count_lost(topic_index, count)

    def finish(self, ending: EpisodeEnd) -> EpisodeWriter | None:
        """Finish the episode and return its writer, which saves it; None if there is none."""
        with self._lock:
            writer, self._writer, self._episode = self._writer, None, None
            if writer is not None:
                writer.finish(ending)
                self._finishing_writers.append(writer)
            return writer

    def discard(self, writer: EpisodeWriter) -> None:
        """Remove an episode that has ended, and nothing else."""
        shutil.rmtree(self._root / writer.name)

    def collect_finished(self) -> None:
        """Notice what the writers have come to; call it now and then."""
        with self._lock:
            if self._writer is not None and self._writer.progress().write_error:
                self.finish(EpisodeEnd('the recorder failed'))
            for writer in [writer for writer in self._finishing_writers if writer.is_finished]:
                self._finishing_writers.remove(writer)
                self._last_progress = writer.progress()
                self._error = self._last_progress.write_error or self._error

    def wait_until_saved(self) -> list[str]:
        """Wait until everything is saved; return the names of those that were given up."""
        with self._lock:
            saving = list(self._finishing_writers)
        stuck = [writer.name for writer in saving if not writer.join()]
        self.collect_finished()
        return stuck

    def snapshot(self, now_ns: int) -> RecorderSnapshot:
        with self._lock:
            self.collect_finished()
            if self._writer is not None and self._episode is not None:
                metadata, progress = self._episode, self._writer.progress()
                return RecorderSnapshot(
                    RecorderState.RECORDING,
                    metadata.name,
                    metadata.instruction,
                    (now_ns - metadata.start_ns) / 1e9,
                    progress,
                    '; '.join(progress.message_errors),
                )
            if self._finishing_writers:
                writer = self._finishing_writers[0]
                return RecorderSnapshot(
                    RecorderState.SAVING, writer.name, '', 0.0, writer.progress(), ''
                )
            state = RecorderState.ERROR if self._error else RecorderState.IDLE
            return RecorderSnapshot(
                state,
                '',
                '',
                0.0,
                self._last_progress,
                self._error or '; '.join(self._last_progress.message_errors),
            )
