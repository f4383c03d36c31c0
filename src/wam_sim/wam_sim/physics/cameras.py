"""The robot's cameras: all views of one instant in one off-screen picture, read back once.

Everything that touches OpenGL stays in the thread that made the `Cameras`. Without a GPU Mesa
draws in software; shadows and multi-sampling are off in the model because they would cost
ten times the rest.
"""

import ctypes.util
import importlib
import os
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

ROBOT_VIEW_GROUPS = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)  # what robots' cameras draw


class CameraRenderer:
    """Draw the views of `keys`, with geoms of `groups` beside those that robots see."""

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
        """Return one uint8 [height width 3] image per key, all of them without `keys`.

        The kinematics of `data` must be up to date; KeyError names a camera that is not open.
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
        # OpenGL counts rows from below
        return tuple(
            np.ascontiguousarray(pixels[::-1, i * width : (i + 1) * width])
            for i in range(len(ids))
        )

    def close(self) -> None:
        """Free what OpenGL holds; to be called in the thread that made it."""
        self._render_context.free()
        self._gl_context.free()


def compute_intrinsics(model: mujoco.MjModel, key: str, size: tuple[int, int]) -> np.ndarray:
    """Return the pinhole matrix K [3 3] of a view; pixels are square, the center is the middle."""
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
    """Return where a picture shows a point: (u, v) in 0..1 from the top left, NaN if outside."""
    camera = data.cam(key)
    optical = camera.xmat.reshape(3, 3) * [1, -1, -1]  # x right, y down, z forward
    u, v, depth = compute_intrinsics(model, key, size) @ optical.T @ (point_m - camera.xpos)
    place = np.array([u, v]) / depth / size
    inside = depth > 0 and (place >= 0).all() and (place <= 1).all()
    return place if inside else np.full(2, np.nan)


def project_visible_object(
    model: mujoco.MjModel, data: mujoco.MjData, key: str, size: tuple[int, int], slot: str
) -> np.ndarray:
    """Return where a picture shows an object's center, NaN where something hides it."""
    camera, center = data.cam(key).xpos, data.body(slot).xpos
    hit = np.zeros(1, dtype=np.int32)
    mujoco.mj_ray(model, data, camera, center - camera, ROBOT_VIEW_GROUPS, 1, -1, hit)
    if hit[0] != model.geom(slot).id:
        return np.full(2, np.nan)
    return project_point(model, data, key, size, center)


def _create_gl_context(width: int, height: int) -> mujoco.GLContext:
    """Open a context and make it current; RuntimeError names the package that is missing.

    The choice goes into the environment: MuJoCo loads its OpenGL functions by it, and Mesa takes
    its number of threads from there. On two cores it draws in the calling thread alone: pictures
    come as often, and the policy beside them is not held up on both cores at once.
    """
    backend = os.environ['MUJOCO_GL'] = _select_gl_backend()
    os.environ.setdefault('LP_NUM_THREADS', str(len(os.sched_getaffinity(0)) // 4))
    try:
        context = importlib.import_module(f'mujoco.{backend}').GLContext(width, height)
        context.make_current()
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise RuntimeError(
            f'the cameras cannot draw with MUJOCO_GL={backend}: {error}; install '
            'libosmesa6 and set MUJOCO_GL=osmesa'
        ) from error
    return context


def _select_gl_backend() -> str:
    """Return what MUJOCO_GL names, else EGL on a GPU, else software; chosen once per process."""
    if os.environ.get('MUJOCO_GL'):
        return os.environ['MUJOCO_GL']
    gpu = any(Path('/dev').glob('nvidia[0-9]*')) or any(Path('/dev/dri').glob('renderD*'))
    has_osmesa = ctypes.util.find_library('OSMesa') is not None
    return 'osmesa' if has_osmesa and not gpu else 'egl'  # Mesa's EGL draws in software too
