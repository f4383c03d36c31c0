"""Ablated policies, which measure the value of one component each.

`ImaginedContextPolicy` keeps its predictions: real frames never replace predicted latents.
`MemoryResetPolicy` keeps only the newest real frame: its memory is reset before every block.
Both wrap the policy that is used live, without changes to it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.robot_policy import (
    InferenceOptions,
    Policy,
    PolicyGeometry,
    PolicyOutput,
    Views,
)
from wam_policy.model.streaming_session import MemoryUsage

ABLATIONS = ('imagined_context', 'memory_reset')


def make_ablated_policy(
    ablation: str,
    loaded: checkpoint_folder.WorldActionModel,
    robot: Embodiment,
    options: InferenceOptions,
) -> Any:
    """Return a policy with an ablation, or without one; raise ValueError for unknown names."""
    if not ablation:
        return Policy(loaded, robot, options)
    if ablation == 'imagined_context':
        return ImaginedContextPolicy(loaded, robot, options)
    if ablation == 'memory_reset':
        return MemoryResetPolicy(Policy(loaded, robot, options))
    raise ValueError(f'no ablation {ablation!r}; known: {", ".join(ABLATIONS)}')


class ImaginedFrameEncoders:
    """Encode the first frame of a session; afterwards return predicted latents instead."""

    def __init__(self, encoders: Any) -> None:
        self._encoders = encoders
        self.imagined_latents: torch.Tensor | None = None  # replace the next frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoders, name)

    def encode_first_frame(self, first: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Start a window with a real frame [1 3 1 H W], or with the last predicted one."""
        if self.imagined_latents is not None:
            pixels = self._encoders.decode(self.imagined_latents.to(first.dtype))[:, -1:]
            first = pixels.permute(0, 4, 1, 2, 3).to(first) / 127.5 - 1.0
        return self._encoders.encode_first_frame(first)

    def encode_next_frames(self, state: Any, frames: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Return the predicted latents of these frames; encode real ones before any prediction."""
        if self.imagined_latents is None:
            return self._encoders.encode_next_frames(state, frames)
        return self.imagined_latents, state


class ImaginedContextPolicy:
    """Commit the last prediction instead of the camera images."""

    def __init__(
        self,
        loaded: checkpoint_folder.WorldActionModel,
        robot: Embodiment,
        options: InferenceOptions,
    ) -> None:
        self._encoders = ImaginedFrameEncoders(loaded.encoders)
        self._policy = Policy(replace(loaded, encoders=self._encoders), robot, options)
        self._predicted_latents: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def reset(self, instruction: str) -> Mapping[str, float]:
        self._predicted_latents = self._encoders.imagined_latents = None
        return self._policy.reset(instruction)

    def commit(self, views: Views) -> Mapping[str, float]:
        self._encoders.imagined_latents = self._predicted_latents
        return self._policy.commit(views)

    def query(self, joints: np.ndarray, seed: int, newest: Views | None = None) -> PolicyOutput:
        found = self._policy.query(joints, seed)
        self._predicted_latents = self._policy.predicted_latents
        return found


class MemoryResetPolicy:
    """Reset the memory to the newest frame at every commit."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._instruction = ''
        self._commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    @property
    def geometry(self) -> PolicyGeometry:
        return self._policy.geometry

    @property
    def memory(self) -> MemoryUsage:
        return replace(self._policy.memory, commits=self._commits)

    def reset(self, instruction: str) -> Mapping[str, float]:
        self._instruction, self._commits = instruction, 0
        return self._policy.reset(instruction)

    def commit(self, views: Views) -> Mapping[str, float]:
        self._policy.reset(self._instruction)
        self._commits += 1
        return self._policy.commit({key: frames[-1:] for key, frames in views.items()})

    def query(self, joints: np.ndarray, seed: int, newest: Views | None = None) -> PolicyOutput:
        return self._policy.query(joints, seed)
