"""Measure the conversion of received images: through cv_bridge, and by numpy as before it.

One round is a second of a robot's images: three cameras, 640x480, 30 frames each. Rounds of both
are interleaved, so that another load of the machine meets both. Encodings that numpy alone did not
convert have no value for it.
"""

import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / 'src/wam_policy')]

import record

from wam_policy.core.types import Frame
from wam_policy.nodes import message_conversion
from wam_policy.nodes.images import bridge_selection, image_conversion

CAMERAS, FRAMES, WIDTH, HEIGHT = 3, 30, 640, 480
NUMPY_CHANNELS = {
    'rgb8': (3, slice(0, 3)),
    'bgr8': (3, slice(None, None, -1)),
    'rgba8': (4, slice(0, 3)),
    'bgra8': (4, slice(2, None, -1)),
}


def convert_by_numpy(msg: Image) -> Frame:
    """Return the frame as before cv_bridge was used, with the checks that were made then."""
    channels, rgb = NUMPY_CHANNELS[msg.encoding]
    row = msg.width * channels
    if not msg.width or not msg.height or msg.step < row:
        raise ValueError('does not fit')
    if len(msg.data) != msg.step * msg.height:
        raise ValueError('wrong size')
    rows = np.frombuffer(msg.data, dtype=np.uint8).reshape(msg.height, msg.step)[:, :row]
    pixels = rows.reshape(msg.height, msg.width, channels)[..., rgb]
    stamp_ns = message_conversion.to_ns(msg.header.stamp)
    return Frame('camera', stamp_ns, np.ascontiguousarray(pixels))


def convert_jpeg_directly(msg: CompressedImage) -> Frame:
    """Return the frame as before cv_bridge was used."""
    bgr = cv2.imdecode(np.frombuffer(msg.data, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    stamp_ns = message_conversion.to_ns(msg.header.stamp)
    return Frame('camera', stamp_ns, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def make_messages(encoding: str, padding: int) -> list[Any]:
    """Return a second's messages of noise; JPEG of a smooth image."""
    random = np.random.default_rng(0)
    if encoding == 'jpeg':
        smooth = cv2.resize(random.integers(0, 255, (15, 20, 3), np.uint8), (WIDTH, HEIGHT))
        data = cv2.imencode('.jpg', smooth)[1].tobytes()
        return [CompressedImage(format='jpeg', data=array('B', data))] * (CAMERAS * FRAMES)
    pixel_bytes, _ = image_conversion.COLOR_ENCODINGS[encoding]
    rows = HEIGHT * 3 // 2 if encoding.startswith('nv') else HEIGHT
    step = WIDTH * pixel_bytes + padding
    found = []
    for _ in range(6):  # 6 MB: more than the caches hold
        msg = Image(height=HEIGHT, width=WIDTH, encoding=encoding, step=step)
        msg._data = array('B', random.integers(0, 255, rows * step, np.uint8).tobytes())
        found.append(msg)
    return [found[i % len(found)] for i in range(CAMERAS * FRAMES)]


def measure(convert: Callable[[Any], Any], messages: list[Any]) -> float:
    """Return the CPU seconds of one round."""
    start_s = time.thread_time()
    for msg in messages:
        convert(msg)
    return time.thread_time() - start_s


def summarize(seconds: list[float]) -> dict[str, float]:
    """Return milliseconds of CPU per second of images, with a 95 % interval of the median."""
    ordered, n = sorted(seconds), len(seconds)
    spread = 0.98 * n**0.5  # of the binomial rank of the median
    low, high = max(0, int(n / 2 - spread)), min(n - 1, int(n / 2 + spread))
    median = ordered[n // 2]
    return {
        'median_ms': round(1e3 * median, 3),
        'low_ms': round(1e3 * ordered[low], 3),
        'high_ms': round(1e3 * ordered[high], 3),
    }


def main() -> int:
    """Measure every encoding and print a table."""
    parser = record.make_parser(__doc__)
    parser.add_argument('--rounds', type=int, default=30)
    options = parser.parse_args()
    rows = []
    cases = [(name, 0) for name in image_conversion.COLOR_ENCODINGS] + [('rgb8', 8), ('jpeg', 0)]
    for encoding, padding in cases:
        messages, before, after = make_messages(encoding, padding), [], []
        read: Callable[[Any, str], Any] = image_conversion.frame_from_msg
        old: Callable[[Any], Any] | None = convert_by_numpy if encoding in NUMPY_CHANNELS else None
        if encoding == 'jpeg':
            read, old = image_conversion.frame_from_compressed_msg, convert_jpeg_directly
        for _ in range(options.rounds):
            if old is not None:
                before.append(measure(old, messages))
            after.append(measure(lambda msg, read=read: read(msg, 'camera'), messages))
        row: dict[str, Any] = {'encoding': f'{encoding}, padded rows' if padding else encoding}
        row['cv_bridge'] = summarize(after)
        row['numpy'] = summarize(before) if before else None
        rows.append(row)
    table = [
        {
            'encoding': row['encoding'],
            'cv_bridge (ms)': row['cv_bridge']['median_ms'],
            'before (ms)': row['numpy']['median_ms'] if row['numpy'] else '-',
        }
        for row in rows
    ]
    print(record.format_table(table, ['encoding', 'cv_bridge (ms)', 'before (ms)']))
    record.write_report(
        options.json,
        {
            'unit': 'ms of CPU per second of images, median and 95 % interval',
            'images_per_round': CAMERAS * FRAMES,
            'size': [WIDTH, HEIGHT],
            'rounds': options.rounds,
            'bridge': bridge_selection.select_bridge().description,
            'results': rows,
        },
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
