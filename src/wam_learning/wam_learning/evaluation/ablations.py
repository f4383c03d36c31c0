"""Policies that lack one thing on purpose, to show what that thing is worth.

`Imagining` keeps believing what it predicted: real frames never replace imagined latents.
`Forgetting` keeps nothing but the newest real frame: its memory is reset at every block.
Both stand around the policy that is used live, and change nothing in it.
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

ABLATIONS = ('imagined', 'forgetful')


def make_ablated_policy(
    ablation: str,
    loaded: checkpoint_folder.WorldActionModel,
    robot: Embodiment,
    options: InferenceOptions,
) -> Any:
    """Return a policy, whole or without what `name` takes away; ValueError lists the names."""
    if not ablation:
        return Policy(loaded, robot, options)
    if ablation == 'imagined':
        return ImaginedContextPolicy(loaded, robot, options)
    if ablation == 'forgetful':
        return MemoryResetPolicy(Policy(loaded, robot, options))
    raise ValueError(f'no ablation {ablation!r}; known: {", ".join(ABLATIONS)}')


class ImaginedFrameEncoders:
    """Encoders that see the first frame of a session and then only what was imagined."""

    def __init__(self, encoders: Any) -> None:
        self._encoders = encoders
        self.imagined_latents: torch.Tensor | None = None  # latents that stand for the next frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoders, name)

    def encode_first_frame(self, first: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Open a window on a real frame [1 3 1 H W], or on the last one that was imagined."""
        if self.imagined_latents is not None:
            pixels = self._encoders.decode(self.imagined_latents.to(first.dtype))[:, -1:]
            first = pixels.permute(0, 4, 1, 2, 3).to(first) / 127.5 - 1.0
        return self._encoders.encode_first_frame(first)

    def encode_next_frames(self, state: Any, frames: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Return what was imagined for these frames; real ones only while nothing was."""
        if self.imagined_latents is None:
            return self._encoders.encode_next_frames(state, frames)
        return self.imagined_latents, state


class ImaginedContextPolicy:
    """Commit the last prediction in place of what the cameras showed meanwhile."""

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
    """Begin anew with the newest frame at every commit."""

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
