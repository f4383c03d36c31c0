"""Select the cv_bridge that runs here: an installed one, or our own on OpenCV.

An installed one has a compiled module. Built for another NumPy or OpenCV than the running ones it
fails at import, at the first conversion, or ends the process: another process tries it first.
"""

import importlib.util
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import Image

from wam_policy.nodes.images import opencv_bridge

CHECK_TIMEOUT_S = 60.0
COMPILED_PART = 'boost'  # a folder of the installed package


@dataclass(frozen=True, slots=True)
class SelectedBridge:
    """Hold a CvBridge, and tell which one it is and why."""

    bridge: Any
    description: str
    is_replaced: bool = False  # an installed one does not run


@cache
def select_bridge() -> SelectedBridge:
    """Return the CvBridge to use; starts another process if a compiled one is installed."""
    own = f'own module on OpenCV {cv2.__version__}'
    spec = importlib.util.find_spec('cv_bridge')
    if spec is None or spec.origin is None:
        return SelectedBridge(opencv_bridge.CvBridge(), f'{own}; cv_bridge is not installed')
    folder = Path(spec.origin).parent
    if not (folder / COMPILED_PART).is_dir():
        return SelectedBridge(opencv_bridge.CvBridge(), own)
    fault = _try_installed()
    if fault:
        return SelectedBridge(
            opencv_bridge.CvBridge(),
            f'{own}; the installed cv_bridge ({folder}) does not run: {fault}',
            is_replaced=True,
        )
    return SelectedBridge(import_module('cv_bridge').CvBridge(), f'installed ({folder})')


def _try_installed() -> str:
    """Return why the installed cv_bridge does not run here; empty if it does."""
    try:
        done = subprocess.run(
            [sys.executable, '-m', __name__],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f'no answer within {CHECK_TIMEOUT_S:g} s'
    if done.returncode < 0:
        return f'it ends the process with {signal.Signals(-done.returncode).name}'
    lines = done.stderr.strip().splitlines() or ['no reason given']
    return lines[-1][:200] if done.returncode else ''


def check_installed() -> None:
    """Convert an image with the installed cv_bridge; raise whatever it raises."""
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    msg = Image(height=2, width=4, encoding='bgr8', step=12)
    msg.data.frombytes(pixels.tobytes())
    found = import_module('cv_bridge').CvBridge().imgmsg_to_cv2(msg, 'rgb8')
    if not np.array_equal(found, pixels[..., ::-1]):
        raise ValueError('bgr8 converted to rgb8 has wrong pixels')


if __name__ == '__main__':
    check_installed()
