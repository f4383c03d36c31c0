"""Predicted frames and the real ones of the same instants, as pairs of equal layout.

A prediction waits until every camera has a frame at or after its instant; the nearest frames are
then placed as the model's canvas places them. Where a layout is known the page cuts both apart
into the views of the cameras (`describe_tiles`).
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from wam_policy.core.observation.view_tiles import LAYOUTS, ViewLayout, make_layout

MIN_INTERVAL_NS = 60_000_000  # between two images that are kept: 16 Hz of faster cameras
KEEP_NS = 4_000_000_000  # images: longer than a block is predicted ahead
MAX_PENDING = 48  # predictions whose instant has not come
MAX_READY = 16  # frames that nobody took


@dataclass(frozen=True, slots=True, eq=False)
class ComparedFrame:
    """Hold one frame, predicted or real; both of a pair have the same number."""

    number: int
    is_real: bool
    stamp_ns: int
    rgb: np.ndarray  # uint8 [h w 3]


@dataclass(frozen=True, slots=True)
class _PendingPrediction:
    number: int
    stamp_ns: int
    size: tuple[int, int]  # rows, columns
    layout_name: str


class ImaginationPairs:
    """Match predictions with images by their stamps; one thread adds, another takes."""

    def __init__(
        self, cameras: tuple[str, ...], decode: Callable[[bytes, str], np.ndarray]
    ) -> None:
        """Take the cameras' keys and what makes pixels, uint8 [h w 3], of an image of one."""
        self._cameras, self._decode = cameras, decode
        self._lock = threading.Lock()
        self._images: Mapping[str, deque[tuple[int, bytes]]] = {
            camera: deque() for camera in cameras
        }
        self._pending: deque[_PendingPrediction] = deque(maxlen=MAX_PENDING)
        self._ready: deque[ComparedFrame] = deque(maxlen=MAX_READY)
        self._count = 0

    def clear(self) -> None:
        """Forget everything, so that a panel that opens again shows nothing old."""
        with self._lock:
            for images in self._images.values():
                images.clear()
            self._pending.clear()
            self._ready.clear()

    def add_prediction(self, stamp_ns: int, rgb: np.ndarray, layout_name: str) -> None:
        """Take a predicted frame; without a known layout it stays alone."""
        with self._lock:
            self._count += 1
            self._ready.append(ComparedFrame(self._count, False, stamp_ns, rgb))
            if layout_name in LAYOUTS:
                self._pending.append(
                    _PendingPrediction(self._count, stamp_ns, rgb.shape[:2], layout_name)
                )

    def add_image(self, camera: str, stamp_ns: int, raw: bytes) -> None:
        """Take a serialized image."""
        images = self._images[camera]
        with self._lock:
            if images and 0 <= stamp_ns - images[-1][0] < MIN_INTERVAL_NS:
                return
            if images and stamp_ns < images[-1][0]:  # the clock was set back
                images.clear()
            images.append((stamp_ns, raw))
            while images[-1][0] - images[0][0] > KEEP_NS:
                images.popleft()

    def take_ready(self) -> list[ComparedFrame]:
        """Return the frames that are new, predicted and real."""
        with self._lock:
            images = {camera: list(kept) for camera, kept in self._images.items()}
            ready, waiting = list(self._ready), list(self._pending)
            self._ready.clear()
            due = [
                each
                for each in waiting
                if all(kept and kept[-1][0] >= each.stamp_ns for kept in images.values())
            ]
            for each in due:
                self._pending.remove(each)
        return ready + [
            self._compose(each, images)
            for each in due
            if all(kept[0][0] <= each.stamp_ns for kept in images.values())
        ]

    def _compose(
        self, waiting: _PendingPrediction, images: Mapping[str, Sequence[tuple[int, bytes]]]
    ) -> ComparedFrame:
        _, (rows, columns), _ = LAYOUTS[waiting.layout_name]
        layout = make_layout(
            waiting.layout_name,
            self._cameras,
            int(waiting.size[0] / rows),
            int(waiting.size[1] / columns),
        )
        views = {
            camera: self._decode(
                min(kept, key=lambda item: abs(item[0] - waiting.stamp_ns))[1], camera
            )
            for camera, kept in images.items()
        }
        return ComparedFrame(waiting.number, True, waiting.stamp_ns, compose(views, layout))


def compose(views: Mapping[str, np.ndarray], layout: ViewLayout) -> np.ndarray:
    """Place views, uint8 [h w 3], on one canvas, as the model's own layout does."""
    canvas = np.zeros((layout.height, layout.width, 3), np.uint8)
    for tile in layout.tiles:
        pixels = views[tile.view]
        height, width = (round(size * layout.crop) for size in pixels.shape[:2])
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        size = (tile.width * tile.repeat_columns, tile.height)
        canvas[tile.top : tile.top + size[1], tile.left : tile.left + size[0]] = cv2.resize(
            pixels[top : top + height, left : left + width], size, interpolation=cv2.INTER_AREA
        )
    return canvas


@cache
def describe_tiles(layout_name: str, cameras: tuple[str, ...]) -> list[list[float]] | None:
    """Return [left, top, width, height] of each camera's view as shares of the canvas.

    None for a layout that is not known or has other views.
    """
    unit = 64  # tiles are multiples of half a unit
    try:
        layout = make_layout(layout_name, cameras, unit, unit)
    except ValueError:
        return None
    tiles = {tile.view: tile for tile in layout.tiles}
    return [
        [
            tiles[camera].left / layout.width,
            tiles[camera].top / layout.height,
            tiles[camera].width * tiles[camera].repeat_columns / layout.width,
            tiles[camera].height / layout.height,
        ]
        for camera in cameras
    ]
