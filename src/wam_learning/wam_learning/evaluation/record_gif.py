"""Record an animation of the simulated robot at work, without ROS, for the README.

`python -m wam_learning.evaluation.record_gif OUT.webp [--robot NAME] [--checkpoint NAME]`

Each scene is one evaluation trial with the policy in the loop, shown in real time from outside
with the robot's own camera views as insets and the current instruction below. The scenes are
simulated first and rendered afterwards, because rendering with shadows is slower than real time.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == '__main__':
    from wam_learning import import_triton_first  # noqa: F401

import cv2
import mujoco
import numpy as np
from PIL import Image

from wam_learning.evaluation.eval_conditions import CONDITIONS, make_trials
from wam_learning.evaluation.eval_worker import EXPERT, EvalJob, make_policy_factory
from wam_learning.evaluation.rollout import START_NS, RolloutConfig, run_trial
from wam_learning.evaluation.trials import Trial
from wam_policy.command_line import add_value
from wam_policy.core.robot import checkpoints
from wam_policy.core.types import Observation
from wam_sim import screenshot
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.cameras import CameraRenderer
from wam_sim.physics.mjcf_model import EXTERNAL_VIEW_GROUP
from wam_sim.physics.sim_robot import SimRobot
from wam_sim.physics.simulation import Simulation, compile_model, update_kinematics

FRAMES_PER_S = 12.5
FINAL_S = 0.8  # of every scene, shown after its goal holds
CAPTION_PX = 72  # height of the strip with the instruction, in an image of screenshot.IMAGE_SIZE
FORMATS = ('.gif', '.webp')


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Hold what one frame of the animation needs, apart from the instruction."""

    time_ns: int
    qpos: np.ndarray
    mocap_pos: np.ndarray
    camera_views: tuple[np.ndarray, ...]  # uint8 [h w 3] each, newest at that time


class RecordedSimulation(Simulation):
    """Keep a snapshot of the scene at every frame time while the trial runs."""

    snapshots: list[Snapshot]
    _camera_views: tuple[np.ndarray, ...] = ()

    def step(self, count: int = 1) -> None:
        """Advance `count` physics steps; take a snapshot when one is due."""
        super().step(count)
        if not hasattr(self, 'snapshots'):
            self.snapshots = []
        last_ns = self.snapshots[-1].time_ns if self.snapshots else START_NS
        if self._camera_views and self.now_ns - last_ns >= 1e9 / FRAMES_PER_S:
            self.snapshots.append(
                Snapshot(
                    self.now_ns,
                    self.data.qpos.copy(),
                    self.data.mocap_pos.copy(),
                    self._camera_views,
                )
            )

    def observe(self) -> Observation:
        """Return joints and camera frames, and keep the frames for the next snapshots."""
        observation = super().observe()
        self._camera_views = tuple(frame.rgb for frame in observation.frames)
        return observation


def record_trial(robot: SimRobot, trial: Trial, checkpoint: str) -> tuple[list[Image.Image], bool]:
    """Run one trial; return its frames, half of IMAGE_SIZE, and whether it succeeded."""
    simulation = RecordedSimulation(
        robot,
        task=trial.family,
        seed=trial.seed,
        image_size=(320, 240),
        start_ns=START_NS,
        task_split=trial.combinations,
        defer_mark=True,
    )
    try:
        policy = make_policy_factory(robot, EvalJob(checkpoint, (trial,)))(trial, simulation)
        result = run_trial(trial, simulation, policy, RolloutConfig())
        for _ in range(round(FINAL_S * 100)):
            simulation.step(5)
    finally:
        simulation.close()
    return render_snapshots(simulation, trial), result.success


