"""The latent world model as the policy of a rollout.

Every committed image becomes one step of the recurrent state, together with the joint positions
of the next query, because commits carry none. Queries without a new image reuse the state.
"""

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from wam_learning.latent_world_model.latent_checkpoint import LatentWorldModel
from wam_learning.latent_world_model.latent_data import MOTION_SCALE
from wam_learning.latent_world_model.latent_network import Encoded
from wam_learning.latent_world_model.rssm import RssmState
from wam_policy.core.robot import transforms
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.encoders import view_layout
from wam_policy.model.robot_policy import PolicyGeometry, PolicyOutput, Views
from wam_policy.model.streaming_session import MemoryUsage

HISTORY_IMAGES = 16  # kept for a replay; the recurrent state itself has no limit


class LatentPolicy:
    """Follow the images of an episode and answer queries from the recurrent state."""

    def __init__(self, model: LatentWorldModel, robot: Embodiment) -> None:
        """Raise ValueError if the model has no statistics of the robot."""
        self.model, self.robot = model, robot
        self._normalizer = model.make_normalizer(robot)
        self._layout = model.spec.canvas.make_layout(
            robot.model_tag, tuple(camera.key for camera in robot.cameras)
        )
        self._commanded = [robot.observed.index(name) for name in robot.commanded]
        self._text: tuple[Tensor, Tensor] | None = None  # embeddings and mask
        self._clear()

    def _clear(self) -> None:
        self._state: RssmState | None = None
        # after the newest image: features, the joint positions that entered with it, instruction
        self._newest: tuple[Tensor, Tensor, Tensor] | None = None
        self._pending: list[Encoded] = []  # images without joint positions
        self._commits = 0

    @property
    def geometry(self) -> PolicyGeometry:
        design = self.model.spec.with_control_rate(self.robot.step_dt_s)
        return PolicyGeometry(
            cameras=self._layout.views,
            frame_size=design.canvas.size or (self._layout.height, self._layout.width),
            frames_per_block=1,
            frame_period_s=1 / design.model.video_hz,
            first_frames=1,
            horizon=design.model.actions_per_block,
            step_dt_s=self.robot.step_dt_s,
            window_blocks=HISTORY_IMAGES,
            action_dim=design.model.action_dim,
        )

    @property
    def memory(self) -> MemoryUsage:
        frames = min(self._commits, HISTORY_IMAGES + 1)
        return MemoryUsage(frames, HISTORY_IMAGES + 1, self._commits, 0)

    @torch.inference_mode()
    def reset(self, instruction: str) -> Mapping[str, float]:
        """Start an instruction; PromptTooLong if its end would not be read."""
        spec, encoders, tag = self.model.spec, self.model.encoders, self.robot.model_tag
        if encoders.tokenizer is None:
            raise ValueError(f'{self.model.source}: these encoders have no tokenizer')
        encoders.tokenizer.check_length(spec.make_prompt_head(tag, instruction))
        ids, mask = encoders.tokenizer([spec.make_prompt(tag, instruction)])
        self._text = encoders.encode_text(ids, mask), mask > 0
        self._clear()
        return {}

    @torch.inference_mode()
    def commit(self, views: Views) -> Mapping[str, float]:
        """Take the next image of every camera, uint8 [1 h w 3]."""
        if self._text is None:
            raise RuntimeError('no instruction: call reset first')
        frames = {name: torch.from_numpy(view) for name, view in views.items()}
        canvas = view_layout.compose_views(frames, self._layout)
        if len(canvas) != 1:
            raise ValueError(f'a commit takes one image per camera, got {len(canvas)}')
        pixels = view_layout.to_model_input(
            canvas[None], torch.float32, self.model.spec.canvas.size
        )
        latent, _ = self.model.encoders.encode_first_frame(pixels)  # [1 channels 1 rows columns]
        self._pending.append(self.model.network.encode(latent.transpose(1, 2), *self._text))
        self._commits += 1
        return {}

    @torch.inference_mode()
    def query(self, joints: np.ndarray, seed: int, newest: Views | None = None) -> PolicyOutput:
        """Return the actions for measured positions [observed].

        `seed` and `newest` are not used: the likeliest state is taken. RuntimeError if no image
        has been committed.
        """
        began_s = time.perf_counter()
        values = transforms.to_model_state(self.robot, np.asarray(joints, np.float64))
        state = torch.from_numpy(self._normalizer.normalize_state(values)).float()[None, None]
        network = self.model.network
        for encoded in self._pending:
            motion = state - (state if self._newest is None else self._newest[1])
            found = network.observe(encoded, state, MOTION_SCALE * motion, self._state)
            self._state = found.last
            self._newest = found.features, state, encoded.instruction
        self._pending.clear()
        if self._newest is None:
            raise RuntimeError('no image since the last reset: call commit first')
        features, joints_then, instruction = self._newest
        actions = network.act(features, joints_then, state, instruction)[0, 0]
        targets = transforms.from_model_actions(
            self.robot, self._normalizer.denormalize_actions(actions.numpy(), values)
        )
        reference = np.asarray(joints, np.float64)[self._commanded]
        return PolicyOutput(targets, reference, {'denoise': 1e3 * (time.perf_counter() - began_s)})
