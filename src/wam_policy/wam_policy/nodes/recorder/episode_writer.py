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

from wam_policy.recording.bag_folder import DISTRO_KEY, Contents
from wam_policy.recording.bag_writer import BagWriter
from wam_policy.recording.episode_info import Ending

SYNC_PERIOD_S = 0.5  # what a kill can cost, and half the second that is promised
STUCK_S = 30.0  # a disk that does not answer for so long is given up at shutdown


@dataclass(frozen=True, slots=True)
class Lane:
    """Say how the messages of one topic are treated on their way to the bag."""

    topic: str
    queue: int  # messages that may wait
    encode: Callable[[bytes], bytes] | None = None


@dataclass(slots=True)
class _Item:
    lane: int
    log_ns: int
    data: bytes | Future


@dataclass(frozen=True, slots=True)
class Progress:
    """Tell how an episode stands."""

    messages: tuple[int, ...]  # written, per lane
    dropped: tuple[int, ...]  # lost, per lane
    bytes: int
    fault: str = ''  # why no more is written; empty: all is well
    complaints: tuple[str, ...] = ()  # why single messages could not be written
    saved: Contents | None = None  # once it is over and in order


@dataclass(slots=True, eq=False)
class _Counts:
    messages: list[int]
    dropped: list[int]
    waiting: list[int]
    complaints: dict[int, str] = field(default_factory=dict)


class Tape:
    """Write one bag until `finish`; share it between threads freely."""

    def __init__(
        self,
        bag: BagWriter,
        lanes: Sequence[Lane],
        encoders: int,
        min_free_bytes: int,
        distro: str,
    ) -> None:
        self._bag, self._lanes = bag, tuple(lanes)
        self._min_free_bytes, self._distro = min_free_bytes, distro
        self._items: deque[_Item] = deque()
        self._batch: deque[_Item] = deque()  # the thread's own
        self._wanted = threading.Condition()
        self._counts = _Counts([0] * len(lanes), [0] * len(lanes), [0] * len(lanes))
        self._ending: Ending | None = None
        self._fault = ''
        self._saved: Contents | None = None
        self._pool = ThreadPoolExecutor(encoders, thread_name_prefix='jpeg')
        self._thread = threading.Thread(target=self._run, name='tape', daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._bag.folder.name

    @property
    def over(self) -> bool:
        """Tell whether the thread has ended and the file is closed."""
        return not self._thread.is_alive()

    def put(self, lane: int, log_ns: int, raw: bytes) -> None:
        """Take one message, or count it as dropped; returns at once."""
        counts, encode = self._counts, self._lanes[lane].encode
        with self._wanted:
            full = counts.waiting[lane] >= self._lanes[lane].queue
            if full or self._fault or self._ending is not None:
                counts.dropped[lane] += 1
                return
            counts.waiting[lane] += 1
            data = raw if encode is None else self._pool.submit(encode, raw)
            self._items.append(_Item(lane, log_ns, data))

    def lose(self, lane: int, count: int) -> None:
        """Count messages that the middleware lost on the way here."""
        with self._wanted:
            self._counts.dropped[lane] += count

    def finish(self, ending: Ending) -> None:
        """Take no more, write what waits, and close; returns at once, see `over` and `join`."""
        with self._wanted:
            self._ending = self._ending or ending
            self._wanted.notify()

    def join(self, timeout_s: float = STUCK_S) -> bool:
        """Wait for the end; return whether it came."""
        self._thread.join(timeout_s)
        return self.over

    def progress(self) -> Progress:
        counts = self._counts
        with self._wanted:
            return Progress(
                tuple(counts.messages),
                tuple(counts.dropped),
                self._bag.bytes,
                self._fault,
                tuple(counts.complaints.values()),
                self._saved,
            )

    def _run(self) -> None:
        try:
            self._write()
        except OSError as error:
            self._fail(_explained(error))
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _write(self) -> None:
        """Write until `finish` is called or the disk is nearly full."""
        synced_s = time.monotonic()
        while True:
            with self._wanted:
                if self._ending is None:
                    self._wanted.wait(SYNC_PERIOD_S / 5)  # in batches: a wake-up costs more
                ending = self._ending
                self._batch, self._items = self._items, deque()
            while self._batch:
                self._write_one(self._batch[0])
                self._batch.popleft()
            if ending is not None:
                self._close(ending)
                return
            if time.monotonic() - synced_s >= SYNC_PERIOD_S:
                self._bag.sync()
                synced_s = time.monotonic()
                self._look_at_disk()

    def _write_one(self, item: _Item) -> None:
        try:
            data = item.data.result() if isinstance(item.data, Future) else item.data
        except ValueError as error:  # of an encoder: this message cannot be written
            with self._wanted:
                self._counts.waiting[item.lane] -= 1
                self._counts.dropped[item.lane] += 1
                self._counts.complaints[item.lane] = f'{self._lanes[item.lane].topic}: {error}'
            return
        self._bag.write(item.lane, item.log_ns, data)
        with self._wanted:
            self._counts.waiting[item.lane] -= 1
            self._counts.messages[item.lane] += 1

    def _look_at_disk(self) -> None:
        """End the episode in order while there is still room for its index."""
        free = shutil.disk_usage(self._bag.folder).free
        if free < self._min_free_bytes:
            with self._wanted:
                self._fault = (
                    f'the disk has {free / 1e6:.0f} MB left, less than min_free_mb; '
                    'the episode was ended and is saved; free some space'
                )
                self._ending = self._ending or Ending('the disk was nearly full')

    def _close(self, ending: Ending) -> None:
        dropped = {
            lane.topic: count
            for lane, count in zip(self._lanes, self._counts.dropped, strict=True)
        }
        saved = self._bag.close(
            {**replace(ending, dropped=dropped).described(), DISTRO_KEY: self._distro}
        )
        with self._wanted:
            self._saved = saved

    def _fail(self, reason: str) -> None:
        """Give up writing; what the disk took already stays."""
        self._bag.abandon()
        with self._wanted:
            self._fault = reason
            for item in (*self._batch, *self._items):
                self._counts.dropped[item.lane] += 1
            self._items.clear()


def _explained(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 'the disk is full; what was written is kept: free some space, then ./wam bag repair'
    return (
        f'the disk took no more ({error.strerror or error}); what was written is kept: '
        './wam bag repair'
    )
