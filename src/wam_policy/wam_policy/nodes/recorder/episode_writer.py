"""One episode being written: what arrives is queued, a thread of its own writes it.

The thread that receives never waits. Where the disk or the JPEG encoders cannot keep up, a full
queue refuses what is new and counts it. cv2 and the file system release the interpreter.
"""

import errno
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from wam_policy.recording.bag_folder import DISTRO_KEY, BagContents
from wam_policy.recording.bag_writer import BagWriter
from wam_policy.recording.episode_info import EpisodeEnd

SYNC_PERIOD_S = 0.5  # what a kill can cost, and half the second that is promised
DISK_TIMEOUT_S = 30.0  # a disk that does not answer for so long is given up at shutdown


@dataclass(frozen=True, slots=True)
class TopicQueue:
    """Say how the messages of one topic are treated on their way to the bag."""

    topic: str
    max_size: int  # messages that may wait
    encode: Callable[[bytes], bytes] | None = None


@dataclass(slots=True)
class _QueuedMessage:
    topic_index: int
    log_ns: int
    data: bytes | Future


@dataclass(frozen=True, slots=True)
class EpisodeProgress:
    """Tell how an episode stands."""

    written_counts: tuple[int, ...]  # written, per topic
    dropped_counts: tuple[int, ...]  # lost, per topic
    size_bytes: int
    write_error: str = ''  # why no more is written; empty: all is well
    message_errors: tuple[str, ...] = ()  # why single messages could not be written
    contents: BagContents | None = None  # once it is over and in order


@dataclass(slots=True, eq=False)
class _MessageCounts:
    written: list[int]
    dropped: list[int]
    queued: list[int]
    errors: dict[int, str] = field(default_factory=dict)


class EpisodeWriter:
    """Write one bag until `finish`; share it between threads freely."""

    def __init__(
        self,
        bag: BagWriter,
        topic_queues: Sequence[TopicQueue],
        encoder_threads: int,
        min_free_bytes: int,
        ros_distro: str,
    ) -> None:
        self._bag, self._topic_queues = bag, tuple(topic_queues)
        self._min_free_bytes, self._ros_distro = min_free_bytes, ros_distro
        self._queued_messages: deque[_QueuedMessage] = deque()
        self._batch: deque[_QueuedMessage] = deque()  # the thread's own
        self._condition = threading.Condition()
        self._counts = _MessageCounts(
            [0] * len(topic_queues), [0] * len(topic_queues), [0] * len(topic_queues)
        )
        self._ending: EpisodeEnd | None = None
        self._write_error = ''
        self._contents: BagContents | None = None
        self._encoder_pool = ThreadPoolExecutor(encoder_threads, thread_name_prefix='jpeg')
        self._thread = threading.Thread(target=self._run, name='writer', daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._bag.folder.name

    @property
    def is_finished(self) -> bool:
        """Tell whether the thread has ended and the file is closed."""
        return not self._thread.is_alive()

    def put(self, topic_index: int, log_ns: int, raw: bytes) -> None:
        """Take one message, or count it as dropped; returns at once."""
        counts, encode = self._counts, self._topic_queues[topic_index].encode
        with self._condition:
            full = counts.queued[topic_index] >= self._topic_queues[topic_index].max_size
            if full or self._write_error or self._ending is not None:
                counts.dropped[topic_index] += 1
                return
            counts.queued[topic_index] += 1
            data = raw if encode is None else self._encoder_pool.submit(encode, raw)
            self._queued_messages.append(_QueuedMessage(topic_index, log_ns, data))

    def count_lost(self, topic_index: int, count: int) -> None:
        """Count messages that the middleware lost on the way here."""
        with self._condition:
            self._counts.dropped[topic_index] += count

    def finish(self, ending: EpisodeEnd) -> None:
        """Take no more, write what waits, and close; returns at once, see `over` and `join`."""
        with self._condition:
            self._ending = self._ending or ending
            self._condition.notify()

    def join(self, timeout_s: float = DISK_TIMEOUT_S) -> bool:
        """Wait for the end; return whether it came."""
        self._thread.join(timeout_s)
        return self.is_finished

    def progress(self) -> EpisodeProgress:
        counts = self._counts
        with self._condition:
            return EpisodeProgress(
                tuple(counts.written),
                tuple(counts.dropped),
                self._bag.size_bytes,
                self._write_error,
                tuple(counts.errors.values()),
                self._contents,
            )

    def _run(self) -> None:
        try:
            self._write_loop()
        except OSError as error:
            self._abandon_bag(_describe_os_error(error))
        finally:
            self._encoder_pool.shutdown(wait=False, cancel_futures=True)

    def _write_loop(self) -> None:
        """Write until `finish` is called or the disk is nearly full."""
        synced_s = time.monotonic()
        while True:
            with self._condition:
                if self._ending is None:
                    self._condition.wait(SYNC_PERIOD_S / 5)  # in batches: a wake-up costs more
                ending = self._ending
                self._batch, self._queued_messages = self._queued_messages, deque()
            while self._batch:
                self._write_message(self._batch[0])
                self._batch.popleft()
            if ending is not None:
                self._close_bag(ending)
                return
            if time.monotonic() - synced_s >= SYNC_PERIOD_S:
                self._bag.sync()
                synced_s = time.monotonic()
                self._check_free_space()

    def _write_message(self, message: _QueuedMessage) -> None:
        try:
            data = message.data.result() if isinstance(message.data, Future) else message.data
        except ValueError as error:  # of an encoder: this message cannot be written
            with self._condition:
                self._counts.queued[message.topic_index] -= 1
                self._counts.dropped[message.topic_index] += 1
                self._counts.errors[message.topic_index] = (
                    f'{self._topic_queues[message.topic_index].topic}: {error}'
                )
            return
        self._bag.write(message.topic_index, message.log_ns, data)
        with self._condition:
            self._counts.queued[message.topic_index] -= 1
            self._counts.written[message.topic_index] += 1

    def _check_free_space(self) -> None:
        """End the episode in order while there is still room for its index."""
        free = shutil.disk_usage(self._bag.folder).free
        if free < self._min_free_bytes:
            with self._condition:
                self._write_error = (
                    f'the disk has {free / 1e6:.0f} MB left, less than min_free_mb; '
                    'the episode was ended and is saved; free some space'
                )
                self._ending = self._ending or EpisodeEnd('the disk was nearly full')

    def _close_bag(self, ending: EpisodeEnd) -> None:
        dropped = {
            queue.topic: count
            for queue, count in zip(self._topic_queues, self._counts.dropped, strict=True)
        }
        saved = self._bag.close(
            {**replace(ending, dropped=dropped).to_dict(), DISTRO_KEY: self._ros_distro}
        )
        with self._condition:
            self._contents = saved

    def _abandon_bag(self, reason: str) -> None:
        """Give up writing; what the disk took already stays."""
        self._bag.abandon()
        with self._condition:
            self._write_error = reason
            for item in (*self._batch, *self._queued_messages):
                self._counts.dropped[item.topic_index] += 1
            self._queued_messages.clear()


def _describe_os_error(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 'the disk is full; what was written is kept: free some space, then ./wam bag repair'
    return (
        f'the disk took no more ({error.strerror or error}); what was written is kept: '
        './wam bag repair'
    )
