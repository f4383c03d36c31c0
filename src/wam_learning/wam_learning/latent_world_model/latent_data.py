"""Sample sequences of images at the rate of the camera model: the training data of the RSSM.

An image enters the state with the joint positions of the first query after it, later queries
reuse that state: both delays are drawn at random, as they vary live. A sequence has one
instruction; it begins where the session does, or anywhere.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from wam_learning.data import normalization
from wam_learning.data.episode_arrays import EpisodeArrays
from wam_learning.data.latent_cache import FrameLatents
from wam_learning.data.sequence_sampler import MEMORY_FAMILIES, MEMORY_GONE_BLOCKS
from wam_learning.training.grounding_loss import GroundingTargets
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.normalizer import Normalizer

START_SHARE = 0.5  # of sequences that start where the instruction does
JOINT_DELAY_ROWS = 6  # from an image to the joint positions that enter the state with it, below
QUERY_DELAY_ROWS = 10  # from an image to the last query before the next one, below
MOTION_SCALE = 4.0  # of joint changes: a step moves a fraction of a deviation
GOAL_HIDDEN_IMAGES = 3  # of an episode whose goal is shown at 0.25 to 0.45 s, at 5 Hz


@dataclass(frozen=True, slots=True, eq=False)
class LatentBatch:
    """Hold sequences [batch steps ...]; after the end of an episode `seen` is False."""

    texts: tuple[str, ...]
    families: tuple[str, ...]
    seen: Tensor  # bool [batch steps]
    image: Tensor  # [batch steps channels rows columns]
    joints: Tensor  # [batch steps state_dim], normalized
    motion: Tensor  # [batch steps state_dim], change of `joints` since the step before
    query_joints: Tensor  # [batch steps state_dim], normalized, at the query
    action: Tensor  # [batch steps actions action_dim], from the query on
    action_mask: Tensor  # bool [batch steps actions]
    patch_target: Tensor  # [batch steps patches], 0 without a label
    place: Tensor  # [batch steps 2], NaN without a label

    def to(self, device: torch.device) -> 'LatentBatch':
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


class LatentSampler:
    """Sample batches of sequences from episode arrays and cached latents."""

    def __init__(
        self,
        data: EpisodeArrays,
        latents: FrameLatents,
        normalizer: Normalizer,
        config: ModelConfig,
        grounding_targets: GroundingTargets,
    ) -> None:
        self.data, self._images, self._normalizer = data, latents.static, normalizer
        self._config, self._targets = config, grounding_targets
        self._states = normalization.normalize_states(normalizer, data.robot, data.state)
        spans = data.episodes
        counts = [span.frame_count for span in spans]
        inside = np.concatenate([np.arange(count) for count in counts])
        self._episode = np.repeat(np.arange(len(spans)), counts)
        self._frame = np.repeat([span.first_frame for span in spans], counts) + inside
        self._row = np.repeat([s.first_row for s in spans], counts) + data.frame_stride * inside
        ends = [span.first_row + span.row_count - 1 for span in spans]
        self._last_row = np.repeat(ends, counts)
        self._inside, self._frames_left = inside, np.repeat(counts, counts) - inside
        remembers = np.array([span.family in MEMORY_FAMILIES for span in spans])[self._episode]
        self._goal_unknown = remembers & (inside < GOAL_HIDDEN_IMAGES)
        task = data.task[self._row]
        self._starts_text = (inside == 0) | (task != np.roll(task, 1))
        # waiting arms look the same whatever the goal, and the mark has gone
        waits = (
            remembers & (inside > 0) & (inside < MEMORY_GONE_BLOCKS * config.block_pixel_frames)
        )
        self._anywhere = np.flatnonzero(data.supervised[self._row] & ~waits)
        self._beginnings = np.flatnonzero(self._starts_text & data.supervised[self._row])
        if not len(self._anywhere):
            raise ValueError('no image of the data set is at a supervised row to learn from')

    def find_episode_starts(self) -> np.ndarray:
        """Return the sequences that start with an episode, by index, as `build_batch` takes."""
        return np.flatnonzero(self._inside == 0)

    def sample(self, count: int, steps: int, rng: np.random.Generator) -> LatentBatch:
        """Return `count` random sequences of `steps` images."""
        chosen = rng.choice(self._anywhere, count)
        at_start = rng.random(count) < START_SHARE
        if len(self._beginnings):
            chosen = np.where(at_start, rng.choice(self._beginnings, count), chosen)
        delay = rng.integers(0, JOINT_DELAY_ROWS, (count, steps))
        query = np.maximum(rng.integers(0, QUERY_DELAY_ROWS, (count, steps)), delay)
        return self.build_batch(chosen, steps, delay, query)

    def build_batch(
        self, starts: np.ndarray, steps: int, delay: np.ndarray, query_delay: np.ndarray
    ) -> LatentBatch:
        """Return the sequences from images `starts`; delays [count steps] are in rows."""
        data, starts = self.data, np.asarray(starts)
        ahead = np.minimum(np.arange(steps), self._frames_left[starts, None] - 1)
        at = starts[:, None] + ahead
        last_row, row = self._last_row[at], self._row[at]
        task = data.task[row]
        seen = np.arange(steps) < self._frames_left[starts, None]
        seen &= np.logical_and.accumulate(task == task[:, :1], axis=1)
        joints = self._states[np.minimum(row + delay, last_row)]
        motion = np.diff(joints, axis=1, prepend=joints[:, :1])
        query = np.minimum(row + query_delay, last_row)
        rows = query[..., None] + np.arange(self._config.actions_per_block)
        past = np.minimum(rows, last_row[..., None])
        expert = data.supervised[past] & (data.task[past] == task[:, :1, None])
        known = seen & ~self._goal_unknown[at]
        pixel = np.where(known[..., None], data.pixel[row], np.nan)
        place = np.where(known[..., None], data.place[row], np.nan)
        action = normalization.normalize_actions(
            self._normalizer, data.robot, data.action[past], data.state[query][:, :, None]
        )
        return LatentBatch(
            texts=tuple(data.texts[i] for i in task[:, 0]),
            families=tuple(data.episodes[i].family for i in self._episode[starts]),
            seen=torch.from_numpy(seen),
            image=self._images[torch.from_numpy(self._frame[at])].float(),
            joints=torch.from_numpy(joints),
            motion=torch.from_numpy((MOTION_SCALE * motion).astype(np.float32)),
            query_joints=torch.from_numpy(self._states[query]),
            action=torch.from_numpy(action),
            action_mask=torch.from_numpy(np.logical_and.accumulate(expert, 2) & seen[..., None]),
            patch_target=torch.from_numpy(self._targets.patch_targets(pixel)),
            place=torch.from_numpy(self._targets.standardize(place)),
        )