def render_snapshots(simulation: RecordedSimulation, trial: Trial) -> list[Image.Image]:
    """Render the recorded snapshots from the robot's portrait camera."""
    model = compile_model(simulation.robot, simulation.fixed_joints, high_quality=True)
    data = mujoco.MjData(model)
    for slot, color in simulation.object_colors.items():
        model.geom(slot).rgba[:] = color
    camera = CameraRenderer(
        model,
        [simulation.robot.portrait_camera.key],
        screenshot.IMAGE_SIZE,
        groups=(EXTERNAL_VIEW_GROUP,),
    )
    width, height = screenshot.IMAGE_SIZE
    frames = []
    start_ns = simulation.snapshots[0].time_ns
    for snapshot in simulation.snapshots:
        data.qpos[:], data.mocap_pos[:] = snapshot.qpos, snapshot.mocap_pos
        update_kinematics(model, data)
        (image,) = camera.render(data)
        image = screenshot.compose_insets(image, snapshot.camera_views)
        elapsed_s = (snapshot.time_ns - start_ns) / 1e9
        text = [words for at_s, words in trial.instructions if at_s <= elapsed_s][-1]
        image = draw_caption(image, text)
        frames.append(
            Image.fromarray(
                cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
            )
        )
    camera.close()
    return frames


def draw_caption(image: np.ndarray, text: str) -> np.ndarray:
    """Write `text` centered on a dark strip over the lower edge of an image [h w 3]."""
    image = image.copy()
    strip = image[-CAPTION_PX:]
    strip[:] = strip // 4
    font, scale, thickness = cv2.FONT_HERSHEY_SIMPLEX, 1.3, 2
    (text_width, text_height), _ = cv2.getTextSize(text, font, scale, thickness)
    corner = (
        (image.shape[1] - text_width) // 2,
        image.shape[0] - (CAPTION_PX - text_height) // 2 - 2,
    )
    cv2.putText(image, text, corner, font, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return image


def write_animation(frames: Sequence[Image.Image], path: Path, quality: int) -> None:
    """Write frames as an endless GIF or WebP, by the suffix of `path`."""
    first, *rest = frames
    options: dict[str, Any] = (
        {'quality': quality, 'method': 6} if path.suffix == '.webp' else {'optimize': True}
    )
    first.save(
        path,
        save_all=True,
        append_images=rest,
        duration=round(1000 / FRAMES_PER_S),
        loop=0,
        **options,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Record the scenes and write the animation; return 1 if a trial failed."""
    parser = argparse.ArgumentParser(
        prog='python -m wam_learning.evaluation.record_gif',
        description=(__doc__ or '').splitlines()[0],
    )
    parser.add_argument('out', type=Path, help='file to write, .gif or .webp')
    parser.add_argument('--robot', choices=robots.list_robots(), default='agibot_g1')
    add_value(parser, '--checkpoint', 'mini', 'weights, or expert')
    add_value(parser, '--families', 'lift,push,recall,touch', 'task of each scene', 'LIST')
    add_value(parser, '--seed', 9_000_000, 'of the first scene')
    add_value(parser, '--quality', 60, 'of a .webp, 1 to 100')
    options = parser.parse_args(arguments)
    if options.out.suffix not in FORMATS:
        parser.error(f'{options.out}: want a name that ends in {" or ".join(FORMATS)}')
    robot, checkpoint = robots.load(options.robot), options.checkpoint
    if checkpoint != EXPERT:
        checkpoint = checkpoints.resolve_checkpoint(checkpoint, robot.embodiment.model_tag)
    frames, failed = [], []
    for number, family in enumerate(options.families.split(',')):
        (trial,) = make_trials(CONDITIONS['main'], robot, [family], 1, options.seed + 4 * number)
        recorded, success = record_trial(robot, trial, checkpoint)
        frames += recorded
        failed += [] if success else [f'{family} (seed {trial.seed})']
        print(f'{trial.instructions[-1][1]}: {len(recorded)} frames', flush=True)
    write_animation(frames, options.out, options.quality)
    print(f'{options.out}: {len(frames)} frames, {options.out.stat().st_size / 1e6:.2f} MB')
    if failed:
        print(f'record_gif: the goal was not reached in {", ".join(failed)}', file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
