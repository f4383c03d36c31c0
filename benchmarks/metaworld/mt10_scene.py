"""One environment of MT10 at a time: tasks, images, steps. Needs the package `metaworld`.

Scene n of a seed is the n-th of the 50 tasks that `metaworld.MT10(seed)` draws for each
environment: where objects and goals are. Imported before MuJoCo, it selects OSMesa.
"""

import os

os.environ.setdefault('MUJOCO_GL', 'osmesa')
os.environ.setdefault('PYOPENGL_PLATFORM', os.environ['MUJOCO_GL'])
os.environ.setdefault('LP_NUM_THREADS', '1')  # of the software renderer

import warnings
from importlib import import_module
from typing import Any

import mujoco
import numpy as np

from benchmarks.metaworld.mt10_tasks import INSTRUCTIONS

METAWORLD: Any = import_module('metaworld')  # only the benchmark's own environment has it
EXPERTS: Any = import_module('metaworld.policies').ENV_POLICY_MAP
IMAGE_SIZE = 128  # pixels, both sides
# azimuth and elevation, degrees; distance and the point looked at, m
FREE_CAMERAS = {
    'scene': (150.0, -40.0, 0.95, (0.0, 0.7, 0.1)),
    'side': (40.0, -35.0, 0.95, (0.0, 0.7, 0.1)),
}
NAMED_CAMERAS = {'gripper_view': 'gripperPOV'}


class MT10Scene:
    """Hold one environment with a scene of one seed; reset goes to another scene."""

    def __init__(self, task: str) -> None:
        """Make the environment; raise ValueError for a task that is not in MT10."""
        if task not in INSTRUCTIONS:
            raise ValueError(f'task {task!r}: want one of {", ".join(INSTRUCTIONS)}')
        self.task, self.instruction = task, INSTRUCTIONS[task]
        self._scenes: dict[int, list[Any]] = {}
        self._environment: Any = METAWORLD.env_dict.MT10_V3[task]()
        quality = self._environment.model.vis.quality
        quality.shadowsize, quality.offsamples = 0, 0
        self._renderer = mujoco.Renderer(self._environment.model, IMAGE_SIZE, IMAGE_SIZE)
        self._cameras: dict[str, Any] = {
            name: _make_free_camera(*place) for name, place in FREE_CAMERAS.items()
        } | NAMED_CAMERAS
        self.observation = np.zeros(0)
        self.step_count, self.success = 0, False

    @property
    def setpoint(self) -> np.ndarray:
        """Return the setpoint of the hand, m [3]."""
        return np.array(self._environment.data.mocap_pos[0])

    def reset(self, seed: int, index: int) -> None:
        """Begin an episode in scene `index` (0 to 49) of a seed."""
        if seed not in self._scenes:
            drawn = METAWORLD.MT1(self.task, seed=seed)
            self._scenes[seed] = list(drawn.train_tasks)
        self._environment.set_task(self._scenes[seed][index])
        self.observation, _ = self._environment.reset()
        self._expert = EXPERTS[self.task]()
        self.step_count, self.success = 0, False

    def compute_expert_action(self) -> np.ndarray:
        """Return the action [4] of the package's scripted policy, in [-1, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # its gains exceed the range, which is clipped
            return np.clip(self._expert.get_action(self.observation), -1.0, 1.0)

    def step(self, action: np.ndarray) -> None:
        """Execute an action [4]; `success` stays true once it was."""
        self.observation, _, _, _, info = self._environment.step(action.astype(np.float32))
        self.step_count += 1
        self.success = self.success or bool(info['success'])

    def render(self) -> dict[str, np.ndarray]:
        """Return the image of every camera, uint8 [128 128 3]."""
        images = {}
        for name, camera in self._cameras.items():
            self._renderer.update_scene(self._environment.data, camera)
            flags = self._renderer.scene.flags
            flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            images[name] = self._renderer.render().copy()
        return images

    def close(self) -> None:
        self._renderer.close()
        self._environment.close()


def _make_free_camera(
    azimuth: float, elevation: float, distance: float, target: tuple[float, float, float]
) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.azimuth, camera.elevation, camera.distance = azimuth, elevation, distance
    camera.lookat[:] = target
    return camera
