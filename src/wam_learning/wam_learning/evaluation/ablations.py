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
from wam_policy.model.robot_policy import Choice, Geometry, Policy, Targets, Views
from wam_policy.model.streaming_session import Memory

NAMES = ('imagined', 'forgetful')


def ablated(name: str, loaded: checkpoint_folder.Policy, robot: Embodiment, choice: Choice) -> Any:
    """Return a policy, whole or without what `name` takes away; ValueError lists the names."""
    if not name:
        return Policy(loaded, robot, choice)
    if name == 'imagined':
        return Imagining(loaded, robot, choice)
    if name == 'forgetful':
        return Forgetting(Policy(loaded, robot, choice))
    raise ValueError(f'no ablation {name!r}; known: {", ".join(NAMES)}')


class Dreams:
    """Encoders that see the first frame of a session and then only what was imagined."""

    def __init__(self, encoders: Any) -> None:
        self._encoders = encoders
        self.imagined: torch.Tensor | None = None  # latents that stand for the next frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoders, name)

    def begin(self, first: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Open a window on a real frame [1 3 1 H W], or on the last one that was imagined."""
        if self.imagined is not None:
            pixels = self._encoders.decode(self.imagined.to(first.dtype))[:, -1:]
            first = pixels.permute(0, 4, 1, 2, 3).to(first) / 127.5 - 1.0
        return self._encoders.begin(first)

    def extend(self, context: Any, frames: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Return what was imagined for these frames; real ones only while nothing was."""
        if self.imagined is None:
            return self._encoders.extend(context, frames)
        return self.imagined, context


class Imagining:
    """Commit the last prediction in place of what the cameras showed meanwhile."""

    def __init__(
        self, loaded: checkpoint_folder.Policy, robot: Embodiment, choice: Choice
    ) -> None:
        self._dreams = Dreams(loaded.encoders)
        self._policy = Policy(replace(loaded, encoders=self._dreams), robot, choice)
        self._predicted: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def reset(self, instruction: str) -> Mapping[str, float]:
        self._predicted = self._dreams.imagined = None
        return self._policy.reset(instruction)

    def commit(self, views: Views) -> Mapping[str, float]:
        self._dreams.imagined = self._predicted
        return self._policy.commit(views)

    def query(self, joints: np.ndarray, seed: int, newest: Views | None = None) -> Targets:
        found = self._policy.query(joints, seed)
        self._predicted = self._policy.imagined
        return found


class Forgetting:
    """Begin anew with the newest frame at every commit."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._instruction = ''
        self._commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    @property
    def geometry(self) -> Geometry:
        return self._policy.geometry

    @property
    def memory(self) -> Memory:
        return replace(self._policy.memory, commits=self._commits)

    def reset(self, instruction: str) -> Mapping[str, float]:
        self._instruction, self._commits = instruction, 0
        return self._policy.reset(instruction)

    def commit(self, views: Views) -> Mapping[str, float]:
        self._policy.reset(self._instruction)
        self._commits += 1
        return self._policy.commit({key: frames[-1:] for key, frames in views.items()})

    def query(self, joints: np.ndarray, seed: int, newest: Views | None = None) -> Targets:
        return self._policy.query(joints, seed)
