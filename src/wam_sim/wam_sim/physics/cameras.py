"""Render the robot's cameras: all views of one instant in one off-screen image, read back once.

OpenGL calls stay in the thread that created the `CameraRenderer`. Without a GPU, Mesa renders in
software; shadows and multi-sampling are off in the model because they take ten times the rest.
"""

import ctypes.util
import importlib
import os
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

# geom groups visible to robot cameras
ROBOT_VIEW_GROUPS = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)
NOISY_VALUES = 64  # of an image's 230,400 at 320x240


class CameraRenderer:
    """Render the cameras `keys`; `groups` are geom groups to draw besides ROBOT_VIEW_GROUPS."""

    def __init__(
        self,
        model: mujoco.MjModel,
        keys: Sequence[str],
        size: tuple[int, int],
        groups: Sequence[int] = (),
    ) -> None:
        self.keys, self.size = tuple(keys), size
        self._model = model
        self._ids = {key: model.camera(key).id for key in keys}
        width, height = size
        self._gl_context = _create_gl_context(width * len(keys), height)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width * len(keys))
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self._render_context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._render_context)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 50)
        self._option = mujoco.MjvOption()
        for group in groups:
            self._option.geomgroup[group] = 1
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def render(self, data: mujoco.MjData, keys: Sequence[str] = ()) -> tuple[np.ndarray, ...]:
        """Return one uint8 [height width 3] image per key, of all cameras without `keys`.

        `data` needs current kinematics. Raises KeyError for a camera that is not open.
        """
        width, height = self.size
        ids = [self._ids[key] for key in keys or self.keys]
        for i, camera in enumerate(ids):
            self._camera.fixedcamid = camera
            mujoco.mjv_updateScene(
                self._model,
                data,
                self._option,
                None,
                self._camera,
                mujoco.mjtCatBit.mjCAT_ALL,
                self._scene,
            )
            mujoco.mjr_render(
                mujoco.MjrRect(i * width, 0, width, height), self._scene, self._render_context
            )
        whole = mujoco.MjrRect(0, 0, width * len(ids), height)
        pixels = np.empty((height, width * len(ids), 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, whole, self._render_context)
        # OpenGL rows start at the bottom
        return tuple(
            np.ascontiguousarray(pixels[::-1, i * width : (i + 1) * width])
            for i in range(len(ids))
        )

    def close(self) -> None:
        """Free the OpenGL resources; call it in the thread that created them."""
        self._render_context.free()
        self._gl_context.free()


def add_noise(rgb: np.ndarray, rng: np.random.Generator) -> None:
    """Change NOISY_VALUES values of an image, uint8 [height width 3], by one step in place.

    The noise distinguishes a working camera from one that repeats its last image; noise in all
    pixels would take 3 ms per image and add no information.
    """
    at = rng.integers(rgb.size, size=NOISY_VALUES)
    rgb.reshape(-1)[at] ^= 1


def compute_intrinsics(model: mujoco.MjModel, key: str, size: tuple[int, int]) -> np.ndarray:
    """Return the pinhole matrix K [3 3]: square pixels, principal point at the image center."""
    width, height = size
    focal = height / 2 / np.tan(np.deg2rad(model.camera(key).fovy[0]) / 2)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def project_point(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    key: str,
    size: tuple[int, int],
    point_m: np.ndarray,
) -> np.ndarray:
    """Return the image point (u, v) in 0..1 from the top left; NaN outside the image."""
    camera = data.cam(key)
    optical = camera.xmat.reshape(3, 3) * [1, -1, -1]  # x right, y down, z forward
    u, v, depth = compute_intrinsics(model, key, size) @ optical.T @ (point_m - camera.xpos)
    place = np.array([u, v]) / depth / size
    inside = depth > 0 and (place >= 0).all() and (place <= 1).all()
    return place if inside else np.full(2, np.nan)


def project_visible_object(
    model: mujoco.MjModel, data: mujoco.MjData, key: str, size: tuple[int, int], slot: str
) -> np.ndarray:
    """Return the image point of an object's center, (u, v) in 0..1; NaN if it is occluded."""
    camera, center = data.cam(key).xpos, data.body(slot).xpos
    hit = np.zeros(1, dtype=np.int32)
    mujoco.mj_ray(model, data, camera, center - camera, ROBOT_VIEW_GROUPS, 1, -1, hit)
    if hit[0] != model.geom(slot).id:
        return np.full(2, np.nan)
    return project_point(model, data, key, size, center)


def _create_gl_context(width: int, height: int) -> mujoco.GLContext:
    """Create a context and make it current; raises RuntimeError with the missing package.

    Sets MUJOCO_GL, from which MuJoCo selects its OpenGL functions, and LP_NUM_THREADS, the
    threads of Mesa. On two cores Mesa uses only the calling thread: the image rate is the same,
    and the policy keeps one core.
    """
    backend = os.environ['MUJOCO_GL'] = _select_gl_backend()
    os.environ.setdefault('LP_NUM_THREADS', str(len(os.sched_getaffinity(0)) // 4))
    try:
        context = importlib.import_module(f'mujoco.{backend}').GLContext(width, height)
        context.make_current()
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise RuntimeError(
            f'cannot render with MUJOCO_GL={backend}: {error}; install '
            'libosmesa6 and set MUJOCO_GL=osmesa'
        ) from error
    return context


def _select_gl_backend() -> str:
    """Return MUJOCO_GL if it is set, else egl with a GPU or without OSMesa, else osmesa."""
    if os.environ.get('MUJOCO_GL'):
        return os.environ['MUJOCO_GL']
    gpu = any(Path('/dev').glob('nvidia[0-9]*')) or any(Path('/dev/dri').glob('renderD*'))
    has_osmesa = ctypes.util.find_library('OSMesa') is not None
    return 'osmesa' if has_osmesa and not gpu else 'egl'  # Mesa's EGL also renders in software
